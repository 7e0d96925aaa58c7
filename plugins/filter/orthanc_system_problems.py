# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_system_problems
short_description: List what a deploy cannot work with on a machine's system
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Compares what was asked of the machine with what a deploy needs, and marks the problem that the inventory waives.
options:
  _input:
    description:
      - C(name), C(version) and C(family) of the system, the version of its C(python), the C(method) of the deploy, the
        packages that are C(needed), the version of each package that is C(offered), and whether the machine
        C(has_snap), that is Docker as a snap.
    type: dict
    required: true
  waivers:
    description: Rules that may be broken, and the reason for each.
    type: dict
    default: {}
positional: waivers
"""

EXAMPLES = r"""
- name: List what a deploy cannot work with
  ansible.builtin.debug:
    msg: "{{ machine | clinicops.orthanc.orthanc_system_problems({'untested_system': 'the test machine of the IT'}) }}"
  vars:
    machine:
      name: "{{ ansible_facts.distribution }}"
      version: "{{ ansible_facts.distribution_version }}"
      family: "{{ ansible_facts.os_family }}"
      python: "{{ ansible_facts.python_version }}"
      method: package
      needed: [orthanc]
      offered: {orthanc: 1.12.7+dfsg-4}
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules, systems


def orthanc_system_problems(value: Any, waivers: Any = None) -> Any:
    try:
        machine = systems.Machine(**value)
    except TypeError as error:
        raise AnsibleFilterError(f"clinicops.orthanc.orthanc_system_problems: {error}") from error
    mine = {rule: reason for rule, reason in (waivers or {}).items() if rule in rules.SYSTEM}
    # one of these is only needed while the system is not in the list
    return rules.waive(systems.find_problems(machine), mine, rules.SYSTEM)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_system_problems": orthanc_system_problems}
