# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evaluates the settings of the play's roles on the controller and reports all problems at once."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import evaluate
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks.settings import CHECKS, Given, find_problems
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.warn import warn_of_host


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
        values, unread = evaluate.read_values(self._templar, names)
        # a setting in the inventory may use a fact of the machine that is not gathered yet
        known = bool(variables.get("ansible_facts"))
        later = frozenset(() if known else evaluate.filter_by_facts(self._templar, unread))
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
        errors = [evaluate.say(one) for one in found if one["severity"] == "error"]
        warn_of_host((evaluate.say(one) for one in found if one["severity"] == "warning"), host)
        if errors:
            title = f"{len(errors)} setting(s) to correct; nothing was changed."
            return {"failed": True, "msg": "\n".join([title, *errors])}
        waived = [evaluate.say_marked(one) for one in found if one["severity"] == "waived"]
        # without waived problems there is nothing to show
        shown = {"_ansible_verbose_always": True} if waived else {}
        return {"changed": False, "problems": found, "later": sorted(later), "msg": "\n".join(waived), **shown}
