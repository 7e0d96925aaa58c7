# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Until when a release of Debian or Ubuntu gets security updates, from Debian's package distro-info-data."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

TABLES = Path("/usr/share/distro-info")
OS_RELEASE = Path("/etc/os-release")


def read_release(path: Path = OS_RELEASE) -> dict[str, str]:
    """The fields of os-release(5)."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: value.strip("\"'") for name, _unused, value in (line.partition("=") for line in lines) if value}


def find_support_end(release: dict[str, str], tables: Path = TABLES) -> date | None:
    """The last day of security updates for everybody (Debian: of LTS); None where that day is not set yet.

    FileNotFoundError where the table is not installed.
    """
    system, version = release.get("ID", ""), release.get("VERSION_ID", "")
    with (tables / f"{system}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if version and (row.get("version") or "").split(" ")[0] == version:
                # more years than these cost money
                days = [row.get(name) for name in ("eol", "eol-lts", "eol-server")]
                return max((date.fromisoformat(day) for day in days if day), default=None)
    return None
