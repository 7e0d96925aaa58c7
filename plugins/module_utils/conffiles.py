# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which configuration files the packages of Orthanc bring, and which of them a person changed.

Changes nothing. Runs on the machine, standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .server.core.files import hash_file
from .server.core.process import try_output

ETC = Path("/etc/orthanc")


class Conffile(NamedTuple):
    """A configuration file of a package, and the MD5 of it as the package has it."""

    path: str
    digest: str
    package: str


def read_conffiles(text: str) -> list[Conffile]:
    """From dpkg-query's lines: `=status package`, then ` path md5` for each, some with a word after it."""
    found, package = [], ""
    for line in text.splitlines():
        if line.startswith("="):
            status, _unused, name = line[1:].partition(" ")
            package = name if status == "installed" else ""
        elif package and len(words := line.split()) == 2:  # one that is obsolete has a third word
            found.append(Conffile(words[0], words[1], package))
    return found


def list_conffiles() -> list[Conffile]:
    """Those in /etc/orthanc of the packages that are installed."""
    form = "=${db:Status-Status} ${Package}\n${Conffiles}\n"
    shown = try_output("dpkg-query", "--show", "--showformat", form, "orthanc*")
    return [one for one in read_conffiles(shown) if one.path.startswith(f"{ETC}/")]


def is_changed(one: Conffile) -> bool:
    """Whether a person changed or removed it."""
    path = Path(one.path)
    return not path.is_file() or hash_file(path, "md5") != one.digest


def list_changed_conffiles() -> list[str]:
    """Paths of the packages' configuration files that a person changed or removed."""
    return sorted(one.path for one in list_conffiles() if is_changed(one))
