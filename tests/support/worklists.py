"""Worklist items as a clinic's applications write them, hostile files, and queries as scanners send them."""

from __future__ import annotations

import base64
import copy
import functools
import io
import json
import os
import random
import subprocess
import tarfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, TypeVar

import bed
import pydicom
from clients import ADDRESSES, ROOT, client, enter, put, wait_for
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

SERVED, DROP = "/var/lib/orthanc/worklists", "/srv/worklists/incoming"
SPOOL = f"{SERVED}/.spool"
QUARANTINE = f"{SPOOL}/quarantine"
US1, US4, APP = "orthanc-us1", "orthanc-us4", "orthanc-app"
STUDY = [
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID"),
    *("ReferringPhysicianName", "RequestedProcedureDescription"),
]
STEP = [
    *("Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"),
    *("ScheduledProcedureStepDescription", "ScheduledProcedureStepID"),
]
NEEDED = ("PatientID", "PatientName", "AccessionNumber", "StudyInstanceUID", "ScheduledProcedureStepSequence")
NEEDED_STEP = ("ScheduledStationAETitle", "Modality", "ScheduledProcedureStepStartDate")
Plan = dict[str, Any]
Found = TypeVar("Found")


def day(ahead: int = 0) -> str:
    return f"{date.today() + timedelta(days=ahead):%Y%m%d}"


# --- items -------------------------------------------------------------------------------------
@dataclass
class Item:
    """What a clinic schedules; `steps` are more stations that see the same item."""

    patient: str
    name: str = "MUSTER^ANNA"
    station: str = "US1"
    date: str = field(default_factory=day)
    time: str = "0830"
    accession: str = ""
    study: str = ""
    birth: str = "19700131"
    sex: str = "F"
    referring: str = "HAUS^ARZT"
    procedure: str = "Abdomen"
    charset: str | list[str] = ""
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.accession = self.accession or f"A{self.patient}"[:16]
        self.study = self.study or generate_uid(entropy_srcs=["worklist", self.patient, self.accession])

    def dataset(self) -> Dataset:
        made = Dataset()
        if self.charset:
            made.SpecificCharacterSet = self.charset
        made.AccessionNumber, made.ReferringPhysicianName = self.accession, self.referring
        made.PatientName, made.PatientID = self.name, self.patient
        made.PatientBirthDate, made.PatientSex = self.birth, self.sex
        made.StudyInstanceUID, made.RequestedProcedureDescription = self.study, self.procedure
        made.ScheduledProcedureStepSequence = Sequence([self.step(name) for name in (self.station, *self.more)])
        return made

    def step(self, station: str) -> Dataset:
        step = Dataset()
        step.Modality, step.ScheduledStationAETitle = "US", station
        step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = self.date, self.time
        step.ScheduledProcedureStepDescription, step.ScheduledProcedureStepID = self.procedure, "1"
        return step

    def file(self, syntax: str = ExplicitVRLittleEndian) -> bytes:
        return encode(self.dataset(), syntax)

    def row(self) -> dict[str, str]:
        """Of the clinic's spreadsheet."""
        return {
            **{"PatientID": self.patient, "PatientName": self.name, "AccessionNumber": self.accession},
            **{"StudyInstanceUID": self.study, "ScheduledStationAETitle": self.station},
            "ScheduledProcedureStepStartDate": f"{self.date[:4]}-{self.date[4:6]}-{self.date[6:]}",
            "ScheduledProcedureStepStartTime": f"{self.time[:2]}:{self.time[2:]}",
            **{"PatientBirthDate": self.birth, "PatientSex": self.sex, "ReferringPhysicianName": self.referring},
            "RequestedProcedureDescription": self.procedure,
        }

    def answer(self) -> dict[str, str]:
        """What a scanner sees of it, of the fields that `seen` reads."""
        return seen(replace(self, time=self.time.ljust(6, "0")).dataset())


