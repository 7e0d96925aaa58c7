#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_exposure
short_description: Check which ports of an Orthanc server are open from a machine
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Runs delegated on any machine, and tries a TCP connection to each port of each address of the server.
  - What it must know of the server is in the output of C(orthanc-verify run --json), which checks there what the kernel
    lets in, and who listens.
  - It changes nothing.
options:
  ports:
    description: The ports that the server serves, and who may reach them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the port.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
      sources:
        description: Addresses and networks that may reach it.
        type: list
        elements: str
        required: true
      address:
        description: Address of the server that it is for; empty for every address.
        type: str
        default: ""
  place:
    description: Name of the machine that the check runs on.
    type: str
    required: true
  addresses:
    description: The server's addresses, each with the ports on which a process listens there (C(reached.addresses)).
    type: dict
    required: true
  seen_as:
    description: Address from which the server sees this machine connect, if it is known (C(reached.controller)).
    type: str
    default: ""
  known_as:
    description: The server's address in the inventory; names are ignored.
    type: str
    default: ""
  waivers:
    description: Rules that are broken on purpose, each with its reason. What they allow is reported, not a failure.
    type: dict
    default: {}
  neighbours:
    description:
      - Ports of nginx sites that are not part of this collection and do not lead to Orthanc, and port 80 where another
        program listens there (C(reached.neighbours)).
    type: list
    elements: int
    default: []
  certificate:
    description:
      - The certificate that the server shows, as C(name) and C(digest) (C(reached.certificate)). What shows another one
        at O(known_as), where that is not an address of the server, is a router.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Does the same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Run the acceptance test
  ansible.builtin.command:
    argv: [/usr/local/sbin/orthanc-verify, run, --json]
  become: true
  register: day
  changed_when: false

- name: Try to reach every port from the controller
  clinicops.orthanc.orthanc_exposure:
    ports: "{{ orthanc_firewall_ports }}"
    place: localhost
    addresses: "{{ (day.stdout | from_json).reached.addresses }}"
    seen_as: "{{ (day.stdout | from_json).reached.controller }}"
    neighbours: "{{ (day.stdout | from_json).reached.neighbours }}"
    certificate: "{{ (day.stdout | from_json).reached.certificate }}"
  delegate_to: localhost
"""

RETURN = r"""
passed:
  description: Whether every check had the expected result.
  type: bool
  returned: always
checks:
  description:
    - Each check with C(group), C(name), C(tried), C(expected), C(seen), C(passed), C(waiver) (the reason why it need
      not pass) and C(remedy).
  type: list
  elements: dict
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import exposure


def main() -> None:
    port = {
        "name": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "sources": {"type": "list", "elements": "str", "required": True},
        "address": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "list", "elements": "dict", "required": True, "options": port},
            "place": {"type": "str", "required": True},
            "addresses": {"type": "dict", "required": True},
            "seen_as": {"type": "str", "default": ""},
            "known_as": {"type": "str", "default": ""},
            "waivers": {"type": "dict", "default": {}},
            "neighbours": {"type": "list", "elements": "int", "default": []},
            "certificate": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    asked = module.params
    known = (asked["place"], asked["addresses"], asked["ports"], asked["seen_as"], asked["waivers"])
    outer = exposure.find_outer(asked["addresses"], asked["known_as"])
    checks = exposure.probe_ports(*known, asked["neighbours"], outer, asked["certificate"])
    module.exit_json(changed=False, passed=all(check["passed"] for check in checks), checks=checks)


if __name__ == "__main__":
    main()
