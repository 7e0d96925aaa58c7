# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The limits up to which a value is good, shared by the monitor, the acceptance test and its report.

The inventory changes them with orthanc_monitor_thresholds; a deploy writes what it changes into a file without secrets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .settings import FACTS

LIMITS: dict[str, float] = {
    "disk_warning_percent": 20,
    "disk_critical_percent": 10,
    "inodes_percent": 10,
    "days_until_full": 30,
    "backup_hours": 26,
    "restore_check_days": 9,
    "ledger_hours": 2,
    "acceptance_hours": 80,  # a weekend may lie between
    "certificate_days": 14,
    "own_ca_days": 180,  # each client and each device must import the new root until then
    "client_certificate_days": 60,  # a deploy renews it 90 days before, and a person must install it on the device
    "errors_per_hour": 20,
    "restarts_per_hour": 3,
    "lookup_seconds": 0.1,  # ten seconds and more for a series of 100 images
    "worklist_minutes": 10,
    "package_lists_days": 7,
    "support_days": 90,
}
SILENT_MINUTES = 5  # the monitor checks each minute; after so many without a check its results are out of date


def read_limits(path: Path = FACTS) -> dict[str, float]:
    """Each limit by its name, as the deploy left them; the defaults where it left none. ValueError for another file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return dict(LIMITS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("limits"), dict):
        raise ValueError(f"{path} has no limits")
    return merge_limits(content["limits"])


def merge_limits(changed: Mapping[str, float]) -> dict[str, float]:
    """All limits, with those that are changed; names that this release does not know are left out."""
    return {name: changed.get(name, value) for name, value in LIMITS.items()}


def describe(number: float, unit: str) -> str:
    """`26 hours`, `1 day`, `1.5 days`."""
    return f"{number:g} {unit}" + "s" * (number != 1)
