#!/usr/bin/python3
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The worklist of Orthanc: schedule, list, remove, check; and the gate through which every item comes.

Applications put files that end in .wl (DICOM data sets) into the incoming directory. The gate checks each, writes it
anew where Orthanc serves it, or puts it into quarantine beside a text that says why.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import hashlib
import http.client
import io
import itertools
import json
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unicodedata
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/local/lib/clinicops-orthanc")
from server.core import journal, words
from server.core.escaping import escape
from server.worklist import row as rows
from server.worklist import spreadsheet

CONFIGURATION = Path("/etc/orthanc-worklist.json")
MAX_BYTES = 128 * 1024  # of one file; a worklist item has two or three thousand
MAX_WAITING = 5_000  # files of one owner; a pass over more would keep the others waiting
MAX_ELEMENTS, MAX_DEPTH = 5_000, 8
CHECK_SECONDS = 5  # nobody's file keeps the others waiting for longer
SETTLE_SECONDS = 1  # a file that just changed may change again
DOUBT_SECONDS = 15  # a file that is not right may be written in several goes
FORGOTTEN_SECONDS = 3600  # and one that is never finished, or never gets its name, goes after an hour
LINGER_SECONDS = 10  # the gate ends when nothing has come for so long; systemd starts it again
QUARANTINE_DAYS, QUARANTINE_FILES = 30, 1_000  # of one owner: a flood must not take the images' disk
BURST, A_SECOND = 2_000, 20  # files of one owner; those above wait
MWL_FIND = "1.2.840.10008.5.1.4.31"  # Modality Worklist Information Model - FIND (DICOM PS3.6)
TRANSFER_SYNTAXES = {"1.2.840.10008.1.2": True, "1.2.840.10008.1.2.1": False}  # is the VR implicit?
UID = r"(?=.{3,64}$)[0-2](\.(0|[1-9][0-9]*))+"  # PS3.5, section 9.1
ASCII = {"", "ISO_IR 6", "ISO 2022 IR 6"}  # character sets with which text beyond ASCII is a guess
TEXT = ("SH", "LO", "ST", "LT", "PN", "UC", "UT")  # what SpecificCharacterSet is about (PS3.5, section 6.1.2.2)


class Refused(Exception):
    """What is wrong with a file, a row or a request: sentences with their remedies."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Settings:
    """What the deploy wrote into /etc/orthanc-worklist.json."""

    served: Path
    drop: Path
    hostname: str
    stations: list[str]
    keep_days: int
    max_items: int
    orthanc: Path

    @classmethod
    def read(cls, path: Path) -> Settings:
        content = json.loads(path.read_text())
        paths = {name: Path(content[name]) for name in ("served", "drop", "orthanc")}
        return cls(**{**content, **paths})

    @property
    def spool(self) -> Path:
        return self.served / ".spool"

    @property
    def incoming(self) -> Path:
        return self.spool / "incoming"

    @property
    def quarantine(self) -> Path:
        return self.spool / "quarantine"

    @property
    def taken(self) -> Path:
        """Where a file of an application's is while it goes."""
        return self.spool / "taken"


@dataclass(frozen=True)
class Item:
    """An item that is fit to be served: what it says, and its file."""

    patient_id: str
    patient_name: str
    accession_number: str
    study_instance_uid: str
    steps: list[dict[str, str]]
    name: str
    data: bytes = b""

    def names(self) -> set[str]:
        """What a person may call it."""
        return {self.accession_number, self.study_instance_uid, self.name}

    def last_day(self) -> str:
        return max(step["date"] for step in self.steps)

    def facts(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "data"}


say = journal.say


# --- what a worklist item is -------------------------------------------------------------------
def elements(data: bytes, implicit: bool) -> Iterator[Any]:
    """The top-level elements, if they are whole: pydicom takes a value that is cut off as it is."""
    from pydicom.filereader import data_element_generator

    stream, end = io.BytesIO(data), 0
    for element in data_element_generator(stream, implicit, True):
        if getattr(element, "length", None) not in (None, 0xFFFFFFFF, len(element.value or b"")):
            break
        end = stream.tell()
        yield element
    if end != len(data):
        raise Refused("The file is cut off. Remedy: hand it over again, whole.")


NOT_DICOM = "It is not a DICOM data set. Remedy: make the file with a DICOM library, or with orthanc-worklist create."


