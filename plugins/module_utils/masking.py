# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Masks the secrets of a configuration, for a diff or a log. Without Ansible."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MASK = "********"
SECRET = re.compile(
    r"pass|secret|token|pin$|credential|registeredusers|httpheaders|httpproxy|apikey|accesskey|accountkey|connectionstring"
    r"|connectionuri",
    re.I,
)
# [url, user, password], a notation for peers and DICOMweb servers
LISTS = re.compile(r"orthancpeers|^servers$", re.I)
# user:password@ and the values of a query
IN_URL = re.compile(r"(?:(?<=://)|^)(?!\w+://)\S+(?=@)|(?<==)[^&#\s]+(?=[&#]|$)")
SHORTEST = 4


def mask(value: Any) -> Any:
    """The same structure without secrets; a secret of 4 or more characters is also masked wherever else it appears."""
    return _mask(value, _longest_first(value))


def hide(text: str, value: Any) -> str:
    """`text` without the secrets of the configuration `value`."""
    return _without(text, _longest_first(value))


def _longest_first(value: Any) -> list[str]:
    """The secrets, longest first: one that contains another must be replaced before it."""
    return sorted({text for text in _secrets(value) if len(text) >= SHORTEST}, key=len, reverse=True)


def _secrets(value: Any, inside: bool = False, in_list: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, inside or bool(SECRET.search(str(key))), in_list or bool(LISTS.search(str(key))))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _secrets(inner, inside or (in_list and number > 1), in_list)
    elif isinstance(value, str):
        nested = _read_nested(value)
        if inside:
            yield value
            yield from _credentials(value)
        elif nested is not None:
            yield from _secrets(nested)
        elif "://" in value:
            yield from _credentials(value)
    elif inside and value is not None and not isinstance(value, bool):
        yield str(value)


def _credentials(address: str) -> Iterator[str]:
    for found in IN_URL.findall(address):
        yield found
        # the password may appear in a log on its own
        yield found.partition(":")[2]


def _mask(value: Any, secrets: list[str], inside: bool = False, in_list: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            _without(key, secrets) if isinstance(key, str) else key: _mask(
                inner, secrets, inside or bool(SECRET.search(str(key))), in_list or bool(LISTS.search(str(key)))
            )
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [
            _mask(inner, secrets, inside or (in_list and number > 1), in_list) for number, inner in enumerate(value)
        ]
    if inside:
        return MASK
    if isinstance(value, str):
        nested = _read_nested(value)
        if nested is not None:
            return json.dumps(_mask(nested, secrets), ensure_ascii=False)
        return _without(value, secrets)
    return MASK if str(value) in secrets else value


def _without(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _read_nested(text: str) -> Any:
    """A structure that is written as JSON inside text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
