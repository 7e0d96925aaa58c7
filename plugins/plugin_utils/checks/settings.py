# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the settings of all roles and lists all problems."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration, memory, specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.booleans import is_boolean
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import (
    adoption,
    backups,
    clinics,
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
ELEMENTS = {"int": " of whole numbers", "str": " of text"}
# settings that may be empty, although their default is not
EMPTY = ("orthanc_verify_report_directory",)
DEFINE = (
    "define it. Passwords belong in a vault: ansible-vault edit group_vars/orthanc/vault.yml, and --ask-vault-pass when"
    " you deploy"
)
CORRECT = "correct its template, or the variables that it reads"


@dataclasses.dataclass
class Given:
    """The input of the check.

    `values` are the settings of each role by the role's own names; `unread` says why others cannot be evaluated;
    `later` names those that need the facts of the machine. `names` are all variables in scope, `written` those of the
    inventory and the command line; empty outside the collection's playbooks. `absent` are files that the machine does
    not have, `accounts` are lines of its passwd, or None if they were not read.
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
        """The settings of a role without its prefix; a static default for those that were not read."""
        return {
            own.removeprefix(f"{role}_"): self.values.get(own, default_of(role, own))
            for own in specs.read_specs(role)["main"]["options"]
        }


def default_of(role: str, own: str) -> Any:
    """The default of a setting, or of the shared setting that it reads; empty for any other template."""
    value = specs.read_defaults(role)[own]
    name = specs.name_public(own)
    if name in specs.read_shared():
        return specs.read_shared()[name]
    return "" if isinstance(value, str) and "{{" in value else value


def find_problems(roles: Iterable[str], given: Given) -> list[Problem]:
    """The problems of these roles, each once, in order; those of the inventory itself come first."""
    found = [*_find_private(given.written), *_find_unread(given)]
    unread = {specs.name_public(own) for own in given.unread if own not in specs.read_wiring()}
    for role in roles:
        for one in CHECKS.get(role, _check_nothing)(given):
            # a setting that was not read is not wrong, nor is one that cannot be compared with it
            if not {_root(one), *re.findall(r"\borthanc_\w+", one["message"])} & unread and one not in found:
                found.append(one)
    for role in roles:
        judged = {_root(one) for one in found}
        found += [one for one in _find_unspecified(role, given) if _root(one) not in judged]
    if not given.later and not any(one["severity"] == "error" for one in found):
        found += [
            problem(own, f"cannot be computed from other settings: {why}", "check the settings that it comes from")
            for own, why in given.unread.items()
            # undefined: a fact that was not read yet, or a role that is not in this play
            if own in specs.read_wiring() and "undefined" not in why
        ]
    return found


def _root(one: Problem) -> str:
    return re.split(r"[.\[]", one["path"])[0]


def _find_private(written: Iterable[str]) -> list[Problem]:
    """Variables that the collection itself sets, and that an inventory must not set."""
    found = []
    for name in written:
        if name.startswith("orthanc_") and specs.is_private(name):
            sources = specs.list_sources(name)
            message = "is set by the playbooks themselves, from other settings"
            joined = ", ".join(sources)
            remedy = f"remove it, and set {joined}" if len(sources) < 4 else f"remove it; it is computed from {joined}"
            if not sources:
                message = "is set by the playbooks themselves, from the state of the machine"
                remedy = "remove it"
            found.append(problem(name, message, remedy, "private_variable"))
    return found


def _find_unread(given: Given) -> list[Problem]:
    """Settings that cannot be evaluated; each once, even if several roles read it."""
    found = {
        specs.name_public(own): problem(
            specs.name_public(own),
            f"cannot be read: {why}",
            DEFINE if re.search("undefined|vault|ecrypt", why) else CORRECT,
            "unreadable",
        )
        for own, why in given.unread.items()
        if own not in specs.read_wiring() and own not in given.later
    }
    return list(found.values())


def _find_unspecified(role: str, given: Given) -> list[Problem]:
    """Settings that do not match the spec of their role. A value is shown only if it cannot be a secret."""
    found = []
    for own, spec in specs.read_specs(role)["main"]["options"].items():
        if own in specs.read_wiring() or own not in given.values:
            continue
        if given.values[own] is None and not _may_be_empty(role, own):
            found.append(problem(specs.name_public(own), "is empty", "write a value, or remove the line"))
            continue
        try:
            errors = ArgumentSpecValidator({own: spec}).validate({own: given.values[own]}).error_messages
        except (TypeError, OverflowError):  # from Ansible, for a number instead of a dictionary, or .inf
            errors = [f"must be {KINDS[spec['type']]}"]
        if not errors and (spec["type"] != "bool" or is_boolean(given.values[own])):
            continue
        message = f"must be {KINDS[spec['type']]}"
        if spec["type"] == "list":
            message += ELEMENTS.get(spec["elements"], "")
        if "options" in spec:
            message = f"does not match its description: {errors[0]}"
        elif "choices" in spec:
            message = f"must be one of {', '.join(map(str, spec['choices']))}"
        found.append(problem(specs.name_public(own), message, "correct it; docs/variables.md describes it"))
    return found


def _may_be_empty(role: str, own: str) -> bool:
    """Whether the setting may be empty text, for which a line without a value stands as well."""
    default = specs.read_shared().get(specs.name_public(own), specs.read_defaults(role)[own])
    return default in ("", None) or own in EMPTY


def _check_nothing(_given: Given) -> list[Problem]:
    return []


def _check_install(given: Given) -> list[Problem]:
    settings = given.of("orthanc_install")
    method = settings["method"]
    found: list[Problem] = memory.find_problems(settings["memory"])
    if method not in METHODS:
        found.insert(0, problem("orthanc_install_method", f"must be package or docker, not {method}", "correct it"))
    found += adoption.problems(settings["adopt"], settings["storage_dir"])
    return found


def _check_config(given: Given) -> list[Problem]:
    settings = {**given.of("orthanc_config"), "absent": list(given.absent)}
    unknown = not settings["version"]
    if unknown:
        settings["worklist_plugin"] = ""  # either plugin
    try:
        found = configuration.problems(settings)
    except ImportError as error:
        found = [missing_library(error)]
    return [
        *variables.problems(list(given.names)),
        *(
            # without a known version, its place in a sentence is empty
            {**one, "message": " ".join(one["message"].split()) if unknown else one["message"]}
            for one in found
            # without a known version, a waiver may still be needed
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
        return []  # the check of its spec reports it
    hosts = _list_hosts(given.of("orthanc_config")["modalities"])
    # the check of the configuration reports a device without an address
    reported = [str(host) for host in hosts if not network.is_address(host)]
    found = network.problems(settings["ports"], settings["enabled"], settings["waivers"], reported)
    # the check of the configuration reports warnings about waivers
    return [one for one in found if one["severity"] == "error"]


def _list_hosts(modalities: Any) -> list[Any]:
    devices = modalities if isinstance(modalities, list) else []
    return [device["host"] for device in devices if isinstance(device, dict) and "host" in device]


def _check_backup(given: Given) -> list[Problem]:
    settings = given.of("orthanc_backup")
    if settings["repository"]:
        found: list[Problem] = backups.problems(settings)
        return found
    message = "is not set: there is no backup, and a disk failure destroys all images"
    remedy = "set orthanc_backup_repository and orthanc_backup_password, and deploy again (docs/backup.md)"
    return [problem("orthanc_backup_repository", message, remedy, "no_backup", "warning")]


def _check_monitor(given: Given) -> list[Problem]:
    found: list[Problem] = monitoring.problems(given.of("orthanc_monitor"))
    return found


def _check_verify(given: Given) -> list[Problem]:
    settings = given.of("orthanc_verify")
    found: list[Problem] = clinics.find_rollout_problems(settings["rollout"])
    report = (str(settings[f"report_{name}"] or "") for name in ("url", "key", "known_hosts"))
    return [*found, *clinics.find_report_url_problems(*report)]


# In the order in which they are reported.
CHECKS: Mapping[str, Callable[[Given], list[Problem]]] = {
    "orthanc_install": _check_install,
    "orthanc_config": _check_config,
    "orthanc_worklist": _check_worklist,
    "orthanc_proxy": _check_proxy,
    "orthanc_firewall": _check_firewall,
    "orthanc_backup": _check_backup,
    "orthanc_monitor": _check_monitor,
    "orthanc_tools": _check_nothing,
    "orthanc_verify": _check_verify,
}
