# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_memory
short_description: Size Orthanc by the machine's memory
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Returns how much memory Orthanc may use, the largest object that it can take, and the sizes of its caches.
options:
  _input:
    description: What the clinic sets, as C(4g) or C(512m); empty where the machine decides.
    type: str
    required: true
  machine:
    description: Memory of the machine in MiB; 0 if not known.
    type: int
    required: true
  version:
    description: Version of Orthanc.
    type: str
    required: true
positional: machine, version
"""

EXAMPLES = r"""
- name: Show the largest object that this machine can take
  ansible.builtin.debug:
    msg: "{{ ('' | clinicops.orthanc.orthanc_memory(ansible_facts.memtotal_mb, '1.12.7')).largest }}"
"""

RETURN = r"""
_value:
  description: >-
    C(limit) and C(largest) in bytes, 0 if not known; C(caches), the options of C(orthanc.json) that differ from
    Orthanc's defaults, in MiB; C(message), the same in a sentence; C(warnings), what a clinic should know, with its
    remedy.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import memory


def orthanc_memory(value: Any, machine: Any, version: Any) -> dict[str, Any]:
    if wrong := memory.find_problems(value):
        raise AnsibleFilterError(f"clinicops.orthanc.orthanc_memory: {wrong[0]['message']}")
    bytes_there = int(machine) * memory.MIB
    sizes = memory.size(bytes_there, str(value), str(version))
    return {
        **sizes,
        "message": memory.describe(sizes, bytes_there),
        "warnings": memory.list_warnings(sizes, bytes_there),
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., dict[str, Any]]]:
        return {"orthanc_memory": orthanc_memory}
