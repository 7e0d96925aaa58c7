#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_occupied
short_description: Find what is somebody else's before a first deploy
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Finds images of an Orthanc that somebody set up by hand, its container, and a person's account called C(orthanc).
  - A deploy would leave the images behind and begin an empty archive, or take the account over. Nothing is changed.
options:
  storage_dir:
    description: Where Orthanc is to have its images; what is there is gone on with.
    type: path
    required: true
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
  become: true
  register: __orthanc_install_occupied
"""

RETURN = r"""
problems:
  description: C(what), C(message) and C(remedy) of each, a sentence together; empty when nothing is in the way.
  type: list
  elements: dict
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import occupied


def main() -> None:
    module = AnsibleModule(argument_spec={"storage_dir": {"type": "path", "required": True}}, supports_check_mode=True)
    problems = occupied.list_problems(Path(module.params["storage_dir"]))
    module.exit_json(changed=False, problems=[problem._asdict() for problem in problems])


if __name__ == "__main__":
    main()
