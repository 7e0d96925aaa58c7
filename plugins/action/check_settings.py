# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evaluates the settings of the play's roles on the controller and reports all problems at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks.settings import CHECKS, Given, find_problems
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.warn import warn_of_host

FAILS = "its template fails"


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _result, asked = self.validate_argument_spec(
            {
                "roles": {"type": "list", "elements": "str", "choices": list(CHECKS)},
                "absent": {"type": "list", "elements": "str", "default": []},
                "accounts": {"type": "list", "elements": "str"},
                "mark": {"type": "str", "default": ""},
                "told": {"type": "list", "elements": "dict", "default": []},
            }
        )
        host = variables["inventory_hostname"]
        roles = asked["roles"] or [role for role in CHECKS if specs.list_unwired(role) <= variables.keys()]
        names = [own for role in roles for own in specs.read_specs(role)["main"]["options"]]
        values, unread = self._read(names)
        # a setting in the inventory may use a fact of the machine that is not gathered yet
        later = frozenset() if variables.get("ansible_facts") else frozenset(filter_by_facts(unread))
        given = Given(
            values,
            unread,
            later,
            names=sorted(variables),
            # a role used alone is wired by the play that uses it
            written=() if asked["roles"] else sorted(variables["hostvars"][host]),
            absent=asked["absent"],
            accounts=asked["accounts"],
            mark=asked["mark"],
        )
        found = [one for one in find_problems(roles, given) if one not in asked["told"]]
        errors = [say(one) for one in found if one["severity"] == "error"]
        warn_of_host((say(one) for one in found if one["severity"] == "warning"), host)
        if errors:
            title = f"{len(errors)} setting(s) to correct; nothing was changed."
            return {"failed": True, "msg": "\n".join([title, *errors])}
        waived = [f"Waived: {say(one)}" for one in found if one["severity"] == "waived"]
        # without waived problems there is nothing to show
        shown = {"_ansible_verbose_always": True} if waived else {}
        return {"changed": False, "problems": found, "later": sorted(later), "msg": "\n".join(waived), **shown}

    def _read(self, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of the settings that can be evaluated, and for the others the reason why not."""
        values: dict[str, Any] = {}
        unread: dict[str, str] = {}
        for name in names:
            try:
                values[name] = copy_plain(self._templar.resolve_variable_expression(name))
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


def say(one: dict[str, str]) -> str:
    """A problem as a sentence with its remedy."""
    end = "" if one["remedy"].endswith("?") else "."
    return f"{one['path']} {one['message']}. Remedy: {one['remedy']}{end}"
