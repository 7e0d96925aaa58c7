# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc stands still for a moment, and its index is copied in that moment.

However this program ends, a watchdog of its own session lets Orthanc go on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .settings import STOP_SECONDS, STOPPED, SYSTEM_REMEDIES, Refused, Settings, now, run, written

FICLONE = 0x40049409  # linux/fs.h: the copy shares its blocks
START_SECONDS = 300  # until Orthanc answers
STARTED = "Orthanc was started while its index was copied. Remedy: run it again."


def main_process(settings: Settings) -> int:
    """Orthanc's process, seen from this machine in both cases; 0 when it does not run."""
    if settings.method == "docker":
        return int(run("docker", "inspect", "--format", "{{.State.Pid}}", settings.name))
    return int(run("systemctl", "show", "--property", "MainPID", "--value", settings.name))


def image_of(settings: Settings) -> str:
    """What the container was made of; nothing with the package."""
    return run("docker", "inspect", "--format", "{{.Image}}", settings.name) if settings.method == "docker" else ""


def service(settings: Settings, verb: str) -> list[str]:
    if settings.method == "docker":
        return ["docker", verb, *(["--time", str(STOP_SECONDS)] if verb == "stop" else []), settings.name]
    return ["systemctl", verb, settings.name]


@contextlib.contextmanager
def watchdog(seconds: int, *command: str, awaited: bool = True) -> Iterator[None]:
    """Runs the command when this block has ended, however it did, or after so many seconds.

    It reads from a pipe that ends with this program; its session is its own.
    """
    script = 'trap "" HUP INT TERM; echo; timeout -s KILL "$0" cat >/dev/null; exec "$@" >/dev/null 2>&1'
    dog = subprocess.Popen(
        ["sh", "-c", script, str(seconds), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert dog.stdin is not None
    assert dog.stdout is not None
    try:
        dog.stdout.readline()
        yield
    finally:
        dog.stdin.close()
        if awaited:
            dog.wait()


def stands(pid: int) -> bool:
    """Whether every thread is stopped: one that is in the kernel writes on until it comes back."""
    try:
        tasks = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return False
    return all(text.rpartition(")")[2].split()[0] in "Tt" for text in tasks)


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """Before everybody else on a busy machine, for a moment: devices wait."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)


@contextlib.contextmanager
def standing(settings: Settings) -> Iterator[dict[str, float]]:
    """Orthanc stands still inside, and runs again afterwards whatever happens."""
    pid, result = main_process(settings), {"pause": 0.0}
    if not pid:  # nobody writes, unless it is started just now
        yield result
        if main_process(settings):
            raise Refused(STARTED)
        return
    if not has_open(pid, settings.storage / "index"):
        what = f"{settings.name} (process {pid}) does not have {settings.storage}/index open"
        raise Refused(f"{what}. Remedy: set orthanc_storage_dir to the directory that Orthanc uses.")
    if settings.pause == "stop":
        with watchdog(STOP_SECONDS * 2, *service(settings, "start")):
            begin = time.monotonic()
            try:
                written(settings.directory / STOPPED, "")
                run(*service(settings, "stop"))
                yield result
                if main_process(settings):
                    raise Refused(STARTED)
            finally:
                started(settings)
                result["pause"] = time.monotonic() - begin
        return
    with watchdog(settings.pause_seconds, "kill", "-CONT", str(pid)), urgent():
        begin = time.monotonic()
        try:
            os.kill(pid, signal.SIGSTOP)
            while not stands(pid):
                if time.monotonic() - begin > settings.pause_seconds:
                    raise Refused("Orthanc does not stand still. Remedy: set orthanc_backup_pause to stop.")
                time.sleep(0.0005)
            yield result
            if not stands(pid):  # the watchdog, or a person, let it go on: the copy may be torn
                what = f"The copy took longer than {settings.pause_seconds} s, and Orthanc was continued"
                raise Refused(f"{what}. Remedy: set orthanc_backup_pause_seconds to more, or orthanc_backup_pause.")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            result["pause"] = time.monotonic() - begin


def started(settings: Settings) -> None:
    run(*service(settings, "start"))
    (settings.directory / STOPPED).unlink(missing_ok=True)


def has_open(pid: int, path: Path) -> bool:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samefile(entry, path):
                return True
    return False


def copied(source: Path, target: Path) -> None:
    """By reference where the file system can, over what is there already."""
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


def index_copy(settings: Settings, target: Path) -> dict[str, Any]:
    """The index of one moment as one file, checked."""
    index = settings.storage / "index"
    companions = [(Path(f"{index}-{end}"), Path(f"{target}-{end}")) for end in ("wal", "journal")]
    for path in (target, *(copy for _, copy in companions)):
        path.unlink(missing_ok=True)
    sizes = [path.stat().st_size for path in (index, *(source for source, _ in companions)) if path.exists()]
    needed, free = 2 * sum(sizes), shutil.disk_usage(target.parent).free
    if needed > free:  # Orthanc needs the rest
        what = f"A copy of the index needs {needed >> 20} MiB in {target.parent}, and {free >> 20} MiB are free"
        raise Refused(f"{what}. Remedy: {SYSTEM_REMEDIES[errno.ENOSPC]}.")
    before, begin = index.stat(), time.time()
    copied(index, target)  # the long part, which is still good if no checkpoint comes
    with standing(settings) as result:
        moment, after = now(), index.stat()
        # a file system's clock ticks slowly: a change at once after another may not show
        quiet = begin - before.st_mtime > 0.1
        if not quiet or (before.st_ino, before.st_size, before.st_mtime_ns) != (
            after.st_ino, after.st_size, after.st_mtime_ns
        ):  # fmt: skip
            copied(index, target)
        for source, copy in companions:
            if source.exists():
                copied(source, copy)
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


def orthanc_version(settings: Settings) -> str:
    """Of the Orthanc that is installed."""
    command = ["Orthanc", "--version"]
    if image := image_of(settings):
        command = ["docker", "run", "--rm", "--network=none", "--entrypoint=Orthanc", image, "--version"]
    return version_in(run(*command).partition("\n")[0]) or "mainline"


def index_version(settings: Settings) -> str:
    """Who opened the index last; Orthanc notes it when it has (roles.lua)."""
    noted = settings.storage / ".orthanc-version"
    return (version_in(noted.read_text()) if noted.is_file() else "") or orthanc_version(settings)


def version_in(text: str) -> str:
    found = re.search(r"[0-9]+(\.[0-9]+)+", text)
    return found[0] if found else ""


def numbers(version: str) -> list[int]:
    found = version_in(version)
    return [int(part) for part in found.split(".")] if found else [10**6]
