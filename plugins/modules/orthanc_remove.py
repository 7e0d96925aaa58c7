#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_remove
short_description: Stop and remove systemd units, and remove files and directories, in one call
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Removes what a role has made. The units are stopped and disabled first, then the paths go, then systemd is reloaded.
  - What is not there is not a change, so that an interrupted run can be repeated.
options:
  units:
    description: Units whose file is in C(/etc/systemd/system).
    type: list
    elements: str
    default: []
  files:
    description: Files, links, and directories with all that is in them.
    type: list
    elements: path
    default: []
  empty:
    description: Directories to remove only if nothing else is in them, the inner ones first.
    type: list
    elements: path
    default: []
  keep:
    description: Directories of data. If one of them is in a path of O(files), nothing is removed.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Reports what would be removed, and changes nothing.
    support: full
  diff_mode:
    description: Lists what is removed.
    support: full
"""

EXAMPLES = r"""
- name: Remove the ledger
  clinicops.orthanc.orthanc_remove:
    units: [orthanc-ledger.timer, orthanc-ledger.service]
    files: [/etc/orthanc-ledger.json]
    empty: [/var/lib/orthanc-ledger]
  become: true
"""

RETURN = r"""
removed:
  description: The paths that were removed, or would be in check mode; for a unit that of its file.
  type: list
  elements: str
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import removal
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused


def find(units: list[str], files: list[str], empty: list[str]) -> list[Path]:
    """What would be removed."""
    going: list[Path] = [*removal.list_units(units), *removal.list_paths(files)]
    return [*going, *removal.list_empty(empty, going)]


def remove(units: list[str], files: list[str], empty: list[str]) -> list[Path]:
    """Removes it; returns what was there."""
    removed = [*removal.remove_units(units), *removal.remove_paths(files), *removal.remove_empty(empty)]
    removal.reload_systemd(removed)
    return removed


def main() -> None:
    lists = {"units": "str", "files": "path", "empty": "path", "keep": "path"}
    module = AnsibleModule(
        argument_spec={name: {"type": "list", "elements": kind, "default": []} for name, kind in lists.items()},
        supports_check_mode=True,
    )
    given = module.params
    try:
        removal.check_paths(given["files"], given["keep"])
        act = find if module.check_mode else remove
        removed = [str(path) for path in act(given["units"], given["files"], given["empty"])]
    except Refused as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        what = f"{error.filename}: {error.strerror}"
        module.fail_json(msg=f"{what}. Remedy: find out what uses it (fuser, findmnt), and run the playbook again.")
    diff = {"before": "".join(f"{path}\n" for path in removed), "after": ""}
    module.exit_json(changed=bool(removed), removed=removed, diff=diff)


if __name__ == "__main__":
    main()
