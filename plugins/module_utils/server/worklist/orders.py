# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The commands for the worklist: schedule the rows of a file, list, remove and check items."""

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
from ..core.output import draw_bar
from . import row as rows
from . import spreadsheet
from .intake import A_SECOND, MAX_WAITING
from .item import Item, derive_uid, encode_item, parse_item
from .settings import Settings
from .spool import lock_spool, read_served_item, read_served_items
from .tidy import find_first_day


def read_file(path: str, given: argparse.Namespace) -> dict[int, dict[str, str]]:
    """The rows of a file or of standard input, by row number."""
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            data = file.read(spreadsheet.MAX_BYTES + 1)
    except OSError as error:
        raise Misused(f"{path}: {error.strerror}. Remedy: name a file that this account can read.") from None
    try:
        return spreadsheet.read_rows(data, "standard input" if path == "-" else path, given.encoding or "", given.sheet)
    except spreadsheet.Unreadable as unreadable:
        raise Refused(*unreadable.problems) from None


def complete_row(row: dict[str, str], settings: Settings) -> dict[str, str]:
    """The row with the values that a clinic may leave out. Generated values are the same each time, so that a later
    import replaces an order even if its time, its station or the spelling of the name has changed."""
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
    """The StudyInstanceUID that an import generates. It depends on the day, since one accession number may cover a
    treatment with several appointments."""
    return derive_uid(settings.hostname, patient, accession, day)


