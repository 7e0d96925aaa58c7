# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the last look saw, for a person."""

from __future__ import annotations

import time
from typing import Any

from ..core import words
from ..core.escaping import escape
from ..core.limits import SILENT_MINUTES
from .alerts import list_standing
from .context import DAY, HOUR
from .notify import describe_event
from .settings import Settings


def describe_silence(state: dict[str, Any], now: float) -> str:
    """Why what the last look left says nothing of now; empty where it does."""
    if "time" not in state:
        return "The monitor has not looked yet. Remedy: systemctl enable --now orthanc-monitor.timer"
    remedy = "Remedy: systemctl enable --now orthanc-monitor.timer; see journalctl -u orthanc-monitor"
    minutes = (now - state["time"]) / 60
    if minutes > SILENT_MINUTES:
        return f"The monitor has not looked for {describe_age(60 * minutes)}, and what it saw is of then. {remedy}"
    if minutes < -1:
        when = words.say_moment(state["time"])
        return f"The monitor's last look is dated in the future ({when}): a clock is or was wrong. {remedy}"
    return ""


def describe_age(seconds: float) -> str:
    """In the largest unit of which there are two: `90 seconds`, `3 hours`, `10 days`."""
    units = ((DAY, "days"), (HOUR, "hours"), (60, "minutes"))
    size, name = next(((size, name) for size, name in units if seconds >= 2 * size), (1, "seconds"))
    return f"{int(seconds / size)} {name}"


def describe_forecast(state: dict[str, Any]) -> str:
    """When the images' disk is full, and how sure that is."""
    disk: dict[str, Any] = state.get("disk", {})
    days = disk.get("days_until_full")
    return (f"full in {days:.0f} days, " if days else "") + str(disk.get("note", "none"))


def describe_disks(state: dict[str, Any]) -> dict[str, str]:
    """What is free of each disk, by its name."""
    values = {(metric, object_): value for metric, _, object_, value in state.get("values", [])}
    return {
        object_: f"{words.say_size(values['fs_free_bytes', object_])} free ({percent:.0f} %)"
        for (metric, object_), percent in values.items()
        if metric == "fs_free_percent"
    }


def describe_state(state: dict[str, Any]) -> list[str]:
    """What is wrong and what to do, the disks, the forecast, and how old this is: lines."""
    silence = describe_silence(state, time.time())
    if "time" not in state:
        return [silence]
    lines = []
    for alert in list_standing(state):
        lines += [f"{alert['severity']:9} {alert['name']}: {describe_event(alert)}"]
        lines += [f"{'':9} Remedy: {alert['remedy']}"]
    lines = [silence, *lines] if silence else lines or ["Nothing is wrong."]
    lines += [f"{'disk':9} {name}: {free}" for name, free in describe_disks(state).items()]
    lines.append(f"{'forecast':9} {describe_forecast(state)}")
    age = time.time() - state["time"]
    lines.append(f"{'look':9} {describe_age(age)} ago" if age >= 0 else f"{'look':9} in the future")
    return lines


def describe_vulnerabilities(known: dict[str, Any], settings: Settings) -> list[str]:
    """Each vulnerability that is open, in what, what it means, what to do, where to read more: lines."""
    if not known:
        return ["The monitor has not looked at the packages yet. Remedy: systemctl start orthanc-monitor"]
    lines = []
    for one in known["open"]:
        accepted = " (accepted)" if one["id"] in settings.accepted_cves else ""
        lines += [escape(f"{one['id']}{accepted} in {one['package']} {one['version']}: {one['summary']}.")]
        lines += [escape(f"  {text}") for text in (f"Remedy: {one['remedy']}.", one["url"])]
    return lines or ["No vulnerability is known without an update."]
