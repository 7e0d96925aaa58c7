# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads configuration files as Orthanc does: it replaces environment variables, then parses its dialect of JSON.

Tested with Orthanc 1.12.7 and 1.13.0. Without Ansible.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils.dialect import VARIABLE, parse
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem


def is_unknown(value: Any) -> bool:
    """Whether the value, or a part of it, is only known from the environment."""
    return isinstance(value, str) and VARIABLE.search(value) is not None


def read(files: dict[str, str], environment: dict[str, str] | None = None) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration in Orthanc's files (name: text), and the problems of the files themselves.

    `environment` is Orthanc's, or None if it is unknown: a variable without a default is then left as it is.
    """
    configuration: dict[str, Any] = {}
    origin: dict[str, str] = {}
    found = []
    for name, text in files.items():
        doubles: list[str] = []
        text, hints = substitute(name, text.removeprefix("\ufeff"), environment)
        found += hints
        try:
            section, rest = parse(text, doubles)
        except (ValueError, RecursionError) as error:
            message = f"is not JSON: {error}"
            found.append(problem(name, message, "correct it; the rest is checked after that", "bad_json"))
            continue
        if rest:
            message = "contains text after its last brace, which Orthanc silently ignores"
            remedy = "remove it, or move it inside the braces"
            found.append(problem(name, message, remedy, "text_after_end", "warning"))
        for key in doubles:
            message = "is set twice in its section, and Orthanc only reads the last one"
            found.append(problem(f"{name}: {key}", message, "remove one of them", "stands_twice"))
        for key, value in section.items():
            if key in origin:
                message = f"is in {origin[key]} and in {name}, so Orthanc does not start"
                found.append(problem(key, message, "remove one of them", "defined_twice"))
            else:
                origin[key] = name
                configuration[key] = value
    return configuration, found


def substitute(name: str, text: str, environment: dict[str, str] | None) -> tuple[str, list[Problem]]:
    """The text of the file `name` with its variables replaced, and a warning about those whose value is unknown."""
    variables = {match[1]: match[2] is None for match in VARIABLE.finditer(text)}
    if environment is None:
        text = VARIABLE.sub(lambda match: match[0] if match[2] is None else match[2], text)
        if not variables:
            return text, []
        message = f"takes {', '.join(variables)} from the environment, which is unknown here"
        remedy = "check the values where Orthanc is started"
        return text, [problem(name, message, remedy, "from_environment", "warning")]
    unset = [variable for variable, bare in variables.items() if bare and variable not in environment]
    text = VARIABLE.sub(lambda match: environment.get(match[1], match[2] or ""), text)
    if not unset:
        return text, []
    message = f"takes {', '.join(unset)} from the environment, where it is not set: Orthanc replaces it with nothing"
    return text, [problem(name, message, "set it where Orthanc is started", "unset_variable", "warning")]


def replace_variables(value: Any, environment: dict[str, str]) -> Any:
    """The same structure with the variables in its text replaced."""
    if isinstance(value, dict):
        pairs = value.items()
        return {replace_variables(name, environment): replace_variables(inner, environment) for name, inner in pairs}
    if isinstance(value, list):
        return [replace_variables(inner, environment) for inner in value]
    return substitute("", value, environment)[0] if isinstance(value, str) else value
