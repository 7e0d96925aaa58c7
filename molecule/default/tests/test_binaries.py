"""The rules and the schema against the real binaries."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import bed
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import reading, rules
from clients import name_of, play, put
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
SITE = "/etc/orthanc/site/orthanc.json"
US1 = {"AET": "US1", "Host": "192.0.2.1", "Port": 104}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("a port as text", {"HttpPort": "8042"}, "wrong_value"),
    ("a switch as text", {"DicomCheckCalledAet": "False"}, "wrong_value"),
    ("users that are a list", {"RegisteredUsers": ["it"]}, "wrong_value"),
    ("a password that is a list", {"RegisteredUsers": {"it": ["long-enough-password"]}}, "wrong_value"),
    ("a peer without Url", {"OrthancPeers": {"other": {"Username": "a"}}}, "wrong_value"),
    ("a modality's name", {"DicomModalities": {"us 1": ["US1", "192.0.2.1", 104]}}, "wrong_value"),
    ("a manufacturer", {"DicomModalities": {"us1": ["US1", "192.0.2.1", 104, "Acme"]}}, "wrong_value"),
    ("a modality without port", {"DicomModalities": {"us1": {"AET": "US1", "Host": "192.0.2.1"}}}, "wrong_value"),
    ("a right as text", {"DicomModalities": {"a": {**US1, "AllowGet": "yes"}}}, "wrong_value"),
    ("one port twice", {"HttpPort": 4242}, "ports_in_conflict"),
    ("worklists without a folder", {"Worklists": {"Enable": True}}, "worklist_folder"),
    ("the other plugin's folder", {"Worklists": {"Enable": True, "Directory": "/tmp"}}, "unknown_option"),
    ("DICOM TLS without files", {"DicomTlsEnabled": True}, "missing_file"),
]  # fmt: skip


def inside(host: Host, version: str) -> list[str]:
    """How a command runs with the Orthanc of this version: on the machine, or in the image of the newest."""
    if version == "1.13.0":
        return ["docker", "run", "--rm", "--init", "--interactive", "--network=none", bed.image("orthanc")]
    return ["docker", "exec", "--interactive", name_of(host), "unshare", "--net"]


CAME_UP = 124


def until_up(configuration: str) -> str:
    """A script: Orthanc's exit code when it ends by itself; CAME_UP when it says that it has started, and is ended."""
    return (
        f"rm -f /tmp/tried.log; ( sh -c 'echo $$ > /tmp/tried.pid; exec Orthanc {configuration}' 2>&1;"
        ' echo "ended with $?" ) > /tmp/tried.log &'
        " until grep -qsE 'Orthanc has started|^ended with' /tmp/tried.log; do sleep 0.1; done;"
        " code=$(sed -n 's/^ended with //p' /tmp/tried.log); cat /tmp/tried.log >&2;"
        f' [ -n "$code" ] || {{ code={CAME_UP}; kill $(cat /tmp/tried.pid); wait; }}'
    )


def exit_codes(host: Host, version: str, tried: list[dict[str, str]]) -> list[int]:
    """The exit code of the real Orthanc on each configuration, one after the other; CAME_UP when it comes up, and is
    ended. A configuration is its files' texts by their names."""
    named = [(f"{number:03}/{name}", text) for number, files in enumerate(tried) for name, text in files.items()]
    content = bed.pack({path: text.encode() for path, text in named})
    script = (
        "rm -rf /tmp/tried.d; mkdir /tmp/tried.d; cd /tmp/tried.d; tar -x; ip link set lo up 2>/dev/null;"
        f" export one; for one in /tmp/tried.d/*; do {until_up('$one')}; echo $code; done"
    )
    command = [*inside(host, version), "sh", "-c", script]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    return [int(code) for code in done.stdout.split()]


def versions(host: Host) -> list[str]:
    """The version of this machine; the newest runs beside the last machine, in an image of its own."""
    installed = host.check_output("dpkg-query --show --showformat '${Version}' orthanc").partition("+")[0]
    return [installed, *(["1.13.0"] if name_of(host) == "orthanc-trixie" else [])]


def test_orthanc_refuses_what_the_rules_refuse(host: Host) -> None:
    for version in versions(host):
        deployed = json.loads(host.file(SITE).content_string)
        deployed.update(StorageDirectory="/tmp/tried", IndexDirectory="/tmp/tried", TemporaryDirectory="/tmp")
        deployed["Worklists"] = {"Enable": True, "Database": "/tmp"}
        deployed["LuaScripts"] = []  # the image does not have ours
        del deployed["PythonScript"]
        one = '{"Name": "twice"}'
        # the first comes up; what follows the rules' cases is refused by the reader
        read = [{"a.json": '{"Name": '}, {"a.json": one, "b.json": one}]
        candidates = [{**deployed, **change} for _, change, _ in REFUSED]
        tried = [{"a.json": json.dumps(whole)} for whole in (deployed, *candidates)]
        first, *codes = exit_codes(host, version, [*tried, *read])
        assert first == CAME_UP, version
        assert len(codes) == len(REFUSED) + len(read)
        for (what, _, rule), candidate in zip(REFUSED, candidates, strict=True):
            assert rule in {item["rule"] for item in rules.problems(candidate, version)}, what
        names = [*(what for what, _, _ in REFUSED), "cut off", "twice"]
        assert [what for what, code in zip(names, codes, strict=True) if code in (0, CAME_UP)] == [], version
        assert [[item["rule"] for item in reading.read(files)[1]] for files in read] == [
            ["bad_json"],
            ["defined_twice"],
        ]


def test_the_shipped_files_hold_no_unknown_option(host: Host) -> None:
    show = 'for file in /etc/orthanc/*.json; do echo "=== $file"; cat "$file"; done'
    shipped = {versions(host)[0]: host.check_output(show)}
    if "1.13.0" in versions(host):
        command = [*inside(host, "1.13.0"), "sh", "-c", show]
        shipped["1.13.0"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for version, text in shipped.items():
        files = dict(part.split("\n", 1) for part in text.split("=== ")[1:])
        assert len(files) >= 5
        configuration, wrong = reading.read(files)
        assert wrong == []
        problems = rules.problems(configuration, version)
        found = {item["rule"] for item in problems}
        assert not found & {"unknown_option", "newer_option", "wrong_value"}, problems
        # and what is dangerous in them is seen
        assert {"any_device", "no_password", "no_users", "webdav"} <= found


def test_an_index_of_a_newer_orthanc_is_refused(host: Host) -> None:
    """The disk comes from somebody else's Orthanc 1.13.0: no file of this collection's says so."""
    foreign = "/var/lib/orthanc/foreign"
    make = (
        """echo '{"StorageDirectory": "/tmp/db", "RemoteAccessAllowed": false}' > /tmp/a.json;"""
        f" {until_up('/tmp/a.json')}; tar -C /tmp/db -c ."
    )
    command = [*inside(host, "1.13.0"), "sh", "-c", make]
    made = subprocess.run(command, capture_output=True, check=True).stdout
    put(name_of(host), "/tmp/foreign.tar", made)
    host.check_output(f"mkdir {foreign} && tar -C {foreign} -xf /tmp/foreign.tar && touch {foreign}/.orthanc-storage")
    status, said = play("deploy", host, {"orthanc_storage_dir": foreign})
    host.check_output(f"rm -r {foreign} /tmp/foreign.tar")
    assert status == 2
    assert "was opened by Orthanc 1.12.8 or later" in said
    assert "changed=0" in said
