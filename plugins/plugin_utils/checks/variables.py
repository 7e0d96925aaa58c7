# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds variables that no role reads: Ansible silently ignores a misspelt name. Without Ansible."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, nearest, problem

RENAMED = {
    "orthanc_install_docker_memory": "orthanc_install_memory",
    "orthanc_monitor_brake_percent": "orthanc_monitor_disk_guard_percent",
}
ROLES = Path(__file__).resolve().parents[3] / "roles"


@functools.cache
def list_known() -> frozenset[str]:
    """Every `orthanc_*` name that a role defines, publishes or reads."""
    files = [path for part in ("defaults", "vars", "tasks") for path in ROLES.glob(f"*/{part}/*.yml")]
    return frozenset(
        name for path in files for name in re.findall(r"(?<![\w.])orthanc_\w+", path.read_text(encoding="utf-8"))
    )


def problems(names: list[str]) -> list[Problem]:
    """A problem for each name that starts with `orthanc_` and is renamed or unknown."""
    found = []
    for name in names:
        if name in RENAMED:
            remedy = f"rename it to {RENAMED[name]} in the inventory"
            found.append(problem(name, f"is now called {RENAMED[name]}", remedy, "unknown_variable", "error"))
        elif name.startswith("orthanc_") and name not in list_known():
            near = nearest(name, list_known(), cutoff=0.8)
            remedy = f"did you mean {near}? If" if near else "if"
            remedy += " it is your own variable, give it another prefix, for example clinic_"
            found.append(
                problem(
                    name,
                    "is not a setting of this collection",
                    remedy,
                    "unknown_variable",
                    "error" if near else "warning",
                )
            )
    return found
