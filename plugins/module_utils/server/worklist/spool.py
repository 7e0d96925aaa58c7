# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The directories of the worklist: what Orthanc serves, and what waits, goes or is held beside it in .spool.

Applications write into one of them, and may lay links there or rename files meanwhile: nothing is followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..core import words
from ..core.escaping import escape
from ..core.journal import say
from .item import MAX_BYTES, Check, Item, data_set
from .settings import Refused, Settings

FORGOTTEN_SECONDS = 3600  # and one that is never finished, or never gets its name, goes after an hour


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


def named(name: str) -> bool:
    """Applications may write under any other name, and rename."""
    return name.endswith(".wl") and not name.startswith(".")
