# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The directories of the worklist: served items, and beside them in .spool those that wait, move or are in quarantine.

Applications write into one of them, and may create links or rename files there at any time: links are never followed.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from ..core import words
from ..core.errors import Refused
from ..core.escaping import escape
from ..core.files import write_atomic
from ..core.journal import say
from ..core.locks import hold_lock
from .item import MAX_BYTES, Check, Item, read_data_set
from .settings import Settings

FORGOTTEN_SECONDS = 3600  # a file that is not finished, or not renamed, within an hour goes to quarantine


def lock_spool(settings: Settings) -> AbstractContextManager[None]:
    """Serialises the intake, the tidying, and the command that removes items."""
    return hold_lock(settings.spool / "lock")


def list_served_names(settings: Settings) -> list[str]:
    """Names of the files that Orthanc serves, in order."""
    return sorted(name for name in os.listdir(settings.worklist_served) if name.endswith(".wl"))


def read_served_items(settings: Settings) -> list[Item]:
    """Every item that Orthanc serves."""
    read = (read_served_item(settings.worklist_served / name, settings) for name in list_served_names(settings))
    return [item for item in read if item]


def read_served_item(path: Path, settings: Settings) -> Item | None:
    """An item that the intake wrote, named after its file; its station may have left the inventory since then."""
    try:
        return replace(
            Check(read_data_set(path.read_bytes()), replace(settings, stations=[])).read_item(), name=path.name
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # the file bypassed the intake
        remedy = f"Remedy: move it to {settings.worklist_drop}."
        say(f"{path.name} was not written by the intake: {str(error)[:200]!a}. {remedy}", 4)
        return None


def truncate_file(path: Path) -> None:
    """Truncates the file to MAX_BYTES, unless it has become a link since it was inspected. Its time of modification
    stays, so that its name in quarantine is the same after a retry."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    seen = os.fstat(descriptor)
    if seen.st_size > MAX_BYTES:
        os.ftruncate(descriptor, MAX_BYTES)
        os.utime(descriptor, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    os.close(descriptor)


def move_file(path: Path, target: Path, seen: os.stat_result) -> bool:
    """Moves the file and returns whether it is the one that was inspected; another file of that name is moved back."""
    path.rename(target)
    now = target.lstat()
    same = now.st_ino == seen.st_ino and (not stat.S_ISREG(seen.st_mode) or now.st_mtime_ns == seen.st_mtime_ns)
    if not same and not os.path.lexists(path):
        target.rename(path)
    return same


def find_owner(uid: int) -> str:
    """The name of an account, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def quarantine_file(settings: Settings, path: Path, seen: os.stat_result, refused: Refused) -> bool:
    """Moves the file to quarantine, unopened, and returns whether it did. The name there is the same after a retry."""
    safe = re.sub(r"[^A-Za-z0-9._-]|[.](?=reason$)", "_", path.name)[-100:]  # only this function names .reason files
    held = settings.quarantine / f"{int(seen.st_mtime)}-{seen.st_ino}-{safe}"
    who, when = find_owner(seen.st_uid), words.say_moment(time.time())
    text = [f"{ascii(os.fsencode(path.name))[1:]} of {who}, {when}", *map(escape, refused.problems), ""]
    reason = held.with_name(f"{held.name}.reason")
    write_atomic(reason, "\n".join(text), 0o600, part=settings.unfinished)
    try:
        if seen.st_size > MAX_BYTES:
            seen = path.lstat()  # it was truncated
        moved = move_file(path, held, seen) or os.path.lexists(held)
    except FileNotFoundError:  # its writer has removed or renamed it
        moved = False
    if not moved:
        reason.unlink()
        return False
    say(f"quarantine: {held.name} of {who}: {' '.join(refused.problems)}", 4)
    return True


def quarantine_large_file(settings: Settings, path: Path, seen: os.stat_result) -> bool:
    """Truncates the file to MAX_BYTES, moves it to quarantine, and returns whether it did."""
    truncate_file(path)
    what = f"The file is {words.say_size(seen.st_size)}; only the first {words.say_size(MAX_BYTES)} are kept"
    return quarantine_file(settings, path, seen, Refused(f"{what}. Remedy: submit worklist items only."))


def has_item_name(name: str) -> bool:
    """Whether this is the name of a finished item: applications may write under any other name, then rename."""
    return name.endswith(".wl") and not name.startswith(".")
