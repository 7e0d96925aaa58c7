# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_writer_names
short_description: Names of worklist writers that can be looked up
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Gives the names that are user names of Linux, of whatever stands in C(orthanc_worklist_writers).
options:
  _input:
    description: The writers.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: List the writers
  ansible.builtin.debug:
    msg: "{{ orthanc_worklist_writers | clinicops.orthanc.orthanc_writer_names }}"
"""

RETURN = r"""
_value:
  description: The names.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import writers


def orthanc_writer_names(value: Any) -> Any:
    return writers.names(value)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_writer_names": orthanc_writer_names}
