# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a person asks of the worklist: schedule the rows of a file, list, remove, check."""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core.errors import Misused, Refused
from . import row as rows
from . import spreadsheet
from .gate import A_SECOND
from .item import Item, derive_uid, encode_item, parse_item
from .settings import Settings
from .spool import lock_spool, read_served_item, read_served_items
from .tidy import find_first_day


def read_file(path: str, given: argparse.Namespace) -> dict[int, dict[str, str]]:
    """The rows of a file, or of what comes in, by their number."""
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            data = file.read(spreadsheet.MAX_BYTES + 1)
    except OSError as error:
        raise Misused(f"{path}: {error.strerror}. Remedy: give the name of a file that may be read.") from None
    try:
        return spreadsheet.read_rows(data, "standard input" if path == "-" else path, given.encoding or "", given.sheet)
    except spreadsheet.Unreadable as unreadable:
        raise Refused(*unreadable.problems) from None


def complete_row(row: dict[str, str], settings: Settings) -> dict[str, str]:
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
        study = derive_study_uid(settings, row.get("PatientID", ""), row["AccessionNumber"], row.get(day, ""))
        row["StudyInstanceUID"] = study
    return row


def derive_study_uid(settings: Settings, patient: str, accession: str, day: str) -> str:
    """The StudyInstanceUID that an import makes; with its day, since a number may be that of a treatment with several
    appointments."""
    return derive_uid(settings.hostname, patient, accession, day)


def build_data(row: dict[str, str]) -> bytes:
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
        return encode_item(item, row["StudyInstanceUID"])


def build_item(row: dict[str, str], settings: Settings, problems: dict[str, str]) -> tuple[Item, bytes]:
    """The item of a row, and the file to hand over; Refused says what is wrong besides these `problems` by keyword."""
    found = list(problems.values())
    try:
        data = build_data(complete_row(row, settings))
        item = parse_item(data, settings)
        if not found and item.last_day < find_first_day(settings):
            what = "ScheduledProcedureStepStartDate is so long past that the item would go at once"
            raise Refused(f"{what}. Remedy: correct it, or set orthanc_worklist_keep_days.")
    except Refused as refused:
        found += [problem for problem in refused.problems if problem.split(" ")[0] not in problems]
    except Exception as error:  # pydicom, of a value that it cannot write
        found += [] if found else [f"{str(error)!a}. Remedy: correct it."]
    if found:
        raise Refused(*found)
    return item, data


def build_items(settings: Settings, path: str, given: argparse.Namespace) -> list[tuple[Item, bytes]]:
    """Every row's item and file, or Refused with what is wrong with any of them."""
    made: list[tuple[Item, bytes]] = []
    problems: list[str] = []
    orders: dict[int, set[str]] = {}
    seen: dict[str, int] = {}
    for number, row in show_progress(list(read_file(path, given).items()), "checking"):
        values, unclear, orders[number] = rows.read_row(row, given.date_order)
        try:
            item, data = build_item(values, settings, unclear)
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


def create_items(settings: Settings, path: str, given: argparse.Namespace) -> dict[str, Any]:
    """Every row or none."""
    root = os.geteuid() == 0
    if given.replace and not root:  # others do not see the list
        raise Misused("--replace: Only root takes items off the list. Remedy: run it as root.")
    made = build_items(settings, path, given)
    drop = settings.incoming if root else settings.drop  # root would not notice that the mount is missing
    began = 0.0
    for item, data in show_progress(made, "handing over"):
        # a new file of a name that nobody knows: others write here, too, and could lay a link there
        descriptor, waiting = tempfile.mkstemp(".part", dir=drop)
        began = began or os.fstat(descriptor).st_mtime  # by the clock that dates the gate's reasons
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.rename(waiting, drop / item.name)
    items = [item for item, _data in made]
    result: dict[str, Any] = {"items": [item.facts for item in items]}
    if root:
        await_verdicts(settings, items, began)
        earlier = find_leftovers(settings, items)
        if given.replace:
            earlier["removed"] = remove_unchanged(settings, earlier.pop("not_in_file"))
        result |= {kind: [item.facts for item in found] for kind, found in earlier.items()}
    return result


