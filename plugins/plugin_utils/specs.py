# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the roles' files about settings: specs, defaults, wiring, and the settings from which others are computed.

Without Ansible; nothing is evaluated.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
# A default that reads one variable: `orthanc_config_aet: "{{ orthanc_aet }}"`.
READS = re.compile(r"\{\{ (orthanc_[a-z_]+) \}\}")
NAME = re.compile(r"(?<![\w.])(?:__)?orthanc_[a-z]\w*")
# The text on a collection variable is in the spec of the first of these roles that reads it.
OWNERS = ("orthanc_config", "orthanc_proxy", "orthanc_install", "orthanc_worklist", "orthanc_backup", "orthanc_monitor")
# libyaml's loader, which PyYAML has wherever it was installed from a package, is eight times as fast as its own
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Setting(NamedTuple):
    """An option of a spec. `name` is its name in an inventory; `own` is its name in the role, mostly the same."""

    name: str
    own: str
    entry: str
    spec: dict[str, Any]
    default: Any


def read_yaml(path: Path) -> dict[str, Any]:
    """The contents of a YAML file of the collection; empty for an empty file."""
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER) or {}
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
    wiring = read_yaml(ROOT / "playbooks/vars/wiring.yml")
    return {name: value for name, value in wiring.items() if not name.startswith("__")}  # what only plays share


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


@functools.cache
def list_roles() -> list[str]:
    """The roles that have specs: the one of the shared settings is described by those that read it."""
    return sorted(path.parents[1].name for path in ROOT.glob("roles/*/meta/argument_specs.yml"))


@functools.cache
def read_groups() -> list[dict[str, Any]]:
    """The groups of the public settings in their order: `title`, `description` and the names, `settings`."""
    groups: list[dict[str, Any]] = read_yaml(Path(__file__).with_name("groups.yml"))["groups"]
    return groups


@functools.cache
def list_settings(role: str) -> list[Setting]:
    """The options of a role, each once, in the order of its defaults."""
    defaults = read_defaults(role)
    found: dict[str, Setting] = {}
    for entry, spec in read_specs(role).items():
        for own, option in spec.get("options", {}).items():
            name = name_public(own)
            default = read_shared().get(name, defaults[own])
            found.setdefault(own, Setting(name, own, entry, option, default))
    return [found[name] for name in defaults]


@functools.cache
def list_public() -> dict[str, Setting]:
    """Every setting that an inventory may have, by its name, with the spec that describes it."""
    found: dict[str, Setting] = {}
    for role in [*OWNERS, *(role for role in list_roles() if role not in OWNERS)]:
        for setting in list_settings(role):
            if setting.own not in read_wiring():
                found.setdefault(setting.name, setting)
    return found


def write_plain(text: str) -> str:
    """The markup of a spec as plain text, for a comment."""
    return re.sub(r"[CV]\(([^)]*)\)", r"\1", " ".join(text.split()))
