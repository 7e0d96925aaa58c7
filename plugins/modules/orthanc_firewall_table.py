#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_firewall_table
short_description: Load the firewall's table into the kernel where it differs from its file
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Loads the table's file into an empty, separate network namespace, compares the result with the table C(inet orthanc)
    in the kernel, and loads the file into the kernel if they differ. Counters are ignored. Where such namespaces are
    not allowed, it warns, and loads the file only if the kernel has no such table.
  - This detects a flushed table, a rule added before those of the collection, and a source added by hand.
options:
  path:
    description: File of the table.
    type: path
    default: /etc/nftables.d/orthanc.nft
attributes:
  check_mode:
    description: Reports what differs, and loads nothing.
    support: full
  diff_mode:
    description: Shows the table in the kernel and the one in the file.
    support: full
"""

EXAMPLES = r"""
- name: Reload the firewall table where the kernel holds a different one
  clinicops.orthanc.orthanc_firewall_table:
  become: true
"""

RETURN = r"""
differences:
  description: What the kernel's table lacked, and what it had in addition.
  type: list
  elements: str
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core import nftables


def main() -> None:
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "default": str(nftables.FILE)}}, supports_check_mode=True
    )
    path = Path(module.params["path"])
    try:
        held = nftables.read_held()
        try:
            deployed = nftables.read_deployed(path)
        except nftables.Unseen as error:
            # nothing to compare with: an existing table stays
            module.warn(f"The firewall's table in the kernel was not compared with {path}: {error}")
            if not held and not module.check_mode:
                nftables.load(path)
            module.exit_json(changed=not held, differences=nftables.list_differences(held or str(path), held))
        differences = nftables.list_differences(deployed, held)
        if differences and not module.check_mode:
            nftables.load(path)
            if left := nftables.list_differences(deployed, nftables.read_held()):
                raise OSError(f"the kernel's table still differs from the deployed one: {nftables.list_some(left)}")
    except OSError as error:
        module.fail_json(f"{error}. Remedy: see nft list table inet orthanc, and deploy again.")
    headers = {"before_header": "the kernel", "after_header": str(path)}
    difference = {"before": held, "after": deployed, **headers}
    module.exit_json(changed=bool(differences), differences=differences, diff=difference)


if __name__ == "__main__":
    main()
