#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_survey
short_description: Read what a machine's Orthanc has, and what was built around it
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Reads the images and the index of an Orthanc that somebody set up, as a package or in a container, and the nginx
    sites, firewalls and cron jobs around it.
  - It changes nothing, and returns no secret. While Orthanc runs, it reads a copy of the index in C(/var/tmp), which it
    removes.
  - The playbook C(clinicops.orthanc.adopt) calls it with what M(clinicops.orthanc.orthanc_present) has found. All paths
    and ports are those that Orthanc's configuration names, inside its container if it has one.
options:
  container:
    description: The name of Orthanc's container; empty for the unit C(orthanc.service).
    type: str
    default: ""
  storage_dir:
    description: The directory of the images.
    type: str
    default: ""
  index_dir:
    description: The directory of the index; empty if it is that of the images.
    type: str
    default: ""
  worklist_dir:
    description: The directory of the worklists.
    type: str
    default: ""
  dicom_port:
    description: The DICOM port.
    type: int
    default: 4242
  http_port:
    description: The HTTP port.
    type: int
    default: 8042
  hosts:
    description: Names of devices in DNS, which the machine resolves with those of the devices in the index.
    type: list
    elements: str
    default: []
  scripts:
    description: Absolute paths of the scripts that Orthanc loads.
    type: list
    elements: str
    default: []
extends_documentation_fragment: clinicops.orthanc.reads
"""

EXAMPLES = r"""
- name: Read the images of Debian's Orthanc
  clinicops.orthanc.orthanc_survey:
    storage_dir: /var/lib/orthanc/db-v6
"""

RETURN = r"""
name:
  description: The machine's own full name.
  type: str
  returned: always
system:
  description: The machine's operating system.
  type: str
  returned: always
runs:
  description: Whether Orthanc runs.
  type: bool
  returned: always
container:
  description: C(name), C(image), C(restart) and C(compose) of the container; empty if there is none.
  type: dict
  returned: always
ports:
  description: C(inside), C(outside) and C(address) of each port that the container publishes.
  type: list
  elements: dict
  returned: always
storage:
  description:
    - C(path) of the images on the machine, C(where) (C(machine), C(mount), C(volume), or C(layer) for a container's own
      layer), and C(free), C(total) and C(file_system) of the disk.
  type: dict
  returned: always
index:
  description:
    - C(path) of the index, and its C(version), C(patients), C(studies), C(series), C(images), C(files), C(bytes),
      C(compressed), C(metadata), C(attachments), C(labels), C(kinds), C(protected), C(senders) and C(modalities).
    - If it cannot be read, C(path) and C(why).
  type: dict
  returned: always
worklists:
  description: C(path) of the worklists on the machine, and how many C(items) there are.
  type: dict
  returned: always
hosts:
  description: The addresses of each name.
  type: dict
  returned: always
scripts:
  description: C(path), C(real) path on the machine, C(exists) and C(functions) of each script.
  type: list
  elements: dict
  returned: always
sites:
  description:
    - C(path), C(listens), C(names), allowed C(sources) of each nginx site that forwards to Orthanc, and the number of
      C(others) in the same file.
  type: list
  elements: dict
  returned: always
ufw:
  description: C(admits), C(ports) and C(source) of each rule of an active ufw.
  type: list
  elements: dict
  returned: always
firewalls:
  description: The firewalls that filter what arrives.
  type: list
  elements: str
  returned: always
jobs:
  description: C(file), C(line) and C(program) of each cron job or unit that mentions Orthanc.
  type: list
  elements: dict
  returned: always
attempted:
  description: Whether a deploy has begun to adopt it.
  type: bool
  returned: always
deployed:
  description: Whether this collection has deployed the machine.
  type: bool
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import survey
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused


def main() -> None:
    texts = ("container", "storage_dir", "index_dir", "worklist_dir")
    module = AnsibleModule(
        argument_spec={
            **{name: {"type": "str", "default": ""} for name in texts},
            "dicom_port": {"type": "int", "default": 4242},
            "http_port": {"type": "int", "default": 8042},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "scripts": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    lists = {name: tuple(module.params[name]) for name in ("hosts", "scripts")}
    try:
        module.exit_json(changed=False, **survey.survey(survey.Asked(**{**module.params, **lists})))
    except Refused as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
