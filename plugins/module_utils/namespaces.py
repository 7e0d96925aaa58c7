# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs something in the network of another process, such as that of a container.

Runs on the machine, standard library only.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
from collections.abc import Callable
from typing import TypeVar

CLONE_NEWNET = 0x40000000
Result = TypeVar("Result")


def has_own_network(pid: int) -> bool:
    """Whether a process has another network than this one. OSError if it has ended."""
    return not os.path.samefile(f"/proc/{pid}/ns/net", "/proc/self/ns/net")


def run_inside(pid: int, do: Callable[[], Result]) -> Result:
    """Runs `do` in the network of a process; in its own thread, since a thread cannot return from there. OSError if
    that network cannot be entered."""

    def enter() -> Result:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{pid}/ns/net", "rb") as network:
            if libc.setns(network.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return do()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()
