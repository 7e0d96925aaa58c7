# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the roles' files about settings: specs, defaults, wiring, and the settings from which others are computed.

Without Ansible; nothing is evaluated.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
# A default that reads one variable: `orthanc_config_aet: "{{ orthanc_aet }}"`.
READS = re.compile(r"\{\{ (orthanc_[a-z_]+) \}\}")
NAME = re.compile(r"(?<![\w.])(?:__)?orthanc_[a-z]\w*")


def read_yaml(path: Path) -> dict[str, Any]:
    """The contents of a YAML file of the collection; empty for an empty file."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return content


@functools.cache
def read_specs(role: str) -> dict[str, Any]:
    """The entry points of a role, as in its argument_specs.yml."""
    specs: dict[str, Any] = read_yaml(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    return specs


@functools.cache
def read_defaults(role: str) -> dict[str, Any]:
    """The defaults of a role, with unevaluated templates."""
    return read_yaml(ROOT / "roles" / role / "defaults/main.yml")


@functools.cache
def read_shared() -> dict[str, Any]:
    """The settings that several roles read, by the name that an inventory writes, with their only default."""
    return read_defaults("orthanc")


@functools.cache
def read_wiring() -> dict[str, Any]:
    """The variables that the playbooks set from what roles publish: names and templates."""
    return read_yaml(ROOT / "playbooks/vars/wiring.yml")


@functools.cache
def read_published() -> dict[str, Any]:
    """The variables of all roles, including those that begin with __: names and templates."""
    return {
        name: value for path in sorted(ROOT.glob("roles/*/vars/main.yml")) for name, value in read_yaml(path).items()
    }


@functools.cache
def read_all_defaults() -> dict[str, Any]:
    return {
        name: value
        for path in sorted(ROOT.glob("roles/*/defaults/main.yml"))
        for name, value in read_yaml(path).items()
    }


def list_unwired(role: str) -> set[str]:
    """Names of a role's defaults that are in scope where the role is in the play, and only there."""
    return set(read_defaults(role)) - set(read_wiring())


def name_public(own: str) -> str:
    """What an inventory writes for a role's own setting: the collection variable that its default reads, or itself."""
    reads = READS.fullmatch(str(read_all_defaults().get(own)))
    return reads[1] if reads and reads[1] in read_shared() else own


def is_private(name: str) -> bool:
    """Whether the collection itself sets the variable: playbooks wire it, or a role computes it."""
    return name in read_wiring() or name in read_published()


def list_sources(name: str) -> list[str]:
    """The public settings from which a private one is computed; empty if it comes from the machine."""
    found: list[str] = []
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop(0)
        if one in seen:
            continue
        seen.add(one)
        for value in (read_wiring().get(one), read_published().get(one)):
            # the name of a filter is not a variable
            waiting += NAME.findall(re.sub(r"clinicops\.orthanc\.\w+", "", str(value)))
        if not is_private(one) and one in read_all_defaults() and name_public(one) not in found:
            found.append(name_public(one))
    return found
