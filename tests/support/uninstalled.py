#!/usr/bin/env python3
"""What is on a machine before a deploy and after an uninstall, and its images: for the scenario `uninstall`.

As a program it fills the adopted server, and records each machine in the directory that its argument names.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pydicom
from backups import must
from clients import PASSWORDS, ROOT, content_of, example, read_platforms, wait_for
from pydicom.uid import generate_uid

MACHINES = PACKAGE, CONTAINER, ADOPTED = tuple(read_platforms("uninstall", "orthanc"))
IT = f"it:{PASSWORDS['it']}"
GUIDE = "orthanc:change-this-password"
IMAGES = 5
STORAGE = "/var/lib/orthanc/db"
Result = TypeVar("Result")


def on_all(act: Callable[[str], Result], machines: tuple[str, ...] = MACHINES) -> dict[str, Result]:
    """What the function returns for each machine, all at the same time."""
    with ThreadPoolExecutor() as threads:
        return dict(zip(machines, threads.map(act, machines), strict=True))


def record(machine: str) -> dict[str, str]:
    """What is on the machine, by name."""
    said = must(machine, "python3 -", (ROOT / "tests/agents/footprint.py").read_bytes())
    found: dict[str, str] = json.loads(said)
    return found


def read_before(machine: str) -> dict[str, str]:
    """What was on the machine before the deploy."""
    directory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parents[1]
    found: dict[str, str] = json.loads((directory / f"{machine}.json").read_text())
    return found


def compare(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """By name: what it was and what it is, where these differ."""
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return {name: (before.get(name, ""), after.get(name, "")) for name in names}


def list_files_of(machine: str, packages: list[str]) -> set[str]:
    """The paths that these packages contain; on Debian 12 /lib is a link, and packages name it."""
    listed = must(machine, shlex.join(["dpkg-query", "--listfiles", *packages])).splitlines() if packages else []
    return {*listed, *(f"/usr{path}" for path in listed if path.startswith("/lib/"))}


def list_new_packages(different: dict[str, tuple[str, str]]) -> list[str]:
    return [name.partition(" ")[2] for name in different if name.startswith("package ")]


def matches(name: str, patterns: dict[str, str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


# --- images -------------------------------------------------------------------------------------
def make_image() -> bytes:
    image = pydicom.dcmread(example())
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return content_of(image)


def read_images(machine: str, user: str = IT, count: int = 0) -> dict[str, str]:
    """The MD5 of each image that Orthanc gives out, by its SOP Instance UID, after so many more were stored."""
    wait_for(lambda: must(machine, "ss -Hltn 'sport = 8042'"), f"Orthanc of {machine}")
    calls = [["POST", "/instances", base64.b64encode(make_image()).decode()] for _ in range(count)]
    program = (ROOT / "tests/agents/whole_archive.py").read_text()
    # the container's network is its own; its HTTP port is published on loopback
    said = must(machine, shlex.join(["python3", "-c", program]), json.dumps({"user": user, "calls": calls}).encode())
    answer: dict[str, Any] = json.loads(said)
    assert answer["statuses"] == [200] * count
    images: dict[str, str] = answer["images"]
    return images


if __name__ == "__main__":
    read_images(ADOPTED, GUIDE, IMAGES)
    for name, found in on_all(record).items():
        Path(sys.argv[1], f"{name}.json").write_text(json.dumps(found))
