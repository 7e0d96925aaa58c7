"""A device whose numbers and names would write into the journal and onto the terminal of whoever restores."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess

import pydicom
import pytest
from backups import DEVICES, PROGRAM, STORAGE, answers, done, must
from clients import ADDRESSES, example, put, scu, wait_for
from pydicom.uid import generate_uid
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


def image(accession: bytes) -> bytes:
    """A real image with this accession number and patient's name, whatever their bytes are."""
    content = pydicom.dcmread(example())
    content.StudyInstanceUID, content.SeriesInstanceUID = generate_uid(), generate_uid()
    content.SOPInstanceUID = content.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    marker = "M" * (len(accession) + len(accession) % 2)
    content.AccessionNumber = content.PatientName = content.PatientID = marker
    with io.BytesIO() as buffer:
        content.save_as(buffer)
        return buffer.getvalue().replace(marker.encode(), accession.ljust(len(marker)))


@pytest.mark.parametrize("machine", testinfra_hosts)
def test_a_device_writes_no_line_of_its_own(machine: str) -> None:
    token = secrets.token_hex(2)
    cursor = must(machine, "journalctl --lines=0 --show-cursor | sed -n 's/^-- cursor: //p'").strip()
    done(machine, "run")
    put(DEVICES["US1"], "/tmp/hostile.dcm", image(f"{token}\n<0>root: everything is fine\x1b[2J".encode()))
    status, said = scu(DEVICES["US1"], "storescu", "US1", ADDRESSES[machine][0], "-xe", "/tmp/hostile.dcm")
    assert status == 0, said
    must(machine, "systemctl start orthanc-ledger.service")

    # as a unit, whose output is the journal's, and as a person calls it
    listed = subprocess.run(["docker", "exec", machine, PROGRAM, "restore"], capture_output=True, check=True)
    wait_for(lambda: answers(machine), "Orthanc")
    shown = (listed.stdout + listed.stderr).decode()
    assert rf"{token}\x0a<0>root: everything is fine\x1b[2J" in shown
    assert not [one for one in shown if ord(one) < 32 and one != "\n"]
    for command in ("orthanc-monitor look", "orthanc-monitor show || true", "orthanc-verify doctor us1 || true"):
        seen = must(machine, f"systemd-run --quiet --wait --collect --pipe sh -c '{command} 2>&1'")
        assert not [one for one in seen if ord(one) < 32 and one != "\n"]

    must(machine, f"systemd-run --quiet --wait --collect --setenv=PATH=$PATH {PROGRAM} restore")
    wait_for(lambda: answers(machine), "Orthanc")
    journal = must(machine, f"journalctl --sync; journalctl --no-pager --output=json --after-cursor='{cursor}'")
    entries = [json.loads(line) for line in journal.splitlines()]
    assert [one for one in entries if int(one.get("PRIORITY", 6)) < 3] == []
    assert [one for one in entries if str(one.get("MESSAGE")).startswith(("root: ", "<0>"))] == []
    must(machine, f"rm -rf {STORAGE}/.set-aside-*")
