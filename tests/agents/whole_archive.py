"""What an Orthanc has, asked over its REST API on its own machine: images bit by bit, and what people added to them.

Reads {"user": "name:password", "calls": [[method, path, body in base64]]}, makes the calls, and prints the
status of each and everything that Orthanc has then.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import sys
from typing import Any

PLAN = json.load(sys.stdin)
HEADERS = {"Authorization": "Basic " + base64.b64encode(PLAN["user"].encode()).decode()}


def ask(method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", 8042, timeout=120)
    connection.request(method, path, body or None, HEADERS)
    answer = connection.getresponse()
    return answer.status, answer.read()


def get(path: str) -> Any:
    status, body = ask("GET", path)
    return json.loads(body) if status == 200 else None


def read_level(level: str) -> dict[str, Any]:
    """By the UID of each resource: labels, metadata that a person named, and the MD5 of own attachments."""
    found = {}
    tag = {"patients": "PatientID", "studies": "StudyInstanceUID"}[level]
    for identifier in get(f"/{level}"):
        base = f"/{level}/{identifier}"
        metadata = get(f"{base}/metadata?expand") or {}
        attachments = [name for name in get(f"{base}/attachments") or [] if name not in ("dicom", "dicom-as-json")]
        found[get(base)["MainDicomTags"][tag]] = {
            "labels": get(f"{base}/labels") or [],
            "metadata": {name: metadata[name] for name in metadata if name == "Reviewed" or name.isdigit()},
            "attachments": {
                name: hashlib.md5(ask("GET", f"{base}/attachments/{name}/data")[1]).hexdigest() for name in attachments
            },
            "protected": ask("GET", f"{base}/protected")[1].decode() if level == "patients" else "",
        }
    return found


statuses = [ask(method, path, base64.b64decode(body))[0] for method, path, body in PLAN["calls"]]
images = {}
for identifier in get("/instances"):
    uid = get(f"/instances/{identifier}")["MainDicomTags"]["SOPInstanceUID"]
    images[uid] = hashlib.md5(ask("GET", f"/instances/{identifier}/file")[1]).hexdigest()
print(
    json.dumps(
        {
            "statuses": statuses,
            "images": images,
            "patients": read_level("patients"),
            "studies": read_level("studies"),
            "first": get("/studies")[0] if images else "",
            "patient": get("/patients")[0] if images else "",
        }
    )
)
