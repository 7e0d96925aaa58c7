# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The result of the last check, for a person."""

from __future__ import annotations

import time
from typing import Any

from ..core import words
from ..core.escaping import escape
from ..core.monitor_state import describe_alert, describe_disks, describe_forecast, describe_silence, list_standing
from .settings import Settings


def describe_state(state: dict[str, Any]) -> list[str]:
    """Lines: what is wrong and what to do, the disks, the forecast, and how old the result is."""
    silence = describe_silence(state, time.time())
    if "time" not in state:
        return [silence]
    lines = []
    for alert in list_standing(state):
        lines += [f"{alert['severity']:9} {alert['name']}: {describe_alert(alert)}"]
        lines += [f"{'':9} Remedy: {alert['remedy']}"]
    lines = [silence, *lines] if silence else lines or ["Nothing is wrong."]
    lines += [f"{'disk':9} {name}: {free}" for name, free in describe_disks(state).items()]
    lines.append(f"{'forecast':9} {describe_forecast(state)}")
    age = time.time() - state["time"]
    lines.append(f"{'check':9} {words.say_age(age)} ago" if age >= 0 else f"{'check':9} in the future")
    return lines


def describe_vulnerabilities(known: dict[str, Any], settings: Settings) -> list[str]:
    """Each vulnerability that is open, in what, what it means, what to do, where to read more: lines."""
    if not known:
        return ["The monitor has not checked the packages yet. Remedy: systemctl start orthanc-monitor"]
    lines = []
    for one in known["open"]:
        accepted = " (accepted)" if one["id"] in settings.accepted_cves else ""
        lines += [escape(f"{one['id']}{accepted} in {one['package']} {one['version']}: {one['summary']}.")]
        lines += [escape(f"  {text}") for text in (f"Remedy: {one['remedy']}.", one["url"])]
    return lines or ["No vulnerability is known without an update."]
