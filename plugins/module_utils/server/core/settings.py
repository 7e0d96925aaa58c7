# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a deploy left for the programs: each one's own file, and the facts that they share.

A shared fact is what more than one program needs to know of this server: method, directories, ports, AE title,
limits. The role orthanc_tools writes it into FACTS (roles/orthanc_tools/vars/main.yml), and no program's own file
repeats it. A program gets it by a field of that name in its dataclass of settings.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from .errors import Misused, Refused

FACTS = Path("/etc/clinicops-orthanc.json")  # without secrets, for everybody to read
BACKUP = Path("/var/lib/orthanc-backup")  # the state files of orthanc-backup


class DataClass(Protocol):
    """What dataclasses.dataclass makes of a class."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Settings = TypeVar("Settings", bound=DataClass)


def read_settings(kind: type[Settings], path: Path, role: str, facts: Path = FACTS) -> Settings:
    """The settings of a program, a dataclass: each field from its own file, else from the shared facts.

    Fields of the type Path are made paths. Misused where the file is not there, cannot be read or is another release's;
    `role` is the one that writes it.
    """
    own = read_file(path, role)
    shared = read_file(facts, role) if facts.exists() else {}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found = {**{name: shared[name] for name in fields if name in shared}, **own}
    lacking = [
        name
        for name, field in fields.items()
        if name not in found and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if unknown := [name for name in found if name not in fields]:
        raise Misused(f"{path} belongs to another version (unknown: {', '.join(unknown)}). Remedy: deploy again.")
    if lacking:
        raise Misused(f"{path} belongs to another version (missing: {', '.join(lacking)}). Remedy: deploy again.")
    return kind(**{name: convert(value, fields[name].type) for name, value in found.items()})


def convert(value: Any, kind: Any) -> Any:
    """The value of a field; JSON has no paths."""
    return Path(value) if kind in ("Path", Path) else value


def read_file(path: Path, role: str) -> dict[str, Any]:
    """The JSON object in a file of a deploy's. Misused where there is none."""
    other = "belongs to another version"
    return read_deployed(path, Misused, f"deploy with the role {role}", other, f"{other} (it has no settings)")


def read_deployed(path: Path, error: type[Refused], absent: str, broken: str, empty: str) -> dict[str, Any]:
    """The JSON object in a file that a deploy wrote. Otherwise the error, with the remedy where the file is `absent`,
    and with what is said of a file that is `broken`, or `empty` of options."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist. Remedy: {absent}.") from None
    except PermissionError:
        raise error(f"{path} cannot be read. Remedy: run the command as root.") from None
    except ValueError as wrong:
        raise error(f"{path} {broken} ({wrong}). Remedy: deploy again.") from None
    if not isinstance(content, dict):
        raise error(f"{path} {empty}. Remedy: deploy again.")
    return content
