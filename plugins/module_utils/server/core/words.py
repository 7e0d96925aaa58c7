# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Moments, durations and counts as a person says them. What a program reads stays ISO 8601, seconds and bytes."""

from __future__ import annotations

import datetime

# not strftime's %b, which speaks the language of whoever is logged in
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def say_moment(moment: datetime.datetime | float, zone: datetime.tzinfo | None = None) -> str:
    """The moment (aware, or seconds since 1970) as '28 Nov 2026 21:14', in this machine's zone or the given one."""
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
    local = moment.astimezone(zone)
    return f"{local.day} {MONTHS[local.month - 1]} {local.year} {local:%H:%M}"


def say_stamp(stamp: str) -> str:
    """A moment that a program noted in UTC (20261128T011000.123) as say_moment says it; itself where it is none."""
    try:
        moment = datetime.datetime.strptime(stamp[:15], "%Y%m%dT%H%M%S")
    except ValueError:
        return stamp
    return say_moment(moment.replace(tzinfo=datetime.timezone.utc))


def say_day(day: str) -> str:
    """20261128 as '28 Nov 2026'; itself where it is none."""
    try:
        date = datetime.datetime.strptime(day, "%Y%m%d")
    except ValueError:
        return day
    return f"{date.day} {MONTHS[date.month - 1]} {date.year}"


def say_duration(seconds: float) -> str:
    """The duration in its two greatest units: '2 min 14 s', '1 h', '3 d 4 h'; '0 s' below half a second."""
    left = round(seconds)
    parts = []
    for unit, length in UNITS:
        number, left = divmod(left, length)
        if number:
            parts.append(f"{number} {unit}")
        if parts and (number == 0 or len(parts) == 2):
            break
    return " ".join(parts) or "0 s"


def say_age(seconds: float) -> str:
    """The age in the largest unit of which there are two: '90 seconds', '3 hours', '10 days'."""
    units = ((86400, "days"), (3600, "hours"), (60, "minutes"))
    size, name = next(((size, name) for size, name in units if seconds >= 2 * size), (1, "seconds"))
    return f"{int(seconds / size)} {name}"


def say_size(count: float) -> str:
    """The bytes as '812 B', '1.4 MB', '230 GB'."""
    units = [*SIZES]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.0f} {units[0]}" if count >= 99.95 or units[0] == "B" else f"{count:.1f} {units[0]}"


def read_size(text: str) -> int:
    """Bytes of a size as apt says it: '1,234 kB'. ValueError where it is not one."""
    number, _unused, unit = text.partition(" ")
    return int(float(number.replace(",", "")) * 1000 ** SIZES.index(unit))


def say_count(number: int, thing: str) -> str:
    """'1 check', '2 checks'."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
