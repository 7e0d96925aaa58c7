# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_report
short_description: Format the results of the acceptance test as lines of text
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Returns a line for each check and each waiver, the number of passed and failed checks, and each failure with its
    remedy.
  - No line is longer than 90 characters; with Ansible's prefix it fits a terminal 100 characters wide.
options:
  _input:
    description:
      - The report of the program C(orthanc-verify), its C(checks) with those of M(clinicops.orthanc.orthanc_exposure).
    type: dict
    required: true
  waivers:
    description: Rules that are broken on purpose, each with its reason.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the result of the acceptance test
  ansible.builtin.debug:
    msg: "{{ (day | clinicops.orthanc.orthanc_report({})).results }}"
"""

RETURN = r"""
_value:
  description:
    - C(results), a line for each check that passed or is waived.
    - C(failures), the number of passed and failed checks, and each failure.
    - C(verdict), the result in one sentence.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import lines, report


def orthanc_report(value: Any, waivers: Any) -> Any:
    if not isinstance(value, dict):
        raise AnsibleFilterError(f"clinicops.orthanc.orthanc_report: expects a report, not {type(value).__name__}")
    known = {**value, "waivers": waivers}
    return {
        "results": "\n".join(lines.list_results(known)),
        "failures": "\n".join(lines.list_failures(known)),
        "verdict": report.verdict(known),
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[[Any, Any], Any]]:
        return {"orthanc_report": orthanc_report}
