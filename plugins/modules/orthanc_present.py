#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_present
short_description: Read what the Orthanc of a machine reads
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Finds the files and the environment of the unit C(orthanc.service) or of a container, whoever set it up.
  - Nothing is changed, and a container need not run. What is returned holds secrets.
options:
  path:
    description: A file or directory on the machine, in place of what the unit or a container reads.
    type: str
    default: ""
  container:
    description: The name of a container, in place of what the unit reads.
    type: str
    default: ""
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Read what Orthanc reads
  clinicops.orthanc.orthanc_present:
  register: __orthanc_config_present
  no_log: true
"""

RETURN = r"""
files:
  description: The text of each file by its path.
  type: dict
  returned: success
environment:
  description: Orthanc's environment, or null where it is not seen.
  type: dict
  returned: success
version:
  description: Orthanc's version, or empty.
  type: str
  returned: success
plugins:
  description: File names of the plugins in Orthanc's folders.
  type: list
  elements: str
  returned: success
image:
  description: Whether the entry point of orthancteam/orthanc makes the configuration.
  type: bool
  returned: success
bridge:
  description: Whether Orthanc is in a container's own network.
  type: bool
  returned: success
of:
  description: What was read, for a person.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import present


def main() -> None:
    module = AnsibleModule(
        argument_spec={"path": {"type": "str", "default": ""}, "container": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    try:
        found = present.look(module.params["path"], module.params["container"])
    except (present.NotFoundError, OSError) as error:
        found = {"files": {}, "image": False, "of": "", "why": str(error)}
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
