# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What runs by itself: backup, restore check and ledger, the acceptance test, and the units that start them."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator
from pathlib import Path

from ...core.files import read_object
from ...core.settings import BACKUP
from ..context import DAY, HOUR, Context, Sample, ask_program, observe
from .disk import stat_regular

ACCEPTANCE = Path("/etc/cron.d/orthanc-verify"), Path("/var/lib/orthanc-verify/report.json")  # schedule and report


def probe_backup(context: Context) -> Iterator[Sample]:
    """How backup, restore check and ledger ended, how old their last success is, and a restore that was interrupted."""
    if not context.settings.backup:
        return
    for name, metric, seconds, unit in (
        ("backup", "backup_age_hours", HOUR, "hours"),
        ("restore_check", "restore_check_age_days", DAY, "days"),
        ("ledger", "ledger_age_hours", HOUR, "hours"),
    ):
        known = read_object(BACKUP / f"{name}.json")
        age = context.measure_age(known.get("last_success_epoch")) / seconds
        yield observe(metric, age, detail=f"{age:.0f} {unit}")
        results = context.state.setdefault("results", {})
        if known.get("result") in ("success", "failed"):  # one that runs says nothing yet
            results[name] = known["result"]
        if name in results:
            reason = str(known.get("reason", ""))[:300]
            yield observe(f"{name}_ok", results[name] == "success", detail=reason)
    # each step of a restore writes it, and the last one removes it
    under_way = stat_regular(BACKUP / "restore.json")
    yield observe("restore_open_minutes", abs(context.now - under_way.st_mtime) / 60 if under_way else 0)


def probe_units(context: Context) -> Iterator[Sample]:
    """What starts the regular tasks, and how these ended."""
    names, units = "Id,Type,LoadState,UnitFileState,ActiveState,Result", context.settings.units
    said = ask_program("systemctl", "show", f"--property={names}", *units).output if units else ""
    for text in said.strip().split("\n\n") if said else ():
        known = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        failed = known["ActiveState"] == "failed"
        yield observe("unit_failed", failed, "unit", known["Id"], known.get("Result", ""))
        # a service that ends by itself is not active between its runs
        there = known["LoadState"] == "loaded" and known.get("UnitFileState") not in ("disabled", "masked")
        waits = known["ActiveState"] in ("active", "activating", "reloading") or known.get("Type") == "oneshot"
        state = ", ".join(known.get(name, "") for name in ("LoadState", "UnitFileState", "ActiveState"))
        yield observe("unit_on", there and (waits or failed), "unit", known["Id"], state)


def probe_acceptance(context: Context) -> Iterator[Sample]:
    """How old the last acceptance test is, and which of its checks failed, where one is scheduled."""
    schedule, report = ACCEPTANCE
    if not schedule.exists():
        return
    known = read_object(report)
    moment = calendar.timegm(time.strptime(known["time"], "%Y-%m-%dT%H:%M:%SZ")) if "time" in known else None
    age = context.measure_age(moment) / HOUR
    yield observe("acceptance_age_hours", age, detail=f"{age:.0f} hours")
    if moment is not None:
        wrong = [check["name"] for check in known["checks"] if not check["passed"]]
        yield observe("acceptance_ok", known["passed"], detail=", ".join(wrong)[:300])
