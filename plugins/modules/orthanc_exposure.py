#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_exposure
short_description: Check which ports of an Orthanc server are open, and from where
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Without O(place) it runs on the server as root, and reads the firewall's table in the kernel and the listening
    sockets.
  - With O(place) it runs delegated on any machine, and tries a TCP connection to each port of each address.
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
    description: Name of the machine that the check runs on; it requires O(addresses).
    type: str
  addresses:
    description: With O(place), the RV(addresses) that the call on the server returned.
    type: dict
  seen_as:
    description: With O(place), the address from which the server sees this machine connect, if it is known.
    type: str
    default: ""
  known_as:
    description: On the server, its address in the inventory; names are ignored.
    type: str
    default: ""
  waivers:
    description: Rules that are broken on purpose, each with its reason. What they allow is reported, not a failure.
    type: dict
    default: {}
  neighbours:
    description: With O(place), the RV(neighbours) that the call on the server returned; these ports are not Orthanc's.
    type: list
    elements: int
    default: []
attributes:
  check_mode:
    description: Does the same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Check the server's ports on the server itself
  clinicops.orthanc.orthanc_exposure:
    ports: "{{ orthanc_firewall_ports }}"
  become: true
  register: server

- name: Check the server's ports from the controller
  clinicops.orthanc.orthanc_exposure:
    ports: "{{ orthanc_firewall_ports }}"
    place: localhost
    addresses: "{{ server.addresses }}"
    seen_as: "{{ server.controller }}"
    neighbours: "{{ server.neighbours }}"
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
addresses:
  description: The server's addresses, each with the ports on which a process listens.
  type: dict
  returned: on the server
controller:
  description: The address from which the server sees the controller connect; empty without SSH.
  type: str
  returned: on the server
neighbours:
  description:
    - Ports of nginx sites that are not part of this collection and do not lead to Orthanc, and port 80 where another
      program listens there.
  type: list
  elements: int
  returned: on the server
"""

import os
from typing import Any

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
            "place": {"type": "str"},
            "addresses": {"type": "dict"},
            "seen_as": {"type": "str", "default": ""},
            "known_as": {"type": "str", "default": ""},
            "waivers": {"type": "dict", "default": {}},
            "neighbours": {"type": "list", "elements": "int", "default": []},
        },
        required_together=[("place", "addresses")],
        supports_check_mode=True,
    )
    asked = module.params
    more: dict[str, Any] = {}
    if asked["place"]:
        known = (asked["place"], asked["addresses"], asked["ports"], asked["seen_as"], asked["waivers"])
        checks = exposure.probe_ports(*known, asked["neighbours"])
    else:
        listening = exposure.list_listening()
        neighbours = exposure.find_neighbours(listening)
        checks = exposure.check_server(exposure.read_table(), listening, asked["ports"], asked["waivers"], neighbours)
        checks += exposure.check_held(exposure.describe_changes(), exposure.describe_detours(), asked["waivers"])
        more = {
            "addresses": exposure.list_addresses(exposure.read_addresses(), listening, asked["known_as"]),
            "controller": exposure.find_ssh_client(os.getpid()),
            "neighbours": neighbours,
        }
    module.exit_json(changed=False, passed=all(check["passed"] for check in checks), checks=checks, **more)


if __name__ == "__main__":
    main()
