#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: adopt_inventory
short_description: Write the inventory with which a deploy takes over a server that somebody set up
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Reads the server with M(clinicops.orthanc.orthanc_survey), and changes nothing on it.
  - Writes a directory with C(hosts.yml), C(group_vars/orthanc/settings.yml), C(group_vars/orthanc/vault.yml) and
    C(adoption.md) on the controller. The page says what changes for whom, what is lost and why, and what becomes of
    each option. Files that exist are never overwritten.
  - Takes every setting of the collection that is in scope, such as C(orthanc_hostname), in place of what it would
    write, and C(orthanc_init_directory), C(orthanc_init_address) and C(orthanc_init_user).
  - Checks the files as P(clinicops.orthanc.check_settings#module) does. Whatever a deploy would refuse is listed as a
    decision.
  - Runs as an action plugin. The playbook C(clinicops.orthanc.adopt) calls it.
options:
  present:
    description: The result of M(clinicops.orthanc.orthanc_present).
    type: dict
    required: true
attributes:
  check_mode:
    description: Reads and checks, and writes nothing.
    support: full
  diff_mode:
    description: Shows the files, with passwords and keys masked.
    support: full
"""

EXAMPLES = r"""
- name: Read the configuration of Orthanc
  clinicops.orthanc.orthanc_present:
  register: __orthanc_present
  no_log: true

- name: Write the inventory
  clinicops.orthanc.adopt_inventory:
    present: "{{ __orthanc_present }}"
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
decisions:
  description: C(setting) and C(question) of what only a person can decide.
  type: list
  elements: dict
  returned: success
changes:
  description: C(who), C(today) and C(tomorrow) of each change for a person, a program or a device.
  type: list
  elements: dict
  returned: success
"""
