# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_report_overview
short_description: Build an overview page of many acceptance reports
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Builds a page with a row for each server, the worst first, each with a link to its own report. A server without a
    report has a row too.
options:
  _input:
    description:
      - The text of each report by the host that it is about, as C(orthanc-verify run --json) prints it. A text that is
        not a report has a row that says so.
    type: dict
    required: true
  clinics:
    description: The hosts of the inventory.
    type: list
    elements: str
    default: []
  untested:
    description: Hosts that the newest run did not test, since it did not reach them, or failed before.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Write the overview page of all clinics
  ansible.builtin.copy:
    content: "{{ reports | clinicops.orthanc.orthanc_report_overview(groups.orthanc) }}"
    dest: /srv/reports/index.html
    mode: "0600"
  vars:
    reports:
      harbour: "{{ lookup('ansible.builtin.file', '/srv/reports/harbour.json') }}"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: The page, as one self-contained HTML file.
  type: str
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import report


def orthanc_report_overview(value: Any, clinics: Iterable[str] = (), untested: Iterable[str] = ()) -> str:
    if not isinstance(value, Mapping):
        raise AnsibleFilterError(
            f"clinicops.orthanc.orthanc_report_overview: expects a dictionary, not {type(value).__name__}"
        )
    page: str = report.overview(report.read_reports(value), clinics, untested)
    return page


class FilterModule:
    def filters(self) -> dict[str, Callable[..., str]]:
        return {"orthanc_report_overview": orthanc_report_overview}
