# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks for what a clinic must decide, checks it as a deploy does, and writes the first inventory."""

from __future__ import annotations

import functools
import shlex
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleActionFail, AnsiblePromptInterrupt, AnsiblePromptNoninteractive
from ansible.parsing.vault import match_encrypt_secret
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible.utils.display import Display
from ansible.utils.encrypt import random_password
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import inventory, questions, specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import evaluate
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks.settings import CHECKS, Given, find_problems
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.warn import warn_of_host

generate_password = functools.partial(random_password, 24, string.ascii_letters + string.digits)


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self.validate_argument_spec({})
        names = [name for name in task_vars or {} if name.startswith("orthanc_")]
        values, unread = evaluate.read_values(self._templar, names)
        answers = {name: questions.read_answer(name, value) for name, value in values.items()}
        wrong = [evaluate.say(one) for one in find_unread(unread)]
        missing = questions.find_missing(names)
        # what was given must be right first: each answer is checked together with it
        if missing and not wrong and not self._find_errors(answers):
            try:
                self._confirm_vault_password()
                answers = questions.Interview(ask_person, self._find_errors, tell_person).complete(answers)
                missing = []
            except AnsiblePromptInterrupt:
                return {"failed": True, "msg": "Interrupted; nothing was written."}
            except AnsiblePromptNoninteractive:
                pass  # there is nobody to ask
        answers = {**questions.list_defaults(), **answers}
        wrong += self._find_errors(answers)
        if missing or wrong:
            said = inventory.read_template("refused.txt.j2").render(missing=missing, wrong=wrong)
            return {"failed": True, "msg": said.rstrip()}
        warnings = [evaluate.say(one) for one in self._find_problems(answers) if one["severity"] == "warning"]
        warn_of_host(warnings, str(answers["orthanc_hostname"]))
        return self._write(answers)

    # --- checks ---------------------------------------------------------------------------------
    def _find_errors(self, answers: Mapping[str, Any]) -> list[str]:
        """What is wrong with the answers, in sentences; examples stand for those that are not given yet."""
        complete = {**questions.list_examples(), **answers}
        return [evaluate.say(one) for one in self._find_problems(complete) if one["severity"] == "error"]

    def _find_problems(self, answers: Mapping[str, Any]) -> list[Problem]:
        """The problems of complete answers: those that a deploy would find in the files, and those of the rest."""
        files, _masked = inventory.write_files(answers, generate_password)
        written = sorted(answers.keys() - set(questions.OWN))
        return [*questions.find_problems(answers), *self._find_written(files, written)]

    def _find_written(self, files: Mapping[str, str], written: list[str]) -> list[Problem]:
        """The problems that a deploy with these files finds. `written` are the names of the settings in them."""
        names = [own for role in CHECKS for own in specs.read_specs(role)["main"]["options"]]
        templar = self._templar.copy_with_new_env(available_variables=self._read_variables(files))
        values, unread = evaluate.read_values(templar, names)
        later = frozenset(evaluate.filter_by_facts(templar, unread))
        found: list[Problem] = find_problems(CHECKS, Given(values, unread, later, names=written, written=written))
        return found

    def _read_variables(self, files: Mapping[str, str]) -> dict[str, Any]:
        """The variables of the server, as a deploy with this inventory has them before there are facts."""
        below, above = evaluate.read_layers(self._loader)
        settings, vault = (
            self._loader.load(trust_as_template(files[name])) or {} for name in (inventory.SETTINGS, inventory.VAULT)
        )
        return {"inventory_hostname": "pacs", **below, **settings, **vault, **above}

    def _confirm_vault_password(self) -> None:
        """Asks once more for a vault password that was typed: with a mistake in it the vault could never be read."""
        if not context.CLIARGS["ask_vault_pass"]:
            return
        typed = Display().prompt_until("The same vault password once more:", private=True)
        if typed.strip() not in [secret.bytes for _label, secret in self._loader._vault.secrets]:
            remedy = "run the playbook again, and type the same twice"
            raise AnsibleActionFail(f"The vault passwords differ; nothing was written. Remedy: {remedy}.")

    # --- files ----------------------------------------------------------------------------------
    def _write(self, answers: dict[str, Any]) -> dict[str, Any]:
        """Writes all files or, if one cannot be written, none. In check mode it only says what would be written."""
        secrets = self._loader._vault.secrets
        files, masked = inventory.write_files(answers, generate_password, bool(secrets))
        directory = questions.find_directory(answers)
        if not self._task.check_mode:
            try:
                write_directory(directory, {name: self._encode(name, text) for name, text in files.items()})
            except OSError as error:
                remedy = "correct the directory, or choose another with orthanc_init_directory"
                wrong = problem(str(directory), f"cannot be written: {error.strerror}", remedy)
                return {"failed": True, "msg": evaluate.say(wrong)}
        shown = str(Path(answers[questions.DIRECTORY]).expanduser())
        command = shlex.join(
            ["ansible-playbook", "-i", shown, *list_vault_options(context.CLIARGS), "clinicops.orthanc.deploy"]
        )
        said = inventory.read_template("next.txt.j2").render(
            command=command,
            directory=shlex.quote(shown),
            files=[f"{shown}/{name}" for name in files],
            vault=f"{shlex.quote(shown)}/{inventory.VAULT}",
            options=shlex.join(list_vault_options(context.CLIARGS)),
            encrypted=bool(secrets),
            user=answers[questions.USER],
            check_mode=self._task.check_mode,
        )
        Display().display(said.rstrip())
        diff = [
            {"before": "", "after": text, "before_header": "/dev/null", "after_header": f"{shown}/{name}"}
            for name, text in masked.items()
        ]
        return {"changed": True, "directory": str(directory), "files": sorted(files), "command": command, "diff": diff}

    def _encode(self, name: str, text: str) -> bytes:
        """The content of a file; the vault is encrypted if Ansible was given a vault password."""
        vault = self._loader._vault
        if name != inventory.VAULT or not vault.secrets:
            return text.encode()
        label, secret = match_encrypt_secret(vault.secrets, C.config.get_config_value("DEFAULT_VAULT_ENCRYPT_IDENTITY"))
        content: bytes = vault.encrypt(text, secret, vault_id=label)
        return content


