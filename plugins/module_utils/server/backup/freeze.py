# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pauses Orthanc for a moment, and copies its index in that moment.

However this program ends, a watchdog in its own session resumes Orthanc.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import Refused
from ..core.files import write_atomic
from ..core.process import read_output, run_at_end
from ..orthanc.layout import VERSION
from ..orthanc.runtime import STOP_SECONDS, find_version
from .settings import MAKE_SPACE, STOPPED, Settings, stamp_now

FICLONE = 0x40049409  # linux/fs.h: the copy shares its blocks
STARTED = "Orthanc was started while its index was copied. Remedy: run the command again."


def is_frozen(pid: int) -> bool:
    """Whether every thread is stopped: one that is in the kernel writes on until it comes back."""
    try:
        tasks = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return False
    return all(text.rpartition(")")[2].split()[0] in "Tt" for text in tasks)


@contextlib.contextmanager
def raise_priority() -> Iterator[None]:
    """Runs at the highest priority for a moment, since devices wait."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)


@contextlib.contextmanager
def freeze_orthanc(settings: Settings) -> Iterator[dict[str, float]]:
    """Pauses Orthanc inside the block; it runs again afterwards whatever happens."""
    state, result = settings.runtime.read_state(), {"pause": 0.0}
    if state.restarts is None:  # the Orthanc that writes may have another name
        raise Refused(f"The container {settings.name} does not exist. Remedy: deploy again.")
    pid = state.pid
    if not pid:  # Orthanc is not running and does not write, unless it is started just now
        yield result
        if settings.runtime.read_state().pid:
            raise Refused(STARTED)
        return
    if not has_open_file(pid, settings.storage / "index"):
        what = f"{settings.name} (process {pid}) does not have {settings.storage}/index open"
        raise Refused(f"{what}. Remedy: set orthanc_storage_dir to the directory that Orthanc uses.")
    if settings.pause == "stop":
        with run_at_end(STOP_SECONDS * 2, *settings.runtime.build_command("start")):
            begin = time.monotonic()
            try:
                write_atomic(settings.directory / STOPPED, "", 0o600)
                command_orthanc(settings, "stop")
                yield result
                if settings.runtime.read_state().pid:
                    raise Refused(STARTED)
            finally:
                start_orthanc(settings)
                result["pause"] = time.monotonic() - begin
        return
    with run_at_end(settings.pause_seconds, "kill", "-CONT", str(pid)), raise_priority():
        begin = time.monotonic()
        try:
            os.kill(pid, signal.SIGSTOP)
            while not is_frozen(pid):
                if time.monotonic() - begin > settings.pause_seconds:
                    raise Refused("Orthanc cannot be paused. Remedy: set orthanc_backup_pause to stop.")
                time.sleep(0.0005)
            yield result
            if not is_frozen(pid):  # the watchdog, or a person, let it go on: the copy may be torn
                what = f"The copy took longer than {settings.pause_seconds} s, so Orthanc was resumed"
                raise Refused(
                    f"{what}. Remedy: raise orthanc_backup_pause_seconds, or set orthanc_backup_pause to stop."
                )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            result["pause"] = time.monotonic() - begin


def command_orthanc(settings: Settings, verb: str) -> None:
    """Starts or stops Orthanc, however long that takes; Refused."""
    read_output(*settings.runtime.build_command(verb), seconds=None)


def start_orthanc(settings: Settings) -> None:
    """Starts Orthanc, and forgets that this program stopped it."""
    command_orthanc(settings, "start")
    (settings.directory / STOPPED).unlink(missing_ok=True)


def has_open_file(pid: int, path: Path) -> bool:
    """Whether a process has this file open."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samefile(entry, path):
                return True
    return False


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, by reference where the file system can, over an existing one."""
    from_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)  # the directory is Orthanc's, and this is root
    to_fd = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.ioctl(to_fd, FICLONE, from_fd)
        except OSError:
            while os.sendfile(to_fd, from_fd, None, 1 << 30):
                pass
        os.ftruncate(to_fd, os.fstat(from_fd).st_size)
    finally:
        os.close(from_fd)
        os.close(to_fd)


def copy_index(settings: Settings, target: Path) -> dict[str, Any]:
    """Copies the index as of one moment into one file, and checks it."""
    index = settings.storage / "index"
    companions = [(Path(f"{index}-{end}"), Path(f"{target}-{end}")) for end in ("wal", "journal")]
    for path in (target, *(copy for _unused, copy in companions)):
        path.unlink(missing_ok=True)
    sizes = [path.stat().st_size for path in (index, *(source for source, _unused in companions)) if path.exists()]
    needed, free = 2 * sum(sizes), shutil.disk_usage(target.parent).free
    if needed > free:  # Orthanc needs the rest
        what = f"A copy of the index needs {needed >> 20} MiB in {target.parent}, and {free >> 20} MiB are free"
        raise Refused(f"{what}. Remedy: {MAKE_SPACE}.")
    before, begin = index.stat(), time.time()
    copy_file(index, target)  # the long part, which is still good if no checkpoint comes
    with freeze_orthanc(settings) as result:
        moment, after = stamp_now(), index.stat()
        # a file system's clock ticks slowly: a change at once after another may not show
        quiet = begin - before.st_mtime > 0.1
        if not quiet or (before.st_ino, before.st_size, before.st_mtime_ns) != (
            after.st_ino, after.st_size, after.st_mtime_ns
        ):  # fmt: skip
            copy_file(index, target)
        for source, copy in companions:
            if source.exists():
                copy_file(source, copy)
    problem = "the index cannot be read"
    try:
        with contextlib.closing(sqlite3.connect(target)) as database:
            database.execute("PRAGMA journal_mode=DELETE")  # takes the WAL in
            problem = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            database.execute("SELECT COUNT(*) FROM AttachedFiles").fetchone()
    except sqlite3.Error as error:
        problem = str(error)
    if problem != "ok":
        raise Refused(f"{index}: {problem}. Remedy: restore the last snapshot: orthanc-backup restore --dry-run.")
    return {"moment": moment, "pause": round(result["pause"], 4)}


def read_index_version(settings: Settings) -> str:
    """Who opened the index last; Orthanc notes it when it has (roles.lua)."""
    noted = settings.storage / VERSION
    return (find_version(noted.read_text()) if noted.is_file() else "") or settings.runtime.read_version()


def parse_version(version: str) -> list[int]:
    """The numbers of a version, to be compared; higher than any for an unnamed build."""
    found = find_version(version)
    return [int(part) for part in found.split(".")] if found else [10**6]
