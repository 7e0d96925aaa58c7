#!/usr/bin/env python3
"""Servers that somebody set up by hand, and how they are read: for the scenario `adopt`.

As a program it fills them, and writes what each has into the file that its argument names.
"""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import bed
import pydicom
import yaml
from backups import must
from clients import ADDRESSES, ROOT, build_environment, client, content_of, example, wait_for
from pydicom.uid import UID, generate_uid

DEVICE = "orthanc-adopt-us1"
USERS = {
    "orthanc-adopt12": "orthanc:change-this-password",
    "orthanc-adopt13": "anna:a-long-password-of-anna",
    "orthanc-adoptc": "orthanc:change-this-password",
}
# by AE title, how many images of each kind
SENDERS = {"US1": 10, "US2": 3, "CT9": 2}
KINDS = [
    *("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.2"),
    *("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.3.1"),
    *("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.6.1"),
    *("1.2.840.10008.5.1.4.1.1.6.2", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.2"),
    *("1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2", "1.2.840.10008.5.1.4.1.1.20"),
    *("1.2.840.10008.5.1.4.1.1.77.1.1", "1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.840.10008.5.1.4.1.1.88.11"),
    *("1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.128"),
]
IMAGES = len(KINDS) * sum(SENDERS.values())


# --- the archive --------------------------------------------------------------------------------
def make_images(aet: str) -> bytes:
    """A tar archive of images of every kind, in two studies for each device."""
    image = pydicom.dcmread(example())
    image.PatientID, studies = f"PATIENT-{aet}", [generate_uid(), generate_uid()]
    files = {}
    for kind in KINDS:
        image.SeriesInstanceUID = generate_uid()
        for number in range(SENDERS[aet]):
            image.StudyInstanceUID = studies[number % 2]
            image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = UID(kind)
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            files[f"{image.SOPInstanceUID}.dcm"] = content_of(image)
    return bed.pack(files)


def store(machine: str) -> None:
    """Each device stores its images by DICOM."""
    address = ADDRESSES[machine][0]
    wait_for(
        lambda: client(DEVICE, "echoscu", "-to", "5", "-aec", "ORTHANC", address, "4242").returncode == 0,
        f"Orthanc of {machine}",
    )
    for aet in SENDERS:
        send = f"rm -rf /tmp/{aet} && mkdir /tmp/{aet} && cd /tmp/{aet} && tar x && "
        send += f"storescu -R -to 10 -aet {aet} -aec ORTHANC {address} 4242 /tmp/{aet}/*.dcm"
        done = client(DEVICE, "sh", "-c", send, stdin=make_images(aet))
        assert done.returncode == 0, done


def store_one(machine: str) -> str:
    """A device stores one more image, of a study that the server has; returns its SOP Instance UID."""
    image = pydicom.dcmread(example())
    image.SeriesInstanceUID = generate_uid()  # what the DICOMweb plugin has cached of other series stays
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    path = f"/tmp/{machine}.dcm"
    send = f"cat > {path} && storescu -R -to 10 -aet US1 -aec ORTHANC {ADDRESSES[machine][0]} 4242 {path}"
    done = client(DEVICE, "sh", "-c", send, stdin=content_of(image))
    assert done.returncode == 0, done
    return str(image.SOPInstanceUID)


def ask_archive(machine: str, calls: list[tuple[str, str, bytes]] | None = None, user: str = "") -> dict[str, Any]:
    """What Orthanc has after these calls of its REST API; on the machine itself, or inside its container."""
    plan = {
        "user": user or USERS[machine],
        "calls": [[method, path, base64.b64encode(body).decode()] for method, path, body in calls or []],
    }
    program = (ROOT / "tests/agents/whole_archive.py").read_text()
    inside = ["docker", "exec", "-i", name_container(machine)] if machine == "orthanc-adoptc" else []
    said = must(machine, shlex.join([*inside, "python3", "-c", program]), json.dumps(plan).encode())
    found: dict[str, Any] = json.loads(said)
    return found


def name_container(machine: str) -> str:
    """The random name that Docker gave to the guide's container."""
    return must(machine, "docker ps --all --format '{{.Names}}'").split()[0]


def add(machine: str) -> dict[str, Any]:
    """What people add: a label, metadata and an attachment on a study, a protected patient, an image over HTTP."""
    before = ask_archive(machine)
    study, patient = f"/studies/{before['first']}", f"/patients/{before['patient']}"
    image = pydicom.dcmread(example())
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    calls = [
        ("PUT", f"{study}/metadata/{'Reviewed' if machine == 'orthanc-adopt13' else 1024}", b"yes"),
        ("PUT", f"{study}/attachments/{'report' if machine == 'orthanc-adopt13' else 1025}", b"%PDF a report"),
        ("PUT", f"{patient}/protected", b"1"),
        ("POST", "/instances", content_of(image)),
    ]
    if machine != "orthanc-adopt12":  # from Orthanc 1.12.0 on
        calls.append(("PUT", f"{study}/labels/teaching", b""))
    after = ask_archive(machine, calls)
    assert all(status == 200 for status in after.pop("statuses")), machine
    assert len(after["images"]) == IMAGES + 1
    return after


# --- reading ------------------------------------------------------------------------------------
def connect(machine: str) -> dict[str, Any]:
    """How Ansible reaches a machine of the bed, as variables for --extra-vars."""
    variables: dict[str, Any] = yaml.safe_load((ROOT / ".config/molecule/hosts.yml").read_text())["orthanc"]["vars"]
    return {**variables, "ansible_host": machine}


def adopt(machine: str, directory: Path, *options: str, settings: dict[str, Any] | None = None) -> tuple[int, str]:
    """Exit code and output of the playbook, run in this directory by somebody who has no inventory yet."""
    given = directory / f"{machine}.json"
    given.write_text(json.dumps({**connect(machine), **(settings or {})}))
    done = subprocess.run(
        ["ansible-playbook", "-i", f"{machine},", "-e", f"@{given}", *options, "clinicops.orthanc.adopt"],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=build_environment(COLUMNS="200"),
    )
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    for each in USERS:
        store(each)
    Path(sys.argv[1]).write_text(json.dumps({each: add(each) for each in USERS}))
