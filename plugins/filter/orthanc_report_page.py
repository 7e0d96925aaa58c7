# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_report_page
short_description: Build the HTML page of an acceptance report
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Builds the page that a clinic files, prints and gives to the engineers of its devices.
options:
  _input:
    description: The report, as C(orthanc-verify run --json) prints it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Write the report as an HTML page
  ansible.builtin.copy:
    content: "{{ report | clinicops.orthanc.orthanc_report_page }}"
    dest: /srv/reports/clinic.html
    mode: "0600"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: The page, as one self-contained HTML file.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import report


def orthanc_report_page(value: Any) -> str:
    if not isinstance(value, dict):
        raise AnsibleFilterError(
            f"clinicops.orthanc.orthanc_report_page: expects a dictionary, not {type(value).__name__}"
        )
    page: str = report.html(value)
    return page


class FilterModule:
    def filters(self) -> dict[str, Callable[[Any], str]]:
        return {"orthanc_report_page": orthanc_report_page}
