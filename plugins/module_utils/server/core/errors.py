# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ends a command, and with which exit code: the same for all commands on the server."""

from __future__ import annotations

from pathlib import Path

DONE, WRONG, USAGE = 0, 1, 2  # exit codes: done, something is wrong, wrong usage or settings
SEE_LOG = "see journalctl -u orthanc, or docker logs orthanc"


class Refused(Exception):
    """What is wrong: sentences with their remedies."""

    status = WRONG

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Busy(Refused):
    """Another process does the same at this moment."""


class Misused(Refused):
    """Wrong usage, or settings that this release cannot use."""

    status = USAGE


class Interrupted(BaseException):
    """A signal arrived: the program cleans up and ends."""


def explain(error: OSError, path: Path) -> str:
    """An error of the system while a deploy wrote below this path, with its remedy; a full disk names no file."""
    what = f"{error.filename or path}: {error.strerror or error}"
    return f"{what}. Remedy: check this path and the space on its disk, and deploy again."
