# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The disks: whether the images' one is mounted, how full each is and when it will be full, and the guard before that.

When the images' disk is almost full, new images are refused while the others are still read: Orthanc on a full disk
cannot even start.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ...core.journal import ERROR, NOTICE, say
from ...core.monitor_state import CLEAR_PERCENT, size_reserve
from ...orthanc.layout import DISK_GUARD, MARKER, RESERVE
from ..context import DAY, HOUR, Context, Sample, observe
from ..history import estimate_growth

HISTORY_DAYS = 90


def probe_mount(context: Context) -> Iterator[Sample]:
    """Whether the images' disk is mounted, is the one of the deploy, and can be written to."""
    storage = context.settings.storage
    there = os.path.ismount(context.settings.mount) and (storage / MARKER).exists()
    yield observe("mount_ok", there)
    if there:  # after an error of the disk the kernel lets nobody write to it
        yield observe("storage_read_only", bool(os.statvfs(storage).f_flag & os.ST_RDONLY))


def probe_disks(context: Context) -> Iterator[Sample]:
    """Size, free space and files of each disk; forecast and guard of the images' one."""
    seen: set[int] = set()
    storage = context.settings.storage
    temporary = Path(context.options.get("TemporaryDirectory", storage))
    # a full one of the last two stops the monitor's own state, the mail queue and updates
    others = {"log": context.settings.logs, "state": context.settings.directory, "root": Path("/")}
    for name, path in {"storage": storage, "tmp": temporary, **others}.items():
        if name == "storage" and not (storage / MARKER).exists():
            continue  # these would be another disk's numbers; MountGone reports it
        device = path.stat().st_dev
        if device in seen:
            continue  # each disk is reported once, by the most important of what is on it
        seen.add(device)
        known = os.statvfs(path)
        free, used = known.f_bavail * known.f_frsize, (known.f_blocks - known.f_bfree) * known.f_frsize
        said = f"{path}: {free / 1e9:.1f} GB of {(used + free) / 1e9:.1f} GB are free"
        yield observe("fs_size_bytes", used + free, "fs", name)
        yield observe("fs_free_bytes", free, "fs", name)
        yield observe("fs_free_percent", 100 * free / max(used + free, 1), "fs", name, said)
        if known.f_files:
            yield observe("fs_inodes_free_percent", 100 * known.f_favail / known.f_files, "fs", name)
        if name == "storage":
            yield from forecast(context, used, free)
            yield from guard_disk(context, free, used + free)


def forecast(context: Context, used: int, free: int) -> Iterator[Sample]:
    """Growth and days until images are refused. A point an hour is kept, and the last one is now."""
    state, now = context.state, context.now
    history = state.get("disk", {}).get("history", [])
    if not history or now - history[-1][0] >= HOUR or now < history[-1][0]:
        since = now - HISTORY_DAYS * DAY
        history = [*[one for one in history if since < one[0] < now], [int(now), used]]
    growth, note = estimate_growth([*history, [now, used]])
    state["disk"] = {
        **{"path": str(context.settings.storage), "total_bytes": used + free, "free_bytes": free, "history": history},
        **{"growth_bytes_per_day": growth, "days_until_full": None, "note": note},
    }
    if growth is not None:
        yield observe("growth_bytes_per_day", growth, "fs", "storage")
        if growth > 0:
            # until images are refused
            days = max(free - context.settings.disk_guard_percent * (used + free) / 100, 0) / growth
            state["disk"]["days_until_full"] = round(days, 1)
            said = f"{days:.0f} days at {growth / 1e6:.0f} MB a day"
            yield observe("days_until_full", days, "fs", "storage", said)


# --- the guard ------------------------------------------------------------------------------------
def guard_disk(context: Context, free: int, size: int) -> Iterator[Sample]:
    """Frees the reserve and refuses new images when too little is free, and reverses both later.

    The directory belongs to Orthanc, so anything may be under the two names: no link is followed.
    """
    storage, percent = context.settings.storage, context.settings.disk_guard_percent
    guard, reserve = storage / DISK_GUARD, storage / RESERVE
    limit, kept = percent * size / 100, size_reserve(size)
    held = stat_regular(reserve)
    if percent and free < limit:
        with contextlib.suppress(OSError):
            clear_path(reserve)  # first: the disk guard is a file as well
        if not os.path.lexists(guard):
            say("new images are refused: the disk is almost full", ERROR)
        if not stat_regular(guard, 0o444):
            clear_path(guard)
            create_file(guard, 0o644)
    elif not percent or free >= limit + CLEAR_PERCENT * size / 100 + kept - (held.st_size if held else 0):
        if os.path.lexists(guard):
            clear_path(guard)
            say("new images are accepted again", NOTICE)
        if not percent:
            clear_path(reserve)
        elif not held or not held.st_size:
            clear_path(reserve)
            create_file(reserve, 0o600, kept)
    yield observe("disk_guard", os.path.lexists(guard), "fs", "storage")


def stat_regular(path: Path, mode: int = 0) -> os.stat_result | None:
    """What is known of a regular file of root's with at least this mode; None for everything else."""
    if not os.path.lexists(path):
        return None
    known = path.lstat()
    right = stat.S_ISREG(known.st_mode) and known.st_uid == os.geteuid() and known.st_mode & mode == mode
    return known if right else None


def clear_path(path: Path) -> None:
    """Removes whatever has this name; a directory is renamed."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}-{time.time_ns()}"))
    else:
        path.unlink(missing_ok=True)


def create_file(path: Path, mode: int, size: int = 0) -> None:
    """A new file with so many bytes of the disk, or none."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        os.fchmod(handle, mode)  # whatever the umask
        if size:
            os.posix_fallocate(handle, 0, size)
    except OSError:
        clear_path(path)
        raise
    finally:
        os.close(handle)
