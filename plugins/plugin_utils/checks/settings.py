# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that is wrong with the settings of all roles, as one list."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration, specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import (
    backups,
    monitoring,
    network,
    proxy,
    variables,
    writers,
)
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, missing_library, problem

METHODS = ("package", "docker")
KINDS = {
    "int": "a whole number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a dictionary",
    "str": "text",
    "path": "a path",
}
DEFINE = (
    "define it. Passwords belong in a vault: ansible-vault edit group_vars/orthanc/vault.yml, and --ask-vault-pass when"
    " you deploy"
)


@dataclasses.dataclass
class Given:
    """What is known when the check runs.

    `values` are those of each role's settings by the role's own names, `unread` says of others why they cannot be
    evaluated, `later` names those of them that wait for the facts of the machine; `names` are all variables in scope,
    `written` those of the inventory and the command line, or none where no playbook of the collection wires. `absent`
    are files that the machine does not have, `accounts` lines of its passwd, or None where it was not asked.
    """

    values: dict[str, Any]
    unread: dict[str, str] = dataclasses.field(default_factory=dict)
    later: frozenset[str] = frozenset()
    names: Iterable[str] = ()
    written: Iterable[str] = ()
    absent: Iterable[str] = ()
    accounts: list[str] | None = None
    mark: str = ""

    def of(self, role: str) -> dict[str, Any]:
        """The settings of a role by their names without the role's; a static default for what is not read."""
        return {
            own.removeprefix(f"{role}_"): self.values.get(own, default_of(role, own))
            for own in specs.read_specs(role)["main"]["options"]
        }


def default_of(role: str, own: str) -> Any:
    """The default of a setting where it is no template, or what a collection variable falls back to."""
    value = specs.read_defaults(role)[own]
    shared = specs.SHARED.fullmatch(value) if isinstance(value, str) else None
    if shared:
        return specs.yaml.safe_load(shared[2])
    return "" if isinstance(value, str) and "{{" in value else value


def find_problems(roles: Iterable[str], given: Given) -> list[Problem]:
    """The problems of these roles, each once, in their order; those of the inventory itself come first."""
    found = [*_find_private(given.written), *_find_unread(given)]
    unread = {specs.name_public(own) for own in given.unread if own not in specs.read_wiring()}
    for role in roles:
        for one in CHECKS.get(role, _check_nothing)(given):
            # what was not read is no mistake, and neither is what cannot be compared with it
            if not {_root(one), *re.findall(r"\borthanc_\w+", one["message"])} & unread and one not in found:
                found.append(one)
    judged = {_root(one) for one in found}
    for role in roles:
        found += [one for one in _find_unspecified(role, given) if _root(one) not in judged]
    if not given.later and not any(one["severity"] == "error" for one in found):
        found += [
            problem(own, f"cannot be made of other settings: {why}", "check the settings that it is made of")
            for own, why in given.unread.items()
            # undefined is what the machine has not told yet, or a role that is not in this play
            if own in specs.read_wiring() and "undefined" not in why
        ]
    return found


def _root(one: Problem) -> str:
    return re.split(r"[.\[]", one["path"])[0]


def _find_private(written: Iterable[str]) -> list[Problem]:
    """Variables that the collection sets itself, and that an inventory sets in vain."""
    found = []
    for name in written:
        if name.startswith("orthanc_") and specs.is_private(name):
            sources = specs.list_sources(name)
            message = "is set by the playbooks themselves, from other settings"
            joined = ", ".join(sources)
            remedy = f"take it out, and set {joined}" if len(sources) < 4 else f"take it out; it is made of {joined}"
            if not sources:
                message = "is set by the playbooks themselves, from what is on the machine"
                remedy = "take it out"
            found.append(problem(name, message, remedy, "private_variable"))
    return found


