#!/usr/bin/env python3
"""Copies of the images that Orthanc stored, in its index and on its disk: a large archive within seconds.

python3 copies.py DIRECTORY IMAGES

Makes an archive that large, with a file for each copy. As a program it runs on a machine of the test bed, as Orthanc's
user while Orthanc is stopped, and needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

STUDIES, SERIES = 10, 100
STORED = STUDIES * SERIES
# the number of the first copy, in every identifier; the others count on from here
FIRST = 700000
# StudyDate in a data set with explicit VR, and how long its value is (PS3.5, 7.1.2)
DATED, DAY = b"\x08\x00\x20\x00DA\x08\x00", 8
INSTANCE = 4  # resourceType
LAST_STORED = "SELECT internalId FROM Resources WHERE resourceType = ? ORDER BY internalId LIMIT 1 OFFSET ?"


def name_copy(identifier: str, copy: int) -> str:
    """An identifier of Orthanc's for a copy of a resource."""
    digest = hashlib.sha1(f"{identifier} {copy}".encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def move_day(value: str, copy: int) -> str:
    """The day of a copy of a study."""
    return f"{date.fromisoformat(value) + timedelta(days=copy * STUDIES):%Y%m%d}"


def copy_image(content: bytes, copy: int) -> bytes:
    """The file of a copy of an image: of the same size, with the identifiers, name and date of its rows."""
    content = content.replace(str(FIRST).encode(), str(FIRST + copy).encode())
    begin = content.index(DATED) + len(DATED)
    day = move_day(content[begin : begin + DAY].decode(), copy)
    return content[:begin] + day.encode() + content[begin + DAY :]


def write_files(directory: Path, stored: Sequence[str], numbers: Iterable[int]) -> Iterator[tuple[int, str, str, str]]:
    """Writes the file of each copy; yields the copy's number, the UUID of what it is a copy of, its own and its MD5."""
    contents = {name: (directory / name[:2] / name[2:4] / name).read_bytes() for name in stored}
    for number, (original, content) in itertools.product(numbers, contents.items()):
        name, copied = str(uuid.uuid4()), copy_image(content, number)
        path = directory / name[:2] / name[2:4] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(copied)
        yield number, original, name, hashlib.md5(copied, usedforsecurity=False).hexdigest()


def copy_rows(index: Path, images: int, files: Path | None = None) -> None:
    """Copies the rows of the stored images until the index has so many.

    Both numbers are multiples of `STORED`, and what was stored later has been deleted. Each copy has a file of its own
    in the storage directory `files`; without one, all share the files of the images. sqlite3.Error where Orthanc runs.
    """
    with contextlib.closing(sqlite3.connect(index, timeout=0)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.create_function("name_copy", 2, name_copy, deterministic=True)
        database.create_function("move_day", 2, move_day, deterministic=True)
        [there] = database.execute("SELECT COUNT(*) FROM Resources WHERE resourceType = ?", [INSTANCE]).fetchone()
        numbers = range(there // STORED, images // STORED)
        if not numbers:
            return
        # what Orthanc stored first has the lowest internal ids; it uses none twice, and the backup is sure of that
        [top] = database.execute(LAST_STORED, [INSTANCE, STORED - 1]).fetchone()
        [used] = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'Resources'").fetchone()
        moved = f"{used} + (k - {numbers.start}) * {top}"
        text = f"replace(value, '{FIRST}', {FIRST} + k)"
        changed = {
            ("Resources", "internalId"): f"internalId + {moved}",
            ("Resources", "publicId"): "name_copy(publicId, k)",
            ("Resources", "parentId"): f"parentId + {moved}",
            ("Changes", "seq"): "NULL",
            ("Changes", "internalId"): f"internalId + {moved}",
        }
        day = "CASE WHEN tagGroup = 8 AND tagElement = 32 THEN move_day(value, k) ELSE"
        for table in ("MainDicomTags", "DicomIdentifiers"):
            changed[table, "value"] = f"{day} {text} END"
        if files:
            stored = [row[0] for row in database.execute("SELECT uuid FROM AttachedFiles WHERE id <= ?", [top])]
            database.execute("CREATE TEMP TABLE Files (copy, original, uuid, md5, PRIMARY KEY (copy, original))")
            database.executemany("INSERT INTO Files VALUES (?, ?, ?, ?)", write_files(files, stored, numbers))
            for column, value in (("uuid", "uuid"), ("uncompressedMD5", "md5"), ("compressedMD5", "md5")):
                found = f"SELECT Files.{value} FROM Files WHERE copy = k AND original = AttachedFiles.uuid"
                changed["AttachedFiles", column] = f"({found})"
        first, last = numbers.start, numbers.stop - 1
        copies = f"WITH RECURSIVE n(k) AS (VALUES ({first}) UNION ALL SELECT k + 1 FROM n WHERE k < {last})"
        for table in ("Resources", "MainDicomTags", "DicomIdentifiers", "Metadata", "AttachedFiles", "Changes"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            changed[table, "id"] = f"id + {moved}"
            values = ", ".join(changed.get((table, column), column) for column in columns)
            own = "internalId" if "internalId" in columns else "id"
            database.execute(
                f"INSERT INTO {table} {copies} SELECT {values} FROM n CROSS JOIN {table} WHERE {own} <= {top}"
            )
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


if __name__ == "__main__":
    storage = Path(sys.argv[1])
    copy_rows(storage / "index", int(sys.argv[2]), storage)