def encode(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.31"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    whole = copy.deepcopy(dataset)
    whole.file_meta = meta
    with io.BytesIO() as buffer:
        pydicom.dcmwrite(buffer, whole, enforce_file_format=True)
        return buffer.getvalue()


def text(dataset: Dataset, keyword: str) -> str:
    # padding is not significant; a scanner trims it
    return str(dataset.get(keyword) or "").strip()


def seen(dataset: Dataset) -> dict[str, str]:
    """An item field by field, as text."""
    fields = {keyword: text(dataset, keyword) for keyword in STUDY}
    steps = list(dataset.get("ScheduledProcedureStepSequence") or [])
    for keyword in STEP:
        fields[keyword] = " & ".join(text(step, keyword) for step in steps)
    return fields


def csv(items: list[Item], separator: str = ",") -> bytes:
    rows = [item.row() for item in items]
    lines = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


# --- the machine -------------------------------------------------------------------------------
def sh(name: str, script: str, user: str = "root", stdin: bytes = b"") -> tuple[int, str]:
    """Exit code and output of a shell's script in a container, without the way through Ansible."""
    command = enter(name, "sh", "-c", script, stdin=stdin, user=user)
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def told(name: str, command: str, plan: Any = None, user: str = "root") -> Any:
    """What a command of spool.py tells in a container."""
    put(name, "/tmp/spool.py", (ROOT / "tests/agents/spool.py").read_bytes())
    stdin = json.dumps(plan).encode()
    run = enter(name, "python3", "/tmp/spool.py", *command.split(), stdin=stdin, user=user)
    done = subprocess.run(run, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout or b"null")


def drop(machine: str, files: list[Plan], user: str = "ris", seconds: float = 0) -> None:
    """An application's files, spread over `seconds`."""
    assert told(machine, "drop", {"files": files, "seconds": seconds}, user)["made"] == len(files)


def settle(machine: str, limit: int = 300) -> None:
    """Until the gate is through with everything that is finished."""
    told(machine, f"settle {limit}")


def look(machine: str) -> Any:
    found = told(machine, "look")
    for item in found["served"].values():
        item["data"] = base64.b64decode(item["data"])
    return found


def patients(machine: str) -> dict[str, Dataset]:
    """The served items by patient, read as strictly as anybody may."""
    read = [pydicom.dcmread(io.BytesIO(item["data"])) for item in look(machine)["served"].values()]
    assert len({item.PatientID for item in read}) == len(read)
    return {item.PatientID: item for item in read}


def empty(machine: str) -> None:
    """No item, nothing waiting, nothing in quarantine."""
    clear = f"find {SERVED} -mindepth 1 -maxdepth 1 ! -name .spool -delete"
    clear += f" && find {SPOOL}/incoming {QUARANTINE} -mindepth 1 -delete"
    status, said = sh(machine, f"flock {SPOOL}/lock sh -c '{clear}'")  # the gate waits
    assert status == 0, said


def plain(token: str, data: bytes, how: str = "renamed", **more: Any) -> Plan:
    """A file of a plan for spool.py."""
    return {"token": token, "name": f"{token}.wl", "how": how, "data": base64.b64encode(data).decode(), **more}


def command(machine: str, *arguments: str, stdin: bytes = b"", user: str = "root") -> tuple[int, str]:
    """orthanc-worklist as somebody calls it; what it says on both channels."""
    run = enter(machine, "orthanc-worklist", *arguments, stdin=stdin, user=user)
    done = subprocess.run(run, input=stdin, capture_output=True, check=False, timeout=300)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def both(machines: list[str], what: Callable[[str], Found]) -> dict[str, Found]:
    """The same on every machine at once: most of it is waiting."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(machines, pool.map(what, machines), strict=True))


# --- an application on another host ------------------------------------------------------------
SSH = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"


def sftp(machine: str, *lines: str, user: str = "broker") -> tuple[int, str]:
    """The commands one after the other, up to the first that fails."""
    batch = "".join(f"{line}\n" for line in lines)
    return sh(APP, f"sftp -o BatchMode=yes {SSH} -b - {user}@{ADDRESSES[machine][0]}", stdin=batch.encode())


# --- a scanner ---------------------------------------------------------------------------------
def keys(charset: str | list[str] = "", **wanted: str) -> Dataset:
    """A query for every field of an item, as scanners send it; `wanted` are the fields to match."""
    query = Dataset()
    if charset:
        query.SpecificCharacterSet = charset
    step = Dataset()
    for keyword in STUDY:
        setattr(query, keyword, wanted.get(keyword, ""))
    for keyword in STEP:
        setattr(step, keyword, wanted.get(keyword, ""))
    query.ScheduledProcedureStepSequence = Sequence([step])
    return query


def place_query(scanner: str, path: str, query: Dataset) -> None:
    put(scanner, path, encode(query))


def ask(machine: str, query: Dataset | None = None, scanner: str = US1, aet: str = "US1") -> list[Dataset]:
    """The answers that DCMTK's findscu gets; an answer that is no success fails."""
    base = f"/tmp/asked-{machine}"
    find = f"findscu -W -v -X -od {base} -to 10 -aet {aet} -aec ORTHANC {ADDRESSES[machine][0]} 4242 {base}/query"
    script = f"rm -rf {base}; mkdir {base}; cat >{base}/query; {find} >{base}/log 2>&1; tar -C {base} -c ."
    packed = client(scanner, "sh", "-c", script, stdin=encode(query or keys())).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        opened = {file.name: archive.extractfile(file) for file in archive}
        files = {name: file.read() for name, file in opened.items() if file}
    said = files.pop("./log").decode(errors="replace")
    assert "Received Final Find Response (Success)" in said, said
    return [pydicom.dcmread(io.BytesIO(files[name]), force=True) for name in sorted(files) if "/rsp" in name]


def names(machine: str, query: Dataset | None = None, scanner: str = US1, aet: str = "US1") -> list[str]:
    """The patients in the answers, one for each answer."""
    return sorted(answer.PatientID for answer in ask(machine, query, scanner, aet))


class Asking:
    """A scanner asks again and again: twenty times at least."""

    def __init__(self, machine: str, query: Dataset, scanner: str = US1, aet: str = "US1") -> None:
        self.scanner, self.until = scanner, f"/tmp/asking-{machine}-end"
        path = f"/tmp/asking-{machine}.dcm"
        client(scanner, "rm", "-f", self.until)
        place_query(scanner, path, query)
        put(scanner, "/tmp/spool.py", (ROOT / "tests/agents/spool.py").read_bytes())
        plan = {"address": ADDRESSES[machine][0], "aet": aet, "query": path, "until": self.until, "least": 20}
        run = ["docker", "exec", "-i", scanner, "python3", "/tmp/spool.py", "ask"]
        self.process = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin
        self.process.stdin.write(json.dumps(plan).encode())
        self.process.stdin.close()
        self.process.stdin = None

    def stop(self) -> list[dict[str, Any]]:
        client(self.scanner, "touch", self.until)
        asked: list[dict[str, Any]] = json.loads(self.process.communicate(timeout=300)[0])
        return asked


def seconds(machine: str, query: Dataset, times: int, scanner: str = US1, aet: str = "US1") -> list[float]:
    """How long findscu takes, printing nothing."""
    path = f"/tmp/timed-{machine}.dcm"
    place_query(scanner, path, query)
    plan = {"address": ADDRESSES[machine][0], "aet": aet, "query": path, "times": times, "quiet": True}
    asked = told(scanner, "ask", plan)
    assert {one["code"] for one in asked} == {0}
    return sorted(one["seconds"] for one in asked)


# --- the served directory, watched -------------------------------------------------------------
@contextmanager
def watching(
    machine: str, events: str = "create,moved_to,moved_from,modify,attrib,delete"
) -> Iterator[list[tuple[str, str]]]:
    """Everything that happens to a name in the served directory: (events, name), there when the context ends."""
    base = "/tmp/watched"
    watch = f"inotifywait --monitor --event {events} --no-newline --format %e%0%f%0 {SERVED}"
    bed.docker("exec", machine, "rm", "-f", f"{base}.err")
    bed.docker("exec", "--detach", machine, "sh", "-c", f"echo $$ >{base}.pid; exec {watch} >{base} 2>{base}.err")
    wait_for(lambda: "established" in sh(machine, f"cat {base}.err")[1], "the watch")
    happened: list[tuple[str, str]] = []
    try:
        yield happened
    finally:
        # a name of its own ends the record: nothing before it is missed
        last = f"{SERVED}/.watched"
        status, said = sh(machine, f"touch {last} && rm {last}")
        assert status == 0, said
        wait_for(lambda: sh(machine, f"grep -aq DELETE.*watched {base}")[0] == 0, "the end of the record")
        sh(machine, f"kill $(cat {base}.pid)")
        record = client(machine, "cat", base).stdout.split(b"\0")[:-1]
        assert "OVERFLOW" not in sh(machine, f"cat {base}.err")[1]
        happened += [(what.decode(), os.fsdecode(name)) for what, name in zip(record[::2], record[1::2], strict=True)]
        assert (happened[-1], happened[0][0] != "") == (("DELETE", ".watched"), True)


def files_read(machine: str, query: Dataset) -> Counter[str]:
    """How often a query opens each of the served files; who else reads them waits meanwhile."""
    tidy = "orthanc-worklist-tidy"
    assert sh(machine, f"systemctl stop {tidy}.timer {tidy}.service")[0] == 0
    try:
        with watching(machine, "open,delete") as events:
            ask(machine, query)
    finally:
        assert sh(machine, f"systemctl start {tidy}.timer")[0] == 0
    return Counter(name for what, name in events if what == "OPEN" and name.endswith(".wl"))


# --- hostile files -----------------------------------------------------------------------------
def deep(depth: int) -> bytes:
    """A sequence in a sequence in a sequence, at the end of an item."""
    begin = b"\x40\x00\x55\x05SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return Item("DEEP").file() + begin * depth + end * depth


def without(keyword: str, step: bool = False) -> Callable[[random.Random], bytes]:
    def made(_choose: random.Random) -> bytes:
        item = Item("MISSING").dataset()
        del (item.ScheduledProcedureStepSequence[0] if step else item)[keyword]
        return encode(item)

    return made


def having(keyword: str, value: Any, step: bool = False) -> Callable[[random.Random], bytes]:
    """An item with a value that pydicom would rather not write."""

    def made(_choose: random.Random) -> bytes:
        item = Item("WRONG").dataset()
        with pydicom.config.disable_value_validation(), warnings.catch_warnings(action="ignore"):
            setattr(item.ScheduledProcedureStepSequence[0] if step else item, keyword, value)
            return encode(item)

    return made


def truncated(choose: random.Random) -> bytes:
    whole = Item("TRUNCATED").file()
    return whole[: choose.randrange(len(whole))]


def cut_off_late(choose: random.Random) -> bytes:
    """In the last value, when everything that is needed has been read."""
    return Item("LATE").file()[: -choose.randrange(1, 16)]


def overwritten(choose: random.Random) -> bytes:
    """The first bytes of the data set are something else."""
    whole = Item("OVERWRITTEN").file()
    at = whole.index(b"\x08\x00\x50\x00")
    return whole[:at] + choose.randbytes(40) + whole[at + 40 :]


def wrong_vr(_choose: random.Random) -> bytes:
    whole = Item("VR").file()
    at = whole.index(b"\x40\x00\x00\x01SQ")
    return whole[: at + 4] + b"UL" + whole[at + 6 :]


def swapped(_choose: random.Random) -> bytes:
    """The file meta header tells another transfer syntax than the one of the data set."""
    whole = Item("SWAPPED").file()
    return whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0")


def undeclared(_choose: random.Random) -> bytes:
    whole = Item("UNDECLARED", name="M\xdcLLER^ANNA", charset="ISO_IR 100").file()
    at = whole.index(b"\x08\x00\x05\x00CS")
    return whole[:at] + whole[at + 8 + len("ISO_IR 100") :]


def falsely_declared(_choose: random.Random) -> bytes:
    whole = Item("DECLARED", name="M\xdcLLER^ANNA", charset="ISO_IR 100").file()
    return whole.replace(b"ISO_IR 100", b"ISO_IR 192")


@functools.cache
def deflated_bomb() -> bytes:
    """100 MB of zeros behind an item, in 100 kB."""
    whole = Item("BOMB").file(DeflatedExplicitVRLittleEndian)
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    private = b"\x09\x00\x10\x00LO\x02\x00X \x09\x00\x00\x10OB\0\0" + (100 << 20).to_bytes(4, "little")
    content = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    at = content.index(b"\x10\x00\x10\x00")
    packed = packer.compress(content[:at] + private + bytes(100 << 20) + content[at:]) + packer.flush()
    return whole[:start] + packed


# kind: the content, and what the reason says
CONTENT: dict[str, tuple[Callable[[random.Random], bytes], str]] = {
    "truncated": (truncated, ""),
    "cut off late": (cut_off_late, "cut off"),
    "empty": (lambda _: b"", "not a DICOM data set"),
    "noise": (lambda choose: choose.randbytes(choose.randrange(1, 4000)), ""),
    "noise behind a header": (lambda choose: bytes(128) + b"DICM" + choose.randbytes(choose.randrange(1, 4000)), ""),
    "zeros": (lambda choose: bytes(choose.randrange(1, 100_000)), ""),
    "text": (lambda _: b"PatientName=MUSTER^ANNA\nPatientID=1\n", "It is text"),
    "a header alone": (lambda _: bytes(128) + b"DICM", "transfer syntax is missing"),
    "overwritten": (overwritten, ""),
    "wrong VR": (wrong_vr, ""),
    "another syntax than declared": (swapped, ""),
    "text without a character set": (undeclared, "SpecificCharacterSet is missing"),
    "text in another character set": (falsely_declared, ""),
    "big endian": (lambda _: Item("BIG").file(ExplicitVRBigEndian), "transfer syntax is 1.2.840.10008.1.2.2"),
    "deflated": (lambda _: Item("DEFLATED").file(DeflatedExplicitVRLittleEndian), "transfer syntax is"),
    "deflated bomb": (lambda _: deflated_bomb(), "transfer syntax is"),
    "deep": (lambda choose: deep(choose.randrange(20, 200)), "nested deeper"),
    "very deep": (lambda _: deep(25_000), ""),
    "pixels": (lambda _: Item("PIXELS").file() + b"\xe0\x7f\x10\x00OW\0\0\x40\0\0\0" + bytes(64), "an image"),
    "no UID": (having("StudyInstanceUID", ""), "StudyInstanceUID is missing or empty"),
    "no valid UID": (having("StudyInstanceUID", "1.2.abc..3"), "StudyInstanceUID is '1.2.abc..3'"),
    "a path as UID": (having("StudyInstanceUID", "../../../../etc/passwd"), "StudyInstanceUID is"),
    "a long UID": (having("StudyInstanceUID", "1." + "2" * 70), "StudyInstanceUID is"),
    "no patient": (having("PatientID", ""), "PatientID is missing or empty"),
    "no name": (having("PatientName", ""), "PatientName is missing or empty"),
    "no accession": (having("AccessionNumber", ""), "AccessionNumber is missing or empty"),
    "a long accession": (having("AccessionNumber", "A" * 17), "AccessionNumber is"),
    "no step": (having("ScheduledProcedureStepSequence", []), "ScheduledProcedureStepSequence is missing or empty"),
    "no station": (having("ScheduledStationAETitle", "", step=True), "ScheduledStationAETitle is missing or empty"),
    "two stations": (having("ScheduledStationAETitle", ["US1", "US4"], step=True), "has several values"),
    "no station of the clinic": (having("ScheduledStationAETitle", "CT99", step=True), "use one of"),
    "a device that may not ask": (having("ScheduledStationAETitle", "ARCHIVE", step=True), "use one of"),
    "no modality": (having("Modality", "", step=True), "Modality is missing or empty"),
    "no date": (having("ScheduledProcedureStepStartDate", "", step=True), "StartDate is missing or empty"),
    "a range of dates": (having("ScheduledProcedureStepStartDate", f"{day()}-{day(1)}", step=True), "write one day"),
    "no day of the calendar": (
        having("ScheduledProcedureStepStartDate", "20260231", step=True),
        "which is not a calendar date",
    ),
    "no time of the day": (having("ScheduledProcedureStepStartTime", "2561", step=True), "write HHMMSS"),
    **{f"without {name}": (without(name), f"{name} is missing or empty") for name in NEEDED},
    **{f"without {name}": (without(name, step=True), f"{name} is missing or empty") for name in NEEDED_STEP},
}
# How a file with that content comes; the first is the way of a good application.
WAYS = ("renamed", "plain", "unreadable", "setuid", "newline", "bytes", "dash", "long", "spaces")


def arriving(token: str, data: bytes, way: str) -> Plan:
    """The same content in a more or less hostile way."""
    modes = {"unreadable": 0, "setuid": 0o6755}
    strange = {
        "newline": f"{token}\nok.wl",
        "bytes": os.fsdecode(token.encode() + b"\xff\xfe\xc0.wl"),
        "dash": f"-{token}.wl",
        "long": f"{'x' * (252 - len(token))}{token}.wl",
        "spaces": f" {token} $(id) ;'\".wl",
    }
    made = plain(token, data, "plain" if way == "plain" else "renamed")
    if way in modes:
        made["mode"] = modes[way]
    made["name"] = strange.get(way, made["name"])
    return made


@dataclass
class Hostile:
    """`files` of a plan for spool.py; by token, the items that must be served and what the reasons of the rest say."""

    files: list[Plan] = field(default_factory=list)
    good: dict[str, Item] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)

    def refused(self, reason: str, plan: Plan) -> None:
        self.files.append(plan)
        self.bad[plan["token"]] = reason

    def served(self, plan: Plan, item: Item) -> None:
        self.files.append(plan)
        self.good[plan["token"]] = item


