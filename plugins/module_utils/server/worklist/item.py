# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A worklist item: a data set that is read completely, checked, and written again in its normal form.

A file from an application may be hostile: it is read within limits of size, depth, number of elements and time.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import signal
import unicodedata
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ..core import words
from ..core.errors import Refused
from .settings import Settings

MAX_BYTES = 128 * 1024  # of one file; a worklist item has two or three kilobytes
MAX_ELEMENTS, MAX_DEPTH = 5_000, 8
CHECK_SECONDS = 5  # no file delays the others for longer
MWL_FIND = "1.2.840.10008.5.1.4.31"  # Modality Worklist Information Model - FIND (DICOM PS3.6)
TRANSFER_SYNTAXES = {"1.2.840.10008.1.2": True, "1.2.840.10008.1.2.1": False}  # is the VR implicit?
UID = r"(?=.{3,64}$)[0-2](\.(0|[1-9][0-9]*))+"  # PS3.5, section 9.1
ASCII = {"", "ISO_IR 6", "ISO 2022 IR 6"}  # character sets that do not say how to decode text beyond ASCII
TEXT = ("SH", "LO", "ST", "LT", "PN", "UC", "UT")  # VRs that SpecificCharacterSet applies to (PS3.5, section 6.1.2.2)
NOT_DICOM = "It is not a DICOM data set. Remedy: make the file with a DICOM library, or with orthanc-worklist create."


@dataclass(frozen=True)
class Item:
    """An item that may be served: its content, and its file."""

    patient_id: str
    patient_name: str
    accession_number: str
    study_instance_uid: str
    steps: list[dict[str, str]]
    name: str
    data: bytes = b""
    numbered: bool = field(default=False, compare=False)  # its file gives the first step no ID
    given: frozenset[str] = field(default=frozenset(), compare=False)  # the IDs that its file gives its steps

    @property
    def names(self) -> set[str]:
        """The identifiers that a person may use for it."""
        return {self.accession_number, self.study_instance_uid, self.name}

    @property
    def stations(self) -> set[str]:
        """The AE titles that it is for."""
        return {step["station"] for step in self.steps}

    @property
    def codes(self) -> set[str]:
        """The IDs of its steps."""
        return {step["id"] for step in self.steps}

    @property
    def last_day(self) -> str:
        """The last day of its steps, as YYYYMMDD."""
        return max(step["date"] for step in self.steps)

    @property
    def facts(self) -> dict[str, Any]:
        """Its content, for JSON."""
        return {name: value for name, value in vars(self).items() if name not in ("data", "numbered", "given")}


def read_elements(data: bytes, implicit: bool) -> Iterator[Any]:
    """The top-level elements. Raises Refused if the file is cut off, which pydicom does not notice."""
    from pydicom.filereader import data_element_generator

    stream, end = io.BytesIO(data), 0
    for element in data_element_generator(stream, implicit, True):
        if getattr(element, "length", None) not in (None, 0xFFFFFFFF, len(element.value or b"")):
            break
        end = stream.tell()
        yield element
    if end != len(data):
        raise Refused("The file is cut off. Remedy: submit the whole file again.")


