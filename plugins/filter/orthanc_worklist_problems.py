# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_worklist_problems
short_description: List what is wrong with the settings of the worklist
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Checks the writers against the accounts of the machine, their keys, and the limits.
options:
  _input:
    description: C(writers), C(keep_days), C(max_items) and C(dir).
    type: dict
    required: true
  passwd:
    description: Lines as C(getent passwd) writes them.
    type: list
    required: true
  mark:
    description: The comment of accounts that the role made itself.
    type: str
    required: true
positional: passwd, mark
"""

EXAMPLES = r"""
- name: List what is wrong with the writers
  ansible.builtin.debug:
    msg: "{{ settings | clinicops.orthanc.orthanc_worklist_problems(accounts.stdout_lines, mark) }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import writers


def orthanc_worklist_problems(value: dict[str, Any], passwd: list[str], mark: str) -> Any:
    return writers.problems(value, passwd, mark)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_worklist_problems": orthanc_worklist_problems}
