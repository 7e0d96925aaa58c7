#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_ssh_repository
short_description: Check the SSH connection to a backup repository over SFTP
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Connects to the repository's SSH server as a backup would, without prompting. It changes nothing on either machine.
  - Reports an unknown or changed host key, a key that the server does not accept, and a server without SFTP. If ssh is
    not installed yet, or the server does not answer, it reports no problem.
options:
  repository:
    description: The repository in restic's notation.
    type: str
    required: true
  known_hosts:
    description: Lines of C(known_hosts); if empty, those of the user who runs the module are used.
    type: str
    default: ""
  key:
    description: Private key without passphrase; if empty, the keys of the user who runs the module are used.
    type: str
    default: ""
extends_documentation_fragment: clinicops.orthanc.reads
"""

EXAMPLES = r"""
- name: Check the SSH connection to the backup repository
  clinicops.orthanc.orthanc_ssh_repository:
    repository: sftp:backup@192.0.2.10:/orthanc
  become: true
  register: __orthanc_backup_connection
"""

RETURN = r"""
problem:
  description: The problem, with its remedy; empty if there is none.
  type: str
  returned: always
"""

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import ssh


def find_problem(repository: str, known_hosts: str, key: str) -> str:
    """The problem with its remedy; empty if there is none or the server does not answer."""
    place = ssh.find_place(repository)
    if not place:
        return ""
    memory = "/run" if os.access("/run", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:  # readable by this user only, and removed afterwards
        files = []
        for name, content in (("known_hosts", known_hosts), ("key", key)):
            file = Path(directory, name)
            file.touch(mode=0o600)
            file.write_text(content.replace("\r\n", "\n").strip() + "\n")
            files.append(str(file) if content else "")
        try:
            said = ssh.probe_repository(place, files[0], files[1])
        except OSError:
            return ""
    problem: str = ssh.explain_failure(said, place, bool(known_hosts), bool(key))
    return problem


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "str", "required": True},
            "known_hosts": {"type": "str", "default": ""},
            "key": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, problem=find_problem(**module.params))


if __name__ == "__main__":
    main()
