# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_acme_problems
short_description: List why an ACME server would not give a certificate
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Checks the settings for an ACME server on the controller, before it is asked.
options:
  _input:
    description: URL of the ACME server's directory.
    type: str
    required: true
  hostname:
    description: The name that clients use.
    type: str
    required: true
  email:
    description: Address for the account, or nothing.
    type: str
    required: true
  dns_hook:
    description: Path of the hook for DNS-01 on the controller, or nothing.
    type: str
    required: true
  ca:
    description: Root of the ACME server's own certificate in PEM, or nothing.
    type: str
    required: true
positional: hostname, email, dns_hook, ca
"""

EXAMPLES = r"""
- name: List why an ACME server would not give a certificate
  ansible.builtin.debug:
    msg: "{{ directory | clinicops.orthanc.orthanc_acme_problems('pacs.clinic.example', '', '', '') }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import acme


def orthanc_acme_problems(directory: Any, hostname: Any, email: Any, dns_hook: Any, ca: Any) -> Any:
    for value in (directory, hostname, email, dns_hook, ca):
        if not isinstance(value, str):
            kind = type(value).__name__
            raise AnsibleFilterError(f"clinicops.orthanc.orthanc_acme_problems: expects text, not {kind}")
    return acme.problems(directory, hostname, email, dns_hook, ca)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_acme_problems": orthanc_acme_problems}
