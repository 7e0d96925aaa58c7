# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which systems a deploy supports, and what on a machine's system stands in its way.

systems.yml lists the systems. What differs between them is asked of the machine; the list says only on which of them
the collection was tried. Pure functions over plain data, without Ansible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

OLDEST_PYTHON = (3, 10)
OLDEST_ORTHANC = (1, 10, 0)
SNAP = "/snap/bin/docker"


class System(NamedTuple):
    """A release of a distribution, and the Orthanc of its packages."""

    name: str
    version: str
    codename: str
    orthanc: str
    dicomweb: str


class Machine(NamedTuple):
    """What a deploy has asked of a machine. `offered` has the version of each package that is installed, or that apt
    would install; `needed` are the packages that a deploy installs."""

    name: str
    version: str
    family: str
    python: str
    method: str
    offered: Mapping[str, str]
    needed: Iterable[str]
    has_snap: bool = False


SYSTEMS = tuple(
    System(**row) for row in yaml.safe_load(Path(__file__).with_name("systems.yml").read_text(encoding="utf-8"))
)


def release(version: Any) -> tuple[int, ...]:
    """'1.12.7+dfsg-4' as (1, 12, 7); an unknown version counts as the newest."""
    return tuple(int(part) for part in re.findall(r"\d+", str(version).partition("+")[0])[:3]) or (999,)


def find_system(name: str, version: str) -> System | None:
    """The system in the list, for Ansible's `distribution` and `distribution_version`, such as Debian 13.5."""
    return next((one for one in SYSTEMS if one.name == name and f"{version}.".startswith(f"{one.version}.")), None)


def find_next(name: str, version: str) -> System | None:
    """The system of the list that an upgrade leads to from this one; None from the last, or from one not listed."""
    here = find_system(name, version)
    later = SYSTEMS[SYSTEMS.index(here) + 1 :] if here else ()
    return next((one for one in later if one.name == name), None)


def list_systems() -> str:
    """The systems of the list in words: Debian 12 or 13, Ubuntu 22.04, 24.04 or 26.04."""
    said = []
    for name in dict.fromkeys(one.name for one in SYSTEMS):
        *first, last = [one.version for one in SYSTEMS if one.name == name]
        said.append(f"{name} {', '.join(first)} or {last}" if first else f"{name} {last}")
    return ", ".join(said)


def find_problems(machine: Machine) -> list[Problem]:
    """What a deploy cannot work with on this machine's system; `untested_system` may be waived."""
    who = f"{machine.name} {machine.version}"
    remedy = f"deploy on {list_systems()}"
    if machine.family != "Debian":
        message = "is not supported: a deploy needs the packages of Debian or Ubuntu"
        return [problem(who, message, remedy, "other_system")]
    found = []
    if release(machine.python) < OLDEST_PYTHON:
        message = f"has Python {machine.python}, and the programs on the server need 3.10 or later"
        found.append(problem(who, message, remedy, "old_python"))
    elif not find_system(machine.name, machine.version):
        found.append(problem(who, "is not a system that this collection was tested on", remedy, "untested_system"))
    found += _check_packages(machine)
    if machine.method == "docker" and machine.has_snap:
        message = "is Docker as a snap, which cannot mount Orthanc's directories"
        remedy = (
            "back up the volumes of its containers, remove it (snap remove docker), and deploy again, which installs"
            " the system's own docker.io"
        )
        found.append(problem(SNAP, message, remedy, "docker_snap"))
    return found


def _check_packages(machine: Machine) -> list[Problem]:
    """The problem of packages that apt does not offer, or of an Orthanc that is too old."""
    missing = [name for name in dict.fromkeys(machine.needed) if not machine.offered.get(name)]
    if missing:
        message = f"does not offer {', '.join(missing)}"
        remedy = "add its main archive to /etc/apt/sources.list, and run apt update"
        if machine.name == "Ubuntu":
            message += "; they are in the component universe, which is switched off"
            remedy = "sudo add-apt-repository universe && sudo apt update"
            remedy += " (or add universe to Components in /etc/apt/sources.list.d/ubuntu.sources)"
        return [problem("apt", message, remedy, "missing_packages")]
    orthanc = machine.offered.get("orthanc", "")
    if machine.method == "package" and orthanc and release(orthanc) < OLDEST_ORTHANC:
        message = f"is {orthanc}, and this collection needs 1.10.0 or later"
        return [problem("The package orthanc", message, "set orthanc_install_method to docker", "old_orthanc")]
    return []
