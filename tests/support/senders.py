#!/usr/bin/env python3
"""Two devices that send images of a test's own choice, and ask for storage commitment: for the scenario `devices`.

As a program it saves Orthanc's image as the file that its argument names, and gives the devices what they need.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import backups
import pydicom
from backups import STORAGE, must
from clients import ADDRESSES, PASSWORDS, ROOT, client, example, put, wait_for
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SENDERS = {"US1": "orthanc-sender1", "US2": "orthanc-sender2"}
HAS_COMMITMENT = ("orthanc-devices13", "orthanc-devices13p")


def is_container(machine: str) -> bool:
    return machine == "orthanc-devices13"


def image(accession: str = "", **tags: Any) -> pydicom.Dataset:
    """A real ultrasound image with identifiers of its own."""
    made = pydicom.dcmread(example("examples_palette.dcm"))
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.PatientID, made.AccessionNumber = f"P{accession}", accession
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def altered(first: pydicom.Dataset) -> pydicom.Dataset:
    """Another image under the same UIDs: one pixel differs."""
    second = pydicom.dcmread(io.BytesIO(packed(first)))
    pixels = bytearray(second.PixelData)
    pixels[len(pixels) // 2] ^= 1
    second.PixelData = bytes(pixels)
    return second


def packed(data: pydicom.Dataset) -> bytes:
    with io.BytesIO() as buffer:
        data.save_as(buffer)
        return buffer.getvalue()


def sent(machine: str, aet: str, *images: pydicom.Dataset) -> list[int]:
    """The status of a C-STORE of each, over one association."""
    plan = {
        "address": ADDRESSES[machine][0],
        "aet": aet,
        "images": [base64.b64encode(packed(one)).decode() for one in images],
    }
    found: list[int] = scu(aet, "store", plan)
    return found


def committed(machine: str, aet: str, *images: pydicom.Dataset) -> dict[str, Any]:
    """The status of N-ACTION, what was committed to, and the reason of each failure."""
    plan = {
        "address": ADDRESSES[machine][0],
        "aet": aet,
        "images": [[str(one.SOPClassUID), str(one.SOPInstanceUID)] for one in images],
    }
    found: dict[str, Any] = scu(aet, "commit", plan)
    return found


def scu(aet: str, what: str, plan: dict[str, Any]) -> Any:
    command = ["env", f"PYTHONPATH={backups.DICOM}", "python3", "/opt/sender.py", what]
    done = client(SENDERS[aet], *command, stdin=json.dumps(plan).encode())
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


REST = """
import base64, http.client, json, sys
method, path, kind = sys.argv[2:5]
headers = {"Authorization": "Basic " + base64.b64encode(sys.argv[1].encode()).decode()}
headers |= {"Content-Type": kind, "Accept": "application/dicom+json"} if kind else {}
connection = http.client.HTTPConnection("127.0.0.1", 8042, timeout=60)
connection.request(method, path, sys.stdin.buffer.read() or None, headers)
answer = connection.getresponse()
print(json.dumps([answer.status, base64.b64encode(answer.read()).decode()]))
"""


def rest(machine: str, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes]:
    """Status and body of Orthanc's answer to the administrator."""
    command = shlex.join(["python3", "-c", REST, f"it:{PASSWORDS['it']}", method, path, kind])
    status, content = json.loads(must(machine, command, body))
    return status, base64.b64decode(content)


def stow(machine: str, *images: pydicom.Dataset) -> int:
    """The status of Orthanc's answer over DICOMweb."""
    parts = [b"--part\r\nContent-Type: application/dicom\r\n\r\n" + packed(one) + b"\r\n" for one in images]
    kind = 'multipart/related; type="application/dicom"; boundary=part'
    return rest(machine, "POST", "/dicom-web/studies", b"".join(parts) + b"--part--\r\n", kind)[0]


def identifier(machine: str, data: pydicom.Dataset) -> str:
    """Orthanc's own, of an image that it has; empty when it has not."""
    found = json.loads(rest(machine, "POST", "/tools/lookup", str(data.SOPInstanceUID).encode())[1])
    return next((str(one["ID"]) for one in found if one["Type"] == "Instance"), "")


def pixels(machine: str, data: pydicom.Dataset) -> bytes:
    """Of the image as Orthanc gives it out; empty when it cannot, or gives out a part that ends before them."""
    status, body = rest(machine, "GET", f"/instances/{identifier(machine, data)}/file")
    return bytes(pydicom.dcmread(io.BytesIO(body)).get("PixelData", b"")) if status == 200 and body else b""


def path(machine: str, data: pydicom.Dataset) -> str:
    """The image's file."""
    found = must(machine, f"grep -rlF {data.SOPInstanceUID} {STORAGE} --include='????????-????-????-????-????????????'")
    candidates = [one for one in found.split() if "/." not in one.removeprefix(STORAGE)]
    dicom = [one for one in candidates if must(machine, f"head -c 132 {one} | tail -c 4") == "DICM"]
    assert len(dicom) == 1, candidates
    return dicom[0]


def restart(machine: str) -> None:
    """Nothing is in Orthanc's cache any more."""
    must(machine, f"{'docker' if is_container(machine) else 'systemctl'} restart orthanc")
    wait_for(lambda: _answers(machine), "Orthanc answers")


def _answers(machine: str) -> bool:
    try:
        return rest(machine, "GET", "/changes?last")[0] == 200
    except AssertionError:
        return False


def log(machine: str, since: str) -> str:
    """Orthanc's, since a moment of `date`."""
    if is_container(machine):
        return must(machine, f"docker logs --since {shlex.quote(since)} orthanc 2>&1")
    return must(
        machine, f"journalctl -u orthanc --since {shlex.quote(since.replace('T', ' '))} --output=cat --no-pager"
    )


def now(machine: str) -> str:
    """For `log`: to the microsecond, since the test before may have ended in the same second."""
    return must(machine, "date +%Y-%m-%dT%H:%M:%S.%6N").strip()


def senders_up() -> None:
    backups.DEVICES = SENDERS
    backups.devices_up()
    for name in SENDERS.values():
        put(name, "/opt/sender.py", Path(ROOT / "tests/agents/sender.py").read_bytes())


if __name__ == "__main__":
    backups.carried(sys.argv[1])
    senders_up()