def is_text(data: bytes) -> bool:
    """Whether it is text, in whatever encoding: a data set begins with the bytes of a tag, which are none."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16, as Windows writes it
        return True
    controls = set(range(0x20)) - set(b"\t\n\v\f\r\x1c")  # HL7 is framed by \v and \x1c
    return bool(data) and controls.isdisjoint(data)


def data_set(data: bytes) -> Any:
    """The data set of a DICOM file (PS3.10) or of its content alone, every value decoded."""
    from pydicom.filereader import read_dataset

    if is_text(data):
        remedy = "Remedy: write a DICOM data set, with a DICOM library; a spreadsheet goes to orthanc-worklist create"
        raise Refused(f"It is text and no DICOM file. {remedy}.")
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
    tags = [element.tag for element in itertools.islice(elements(body, implicit), MAX_ELEMENTS + 1)]
    if not tags or len(tags) > MAX_ELEMENTS or len(set(tags)) < len(tags):
        raise Refused(NOT_DICOM)
    content = read_dataset(io.BytesIO(body), implicit, True)
    walk(content, declared=False)
    return content


def walk(content: Any, declared: bool, depth: int = 1) -> None:
    """Reads every value, and takes away what the copy does not need; refuses text that nobody could read."""
    if depth > MAX_DEPTH:
        raise Refused(
            f"Sequences are nested deeper than {MAX_DEPTH}. Remedy: write the attributes of a worklist alone."
        )
    given = content.get("SpecificCharacterSet") or []
    declared = declared or bool({given} - ASCII if isinstance(given, str) else set(given) - ASCII)
    tags = sorted(content.keys())
    if any(tag.group in (0x0002, 0x7FE0) for tag in tags):
        raise Refused("It is an image, or another file of DICOM's. Remedy: hand over worklist items alone.")
    for tag in tags:
        element = content[tag]
        if element.VR == "SQ":
            for part in element.value:
                walk(part, declared, depth + 1)
        elif element.VR in TEXT and not declared and not str(element.value).isascii():
            remedy = "Remedy: declare the one that the text is in, ISO_IR 192 for UTF-8"
            raise Refused(f"{element.keyword or tag} is not ASCII, and SpecificCharacterSet is missing. {remedy}.")
        elif element.VR in TEXT and "\x1b" in str(element.value):  # as pydicom leaves ISO 2022 IR 58
            remedy = "Remedy: declare GB18030 or ISO_IR 192, and write the text in it"
            raise Refused(f"{element.keyword or tag} is in a character set that cannot be read. {remedy}.")
        elif element.VR in TEXT and disguised(str(element.value)):
            remedy = "Remedy: declare ISO_IR 192"
            raise Refused(f"{element.keyword or tag} is in UTF-8, and SpecificCharacterSet says otherwise. {remedy}.")
    for tag in tags:
        if tag.element == 0 or tag == 0x00080005:  # lengths of groups; the copy has a character set of its own
            del content[tag]


def disguised(text: str) -> bool:
    """Whether it is UTF-8 that was taken for Latin-1, as applications often declare it: no name reads like that."""
    try:
        return not text.isascii() and bool(text.encode("latin-1").decode("utf-8"))
    except UnicodeError:
        return False


def normal(keyword: str, text: str) -> str:
    """Other ways to write the same: 2026-03-02, 2026.03.02 (ACR-NEMA), 8:30, f."""
    if keyword.endswith("Date"):
        return re.sub(r"^([0-9]{4})([-.])([0-9]{2})\2([0-9]{2})$", r"\1\3\4", text)
    if keyword.endswith("Time") and re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text):
        return text.replace(":", "").zfill(len(text.replace(":", "")) + (text.index(":") == 1))
    return text.upper() if keyword in ("PatientSex", "Modality") else text


class Check:
    """One data set: its problems, all of them, and the values of before in their normal form."""

    def __init__(self, content: Any, settings: Settings) -> None:
        self.content, self.settings, self.problems = content, settings, list[str]()

    def wrong(self, keyword: str, what: str, remedy: str) -> None:
        self.problems.append(f"{keyword} {what}. Remedy: {remedy}.")

    def value(self, keyword: str, form: str, remedy: str, of: Any = None, needed: bool = True) -> str:
        """The value without the spaces around it, where it has this form."""
        from pydicom.datadict import dictionary_VR, tag_for_keyword

        content = self.content if of is None else of
        element = content.get(tag_for_keyword(keyword))
        if element is not None and (dictionary_VR(element.tag) != element.VR or element.VM > 1):
            if element.VM > 1:
                self.wrong(keyword, "has several values", remedy)
            else:
                self.wrong(keyword, f"has the VR {element.VR}", f"write one of VR {dictionary_VR(element.tag)}")
            return ""
        text = "" if element is None else str(element.value or "").strip(" \0")
        text = normal(keyword, text)
        if not text:
            if needed:
                self.wrong(keyword, "is missing or empty", remedy)
            return ""
        if not re.fullmatch(form, text) or any(unicodedata.category(letter) == "Cc" for letter in text):
            # the journal is no place for a patient's name
            self.wrong(keyword, "is malformed" if keyword.startswith("Patient") else f"is {text[:80]!a}", remedy)
            return ""
        setattr(content, keyword, text)
        return text

    def day(self, keyword: str, of: Any = None, needed: bool = True) -> str:
        text = self.value(keyword, "[0-9]{8}", "write one day as YYYYMMDD", of, needed)
        try:
            return text and datetime.strptime(text, "%Y%m%d").strftime("%Y%m%d")
        except ValueError:
            self.wrong(keyword, f"is {text}, which is no day", "write one day as YYYYMMDD")
            return ""

    def step(self, number: int, step: Any) -> dict[str, str]:
        station = self.value(
            "ScheduledStationAETitle", r"[^\\]{1,16}", "write one AE title, a step for each station", step
        )
        known = {title.upper(): title for title in self.settings.stations}
        if station and known and station.upper() not in known:
            titles = ", ".join(self.settings.stations)
            self.wrong(
                "ScheduledStationAETitle", f"is {station!a}, which may ask for no worklist", f"use one of {titles}"
            )
        elif known and station:
            step.ScheduledStationAETitle = station = known[station.upper()]
        code = self.value("ScheduledProcedureStepID", r".{1,16}", "write 1 to 16 characters", step, needed=False)
        if not code:  # type 1 in an answer (PS3.4, table K.6-1)
            step.ScheduledProcedureStepID = code = str(number)
        return {
            "station": station,
            "modality": self.value("Modality", "[A-Z0-9_ ]{1,16}", "write a code such as US", step),
            "date": self.day("ScheduledProcedureStepStartDate", step),
            "time": self.value(
                "ScheduledProcedureStepStartTime", r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?",
                "write HHMMSS", step,
            ),
            "id": code,
        }  # fmt: skip

    def item(self) -> Item:
        """The item, with all its problems if it has any."""
        patient_id = self.value("PatientID", r"[^\\]{1,64}", "write 1 to 64 characters")
        name = self.value("PatientName", r"[^\\]*[^\\^= ][^\\]*", "write the name as FAMILY^GIVEN")
        self.day("PatientBirthDate", needed=False)
        self.value("PatientSex", "[MFO]", "write M, F or O, or leave it empty", needed=False)
        accession = self.value("AccessionNumber", r"[^\\]{1,16}", "write 1 to 16 characters")
        study = self.value("StudyInstanceUID", UID, "write a UID: digits and dots, 64 at most")
        sequence = self.content.get("ScheduledProcedureStepSequence")
        steps = []
        if not sequence or not hasattr(sequence[0], "keys"):
            self.wrong("ScheduledProcedureStepSequence", "is missing or empty", "write one step for each station")
        else:
            steps = [self.step(number, step) for number, step in enumerate(sequence, 1)]
        if self.problems:
            raise Refused(*self.problems)
        code = steps[0]["id"]
        if not re.fullmatch(r"[A-Za-z0-9._-]+", code):
            code = hashlib.sha256(code.encode()).hexdigest()[:16]
        return Item(patient_id, name, accession, study, steps, f"{study}_{code}.wl")


def encoded(content: Any, name: str) -> bytes:
    """A DICOM file: explicit VR, little endian, its text in UTF-8."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset, write_file_meta_info

    content.SpecificCharacterSet = "ISO_IR 192"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MWL_FIND
    meta.MediaStorageSOPInstanceUID = made_uid("item", name)
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    stream.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(stream, meta)
    write_dataset(stream, content)
    return bytes(stream.getvalue())