def hostile(seed: int, count: int, gigabytes: bool = False) -> Hostile:
    """`count` files that are not right and a third as many good items, in the same ways; and what is no file at all."""
    choose = random.Random(seed)
    made = Hostile()
    kinds = list(CONTENT)
    for number in range(count):
        token, kind = f"bad{number:04}", kinds[number % len(kinds)]
        content, reason = CONTENT[kind]
        data = content(random.Random(f"{seed} {number}"))
        made.refused(reason, arriving(token, data, choose.choice(WAYS)))
    for number in range(count // 3):
        token = f"good{number:04}"
        item = Item(token, name="GUT^ITEM", station=choose.choice(["US1", "US4"]))
        syntax = choose.choice([ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        made.served(arriving(token, item.file(syntax), WAYS[number % len(WAYS)]), item)
    linked = plain("linked", Item("LINKED").file(), "linked")
    made.refused("a hard link", linked)
    targets = ["good0000.wl", "/etc/shadow", "/etc/orthanc/site/orthanc.json", "nowhere", "/dev/zero", "."]
    for number, target in enumerate(targets):
        made.refused("not a regular file", {**plain(f"symlink{number}", b"", "symlink"), "target": target})
    for how in ("fifo", "socket", "directory"):
        made.refused("not a regular file", plain(how, Item("INSIDE").file(), how))
    sparse = plain("sparse", b"", "zeros", size=2 << 30, sparse=True)
    made.refused("The file is 2.1 GB; ", sparse)
    made.refused("The file is 2.1 MB; ", plain("large", b"", "zeros", size=2 << 20, sparse=False))
    choose.shuffle(made.files)
    if gigabytes:
        made.refused("", plain("zeros", b"", "zeros", size=2 << 30, sparse=False, seconds=0))
    for how in ("held", "appended", "rewritten"):
        item = Item(how, name="LANGSAM^ITEM")
        draft = base64.b64encode(Item(f"{how} draft").file()).decode()
        made.served(plain(how, item.file(), how, seconds=10, draft=draft), item)
    return made
