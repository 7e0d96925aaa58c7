# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The configuration that the entry point of the image orthancteam/orthanc builds from files, environment and secrets.

Orthanc Book, "orthancteam/orthanc Docker images". The later one wins: files, variables, secrets; then the image's
defaults fill in the rest. Without Ansible.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils import dialect
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import reading
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

IMAGE: dict[str, Any] = json.loads(Path(__file__).with_name("image_environment.json").read_text(encoding="utf-8"))
SECRETS = "/run/secrets"
# The image replaces more than Orthanc does: $NAME as well.
PLAIN_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::?-([^}]*))?\}|([A-Za-z_]\w*))")
# The first Orthanc whose image has the newer worklist plugin, and no default worklist folder.
NEW_WORKLISTS = (1, 12, 10)


def read(
    files: dict[str, str], environment: dict[str, str], version: tuple[int, ...]
) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration with which this image starts Orthanc, and the problems of its sources.

    `files` are those in /etc/orthanc and /run/secrets, by path.
    """
    configuration: dict[str, Any] = {}
    found: list[Problem] = []
    secrets = {
        posixpath.basename(path): text.rstrip("\n")
        for path, text in files.items()
        if posixpath.dirname(path) == SECRETS and not path.endswith(".json")
    }
    for path, text in files.items():
        if path.endswith(".json"):
            text = _substitute(text, environment)
            section, wrong = reading.read({path: text}, environment)
            found += _find_dropped(path, text) or wrong
            _merge(configuration, section)
    for name, text in _variables(environment, secrets):
        if name == "ORTHANC_JSON":
            section, wrong = reading.read({name: text}, environment)
            found += wrong
            _merge(configuration, section)
            continue
        if name in IMAGE["old"]:
            message = "is a name that images since 26.7.0 refuse"
            remedy = f"write {variable(IMAGE['old'][name])}"
            found.append(problem(name, message, remedy, "old_variable", "warning"))
        value: Any = _value(text)
        for step in reversed(path_of(name)):
            value = {step: value}
        _merge(configuration, value)
    for name, section in IMAGE["sections"].items():
        if environment.get(name, "false") != "false":
            _merge(configuration, section, defaults=True)
    if environment.get("WORKLISTS_PLUGIN_ENABLED", "false") != "false" and version < NEW_WORKLISTS:
        _merge(configuration, {"Worklists": {"Database": "/var/lib/orthanc/worklists"}}, defaults=True)
    _merge(configuration, IMAGE["defaults"], defaults=True)
    if environment.get("ORTHANC_PASSWORD"):
        _merge(configuration, {"RegisteredUsers": {"orthanc": environment["ORTHANC_PASSWORD"]}})
    # Orthanc itself replaces any ${NAME} that is left in values
    return reading.replace_variables(configuration, environment), found


def list_variables(environment: dict[str, str]) -> list[str]:
    """The names of the variables that set options; the later one wins."""
    return [name for name, _text in _variables(environment, {})]


def path_of(name: str) -> list[str]:
    """The option that a variable sets: ORTHANC__DICOM_WEB__ROOT is DicomWeb, Root."""
    listed = {**IMAGE["names"], **IMAGE["old"]}
    for known in sorted(listed, key=len, reverse=True):
        if name == known:
            return str(listed[known]).split(".")
        if name.startswith(f"{known}__"):
            return [*listed[known].split("."), *path_of(f"ORTHANC__{name[len(known) + 2 :]}")]
    steps = name.removeprefix("ORTHANC__").split("__")
    return ["".join(part.capitalize() for part in step.split("_")) for step in steps]


def variable(option: str) -> str:
    """The variable that sets an option: the inverse of `path_of`."""
    for name, path in IMAGE["names"].items():
        if path == option:
            return str(name)
    steps = [re.sub(r"(?<=.)(?=[A-Z])", "_", step).upper() for step in option.split(".")]
    return "__".join(["ORTHANC", *steps])


def _variables(environment: dict[str, str], secrets: dict[str, str]) -> list[tuple[str, str]]:
    """The variables that set options; the later one wins. A variable has or gives the name of a secret's file."""
    named = {file: name.removesuffix("_SECRET") for name, file in environment.items() if name.endswith("_SECRET")}
    texts = [*environment.items(), *((named.get(name, name), text) for name, text in secrets.items())]
    return [
        (name, text)
        for name, text in texts
        if not name.endswith("_SECRET")
        and (name.startswith("ORTHANC__") or name in IMAGE["old"] or name == "ORTHANC_JSON")
    ]


def _find_dropped(path: str, text: str) -> list[Problem]:
    """The problem of a file that the image drops: it reads comments, but no trailing commas or text after the end."""
    try:
        json.loads(dialect.without_comments(text))
    except ValueError as error:
        message = f"is not JSON for this image, which drops the file and starts without it: {error}"
        return [problem(path, message, "correct it; the rest is checked after that", "bad_json")]
    return []


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _substitute(text: str, environment: dict[str, str]) -> str:
    return PLAIN_VARIABLE.sub(lambda match: environment.get(match[1] or match[3], match[2] or ""), text)


def _merge(whole: dict[str, Any], part: dict[str, Any], defaults: bool = False) -> None:
    """Merges `part` into `whole` section by section; with `defaults` only options that are not set yet."""
    for name, value in part.items():
        if isinstance(value, dict) and isinstance(whole.get(name), dict):
            _merge(whole[name], value, defaults)
        elif not defaults or name not in whole:
            whole[name] = json.loads(json.dumps(value))
