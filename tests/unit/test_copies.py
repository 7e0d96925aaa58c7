"""The copies that make an archive of bench/ large: each has a file that is as its rows say."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import uuid
from functools import cache
from pathlib import Path

import pydicom
import pytest
from copies import FIRST, SERIES, STORED, STUDIES, copy_rows
from index import Study, make_image
from planned import RELEASES, read_release

ROWS = (
    "SELECT publicId, value, uuid, compressedSize, compressedMD5, uncompressedMD5 FROM Resources"
    " JOIN MainDicomTags ON MainDicomTags.id = internalId JOIN AttachedFiles ON AttachedFiles.id = internalId"
    " WHERE resourceType = 4 AND tagElement = 24"
)


def find_file(storage: Path, name: str) -> Path:
    return storage / name[:2] / name[2:4] / name


@cache
def make_images(study: int) -> list[bytes]:
    return [make_image(Study(0, study), number) for number in range(SERIES)]


def store_images(storage: Path, release: str) -> None:
    """What Orthanc would, as far as it matters here."""
    with contextlib.closing(sqlite3.connect(storage / "index")) as database:
        database.executescript(";".join(read_release(release)[0]))
        add = "INSERT INTO Resources(resourceType, publicId, parentId) VALUES (?, ?, ?) RETURNING internalId"
        for study in range(STUDIES):
            parent = None
            for level in (1, 2, 3):
                [parent] = database.execute(add, [level, f"{study}-{level}", parent]).fetchone()
            for number, content in enumerate(make_images(study)):
                name = str(uuid.uuid4())
                [one] = database.execute(add, [4, f"{study}-4-{number}", parent]).fetchone()
                tag = (one, 8, 24, f"{Study(0, study).uid}.1.{number + 1}")
                database.execute("INSERT INTO MainDicomTags VALUES (?, ?, ?, ?)", tag)
                digest = hashlib.md5(content).hexdigest()
                row = {"id": one, "fileType": 1, "uuid": name, "compressedSize": len(content), "compressionType": 1}
                row |= {"uncompressedSize": len(content), "uncompressedMD5": digest, "compressedMD5": digest}
                marks = ", ".join(f":{key}" for key in row)
                database.execute(f"INSERT INTO AttachedFiles({', '.join(row)}) VALUES ({marks})", row)
                find_file(storage, name).parent.mkdir(parents=True, exist_ok=True)
                find_file(storage, name).write_bytes(content)
        database.commit()


def delete_image(storage: Path) -> int:
    """The internal id of an image that came last and was deleted: nothing but the sequence shows it."""
    with contextlib.closing(sqlite3.connect(storage / "index")) as database:
        pass_over = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'Resources' RETURNING seq"
        [number] = database.execute(pass_over).fetchone()
        database.commit()
    return int(number)


@pytest.mark.parametrize("release", RELEASES)
def test_each_copy_has_a_file_of_its_own_that_is_as_its_rows_say(tmp_path: Path, release: str) -> None:
    store_images(tmp_path, release)
    copy_rows(tmp_path / "index", STORED * 2, tmp_path)
    deleted = delete_image(tmp_path)
    copy_rows(tmp_path / "index", STORED * 4, tmp_path)  # an archive that has grown grows again
    with contextlib.closing(sqlite3.connect(tmp_path / "index")) as database:
        rows = database.execute(ROWS).fetchall()
        lost = "SELECT COUNT(*) FROM Resources WHERE parentId NOT IN (SELECT internalId FROM Resources)"
        assert database.execute(lost).fetchone() == (0,)
        used = "SELECT COUNT(*) FROM Resources WHERE internalId = ?"
        assert database.execute(used, [deleted]).fetchone() == (0,)
    assert len(rows) == len({row[0] for row in rows}) == len({row[1] for row in rows}) == STORED * 4
    assert {Path(row[2]).name for row in rows} == {path.name for path in tmp_path.glob("??/??/*")}
    for _public, _uid, name, size, *digests in rows:
        content = find_file(tmp_path, name).read_bytes()
        assert (len(content), [hashlib.md5(content).hexdigest()] * 2) == (size, digests)
    for _public, uid, name, *_others in rows[:: SERIES + 1]:
        image = pydicom.dcmread(find_file(tmp_path, name), stop_before_pixels=True)
        assert uid == image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
        copy, number = map(int, str(image.PatientID)[1:].split("-"))
        study = Study(copy - FIRST, number)
        assert (image.StudyInstanceUID, image.StudyDate, image.PatientName) == (study.uid, study.day, study.name)
        assert uid.startswith(f"{study.uid}.1.")
