# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads configuration files as Orthanc does: it replaces environment variables, then parses its dialect of JSON.

Tested with Orthanc 1.12.7 and 1.13.0. Without Ansible.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

# Only this form: neither $NAME nor ${NAME:=default} is replaced. In ${NAME-default}, all of it is the name.
VARIABLE = re.compile(r"\$\{([^:}]+)(?::-([^}]*))?\}")
TEXT = r'("(?:\\.|[^"\\])*")'


class FromEnvironment(str):
    """A value that is a variable without quotes: it may have any type."""

    __slots__ = ()


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
            section, rest = _parse(text, doubles)
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


def _parse(text: str, doubles: list[str]) -> tuple[dict[str, Any], str]:
    """The object in the text, and the text after it. Names that are in one section twice are added to `doubles`."""
    decoder = json.JSONDecoder(
        strict=False,  # Orthanc accepts line ends and tabs inside text
        object_pairs_hook=functools.partial(_last_wins, doubles),
        parse_constant=_no_constant,
    )
    plain = _plain_json(text).lstrip()
    section, end = decoder.raw_decode(plain)
    if not isinstance(section, dict):
        raise ValueError("it is not an object")
    return section, plain[end:].strip()


def _last_wins(doubles: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    section = {key: _unmark(value) for key, value in pairs}
    doubles += [key for key in section if sum(key == other for other, _value in pairs) > 1]
    return section


# marks a variable that was not in quotes; a private character that files do not contain
MARK = "\uf8ff"


def _unmark(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmark(item) for item in value]
    return FromEnvironment(value[1:]) if isinstance(value, str) and value.startswith(MARK) else value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def without_comments(text: str) -> str:
    """The JSON without the comments that Orthanc allows."""
    return re.sub(TEXT + r"|//[^\r\n]*|/\*.*?\*/", lambda match: match[1] or "", text, flags=re.DOTALL)


def _plain_json(text: str) -> str:
    """The JSON without comments and trailing commas, which Orthanc allows; variables become marked text."""
    text = re.sub(
        f"{TEXT}|{VARIABLE.pattern}", lambda match: match[1] or json.dumps(MARK + match[0]), without_comments(text)
    )
    return re.sub(TEXT + r"|,(?=\s*[}\]])", lambda match: match[1] or "", text)


def replace_variables(value: Any, environment: dict[str, str]) -> Any:
    """The same structure with the variables in its text replaced."""
    if isinstance(value, dict):
        pairs = value.items()
        return {replace_variables(name, environment): replace_variables(inner, environment) for name, inner in pairs}
    if isinstance(value, list):
        return [replace_variables(inner, environment) for inner in value]
    return substitute("", value, environment)[0] if isinstance(value, str) else value
