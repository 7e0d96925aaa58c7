#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_occupied
short_description: Find what of a machine is somebody else's and in the way
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Before a first deploy it finds images of an Orthanc that somebody set up by hand, its container, a person's account
    called C(orthanc), what listens at a port that a deploy needs, and sites of nginx's that a deploy would close or
    take away. A deploy would leave the images behind and begin an empty archive, or take the account over.
  - Before each deploy it finds firewalls beside the collection's, such as ufw, that keep out whom that one lets in.
  - Nothing is changed.
options:
  storage_dir:
    description: Where Orthanc is to have its images; what is there is gone on with.
    type: path
    required: true
  ports:
    description: The firewall's ports, and whom it lets in to each.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Of the port.
        type: str
        required: true
      port:
        description: Its number.
        type: int
        required: true
      sources:
        description: Addresses and networks.
        type: list
        elements: str
        required: true
  deployed:
    description: Whether the machine was deployed before; then the firewalls alone are looked at.
    type: bool
    default: false
  closes:
    description: Whether the collection's firewall is on.
    type: bool
    default: true
  containers:
    description: Whether Orthanc is in a container with a network of its own, to which other firewalls do not apply.
    type: bool
    default: false
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Look for what is somebody else's
  clinicops.orthanc.orthanc_occupied:
    storage_dir: /var/lib/orthanc/db
    ports:
      - {name: https, port: 443, sources: [198.51.100.64/26]}
  become: true
  register: __orthanc_install_occupied
"""

RETURN = r"""
problems:
  description:
    - C(what), C(message) and C(remedy) of each, a sentence together; empty when nothing is in the way.
    - C(rule) is the waiver with which it may stay, or empty.
  type: list
  elements: dict
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import neighbours, occupied

PORT = {
    "name": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "sources": {"type": "list", "elements": "str", "required": True},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "storage_dir": {"type": "path", "required": True},
            "ports": {"type": "list", "elements": "dict", "default": [], "options": PORT},
            "deployed": {"type": "bool", "default": False},
            "closes": {"type": "bool", "default": True},
            "containers": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    ports = [neighbours.Port(one["name"], one["port"], one["sources"]) for one in wanted["ports"]]
    found = []
    if not wanted["deployed"]:
        found += occupied.list_problems(Path(wanted["storage_dir"]), ports, closes=wanted["closes"])
    # what Docker publishes does not pass the chains in which other firewalls filter
    found += neighbours.check_firewalls([one for one in ports if not (wanted["containers"] and one.name == "dicom")])
    module.exit_json(changed=False, problems=[problem._asdict() for problem in found])


if __name__ == "__main__":
    main()
