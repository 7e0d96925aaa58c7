"""What becomes of files that the index does not know."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
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
