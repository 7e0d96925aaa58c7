# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the files of a clinic's first inventory. Without Ansible."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils import masking
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import questions, specs

SETTINGS = "group_vars/orthanc/settings.yml"
VAULT = "group_vars/orthanc/vault.yml"
# hosts of these names would be groups as well
GROUPS = ("all", "orthanc", "ungrouped")
# what Ansible would evaluate in a password
TEMPLATE = re.compile(r"\{[{%#]")
FIRST_SENTENCE = re.compile(r".*?\.(?=\s|$)")


# --- secrets ------------------------------------------------------------------------------------
def separate_secrets(settings: Mapping[str, Any], generate: Callable[[], str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with references in place of secrets, and the variables of the vault.

    Each user without a password gets a generated one, and so does a backup repository.
    """
    plain: dict[str, Any] = {}
    vault: dict[str, Any] = {}
    given = dict(settings)
    if given.get("orthanc_backup_repository") and not given.get("orthanc_backup_password"):
        given["orthanc_backup_password"] = generate()
    for name, value in given.items():
        if name == "orthanc_users" and isinstance(value, list):
            plain[name] = [_separate_password(user, vault, generate) for user in value]
        elif value and _is_secret(name, value):
            vault[f"vault_{name}"] = value
            plain[name] = f"{{{{ vault_{name} }}}}"
        else:
            plain[name] = value
    return plain, vault


def _separate_password(user: Any, vault: dict[str, Any], generate: Callable[[], str]) -> Any:
    """A user with a reference in place of the password, which goes into the vault."""
    if not isinstance(user, dict) or "name" not in user:
        return user
    base = f"vault_orthanc_{re.sub('[^A-Za-z0-9]', '_', str(user['name']))}"
    # it-1 and it_1 have one name each, and so has a user who is called backup
    reserved = {f"vault_{name}" for name in specs.list_public()}
    names = (f"{base}{number}_password" for number in itertools.chain([""], itertools.count(2)))
    name = next(one for one in names if one not in vault and one not in reserved)
    vault[name] = user.get("password") or generate()
    return {**user, "password": f"{{{{ {name} }}}}"}


def _is_secret(name: str, value: Any) -> bool:
    """Whether a setting is one that the specs want from a vault, or contains a secret."""
    setting = specs.list_public().get(name)
    described = bool(setting and "from a vault" in " ".join(setting.spec["description"].split()))
    return described or masking.mask({name: value}) != {name: value}


# --- files --------------------------------------------------------------------------------------
def write_files(
    answers: Mapping[str, Any], generate: Callable[[], str], encrypted: bool = True
) -> tuple[dict[str, str], dict[str, str]]:
    """The text of each file by its path in the inventory, and the same with masked secrets.

    `answers` are the settings and questions.OWN. `generate` returns a new password.
    `encrypted`: whether the vault will be; otherwise git is told to ignore it.
    """
    given = {name: value for name, value in answers.items() if name not in questions.OWN}
    settings, vault = separate_secrets(given, generate)
    connection = {"ansible_host": answers[questions.ADDRESS]}
    if answers[questions.USER]:
        connection["ansible_user"] = answers[questions.USER]
    order = [name for group in specs.read_groups() for name in group["settings"]]
    hostname = settings["orthanc_hostname"]
    values = {
        "host": f"{hostname}-server" if hostname in GROUPS else hostname,
        "connection": connection,
        "settings": dict(sorted(settings.items(), key=lambda item: order.index(item[0]) if item[0] in order else -1)),
        "usual": [one for one in describe_usual() if one["name"] not in settings],
        "vault": vault,
    }
    masked = {**values, "vault": dict.fromkeys(vault, masking.MASK)}
    names = {"hosts.yml": "hosts.yml", SETTINGS: "settings.yml", VAULT: "vault.yml"}
    if not encrypted:
        names[".gitignore"] = "gitignore"
    texts = (
        {path: read_template(f"{name}.j2").render(**shown) for path, name in names.items()}
        for shown in (values, masked)
    )
    return next(texts), next(texts)


@functools.cache
def describe_usual() -> list[dict[str, Any]]:
    """The settings that most clinics set sooner or later: `name`, `default`, and the first sentence of the spec."""
    [usual] = [group["settings"] for group in specs.read_groups() if group["title"] == "Usual"]
    found = []
    for name in usual:
        setting = specs.list_public()[name]
        text = specs.write_plain(setting.spec["description"])
        sentence = FIRST_SENTENCE.match(text)
        found.append({"name": name, "default": setting.default, "meaning": sentence[0] if sentence else text})
    return found


class Lines(yaml.SafeDumper):
    """Lists indented below their key, as in the rest of the repository."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


# Ansible's values are of subclasses, which know where they were read
Lines.add_multi_representer(str, yaml.SafeDumper.represent_str)
Lines.add_multi_representer(int, yaml.SafeDumper.represent_int)
Lines.add_multi_representer(float, yaml.SafeDumper.represent_float)
Lines.add_multi_representer(list, yaml.SafeDumper.represent_list)
Lines.add_multi_representer(dict, yaml.SafeDumper.represent_dict)


class Untrusted(str):
    """Text from elsewhere, such as a server's configuration, which Ansible must not evaluate."""

    __slots__ = ()


def distrust(value: Any) -> Any:
    """The same structure, with text of which Ansible would evaluate a part marked as untrusted."""
    if isinstance(value, dict):
        return {distrust(name): distrust(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [distrust(inner) for inner in value]
    return Untrusted(value) if value.__class__ is str and TEMPLATE.search(value) else value


class SecretLines(Lines):
    """The same for text that Ansible must not evaluate."""


def _represent_secret(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if TEMPLATE.search(text):
        return dumper.represent_scalar("!unsafe", text, style='"')
    return dumper.represent_str(text)


SecretLines.add_representer(str, _represent_secret)
SecretLines.add_multi_representer(str, _represent_secret)
Lines.add_representer(Untrusted, _represent_secret)
SecretLines.add_representer(Untrusted, _represent_secret)


def show_yaml(values: Mapping[str, Any], dumper: type[yaml.SafeDumper] = Lines) -> str:
    """Variables in YAML, without a line break at the end."""
    # None: a list of words is in one line, a list of dictionaries is not
    return "".join(
        _dump({name: value}, dumper, None if value and isinstance(value, (list, dict)) else False)
        for name, value in values.items()
    ).rstrip()


def show_line(values: Mapping[str, Any]) -> str:
    """Variables in YAML in one line."""
    return _dump(values, Lines, True).rstrip().removeprefix("{").removesuffix("}")


def _dump(value: Any, dumper: type[yaml.SafeDumper], flow: bool | None) -> str:
    return str(
        yaml.dump(value, Dumper=dumper, default_flow_style=flow, sort_keys=False, width=10_000, allow_unicode=True)
    )


@functools.cache
def read_template(name: str) -> jinja2.Template:
    """A template of the inventory's files."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("inventory_files")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = show_yaml
    environment.filters["yaml_line"] = show_line
    environment.filters["yaml_secret"] = functools.partial(show_yaml, dumper=SecretLines)
    return environment.get_template(name)
