#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_pull
short_description: Pull an image with a login that the machine does not keep
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - The login goes to the Docker Engine with the request, and to no file. A login that root has on the machine is not
    used and not changed.
options:
  image:
    description: Name of the image with its tag or digest.
    type: str
    required: true
  username:
    description: User of the registry; empty where it asks for none.
    type: str
    default: ""
  password:
    description: Password of that user.
    type: str
    default: ""
  always:
    description: Whether to ask the registry also if an image of this name is on the machine.
    type: bool
    default: false
attributes:
  check_mode:
    description: Whether it can run without changing anything.
    details: Reports a change where it would ask the registry, and does not ask it.
    support: partial
  diff_mode:
    description: Has no diff.
    support: none
"""

EXAMPLES = r"""
- name: Pull the Orthanc image
  clinicops.orthanc.orthanc_pull:
    image: registry.clinic.example/orthancteam/orthanc:26.8.1
    username: clinic
    password: "{{ vault_registry_password }}"
"""

RETURN = r"""
identity:
  description: What identifies the content of the image that the machine has under this name.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import installed, registry
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "always": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    image = installed.Image(given["image"])
    before = image.read_identity()
    if before and not given["always"]:
        module.exit_json(changed=False, identity=before)
    if module.check_mode:
        module.exit_json(changed=True, identity=before)
    try:
        registry.pull(given["image"], given["username"], given["password"])
    except Refused as refused:
        module.fail_json(msg=str(refused))
    now = image.read_identity()
    module.exit_json(changed=now != before, identity=now)


if __name__ == "__main__":
    main()
