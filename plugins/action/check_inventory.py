# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evaluates the settings of all clinics on the controller and reports all problems in one table."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.words import say_count
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import clinics, evaluate
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks.settings import CHECKS, Given, find_problems
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem

Variables = dict[str, Any]

NAMES = [own for role in CHECKS for own in specs.read_specs(role)["main"]["options"]]
WIDEST = 100  # of a terminal that is wider
INDENT = 4  # of a message in the terminal


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _result, asked = self.validate_argument_spec({"only_errors": {"type": "bool", "default": False}})
        hosts = variables["ansible_play_hosts_all"]
        layers = evaluate.read_layers(self._loader)
        problems, settings = {}, {}
        for host in hosts:
            problems[host], settings[host] = self._check(variables["hostvars"], layers, host)
        findings = clinics.merge(problems, clinics.find_shared(settings))
        wrong = [each for each in findings if each.problem["severity"] == "error"]
        shown = wrong if asked["only_errors"] else findings
        result = {"changed": False, "failed": bool(wrong), "msg": describe(shown, len(problems))}
        if asked["only_errors"]:  # a deploy, of which a person reads the message alone
            return result
        listed = [{**each.problem, "clinics": each.clinics} for each in shown]
        return {**result, "problems": listed, "clinics": len(problems), "_ansible_verbose_always": True}

    def _check(self, hostvars: Any, layers: tuple[Variables, Variables], host: str) -> tuple[list[Problem], Variables]:
        """The problems of one clinic, and what is compared with the other clinics."""
        written = hostvars.raw_get(host)
        variables = {**layers[0], **written, **layers[1], "hostvars": hostvars}
        templar = self._templar.copy_with_new_env(available_variables=variables)
        values, unread = evaluate.read_values(templar, NAMES)
        # a setting in the inventory may use a fact of the machine
        later = frozenset(evaluate.filter_by_facts(unread))
        given = Given(values, unread, later, names=sorted(written), written=sorted(written))
        connection, _unknown = evaluate.read_values(templar, [name for name in clinics.CONNECTION if name in written])
        return find_problems(CHECKS, given), {**values, **connection}


def describe(findings: list[clinics.Finding], number: int) -> str:
    """What was found, as text: the problems of one clinic as a deploy lists them, those of several as a table."""
    wrong = [each for each in findings if each.problem["severity"] == "error"]
    if number == 1 and wrong:
        title = f"{len(wrong)} setting(s) to correct; nothing was changed."
        return "\n".join([title, *(evaluate.say(each.problem) for each in findings)])
    title = f"{say_count(number, 'clinic')} checked; nothing was changed."
    if wrong:
        concerned = say_count(clinics.count_clinics(wrong), "clinic")
        title += f" {say_count(len(wrong), 'problem')} to correct, in {concerned}:"
    else:
        title += " No setting is wrong; please read:" if findings else " No setting is wrong."
    table = clinics.write_table(findings, number, min(Display().columns, WIDEST) - INDENT)
    return "\n".join([title, table]).rstrip()
