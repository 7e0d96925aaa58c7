# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What starts backup, restore check and ledger: where each is scheduled, and whether that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.process import ask_program

# what the role orthanc_backup writes, and the unit that reads it
SCHEDULES = {
    "backup": (Path("/etc/cron.d/orthanc-backup"), "cron.service"),
    "restore_check": (Path("/etc/systemd/system/orthanc-restore-check.timer"), "orthanc-restore-check.timer"),
    "ledger": (Path("/etc/systemd/system/orthanc-ledger.timer"), "orthanc-ledger.timer"),
}


def describe_schedules() -> dict[str, Any]:
    """For each regular task: when it was scheduled (seconds since 1970, or None), by what, and whether that runs.

    OSError where systemd cannot be asked."""
    return {
        "schedules": {
            name: {
                "planned": path.stat().st_mtime if path.exists() else None,
                "unit": unit,
                "active": ask_program("systemctl", "is-active", "--quiet", unit).status == 0,
            }
            for name, (path, unit) in SCHEDULES.items()
        }
    }
