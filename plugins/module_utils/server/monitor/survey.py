# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state of a machine's packages, kept until something changes, since a check reads it each minute."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core.process import ask_program
from . import packages, vulnerabilities
from .packages import MACHINE, Package

KNOWN = Path("/usr/local/share/orthanc-monitor/vulnerabilities.json")
NGINX = Path("/run/nginx.pid")
REBOOT = Path("/run/reboot-required")
SOURCES = ("orthanc", "orthanc-dicomweb", "dcmtk", "nginx", "restic")  # watched wherever they are installed
APT = ("sources.list", "sources.list.d", "preferences", "preferences.d", "apt.conf", "apt.conf.d")
DAY = 86400
PATIENCE = 2 * DAY  # for unattended-upgrades, which installs security updates once a day


def stamp(*paths: Path) -> list[float]:
    """When each was last changed; 0 for what is not there."""
    return [path.stat().st_mtime if path.exists() else 0 for path in paths]


def read_maps(pid: int) -> str:
    """What a process has mapped; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace") if pid else ""
    except (FileNotFoundError, ProcessLookupError):
        return ""


def read_pid(path: Path) -> int:
    """The process in a pid file; 0 without such a file."""
    try:
        return int(path.read_text(encoding="ascii").strip() or 0)
    except (FileNotFoundError, ValueError):
        return 0


# --- vulnerabilities --------------------------------------------------------------------------------
def list_watched(root: Path, installed: dict[str, Package], loaded: Iterable[str]) -> list[Package]:
    """Packages of the programs that are watched, and of every library that Orthanc and nginx run; these first."""
    owners = packages.find_owners(root, {path.removesuffix(" (deleted)") for path in loaded})
    watched = [one for one in installed.values() if one.name in owners or one.source in SOURCES]
    return sorted(watched, key=lambda one: (one.name not in owners, one.name))


def survey_packages(known: dict[str, Any], pid: int, release: str, container: bool) -> dict[str, Any]:
    """The packages that are watched, and the open vulnerabilities, of Orthanc's process and of the machine."""
    installed = packages.read_installed()
    loaded, of_orthanc = packages.list_loaded(read_maps(read_pid(NGINX))), packages.list_loaded(read_maps(pid))
    watched = list_watched(MACHINE, installed, loaded if container else loaded | of_orthanc)
    found = vulnerabilities.find_open(known, watched, lambda one: packages.read_changelog(MACHINE, one))
    inside: list[Package] = []
    if container:
        root = Path(f"/proc/{pid}/root")
        try:
            inside = list_watched(root, packages.read_installed(root), of_orthanc)
        except FileNotFoundError:
            inside = []  # an image without dpkg
        of_image = vulnerabilities.find_open(known, inside, lambda one: packages.read_changelog(root, one))
        found += [one._replace(package=f"{one.package} of the container") for one in of_image]
    if not any(one.source == "orthanc" for one in (inside if container else watched)):
        found += vulnerabilities.find_open_in_release(known, release)
    return {
        "watched": [[one.name, one.version] for one in watched],
        "container": [[one.name, one.version] for one in inside],
        "open": [one._asdict() for one in found],
    }


# --- updates ----------------------------------------------------------------------------------------
def is_unattended(installed: dict[str, Package]) -> bool:
    """Whether the machine installs security updates by itself."""
    if "unattended-upgrades" not in installed:
        return False
    done = ask_program("apt-config", "shell", "ON", "APT::Periodic::Unattended-Upgrade")
    return done.status == 0 and done.output.strip() not in ("", "ON='0'")


def survey_updates(watched: Iterable[str]) -> dict[str, Any]:
    """What apt offers and what keeps it back: security updates, and every update of a package that is watched.

    `error` is why apt plans nothing, which is not asked again before something changes.
    """
    installed, names = packages.read_installed(), set(watched)
    error, now, with_held = "", {}, {}
    try:
        now, with_held = packages.simulate_upgrade(), packages.simulate_upgrade("--ignore-hold")
    except OSError as reason:
        error = str(reason)
    waiting = [one for one in now.values() if one.security or one.name in names]
    held = [
        f"{one.name} {one.installed}, {one.candidate} is offered (apt-mark hold)"
        for name, one in with_held.items()
        if name not in now
    ]
    for one in waiting:
        changed = packages.find_changed_conffiles(MACHINE, installed[one.name]) if one.name in installed else []
        if changed:
            held.append(f"{one.name} {one.installed}, {one.candidate} is offered ({', '.join(changed)} was changed)")
    held += [f"{one.name} {one.version} is {one.state}" for one in installed.values() if one.state != "installed"]
    return {
        "error": error,
        "offered": sorted({*now, *with_held}),
        "waiting": [f"{one.name} {one.installed} -> {one.candidate}" for one in waiting],
        "held": held,
        "left": packages.find_left_behind(),
        "unattended": is_unattended(installed),
    }


def list_lasting(found: Iterable[dict[str, str]], offered: Iterable[str]) -> list[dict[str, str]]:
    """The open vulnerabilities of packages for which apt offers nothing newer; the others are for an update to end."""
    names = set(offered)
    return [one for one in found if one["package"] not in names]


def stamp_updates() -> list[float]:
    """Changes when apt may offer something else than before."""
    apt = [MACHINE / "etc/apt" / name for name in APT]
    lists = MACHINE / packages.LISTS
    return stamp(MACHINE / packages.STATUS, lists, lists / "partial", *apt)


def list_due(updates: dict[str, Any], seen: dict[str, float], now: float) -> tuple[list[str], dict[str, float]]:
    """The updates that must be installed by hand, and since when each is known.

    A machine that installs them by itself has two days for it.
    """
    since = {name: min(seen.get(name, now), now) for name in updates["waiting"]}
    patience = PATIENCE if updates["unattended"] else 0
    return [name for name, first in since.items() if now - first >= patience], since


# --- what is due ------------------------------------------------------------------------------------
def find_reboot() -> str:
    """Why the machine must be restarted; empty where it need not be."""
    names = REBOOT.with_name(f"{REBOOT.name}.pkgs")
    if REBOOT.exists():
        of = " ".join(sorted(set(names.read_text(errors="replace").split()))) if names.exists() else ""
        return f"an update requires it: {of}" if of else "an update requires it"
    system = os.uname()
    kernel = packages.find_newer_kernel(packages.read_installed().values(), system.release, system.version)
    return f"{kernel} is installed, {system.release} is running" if kernel else ""
