# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the data set of a DICOM file: enough to identify its image, and to compare it with another.

Orthanc's Python plugin runs a copy of this file, and so do programs without pydicom: standard library only.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

IMPLICIT, BIG_ENDIAN, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".2", ".1.99"))
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
PADDING = 0xFFFCFFFC
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5 7.1.2: a length of four bytes
BINARY = frozenset(b"AT FD FL OB OD OF OL OV OW SL SQ SS SV UL UN US UV".split())
CHARACTER_SET = 0x00080005
# PS3.3, C.12.1.1.2. Orthanc's identifiers are made from UTF-8. Several character sets in one text are not supported.
CODECS = {
    **{f"ISO_IR {number}": f"iso8859-{part}" for number, part in (
        (100, 1), (101, 2), (109, 3), (110, 4), (144, 5), (127, 6), (126, 7), (138, 8), (148, 9))},
    "ISO_IR 13": "shift_jis", "ISO_IR 166": "cp874", "GB18030": "gb18030", "GBK": "gbk",
}  # fmt: skip
IDENTITY = {
    0x00100020: "patient",
    0x0020000D: "study",
    0x0020000E: "series",
    0x00080018: "instance",
    0x00080050: "accession",
}
MOST_INFLATED = 2 << 30  # bytes; a small file can inflate to more than the memory
PARTS = 16  # nested sequences, beyond which a file is not an image

Element = tuple[tuple[int, ...], memoryview]


class NotDicom(ValueError):
    """The file cannot be read as a DICOM file."""


class File(NamedTuple):
    """The transfer syntax, and the data set without the preamble and the file meta information."""

    syntax: str
    body: memoryview


class Identity(NamedTuple):
    """The values by which Orthanc distinguishes images."""

    patient: str
    study: str
    series: str
    instance: str
    accession: str

    @property
    def orthanc(self) -> str:
        """Orthanc's identifier of the image (Orthanc Book, "Orthanc identifiers")."""
        digest = hashlib.sha1("|".join(self[:4]).encode(), usedforsecurity=False).hexdigest()
        return "-".join(digest[at : at + 8] for at in range(0, 40, 8))


def parse(data: bytes | memoryview) -> File:
    """The file in two parts. Raises NotDicom."""
    view = memoryview(data)
    if bytes(view[128:132]) != b"DICM":
        raise NotDicom("it has no DICOM preamble")
    syntax, end = "", 132
    try:
        while end < len(view):
            # always explicit and little endian (PS3.10, 7.1); the group's own length may be missing or wrong
            tag, _vr, length, at = _header(view, end, len(view), "<", True)
            if tag >> 16 != 2 or length == UNDEFINED:
                break
            end = at + length
            if tag == 0x00020010:
                syntax = bytes(view[at:end]).rstrip(b"\0 ").decode("latin-1")
    except (struct.error, NotDicom) as error:
        if not syntax:
            raise NotDicom(f"its file meta information cannot be read ({error})") from None
    if not syntax:
        raise NotDicom("its file meta information does not name a transfer syntax")
    body = view[end:]
    if syntax == DEFLATED:
        try:
            inflater = zlib.decompressobj(-15)
            body = memoryview(inflater.decompress(body, MOST_INFLATED))
        except zlib.error as error:
            raise NotDicom(f"its data set cannot be inflated ({error})") from None
        if not inflater.eof:
            raise NotDicom("its data set ends too soon, or is too large when it is inflated")
    return File(syntax, body)


