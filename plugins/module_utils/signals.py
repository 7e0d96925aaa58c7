# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a module does whose play is interrupted. Runs on the machine, standard library only."""

from __future__ import annotations

import signal


def end_at_signals() -> None:
    """Lets SIGTERM and SIGHUP end this process on its way out: what it has begun is undone, or can be run again."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def end(_number: int, _frame: object) -> None:
    """Ends the process."""
    raise SystemExit(1)