def find_leftovers(settings: Settings, items: list[Item]) -> dict[str, list[Item]]:
    """What earlier imports put on the list besides these items: for a station's day that is theirs, which was moved or
    cancelled if the file is the same; for other days under the same number, which was moved, or belongs to the same
    treatment; and for one of their days at one of their stations where they have nothing, which may be another
    file's."""
    places = {(step["date"], step["station"]) for item in items for step in item.steps}
    days, stations = {day for day, _station in places}, {station for _day, station in places}
    numbers = {(item.patient_id, item.accession_number) for item in items}
    names = {item.name for item in items}
    found: dict[str, list[Item]] = {"not_in_file": [], "other_days": [], "elsewhere": []}
    for item in read_served_items(settings):
        step = item.steps[0]
        made = derive_study_uid(settings, item.patient_id, item.accession_number, step["date"])
        if item.name in names or item.study_instance_uid != made:
            continue
        if (step["date"], step["station"]) in places:
            found["not_in_file"].append(item)
        elif (item.patient_id, item.accession_number) in numbers:
            found["other_days"].append(item)
        elif step["date"] in days and step["station"] in stations:
            found["elsewhere"].append(item)
    return found


def await_verdicts(settings: Settings, items: list[Item], began: float) -> None:
    """Waits for the gate's verdict on each, which it gave after this import `began`."""
    end = time.monotonic() + 60 + len(items) / A_SECOND
    for item in show_progress(items, "through the gate"):
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


def show_progress(work: list[Any], what: str) -> Iterable[Any]:
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


def remove_unchanged(settings: Settings, items: list[Item]) -> list[Item]:
    """Those that went: under the name of one may be another by now."""
    with lock_spool(settings):
        still = [item for item in items if read_served_item(settings.served / item.name, settings) == item]
        for item in still:
            (settings.served / item.name).unlink()
    return still


def remove_items(settings: Settings, wanted: list[str]) -> dict[str, Any]:
    """Takes off the list what a person names. Refused for a name that is not on it."""
    with lock_spool(settings):
        items = read_served_items(settings)
        found = [item for item in items if item.names & set(wanted)]
        for item in found:
            (settings.served / item.name).unlink(missing_ok=True)
    known = {name for item in found for name in item.names}
    missing = [f"{one!a} is not on the list. Remedy: see orthanc-worklist list." for one in wanted if one not in known]
    if missing:
        raise Refused(*missing)
    return {"items": [item.facts for item in found]}


def list_items(settings: Settings, which: str) -> dict[str, Any]:
    """What is on the list in the order of the days; or what is `waiting` or in `quarantine`."""
    if which == "waiting":
        return {"waiting": sorted(ascii(path.name)[1:-1] for path in settings.incoming.iterdir())}
    if which == "quarantine":
        names = sorted(name for name in os.listdir(settings.quarantine) if name.endswith(".reason"))
        reasons = [settings.quarantine / name for name in names]
        return {"quarantine": [{"file": path.name[:-7], "reason": path.read_text()} for path in reasons]}
    items = read_served_items(settings)
    return {
        "items": [item.facts for item in sorted(items, key=lambda item: [(s["date"], s["time"]) for s in item.steps])]
    }


def check_files(settings: Settings, paths: list[str]) -> dict[str, Any]:
    """The items in these files. Refused with what is wrong with any of them."""
    problems, items = [], []
    for path in paths:
        try:
            items.append(parse_item(Path(path).read_bytes(), settings).facts)
        except Refused as refused:
            problems += [f"{path}: {problem}" for problem in refused.problems]
        except OSError as error:
            problems.append(f"{path}: {error.strerror}. Remedy: give the name of a file that may be read.")
    if problems:
        raise Refused(*problems)
    return {"items": items}