def is_text(data: bytes) -> bool:
    """Whether it is text, in any encoding: a data set begins with a tag, whose bytes are not text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16, as Windows writes it
        return True
    controls = set(range(0x20)) - set(b"\t\n\v\f\r\x1c")  # HL7 is framed by \v and \x1c
    return bool(data) and controls.isdisjoint(data)


def read_data_set(data: bytes) -> Any:
    """The data set of a DICOM file (PS3.10) or of its content alone, every value decoded."""
    from pydicom import config
    from pydicom.filereader import read_dataset

    config.settings.reading_validation_mode = config.IGNORE  # the values that matter are checked in Check
    if is_text(data):
        remedy = (
            "Remedy: write a DICOM data set with a DICOM library; import a spreadsheet with orthanc-worklist create"
        )
        raise Refused(f"It is text, not a DICOM file. {remedy}.")
    body, implicit = data, True
    if data[128:132] == b"DICM":
        stream = io.BytesIO(data[132:])
        meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
        body, syntax = stream.read(), str(meta.get("TransferSyntaxUID", ""))
        if syntax not in TRANSFER_SYNTAXES:
            remedy = "Remedy: write it in Explicit VR Little Endian"
            raise Refused(f"The transfer syntax is {syntax or 'missing'}. {remedy} (1.2.840.10008.1.2.1).")
        implicit = TRANSFER_SYNTAXES[syntax]
    elif int.from_bytes(data[:2], "little") > 0x0040:  # the group of its first element; an item begins with 0008
        raise Refused(NOT_DICOM)
    else:
        implicit = not re.fullmatch(rb"[A-Z]{2}", data[4:6])
    tags = [element.tag for element in itertools.islice(read_elements(body, implicit), MAX_ELEMENTS + 1)]
    if not tags or len(tags) > MAX_ELEMENTS or len(set(tags)) < len(tags):
        raise Refused(NOT_DICOM)
    content = read_dataset(io.BytesIO(body), implicit, True)
    check_values(content, declared=False)
    return content


def check_values(content: Any, declared: bool, depth: int = 1) -> None:
    """Reads every value, and removes what the copy does not need. Raises Refused for text that cannot be decoded."""
    if depth > MAX_DEPTH:
        raise Refused(
            f"Sequences are nested deeper than {MAX_DEPTH}. Remedy: write only the attributes of a worklist item."
        )
    given = content.get("SpecificCharacterSet") or []
    declared = declared or bool({given} - ASCII if isinstance(given, str) else set(given) - ASCII)
    tags = sorted(content.keys())
    if any(tag.group in (0x0002, 0x7FE0) for tag in tags):
        raise Refused("It is an image or another kind of DICOM file. Remedy: submit worklist items only.")
    for tag in tags:
        element = content[tag]
        if element.VR == "SQ":
            for part in element.value:
                check_values(part, declared, depth + 1)
        elif element.VR in TEXT and not declared and not str(element.value).isascii():
            remedy = "Remedy: declare the character set of the text, ISO_IR 192 for UTF-8"
            raise Refused(f"{element.keyword or tag} is not ASCII, and SpecificCharacterSet is missing. {remedy}.")
        elif element.VR in TEXT and "\x1b" in str(element.value):  # as pydicom leaves ISO 2022 IR 58
            remedy = "Remedy: declare GB18030 or ISO_IR 192, and write the text in that character set"
            raise Refused(f"{element.keyword or tag} is in a character set that cannot be read. {remedy}.")
        elif element.VR in TEXT and is_disguised(str(element.value)):
            remedy = "Remedy: declare ISO_IR 192"
            raise Refused(f"{element.keyword or tag} is in UTF-8, but SpecificCharacterSet is not UTF-8. {remedy}.")
    for tag in tags:
        if tag.element == 0 or tag == 0x00080005:  # group lengths; the copy has its own character set
            del content[tag]


def is_disguised(text: str) -> bool:
    """Whether it is UTF-8 that an application declared as Latin-1, which is common: no real name reads like that."""
    try:
        return not text.isascii() and bool(text.encode("latin-1").decode("utf-8"))
    except UnicodeError:
        return False


def normalise(keyword: str, text: str) -> str:
    """The normal form of other common spellings: 2026-03-02, 2026.03.02 (ACR-NEMA), 8:30, f."""
    if keyword.endswith("Date"):
        return re.sub(r"^([0-9]{4})([-.])([0-9]{2})\2([0-9]{2})$", r"\1\3\4", text)
    if keyword.endswith("Time") and re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text):
        return text.replace(":", "").zfill(len(text.replace(":", "")) + (text.index(":") == 1))
    return text.upper() if keyword in ("PatientSex", "Modality") else text


class Check:
    """One data set: all its problems, and its values in their normal form."""

    def __init__(self, content: Any, settings: Settings) -> None:
        self.content, self.settings, self.problems = content, settings, list[str]()
        self.numbered = set[int]()  # the steps without an ID

    def add_problem(self, keyword: str, what: str, remedy: str) -> None:
        """Records what is wrong with an attribute."""
        self.problems.append(f"{keyword} {what}. Remedy: {remedy}.")

    def read_value(self, keyword: str, form: str, remedy: str, of: Any = None, needed: bool = True) -> str:
        """The value without surrounding spaces; empty, with a problem recorded, if it does not have this form."""
        from pydicom.datadict import dictionary_VR, tag_for_keyword

        content = self.content if of is None else of
        element = content.get(tag_for_keyword(keyword))
        if element is not None and (dictionary_VR(element.tag) != element.VR or element.VM > 1):
            if element.VM > 1:
                self.add_problem(keyword, "has several values", remedy)
            else:
                self.add_problem(
                    keyword, f"has the VR {element.VR}", f"write it with the VR {dictionary_VR(element.tag)}"
                )
            return ""
        text = "" if element is None else str(element.value or "").strip(" \0")
        text = normalise(keyword, text)
        if not text:
            if needed:
                self.add_problem(keyword, "is missing or empty", remedy)
            return ""
        if not re.fullmatch(form, text) or any(unicodedata.category(letter) == "Cc" for letter in text):
            # a patient's name must not get into the journal
            self.add_problem(keyword, "is malformed" if keyword.startswith("Patient") else f"is {text[:80]!a}", remedy)
            return ""
        setattr(content, keyword, text)
        return text

    def read_day(self, keyword: str, of: Any = None, needed: bool = True) -> str:
        """The day as YYYYMMDD; empty, with a problem recorded, if it is not one."""
        text = self.read_value(keyword, "[0-9]{8}", "write one day as YYYYMMDD", of, needed)
        try:
            return text and datetime.strptime(text, "%Y%m%d").strftime("%Y%m%d")
        except ValueError:
            shown = "" if keyword.startswith("Patient") else f" {text}, which is"
            self.add_problem(keyword, f"is{shown} not a calendar date", "write one day as YYYYMMDD")
            return ""

    def read_time(self, keyword: str, of: Any) -> str:
        """The time as HHMMSS, since Orthanc compares text; empty, with a problem recorded, if it is not one."""
        form = r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?"
        if text := self.read_value(keyword, form, "write HHMMSS", of):
            text = text[:6].ljust(6, "0")
            setattr(of, keyword, text)
        return text

    def read_step(self, number: int, step: Any) -> dict[str, str]:
        """One scheduled procedure step (PS3.3, C.4.10)."""
        station = self.read_value(
            "ScheduledStationAETitle", r"[^\\]{1,16}", "write one AE title, a step for each station", step
        )
        known = {title.upper(): title for title in self.settings.stations}
        if station and known and station.upper() not in known:
            titles = ", ".join(self.settings.stations)
            self.add_problem(
                "ScheduledStationAETitle", f"is {station!a}, which may not query the worklist", f"use one of {titles}"
            )
        elif known and station:
            step.ScheduledStationAETitle = station = known[station.upper()]
        code = self.read_value("ScheduledProcedureStepID", r".{1,16}", "write 1 to 16 characters", step, needed=False)
        if not code:  # type 1 in an answer (PS3.4, table K.6-1)
            step.ScheduledProcedureStepID = code = str(number)
            self.numbered.add(number)
        return {
            "station": station,
            "modality": self.read_value("Modality", "[A-Z0-9_ ]{1,16}", "write a code such as US", step),
            "date": self.read_day("ScheduledProcedureStepStartDate", step),
            "time": self.read_time("ScheduledProcedureStepStartTime", step),
            "id": code,
        }

    def read_item(self) -> Item:
        """The item. Raises Refused with all its problems if it has any."""
        patient_id = self.read_value("PatientID", r"[^\\]{1,64}", "write 1 to 64 characters")
        name = self.read_value("PatientName", r"[^\\]*[^\\^= ][^\\]*", "write the name as FAMILY^GIVEN")
        self.read_day("PatientBirthDate", needed=False)
        self.read_value("PatientSex", "[MFO]", "write M, F or O, or leave it empty", needed=False)
        accession = self.read_value("AccessionNumber", r"[^\\]{1,16}", "write 1 to 16 characters")
        study = self.read_value("StudyInstanceUID", UID, "write a UID: digits and dots, at most 64")
        sequence = self.content.get("ScheduledProcedureStepSequence")
        steps = []
        if not sequence or not hasattr(sequence[0], "keys"):
            self.add_problem("ScheduledProcedureStepSequence", "is missing or empty", "write one step for each station")
        else:
            steps = [self.read_step(number, step) for number, step in enumerate(sequence, 1)]
        if self.problems:
            raise Refused(*self.problems)
        code = steps[0]["id"]
        if not re.fullmatch(r"[A-Za-z0-9._-]+", code):
            code = hashlib.sha256(code.encode()).hexdigest()[:16]
        given = frozenset(step["id"] for number, step in enumerate(steps, 1) if number not in self.numbered)
        file = f"{study}_{code}.wl"
        return Item(patient_id, name, accession, study, steps, file, numbered=1 in self.numbered, given=given)


def encode_item(content: Any, name: str) -> bytes:
    """A DICOM file: explicit VR, little endian, its text in UTF-8."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset, write_file_meta_info

    content.SpecificCharacterSet = "ISO_IR 192"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MWL_FIND
    meta.MediaStorageSOPInstanceUID = derive_uid("item", name)
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    stream.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(stream, meta)
    write_dataset(stream, content)
    return bytes(stream.getvalue())


