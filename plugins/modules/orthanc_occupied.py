#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_occupied
short_description: Find other software and data on a machine that conflict with a deploy
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Before a first deploy it finds the images and the container of an Orthanc that was set up by hand, a person's
    account named C(orthanc), files of others in the storage directory, processes that listen on a port that the deploy
    needs, and nginx sites that the deploy would close or remove. The deploy would otherwise ignore the images and start
    an empty archive, or take over the account and the files.
  - Before each deploy it finds other firewalls, such as ufw, that block sources which the collection's firewall allows,
    files of others in the directory of temporary files, a Docker Engine whose rules another firewall has removed, an
    address of a port that the machine does not have, and a machine that has IPv6 addresses alone.
  - It changes nothing.
extends_documentation_fragment:
  - clinicops.orthanc.adopted
  - clinicops.orthanc.reads
options:
  storage_dir:
    description: Directory of Orthanc's images; images that are already there are used.
    type: path
    required: true
  tmp_dir:
    description: Directory of Orthanc's temporary files.
    type: path
  ports:
    description: The firewall's ports, and the sources that may reach each.
    type: list
    elements: dict
    default: []
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
        description: Address of this machine that it is for; empty for every address.
        type: str
        default: ""
  deployed:
    description: Whether the machine was deployed before; then only what may conflict with any deploy is found.
    type: bool
    default: false
  closes:
    description: Whether the collection's firewall is enabled.
    type: bool
    default: true
  containers:
    description: Whether Orthanc is in a container with its own network, to which other firewalls do not apply.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Find other software and data that conflict with a deploy
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
    - C(what), C(message) and C(remedy) of each conflict; together they are one text. Empty if there is none.
    - C(rule) is the name of the waiver that permits it, or empty.
  type: list
  elements: dict
  returned: always
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import adoption, neighbours, occupied
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused

PORT = {
    "name": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "sources": {"type": "list", "elements": "str", "required": True},
    "address": {"type": "str", "default": ""},
}


def find_problems(wanted: dict[str, Any]) -> list[neighbours.Problem]:
    """What a deploy would conflict with. Refused where that cannot be seen."""
    ports = [neighbours.Port(one["name"], one["port"], one["sources"], one["address"]) for one in wanted["ports"]]
    found: list[neighbours.Problem] = []
    storage = Path(wanted["storage_dir"])
    adopted = adoption.read_wanted(wanted["adopt"], storage) if (wanted["adopt"] or {}).get("method") else None
    found += neighbours.check_addresses(ports, neighbours.list_addresses(), containers=wanted["containers"])
    if not wanted["deployed"]:
        found += occupied.list_problems(storage, ports, closes=wanted["closes"], adopted=adopted)
    if wanted["tmp_dir"]:  # another one may be set later; one of an earlier deploy belongs to Orthanc
        found += occupied.check_directory("orthanc_tmp_dir", Path(wanted["tmp_dir"]))
    # packets to Docker's published ports do not pass the chains in which other firewalls filter
    found += neighbours.check_firewalls([one for one in ports if not (wanted["containers"] and one.name == "dicom")])
    if wanted["containers"]:
        found += neighbours.check_docker(neighbours.list_docker_rules())
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "storage_dir": {"type": "path", "required": True},
            "tmp_dir": {"type": "path"},
            "ports": {"type": "list", "elements": "dict", "default": [], "options": PORT},
            "deployed": {"type": "bool", "default": False},
            "closes": {"type": "bool", "default": True},
            "containers": {"type": "bool", "default": False},
            "adopt": {"type": "dict", "options": adoption.OPTIONS},
        },
        supports_check_mode=True,
    )
    try:
        found = find_problems(module.params)
    except Refused as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, problems=[problem._asdict() for problem in found])


if __name__ == "__main__":
    main()
