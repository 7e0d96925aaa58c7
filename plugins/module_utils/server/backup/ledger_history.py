# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which of the ledger's snapshots count, as `restic snapshots --json` lists them: by their number, not by the clock.

Each snapshot of the ledger carries the tag `serial=`, one more than every other of its archive in the repository. A
restore, deleted changes and a wrong clock do not change that order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

Snapshot = dict[str, Any]
AHEAD = timedelta(days=1)  # a snapshot that is dated later was made with a wrong clock
KEPT = 2


def read_serial(snapshot: Snapshot) -> int:
    """The snapshot's number; -1 for one of a release that gave none."""
    found = [re.fullmatch(r"serial=([0-9]{1,18})", tag) for tag in snapshot.get("tags") or []]
    return max((int(one[1]) for one in found if one), default=-1)


def read_local_time(snapshot: Snapshot) -> datetime:
    """The time that restic noted, in the zone of the machine that noted it, to the second."""
    # Python reads fewer digits of a fraction, and before 3.11 no Z
    return datetime.fromisoformat(re.sub(r"Z$", "+00:00", re.sub(r"[.][0-9]+", "", snapshot["time"])))


def read_time(snapshot: Snapshot) -> datetime:
    """The time that restic noted, in UTC."""
    return read_local_time(snapshot).astimezone(timezone.utc)


def is_ahead(snapshot: Snapshot, now: datetime) -> bool:
    """Whether it is dated in the future: a clock was wrong."""
    return read_time(snapshot) > now + AHEAD


def rank_snapshots(snapshots: Iterable[Snapshot], now: datetime) -> list[Snapshot]:
    """The newest first: by number; those without one by time, and what is dated in the future last."""

    def order(snapshot: Snapshot) -> tuple[int, bool, datetime]:
        return read_serial(snapshot), not is_ahead(snapshot, now), read_time(snapshot)

    return sorted(snapshots, key=order, reverse=True)


def find_current(snapshots: Iterable[Snapshot], now: datetime, kept: int = KEPT) -> list[Snapshot]:
    """The newest ones that stay, newest first. One that is dated in the future never takes the place of a true one."""
    ranked = rank_snapshots(snapshots, now)
    true = [one for one in ranked if not is_ahead(one, now)]
    wanted = {one["id"] for one in (*ranked[:kept], *true[:kept])}
    return [one for one in ranked if one["id"] in wanted]


def find_superseded(snapshots: Iterable[Snapshot], now: datetime) -> list[str]:
    """The ids of the others, which may go."""
    found = [*snapshots]
    current = {one["id"] for one in find_current(found, now)}
    return [one["id"] for one in found if one["id"] not in current]


def give_serial(snapshots: Iterable[Snapshot], own: int) -> int:
    """The next number: above the repository's, and above this machine's last one, which may not have arrived."""
    return max(own, *(read_serial(one) for one in snapshots), 0) + 1


def find_foreign(snapshots: Iterable[Snapshot], own: int | None) -> list[Snapshot]:
    """Snapshots that this machine did not make, since it knows of none so late: another one writes into the archive.

    `own` is None where this machine cannot know: before its first snapshot, and after a restore.
    """
    return [one for one in snapshots if own is not None and read_serial(one) > own]
