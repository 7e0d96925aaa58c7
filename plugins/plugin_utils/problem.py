# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A problem of a setting: its path, the message, the remedy. `path message. Remedy: remedy.` is a sentence.

`rule` names the broken rule, `severity` is `error`, `warning` or `waived`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable

Problem = dict[str, str]


def problem(path: str, message: str, remedy: str, rule: str = "wrong_value", severity: str = "error") -> Problem:
    return {"rule": rule, "severity": severity, "path": path, "message": message, "remedy": remedy}


def missing_library(error: ImportError) -> Problem:
    """The problem of a library that the controller's Python lacks, so that settings cannot be checked."""
    remedy = f"install it there: {sys.executable} -m pip install 'jsonschema>=4.18'"
    return problem("The controller's Python", f"cannot check settings ({error})", remedy, "missing_library")


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The one of `names` that was probably meant, or ''. Case is ignored: GDCM is Gdcm."""
    folded = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else ""
