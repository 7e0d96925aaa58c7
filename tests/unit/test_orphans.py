"""What becomes of files that the index does not know."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless
from server.backup import orphans
from test_dataset import packed, small


@dataclass
class Row:
    size: int
    md5: str
    path: str = "00/11/0011"
    uuid: str = "0011"
    type: int = orphans.DICOM
    instance: str = "i"


def row(storage: Path, content: bytes) -> Row:
    made = Row(len(content), hashlib.md5(content).hexdigest())
    (storage / made.path).parent.mkdir(parents=True, exist_ok=True)
    (storage / made.path).write_bytes(content)
    return made


def other() -> pydicom.Dataset:
    made = small()
    made.PixelData = b"\1\1\1\1"
    return made


def test_an_orphan_on_a_bad_sector_stays_where_it_is(tmp_path: Path) -> None:
    bad = tmp_path / "0011"
    bad.symlink_to("/proc/self/mem")  # its first byte cannot be read: EIO
    found = orphans.sort_orphans([bad], {})
    assert found.images == []
    assert found.unresolved == {"0011": "not an image: it cannot be read (Input/output error)"}


IMAGE = packed(small())


@pytest.mark.parametrize(
    ("stored", "status", "word"),
    [
        (IMAGE, "Success", "imported"),
        (IMAGE, "AlreadyStored", "duplicate"),
        (packed(other()), "AlreadyStored", "conflict"),
        (IMAGE[132:], "AlreadyStored", "conflict"),  # without a preamble, as Orthanc takes it too
    ],
)
def test_what_became_of_an_orphan(tmp_path: Path, stored: bytes, status: str, word: str) -> None:
    verdict = orphans.judge_orphan(tmp_path, IMAGE, status, row(tmp_path, stored))
    assert verdict.word == word, verdict.text


def test_a_stored_file_that_is_not_what_was_written_is_damaged(tmp_path: Path) -> None:
    one = row(tmp_path, IMAGE)
    (tmp_path / one.path).write_bytes(IMAGE[:-1] + b"x")
    assert orphans.judge_orphan(tmp_path, IMAGE, "AlreadyStored", one).word == "damaged"
    assert orphans.judge_orphan(tmp_path, IMAGE, "Success", None).word == "refused"


def headers(image: bytes) -> bytes:
    """What Orthanc keeps beside a compressed image: a complete file that ends before the pixel data."""
    return image[: image.index(b"\xe0\x7f\x10\x00")]


def encapsulated() -> bytes:
    made = small()
    made.PixelData = encapsulate([b"\xff\x4f" + bytes(50)])
    made["PixelData"].is_undefined_length = True
    return packed(made, JPEG2000Lossless)


def compressed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + zlib.compress(data)


def written(directory: Path, **contents: bytes) -> list[Path]:
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return [directory / name for name in contents]


@pytest.mark.parametrize("image", [IMAGE, encapsulated()], ids=["native", "encapsulated"])
@pytest.mark.parametrize("form", [bytes, compressed], ids=["as it is", "compressed"])
@pytest.mark.parametrize("first", ["whole", "part"])
def test_the_headers_of_an_image_are_not_imported(tmp_path: Path, image: bytes, form: type, first: str) -> None:
    contents = {"whole": form(image), "part": form(headers(image))}
    files = written(tmp_path, **{name: contents[name] for name in sorted(contents, key=lambda name: name != first)})
    found = orphans.sort_orphans(files, {})
    assert found.images == [tmp_path / "whole"]
    assert found.headers == {tmp_path / "part": tmp_path / "whole"}
    assert found.unresolved == {}


def test_headers_without_their_image_stay(tmp_path: Path) -> None:
    found = orphans.sort_orphans(written(tmp_path, part=headers(IMAGE)), {})
    assert (found.images, found.headers) == ([], {})
    assert found.unresolved["part"].startswith("not an image: it ends before its pixels")


def test_what_is_an_image_is_imported(tmp_path: Path) -> None:
    report = small()
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.SOPInstanceUID = "1.2.3"
    files = written(tmp_path, report=packed(report), one=IMAGE, same=IMAGE, different=packed(other()))
    found = orphans.sort_orphans(files, {})
    assert sorted(found.images) == sorted(files)
    assert (found.headers, found.unresolved) == ({}, {})


@pytest.mark.parametrize(("type", "imported"), [(1, True), (3, False), (1024, False)])
def test_a_snapshot_knows_what_a_file_is(tmp_path: Path, type: int, imported: bool) -> None:
    files = written(tmp_path, part=headers(IMAGE))
    assert orphans.sort_orphans(files, {"part": type}).images == files * imported
    files = written(tmp_path, image=IMAGE)
    assert orphans.sort_orphans(files, {"image": type}).images == files * imported


def test_what_is_not_dicom_stays(tmp_path: Path) -> None:
    found = orphans.sort_orphans(written(tmp_path, noise=bytes(range(256)), cut=IMAGE[:-3]), {})
    assert found.images == []
    assert [text[:14] for text in found.unresolved.values()] == ["not an image: "] * 2
