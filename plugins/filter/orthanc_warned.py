# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_warned
short_description: Show each item of a list as an Ansible warning
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - A task's message is one among many; a warning stands out, and callbacks list it. Its lines are wrapped to the
    width of the terminal.
options:
  _input:
    description: The messages.
    type: list
    elements: str
    required: true
  host:
    description: The host that they are about, because Ansible shows the same warning of two hosts only once.
    type: str
    required: true
positional: host
"""

EXAMPLES = r"""
- name: Warn that a clinic has no backup
  # not debug, which would show it a second time
  ansible.builtin.assert:
    that: "['There is no backup.'] | clinicops.orthanc.orthanc_warned(inventory_hostname) | length > 0"
    quiet: true
"""

RETURN = r"""
_value:
  description: The list, unchanged.
  type: list
"""

from collections.abc import Callable

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.warn import warn_of_host


def orthanc_warned(value: list[str], host: str) -> list[str]:
    warn_of_host(value, host)
    return value


class FilterModule:
    def filters(self) -> dict[str, Callable[..., list[str]]]:
        return {"orthanc_warned": orthanc_warned}