def _find_unread(given: Given) -> list[Problem]:
    """Settings that cannot be evaluated; one that several roles read, once."""
    found = {
        specs.name_public(own): problem(specs.name_public(own), f"cannot be read: {why}", DEFINE, "unreadable")
        for own, why in given.unread.items()
        if own not in specs.read_wiring() and own not in given.later
    }
    return list(found.values())


def _find_unspecified(role: str, given: Given) -> list[Problem]:
    """Settings that do not fit the spec of their role; a value is shown where it cannot be a secret."""
    found = []
    for own, spec in specs.read_specs(role)["main"]["options"].items():
        if own in specs.read_wiring() or own not in given.values:
            continue
        try:
            errors = ArgumentSpecValidator({own: spec}).validate({own: given.values[own]}).error_messages
        except TypeError:  # Ansible's own, of a number where a dictionary should be
            errors = [f"must be {KINDS[spec['type']]}"]
        if not errors:
            continue
        message = f"must be {KINDS[spec['type']]}"
        if "options" in spec:
            message = f"does not fit its description: {errors[0]}"
        elif "choices" in spec:
            message = f"must be one of {', '.join(map(str, spec['choices']))}"
        found.append(problem(specs.name_public(own), message, "correct it; docs/variables.md describes it"))
    return found


def _check_nothing(_given: Given) -> list[Problem]:
    return []


def _check_install(given: Given) -> list[Problem]:
    method = given.of("orthanc_install")["method"]
    return [] if method in METHODS else [problem("orthanc_install_method", f"is {method}", "use package or docker")]


def _check_config(given: Given) -> list[Problem]:
    settings = {**given.of("orthanc_config"), "absent": list(given.absent)}
    unknown = not settings["version"]
    if unknown:
        settings["worklist_plugin"] = ""  # either
    try:
        found = configuration.problems(settings)
    except ImportError as error:
        found = [missing_library(error)]
    return [
        *variables.problems(list(given.names)),
        *(
            # the version is a gap in a sentence where nobody has asked the machine for it
            {**one, "message": " ".join(one["message"].split()) if unknown else one["message"]}
            for one in found
            # whether a waiver is needed is known when the version is
            if not (unknown and one["rule"] == "idle_waiver")
        ),
    ]


def _check_worklist(given: Given) -> list[Problem]:
    settings = given.of("orthanc_worklist")
    found: list[Problem] = writers.problems({**settings, "dir": settings["served_dir"]}, given.accounts, given.mark)
    return found


def _check_proxy(given: Given) -> list[Problem]:
    found: list[Problem] = proxy.problems(given.of("orthanc_proxy"), datetime.datetime.now(datetime.UTC))
    return found


def _check_firewall(given: Given) -> list[Problem]:
    settings = given.of("orthanc_firewall")
    if not isinstance(settings["ports"], list):
        return []  # its spec says it
    found = network.problems(settings["ports"], settings["enabled"], settings["waivers"])
    # warnings of waivers are the configuration's
    return [one for one in found if one["severity"] == "error"]


def _check_backup(given: Given) -> list[Problem]:
    settings = given.of("orthanc_backup")
    if settings["repository"]:
        found: list[Problem] = backups.problems(settings)
        return found
    message = "is not set: there is no backup, and a defect of the disk takes every image"
    remedy = "set orthanc_backup_repository and orthanc_backup_password, and deploy again (docs/backup.md)"
    return [problem("orthanc_backup_repository", message, remedy, "no_backup", "warning")]


def _check_monitor(given: Given) -> list[Problem]:
    found: list[Problem] = monitoring.problems(given.of("orthanc_monitor"))
    return found


# In the order in which they are said.
CHECKS: Mapping[str, Callable[[Given], list[Problem]]] = {
    "orthanc_install": _check_install,
    "orthanc_config": _check_config,
    "orthanc_worklist": _check_worklist,
    "orthanc_proxy": _check_proxy,
    "orthanc_firewall": _check_firewall,
    "orthanc_backup": _check_backup,
    "orthanc_monitor": _check_monitor,
    "orthanc_tools": _check_nothing,
    "orthanc_verify": _check_nothing,
}
