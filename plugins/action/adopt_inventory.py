# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a server that somebody set up, and writes the inventory with which a deploy takes it over."""

from __future__ import annotations

import functools
import shlex
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.utils.display import Display
from ansible.utils.encrypt import random_password
from ansible_collections.clinicops.orthanc.plugins.action import init_inventory
from ansible_collections.clinicops.orthanc.plugins.module_utils import survey
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import inventory, questions
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption import devices, files, plan
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.old import Old, find_obstacles
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import evaluate
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

CONTAINER = "orthanc_adopt_container"
generate_password = functools.partial(random_password, 24, string.ascii_letters + string.digits)


class ActionModule(init_inventory.ActionModule):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super(init_inventory.ActionModule, self).run(tmp, task_vars)
        variables = task_vars or {}
        _result, asked = self.validate_argument_spec({"present": {"type": "dict", "required": True}})
        if refused := self._refuse_many(variables):
            return refused
        old = Old.of(asked["present"]) if asked["present"].get("files") or asked["present"].get("image") else None
        if old is None:
            why = asked["present"].get("why", "")
            remedy = f"name the container with -e {CONTAINER}=NAME, if Orthanc is in one"
            return fail([problem("This server", f"has no configuration of an Orthanc. {why}".strip(" ."), remedy)])
        if obstacles := find_obstacles(old):
            return fail(obstacles)
        found = self._execute_module("clinicops.orthanc.orthanc_survey", list_arguments(old), task_vars=variables)
        if found.get("failed"):
            return dict(found)
        if found["deployed"]:
            remedy = "deploy it with its own inventory"
            return fail([problem("This server", "was deployed by this collection already", remedy)])
        if obstacles := devices.find_obstacles(old, found["index"]):
            return fail(obstacles)
        given, connection, wrong = self._read_given(variables)
        if wrong:
            return fail(wrong)
        adoption = plan.adopt(old, found, given, generate_password)
        return self._write_adoption(adoption, connection, given)

    def _refuse_many(self, variables: Mapping[str, Any]) -> dict[str, Any] | None:
        hosts = variables["ansible_play_hosts_all"]
        if len(hosts) == 1:
            return None
        remedy = f"name one of them: --limit {hosts[0]}"
        return fail([problem("The inventory", f"has {len(hosts)} servers, and one is adopted at a time", remedy)])

    def _read_given(self, variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[Problem]]:
        """The settings that were given, the connection to the server, and what is wrong with them."""
        names = [name for name in variables if name.startswith("orthanc_") and name != CONTAINER]
        values, unread = evaluate.read_values(self._templar, names)
        given = {name: questions.read_answer(name, value) for name, value in values.items()}
        host = variables.get("ansible_host", variables["inventory_hostname"])
        own = {
            questions.DIRECTORY: "inventory",
            questions.ADDRESS: str(host),
            questions.USER: str(variables.get("ansible_user") or context.CLIARGS.get("remote_user") or ""),
        }
        own |= {name: given.pop(name) for name in questions.OWN if name in given}
        self._own = own
        wrong = [*init_inventory.find_unread(unread), *questions.find_problems(own)]
        connection = {"ansible_host": own[questions.ADDRESS]}
        if own[questions.USER]:
            connection["ansible_user"] = own[questions.USER]
        return given, connection, wrong

    def _write_adoption(
        self, adoption: plan.Adoption, connection: Mapping[str, Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        secrets = self._loader._vault.secrets
        texts, masked = files.write_files(adoption, connection, generate_password, encrypted=bool(secrets))
        decided = {one.setting for one in adoption.decisions}
        names = sorted({*given, *adoption.settings})
        errors = [one for one in self._find_written(texts, names) if one["severity"] == "error"]
        for one in errors:
            if one["path"] not in decided:
                adoption.decisions.append(plan.Decision(one["path"], f"It {one['message']}. Remedy: {one['remedy']}."))
        directory = questions.find_directory(self._own)
        shown = str(Path(self._own[questions.DIRECTORY]).expanduser())
        options = init_inventory.list_vault_options(context.CLIARGS)
        command = shlex.join(["ansible-playbook", "-i", shown, *options, "clinicops.orthanc.deploy"])
        if context.CLIARGS.get("become_ask_pass"):
            command += " --ask-become-pass"
        # written again: the check may have found more to decide
        texts, masked = files.write_files(adoption, connection, generate_password, encrypted=bool(secrets))
        page = files.write_page(adoption, command)
        texts, masked = {**texts, files.PAGE: page}, {**masked, files.PAGE: page}
        if not self._task.check_mode:
            contents = {name: self._encode(name, text) for name, text in texts.items()}
            try:
                init_inventory.write_directory(directory, contents)
            except OSError as error:
                remedy = f"correct the directory, or choose another with {questions.DIRECTORY}"
                return fail([problem(str(directory), f"cannot be written: {error.strerror}", remedy)])
        said = inventory.read_template("adopted.txt.j2").render(
            adoption=adoption,
            files=[f"{shown}/{name}" for name in texts],
            page=f"{shown}/{files.PAGE}",
            settings=f"{shown}/{inventory.SETTINGS}",
            vault=f"{shlex.quote(shown)}/{inventory.VAULT}",
            command=command,
            encrypted=bool(secrets),
            check_mode=self._task.check_mode,
        )
        Display().display(said.rstrip())
        diff = [
            {"before": "", "after": text, "before_header": "/dev/null", "after_header": f"{shown}/{name}"}
            for name, text in masked.items()
        ]
        return {
            "changed": True,
            "directory": str(directory),
            "files": sorted(texts),
            "command": command,
            "decisions": [one._asdict() for one in adoption.decisions],
            "changes": [one._asdict() for one in adoption.changes],
            "diff": diff,
        }


def list_arguments(old: Old) -> dict[str, Any]:
    """What the module orthanc_survey must look for."""
    return {
        "container": old.container,
        "storage_dir": old.storage_dir,
        "index_dir": old.index_dir,
        "worklist_dir": old.worklist_dir,
        "dicom_port": old.effective("DicomPort"),
        "http_port": old.effective("HttpPort"),
        "hosts": survey.list_hosts(old.section("DicomModalities")),
        "scripts": old.scripts,
    }


def fail(problems: list[Problem]) -> dict[str, Any]:
    """A failed result with each problem in a sentence."""
    said = "\n".join(evaluate.say(one) for one in problems)
    return {"failed": True, "msg": f"Nothing was written, and nothing was changed on the server.\n{said}"}
