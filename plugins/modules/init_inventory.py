#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: init_inventory
short_description: Write the first inventory of a clinic
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Writes a directory with C(hosts.yml), C(group_vars/orthanc/settings.yml) and C(group_vars/orthanc/vault.yml) with
    generated passwords. Files that exist are never overwritten.
  - Takes every setting of the collection that is in scope, such as C(orthanc_hostname), and C(orthanc_init_directory),
    C(orthanc_init_address) and C(orthanc_init_user). If one is missing that has no default, it asks for whatever is not
    given, and checks each answer. Without a terminal it fails, and lists what is missing.
  - Checks all values as P(clinicops.orthanc.check_settings#module) does before it writes anything.
  - Encrypts C(vault.yml) if Ansible was given a vault password.
  - Runs on the controller only, as an action plugin. The playbook C(clinicops.orthanc.init_inventory) calls it.
attributes:
  check_mode:
    description: Asks and checks, and writes nothing.
    support: full
  diff_mode:
    description: Shows the files, with passwords and keys masked.
    support: full
"""

EXAMPLES = r"""
- name: Write the first inventory
  clinicops.orthanc.init_inventory:
"""

RETURN = r"""
directory:
  description: The directory of the inventory.
  type: str
  returned: success
  sample: /home/it/inventory
files:
  description: The files in it.
  type: list
  elements: str
  returned: success
command:
  description: The command that deploys with this inventory.
  type: str
  returned: success
  sample: ansible-playbook -i inventory --ask-vault-pass clinicops.orthanc.deploy
"""
