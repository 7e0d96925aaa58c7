# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc's dialect of JSON: comments, trailing commas and variables of the environment, also without quotes.

Tested with Orthanc 1.12.7 and 1.13.0. Standard library only.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

# Only this form: neither $NAME nor ${NAME:=default} is replaced. In ${NAME-default}, all of it is the name.
VARIABLE = re.compile(r"\$\{([^:}]+)(?::-([^}]*))?\}")
TEXT = r'("(?:\\.|[^"\\])*")'


class FromEnvironment(str):
    """A value that is a variable without quotes: it may have any type."""

    __slots__ = ()


def parse(text: str, doubles: list[str]) -> tuple[dict[str, Any], str]:
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
