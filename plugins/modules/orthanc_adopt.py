#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_adopt
short_description: Take over an Orthanc that somebody set up, or bring it back
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Each O(step) notes how far the adoption is, in C(/etc/orthanc/site/before/adoption.json). A step that is complete
    does nothing, and one that was interrupted at any moment can be run again.
  - No image is ever in one place only while images move. On the same file system each gets a second name, otherwise a
    copy that is read again and compared. The old directory is not removed.
extends_documentation_fragment: clinicops.orthanc.adopted
options:
  step:
    description:
      - V(inspect) returns how far the adoption is, and what the switch would do.
      - V(prepare) keeps the old configuration and brings the images to their new directory while the old Orthanc runs.
      - V(switch) stops the old Orthanc, brings the rest, and puts the package's configuration files back as shipped.
      - V(finish) is for after the acceptance test, and returns what a person may remove.
      - V(back) removes what a deploy would do to the old server, and starts that server as it was.
    type: str
    choices: [inspect, prepare, switch, finish, back]
    required: true
  adopt:
    description: The old Orthanc, as the setting C(orthanc_adopt).
    required: true
  target:
    description: Directory of the images from now on.
    type: path
    required: true
  made:
    description: What a deploy makes and what would act on the old server, which V(back) removes.
    type: dict
    default: {}
    suboptions:
      units:
        description: Units of systemd.
        type: list
        elements: str
        default: []
      acting:
        description: Cron files, sites and drop-ins.
        type: list
        elements: path
        default: []
attributes:
  check_mode:
    description: Changes nothing; C(changes) says what the switch would do.
    support: full
  diff_mode:
    description: Has no diff.
    support: none
"""

EXAMPLES = r"""
- name: Stop the old Orthanc, and make room for the new one
  clinicops.orthanc.orthanc_adopt:
    step: switch
    adopt: {method: container, container: happy_fermi, storage_dir: /orthanc/db}
    target: /orthanc/db
    made: {units: [orthanc-ledger.timer], acting: [/etc/cron.d/orthanc-backup]}
"""

RETURN = r"""
step:
  description:
    - How far the adoption is, V(prepared), V(switching), V(switched), V(adopted), V(returning) or V(returned); empty if
      it has not begun.
  type: str
  returned: success
changes:
  description: What the switch did or would do to the old server.
  type: list
  elements: str
  returned: success
left:
  description: What a person may remove after V(finish), each with its command.
  type: list
  elements: str
  returned: success
arrived:
  description: Number of images in C(/etc/orthanc/site/before/arrived), which the old Orthanc does not have.
  type: int
  returned: success
sent:
  description: Number of images that came after the switch, and that V(back) submitted to the old Orthanc.
  type: int
  returned: success
unread:
  description: Files of images that came after the switch, and that V(back) could not read.
  type: list
  elements: str
  returned: success
"""

import sqlite3
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import adoption, indexes
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.locks import hold_lock

MADE = {
    "units": {"type": "list", "elements": "str", "default": []},
    "acting": {"type": "list", "elements": "path", "default": []},
}
LOCK = Path("/run/orthanc-adoption.lock")
LOCK_SECONDS = 3600  # a step whose controller was killed runs on


def run_step(step: str, wanted: adoption.Wanted) -> dict[str, object]:
    """Runs one step; returns the result of the module."""
    left: list[str] = []
    changed = False
    if step == "finish":
        left = adoption.finish(wanted)
    elif step != "inspect":
        steps = {"prepare": adoption.prepare, "switch": adoption.switch, "back": adoption.bring_back}
        changed = steps[step](wanted)
    notes = adoption.Notes.read()
    meanwhile = {"arrived": indexes.count_arrived(adoption.BEFORE), "sent": notes.sent, "unread": notes.unread}
    return {"changed": changed, "left": left, "step": notes.step, **meanwhile}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["inspect", "prepare", "switch", "finish", "back"], "required": True},
            "adopt": {"type": "dict", "required": True, "options": adoption.OPTIONS},
            "target": {"type": "path", "required": True},
            "made": {"type": "dict", "default": {}, "options": MADE},
        },
        supports_check_mode=True,
    )
    given = module.params
    wanted = adoption.read_wanted(given["adopt"], Path(given["target"]), given["made"])
    try:
        notes = adoption.Notes.read()
        begins = notes.step in ("", "prepared", "returned")
        changes = adoption.describe(wanted, notes) if given["step"] in ("inspect", "switch") and begins else []
        if module.check_mode:
            will = begins and given["step"] in ("inspect", "prepare", "switch")
            module.exit_json(changed=will, changes=changes, left=[], arrived=0, sent=0, unread=[], step=notes.step)
        with hold_lock(LOCK, "adoption", LOCK_SECONDS):
            module.exit_json(changes=changes, **run_step(given["step"], wanted))
    except (Refused, OSError, sqlite3.Error) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
