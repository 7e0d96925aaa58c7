# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tidying: removes items whose study has arrived, puts away those whose day is long past, and abandoned files."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections import defaultdict
from datetime import date, datetime, timedelta, timezone
from typing import Any

from ..core.errors import Refused
from ..core.journal import say
from ..core.process import run_program
from ..orthanc.api import Api
from .intake import MAX_WAITING
from .item import MAX_BYTES, Item
from .settings import Settings
from .spool import (
    FORGOTTEN_SECONDS,
    find_owner,
    has_item_name,
    lock_spool,
    quarantine_file,
    quarantine_large_file,
    read_served_item,
    read_served_items,
    truncate_file,
)

ANSWER_SECONDS = 30
PAST_DAYS = 30  # until what was put away is deleted: a clock may be ahead, and its day not past
QUARANTINE_DAYS, QUARANTINE_FILES = 30, 1_000  # of one owner: a flood must not fill the disk of the images


def find_first_day(settings: Settings) -> str:
    """The first day whose items are kept, as YYYYMMDD."""
    return (date.today() - timedelta(days=settings.keep_days)).strftime("%Y%m%d")


def tidy_worklist(settings: Settings) -> None:
    """Removes items that are done, puts away those that are long past, and abandoned files. If Orthanc does not answer,
    items that may be done stay."""
    restore_items(settings)
    items = read_served_items(settings)
    past = {item.name for item in items if item.last_day < find_first_day(settings)}
    arrived: set[str] = set()
    try:
        arrived = {item.name for item in find_arrived(settings, items)}
    finally:
        done = past | arrived
        with lock_spool(settings):
            for item in items:
                path = settings.worklist_served / item.name
                if item.name not in done or read_served_item(path, settings) != item:
                    continue  # another may have replaced it by now
                if item.name in arrived:
                    path.unlink()
                    say(f"removes {item.name}: its study has arrived", 5)
                else:
                    settings.past.mkdir(mode=0o700, exist_ok=True)
                    path.rename(settings.past / item.name)
                    say(f"removes {item.name}: its day is long past", 5)
        purge_leftovers(settings)


def restore_items(settings: Settings) -> None:
    """Serves again what was put away while the clock was ahead, unless it was submitted again since, and deletes what
    has been there for long. By a clock that is put right nothing has been there for long."""
    with lock_spool(settings):
        for path in settings.past.glob("*.wl"):
            item, served = read_served_item(path, settings), settings.worklist_served / path.name
            ahead = path.lstat().st_ctime > time.time()  # the clock, when it was put away
            if item and ahead and item.last_day >= find_first_day(settings) and not served.exists():
                path.rename(served)
                say(f"serves {item.name} again: the clock was ahead when it was removed", 4)
            elif time.time() - path.lstat().st_ctime > PAST_DAYS * 86400:
                path.unlink()


def purge_leftovers(settings: Settings) -> None:
    """Moves abandoned and large files to quarantine, deletes old files from quarantine, and empties directories there,
    which may hold any amount."""
    work: list[tuple[str, ...]] = []
    unfinished: dict[int, int] = defaultdict(int)  # files of each owner
    with lock_spool(settings):
        for name in os.listdir(settings.incoming):
            path = settings.incoming / name
            with contextlib.suppress(OSError):  # the application has removed it, or the disk is full
                seen = path.lstat()
                if stat.S_ISREG(seen.st_mode) and seen.st_size > MAX_BYTES:  # the intake may have ended
                    quarantine_large_file(settings, path, seen)
                    continue
                unfinished[seen.st_uid] += not has_item_name(name)
                if not has_item_name(name) and unfinished[seen.st_uid] > MAX_WAITING:
                    path.unlink()  # a flood; in quarantine it would go, too
                elif not has_item_name(name) and time.time() - seen.st_ctime >= FORGOTTEN_SECONDS:
                    what = "It was not renamed to a name that ends in .wl within an hour"
                    quarantine_file(settings, path, seen, Refused(f"{what}. Remedy: rename it when it is complete."))
        for uid in [uid for uid, count in unfinished.items() if count > MAX_WAITING]:
            many = f"{unfinished[uid]} files of {find_owner(uid)} have no name that ends in .wl"
            say(f"removes all but {MAX_WAITING} of them: {many}", 4)
        number: dict[int, int] = defaultdict(int)  # files of each owner
        held = [(path.lstat(), path) for path in settings.quarantine.iterdir()]
        for seen, path in sorted(held, key=lambda entry: -entry[0].st_ctime):
            reason = path.name.endswith(".reason")
            if reason and not os.path.lexists(path.with_name(path.name.removesuffix(".reason"))):
                path.unlink()  # the intake was killed before it moved the file, whose writer has renamed it since
                continue
            number[seen.st_uid] += not reason
            excess = not reason and number[seen.st_uid] > QUARANTINE_FILES
            if excess or time.time() - seen.st_ctime > QUARANTINE_DAYS * 86400:
                if not reason:
                    say(f"removes {path.name} from quarantine", 4)
                # rm does not follow links, even if the directory's owner moves entries in it meanwhile; nor does find
                work.append(("rm", "-rf", "--one-file-system", "--", str(path)))
                path.with_name(f"{path.name}.reason").unlink(missing_ok=True)
            elif stat.S_ISDIR(seen.st_mode) and any(path.iterdir()):
                say(f"empties the directory {path.name} in quarantine", 4)
                work.append(("find", str(path), "-xdev", "-mindepth", "1", "-delete"))
            elif stat.S_ISREG(seen.st_mode) and seen.st_size > MAX_BYTES:
                truncate_file(path)  # its writer has continued
    for command in work:  # the intake does not wait for it
        run_program(*command, seconds=None)


