# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evaluates settings with Ansible's templates on the controller, for their check."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem

FAILS = "its template fails"
# what of Ansible's messages contains no value
REASON = re.compile(
    r"'[^']*' is undefined|object of type '[^']*' has no attribute '(?P<key>[^']*)'|[Ss]yntax error in template"
    r"|[Rr]ecursive loop detected|[Tt]he \w+ plugin '[\w.]+' (?:failed|was not found)"
    r"|[Dd]ecryption failed|no vault secrets found"
)

# where facts may stand in a template, or in what it reads
LATER = re.compile(
    r"ansible_|\bhostvars\b|\b(?:lookup|query|q)\(\s*['\"](?:ansible\.builtin\.)?(?:template|vars|varnames)\b"
)


def read_layers(loader: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The collection's variables in a play with all roles: those below the inventory's, and those above them."""
    below = sorted(specs.ROOT.glob("roles/*/defaults/main.yml"))
    above = [specs.ROOT / "playbooks/vars/wiring.yml", *sorted(specs.ROOT.glob("roles/*/vars/main.yml"))]
    first, last = (
        {
            name: value
            for path in paths
            for name, value in (loader.load_from_file(str(path), trusted_as_template=True) or {}).items()
        }
        for paths in (below, above)
    )
    return first, last


def read_values(templar: Any, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the settings that can be evaluated, and for the others the reason why not."""
    values: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name in names:
        try:
            values[name] = copy_plain(templar.resolve_variable_expression(name))
        except AnsibleError as error:
            unread[name] = _explain(str(error), list_templates(templar.available_variables, name))
    return values, unread


def _explain(message: str, templates: list[str]) -> str:
    """The reason in Ansible's message, without a value: a key is shown if a template names it."""
    found = REASON.search(message)
    if not found or (found["key"] and not any(found["key"] in text for text in templates)):
        return FAILS
    return found[0][0].lower() + found[0][1:]


def filter_by_facts(templar: Any, unread: dict[str, str]) -> list[str]:
    """The settings that may be readable once facts are gathered: their templates read facts, which begin with ansible_,
    or what may have them. Other templates fail with facts as well."""
    variables = templar.available_variables
    return [
        name
        for name, why in unread.items()
        if name not in specs.read_wiring()
        and (
            why.startswith("'ansible_")
            or ("undefined" not in why and any(map(LATER.search, list_templates(variables, name))))
        )
    ]


def list_templates(variables: Mapping[str, Any], name: str) -> list[str]:
    """The templates in a variable and in those that they read, as they are written."""
    found: list[str] = []
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in seen and one in variables:
            seen.add(one)
            templates = [text for text in _list_texts(variables[one]) if "{{" in text or "{%" in text]
            found += templates
            waiting += re.findall(r"\w+", " ".join(templates))
    return found


def _list_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _list_texts(part)


def copy_plain(value: Any) -> Any:
    """The value as plain data, with everything in it evaluated."""
    if isinstance(value, dict):
        return {key: copy_plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [copy_plain(part) for part in value]
    return value


def say_marked(one: Problem) -> str:
    """A problem as `say` says it, marked if it is not an error."""
    word = {"error": "", "warning": "Warning: ", "waived": "Waived: "}[one["severity"]]
    return f"{word}{say(one)}"


def say(one: Problem) -> str:
    """A problem as a sentence with its remedy."""
    end = "" if one["remedy"].endswith("?") else "."
    return f"{one['path']} {one['message']}. Remedy: {one['remedy']}{end}"
