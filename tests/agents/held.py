#!/usr/bin/env python3
"""What an archive holds, on its own machine: the MD5 of each image's data set by SOP Instance UID, as JSON.

`rest USER:PASSWORD` asks Orthanc for every image; `directory PATH` reads an index and the files that it names, without
Orthanc; `paths PATH` gives the file of each image instead. Standard library alone.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import sqlite3
import sys
from pathlib import Path


def digest(file: bytes) -> str:
    """Of what comes behind the file meta header, which each program writes on its own."""
    if file[128:132] != b"DICM":
        return "no DICOM"
    start = 144 + int.from_bytes(file[140:144], "little")
    return hashlib.md5(file[start:], usedforsecurity=False).hexdigest()


def rest(user: str) -> dict[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", 8042, timeout=120)

    def get(path: str) -> bytes:
        headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return body if answer.status == 200 else b""

    found, since = {}, 0
    while page := json.loads(get(f"/instances?expand&since={since}&limit=1000")):
        for one in page:
            uid = one["MainDicomTags"]["SOPInstanceUID"]
            found[uid] = digest(get(f"/instances/{one['ID']}/attachments/dicom/data"))
        since += len(page)
    return found


def directory(path: Path) -> dict[str, str]:
    query = (
        "SELECT value, uuid FROM AttachedFiles JOIN MainDicomTags USING (id)"
        " WHERE fileType = 1 AND tagGroup = 8 AND tagElement = 24"
    )
    found = {}
    with contextlib.closing(sqlite3.connect(f"file:{path}/index?immutable=1", uri=True)) as database:
        for uid, uuid in database.execute(query):
            file = path / uuid[:2] / uuid[2:4] / uuid
            found[uid.strip("\0 ")] = digest(file.read_bytes()) if file.exists() else "missing"
    return found


def paths(directory: Path) -> dict[str, str]:
    """The file of each image, by what the files say of themselves."""
    found = {}
    for path in directory.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
        with path.open("rb") as file:
            head = file.read(1024)
        at = head.find(b"\x02\0\x03\0UI")
        if at > 0:
            length = int.from_bytes(head[at + 6 : at + 8], "little")
            found[head[at + 8 : at + 8 + length].decode().strip("\0 ")] = str(path)
    return found


if __name__ == "__main__":
    what, argument = sys.argv[1:]
    print(
        json.dumps(rest(argument) if what == "rest" else {"directory": directory, "paths": paths}[what](Path(argument)))
    )