def find_arrived(settings: Settings, items: list[Item]) -> list[Item]:
    """Items for which Orthanc has received a study."""
    queries = []
    for at in range(0, len(items), 50):
        part = items[at : at + 50]
        queries.append(("StudyInstanceUID", [item.study_instance_uid for item in part]))
        # a number with a wildcard would match studies of other patients
        plain = [item.accession_number for item in part if not re.search(r"[*?]", item.accession_number)]
        queries.append(("AccessionNumber", plain))
    if not queries:
        return []
    api = Api.as_administrator(settings.orthanc, ANSWER_SECONDS)
    found = [study for name, values in queries if values for study in find_studies(api, {name: "\\".join(values)})]
    api.close()
    studies: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for study in found:
        tags, patient = study["MainDicomTags"], study["PatientMainDicomTags"]
        studies[tags.get("StudyInstanceUID", ""),].append(study)
        studies[tags.get("AccessionNumber", "").strip(), patient.get("PatientID", "").strip()].append(study)
    stations: dict[str, set[str]] = defaultdict(set)
    for item in items:
        stations[item.study_instance_uid] |= item.stations
    today = f"{date.today():%Y%m%d}"
    return [
        item
        for item in items
        # images of one device do not say that the study's other device is done
        if (len(stations[item.study_instance_uid]) == 1 or item.last_day < today)
        and any(
            is_study_of(item, read_served_time(settings, item), study)
            for key in ((item.study_instance_uid,), (item.accession_number, item.patient_id))
            for study in studies.get(key, [])
        )
    ]


def read_served_time(settings: Settings, item: Item) -> float:
    """When the intake served it, in epoch seconds; infinity for an item that is gone."""
    try:
        return (settings.worklist_served / item.name).stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def is_study_of(item: Item, made: float, study: Any) -> bool:
    """Whether a study in Orthanc that has the item's UID, or its accession number and patient, belongs to the item.

    Some clinics use one accession number per treatment cycle, so that other days have the same number, and with some
    applications the same UID. So its last image must have arrived on the item's day or later. A study with another UID
    must also have a study date that late, and its last image must have arrived after the item was served: an earlier
    examination of that day, or an old study that is imported today, does not belong to the item.
    """
    tags = study["MainDicomTags"]
    if not study.get("LastUpdate"):  # metadata that a user may delete: then the time of arrival is unknown
        return False
    last = datetime.strptime(study["LastUpdate"], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)  # as Orthanc writes it
    came = last.astimezone().strftime("%Y%m%d")
    if tags.get("StudyInstanceUID") == item.study_instance_uid:
        return came >= item.last_day
    dated = tags.get("StudyDate", "").strip() or came
    return min(came, dated) >= item.last_day and last.timestamp() >= int(made)


def find_studies(api: Api, query: dict[str, str]) -> Any:
    """The studies that match (Orthanc Book, "Performing Finds within Orthanc"; lists of values by PS3.4, C.2.2.2.2)."""
    return api.post("/tools/find", {"Level": "Study", "Expand": True, "CaseSensitive": True, "Query": query})
