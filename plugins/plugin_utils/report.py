# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks as lines to read. Without Ansible."""

from __future__ import annotations

from typing import Any


def lines(checks: list[dict[str, Any]], waivers: dict[str, str]) -> list[str]:
    width = max((len(check["name"]) for check in checks), default=0)
    found = []
    for check in checks:
        if check["waiver"]:
            found.append(f"waived  {check['name']:{width}}  expected {check['expected']}, seen {check['seen']}")
        elif check["passed"]:
            found.append(f"passed  {check['name']:{width}}  {check['seen'][:60]}")
        else:
            found.append(f"FAILED  {check['name']:{width}}  expected {check['expected']}, seen {check['seen']}")
    found += [f"waived  {rule}: {reason}" for rule, reason in waivers.items()]
    passed = sum(check["passed"] for check in checks)
    return [*found, f"{passed} passed, {len(checks) - passed} failed"]
