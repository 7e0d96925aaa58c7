# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with a setting: its path, the reason, the remedy. `path message. Remedy: remedy.` is a sentence.

`rule` names what was broken, `severity` is `error`, `warning` or `waived`.
"""

from __future__ import annotations

Problem = dict[str, str]


def problem(path: str, message: str, remedy: str, rule: str = "wrong_value", severity: str = "error") -> Problem:
    return {"rule": rule, "severity": severity, "path": path, "message": message, "remedy": remedy}
