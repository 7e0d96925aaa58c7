# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gate: takes each file that an application hands over, and serves it or puts it into quarantine.

Owners take turns, nobody's file keeps the others waiting, and what is still being written waits.
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

from ..core import words
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
    read_served_item,
    truncate_file,
)

MAX_WAITING = 5_000  # files of one owner; a pass over more would keep the others waiting
SETTLE_SECONDS = 1  # a file that just changed may change again
DOUBT_SECONDS = 15  # a file that is not right may be written in several goes
LINGER_SECONDS = 10  # the gate ends when nothing has come for so long; systemd starts it again
BURST, A_SECOND = 2_000, 20  # files of one owner; those above wait


class Gate:
    """Takes what is in incoming, by pass after pass over the directory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.doubtful: dict[tuple[int, int, int], Refused] = {}  # files that are not right, yet
        self.reported: set[str] = set()  # errors that are in the journal
        self.tokens: dict[int, tuple[float, float]] = {}  # owner: files that may come now, as of when
        self.studies: dict[str, set[str]] = {}  # study: names of the files that are served; as of this pass
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody opens a file that has our lease

    def run(self) -> None:
        """Until nothing has been there for a while."""
        quiet = time.monotonic()
        while time.monotonic() - quiet < LINGER_SECONDS:
            with lock_spool(self.settings):
                there, done = self.process_incoming()
            if there:
                quiet = time.monotonic()
            if not done:
                time.sleep(0.2)

    def process_incoming(self) -> tuple[int, int]:
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
                    done += self.process_file(name, number >= MAX_WAITING)
                except FileNotFoundError:
                    pass  # the application has taken it back
                except OSError as error:  # a full disk: everything stays where it is
                    if str(error) not in self.reported:
                        say(f"{name!a} has to wait, and maybe others: {error}", 3)
                        self.reported.add(str(error))
        if done:
            sync_directory(self.settings.served)
        return there, done

    def process_file(self, name: str, crowded: bool = False) -> bool:
        """Whether this file went, served or into quarantine."""
        path = self.settings.incoming / name
        seen = path.lstat()
        age = time.time() - seen.st_ctime
        if stat.S_ISREG(seen.st_mode) and seen.st_size > MAX_BYTES:
            truncate_file(path)
            what = f"It has {words.say_size(seen.st_size)}, of which the first {words.say_size(MAX_BYTES)} are kept"
            large = Refused(f"{what}. Remedy: submit worklist items only.")
            return quarantine_file(self.settings, path, seen, large)
        if crowded:
            what = f"More than {MAX_WAITING} files of its owner wait. Remedy: submit them again, one after the other"
            return self.spend_token(seen.st_uid) and quarantine_file(self.settings, path, seen, Refused(f"{what}."))
        if not has_item_name(name):
            return False
        if not stat.S_ISREG(seen.st_mode):
            what = "It is not a regular file. Remedy: write a file there."
            return self.spend_token(seen.st_uid) and quarantine_file(self.settings, path, seen, Refused(what))
        if 0 <= age < SETTLE_SECONDS:
            return False
        key = (seen.st_ino, seen.st_ctime_ns, seen.st_size)
        try:
            if seen.st_nlink > 1:  # for a moment while sftp-server renames, and then no more
                raise Refused("It has another name (a hard link). Remedy: copy the file there.")
            if key in self.doubtful:
                raise self.doubtful[key]
            if not self.spend_token(seen.st_uid):
                return False
            data = self.read_closed(path, seen)
            if data is None:
                if age >= FORGOTTEN_SECONDS:
                    what = "It has been open for writing for an hour. Remedy: close it, or write it under another name."
                    raise Refused(what)
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
        """Whether another file of this owner may come now."""
        left, since = self.tokens.get(uid, (float(BURST), time.monotonic()))
        left = min(BURST, left + (time.monotonic() - since) * A_SECOND)
        self.tokens[uid] = (left - (left >= 1), time.monotonic())
        return left >= 1

    @staticmethod
    def read_closed(path: Path, seen: os.stat_result) -> bytes | None:
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

    def serve_item(self, item: Item) -> None:
        """Writes it where Orthanc serves it. Refused for another patient's study, and for one item too many."""
        if not self.studies:
            self.studies = defaultdict(set)
            for name in list_served_names(self.settings):
                self.studies[name.split("_")[0]].add(name)
        names = self.studies[item.study_instance_uid]
        for name in names:
            other = read_served_item(self.settings.served / name, self.settings)
            if other and other.patient_id != item.patient_id:
                what = "StudyInstanceUID is that of an item for another PatientID, and the images would mix"
                raise Refused(f"{what}. Remedy: give each study a UID of its own.")
        count = sum(map(len, self.studies.values()))
        if count >= self.settings.max_items and item.name not in names:
            what = f"{count} items are served, and orthanc_worklist_max_items is {self.settings.max_items}"
            raise Refused(f"{what}. Remedy: orthanc-worklist remove those that are done, or set more.")
        served = self.settings.served
        path = served / item.name
        # handed over once more it stays as it is: what came since it was served first may be its study
        if item.name not in names or path.read_bytes() != item.data:
            orthanc = served.stat()  # the owner of the directory, who need not have a name
            part = self.settings.unfinished
            write_atomic(path, item.data, 0o640, orthanc.st_uid, orthanc.st_gid, part)
        names.add(item.name)
        say(f"serves {item.name}")