def build_data(row: dict[str, str]) -> bytes:
    """The worklist file of a complete row, as an application would write it."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item, step = Dataset(), Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings; problems with values are reported later
        for name, value in row.items():
            setattr(step if name.startswith("Scheduled") or name == "Modality" else item, name, value)
        step.ScheduledProcedureStepDescription = row.get("RequestedProcedureDescription", "")
        step.ScheduledProcedureStepID = item.RequestedProcedureID = "1"
        item.ScheduledProcedureStepSequence = Sequence([step])
        return encode_item(item, row["StudyInstanceUID"])


def build_item(row: dict[str, str], settings: Settings, problems: dict[str, str]) -> tuple[Item, bytes]:
    """The item of a row, and the file to submit. Raises Refused with `problems` (by keyword) and those found here."""
    found = list(problems.values())
    try:
        data = build_data(complete_row(row, settings))
        item = parse_item(data, settings)
        if not found and item.last_day < find_first_day(settings):
            what = "ScheduledProcedureStepStartDate is so long ago that the item would be removed at once"
            raise Refused(f"{what}. Remedy: correct it, or raise orthanc_worklist_keep_days.")
    except Refused as refused:
        found += [problem for problem in refused.problems if problem.split(" ")[0] not in problems]
    except Exception as error:  # from pydicom, for a value that it cannot write
        found += [] if found else [f"{str(error)!a}. Remedy: correct it."]
    if found:
        raise Refused(*found)
    return item, data


def build_items(settings: Settings, path: str, given: argparse.Namespace) -> list[tuple[Item, bytes]]:
    """The item and the file of every row. Raises Refused with the problems of all rows."""
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
                what = f"It repeats the order of row {seen[item.name]}: the same {key}"
                remedy = "Remedy: delete the row that is no longer valid, or give each its own AccessionNumber"
                raise Refused(f"{what}. {remedy}.")
            made.append((item, data))
        except Refused as refused:
            problems += [f"Row {number}: {problem}" for problem in refused.problems]
    problems += rows.find_contradictions(orders)
    if problems:
        raise Refused(*problems, "Nothing was scheduled. Remedy: correct these rows and import the whole file again.")
    return made


def create_items(settings: Settings, path: str, given: argparse.Namespace) -> dict[str, Any]:
    """Submits every row of the file, or none of them, and for root waits until all are on the list."""
    root = os.geteuid() == 0
    if given.replace and not root:  # other accounts cannot read the list
        raise Misused("--replace: only root may remove items from the list. Remedy: run the command as root.")
    made = build_items(settings, path, given)
    if len(made) > MAX_WAITING:
        raise Refused(f"The file has {len(made)} rows, more than {MAX_WAITING}. Remedy: import it in parts.")
    drop = settings.incoming if root else settings.worklist_drop  # root would not notice a missing mount
    began = submit_files(drop, made)
    items = [item for item, _data in made]
    result: dict[str, Any] = {"items": [item.facts for item in items]}
    if root:
        await_verdicts(settings, items, began)
        earlier = find_leftovers(settings, items)
        if given.replace:
            earlier["removed"] = remove_unchanged(settings, earlier.pop("not_in_file"))
        result |= {kind: [item.facts for item in found] for kind, found in earlier.items()}
    return result


def submit_files(drop: Path, made: list[tuple[Item, bytes]]) -> float:
    """Submits all files once every one is written, and returns when it began, by the clock that dates the intake's
    reasons. Raises Refused where the disk is full."""
    began, done = 0.0, 0
    waiting: list[str] = []
    try:
        for _item, data in show_progress(made, "submitting"):
            # a new file with an unpredictable name: others can write here, too, and could create a link there
            descriptor, path = tempfile.mkstemp(".part", dir=drop)
            waiting.append(path)
            with os.fdopen(descriptor, "wb") as file:
                began = began or os.fstat(descriptor).st_mtime
                file.write(data)
        for (item, _data), path in zip(made, waiting, strict=True):
            os.rename(path, drop / item.name)
            done += 1
    except OSError as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise  # its remedy is known
        what = f"{done} of {len(made)} rows were submitted: {error.strerror}"
        raise Refused(f"{what}. Remedy: correct that, and import the whole file again.") from None
    finally:
        for path in waiting[done:]:
            Path(path).unlink(missing_ok=True)
    return began


def find_leftovers(settings: Settings, items: list[Item]) -> dict[str, list[Item]]:
    """Items from earlier imports that are still on the list, by kind:

    not_in_file: for a station and day of these items; moved or cancelled, if the file is the same one.
    other_days: for other days under the same accession number; moved, or part of the same treatment.
    elsewhere: for one of these days and one of these stations, but not together; may come from another file.
    """
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
    """Waits until the intake has served or rejected each item. `began` is when this import began, in epoch seconds."""
    end = time.monotonic() + 60 + len(items) / A_SECOND
    for item in show_progress(items, "serving"):
        while (settings.incoming / item.name).exists():
            if time.monotonic() > end:
                raise Refused(f"{item.name} is still waiting. Remedy: see journalctl -u orthanc-worklist.")
            time.sleep(0.05)
    problems = []
    for item in items:
        reasons = sorted(settings.quarantine.glob(f"*-{item.name}.reason"))
        reasons = [path for path in reasons if path.stat().st_mtime >= began]
        try:
            # if the intake rejects an item, the one that it would replace is still there
            good = (settings.worklist_served / item.name).read_bytes() == item.data
        except FileNotFoundError:  # without a reason from the intake, its study has arrived
            good = not reasons
        if not good:
            reason = " ".join(reasons[-1].read_text().splitlines()) if reasons else "see the journal"
            problems.append(f"{item.name} is in quarantine: {reason}")
    if problems:
        raise Refused(*problems)


def show_progress(work: list[Any], what: str) -> Iterable[Any]:
    """Shows a progress bar on a terminal if there is much to do."""
    if not sys.stderr.isatty() or len(work) < 50:
        yield from work
        return
    for number, one in enumerate(work, 1):
        yield one
        if number == len(work) or number % max(1, len(work) // 100) == 0:
            draw_bar(what, number / len(work), f"{number}/{len(work)}")


def remove_unchanged(settings: Settings, items: list[Item]) -> list[Item]:
    """Removes those that are still the same on the list and returns them: another may have replaced one by now."""
    with lock_spool(settings):
        still = [item for item in items if read_served_item(settings.worklist_served / item.name, settings) == item]
        for item in still:
            (settings.worklist_served / item.name).unlink()
    return still


def remove_items(settings: Settings, wanted: list[str]) -> dict[str, Any]:
    """Removes the named items from the list. Raises Refused for a name that is not on it."""
    with lock_spool(settings):
        items = read_served_items(settings)
        found = [item for item in items if item.names & set(wanted)]
        for item in found:
            (settings.worklist_served / item.name).unlink(missing_ok=True)
    known = {name for item in found for name in item.names}
    missing = [f"{one!a} is not on the list. Remedy: see orthanc-worklist list." for one in wanted if one not in known]
    if missing:
        raise Refused(*missing)
    return {"items": [item.facts for item in found]}


def list_items(settings: Settings, which: str) -> dict[str, Any]:
    """The items on the list, by day; or the files that are `waiting` or in `quarantine`."""
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
    """The items in these files. Raises Refused with the problems of all of them."""
    problems, items = [], []
    for path in paths:
        try:
            items.append(parse_item(Path(path).read_bytes(), settings).facts)
        except Refused as refused:
            problems += [f"{path}: {problem}" for problem in refused.problems]
        except OSError as error:
            problems.append(f"{path}: {error.strerror}. Remedy: name a file that this account can read.")
    if problems:
        raise Refused(*problems)
    return {"items": items}
