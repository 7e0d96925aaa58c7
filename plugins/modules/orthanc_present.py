#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_present
short_description: Read the configuration of the Orthanc on a machine
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Reads the configuration files and the environment of the unit C(orthanc.service) or of a container, also if it was
    set up by hand.
  - It changes nothing, and the container need not be running. The returned values contain secrets.
options:
  path:
    description: A file or directory on the machine to read instead of the files of the unit or container.
    type: str
    default: ""
  container:
    description: The name of a container to read instead of the unit.
    type: str
    default: ""
extends_documentation_fragment: clinicops.orthanc.reads
"""

EXAMPLES = r"""
- name: Read the configuration of Orthanc
  clinicops.orthanc.orthanc_present:
  register: __orthanc_config_present
  no_log: true
"""

RETURN = r"""
files:
  description: The text of each configuration file, by its path.
  type: dict
  returned: success
environment:
  description: Orthanc's environment, or null if it cannot be read.
  type: dict
  returned: success
version:
  description: Orthanc's version; empty if it is unknown.
  type: str
  returned: success
plugins:
  description: File names of the plugins in Orthanc's plugin directories.
  type: list
  elements: str
  returned: success
image:
  description: Whether the entry point of orthancteam/orthanc generates the configuration.
  type: bool
  returned: success
bridge:
  description: Whether Orthanc is in a container's own network.
  type: bool
  returned: success
of:
  description: What was read, as text for people.
  type: str
  returned: success
container:
  description: The name of the container that was read, or empty.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import present
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused


def main() -> None:
    module = AnsibleModule(
        argument_spec={"path": {"type": "str", "default": ""}, "container": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    try:
        found = present.read_present(module.params["path"], module.params["container"])
    except (present.NotFoundError, Refused, OSError) as error:
        found = {"files": {}, "image": False, "of": "", "why": str(error)}
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
