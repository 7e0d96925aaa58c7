# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_warned
short_description: Show each of a list as a warning of Ansible's
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - A message of a task is one among many; a warning stands out, and callbacks list it.
options:
  _input:
    description: Sentences.
    type: list
    elements: str
    required: true
  host:
    description: The host that they are about, since Ansible shows once what is the same for two.
    type: str
    required: true
positional: host
"""

EXAMPLES = r"""
- name: Warn of a clinic without a backup
  ansible.builtin.debug:
    msg: "{{ ['There is no backup.'] | clinicops.orthanc.orthanc_warned(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: The list as it came.
  type: list
"""

from collections.abc import Callable

from ansible.utils.display import Display


def orthanc_warned(value: list[str], host: str) -> list[str]:
    for sentence in value:
        Display().warning(f"{host}: {sentence}")
    return value


class FilterModule:
    def filters(self) -> dict[str, Callable[..., list[str]]]:
        return {"orthanc_warned": orthanc_warned}