def _header(view: memoryview, at: int, end: int, order: str, explicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, VR (empty when implicit), length and place of the value of the element at a place."""
    group, element, length = struct.unpack_from(order + "HHL", view, at)
    tag, vr, at = group << 16 | element, b"", at + 8
    if explicit and group != 0xFFFE:
        vr = bytes(view[at - 4 : at - 2])
        if not vr.isalpha():
            raise NotDicom(f"its element {group:04x},{element:04x} has no value representation")
        if vr in LONG:
            (length,) = struct.unpack_from(order + "L", view, at)
            at += 4
        else:
            (length,) = struct.unpack_from(order + "H", view, at - 2)
    if length != UNDEFINED and at + length > end:
        raise NotDicom(f"its element {group:04x},{element:04x} ends too soon")
    return tag, vr, length, at


class Walk:
    """The elements of a data set one by one, with the path of those in sequences."""

    def __init__(self, file: File) -> None:
        self.view = file.body
        self.order = ">" if file.syntax == BIG_ENDIAN else "<"
        self.explicit = file.syntax != IMPLICIT
        self.end = 0  # how far `elements` has read

    def elements(self) -> Iterator[Element]:
        """All elements. Raises NotDicom."""
        try:
            for at, path, value in self._walk(0, len(self.view), (), self.explicit):
                self.end = at
                if path:
                    yield path, value
        except struct.error as error:
            raise NotDicom(f"it ends too soon ({error})") from None

    def top(self, last: int) -> Iterator[tuple[int, memoryview]]:
        """The elements outside sequences, up to the tag `last`; many times faster. Raises NotDicom."""
        at, end = 0, len(self.view)
        try:
            while at + 8 <= end:
                tag, vr, length, value = _header(self.view, at, end, self.order, self.explicit)
                if tag > last:
                    return
                if length == UNDEFINED:
                    within = self._items(value, end, (tag,), self.explicit and vr != b"UN", True)
                    at = max(after for after, _path, _value in within)
                else:
                    at = value + length
                    yield tag, self.view[value:at]
        except struct.error as error:
            raise NotDicom(f"it ends too soon ({error})") from None

    def _walk(
        self, at: int, end: int, path: tuple[int, ...], explicit: bool
    ) -> Iterator[tuple[int, tuple[int, ...], memoryview]]:
        """Each element; the last entry, without a path, is the position where it stopped."""
        if len(path) > 2 * PARTS:
            raise NotDicom("its sequences are nested too deeply")
        while at + 8 <= end:
            tag, vr, length, value = _header(self.view, at, end, self.order, explicit)
            if tag == ITEM_END:
                at = value
                break
            sequence = vr == b"SQ" or (tag != PIXEL_DATA and (vr in (b"", b"UN") and self._is_item(value, length)))
            if length == UNDEFINED or sequence:
                begin = at
                inside = explicit and vr != b"UN"
                bound = end if length == UNDEFINED else value + length
                for at, inner, content in self._items(value, bound, (*path, tag), inside, length == UNDEFINED):
                    if inner:
                        yield at, inner, content
                if at <= begin:
                    raise NotDicom("a sequence does not end")
            else:
                at = value + length
                if tag & 0xFFFF and tag != PADDING:
                    yield at, (*path, tag), self._content(vr, value, length)
        yield at, (), self.view[:0]

    def _is_item(self, value: int, length: int) -> bool:
        if length == UNDEFINED:
            return True
        return length >= 8 and struct.unpack_from("<HH", self.view, value) == (0xFFFE, 0xE000)

    def _content(self, vr: bytes, value: int, length: int) -> memoryview:
        """The value; of a text without the padding."""
        if vr and vr not in BINARY:
            length = len(bytes(self.view[value : value + length]).rstrip(b" \0"))
        return self.view[value : value + length]

    def _items(
        self, at: int, end: int, path: tuple[int, ...], explicit: bool, undefined: bool
    ) -> Iterator[tuple[int, tuple[int, ...], memoryview]]:
        number = 0
        while at + 8 <= end:
            group, element, length = struct.unpack_from(self.order + "HHL", self.view, at)
            tag, at = group << 16 | element, at + 8
            if tag == SEQUENCE_END:
                yield at, (), self.view[:0]
                return
            if tag != ITEM or (length != UNDEFINED and at + length > end):
                raise NotDicom("a sequence contains something other than items")
            if path[-1] == PIXEL_DATA:  # fragments; the first is a table of offsets, which may be empty
                if number:
                    yield at, (*path, number), self.view[at : at + length]
                at += length
            else:
                yield at, (*path, number), self.view[:0]  # an empty item is one as well
                bound = end if length == UNDEFINED else at + length
                for after, inner, content in self._walk(at, bound, (*path, number), explicit):
                    at = after
                    if inner:
                        yield at, inner, content
            number += 1
        if undefined:
            raise NotDicom("a sequence does not end")
        yield at, (), self.view[:0]


def identify(file: File) -> Identity:
    """The identity of its image. Raises NotDicom."""
    found = dict.fromkeys(IDENTITY.values(), "")
    codec = "utf-8"  # the DefaultEncoding that the deploy sets in Orthanc
    for tag, value in Walk(file).top(last=0x0020000E):
        if tag == CHARACTER_SET:
            first = bytes(value).split(b"\\")[0].decode("latin-1").strip(" \0")
            codec = CODECS.get(first.replace("ISO 2022 IR", "ISO_IR"), "utf-8")
        name = IDENTITY.get(tag, "")
        if name and not found[name]:  # DCMTK takes the first of a duplicate element
            # for Orthanc, leading blanks are part of a PatientID
            text = bytes(value).decode(codec, "ignore").rstrip(" \0")
            found[name] = text if name == "patient" else text.strip(" \0")
    if not (found["study"] and found["series"] and found["instance"]):
        raise NotDicom("it lacks its study, series or instance UID")
    return Identity(*(found[name] for name in Identity._fields))


def read_whole(data: bytes) -> list[Element]:
    """Every element of a file. Raises NotDicom, also when it ends within an element."""
    file = parse(data)
    walk = Walk(file)
    found = [*walk.elements()]
    if walk.end + 1 < len(file.body):  # some writers append a byte
        raise NotDicom("it ends within an element")
    return found


def differences(one: File, other: File) -> list[str]:
    """The tags, as gggg,eeee, in which two data sets of one transfer syntax differ. Raises NotDicom."""
    if one.body == other.body:
        return []
    ours, theirs = dict(Walk(one).elements()), dict(Walk(other).elements())
    tags = {path[0] for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}
    return [f"{tag >> 16:04x},{tag & 0xFFFF:04x}" for tag in sorted(tags)]


def is_uid(text: str) -> bool:
    """DICOM PS3.5, VR UI."""
    return bool(re.fullmatch(r"[0-9.]{1,64}", text))
