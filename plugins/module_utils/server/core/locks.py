# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Locks between processes; a process that ends or is killed releases its lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import Busy

RETRY_SECONDS = 0.1


@contextlib.contextmanager
def hold_lock(path: Path, what: str = "", seconds: float | None = None) -> Iterator[None]:
    """Waits for the lock without a limit, or for so many seconds; then Busy says that another `what` is running.

    The file is made where it is not there; its content and its time stay. No link is followed.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if seconds is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            take_lock(descriptor, what, time.monotonic() + seconds)
        yield
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, what: str, end: float) -> None:
    """Takes it before that moment of the monotonic clock, or raises Busy."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise Busy(f"Another {what} is running. Remedy: wait until it has finished.") from None
            time.sleep(RETRY_SECONDS)
