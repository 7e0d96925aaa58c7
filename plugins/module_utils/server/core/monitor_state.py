# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the monitor's last look left, for every program that reads it, and the words for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import words
from .escaping import escape
from .files import read_object
from .limits import SILENT_MINUTES

DIRECTORY = Path("/var/lib/orthanc-monitor")
FILE = "state.json"
IN_MEMORY = Path("/run/orthanc-monitor.json")  # the state, while there is no space for it
SEVERITIES = ("critical", "warning", "info")  # worst first


def read_state(directory: Path) -> dict[str, Any]:
    """What the last look left, on the disk or in memory; empty before the first one."""
    return max(read_object(directory / FILE), read_object(IN_MEMORY), key=lambda state: state.get("time", 0))


def list_standing(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The alerts that stand after the last look and are no consequences, worst first."""
    standing = [alert for alert in state.get("alerts", {}).values() if alert["firing"] and not alert["covered"]]
    return sorted(standing, key=lambda one: SEVERITIES.index(one["severity"]))


def list_values(state: dict[str, Any]) -> dict[tuple[str, str], float]:
    """What the last look measured, by metric and object; the object of the whole server is empty."""
    return {(metric, object_): value for metric, _unused, object_, value in state.get("values", [])}


# --- words ----------------------------------------------------------------------------------------
def describe_alert(alert: dict[str, Any]) -> str:
    """The alert in one line, with its object and details, fit for a terminal."""
    about = ": ".join(text for text in (alert["object"], alert.get("detail", "")) if text)
    return escape(f"{alert['summary']}{f' ({about})' if about else ''}")


def describe_silence(state: dict[str, Any], now: float) -> str:
    """Why what the last look left says nothing of now; empty where it does."""
    if "time" not in state:
        return "The monitor has not looked yet. Remedy: systemctl enable --now orthanc-monitor.timer"
    remedy = "Remedy: systemctl enable --now orthanc-monitor.timer; see journalctl -u orthanc-monitor"
    minutes = (now - state["time"]) / 60
    if minutes > SILENT_MINUTES:
        return f"The monitor has not looked for {words.say_age(60 * minutes)}, and what it saw is of then. {remedy}"
    if minutes < -1:
        when = words.say_moment(state["time"])
        return f"The monitor's last look is dated in the future ({when}): a clock is or was wrong. {remedy}"
    return ""


def describe_disks(state: dict[str, Any]) -> dict[str, str]:
    """What is free of each disk, by its name."""
    values = list_values(state)
    return {
        name: f"{words.say_size(values['fs_free_bytes', name])} free ({percent:.0f} %)"
        for (metric, name), percent in values.items()
        if metric == "fs_free_percent"
    }


def describe_forecast(state: dict[str, Any]) -> str:
    """When the images' disk is full, and how sure that is."""
    disk: dict[str, Any] = state.get("disk", {})
    days = disk.get("days_until_full")
    return (f"full in {days:.0f} days, " if days else "") + str(disk.get("note", "none"))
