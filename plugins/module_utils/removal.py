# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Removes what a deploy has made: units, files and directories, as each role lists them in `orthanc_<role>_made`.

Can be interrupted at any moment and run again. Runs on the machine, standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .server.core.errors import Refused
from .server.core.process import read_output, run_program

SYSTEMD = Path("/etc/systemd/system")
STAMPS = Path("/var/lib/systemd/timers")  # when a timer that catches up last ran


def list_units(names: Iterable[str]) -> list[Path]:
    """The files of those units that are on the machine."""
    return [path for path in (SYSTEMD / name for name in names) if path.is_file() and not path.is_symlink()]


def list_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Those that exist; a link counts, wherever it leads."""
    return [path for path in map(Path, paths) if os.path.lexists(path)]


def list_empty(paths: Iterable[str | Path], leaving: Iterable[Path] = ()) -> list[Path]:
    """The directories among these that have no content, once those of `leaving` and of this list are gone."""
    gone = {*leaving}
    found = []
    for path in map(Path, paths):
        if path.is_dir() and not path.is_symlink() and not os.path.ismount(path) and {*path.iterdir()} <= gone:
            found.append(path)
            gone.add(path)
    return found


def check_paths(paths: Iterable[str | Path], keep: Iterable[str | Path]) -> None:
    """Refuses to remove a directory in which data are that stay, or one directly below the root."""
    kept = [Path(os.path.realpath(path)) for path in keep]
    for path in map(Path, paths):
        real = Path(os.path.realpath(path))
        inside = next((one for one in kept if one.is_relative_to(real)), None)
        if inside or len(path.parts) < 3 or ".." in path.parts:
            why = f"has {inside} in it, which stays" if inside else "is not a path of a deploy's own"
            raise Refused(f"{path} {why}. Remedy: correct the directories in the inventory.")


def remove_units(names: Iterable[str]) -> list[Path]:
    """Stops and disables the units, and removes their files. Returns these."""
    units = list_units(names)
    if units:
        read_output("systemctl", "disable", "--now", *(path.name for path in units), seconds=None)
        run_program("systemctl", "reset-failed", *(path.name for path in units))
    for path in units:
        (STAMPS / f"stamp-{path.name}").unlink(missing_ok=True)
        path.unlink()
    return units


def remove_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Removes files, links and whole directories; of a mount point the content. Returns what it removed."""
    found = list_paths(paths)
    for path in found:
        if path.is_dir() and not path.is_symlink():
            remove_directory(path)
        else:
            path.unlink()
    return found


def remove_directory(path: Path) -> None:
    """Removes a directory with its content; of one on which a disk is mounted the content alone."""
    if not os.path.ismount(path):
        shutil.rmtree(path)
        return
    for one in path.iterdir():
        if one.name != "lost+found":
            remove_paths([one])


def remove_empty(paths: Iterable[str | Path]) -> list[Path]:
    """Removes those directories that are empty, in this order. Returns them."""
    removed = []
    for path in map(Path, paths):
        with contextlib.suppress(OSError):  # not there, not empty, or a mount point
            path.rmdir()
            removed.append(path)
    return removed


def reload_systemd(removed: Iterable[Path]) -> None:
    """Lets systemd forget the units and drop-ins that were removed."""
    if any(path.is_relative_to(SYSTEMD) for path in removed):
        read_output("systemctl", "daemon-reload", seconds=None)
