# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What earlier checks left: the state, counters over time, the growth of a disk."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core import monitor_state
from ..core.files import write_atomic
from ..core.journal import ERROR, say

DAY = 86400
FORECAST_DAYS, LEAST_DAYS = 28, 3
IMPORT_FACTOR = 5  # a day with so many times the usual growth is an import, and no forecast


# --- the state ------------------------------------------------------------------------------------
def save_state(directory: Path, state: dict[str, Any]) -> None:
    """Saves the state of this check; in memory where the disk cannot be written."""
    text = json.dumps(state) + "\n"
    try:
        write_atomic(directory / monitor_state.FILE, text)
        monitor_state.IN_MEMORY.unlink(missing_ok=True)
    except OSError as error:
        # a disk that is full or read-only: without the state every alert would be reported again each minute
        say(f"the monitor cannot write its state to the disk and keeps it in memory: {error}", ERROR)
        write_atomic(monitor_state.IN_MEMORY, text, 0o600)


# --- counters -------------------------------------------------------------------------------------
def sum_increase(
    earlier: list[list[float]], now: float, value: float, window: float, forgets: bool = False
) -> tuple[list[list[float]], float]:
    """The points of a counter ([[epoch, value], ...]) that stay, and its growth within the last `window` seconds.

    One that is less than before has begun anew, and grown by what it is; or it forgets what is old.
    """
    # a clock that was wrong may have left points of the future
    points = [*[one for one in earlier if one[0] < now], [now, value]]
    # the last one before the window is where it began
    first = max((number for number, one in enumerate(points) if one[0] < now - window), default=0)
    points = points[first:]
    return points, sum(
        newer[1] - older[1] if newer[1] >= older[1] else 0 if forgets else newer[1]
        for older, newer in itertools.pairwise(points)
    )


# --- growth ---------------------------------------------------------------------------------------
def estimate_growth(history: list[list[float]]) -> tuple[float | None, str]:
    """Bytes a day by which what is used grows, and how sure that is. None: not enough history yet.

    The mean of the last days, without the days of an import or of a large deletion: many times the usual growth.
    """
    last = history[-1][0]
    days = int((last - history[0][0]) / DAY)
    if days < LEAST_DAYS:
        return None, f"not enough history yet: {days} of {LEAST_DAYS} days"
    marks = [interpolate(history, last - DAY * number) for number in range(min(days, FORECAST_DAYS) + 1)]
    steps = [newer - older for newer, older in itertools.pairwise(marks)]
    usual = find_median([abs(step) for step in steps if step] or [0])
    common = [step for step in steps if abs(step) <= IMPORT_FACTOR * usual]
    apart = f", {len(steps) - len(common)} with an import or a deletion left out" if len(common) < len(steps) else ""
    growth = sum(common) / len(common) if common else 0.0
    return growth, f"from {len(steps)} days{apart}"


def interpolate(history: list[list[float]], moment: float) -> float:
    """The value at a moment between two points, by the straight line between them."""
    after = next(number for number, one in enumerate(history) if one[0] >= moment)
    (begin, low), (end, high) = history[max(after - 1, 0)], history[after]
    return high if end == begin else low + (high - low) * (moment - begin) / (end - begin)


def find_median(values: Sequence[float]) -> float:
    """The middle value; importing the module statistics would cost each check more than all the rest."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2
