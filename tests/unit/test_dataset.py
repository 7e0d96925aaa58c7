"""The reader of data sets against pydicom's, and what it makes of files that are damaged or hostile."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from server.dicom import dataset
from server.orthanc import log

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


def example(name: str = "examples_palette.dcm") -> pydicom.Dataset:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return pydicom.dcmread(path)


def small() -> pydicom.Dataset:
    made = example()
    made.Rows, made.Columns, made.PixelData = 2, 2, bytes(4)
    made.PatientID, made.AccessionNumber = "P1", "A1"
    return made


def packed(data: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    with io.BytesIO() as buffer:
        data.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(
            buffer, data, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian
        )
        return buffer.getvalue()


SMALL = packed(small())


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_it_knows_which_image_it_is(syntax: str) -> None:
    data = small()
    found = dataset.identify(dataset.parse(packed(data, syntax)))
    assert found == ("P1", data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID, "A1")


@pytest.mark.parametrize(
    ("written", "character_set", "known"),
    [
        (b"P1", "", "P1"),
        (None, "", ""),  # it is missing
        (b"", "", ""),
        (b"M\xdcLLER", "ISO_IR 100", "MÜLLER"),
        (b"M\xdcLLER", "ISO 2022 IR 100", "MÜLLER"),
        ("MÜLLER".encode(), "ISO_IR 192", "MÜLLER"),
        (b"\xd0\xc1", "ISO_IR 126", "ΠΑ"),
        (b" P1 ", "", " P1"),  # DCMTK takes away the blanks at the end
    ],
)
def test_orthancs_own_identifier_is_made_of_utf_8(written: bytes | None, character_set: str, known: str) -> None:
    data = small()
    data.PatientID = "PLACE678"
    data.SpecificCharacterSet = character_set
    raw = packed(data)
    element = b"\x10\0\x20\0LO\x08\0PLACE678"
    assert element in raw
    if written is None:
        raw = raw.replace(element, b"")
    else:
        written = written.ljust(len(written) + len(written) % 2)
        raw = raw.replace(element, b"\x10\0\x20\0LO" + len(written).to_bytes(2, "little") + written)
    found = dataset.identify(dataset.parse(raw))
    text = f"{known}|{data.StudyInstanceUID}|{data.SeriesInstanceUID}|{data.SOPInstanceUID}"
    assert found.orthanc.replace("-", "") == hashlib.sha1(text.encode()).hexdigest()
    assert re.fullmatch("([0-9a-f]{8}-){4}[0-9a-f]{8}", found.orthanc)


def test_of_an_element_that_is_there_twice_the_first_counts() -> None:
    data = small()
    data.SOPInstanceUID = "1.2.34"
    element = b"\x08\0\x18\0UI\x06\x001.2.34"
    once = packed(data)
    assert element in once
    twice = once.replace(element, element + b"\x08\0\x18\0UI\x04\x001.2\0")
    assert dataset.identify(dataset.parse(twice)).instance == "1.2.34"


@pytest.mark.parametrize("cut", [100, 500])
def test_a_part_of_a_deflated_image_is_not_one(cut: int) -> None:
    path = get_testdata_file("image_dfl.dcm")
    assert isinstance(path, str)
    with open(path, "rb") as file:
        whole = file.read()
    dataset.read_whole(whole)
    with pytest.raises(dataset.NotDicom):
        dataset.parse(whole[:-cut])


@pytest.mark.parametrize("name", ["examples_rgb_color.dcm", "examples_ybr_color.dcm", "CT_small.dcm", "rtplan.dcm"])
def test_it_sees_each_element(name: str) -> None:
    data = example(name)
    path = get_testdata_file(name)
    assert isinstance(path, str)
    with open(path, "rb") as file:
        found = {tag for (tag, *_), _ in dataset.Walk(dataset.parse(file.read())).elements()}
    assert found == {int(one.tag) for one in data if one.tag != 0xFFFCFFFC and not (one.VR == "SQ" and not one.value)}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_differs_is_named(syntax: str) -> None:
    first, second = small(), small()
    assert dataset.differences(*(dataset.parse(packed(one, syntax)) for one in (first, second))) == []
    second.PixelData, second.PatientName = bytes(3) + b"\1", "OTHER"
    second.PatientComments = "new"
    found = dataset.differences(*(dataset.parse(packed(one, syntax)) for one in (first, second)))
    assert found == ["0010,0010", "0010,4000", "7fe0,0010"]


def test_how_lengths_of_sequences_are_written_makes_no_difference() -> None:
    first, second = example("rtplan.dcm"), example("rtplan.dcm")
    for one in second:
        if one.VR == "SQ":
            one.is_undefined_length = True
            for item in one.value:
                item.is_undefined_length_sequence_item = True
    one, other = (dataset.parse(packed(data)) for data in (first, second))
    assert one.body != other.body
    assert dataset.differences(one, other) == []


@given(st.integers(132, len(SMALL) - 1))
def test_a_part_of_an_image_is_not_one(length: int) -> None:
    try:
        found = [path[0] for path, _ in dataset.read_whole(SMALL[:length])]
    except dataset.NotDicom:
        found = []
    # cut between two elements it is a data set, and one without pixels
    assert dataset.PIXEL_DATA not in found


@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=8), st.binary(max_size=64))
def test_whatever_comes_is_read_or_refused(changes: list[tuple[int, int]], more: bytes) -> None:
    data = bytearray(SMALL)
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(dataset.NotDicom):
        dataset.identify(dataset.parse(bytes(data) + more))
        dataset.read_whole(bytes(data) + more)


LINE = (
    "W1128 13:28:20.529925           HTTP-4 PluginsManager.cpp:158] clinicops: conflict: study 1.2.3"
    ' (accession "A\\n1") from "US1": image 1.2.4 differs from the one that is stored in 7fe0,0010; the first is kept'
)


def test_the_line_of_a_conflict_is_read_and_no_other() -> None:
    found = log.read_received(LINE)
    assert found is not None
    assert found[:5] == ("conflict", "1.2.3", "A\n1", "US1", "1.2.4")
    assert log.read_received(LINE.replace("HTTP-4 ", "").replace("          ", " ")) is not None
    for forged in (
        LINE[1:],
        f"E{LINE[1:]}",
        f"W1128 10:00:00.1 file.cpp:1] Rejected AET {LINE}",
        LINE.replace('"US1"', "US1"),
    ):
        assert log.read_received(forged) is None
