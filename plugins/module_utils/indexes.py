# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies the index of an Orthanc, and finds and saves the images that one index has and another has not.

Runs on the machine, standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .server.core.errors import Refused
from .server.core.files import copy_durably, create_directories, sync_directory, write_atomic
from .server.orthanc.layout import name_attachment

INDEX = ("index", "index-wal", "index-journal")
ARRIVED = "arrived"  # beside the notes of an adoption or an upgrade: images that came after the switch
ZLIB = 2  # compressionType of AttachedFiles
DICOM = 1  # fileType


def find_opener(index: Path) -> int:
    """The process that has the index open; 0 if none has."""
    with contextlib.suppress(FileNotFoundError):
        wanted = index.stat()
        for process in Path("/proc").glob("[0-9]*/fd"):
            with contextlib.suppress(OSError):
                for entry in process.iterdir():
                    with contextlib.suppress(OSError):
                        found = entry.stat()
                        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                            return int(process.parent.name)
    return 0


def save_index(source: Path, target: Path) -> None:
    """Copies the index of an Orthanc that does not run, with its changes that are not in it yet, into a new directory,
    all or nothing."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    for name in INDEX:
        if (source / name).exists():
            copy_durably(source / name, part / name)
    with contextlib.closing(sqlite3.connect(part / "index")) as database:
        database.execute("PRAGMA journal_mode=DELETE")  # takes the changes in
        problem = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise Refused(f"{source}/index: {problem}. Remedy: repair it with sqlite3, or restore a backup.")
    part.rename(target)
    sync_directory(target.parent)
    sync_directory(target)


def list_attachments(index: Path) -> set[str]:
    """The files that an index knows, below the directory of the images."""
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        return {name_attachment(uuid) for (uuid,) in database.execute("SELECT uuid FROM AttachedFiles")}


def read_schema(index: Path) -> set[str]:
    """Names of the tables, indexes and triggers, without SQLite's own: the statistics do not count."""
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        return {str(name) for (name,) in rows}


class Arrived(NamedTuple):
    """A DICOM file that one index has: its attachment, and how that is compressed."""

    uuid: str
    compression: int


def list_images(index: Path) -> dict[str, Arrived]:
    """The DICOM file of each image, by Orthanc's identifier of the image, which is made of the image's own."""
    query = (
        "SELECT publicId, uuid, compressionType FROM AttachedFiles JOIN Resources ON internalId = id WHERE fileType = ?"
    )
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        rows = database.execute(query, (DICOM,))
        return {identity: Arrived(uuid, compression) for identity, uuid, compression in rows}


def list_arrived(now: Path, before: Path) -> list[Arrived]:
    """The images that an index has and the one of before has not, or has as another file: it was sent again."""
    known = {identity: one.uuid for identity, one in list_images(before).items()}
    return [one for identity, one in sorted(list_images(now).items()) if known.get(identity) != one.uuid]


def read_dicom(directory: Path, one: Arrived) -> bytes:
    """The DICOM file of an attachment."""
    content = (directory / name_attachment(one.uuid)).read_bytes()
    return zlib.decompress(content[8:]) if one.compression == ZLIB else content  # after the size


def save_arrived(directory: Path, found: Iterable[Arrived], into: Path) -> list[str]:
    """Writes the DICOM files of these images into a directory for root. Returns the attachments that are damaged."""
    unread = []
    for one in found:
        try:
            content = read_dicom(directory, one)
        except (OSError, zlib.error):
            unread.append(one.uuid)
            continue
        create_directories(into, 0o700)
        write_atomic(into / f"{hashlib.sha256(content).hexdigest()[:32]}.dcm", content, 0o600)
    return unread


def count_arrived(directory: Path) -> int:
    """How many images came after the switch that the old index does not have."""
    return sum(1 for _unused in (directory / ARRIVED).glob("*.dcm"))
