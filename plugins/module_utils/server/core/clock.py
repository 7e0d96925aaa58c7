# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether this machine's clock is synchronised: the same answer for the monitor and the acceptance test."""

from __future__ import annotations

import shutil
from typing import NamedTuple

from .process import ask_program

KEEPERS = ("chrony", "ntpsec", "openntpd", "ntp", "systemd-timesyncd")  # Debian's units, as their packages
OFF_SECONDS = 1  # the offset up to which a clock that chrony keeps counts as synchronised
WAIT_SECONDS = 20


class Clock(NamedTuple):
    """Whether it is synchronised, by how many seconds it is off where chrony says so, and why in a sentence."""

    synchronised: bool
    offset: float | None
    said: str


def read_clock() -> Clock:
    """What chrony says of the clock, else the kernel (timedatectl). OSError where neither answers."""
    if shutil.which("chronyc"):
        synchronised, offset = parse_tracking(*read_answer("chronyc", "-n", "-c", "tracking"))
    else:
        synchronised, offset = (
            read_answer("timedatectl", "show", "--property=NTPSynchronized", "--value")[1] == "yes",
            None,
        )
    keeper = "" if synchronised else find_keeper()
    container = not synchronised and read_answer("systemd-detect-virt", "--quiet", "--container")[0] == 0
    return Clock(synchronised, offset, describe(synchronised, keeper, container))


def parse_tracking(status: int, said: str) -> tuple[bool, float | None]:
    """Of `chronyc -c tracking`: whether it is synchronised, and by how many seconds the clock is off."""
    fields = said.split(",")
    if status or fields[-1] == "Not synchronised":
        return False, None
    offset = float(fields[4])
    return abs(offset) <= OFF_SECONDS, offset


def find_keeper() -> str:
    """The unit that keeps the clock now; empty without one."""
    return next(
        (name for name in KEEPERS if read_answer("systemctl", "is-active", "--quiet", f"{name}.service")[0] == 0), ""
    )


def describe(synchronised: bool, keeper: str, container: bool) -> str:
    """Why it is not synchronised; empty where it is."""
    if synchronised:
        return ""
    if keeper:
        return f"{keeper} runs but has not reached a time server"
    if container:
        return "this machine is a container, and its host's clock is not synchronised"
    return "no time service runs"


def read_answer(*command: str) -> tuple[int, str]:
    """Exit code and output of a program. OSError where it is not there, or hangs."""
    done = ask_program(*command, seconds=WAIT_SECONDS)
    return done.status, done.output.strip()
