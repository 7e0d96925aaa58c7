# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_variable_problems
short_description: List misspelt variables
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Finds every C(orthanc_*) variable that no role of the collection reads, with the nearest right name.
options:
  _input:
    description: Names of variables.
    type: list
    required: true
"""

EXAMPLES = r"""
- name: List misspelt variables
  ansible.builtin.debug:
    msg: "{{ q('ansible.builtin.varnames', '^orthanc_') | clinicops.orthanc.orthanc_variable_problems }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import variables


def orthanc_variable_problems(value: Any) -> Any:
    if not isinstance(value, list):
        raise AnsibleFilterError(
            f"clinicops.orthanc.orthanc_variable_problems: expects a list, not {type(value).__name__}"
        )
    return variables.problems(value)


class FilterModule:
    def filters(self) -> dict[str, Callable[[Any], Any]]:
        return {"orthanc_variable_problems": orthanc_variable_problems}
