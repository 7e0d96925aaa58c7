# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The system below: its clock, and until when it gets security updates."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator

from ...core import clock, words
from .. import support
from ..context import Context, Sample, observe


def probe_clock(context: Context) -> Iterator[Sample]:
    """Whether the clock is synchronised, and by how much it is off where that is known."""
    seen = clock.read_clock()
    if seen.offset is not None:
        yield observe("clock_offset_seconds", seen.offset)
    yield observe("clock_ok", seen.synchronised, detail=seen.said)


def probe_support(context: Context) -> Iterator[Sample]:
    """Days until the system no longer receives security updates."""
    release = support.read_release()
    last = support.find_support_end(release)
    if last is not None:
        today = datetime.date(*time.gmtime(context.now)[:3])
        name = release.get("PRETTY_NAME", release.get("ID", ""))
        yield observe("support_days", (last - today).days, detail=f"{name}: until {words.say_day(f'{last:%Y%m%d}')}")
