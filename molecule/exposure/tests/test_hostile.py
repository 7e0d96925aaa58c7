"""Hostile input: the service still answers, the same processes run, and nobody reads what is not his."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from clients import ADDRESSES, HOSTNAME, OFFICE, PASSWORDS, ROOT, SCANNER, answers, client, https, name_of, put
from exposure import DICOM, HTTPS, MARKER, ssh_open, ssh_stayed, store_marker
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
PLACES = {"https": (OFFICE, 1, HTTPS), "dicom": (SCANNER, 0, DICOM)}


def processes(host: Host) -> str:
    return str(host.check_output("systemctl show --property MainPID,NRestarts orthanc nginx"))


def attack(host: Host, door: str, *options: str) -> dict[str, Any]:
    """What tests/agents/hostile.py tells, at the office's PC or at a listed device."""
    machine = name_of(host)
    place, network, port = PLACES[door]
    store_marker(machine)
    settings = {
        "hostname": HOSTNAME,
        "user": "viewer",
        "password": PASSWORDS["viewer"],
        "study": f"/dicom-web/studies/{MARKER.study}",
        "markers": [MARKER.name, MARKER.patient, MARKER.study, "Orthanc/"],
        # keys of Orthanc's own API
        "forbidden": ["DicomAet", "ApiVersion", "MainDicomTags", "ParentPatient"],
        "aet": "US2",
        "called": "ORTHANC",
    }
    put(place, "/tmp/hostile.py", (ROOT / "tests/agents/hostile.py").read_bytes())
    command = ["python3", "/tmp/hostile.py", door, ADDRESSES[machine][network], str(port), *options]
    done = client(place, *command, stdin=json.dumps(settings).encode())
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


# the number of the batch is its seed
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(2, 12))])
@pytest.mark.parametrize(("door", "cases"), [("https", 150), ("dicom", 75)])
def test_hostile_input(host: Host, door: str, cases: int, seed: int) -> None:
    machine = name_of(host)
    if not ssh_stayed(machine):
        ssh_open(machine)
    before = processes(host)
    told = attack(host, door, "--seed", str(seed), "--cases", str(cases))
    print({key: value for key, value in told.items() if key != "broken"})  # pytest -s, or of a failure
    assert (told["cases"], len(told["kinds"])) == (cases, 15)
    assert told["broken"] == []
    # it came through to the server: it was answered, not just hung up on
    assert told["answers"].get("none", 0) < cases * 0.8
    assert told["ordinary"]["asked"] >= 3
    assert told["ordinary"]["failed"] == []
    assert processes(host) == before
    assert answers(host)
    status, _kind, body = https(host, OFFICE, f"/dicom-web/studies?StudyInstanceUID={MARKER.study}")
    assert (status, MARKER.name.encode() in body) == (200, True)
    assert ssh_stayed(machine)
