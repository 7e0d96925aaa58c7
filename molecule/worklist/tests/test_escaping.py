"""What an application or a device writes is seen in the journal and on the terminal, and acts on neither."""

from __future__ import annotations

import io
import json
import os
import secrets

import pydicom
import pytest
from clients import ADDRESSES, client, name_of, wait_for
from pydicom.uid import UID
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import QUARANTINE, US1, Item, command, csv, drop, empty, plain, sh, told

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
HOSTILE = "\n<0>root: everything is fine\x1b[2J\x9b1m"


@pytest.fixture
def machine(host: Host) -> str:
    name = name_of(host)
    empty(name)
    return name


def entries(machine: str, cursor: str) -> list[dict[str, str]]:
    """What came into the journal, each line with its priority."""
    status, said = sh(machine, f"journalctl --sync; journalctl --no-pager --output=json --after-cursor='{cursor}'")
    assert status == 0, said
    return [json.loads(line) for line in said.splitlines()]


def is_harmless(text: str) -> bool:
    return not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 for one in text)


def test_a_file_writes_no_line_of_its_own(machine: str) -> None:
    cursor = sh(machine, "journalctl --lines=0 --show-cursor | sed -n 's/^-- cursor: //p'")[1].strip()
    token = secrets.token_hex(3)
    with io.BytesIO(Item(f"HOSTILE-{token}").file()) as file:
        content = pydicom.dcmread(file)
    content.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    with io.BytesIO() as buffer:
        content.save_as(buffer)
        data = buffer.getvalue()
    # as long as the syntax that it takes the place of, so that the header stays whole
    wrong = (token + HOSTILE).encode("latin-1")
    at = data.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    group = int.from_bytes(data[140:144], "little") - length + len(wrong) + len(wrong) % 2
    wrong += b"\0" * (len(wrong) % 2)
    data = (
        data[:140]
        + group.to_bytes(4, "little")
        + data[144 : at + 6]
        + len(wrong).to_bytes(2, "little")
        + wrong
        + (data[at + 8 + length :])
    )
    drop(machine, [plain(token, data)])
    told(machine, "settle 300")

    said = [entry for entry in entries(machine, cursor) if token in str(entry.get("MESSAGE"))]
    assert said
    assert all(isinstance(entry["MESSAGE"], str) and is_harmless(entry["MESSAGE"]) for entry in said)
    alarms = [entry for entry in entries(machine, cursor) if int(entry.get("PRIORITY", 6)) < 3]
    assert alarms == []
    status, listed = command(machine, "list", "--quarantine")
    assert status == 0
    assert r"\x0a<0>root: everything is fine\x1b[2J" in listed
    assert all(map(is_harmless, listed.splitlines()))
    reason = sh(machine, f"cat {QUARANTINE}/*{token}*.reason")[1]
    assert len(reason.splitlines()) == 2
    assert all(map(is_harmless, reason.splitlines()))


def test_a_spreadsheet_speaks_to_no_terminal(machine: str) -> None:
    item = Item(f"SHEET-{secrets.token_hex(3)}", name="MUSTER^ANNA\x1b[2J\x9b1m")
    status, said = command(machine, "create", "-", stdin=csv([item]))
    assert status == 1
    assert "Row 2: " in said
    assert all(map(is_harmless, said.splitlines()))


ASSOCIATE = """
import socket, struct, sys
def item(kind, content):
    return struct.pack(">BxH", kind, len(content)) + content
context = item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2")
body = struct.pack(">Hxx", 1) + b"ORTHANC".ljust(16) + sys.argv[2].encode().ljust(16) + bytes(32)
body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, bytes([1, 0, 0, 0]) + context)
body += item(0x50, item(0x51, struct.pack(">I", 16384)))
device = socket.create_connection((sys.argv[1], 4242))
device.sendall(struct.pack(">BxI", 1, len(body)) + body)
sys.exit(device.recv(1) != b"\\3")  # rejected
"""


def test_an_ae_title_gives_no_alarm(machine: str) -> None:
    """Orthanc's own log, in which it says whom it refused."""
    cursor = sh(machine, "journalctl --lines=0 --show-cursor | sed -n 's/^-- cursor: //p'")[1].strip()
    title = f"{secrets.token_hex(2)}\n<0>root: x"
    refused = client(US1, "python3", "-c", ASSOCIATE, ADDRESSES[machine][0], title)
    assert refused.returncode == 0, refused.stderr
    wait_for(lambda: any(title[:4] in str(one.get("MESSAGE")) for one in entries(machine, cursor)), "Orthanc's line")
    assert [one for one in entries(machine, cursor) if int(one.get("PRIORITY", 6)) < 3] == []
