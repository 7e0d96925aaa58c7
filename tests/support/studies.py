"""Studies of a few small images over Orthanc's REST API, on any machine of the bed that has a repository."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

import pydicom
from backups import STORAGE, must, python
from clients import PASSWORDS, content_of, example
from pydicom.uid import generate_uid

ASK = """
import base64, http.client, json, sys
plan = json.load(sys.stdin)
headers = {"Authorization": "Basic " + base64.b64encode(plan["user"].encode()).decode()}
answers = []
for method, path, body in plan["calls"]:
    connection = http.client.HTTPConnection("127.0.0.1", 8042, timeout=60)
    connection.request(method, path, base64.b64decode(body) or None, headers)
    answer = connection.getresponse()
    answers.append([answer.status, base64.b64encode(answer.read()).decode()])
print(json.dumps(answers))
"""


@dataclass
class Stored:
    """A study as it was sent: the file of each image by its SOPInstanceUID."""

    uid: str
    accession: str
    patient: str
    files: dict[str, bytes] = field(default_factory=dict)


def ask_all(machine: str, calls: list[tuple[str, str, bytes]], user: str = "") -> list[tuple[int, bytes]]:
    """Status and body of each of Orthanc's answers to method, path and body, on the machine itself.

    The administrator asks unless another user is named.
    """
    plan = {
        "user": user or f"it:{PASSWORDS['it']}",
        "calls": [[method, path, base64.b64encode(body).decode()] for method, path, body in calls],
    }
    answers = json.loads(must(machine, f"python3 -c {shlex.quote(ASK)}", json.dumps(plan).encode()))
    return [(status, base64.b64decode(content)) for status, content in answers]


def ask(machine: str, method: str, path: str, body: bytes = b"", user: str = "") -> tuple[int, bytes]:
    """The same of one request."""
    return ask_all(machine, [(method, path, body)], user)[0]


def make(accession: str = "", patient: str = "", series: int = 2, images: int = 2) -> Stored:
    """A study that nobody has sent yet."""
    image = pydicom.dcmread(example("examples_rgb_color.dcm"))
    for element in [*image]:
        if element.VR == "SQ" or element.tag.is_private:
            del image[element.tag]
    image.StudyInstanceUID = generate_uid()
    study = Stored(str(image.StudyInstanceUID), accession or f"A{image.StudyInstanceUID[-12:]}", patient or "ONE-STUDY")
    image.AccessionNumber, image.PatientID, image.StudyDescription = study.accession, study.patient, "Follicles"
    image.Rows, image.Columns = 16, 16
    for _ in range(series):
        image.SeriesInstanceUID = generate_uid()
        for number in range(images):
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            image.PixelData = bytes([number]) * 768
            study.files[str(image.SOPInstanceUID)] = content_of(image)
    return study


def changed(file: bytes) -> bytes:
    """The same UIDs, other pixels."""
    image = pydicom.dcmread(io.BytesIO(file))
    image.PixelData = bytes([200]) * 768
    return content_of(image)


def send(machine: str, *studies: Stored) -> None:
    files = [file for study in studies for file in study.files.values()]
    for status, said in ask_all(machine, [("POST", "/instances", file) for file in files]):
        assert status == 200, said


def identifiers(machine: str, uids: Iterable[str]) -> list[str]:
    """Orthanc's path of each study or image; nothing when it is not there."""
    answers = ask_all(machine, [("POST", "/tools/lookup", uid.encode()) for uid in uids])
    found = [json.loads(body) for _status, body in answers]
    return [str(one[0]["Path"]) if one else "" for one in found]


def identifier(machine: str, uid: str) -> str:
    """The same of one."""
    return identifiers(machine, [uid])[0]


def remove(machine: str, *uids: str) -> None:
    """As a person deletes in the interface."""
    for uid in uids:
        assert ask(machine, "DELETE", identifier(machine, uid))[0] == 200


def readable(machine: str, study: Stored) -> list[str]:
    """The images that Orthanc gives out bit by bit."""
    paths = dict(zip(study.files, identifiers(machine, study.files), strict=True))
    there = [uid for uid, path in paths.items() if path]
    answers = ask_all(machine, [("GET", f"{paths[uid]}/file", b"") for uid in there])
    return [uid for uid, answer in zip(there, answers, strict=True) if answer == (200, study.files[uid])]


def all_readable(machine: str, *studies: Stored) -> bool:
    return all(len(readable(machine, study)) == len(study.files) for study in studies)


def file_of(machine: str, uid: str) -> str:
    """The attachment of an image; the index is not asked, for Orthanc has it open."""
    found: dict[str, str] = python(machine, "held.py", "paths", STORAGE)
    return found[uid]


def whole_on_disk(machine: str, study: Stored) -> bool:
    """Orthanc's cache remembers files that are gone."""
    paths: dict[str, str] = python(machine, "held.py", "paths", STORAGE)
    sums = must(machine, f"md5sum {' '.join(paths[uid] for uid in study.files)}").splitlines()
    return [line.split()[0] for line in sums] == [hashlib.md5(file).hexdigest() for file in study.files.values()]