def made_uid(place: str, *parts: str) -> str:
    """The same UID for the same parts, everywhere (PS3.5, annex B.2)."""
    return f"2.25.{uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_DNS, place), chr(10).join(parts)).int}"


def too_long(_signal: int, _frame: Any) -> None:
    raise Refused(f"It takes more than {CHECK_SECONDS} s to read. Remedy: write the attributes of a worklist alone.")


def item_of(data: bytes, settings: Settings) -> Item:
    """The item in a file of an application's, in its normal form; Refused says what is wrong with it."""
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE  # what is needed is checked here
    former = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # text that cannot be decoded
            warnings.filterwarnings("ignore", "Incorrect value for Specific Character Set")  # ISO_IR_192 and the like
            warnings.simplefilter("ignore", DeprecationWarning)
            if len(data) > MAX_BYTES:
                size = f"{words.say_size(len(data))}, more than {words.say_size(MAX_BYTES)}"
                raise Refused(f"It has {size}. Remedy: hand over worklist items alone.")
            content = data_set(data)
            item = Check(content, settings).item()
            item = replace(item, data=encoded(content, item.name))
            if Check(data_set(item.data), settings).item() != replace(item, data=b""):
                raise Refused("Its text would change in UTF-8. Remedy: write it in ISO_IR 192.")
            return item
    except Refused:
        raise
    except Exception as error:  # whatever a hostile file makes of a parser
        what = ascii(str(error)[:200])
        raise Refused(
            f"It cannot be read: {type(error).__name__} {what}. Remedy: make it with a DICOM library."
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


# --- the gate ----------------------------------------------------------------------------------
@contextlib.contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """One at a time: the gate, tidying up, and a person who removes an item."""
    with (settings.spool / "lock").open("a") as lock:  # its time stays, unlike with "w"
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def served_names(settings: Settings) -> list[str]:
    return sorted(name for name in os.listdir(settings.served) if name.endswith(".wl"))


def served_items(settings: Settings) -> list[Item]:
    read = (read_served(settings.served / name, settings) for name in served_names(settings))
    return [item for item in read if item]


def read_served(path: Path, settings: Settings) -> Item | None:
    """What the gate wrote: an item by the name of its file, whose station may have left the inventory since."""
    try:
        return replace(Check(data_set(path.read_bytes()), replace(settings, stations=[])).item(), name=path.name)
    except FileNotFoundError:
        return None
    except Exception as error:  # somebody put it there past the gate
        say(f"{path.name} is not the gate's: {str(error)[:200]!a}. Remedy: move it to {settings.drop}.", 4)
        return None


def put(settings: Settings, path: Path, data: bytes, like: os.stat_result | None = None) -> None:
    """A file that is whole and on the disk, or not there: for Orthanc's group, if `like` says which that is. It is
    written elsewhere: a name that goes while Orthanc reads the served directory makes its query fail."""
    waiting = settings.spool / "unfinished"
    waiting.unlink(missing_ok=True)  # of a gate that was killed
    descriptor = os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if like:
            os.fchown(descriptor, like.st_uid, like.st_gid)
            os.fchmod(descriptor, 0o640)
        file.flush()
        os.fsync(descriptor)
    waiting.rename(path)


def cut(path: Path) -> None:
    """Its first bytes stay, unless it became a link since it was looked at."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if os.fstat(descriptor).st_size > MAX_BYTES:
        os.ftruncate(descriptor, MAX_BYTES)
    os.close(descriptor)


def moved(path: Path, target: Path, seen: os.stat_result) -> bool:
    """Whether it is the file that was looked at; what has taken its name meanwhile goes back."""
    path.rename(target)
    now = target.lstat()
    same = now.st_ino == seen.st_ino and (not stat.S_ISREG(seen.st_mode) or now.st_mtime_ns == seen.st_mtime_ns)
    if not same and not os.path.lexists(path):
        target.rename(path)
    return same


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def refuse(settings: Settings, path: Path, seen: os.stat_result, refused: Refused) -> bool:
    """Whether it went into quarantine, unopened; its name there is made of what stays when this is interrupted."""
    safe = re.sub(r"[^A-Za-z0-9._-]|[.](?=reason$)", "_", path.name)[-100:]  # nobody else gives reasons
    held = settings.quarantine / f"{int(seen.st_mtime)}-{seen.st_ino}-{safe}"
    who, when = owner(seen.st_uid), words.say_moment(time.time())
    text = [f"{ascii(os.fsencode(path.name))[1:]} of {who}, {when}", *map(escape, refused.problems), ""]
    reason = held.with_name(f"{held.name}.reason")
    put(settings, reason, "\n".join(text).encode())
    if seen.st_size > MAX_BYTES:
        seen = path.lstat()  # it was cut
    if not moved(path, held, seen) and not os.path.lexists(held):
        reason.unlink()
        return False
    say(f"quarantine: {held.name} of {who}: {' '.join(refused.problems)}", 4)
    return True


class Gate:
    """Takes what is in incoming, by pass after pass over the directory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.known: dict[tuple[int, int, int], Refused] = {}  # files that are not right, yet
        self.told: set[str] = set()  # errors that are in the journal
        self.tokens: dict[int, tuple[float, float]] = {}  # owner: files that may come now, as of when
        self.studies: dict[str, set[str]] = {}  # study: names of the files that are served; as of this pass
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody opens a file that has our lease

    def run(self) -> None:
        """Until nothing has been there for a while."""
        quiet = time.monotonic()
        while time.monotonic() - quiet < LINGER_SECONDS:
            with locked(self.settings):
                there, done = self.look()
            if there:
                quiet = time.monotonic()
            if not done:
                time.sleep(0.2)

    def look(self) -> tuple[int, int]:
        """One pass: how many were there, and how many went."""
        self.studies = {}
        taken = self.settings.taken
        if taken.exists():  # by a gate that was killed: once more
            taken.rename(self.settings.incoming / f"taken-{taken.stat().st_ino}.wl")
        queues: dict[int, list[tuple[float, str]]] = defaultdict(list)
        there = done = 0
        with os.scandir(self.settings.incoming) as entries:
            for entry in entries:
                there += not entry.name.startswith(".")  # as systemd counts
                with contextlib.suppress(FileNotFoundError):
                    seen = entry.stat(follow_symlinks=False)
                    queues[seen.st_uid].append((seen.st_ctime, entry.name))
        for queue in queues.values():
            queue.sort()
            del queue[MAX_WAITING + 100 :]  # so many of those that are too many in one pass
        # owners take turns, so that one who floods makes the others wait for one file at most
        for number, turn in enumerate(itertools.zip_longest(*queues.values())):
            for _changed, name in filter(None, turn):
                try:
                    done += self.take(name, number >= MAX_WAITING)
                except FileNotFoundError:
                    pass  # the application has taken it back
                except OSError as error:  # a full disk: everything stays where it is
                    if str(error) not in self.told:
                        say(f"{name!a} has to wait, and maybe others: {error}", 3)
                        self.told.add(str(error))
        if done:
            sync(self.settings.served)
        return there, done

    def take(self, name: str, crowded: bool = False) -> bool:
        """Whether this file went, served or into quarantine."""
        path = self.settings.incoming / name
        seen = path.lstat()
        age = time.time() - seen.st_ctime
        if stat.S_ISREG(seen.st_mode) and seen.st_size > MAX_BYTES:
            cut(path)
            what = f"It has {words.say_size(seen.st_size)}, of which the first {words.say_size(MAX_BYTES)} are kept"
            return refuse(self.settings, path, seen, Refused(f"{what}. Remedy: hand over worklist items alone."))
        if crowded:
            what = f"More than {MAX_WAITING} files of its owner wait. Remedy: hand them over again, one after the other"
            return self.allowed(seen.st_uid) and refuse(self.settings, path, seen, Refused(f"{what}."))
        if not named(name):
            return False
        if not stat.S_ISREG(seen.st_mode):
            what = "It is no regular file. Remedy: put a file there."
            return self.allowed(seen.st_uid) and refuse(self.settings, path, seen, Refused(what))
        if 0 <= age < SETTLE_SECONDS:
            return False
        key = (seen.st_ino, seen.st_ctime_ns, seen.st_size)
        try:
            if seen.st_nlink > 1:  # for a moment while sftp-server renames, and then no more
                raise Refused("It has another name (a hard link). Remedy: copy the file there.")
            if key in self.known:
                raise self.known[key]
            if not self.allowed(seen.st_uid):
                return False
            data = self.content(path, seen)
            if data is None:
                if age >= FORGOTTEN_SECONDS:
                    what = "It has been open for writing for an hour. Remedy: close it, or write it under another name."
                    raise Refused(what)
                return False
            self.serve(item_of(data, self.settings))
        except Refused as refused:
            if 0 <= age < DOUBT_SECONDS:
                self.known[key] = refused
                return False
            self.known.pop(key, None)
            return refuse(self.settings, path, seen, refused)
        moved(path, self.settings.taken, seen)
        self.settings.taken.unlink(missing_ok=True)
        return True

    def allowed(self, uid: int) -> bool:
        left, since = self.tokens.get(uid, (float(BURST), time.monotonic()))
        left = min(BURST, left + (time.monotonic() - since) * A_SECOND)
        self.tokens[uid] = (left - (left >= 1), time.monotonic())
        return left >= 1

    @staticmethod
    def content(path: Path, seen: os.stat_result) -> bytes | None:
        """The bytes of a file that nobody has open for writing; None while somebody has."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            try:
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except BlockingIOError:
                return None
            except OSError:  # no leases here, as in some containers
                if time.time() - seen.st_ctime < DOUBT_SECONDS:
                    return None
            now = os.fstat(descriptor)
            if (now.st_ino, now.st_ctime_ns, now.st_size) != (seen.st_ino, seen.st_ctime_ns, seen.st_size):
                return None
            return file.read(MAX_BYTES + 1)

    def serve(self, item: Item) -> None:
        if not self.studies:
            self.studies = defaultdict(set)
            for name in served_names(self.settings):
                self.studies[name.split("_")[0]].add(name)
        names = self.studies[item.study_instance_uid]
        for name in names:
            other = read_served(self.settings.served / name, self.settings)
            if other and other.patient_id != item.patient_id:
                what = "StudyInstanceUID is that of an item for another PatientID, and the images would mix"
                raise Refused(f"{what}. Remedy: give each study a UID of its own.")
        count = sum(map(len, self.studies.values()))
        if count >= self.settings.max_items and item.name not in names:
            what = f"{count} items are served, and orthanc_worklist_max_items is {self.settings.max_items}"
            raise Refused(f"{what}. Remedy: orthanc-worklist remove those that are done, or set more.")
        path = self.settings.served / item.name
        # handed over once more it stays as it is: what came since it was served first may be its study
        if item.name not in names or path.read_bytes() != item.data:
            put(self.settings, path, item.data, os.stat(self.settings.served))
        names.add(item.name)
        say(f"serves {item.name}")


def named(name: str) -> bool:
    """Applications may write under any other name, and rename."""
    return name.endswith(".wl") and not name.startswith(".")


# --- tidying up --------------------------------------------------------------------------------
def first_day(settings: Settings) -> str:
    """Of those whose items are kept."""
    return (date.today() - timedelta(days=settings.keep_days)).strftime("%Y%m%d")


def tidy(settings: Settings) -> None:
    """Takes away items that are done or long past, and what nobody will finish; keeps the rest if Orthanc is away."""
    items = served_items(settings)
    done = {item.name: "its day is long past" for item in items if item.last_day() < first_day(settings)}
    try:
        done |= {item.name: "its study has arrived" for item in arrived(settings, items)}
    finally:
        with locked(settings):
            for item in items:
                path = settings.served / item.name
                if item.name in done and read_served(path, settings) == item:  # not another by now
                    path.unlink()
                    say(f"removes {item.name}: {done[item.name]}", 5)
        forget(settings)


def forget(settings: Settings) -> None:
    """What nobody will finish goes into quarantine, and what was there for long goes for good."""
    with locked(settings):
        for name in os.listdir(settings.incoming):
            path = settings.incoming / name
            with contextlib.suppress(OSError):  # the application has taken it back; a full disk
                seen = path.lstat()
                if not named(name) and time.time() - seen.st_ctime >= FORGOTTEN_SECONDS:
                    what = "For an hour its name has not become one that ends in .wl"
                    refuse(settings, path, seen, Refused(f"{what}. Remedy: rename it when it is whole."))
        number: dict[int, int] = defaultdict(int)  # of each owner's
        held = [(path.lstat(), path) for path in settings.quarantine.iterdir()]
        for seen, path in sorted(held, key=lambda entry: -entry[0].st_ctime):
            reason = path.name.endswith(".reason")
            number[seen.st_uid] += not reason
            many = not reason and number[seen.st_uid] > QUARANTINE_FILES
            if many or time.time() - seen.st_ctime > QUARANTINE_DAYS * 86400:
                if not reason:
                    say(f"removes {path.name} from quarantine", 4)
                # rm follows nothing, though the directory's owner may still move things in it
                subprocess.run(["rm", "-rf", "--one-file-system", "--", path], stdin=subprocess.DEVNULL, check=False)
                path.with_name(f"{path.name}.reason").unlink(missing_ok=True)
            elif stat.S_ISREG(seen.st_mode) and seen.st_size > MAX_BYTES:
                cut(path)  # its writer has gone on


def arrived(settings: Settings, items: list[Item]) -> list[Item]:
    """Items for which Orthanc has received a study."""
    queries = []
    for at in range(0, len(items), 50):
        part = items[at : at + 50]
        queries.append(("StudyInstanceUID", [item.study_instance_uid for item in part]))
        # one with a wildcard would ask for everybody's studies
        plain = [item.accession_number for item in part if not re.search(r"[*?]", item.accession_number)]
        queries.append(("AccessionNumber", plain))
    options = json.loads(settings.orthanc.read_text()) if queries else {}
    found = [study for name, values in queries if values for study in ask_orthanc(options, {name: "\\".join(values)})]
    studies: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for study in found:
        tags, patient = study["MainDicomTags"], study["PatientMainDicomTags"]
        studies[tags.get("StudyInstanceUID", ""),].append(study)
        studies[tags.get("AccessionNumber", "").strip(), patient.get("PatientID", "").strip()].append(study)
    return [
        item
        for item in items
        if any(
            received_for(item, made_at(settings, item), study)
            for key in ((item.study_instance_uid,), (item.accession_number, item.patient_id))
            for study in studies.get(key, [])
        )
    ]


def made_at(settings: Settings, item: Item) -> float:
    """When the gate served it, in seconds since 1970; never, for one that has gone meanwhile."""
    try:
        return (settings.served / item.name).stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def received_for(item: Item, made: float, study: Any) -> bool:
    """Whether a study of Orthanc's, which has the item's UID or its accession number and patient, is that of the item.

    Clinics number by treatment cycle: the number, and with some applications the UID, is that of other days, too. So
    its last image must have come on the item's day or later. A study with a UID of its own must also be dated so, and
    its last image have come after the item: an earlier examination of that day, or an old study that is imported
    today, is another's.
    """
    tags = study["MainDicomTags"]
    if not study.get("LastUpdate"):  # metadata of a study, which a user may delete: then nothing tells when it came
        return False
    last = datetime.strptime(study["LastUpdate"], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)  # as Orthanc writes it
    came = last.astimezone().strftime("%Y%m%d")
    if tags.get("StudyInstanceUID") == item.study_instance_uid:
        return came >= item.last_day()
    dated = tags.get("StudyDate", "").strip() or came
    return min(came, dated) >= item.last_day() and last.timestamp() >= int(made)


def ask_orthanc(options: dict[str, Any], query: dict[str, str]) -> Any:
    """Studies that match (Orthanc Book, "Performing Finds within Orthanc"), a list of values by PS3.4, C.2.2.2.2.
    `options` are those of orthanc.json."""
    admin = next(name for name, role in options["ClinicopsRoles"].items() if role == "admin")
    token = base64.b64encode(f"{admin}:{options['RegisteredUsers'][admin]}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", options["HttpPort"], timeout=30)
    body = json.dumps({"Level": "Study", "Expand": True, "CaseSensitive": True, "Query": query})
    try:
        connection.request("POST", "/tools/find", body, {"Authorization": f"Basic {token}"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise Refused(f"Orthanc answers {answer.status}. Remedy: deploy again.")
        return json.loads(answer.read())
    except OSError as error:
        raise Refused(
            f"Orthanc does not answer ({error}). Remedy: see journalctl -u orthanc, or docker logs orthanc."
        ) from None
    finally:
        connection.close()


# --- the command -------------------------------------------------------------------------------
def read_file(path: str, given: argparse.Namespace) -> dict[int, dict[str, str]]:
    """The rows of a file, or of what comes in, by their number."""
    with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
        data = file.read(spreadsheet.MAX_BYTES + 1)
    try:
        return spreadsheet.read_rows(data, "standard input" if path == "-" else path, given.encoding or "", given.sheet)
    except spreadsheet.Unreadable as unreadable:
        raise Refused(*unreadable.problems) from None


def complete(row: dict[str, str], settings: Settings) -> dict[str, str]:
    """The row with what a clinic may leave out. What is made is the same each time: it is by that that a later import
    replaces an order, which may have got another time, another station or another spelling of the name by then."""
    day, hour = "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"
    row = {"Modality": "US", hour: "0000", **{name: value for name, value in row.items() if value}}
    if "AccessionNumber" not in row:
        what = " ".join(row.get("RequestedProcedureDescription", "").casefold().split())
        parts = [row.get("PatientID", ""), row.get(day, ""), row["Modality"].upper(), what]
        digest = hashlib.sha256("\n".join(parts).encode()).digest()
        row["AccessionNumber"] = "W" + base64.b32encode(digest).decode()[:12]
    if "StudyInstanceUID" not in row:
        study = study_of(settings, row.get("PatientID", ""), row["AccessionNumber"], row.get(day, ""))
        row["StudyInstanceUID"] = study
    return row


def study_of(settings: Settings, patient: str, accession: str, day: str) -> str:
    """The StudyInstanceUID that an import makes; with its day, since a number may be that of a treatment with several
    appointments."""
    return made_uid(settings.hostname, patient, accession, day)


def data_of(row: dict[str, str]) -> bytes:
    """The file of a row that is complete, as an application would write it."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item, step = Dataset(), Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's; what is wrong with a value is said later
        for name, value in row.items():
            setattr(step if name.startswith("Scheduled") or name == "Modality" else item, name, value)
        step.ScheduledProcedureStepDescription = row.get("RequestedProcedureDescription", "")
        step.ScheduledProcedureStepID = item.RequestedProcedureID = "1"
        item.ScheduledProcedureStepSequence = Sequence([step])
        return encoded(item, row["StudyInstanceUID"])


def item_of_row(row: dict[str, str], settings: Settings, problems: dict[str, str]) -> tuple[Item, bytes]:
    """The item of a row, and the file to hand over; Refused says what is wrong besides these `problems` by keyword."""
    found = list(problems.values())
    try:
        data = data_of(complete(row, settings))
        item = item_of(data, settings)
        if not found and item.last_day() < first_day(settings):
            what = "ScheduledProcedureStepStartDate is so long past that the item would go at once"
            raise Refused(f"{what}. Remedy: correct it, or set orthanc_worklist_keep_days.")
    except Refused as refused:
        found += [problem for problem in refused.problems if problem.split(" ")[0] not in problems]
    except Exception as error:  # pydicom, of a value that it cannot write
        found += [] if found else [f"{str(error)!a}. Remedy: correct it."]
    if found:
        raise Refused(*found)
    return item, data


def items_of_rows(settings: Settings, path: str, given: argparse.Namespace) -> list[tuple[Item, bytes]]:
    """Every row's item and file, or Refused with what is wrong with any of them."""
    made: list[tuple[Item, bytes]] = []
    problems: list[str] = []
    orders: dict[int, set[str]] = {}
    seen: dict[str, int] = {}
    for number, row in progress(list(read_file(path, given).items()), "checking"):
        values, unclear, orders[number] = rows.read_row(row, given.date_order)
        try:
            item, data = item_of_row(values, settings, unclear)
            if seen.setdefault(item.name, number) != number:
                key = "PatientID, AccessionNumber and day" if values.get("AccessionNumber") else "PatientID, day"
                key += "" if values.get("AccessionNumber") else ", Modality and RequestedProcedureDescription"
                key = "StudyInstanceUID" if values.get("StudyInstanceUID") else key
                what = f"It is the order of row {seen[item.name]} again: the same {key}"
                remedy = "Remedy: delete the one that no longer holds, or give each an AccessionNumber of its own"
                raise Refused(f"{what}. {remedy}.")
            made.append((item, data))
        except Refused as refused:
            problems += [f"Row {number}: {problem}" for problem in refused.problems]
    problems += rows.find_contradictions(orders)
    if problems:
        raise Refused(*problems, "Nothing was scheduled. Remedy: correct the rows and import all of them again.")
    return made


def create(settings: Settings, path: str, given: argparse.Namespace) -> dict[str, Any]:
    """Every row or none."""
    root = os.geteuid() == 0
    if given.replace and not root:  # others do not see the list
        raise PermissionError(13, "Only root takes items off the list", "--replace")
    made = items_of_rows(settings, path, given)
    drop = settings.incoming if root else settings.drop  # root would not notice that the mount is missing
    began = 0.0
    for item, data in progress(made, "handing over"):
        # a new file of a name that nobody knows: others write here, too, and could lay a link there
        descriptor, waiting = tempfile.mkstemp(".part", dir=drop)
        began = began or os.fstat(descriptor).st_mtime  # by the clock that dates the gate's reasons
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.rename(waiting, drop / item.name)
    items = [item for item, _data in made]
    result: dict[str, Any] = {"items": [item.facts() for item in items]}
    if root:
        served(settings, items, began)
        earlier = left_over(settings, items)
        if given.replace:
            earlier["removed"] = take_off(settings, earlier.pop("not_in_file"))
        result |= {kind: [item.facts() for item in found] for kind, found in earlier.items()}
    return result


def left_over(settings: Settings, items: list[Item]) -> dict[str, list[Item]]:
    """What earlier imports put on the list besides these items: for a station's day that is theirs, which was moved or
    cancelled if the file is the same; for other days under the same number, which was moved, or belongs to the same
    treatment; and for one of their days at one of their stations where they have nothing, which may be another
    file's."""
    places = {(step["date"], step["station"]) for item in items for step in item.steps}
    days, stations = {day for day, _station in places}, {station for _day, station in places}
    numbers = {(item.patient_id, item.accession_number) for item in items}
    names = {item.name for item in items}
    found: dict[str, list[Item]] = {"not_in_file": [], "other_days": [], "elsewhere": []}
    for item in served_items(settings):
        step = item.steps[0]
        made = study_of(settings, item.patient_id, item.accession_number, step["date"])
        if item.name in names or item.study_instance_uid != made:
            continue
        if (step["date"], step["station"]) in places:
            found["not_in_file"].append(item)
        elif (item.patient_id, item.accession_number) in numbers:
            found["other_days"].append(item)
        elif step["date"] in days and step["station"] in stations:
            found["elsewhere"].append(item)
    return found


def served(settings: Settings, items: list[Item], began: float) -> None:
    """Waits for the gate's verdict on each, which it gave after this import `began`."""
    end = time.monotonic() + 60 + len(items) / A_SECOND
    for item in progress(items, "through the gate"):
        while (settings.incoming / item.name).exists():
            if time.monotonic() > end:
                raise Refused(f"{item.name} still waits. Remedy: see journalctl -u orthanc-worklist.")
            time.sleep(0.05)
    problems = []
    for item in items:
        reasons = sorted(settings.quarantine.glob(f"*-{item.name}.reason"))
        reasons = [path for path in reasons if path.stat().st_mtime >= began]
        try:
            # what it was to replace is still there when the gate refuses it
            good = (settings.served / item.name).read_bytes() == item.data
        except FileNotFoundError:  # its study has arrived, if the gate says nothing else
            good = not reasons
        if not good:
            reason = " ".join(reasons[-1].read_text().splitlines()) if reasons else "see the journal"
            problems.append(f"{item.name} is in quarantine: {reason}")
    if problems:
        raise Refused(*problems)


def progress(work: list[Any], what: str) -> Iterable[Any]:
    """A bar, for a person who watches more than a moment's work."""
    if not sys.stderr.isatty() or len(work) < 50:
        yield from work
        return
    for number, one in enumerate(work, 1):
        yield one
        if number == len(work) or number % max(1, len(work) // 100) == 0:
            bar = "#" * (30 * number // len(work))
            print(f"\r{what:17} [{bar:30}] {number}/{len(work)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def take_off(settings: Settings, items: list[Item]) -> list[Item]:
    """Those that went: under the name of one may be another by now."""
    with locked(settings):
        still = [item for item in items if read_served(settings.served / item.name, settings) == item]
        for item in still:
            (settings.served / item.name).unlink()
    return still


def removed(settings: Settings, wanted: list[str]) -> dict[str, Any]:
    with locked(settings):
        items = served_items(settings)
        found = [item for item in items if item.names() & set(wanted)]
        for item in found:
            (settings.served / item.name).unlink(missing_ok=True)
    known = {name for item in found for name in item.names()}
    missing = [f"{one!a} is not on the list. Remedy: see orthanc-worklist list." for one in wanted if one not in known]
    if missing:
        raise Refused(*missing)
    return {"items": [item.facts() for item in found]}


def listed(settings: Settings, which: str) -> dict[str, Any]:
    if which == "waiting":
        return {"waiting": sorted(ascii(path.name)[1:-1] for path in settings.incoming.iterdir())}
    if which == "quarantine":
        names = sorted(name for name in os.listdir(settings.quarantine) if name.endswith(".reason"))
        reasons = [settings.quarantine / name for name in names]
        return {"quarantine": [{"file": path.name[:-7], "reason": path.read_text()} for path in reasons]}
    items = served_items(settings)
    return {
        "items": [item.facts() for item in sorted(items, key=lambda item: [(s["date"], s["time"]) for s in item.steps])]
    }


def checked(settings: Settings, paths: list[str]) -> dict[str, Any]:
    problems, items = [], []
    for path in paths:
        try:
            items.append(item_of(Path(path).read_bytes(), settings).facts())
        except Refused as refused:
            problems += [f"{path}: {problem}" for problem in refused.problems]
        except OSError as error:
            problems.append(f"{path}: {error.strerror}. Remedy: give the name of a file that may be read.")
    if problems:
        raise Refused(*problems)
    return {"items": items}


def show(result: dict[str, Any]) -> None:
    for held in result.get("quarantine", []):
        print(escape(held["file"]))
        for line in held["reason"].strip().split("\n"):
            print(f"    {escape(line)}")
    for name in result.get("waiting", []):
        print(escape(name))
    show_items(result.get("items", []))
    for kind, what in KINDS.items():
        if result.get(kind):
            print(f"\n{len(result[kind])} of earlier imports, {what}:")
            show_items(result[kind], study=True)
            print()


REMOVE = "orthanc-worklist remove and the StudyInstanceUID at the end of the line"
KINDS = {
    "removed": "not in this file, taken off the list",
    "not_in_file": "not in this file, stay on the list. Remedy, if they were moved or cancelled: import this file again"
    f" with --replace, which takes them off; or {REMOVE}",
    "other_days": "for other days under the same AccessionNumber, stay on the list, as appointments of one treatment."
    f" Remedy, if they were moved: {REMOVE}",
    "elsewhere": "for a day and a station of this file, of which it has no row together, stay on the list, also with"
    f" --replace. Remedy, if they were moved or cancelled: {REMOVE}",
}


def show_items(items: list[dict[str, Any]], study: bool = False) -> None:
    for item in items:
        who = f"{item['accession_number']:16}  {item['patient_id']:16}  {item['patient_name']}"
        who += f"  {item['study_instance_uid']}" if study else ""
        for step in item["steps"]:
            hour = f"{step['time'][:2]}:{step['time'][2:4]}" if step["time"] else ""
            when = f"{words.say_day(step['date']):>11} {hour:5}"
            print(escape(f"{when}  {step['station']:16}  {step['modality']:4}  {who}"))


def codec(name: str) -> str:
    """The name of an encoding of text; ValueError for another."""
    try:
        "".encode(name)
    except LookupError as error:
        raise ValueError(str(error)) from None
    return name


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="the result as JSON")
    columns = ", ".join(name if needed else f"[{name}]" for name, needed in spreadsheet.COLUMNS.items())
    add: Callable[..., argparse.ArgumentParser] = commands.add_parser
    one = add("create", parents=[common], help="schedule the rows of a spreadsheet", epilog=f"Columns: {columns}.")
    one.add_argument("file", nargs="?", default="-", help=".xlsx, CSV or JSON; without one, or with -, what comes in")
    one.add_argument(
        "--date-order",
        choices=[rows.DAY_FIRST, rows.MONTH_FIRST],
        default="",
        help="how 01/02/2026 is meant: dmy is 1 February, mdy is January 2",
    )
    one.add_argument("--encoding", type=codec, help="of CSV that is not in UTF-8 or UTF-16, such as cp1252")
    one.add_argument("--sheet", default="", help="which one of an .xlsx file, if several are lists of patients")
    one.add_argument(
        "--replace",
        action="store_true",
        help="take off what earlier imports had for a station on a day for which this file has rows, but not these",
    )
    one = add("list", parents=[common], help="what is scheduled")
    which = one.add_mutually_exclusive_group()
    for name, text in (("waiting", "what has come and is not served yet"), ("quarantine", "what was refused, and why")):
        which.add_argument(f"--{name}", dest="which", action="store_const", const=name, default="items", help=text)
    one = add("remove", parents=[common], help="take items off the list")
    one.add_argument("wanted", nargs="+", metavar="ITEM", help="accession number or StudyInstanceUID")
    one = add("check", parents=[common], help="say whether files would be served")
    one.add_argument("files", nargs="+", metavar="FILE")
    add("gate", help="the service that takes what comes")
    add("tidy", help="the timer that takes away what is done")
    given = parser.parse_args()
    journal.prepare_output()
    as_json = getattr(given, "json", False)
    try:
        settings = Settings.read(given.config)
        if given.command == "gate":
            Gate(settings).run()
        elif given.command == "tidy":
            tidy(settings)
        else:
            actions: dict[str, Callable[[], dict[str, Any]]] = {
                "create": lambda: create(settings, given.file, given),
                "list": lambda: listed(settings, given.which),
                "remove": lambda: removed(settings, given.wanted),
                "check": lambda: checked(settings, given.files),
            }
            result = actions[given.command]()
            if as_json:
                print(json.dumps(result, indent=2))
            else:
                show(result)
                print(
                    f"{len(next(iter(result.values())))} {'checked and good' if given.command == 'check' else 'in all'}"
                )
        return 0
    except Refused as refused:
        if as_json:
            print(json.dumps({"problems": refused.problems}, indent=2))
        for problem in [] if as_json else refused.problems:
            say(problem, 3)
        return 1
    except OSError as error:
        remedy = "run it as root" if isinstance(error, PermissionError) else "deploy again, or give another file"
        say(f"{error.filename or ''}: {error.strerror}. Remedy: {remedy}.", 3)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
