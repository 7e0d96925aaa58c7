#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_packages
short_description: Install Debian's packages when nobody else does
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Calls M(ansible.builtin.apt), and where another program has a lock of dpkg's or apt's, such as unattended-upgrades
    on a machine's first boot, waits for it, says each half minute who has it, and goes on.
  - Fails with the name of that program when it takes too long. Nothing of another program is ended.
  - The action plugin of the same name does this; the module itself waits for the locks, and returns who has them.
options:
  name:
    description: Packages to install.
    type: list
    elements: str
    default: []
  install_recommends:
    description: Whether the packages that they recommend come as well; the machine's own setting if it is left out.
    type: bool
  update_cache:
    description: Whether the package lists are refreshed.
    type: bool
  cache_valid_time:
    description: For how many seconds the lists are taken as they are.
    type: int
  policy_rc_d:
    description: Exit code of policy-rc.d meanwhile; 101 starts no service.
    type: int
  minutes:
    description: How long another program is waited for.
    type: int
    default: 30
  seconds:
    description: How long the module itself waits; the action plugin calls it again and again.
    type: int
    default: 0
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: As M(ansible.builtin.apt) does.
    support: full
"""

EXAMPLES = r"""
- name: Install nftables
  clinicops.orthanc.orthanc_packages:
    name: [nftables]
    update_cache: true
    cache_valid_time: 86400
  become: true
"""

RETURN = r"""
holders:
  description: From the module itself, C(lock), C(pid), C(command) and C(unit) of each program that has a lock.
  type: list
  elements: dict
  returned: when the module is called without its action plugin
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import locks


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "default": []},
            "install_recommends": {"type": "bool"},
            "update_cache": {"type": "bool"},
            "cache_valid_time": {"type": "int"},
            "policy_rc_d": {"type": "int"},
            "minutes": {"type": "int", "default": 30},
            "seconds": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    end = time.monotonic() + module.params["seconds"]
    while (found := locks.list_holders()) and time.monotonic() < end:
        time.sleep(0.5)  # the kernel tells nobody that another's lock is free
    module.exit_json(changed=False, holders=[one._asdict() for one in found])


if __name__ == "__main__":
    main()
