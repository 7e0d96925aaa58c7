#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_acceptance
short_description: Play a clinic's day against a running Orthanc
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Runs on the server. With a synthetic patient it plays C-ECHO, worklist query, C-STORE, QIDO-RS, WADO-RS and
    STOW-RS through the proxy, tries what must be refused, and takes the patient away again.
  - Needs DCMTK's tools in C(/usr/bin).
options:
  hostname:
    description: The name that external systems use in C(https://).
    type: str
    required: true
  ca_file:
    description: File of the CAs that external systems trust, in PEM.
    type: path
    required: true
  aet:
    description: AE title of Orthanc.
    type: str
    required: true
  calling_aet:
    description: AE title that Orthanc lists for 127.0.0.1.
    type: str
    required: true
  dicom_port:
    description: DICOM port of Orthanc.
    type: int
    required: true
  http_port:
    description: HTTP port of Orthanc.
    type: int
    required: true
  users:
    description: The users, each with C(name), C(password) and C(role).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Password of the user.
        type: str
        required: true
      role:
        description: What the proxy lets the user do.
        type: str
        required: true
        choices: [admin, dicomweb_reader, dicomweb_writer]
  devices:
    description: The devices as in C(orthanc_modalities). Each must be refused from an address that is not its own.
    type: list
    elements: dict
    default: []
  dicom_tls_port:
    description: Port of devices that come over TLS.
    type: int
    default: 2762
  certificates:
    description:
      - Paths of certificates and keys, without C(.crt) and C(.key), by name in C(device) and in C(user). Those devices
        are played over TLS, and those users show theirs.
    type: dict
    default: {}
  worklist_dir:
    description: The directory of worklist files that Orthanc serves.
    type: path
    required: true
  worklist_drop_dir:
    description: The directory where applications hand worklist items over.
    type: path
    default: /srv/worklists/incoming
  waivers:
    description: Rules that are broken on purpose, each with its reason. What they allow is reported, and no failure.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: none
"""

EXAMPLES = r"""
- name: Prove that the server works
  clinicops.orthanc.orthanc_acceptance:
    hostname: pacs.clinic.example
    ca_file: /etc/nginx/orthanc/ca.crt
    aet: ORTHANC
    calling_aet: ACCEPTANCE_TEST
    dicom_port: 4242
    http_port: 8042
    users: "{{ orthanc_users }}"
    worklist_dir: /var/lib/orthanc/worklists
"""

RETURN = r"""
passed:
  description: Whether every check gave what was expected.
  type: bool
  returned: always
checks:
  description: Each check with C(name), C(expected), C(seen), C(passed) and C(waiver), the reason why it need not pass.
  type: list
  elements: dict
  returned: always
"""

import signal
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.acceptance import Day


def main() -> None:
    user = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "role": {
            "type": "str",
            "required": True,
            "choices": ["admin", "dicomweb_reader", "dicomweb_writer"],
        },
    }
    module = AnsibleModule(
        argument_spec={
            "hostname": {"type": "str", "required": True},
            "ca_file": {"type": "path", "required": True},
            "aet": {"type": "str", "required": True},
            "calling_aet": {"type": "str", "required": True},
            "dicom_port": {"type": "int", "required": True},
            "http_port": {"type": "int", "required": True},
            "users": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": user,
            },
            "devices": {"type": "list", "elements": "dict", "default": []},
            "dicom_tls_port": {"type": "int", "default": 2762},
            "certificates": {"type": "dict", "default": {}},
            "worklist_dir": {"type": "path", "required": True},
            "worklist_drop_dir": {"type": "path", "default": "/srv/worklists/incoming"},
            "waivers": {"type": "dict", "default": {}},
        },
        supports_check_mode=False,
    )
    # a run that is cut off takes its patient away, too
    for cut in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(cut, lambda number, _frame: sys.exit(128 + number))
    day = Day(module.params)
    day.play()
    module.exit_json(
        changed=False,
        passed=all(check["passed"] for check in day.checks),
        checks=day.checks,
    )


if __name__ == "__main__":
    main()
