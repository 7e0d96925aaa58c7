# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_neighbour_problems
short_description: List what is on a machine and conflicts with a deploy, an uninstall or an upgrade
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Marks those conflicts found by M(clinicops.orthanc.orthanc_occupied), M(clinicops.orthanc.orthanc_uninstall) or
    M(clinicops.orthanc.orthanc_distribution) that the inventory waives, and names the waiver for each of the others.
options:
  _input:
    description: The problems that the module returned.
    type: list
    required: true
  waivers:
    description: Rules that may be broken, and the reason for each.
    type: dict
    default: {}
positional: waivers
"""

EXAMPLES = r"""
- name: List the conflicts with a deploy
  ansible.builtin.debug:
    msg: "{{ __orthanc_install_occupied.problems | clinicops.orthanc.orthanc_neighbour_problems }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import problem


def orthanc_neighbour_problems(value: Any, waivers: Any = None) -> Any:
    if not isinstance(value, list):
        raise AnsibleFilterError(
            f"clinicops.orthanc.orthanc_neighbour_problems: expects a list, not {type(value).__name__}"
        )
    found = [problem(one["what"], one["message"], one["remedy"], one["rule"] or "in_the_way") for one in value]
    # other checks cover the waivers of other rules, and one of these is only needed while its neighbour is there
    own = rules.NEIGHBOURS + rules.UNINSTALL + rules.UPGRADE
    mine = {rule: reason for rule, reason in (waivers or {}).items() if rule in own}
    return rules.waive(found, mine, own)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_neighbour_problems": orthanc_neighbour_problems}
