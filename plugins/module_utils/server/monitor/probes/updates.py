# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packages: known vulnerabilities, updates that wait, and what still runs the version of before."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...orthanc.layout import VERSION
from .. import packages, survey
from .. import vulnerabilities as vulnerability
from ..context import DAY, Context, Sample, observe

BOOT = Path("/proc/sys/kernel/random/boot_id")


def remember(context: Context, name: str, key: list[Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found under this key, found anew when the key is another; each day and release in any case."""
    key = [int(context.now // DAY), *survey.stamp(Path(survey.__file__)), *key]
    known: dict[str, Any] = context.state.setdefault("packages", {}).get(name, {})
    if known.get("key") != key:
        known = context.state["packages"][name] = {"key": key, **find()}
    return known


# --- vulnerabilities ------------------------------------------------------------------------------
def probe_vulnerabilities(context: Context) -> Iterator[Sample]:
    """Known vulnerabilities of what runs, without an update, that are not accepted."""
    if not context.pid:
        return  # what it runs is not seen
    settings, state, pid = context.settings, context.state, context.pid
    version, container = read_version(settings.storage / VERSION), settings.method == "docker"
    key = [*survey.stamp(packages.MACHINE / packages.STATUS, survey.KNOWN), pid, survey.read_pid(survey.NGINX)]
    known = json.loads(survey.KNOWN.read_text(encoding="utf-8"))
    found = remember(context, "vulnerabilities", key, lambda: survey.survey_packages(known, pid, version, container))
    state["version"], state["cves"] = version, sorted({one["id"] for one in found["open"]})
    lasting = survey.list_lasting(found["open"], find_updates(context)["offered"])
    left = [vulnerability.Open(**one) for one in lasting if one["id"] not in settings.accepted_cves]
    yield observe("known_cves", len({one.id for one in left}), detail=vulnerability.summarise(left))


def read_version(path: Path) -> str:
    """The release that a file in Orthanc's directory names; any other text is not shown."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, encoding="ascii", errors="replace") as file:
        text = file.read(64).strip()
    if not re.fullmatch(r"\d+(\.\d+)+[\w.+~-]*|mainline", text):
        raise ValueError("the recorded release is not a version")
    return text


# --- updates --------------------------------------------------------------------------------------
def find_updates(context: Context) -> dict[str, Any]:
    """What apt offers and dpkg left, as survey_updates says it."""
    known = context.state.get("packages", {}).get("vulnerabilities", {})
    watched = [name for name, _unused in known.get("watched", [])]
    return remember(context, "updates", [*survey.stamp_updates(), watched], lambda: survey.survey_updates(watched))


def probe_updates(context: Context) -> Iterator[Sample]:
    """Updates that are held back or wait to be installed, and configuration files that were not installed."""
    found = find_updates(context)
    yield observe("packages_held", len(found["held"]), detail=list_some(found["held"]))
    left = [path for path in found["left"] if os.path.lexists(path)]
    yield observe("conffiles_left", len(left), detail=list_some(left))
    if found["error"]:
        raise OSError(found["error"])
    kept = context.state["packages"]
    due, kept["seen"] = survey.list_due(found, kept.get("seen", {}), context.now)
    yield observe("security_updates", len(due), detail=list_some(due))


def probe_lists(context: Context) -> Iterator[Sample]:
    """How old the lists of packages are."""
    age = packages.read_lists_age(context.now)
    days = context.measure_age(None if age is None else context.now - age) / DAY
    yield observe("package_lists_days", days, detail=f"{days:.0f} days")


def probe_restarts(context: Context) -> Iterator[Sample]:
    """Whether the machine must be restarted, and services that run what an update has replaced."""
    key = [*survey.stamp(packages.MACHINE / packages.STATUS, survey.REBOOT), BOOT.read_text(encoding="ascii")]
    reason = remember(context, "reboot", key, lambda: {"reason": survey.find_reboot()})["reason"]
    yield observe("reboot_due", bool(reason), detail=reason)
    services = {"nginx": survey.read_pid(survey.NGINX)}
    if context.settings.method != "docker":
        services["orthanc"] = context.pid
    for name, pid in services.items():
        if pid:
            replaced = packages.list_replaced(survey.read_maps(pid))
            yield observe("replaced_files", len(replaced), "service", name, list_some(replaced))


def list_some(lines: list[str]) -> str:
    """Some of them, and how many more there are."""
    return ", ".join(lines[:5]) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
