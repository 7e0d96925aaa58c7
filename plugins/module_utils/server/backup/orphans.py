# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files in the storage directory that the index does not know, and the result of importing them into Orthanc.

Orthanc's answer decides nothing: it says "success" to an image that it has already, whether that can be read or not.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from ..core.files import UNREADABLE, hash_file
from ..dicom import dataset

DICOM = 1  # the fileType of the index
ROWS = 0x00280010
# what an image consists of (PS3.3, C.7.6.3 and C.8.14.4); a URL of its pixels stands for them
PIXELS = {0x00287FE0, 0x56000020, 0x7FE00008, 0x7FE00009, dataset.PIXEL_DATA}


class Stored(Protocol):
    """A row of the index: where an attachment is, and what was written there."""

    @property
    def type(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def md5(self) -> str: ...

    @property
    def instance(self) -> str: ...

    @property
    def path(self) -> str: ...


class Verdict(NamedTuple):
    """`imported` and `duplicate` are done; `damaged` is the stored one; `conflict` and `refused` leave the orphan."""

    word: str
    text: str

    @property
    def is_done(self) -> bool:
        return self.word in ("imported", "duplicate")


class Orphans(NamedTuple):
    """Files to import; those with the headers of an image alone, and the file that has all of it; why others stay."""

    images: list[Path]
    headers: dict[Path, Path]
    unresolved: dict[str, str]


def sort_orphans(lost: Iterable[Path], types: Mapping[str, int]) -> Orphans:
    """Which of these files are images.

    With StorageCompression, Orthanc keeps another file beside an image: its headers up to the pixel data
    (DicomUntilPixelData), which is a DICOM file with the same UIDs. `types` is what snapshots say of a file, by its
    name: the fileType of the index.
    """
    found, groups = Orphans([], {}, {}), defaultdict[str, list[Path]](list)
    bare: dict[Path, bool] = {}  # files without pixels, and whether they describe some
    for path in lost:
        try:
            data = read_image(path)
        except dataset.NotDicom as error:
            found.unresolved[path.name] = f"not an image: {error}"
            continue
        groups[dataset.identify(dataset.parse(data)).orthanc].append(path)
        tags = {at[0] for at, _value in dataset.read_whole(data)}
        if not tags & PIXELS:
            bare[path] = ROWS in tags
    for group in groups.values():
        wholes = [path for path in group if path not in bare]
        for path in group:
            known = types.get(path.name)
            whole = find_whole(path, wholes) if path in bare and known != DICOM else None
            if whole:
                found.headers[path] = whole
            elif known not in (None, DICOM):
                found.unresolved[path.name] = f"not an image: snapshots have it as an attachment of type {known}"
            elif known is None and bare.get(path):
                found.unresolved[path.name] = "not an image: it ends before its pixels, and no file here has them"
            else:
                found.images.append(path)
    return found


def find_whole(part: Path, wholes: list[Path]) -> Path | None:
    """The file that a file is the beginning of."""
    headers = read_image(part)
    return next((path for path in wholes if read_image(path).startswith(headers)), None)


def read_image(path: Path) -> bytes:
    """The DICOM file that is in an attachment, inflated where Orthanc compressed it (StorageCompression).

    Raises dataset.NotDicom for what is not an image, or only a part of one, or lies on a bad sector.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        raise dataset.NotDicom(f"it cannot be read ({error.strerror})") from None
    if data[128:132] != b"DICM":
        # eight bytes of its size, little endian, and zlib; any other file begins with a size that is wrong
        try:
            inflated = zlib.decompress(data[8:])
        except zlib.error:
            raise dataset.NotDicom("it is neither a DICOM file nor one that Orthanc compressed") from None
        if len(inflated) != int.from_bytes(data[:8], "little"):
            raise dataset.NotDicom("it is a compressed file whose size differs from the recorded one")
        data = inflated
    dataset.read_whole(data)  # a part of an image is not one
    dataset.identify(dataset.parse(data))
    return data


def is_whole(storage: Path, one: Stored) -> bool:
    """Whether the file of an image is on the disk as it was written; without a stored MD5, whether it can be read."""
    path = storage / one.path
    try:
        if path.stat().st_size != one.size:
            return False
        if not one.md5:
            return bool(one.type != DICOM or read_image(path))
        return hash_file(path, "md5") == one.md5
    except (OSError, dataset.NotDicom):
        return False


def judge_orphan(storage: Path, orphan: bytes, status: str, one: Stored | None) -> Verdict:
    """What became of an orphan that Orthanc was given; `one` is what the index has now under its identity."""
    if one is None:
        return Verdict("refused", "Orthanc accepted it but does not have it")
    if not is_whole(storage, one):
        return Verdict("damaged", f"what is stored under its identity, {one.path}, cannot be read")
    try:
        first, second = dataset.parse(read_image(storage / one.path)), dataset.parse(orphan)
    except dataset.NotDicom as error:  # Orthanc stores more than is DICOM; it is as it was written
        return Verdict("conflict", f"it cannot be compared with {one.path}, which is stored: {error}")
    if first.syntax != second.syntax:
        return Verdict("conflict", f"it differs from {one.path}, which is stored, in its transfer syntax")
    different = dataset.differences(first, second)
    if different:
        return Verdict("conflict", f"it differs from {one.path}, which is stored, in {' '.join(different[:8])}")
    if status == "Success":
        return Verdict("imported", "imported")
    return Verdict("duplicate", f"duplicate of {one.path}")


def index_by_instance(rows: Iterable[Stored]) -> Mapping[str, Stored]:
    """The images of an index by Orthanc's identifier."""
    return {one.instance: one for one in rows if one.type == DICOM}
