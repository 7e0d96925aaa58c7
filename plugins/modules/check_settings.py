#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: check_settings
short_description: Report all problems in the settings of all roles at once
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Evaluates the settings of the roles of the play and fails with one list of all problems, each with its path, the
    reason and the remedy. Warnings are shown as Ansible's warnings.
  - Runs on the controller only, as an action plugin; nothing runs on the machine.
options:
  roles:
    description:
      - Roles whose settings are checked.
      - If omitted, the roles of the play; then it also checks whether the inventory sets variables that the playbooks
        of the collection set themselves.
    type: list
    elements: str
    choices:
      - orthanc_install
      - orthanc_config
      - orthanc_worklist
      - orthanc_proxy
      - orthanc_firewall
      - orthanc_backup
      - orthanc_monitor
      - orthanc_tools
      - orthanc_verify
  absent:
    description: Files that the settings name and that do not exist on the machine.
    type: list
    elements: str
    default: []
  accounts:
    description: Lines of C(getent passwd) on the machine; if omitted, writers are not compared with its accounts.
    type: list
    elements: str
  mark:
    description: The comment of accounts that the role C(orthanc_worklist) created itself.
    type: str
    default: ""
  told:
    description: Problems that an earlier call returned; they are not reported again.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Check all settings before anything changes
  clinicops.orthanc.check_settings:
  register: checked

- name: Check the settings of one role
  clinicops.orthanc.check_settings:
    roles: [orthanc_backup]
"""

RETURN = r"""
problems:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each warning and of each waived problem.
  type: list
  elements: dict
  returned: success
later:
  description: Settings that need facts of the machine that are not gathered yet. Call the module again with the facts.
  type: list
  elements: str
  returned: success
"""
