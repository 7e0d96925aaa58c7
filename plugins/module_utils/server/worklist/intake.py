# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The intake: takes each file that an application submits, and serves it or moves it to quarantine.

Owners take turns, so that no file delays those of other owners. A file that is still being written waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import stat
import time
from collections import defaultdict
from pathlib import Path

from ..core.errors import Refused
from ..core.files import sync_directory, write_atomic
from ..core.journal import say
from .item import MAX_BYTES, Item, parse_item
from .settings import Settings
from .spool import (
    FORGOTTEN_SECONDS,
    has_item_name,
    list_served_names,
    lock_spool,
    move_file,
    quarantine_file,
    quarantine_large_file,
    read_served_item,
)

MAX_WAITING = 5_000  # files of one owner; a pass over more would delay other owners
SETTLE_SECONDS = 1  # a file that has just changed may change again
DOUBT_SECONDS = 15  # a file that is invalid may be written in several steps
LINGER_SECONDS = 10  # the intake ends when no file has arrived for this long; systemd starts it again
BURST, A_SECOND = 2_000, 20  # files of one owner; files above this rate wait


class Intake:
    """Processes the files in the incoming directory, one pass after another."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.doubtful: dict[tuple[int, int, int], Refused] = {}  # files that are not valid yet
        self.reported: set[str] = set()  # errors that are already in the journal
        self.tokens: dict[int, tuple[float, float]] = {}  # owner: files that it may submit now, as of when
        self.spent: set[int] = set()  # owners whose other files wait for the next pass, in order
        self.studies: dict[str, set[str]] = {}  # study: names of the served files, as of this pass
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent when another process opens a file that we hold a lease on

    def run(self) -> None:
        """Runs until the directory has been empty for a while."""
        quiet = time.monotonic()
        while time.monotonic() - quiet < LINGER_SECONDS:
            with lock_spool(self.settings):
                there, done = self.process_incoming()
            if there:
                quiet = time.monotonic()
            if not done:
                time.sleep(0.2)

    def process_incoming(self) -> tuple[int, int]:
        """Makes one pass and returns how many files were there, and how many it processed."""
        self.studies, self.spent = {}, set()
        taken = self.settings.taken
        if taken.exists():  # by an intake that was killed: process it again
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
            del queue[MAX_WAITING + 100 :]  # at most 100 files above the limit in one pass
        # owners take turns: an owner who submits too many delays each of the others by one file at most
        for number, turn in enumerate(itertools.zip_longest(*queues.values())):
            for _changed, name in filter(None, turn):
                try:
                    done += self.process_file(name, number >= MAX_WAITING)
                except FileNotFoundError:
                    pass  # the application has removed it
                except OSError as error:  # a full disk: everything stays where it is
                    if str(error) not in self.reported:
                        say(f"{name!a} has to wait, and maybe other files: {error}", 3)
                        self.reported.add(str(error))
        if done:
            sync_directory(self.settings.worklist_served)
        return there, done

    def process_file(self, name: str, crowded: bool = False) -> bool:
        """Whether this file was processed: served, or moved to quarantine."""
        path = self.settings.incoming / name
        seen = path.lstat()
        age = time.time() - seen.st_ctime
        if stat.S_ISREG(seen.st_mode) and seen.st_size > MAX_BYTES:
            return quarantine_large_file(self.settings, path, seen)
        if crowded:
            what = f"More than {MAX_WAITING} files of its owner are waiting. Remedy: submit them again, one by one"
            return self.spend_token(seen.st_uid) and quarantine_file(self.settings, path, seen, Refused(f"{what}."))
        if not has_item_name(name):
            return False
        if not stat.S_ISREG(seen.st_mode):
            what = "It is not a regular file. Remedy: submit a regular file."
            return self.spend_token(seen.st_uid) and quarantine_file(self.settings, path, seen, Refused(what))
        if 0 <= age < SETTLE_SECONDS:
            return False
        key = (seen.st_ino, seen.st_ctime_ns, seen.st_size)
        try:
            if seen.st_nlink > 1:  # sftp-server makes a hard link for a moment while it renames
                raise Refused("The file has another name (a hard link). Remedy: submit a copy of the file.")
            if key in self.doubtful:
                raise self.doubtful[key]
            if seen.st_uid in self.spent:
                return False
            data = self.read_closed(path, seen)
            if data is None:
                if age >= FORGOTTEN_SECONDS:
                    what = "It has been open for writing for an hour. Remedy: close it, or write and then rename it."
                    raise Refused(what)
                return False
            if not self.spend_token(seen.st_uid):
                return False
            self.serve_item(parse_item(data, self.settings))
        except Refused as refused:
            if 0 <= age < DOUBT_SECONDS:
                self.doubtful[key] = refused
                return False
            self.doubtful.pop(key, None)
            return quarantine_file(self.settings, path, seen, refused)
        move_file(path, self.settings.taken, seen)
        self.settings.taken.unlink(missing_ok=True)
        return True

    def spend_token(self, uid: int) -> bool:
        """Whether this owner may submit another file now; if not, none in the rest of this pass."""
        if uid in self.spent:
            return False
        left, since = self.tokens.get(uid, (float(BURST), time.monotonic()))
        left = min(BURST, left + (time.monotonic() - since) * A_SECOND)
        self.tokens[uid] = (left - (left >= 1), time.monotonic())
        if left < 1:
            self.spent.add(uid)
        return left >= 1

    @staticmethod
    def read_closed(path: Path, seen: os.stat_result) -> bytes | None:
        """The bytes of a file; None while a process has it open for writing."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            try:
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except BlockingIOError:
                return None
            except OSError:  # leases are not available here, as in some containers
                if 0 <= time.time() - seen.st_ctime < DOUBT_SECONDS:
                    return None
            now = os.fstat(descriptor)
            if (now.st_ino, now.st_ctime_ns, now.st_size) != (seen.st_ino, seen.st_ctime_ns, seen.st_size):
                return None
            return file.read(MAX_BYTES + 1)

    def serve_item(self, item: Item) -> None:
        """Writes it where Orthanc serves it, in place of the items that have its steps. Raises Refused for another
        patient's study, for steps that would take another item's place in part, and above the item limit."""
        if not self.studies:
            self.studies = defaultdict(set)
            for name in list_served_names(self.settings):
                self.studies[name.split("_")[0]].add(name)
        names = self.studies[item.study_instance_uid]
        replaced = set()
        for name in names:
            other = read_served_item(self.settings.worklist_served / name, self.settings)
            if other:
                check_other(item, other)
                replaced |= {name} if name != item.name and item.given & other.codes else set()
        count = sum(map(len, self.studies.values()))
        if count >= self.settings.max_items and item.name not in names:
            what = f"{count} items are served, and orthanc_worklist_max_items is {self.settings.max_items}"
            raise Refused(f"{what}. Remedy: remove finished items with orthanc-worklist remove, or raise the limit.")
        served = self.settings.worklist_served
        path = served / item.name
        # an item that is submitted again stays as it is: a study that arrived since it was first served may be its own
        if item.name not in names or path.read_bytes() != item.data:
            orthanc = served.stat()  # the owner of the directory; the account may have no name
            part = self.settings.unfinished
            write_atomic(path, item.data, 0o640, orthanc.st_uid, orthanc.st_gid, part)
        names.add(item.name)
        say(f"serves {item.name}")
        for name in replaced:
            (served / name).unlink(missing_ok=True)
            names.remove(name)
            say(f"removes {name}: {item.name} has its steps")


def check_other(item: Item, other: Item) -> None:
    """Raises Refused where an item would mix two patients, take a patient off another station's list unnoticed, or
    have a step that stays on the list in another item as well."""
    if other.patient_id != item.patient_id:
        what = "StudyInstanceUID belongs to an item with another PatientID, and the images would be mixed"
        raise Refused(f"{what}. Remedy: give each study its own UID.")
    lost = other.stations - item.stations
    if item.numbered and item.name == other.name and lost:
        here, there = " ".join(sorted(item.stations)), " ".join(sorted(lost))
        what = f"The step for {here} has no ScheduledProcedureStepID, and would replace the item for {there}"
        remedy = "give each step an ID of its own; if it was moved, remove the former item first"
        raise Refused(f"{what}. Remedy: {remedy} (orthanc-worklist remove).")
    shared, rest = item.given & other.codes, other.codes - item.codes
    if item.name != other.name and shared and rest:
        what = f"Step {min(shared)!a} is on the list in one item with step {min(rest)!a}"
        raise Refused(f"{what}. Remedy: submit all of them in one file, or use orthanc-worklist remove first.")
