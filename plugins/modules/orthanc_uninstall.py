#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_uninstall
short_description: Find out what an uninstall removes and what stays, and remove data where that is waived
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - With O(step=inspect) it changes nothing, and names every reason why an uninstall must not begin.
  - The other steps remove data for good. They are for a clinic that waives this with a reason, after its name was
    given.
options:
  step:
    description:
      - V(inspect) returns what goes, what stays, and what is in the way.
      - V(images) removes the index, the images and the worklists, and nothing else in their directories. Orthanc must
        be stopped.
      - V(backups) removes all snapshots of this server from its repository.
    type: str
    choices: [inspect, images, backups]
    required: true
  storage_dir:
    description: Directory of the images and the index.
    type: path
    required: true
  worklist_dir:
    description: Directory of the worklist files that Orthanc serves.
    type: path
    required: true
  made:
    description: What each role makes, in the order of a deploy.
    type: list
    elements: dict
    default: []
  packages:
    description: Packages that a deploy installs.
    type: list
    elements: str
    default: []
  removes_images:
    description: Whether the images will be removed.
    type: bool
    default: false
  removes_backups:
    description: Whether the backups will be removed.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports what would be removed, and changes nothing.
    support: full
  diff_mode:
    description: Has no diff.
    support: none
"""

EXAMPLES = r"""
- name: Find out what an uninstall removes
  clinicops.orthanc.orthanc_uninstall:
    step: inspect
    storage_dir: /var/lib/orthanc/db
    worklist_dir: /var/lib/orthanc/worklists
  become: true
  register: __orthanc_install_leaving
"""

RETURN = r"""
problems:
  description:
    - C(what), C(message) and C(remedy) of each reason why an uninstall must not begin; together they are one text.
    - C(rule) is the name of the waiver that permits it, or empty.
  type: list
  elements: dict
  returned: with O(step=inspect)
goes:
  description: What is on the machine and will be removed.
  type: list
  elements: str
  returned: with O(step=inspect)
stays:
  description: What stays, with the command that removes it where that is safe.
  type: list
  elements: str
  returned: with O(step=inspect)
lost:
  description: What goes for good, because the inventory waives it, how much it is and where.
  type: list
  elements: str
  returned: with O(step=inspect)
told:
  description: What a person must know before the name of the clinic is typed.
  type: list
  elements: str
  returned: with O(step=inspect)
offers:
  description: How to bring back what an adoption had put away.
  type: list
  elements: str
  returned: with O(step=inspect)
container:
  description: Whether the container of a deploy is there.
  type: bool
  returned: with O(step=inspect)
network:
  description: Whether Docker has the network of a deploy, with no other container in it.
  type: bool
  returned: with O(step=inspect)
account:
  description: Whether a deploy made the account C(orthanc), and no package has it too.
  type: bool
  returned: with O(step=inspect)
removed:
  description: Paths that were removed, or would be in check mode; of backups their number.
  type: list
  elements: str
  returned: with O(step=images) and O(step=backups)
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import removal, uninstall
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import restic
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup.settings import CONFIGURATION, Settings
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused


def inspect(clinic: uninstall.Clinic) -> dict[str, Any]:
    """The result of that step."""
    return {
        "changed": False,
        "problems": [one._asdict() for one in uninstall.find_problems(clinic)],
        "goes": uninstall.list_going(clinic),
        "stays": uninstall.list_staying(clinic),
        "lost": uninstall.list_lost(clinic),
        "told": uninstall.tell(clinic),
        "offers": uninstall.list_offers(),
        "container": uninstall.has_container(),
        "network": uninstall.has_network(),
        "account": uninstall.has_account(),
    }


def remove_images(clinic: uninstall.Clinic, check: bool) -> dict[str, Any]:
    """The result of that step."""
    found = uninstall.list_archive(clinic.storage, clinic.worklist)
    if not check:
        removal.remove_paths(found)
    return {"changed": bool(found), "removed": [str(path) for path in found]}


def remove_backups(check: bool) -> dict[str, Any]:
    """The result of that step. Without settings there is nothing to remove them with: an earlier run has done it."""
    if not CONFIGURATION.exists():
        return {"changed": False, "removed": []}
    settings = Settings.read(CONFIGURATION)
    count = len(restic.list_snapshots(settings)) if check else uninstall.forget_backups(settings)
    return {"changed": bool(count), "removed": [f"{count} snapshots of {settings.host}"] if count else []}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["inspect", "images", "backups"], "required": True},
            "storage_dir": {"type": "path", "required": True},
            "worklist_dir": {"type": "path", "required": True},
            "made": {"type": "list", "elements": "dict", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "removes_images": {"type": "bool", "default": False},
            "removes_backups": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    clinic = uninstall.Clinic(
        storage=Path(given["storage_dir"]),
        worklist=Path(given["worklist_dir"]),
        made=given["made"],
        packages=given["packages"],
        images_go=given["removes_images"],
        backups_go=given["removes_backups"],
    )
    try:
        if given["step"] == "inspect":
            module.exit_json(**inspect(clinic))
        elif given["step"] == "images":
            module.exit_json(**remove_images(clinic, module.check_mode))
        module.exit_json(**remove_backups(module.check_mode))
    except (Refused, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
