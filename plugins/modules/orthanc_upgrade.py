#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_upgrade
short_description: Upgrade Orthanc to another image or method of installation, or go back
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Each O(step) notes how far the upgrade is, in C(/var/lib/orthanc-upgrade/upgrade.json). A step that is complete does
    nothing, and one that was interrupted at any moment can be run again.
  - Both releases use the same files of images, which never change. Each has an index of its own.
options:
  step:
    description:
      - V(plan) returns what is installed, what is offered, and what the upgrade would do.
      - V(trial) starts the new Orthanc beside production, on a copy of the index, and asks it. The images are read
        where they are and cannot be written.
      - V(withdraw) is for after a trial that was refused, and gives a tag that was pulled anew back to the image that
        runs.
      - V(switch) stops the old Orthanc, keeps its index and its configuration, and makes room for the new one.
      - V(confirm) is for after the acceptance test, and fails where an image of before is missing.
      - V(settle) removes what the way back needed. It fails where V(confirm) has not passed.
      - V(back) removes the new container or stops the new package, and starts the old Orthanc with its index of before
        and the images that came since. What else cannot be brought back, as a proxy whose configuration has an error,
        is returned in RV(lines).
    type: str
    choices: [plan, trial, withdraw, switch, confirm, settle, back]
    required: true
  method:
    description: The method by which the new Orthanc is installed.
    type: str
    choices: [package, docker]
    required: true
  image:
    description: With V(docker), the new image, which is on the machine from V(trial) on.
    type: str
    default: ""
  version:
    description: The release of the new Orthanc, if it is known; for V(plan).
    type: str
    default: ""
  moved:
    description: Digest of the image that the tag is in its registry, if the one on the machine is another; for V(plan).
    type: str
    default: ""
  content:
    description: The whole configuration for the new release, as JSON. For V(plan) and V(trial).
    type: str
    default: ""
  plugins:
    description: Names of the plugins that must be loaded, as C(/plugins) lists them.
    type: list
    elements: str
    default: []
  address:
    description: The address from which Orthanc sees connections of this machine itself.
    type: str
    default: 127.0.0.1
  storage:
    description: Directory of the images and of the index.
    type: path
    required: true
attributes:
  check_mode:
    description: Whether it can run without changing anything.
    details: Only V(plan) runs in check mode.
    support: partial
  diff_mode:
    description: Has no diff.
    support: none
"""

EXAMPLES = r"""
- name: Go back to the release of before
  clinicops.orthanc.orthanc_upgrade:
    step: back
    method: docker
    image: orthancteam/orthanc:26.8.1
    storage: /var/lib/orthanc/db
"""

RETURN = r"""
needed:
  description: Whether another method or image is asked for, or an upgrade is under way.
  type: bool
  returned: success
distribution:
  description: Whether the package stays, so that apt upgrades it with the distribution.
  type: bool
  returned: success
step:
  description:
    - How far the upgrade is, one of V(tried), V(switching), V(switched), V(confirmed), V(returning), V(returned),
      V(settling) and V(settled); empty before the first one.
  type: str
  returned: success
stopped:
  description: Whether the old Orthanc is stopped for the new one, so that neither backup nor trial is left to do.
  type: bool
  returned: success
lines:
  description: What the step found, and after V(back) what a person has to see to, in sentences.
  type: list
  elements: str
  returned: success
arrived:
  description: Number of images that came after the switch, and are in the old Orthanc again after V(back).
  type: int
  returned: success
left:
  description: Number of images in C(/var/lib/orthanc-upgrade/arrived), which the old Orthanc did not take.
  type: int
  returned: success
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import indexes, installed, signals, upgrade
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.locks import hold_lock

LOCK = Path("/run/orthanc-upgrade.lock")
LOCK_SECONDS = 3600  # a step whose controller was killed runs on


def run_step(given: dict[str, Any]) -> tuple[bool, list[str]]:
    """Runs one step; returns whether it changed anything, and what it found."""
    step, storage, address = given["step"], Path(given["storage"]), given["address"]
    new = installed.choose(given["method"], given["image"])
    if step == "plan":
        return False, upgrade.describe(new, given["moved"], given["version"], given["content"], storage)
    if step == "trial":
        try:
            said = upgrade.try_release(new, json.loads(given["content"]), given["plugins"], address)
        except BaseException:  # an interrupted play as well
            upgrade.collect_refusals(lambda: upgrade.put_tag_back(given["image"]))
            raise
    elif step == "withdraw":
        return upgrade.put_tag_back(given["image"]), []
    elif step == "switch":
        return upgrade.switch(new, storage), []
    elif step == "confirm":
        return False, upgrade.confirm(address, storage)
    elif step == "settle":
        said = upgrade.settle(storage)
    else:
        returned, said = upgrade.go_back(address, storage)
        return returned, said
    return bool(said), said


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {
                "type": "str",
                "choices": ["plan", "trial", "withdraw", "switch", "confirm", "settle", "back"],
                "required": True,
            },
            "method": {"type": "str", "choices": ["package", "docker"], "required": True},
            "image": {"type": "str", "default": ""},
            "version": {"type": "str", "default": ""},
            "moved": {"type": "str", "default": ""},
            # secret as a whole, as in orthanc_configuration
            "content": {"type": "str", "default": "", "no_log": True},
            "plugins": {"type": "list", "elements": "str", "default": []},
            "address": {"type": "str", "default": "127.0.0.1"},
            "storage": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    # an interrupted play ends the trial on its way out
    signals.end_at_signals()
    given = module.params
    result: dict[str, Any] = {"changed": False, "lines": [], "needed": False, "arrived": 0, "left": 0}
    new = installed.choose(given["method"], given["image"])
    try:
        upgrade.find_old(upgrade.Notes.read())
        if given["step"] == "plan" or not module.check_mode:
            with hold_lock(LOCK, "step of an upgrade", LOCK_SECONDS):
                result["changed"], result["lines"] = run_step(given)
        notes = upgrade.Notes.read()
        result.update(needed=upgrade.is_needed(new, given["moved"], notes))
        result.update(step=notes.step, stopped=notes.step in upgrade.STOPPED)
        result.update(distribution=upgrade.is_of_distribution(new, notes))
        result.update(arrived=notes.arrived, left=indexes.count_arrived(upgrade.DIRECTORY))
    except (Refused, OSError, sqlite3.Error, ValueError) as error:  # the last is of a file that was edited by hand
        module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
