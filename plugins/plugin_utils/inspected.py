# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a play knows of its machine: what its inspection found, and the packages that it has installed since."""

from __future__ import annotations

from typing import Any

NAME = "__orthanc_machine"  # the variable in which a playbook registers the inspection
FACT = "clinicops_packages"


def read_inspected(task: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """The result of `orthanc_machine` that the play of this task has registered; empty if there is none.

    One of an earlier play does not count: the machine may have changed since.
    """
    found: dict[str, Any] = variables.get(NAME) or {}
    return found if found.get("play") == find_play(task) else {}


def list_installed(task: Any, variables: dict[str, Any]) -> set[str]:
    """The packages of which the play knows that they are installed."""
    noted = (variables.get("ansible_facts") or {}).get(FACT) or {}
    since = noted.get("names", []) if noted.get("play") == find_play(task) else []
    return {*read_inspected(task, variables).get("packages", []), *since}


def note_installed(task: Any, variables: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The fact with which `list_installed` knows of these packages as well, for the rest of the play."""
    return {FACT: {"play": find_play(task), "names": sorted(list_installed(task, variables).union(names))}}


def find_play(task: Any) -> str:
    """The id of the task's play; no other play has the same, of this run or of another one."""
    return str(task.get_play()._uuid)
