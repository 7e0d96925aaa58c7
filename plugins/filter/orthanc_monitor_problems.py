# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_monitor_problems
short_description: List what is wrong with the settings of the monitor
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Checks limits, the brake, mail, webhook, and who may read the metrics. No secret is in what it says.
options:
  _input:
    description: The settings of the role C(orthanc_monitor) by their names without C(orthanc_monitor_).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: List what is wrong with the monitor's settings
  ansible.builtin.debug:
    msg: "{{ settings | clinicops.orthanc.orthanc_monitor_problems }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import monitoring


def orthanc_monitor_problems(value: dict[str, Any]) -> Any:
    return monitoring.problems(value)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_monitor_problems": orthanc_monitor_problems}
