# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_writer_names
short_description: List the worklist writers whose names are valid user names
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Returns those names in C(orthanc_worklist_writers) that are valid Linux user names. The value may have any type.
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
