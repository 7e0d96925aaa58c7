#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_packages
short_description: Install Debian's packages, and wait while another program uses apt
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Calls M(ansible.builtin.apt). While another program holds a lock of dpkg or apt, such as unattended-upgrades on a
    machine's first boot, it waits, reports every half minute which program holds the lock, and then continues.
  - Does nothing where the same play has installed all packages, or has seen them with
    M(clinicops.orthanc.orthanc_machine).
  - needrestart only lists the services that it would restart.
  - Fails with the name of that program if it takes too long. It never ends another program.
  - The action plugin of the same name does this; the module itself waits for the locks, and returns which programs hold
    them.
options:
  name:
    description: Packages to install.
    type: list
    elements: str
    default: []
  install_recommends:
    description: Whether to install recommended packages as well; if omitted, the machine's own setting applies.
    type: bool
  update_cache:
    description: Whether to refresh the package lists.
    type: bool
  cache_valid_time:
    description: Age in seconds up to which the package lists are not refreshed.
    type: int
  policy_rc_d:
    description: Exit code of policy-rc.d during the installation; with 101 no service starts.
    type: int
  minutes:
    description: Minutes to wait for another program.
    type: int
    default: 30
  seconds:
    description: Seconds that the module itself waits; the action plugin calls it repeatedly.
    type: int
    default: 0
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Same as M(ansible.builtin.apt).
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
  description: From the module itself, C(lock), C(pid), C(command) and C(unit) of each program that holds a lock.
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
        time.sleep(0.5)  # the kernel does not notify about a lock that another process releases
    module.exit_json(changed=False, holders=[one._asdict() for one in found])


if __name__ == "__main__":
    main()
