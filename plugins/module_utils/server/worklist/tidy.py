# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tidying up: items whose study has come or whose day is long past, and files that nobody will finish."""

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
from .item import MAX_BYTES, Item
from .settings import Settings
from .spool import (
    FORGOTTEN_SECONDS,
    has_item_name,
    lock_spool,
    quarantine_file,
    read_served_item,
    read_served_items,
    truncate_file,
)

ANSWER_SECONDS = 30
QUARANTINE_DAYS, QUARANTINE_FILES = 30, 1_000  # of one owner: a flood must not take the images' disk


def find_first_day(settings: Settings) -> str:
    """Of those whose items are kept."""
    return (date.today() - timedelta(days=settings.keep_days)).strftime("%Y%m%d")


def tidy_worklist(settings: Settings) -> None:
    """Takes away items that are done or long past, and what nobody will finish; keeps the rest if Orthanc is away."""
    items = read_served_items(settings)
    done = {item.name: "its day is long past" for item in items if item.last_day < find_first_day(settings)}
    try:
        done |= {item.name: "its study has arrived" for item in find_arrived(settings, items)}
    finally:
        with lock_spool(settings):
            for item in items:
                path = settings.served / item.name
                if item.name in done and read_served_item(path, settings) == item:  # not another by now
                    path.unlink()
                    say(f"removes {item.name}: {done[item.name]}", 5)
        purge_leftovers(settings)


def purge_leftovers(settings: Settings) -> None:
    """What nobody will finish goes into quarantine, and what was there for long goes for good."""
    with lock_spool(settings):
        for name in os.listdir(settings.incoming):
            path = settings.incoming / name
            with contextlib.suppress(OSError):  # the application has taken it back; a full disk
                seen = path.lstat()
                if not has_item_name(name) and time.time() - seen.st_ctime >= FORGOTTEN_SECONDS:
                    what = "For an hour its name has not become one that ends in .wl"
                    quarantine_file(settings, path, seen, Refused(f"{what}. Remedy: rename it when it is whole."))
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
                run_program("rm", "-rf", "--one-file-system", "--", str(path), seconds=None)
                path.with_name(f"{path.name}.reason").unlink(missing_ok=True)
            elif stat.S_ISREG(seen.st_mode) and seen.st_size > MAX_BYTES:
                truncate_file(path)  # its writer has gone on


def find_arrived(settings: Settings, items: list[Item]) -> list[Item]:
    """Items for which Orthanc has received a study."""
    queries = []
    for at in range(0, len(items), 50):
        part = items[at : at + 50]
        queries.append(("StudyInstanceUID", [item.study_instance_uid for item in part]))
        # one with a wildcard would ask for everybody's studies
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
    return [
        item
        for item in items
        if any(
            is_study_of(item, read_served_time(settings, item), study)
            for key in ((item.study_instance_uid,), (item.accession_number, item.patient_id))
            for study in studies.get(key, [])
        )
    ]


def read_served_time(settings: Settings, item: Item) -> float:
    """When the gate served it, in seconds since 1970; never, for one that has gone meanwhile."""
    try:
        return (settings.served / item.name).stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def is_study_of(item: Item, made: float, study: Any) -> bool:
    """Whether a study of Orthanc's, which has the item's UID or its accession number and patient, is that of the item.

    Clinics number by treatment cycle: the number, and with some applications the UID, is that of other days, too. So
    its last image must have come on the item's day or later. A study with a UID of its own must also be dated so, and
    its last image have come after the item: an earlier examination of that day, or an old study that is imported
    today, is another's.
    """
    tags = study["MainDicomTags"]
    if not study.get("LastUpdate"):  # metadata of a study, which a user may delete: then nothing tells when it came
        return False
    last = datetime.strptime(study["LastUpdate"], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)  # as Orthanc writes it
    came = last.astimezone().strftime("%Y%m%d")
    if tags.get("StudyInstanceUID") == item.study_instance_uid:
        return came >= item.last_day
    dated = tags.get("StudyDate", "").strip() or came
    return min(came, dated) >= item.last_day and last.timestamp() >= int(made)


def find_studies(api: Api, query: dict[str, str]) -> Any:
    """Studies that match (Orthanc Book, "Performing Finds within Orthanc"), a list of values by PS3.4, C.2.2.2.2."""
    return api.post("/tools/find", {"Level": "Study", "Expand": True, "CaseSensitive": True, "Query": query})
