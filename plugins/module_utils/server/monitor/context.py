# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a probe is given, and what it returns."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..core import process
from ..core.files import read_object
from ..core.process import Finished
from .history import sum_increase
from .settings import Settings

DAY, HOUR = 86400, 3600
ANSWER_SECONDS = 5  # Orthanc's, and everybody else's
PROGRAM_SECONDS = 20


class Sample(NamedTuple):
    """A value of one object: the metric's name without prefix, the object by its label, the value.

    `detail` is what an alert about it adds for a person, `probe` the probe that took it.
    """

    metric: str
    label: str
    object: str
    value: float
    detail: str = ""
    probe: str = ""


def observe(metric: str, value: float | bool, label: str = "", object_: str = "", detail: str = "") -> Sample:
    """The sample of a value, most of which belong to the whole server and need no label."""
    return Sample(metric, label, object_, float(value), detail)


class Context:
    """One check: settings, moment (seconds since 1970), and what the checks before it left.

    `state` is a JSON object that the probes carry on, `series` its counters over time ([[epoch, value], ...] by name),
    `options` Orthanc's own configuration, `pid` Orthanc's main process as the probe of it found it, 0 without one.
    """

    def __init__(self, settings: Settings, state: dict[str, Any], now: float) -> None:
        self.settings, self.state, self.now = settings, state, now
        self.options = read_object(settings.orthanc)
        self.pid = 0
        self.series: dict[str, list[list[float]]] = dict(state.get("series", {}))

    def count(self, counter: str, more: int) -> int:
        """What has been counted so far, this check included."""
        total: dict[str, int] = self.state.setdefault("counted", {})
        total[counter] = total.get(counter, 0) + more
        return total[counter]

    def measure_increase(self, name: str, value: float, window: float, forgets: bool = False) -> float:
        """By how much the counter of this name has grown within the last `window` seconds; see sum_increase."""
        self.series[name], increase = sum_increase(self.series.get(name, []), self.now, value, window, forgets)
        return increase

    def measure_age(self, moment: float | None) -> float:
        """Seconds since then; where it never happened, since the first check."""
        since = self.state["began"] if moment is None else moment
        return self.now - (0 if since > self.now + HOUR else since)  # a clock that was wrong proves nothing


def ask_program(*command: str) -> Finished:
    """How a program ended. OSError for one that hangs or is not installed: then its probe cannot check."""
    return process.ask_program(*command, seconds=PROGRAM_SECONDS)
