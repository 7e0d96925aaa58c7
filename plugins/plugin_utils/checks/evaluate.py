# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evaluates settings with Ansible's templates on the controller, for their check."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem

FAILS = "its template fails"


def read_layers(loader: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The collection's variables in a play with all roles: those below the inventory's, and those above them."""
    below = sorted(specs.ROOT.glob("roles/*/defaults/main.yml"))
    above = [specs.ROOT / "playbooks/vars/wiring.yml", *sorted(specs.ROOT.glob("roles/*/vars/main.yml"))]
    first, last = (
        {
            name: value
            for path in paths
            for name, value in (loader.load_from_file(str(path), trusted_as_template=True) or {}).items()
        }
        for paths in (below, above)
    )
    return first, last


def read_values(templar: Any, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the settings that can be evaluated, and for the others the reason why not."""
    values: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name in names:
        try:
            values[name] = copy_plain(templar.resolve_variable_expression(name))
        except AnsibleError as error:
            # the rest of Ansible's message may contain a value
            why = re.search(r"'[^']*' is undefined", str(error))
            unread[name] = why[0] if why else FAILS
    return values, unread


def filter_by_facts(unread: dict[str, str]) -> list[str]:
    """The settings that may be readable once facts are gathered: a fact, or a key of a dictionary, is still missing."""
    return [
        name
        for name, why in unread.items()
        if name not in specs.read_wiring() and (why == FAILS or why.startswith("'ansible_"))
    ]


def copy_plain(value: Any) -> Any:
    """The value as plain data, with everything in it evaluated."""
    if isinstance(value, dict):
        return {key: copy_plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [copy_plain(part) for part in value]
    return value


def say(one: Problem) -> str:
    """A problem as a sentence with its remedy."""
    end = "" if one["remedy"].endswith("?") else "."
    return f"{one['path']} {one['message']}. Remedy: {one['remedy']}{end}"
