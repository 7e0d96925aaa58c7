# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_sftp_problems
short_description: List what keeps sshd from giving an account SFTP alone
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Reads what C(sshd -T -C user=NAME) says.
options:
  _input:
    description: Lines of C(sshd -T).
    type: list
    required: true
  name:
    description: Name of the account.
    type: str
    required: true
  drop_in:
    description: The file that should shut it in.
    type: str
    required: true
  shut_in:
    description: The options of sshd in that file, and their values.
    type: dict
    required: true
positional: name, drop_in, shut_in
"""

EXAMPLES = r"""
- name: List what is wrong with an account
  ansible.builtin.debug:
    msg: "{{ said.stdout_lines | clinicops.orthanc.orthanc_sftp_problems('app', drop_in, options) }}"
"""

RETURN = r"""
_value:
  description: A sentence for each problem, with the remedy; empty when there is none.
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
