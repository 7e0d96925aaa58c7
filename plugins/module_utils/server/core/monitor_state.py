# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state that the monitor's last check wrote, for every program that reads it, and its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import words
from .escaping import escape
from .files import read_object
from .limits import SILENT_MINUTES

DIRECTORY = Path("/var/lib/orthanc-monitor")
FILE = "state.json"
SETTINGS = Path("/etc/orthanc-monitor.json")
IN_MEMORY = Path("/run/orthanc-monitor.json")  # the state, while there is no space for it
CLEAR_PERCENT = 2  # so much more than the disk guard's percentage must be free until images are accepted again
SEVERITIES = ("critical", "warning", "info")  # worst first


def read_state(directory: Path) -> dict[str, Any]:
    """The state after the last check, from the disk or from memory; empty before the first check."""
    return max(read_object(directory / FILE), read_object(IN_MEMORY), key=lambda state: state.get("time", 0))


def size_reserve(size: int) -> int:
    """Bytes of the reserve that the monitor keeps on the images' disk of this size."""
    return max(min(size // 100, 1 << 30), 1)


def read_margin(size: int, refusing: bool, settings: Path = SETTINGS) -> int:
    """Bytes of the images' disk of this size that other programs leave free: with less, the disk guard refuses images,
    or goes on refusing them. Beside the percentage as many as the reserve has, for what arrives before the next look.

    None where there is no monitor, or no disk guard."""
    percent = read_object(settings).get("disk_guard_percent", 0)
    return (percent + (CLEAR_PERCENT if refusing else 0)) * size // 100 + size_reserve(size) if percent else 0


def list_standing(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The alerts that are active after the last check and are not consequences of others, worst first."""
    standing = [alert for alert in state.get("alerts", {}).values() if alert["firing"] and not alert["covered"]]
    return sorted(standing, key=lambda one: SEVERITIES.index(one["severity"]))


def list_values(state: dict[str, Any]) -> dict[tuple[str, str], float]:
    """What the last check measured, by metric and object; the object of the whole server is empty."""
    return {(metric, object_): value for metric, _unused, object_, value in state.get("values", [])}


# --- words ----------------------------------------------------------------------------------------
def describe_alert(alert: dict[str, Any]) -> str:
    """The alert in one line, with its object and details, fit for a terminal."""
    about = ": ".join(text for text in (alert["object"], alert.get("detail", "")) if text)
    return escape(f"{alert['summary']}{f' ({about})' if about else ''}")


def describe_silence(state: dict[str, Any], now: float) -> str:
    """Why the last check does not describe the present; empty where it does."""
    if "time" not in state:
        return "The monitor has not run a check yet. Remedy: systemctl enable --now orthanc-monitor.timer"
    remedy = "Remedy: systemctl enable --now orthanc-monitor.timer; see journalctl -u orthanc-monitor"
    minutes = (now - state["time"]) / 60
    if minutes > SILENT_MINUTES:
        return (
            f"The monitor has not run a check for {words.say_age(60 * minutes)}; its results are out of date. {remedy}"
        )
    if minutes < -1:
        when = words.say_moment(state["time"])
        return f"The monitor's last check is dated in the future ({when}): a clock is or was wrong. {remedy}"
    return ""


def describe_disks(state: dict[str, Any]) -> dict[str, str]:
    """Free space of each disk, by its name."""
    values = list_values(state)
    return {
        name: f"{words.say_size(values['fs_free_bytes', name])} free ({percent:.0f} %)"
        for (metric, name), percent in values.items()
        if metric == "fs_free_percent"
    }


def describe_forecast(state: dict[str, Any]) -> str:
    """When the images' disk will be full, and how reliable that forecast is."""
    disk: dict[str, Any] = state.get("disk", {})
    days = disk.get("days_until_full")
    return (f"full in {days:.0f} days, " if days else "") + str(disk.get("note", "none"))
