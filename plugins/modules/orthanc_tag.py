#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_tag
short_description: Ask the registry whether a tag is still the image that is on the machine
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - The owner of a registry can move a tag to another image. The Docker Engine of the machine asks which one it is now.
  - It pulls nothing and changes nothing.
options:
  image:
    description: Name and tag of an image that was pulled to the machine.
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
extends_documentation_fragment: clinicops.orthanc.reads
"""

EXAMPLES = r"""
- name: Ask the registry which image the tag is now
  clinicops.orthanc.orthanc_tag:
    image: orthancteam/orthanc:26.8.1
"""

RETURN = r"""
digest:
  description: Digest of the image that the tag is now, if that is another one than on the machine; otherwise empty.
  type: str
  returned: always
problem:
  description: Why the registry could not be asked; empty if it answered.
  type: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import registry
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    digest = problem = ""
    try:
        digest = registry.find_moved(**module.params)
    except Refused as refused:
        problem = str(refused)
    module.exit_json(changed=False, digest=digest, problem=problem)


if __name__ == "__main__":
    main()
