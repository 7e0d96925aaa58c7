# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a playbook's inspection of the machine found, for the tasks of the same play."""

from __future__ import annotations

from typing import Any

NAME = "__orthanc_machine"  # the variable in which a playbook registers it


def read_inspected(task: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """The result of `orthanc_machine` that the play of this task has registered; empty if there is none.

    One of an earlier play does not count: the machine may have changed since.
    """
    found: dict[str, Any] = variables.get(NAME) or {}
    return found if found.get("play") == str(task.get_play()._uuid) else {}