def derive_uid(place: str, *parts: str) -> str:
    """The same UID for the same parts, everywhere (PS3.5, annex B.2)."""
    return f"2.25.{uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_DNS, place), chr(10).join(parts)).int}"


def refuse_slow_file(_signal: int, _frame: Any) -> None:
    """Handles the alarm: refuses a file that takes too long to read."""
    raise Refused(
        f"It takes more than {CHECK_SECONDS} s to read. Remedy: write only the attributes of a worklist item."
    )


def parse_item(data: bytes, settings: Settings) -> Item:
    """The item in an application's file, in its normal form. Raises Refused with everything that is wrong with it."""
    former = signal.signal(signal.SIGALRM, refuse_slow_file)
    signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # text that cannot be decoded
            warnings.filterwarnings("ignore", "Incorrect value for Specific Character Set")  # ISO_IR_192 and the like
            warnings.simplefilter("ignore", DeprecationWarning)
            if len(data) > MAX_BYTES:
                size = f"{words.say_size(len(data))}, more than {words.say_size(MAX_BYTES)}"
                raise Refused(f"The file is {size}. Remedy: submit worklist items only.")
            content = read_data_set(data)
            item = Check(content, settings).read_item()
            item = replace(item, data=encode_item(content, item.name))
            if Check(read_data_set(item.data), settings).read_item() != replace(item, data=b""):
                raise Refused("Its text would change in UTF-8. Remedy: write it in ISO_IR 192.")
            return item
    except Refused:
        raise
    except Exception as error:  # a hostile file can make a parser raise anything
        what = ascii(str(error)[:200])
        raise Refused(
            f"It cannot be read: {type(error).__name__} {what}. Remedy: make it with a DICOM library."
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
