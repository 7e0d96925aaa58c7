# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_report
short_description: Write checks as lines to read
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Writes a line for each check and each waiver, and how many passed and failed.
options:
  _input:
    description: The C(checks) of the program C(orthanc-verify) and of M(clinicops.orthanc.orthanc_exposure).
    type: list
    required: true
  waivers:
    description: Rules that are broken on purpose, each with its reason.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the result
  ansible.builtin.debug:
    msg: "{{ day.checks | clinicops.orthanc.orthanc_report({}) }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.module_utils import report


def orthanc_report(value: Any, waivers: Any) -> Any:
    if not isinstance(value, list):
        raise AnsibleFilterError(f"clinicops.orthanc.orthanc_report: expects a list, not {type(value).__name__}")
    return report.lines({"checks": value, "waivers": waivers})


class FilterModule:
    def filters(self) -> dict[str, Callable[[Any, Any], Any]]:
        return {"orthanc_report": orthanc_report}
