# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_report
short_description: Write checks as lines to read
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Writes a line for each check and each waiver, how many passed and failed, and what failed with its remedy.
  - No line is longer than 90 characters, which fits a terminal of 100 with what Ansible puts before it.
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
- name: Show the result
  ansible.builtin.debug:
    msg: "{{ (day | clinicops.orthanc.orthanc_report({})).results }}"
"""

RETURN = r"""
_value:
  description:
    - The C(results), a line for each check that passed or is waived.
    - The C(failures), how many passed and failed, and what failed.
    - The C(verdict) in one sentence.
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
