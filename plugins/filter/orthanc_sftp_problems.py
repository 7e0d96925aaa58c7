# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_sftp_problems
short_description: List the sshd settings that do not restrict an account to SFTP
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Reads the output of C(sshd -T -C user=NAME).
options:
  _input:
    description: Output lines of C(sshd -T).
    type: list
    required: true
  name:
    description: Name of the account.
    type: str
    required: true
  drop_in:
    description: The file that should restrict the account to SFTP.
    type: str
    required: true
  shut_in:
    description: The sshd options in that file, and their values.
    type: dict
    required: true
positional: name, drop_in, shut_in
"""

EXAMPLES = r"""
- name: List the problems with an account
  ansible.builtin.debug:
    msg: "{{ said.stdout_lines | clinicops.orthanc.orthanc_sftp_problems('app', drop_in, options) }}"
"""

RETURN = r"""
_value:
  description: A message for each problem, with the remedy; empty if there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import writers


def orthanc_sftp_problems(value: list[str], name: str, drop_in: str, shut_in: dict[str, str]) -> Any:
    return writers.sftp_problems(value, name, drop_in, shut_in)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_sftp_problems": orthanc_sftp_problems}