def ask_person(question: questions.Question) -> str:
    """What a person typed, without spaces at its ends. Raises AnsiblePromptNoninteractive without a terminal."""
    default = question.default
    hint = f" (for example {question.example})" if default is None else f" [{default}]" if default else ""
    typed: bytes = Display().prompt_until(f"{question.text}{hint}:")
    text = typed.decode(errors="replace").strip()
    # the terminal has removed the line that was typed
    Display().display(f"  {text or default or ''}", color=C.COLOR_OK)
    return text


def tell_person(sentence: str) -> None:
    """Shows what is wrong with an answer."""
    Display().display(f"  {sentence}", color=C.COLOR_ERROR)


def find_unread(unread: Mapping[str, str]) -> list[Problem]:
    """The problems of variables whose templates cannot be evaluated here."""
    remedy = "write the value itself; a password is generated if you leave it out"
    return [problem(name, f"cannot be read: {why}", remedy, "unreadable") for name, why in unread.items()]


def list_vault_options(arguments: Mapping[str, Any]) -> list[str]:
    """The options that gave Ansible its vault passwords, as they are typed."""
    return [
        *(part for label in arguments["vault_ids"] for part in ("--vault-id", label)),
        *(part for path in arguments["vault_password_files"] for part in ("--vault-password-file", path)),
        *(["--ask-vault-pass"] if arguments["ask_vault_pass"] else []),
    ]


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a new or empty directory, all of them or none; only their owner may read the vault.

    OSError if that fails, or if the directory has got files in the meantime.
    """
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".init_inventory-", dir=directory.parent) as outer:
        new = Path(outer, "new")
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600 if name == inventory.VAULT else 0o666)
            path.write_bytes(content)
        new.rename(directory)
