# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which processes hold the locks of dpkg and apt. Runs on the machine, standard library only; takes no lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import neighbours

LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid


class Holder(NamedTuple):
    """`pid` is 0 for a process in another container; command and systemd unit are then unknown."""

    lock: str
    pid: int
    command: str
    unit: str


def list_holders(paths: Iterable[str] = LOCKS) -> list[Holder]:
    """The first process that holds each of the locks (F_GETLK, fcntl(2)); each process once."""
    found: dict[int, Holder] = {}
    for path in paths:
        pid = find_holder(path)
        if pid is not None and pid not in found:
            found[pid] = Holder(path, pid, neighbours.command_of(pid), neighbours.unit_of(pid))
    return list(found.values())


def find_holder(path: str) -> int | None:
    """The number of the process; 0 if it is not visible; None if the lock is free or missing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _whence, _start, _length, pid = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
            return None if kind == fcntl.F_UNLCK else max(pid, 0)
        finally:
            os.close(descriptor)
    return None
