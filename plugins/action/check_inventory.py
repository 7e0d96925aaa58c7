# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evaluates the settings of all clinics on the controller and reports all problems in one table."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import load_extra_vars
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.words import say_count
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import clinics, evaluate
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks.settings import CHECKS, Given, find_problems
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.warn import warn_of_host

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
        others = {
            host: self._read_other(variables["hostvars"], layers, host)
            for host in variables["groups"].get("orthanc", [])
            if host not in settings
        }
        findings = clinics.merge(problems, clinics.find_shared(settings, others))
        wrong = [each for each in findings if each.problem["severity"] == "error"]
        shown = wrong if asked["only_errors"] else findings
        result = {"changed": False, "failed": bool(wrong), "msg": describe(shown, hosts)}
        if asked["only_errors"]:  # a deploy, of which a person reads the message alone
            return result
        listed = [{**each.problem, "clinics": each.clinics} for each in shown]
        return {**result, "problems": listed, "clinics": len(problems), "_ansible_verbose_always": True}

    def _check(self, hostvars: Any, layers: tuple[Variables, Variables], host: str) -> tuple[list[Problem], Variables]:
        """The problems of one clinic, and what is compared with the other clinics."""
        written, templar = self._read_variables(hostvars, layers, host)
        values, unread = evaluate.read_values(templar, NAMES)
        # a setting in the inventory may use a fact of the machine
        later = frozenset(evaluate.filter_by_facts(templar, unread))
        given = Given(values, unread, later, names=sorted(written), written=sorted(written))
        return find_problems(CHECKS, given), {**values, **read_connection(templar, written, host)}

    def _read_other(self, hostvars: Any, layers: tuple[Variables, Variables], host: str) -> Variables:
        """What is compared of a clinic that --limit leaves out. Whatever of it cannot be read is no problem of this
        play. What --extra-vars set is meant for the clinics of the play."""
        try:
            written, templar = self._read_variables(hostvars, layers, host, load_extra_vars(self._loader))
        except AnsibleError:  # a file that is not YAML, or of which the vault's password is not here
            warn_of_host(["its variables cannot be read, so it is not compared with the clinics of this run"], host)
            return {}
        values, _unread = evaluate.read_values(templar, clinics.COMPARED)
        return {**values, **read_connection(templar, written, host)}

    def _read_variables(
        self, hostvars: Any, layers: tuple[Variables, Variables], host: str, without: Collection[str] = ()
    ) -> tuple[Variables, Any]:
        """The variables of a clinic as the inventory has them, and what evaluates them with those of the roles."""
        written = {name: value for name, value in hostvars.raw_get(host).items() if name not in without}
        variables = {**layers[0], **written, **layers[1], "hostvars": hostvars}
        return written, self._templar.copy_with_new_env(available_variables=variables)


def read_connection(templar: Any, written: Variables, host: str) -> Variables:
    """What decides which machine Ansible reaches; without an address it is the clinic's name in the inventory."""
    connection, _unread = evaluate.read_values(templar, [name for name in clinics.CONNECTION if name in written])
    return {**connection, "ansible_host": connection.get("ansible_host") or host}


def describe(findings: list[clinics.Finding], checked: list[str]) -> str:
    """What was found, as text: the problems of one clinic as a deploy lists them, those of several as a table."""
    wrong = [each for each in findings if each.problem["severity"] == "error"]
    if wrong and len(checked) == 1 and all(each.clinics == checked for each in findings):
        title = f"{len(wrong)} setting(s) to correct; nothing was changed."
        return "\n".join([title, *(evaluate.say_marked(each.problem) for each in findings)])
    title = f"{say_count(len(checked), 'clinic')} checked; nothing was changed."
    if wrong:
        concerned = say_count(clinics.count_clinics(wrong), "clinic")
        title += f" {say_count(len(wrong), 'problem')} to correct, in {concerned}:"
    else:
        title += " No setting is wrong; please read:" if findings else " No setting is wrong."
    table = clinics.write_table(findings, checked, min(Display().columns, WIDEST) - INDENT)
    return "\n".join([title, table]).rstrip()
