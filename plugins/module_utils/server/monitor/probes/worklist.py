# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The worklist: what is served, what was refused, and what waits for too long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..context import DAY, Context, Sample, observe

DIRECTORY = Path("/var/lib/orthanc/worklists")


def probe_worklist(context: Context) -> Iterator[Sample]:
    """Items that are served, refused within a day, and how long the oldest has been waiting."""
    section = context.options.get("Worklists", {})
    served = Path(section.get("Directory") or section.get("Database") or DIRECTORY)
    yield observe("worklist_items", len([*served.glob("*.wl")]))
    refused = [path.stat().st_ctime for path in served.glob(".spool/quarantine/*.reason")]
    yield observe("quarantined_day", sum(context.now - then < DAY for then in refused))
    waiting = [path.lstat().st_ctime for path in context.settings.worklist_drop.glob("[!.]*")]
    yield observe("worklist_waiting_minutes", (context.now - min(waiting, default=context.now)) / 60)
