# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_network_problems
short_description: List what is wrong with the settings of the firewall
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Checks that every source is an IPv4 or IPv6 address, or a network without host bits, and that no port is open to
    everybody without a waiver.
options:
  _input:
    description: A dictionary with C(name), C(port) and C(sources) for each port.
    type: list
    required: true
  enabled:
    description: Whether there is a firewall at all.
    type: bool
    default: true
  waivers:
    description: Rules that may be broken, and the reason for each.
    type: dict
    default: {}
positional: enabled, waivers
"""

EXAMPLES = r"""
- name: List what is wrong with the sources of a firewall
  ansible.builtin.debug:
    msg: "{{ orthanc_firewall_ports | clinicops.orthanc.orthanc_network_problems }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import network


def orthanc_network_problems(value: Any, enabled: Any = True, waivers: Any = None) -> Any:
    if not isinstance(value, list):
        raise AnsibleFilterError(
            f"clinicops.orthanc.orthanc_network_problems: expects a list, not {type(value).__name__}"
        )
    return network.problems(value, enabled, waivers)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_network_problems": orthanc_network_problems}
