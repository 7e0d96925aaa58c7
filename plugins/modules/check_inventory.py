#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: check_inventory
short_description: Report all problems in the settings of all clinics in one table
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Evaluates the settings of every host of the play as a deploy does, and what two of them may not share, such as a
    host name or a name in one backup repository. Fails with one table of all problems, each with the clinics that
    have it, the reason and the remedy.
  - With C(--limit), each host of the play is also compared with the other hosts of the group C(orthanc).
  - Runs on the controller only, as an action plugin, once for all hosts; no machine is contacted.
options:
  only_errors:
    description: Whether warnings and waived problems are left out, and nothing is shown if no setting is wrong.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Check the settings of all clinics
  clinicops.orthanc.check_inventory:
  run_once: true
"""

RETURN = r"""
problems:
  description: C(rule), C(severity), C(path), C(message), C(remedy) and C(clinics) of each problem.
  type: list
  elements: dict
  returned: when O(only_errors=false)
clinics:
  description: How many clinics were checked.
  type: int
  returned: when O(only_errors=false)
"""
