# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which snapshots may go: decisions alone, nothing is read or removed here.

The periods are restic's (its internal/data/snapshot_policy.go), over the snapshots that are not dated in the future:
for `restic forget --keep-…` one such snapshot is the newest for ever, and true ones go in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from .history import Content, find_owner

PERIODS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda time: (time.date(), time.hour),
    "daily": lambda time: time.date(),
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
    "yearly": lambda time: time.year,
}


class Dated(NamedTuple):
    """A snapshot: restic's id, its run's token, and its time with its zone."""

    id: str
    token: str
    time: datetime


class Decision(NamedTuple):
    """The ids of what may go, and for how many images a snapshot stays that its age would let go, by token."""

    going: list[str]
    held: dict[str, int]


def apply_policy(found: Iterable[Dated], keep: dict[str, int], now: datetime) -> list[Dated]:
    """What is superseded, the newest first. What is dated in the future is not, and stands for nothing."""
    newest_first = sorted((one for one in found if one.time <= now), key=lambda one: one.time, reverse=True)
    left, last, superseded = dict(keep), dict[str, object](), []
    for number, one in enumerate(newest_first):
        kept = False
        for name in [name for name, count in left.items() if count > 0]:
            value = number if name == "last" else PERIODS[name](one.time)
            # the oldest stays while a period is not full, so that it can become so
            if last.get(name) != value or number == len(newest_first) - 1:
                kept, last[name] = True, value
                left[name] -= 1
        if not kept:
            superseded.append(one)
    return superseded


def protect_images(
    superseded: Iterable[Dated], kept: Iterable[str], content_of: Callable[[str], Content | None], proven: bool
) -> Decision:
    """What of the superseded (the newest first) may go: each image in it is in a proven snapshot that stays (`kept`, or
    a superseded one that is held, if they are `proven`), or was deleted in Orthanc by what such a snapshot says.

    `content_of` gives a snapshot's content by its token, or nothing where it cannot be read: that one stays.
    """
    images: set[str] = set()
    lines: list[Content] = []
    for token in kept:
        if (content := content_of(token)) is not None:
            images |= content.images.keys()
            lines.append(Content({}, content.last_resource, 0, content.lineage))
    going: list[str] = []
    held: dict[str, int] = {}
    for one in superseded:
        content = content_of(one.token)
        if content is None:
            held[one.token] = 0
            continue
        needed = [
            instance
            for instance, number in content.images.items()
            if instance not in images and not is_deleted(content, number, lines)
        ]
        if needed:
            held[one.token] = len(needed)
            images |= content.images.keys() if proven else set()
        else:
            going.append(one.id)
    return Decision(going, held)


def is_deleted(content: Content, number: int, lines: Iterable[Content]) -> bool:
    """Whether a kept index had already given the internal id in the same line, and does not hold the image."""
    owner = find_owner(content.lineage, number)
    return bool(owner) and any(line.covers(owner, number) for line in lines)
