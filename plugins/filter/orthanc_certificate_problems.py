# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_certificate_problems
short_description: List what is wrong with a certificate
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Checks a certificate that a clinic brings against its key, its chain, the host name and today's date.
options:
  _input:
    description: The server's certificate and its chain, in PEM.
    type: str
    required: true
  key:
    description: The private key, in PEM.
    type: str
    required: true
  hostname:
    description: The name that clients use.
    type: str
    required: true
positional: key, hostname
"""

EXAMPLES = r"""
- name: List what is wrong with a certificate
  ansible.builtin.debug:
    msg: "{{ chain | clinicops.orthanc.orthanc_certificate_problems(key, 'pacs.clinic.example') }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

import datetime
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import certificate


def orthanc_certificate_problems(chain: Any, key: Any, hostname: Any) -> Any:
    for value in (chain, key, hostname):
        if not isinstance(value, str):
            kind = type(value).__name__
            raise AnsibleFilterError(f"clinicops.orthanc.orthanc_certificate_problems: expects text, not {kind}")
    return certificate.problems(chain, key, hostname, datetime.datetime.now(datetime.UTC))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_certificate_problems": orthanc_certificate_problems}
