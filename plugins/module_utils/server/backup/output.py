# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Output of the program: its result for a person, its progress, and problems in the journal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from ..core import journal, words
from ..core.output import draw_bar, write_line
from .study import format_images

PROGRAM = "orthanc-backup"


def say_problem(text: str) -> None:
    """A line at priority 3, wherever the program was called from."""
    journal.say_loudly(text, PROGRAM)


def show_progress(done: float, what: str) -> None:
    """Progress, for a person who watches."""
    if sys.stderr.isatty():
        draw_bar(what, done, f"{done:4.0%}")


def summarize(what: str, found: Iterable[str], remedy: str) -> list[str]:
    """One sentence for a few or many of a kind."""
    found = list(found)
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return [f"{what}: {', '.join(found[:5])}{more}. Remedy: {remedy}."] if found else []


def print_result(result: dict[str, Any]) -> None:
    """What a command gives back, for a person."""
    for one in result.get("snapshots", []):
        proven = "" if one["proven"] else "  NOT PROVEN"
        counts = f"{one.get('studies', '?')} studies, {one.get('instances', '?')} instances"
        belongs = f"archive {one.get('archive', '?')[:4]}, Orthanc {one.get('version', '?'):8}"
        kept = f"  kept: {one['kept']}" if "kept" in one else ""
        taken = f"{words.say_stamp(one['time']):>17}"
        write_line(f"{one['id']}  {taken}  {belongs} {counts}, {say_verified(one)}{proven}{kept}")
    for name, one in result.get("schedules", {}).items():
        write_line(f"{name.replace('_', ' ')}: {say_schedule(one)}")
    for one in result.get("kept", []):
        write_line(f"not changed: {one['path']} ({one['why']})")
    for line in format_images(result.get("images", [])):
        write_line(line)
    for aet in dict.fromkeys(one["aet"] for one in result.get("resend", [])):
        write_line(f"send again from {aet or 'applications'}:")
        for one in result["resend"]:
            if one["aet"] == aet:
                write_line(f"    {words.say_stamp(one['time']):>17}  {one['accession']:16}  {one['study']}")
    for name, value in result.items():
        if name not in ("snapshots", "schedules", "resend", "kept", "images") and value not in ("", [], {}):
            if isinstance(value, dict):
                value = [f"{key} {say_value(key, of)}" for key, of in value.items()]
            text = ", ".join(map(str, value)) if isinstance(value, list) else say_value(name, value)
            write_line(f"{name.removesuffix('_seconds').replace('_', ' ')}: {text}")


def say_schedule(schedule: dict[str, Any]) -> str:
    """Whether a regular task is started, and since when it is scheduled."""
    if not schedule["planned"]:
        return "not scheduled. Remedy: deploy again."
    since = f"scheduled since {words.say_moment(schedule['planned'])}"
    unit = schedule["unit"]
    if schedule["active"]:
        return f"{since}, started by {unit}"
    return f"{since}; {unit} is stopped. Remedy: systemctl enable --now {unit}"


def say_value(name: str, value: Any) -> str:
    """A moment, a duration or a number of bytes as a person says it, everything else as it is."""
    if isinstance(value, str):
        return words.say_day(value) if name == "day" else words.say_stamp(value)
    if name == "pause":
        return f"{1000 * value:.0f} ms"
    if name == "seconds" or name.endswith("_seconds"):
        return words.say_duration(value)
    return words.say_size(value) if name in ("added", "bytes") or name.endswith("_bytes") else str(value)


def say_verified(snapshot: dict[str, Any]) -> str:
    """When a listed snapshot passed a test restore."""
    day, part = snapshot["verified"], snapshot["verified_part"].replace("/", " of ")
    if not day:
        return "never verified"
    return f"verified {words.say_day(day)}" + f" ({part} attachments)" * bool(part)
