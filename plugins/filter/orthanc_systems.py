# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_systems
short_description: Name a machine's system, and the one that an upgrade leads to
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Looks a system up in the list of those that a deploy was tested on.
options:
  _input:
    description: C(name) and C(version) of the system, as Ansible says them.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Name the next release of the distribution
  ansible.builtin.debug:
    msg: "{{ ({'name': 'Debian', 'version': '12.5'} | clinicops.orthanc.orthanc_systems).next }}"
"""

RETURN = r"""
_value:
  description:
    - C(now) and C(next), each with C(name), C(version) and C(codename).
    - A system that is not in the list, or that is the last one, is empty.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import systems


def orthanc_systems(value: Any) -> dict[str, dict[str, str]]:
    try:
        name, version = str(value["name"]), str(value["version"])
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"clinicops.orthanc.orthanc_systems: expects name and version: {error}") from error
    found = {"now": systems.find_system(name, version), "next": systems.find_next(name, version)}
    return {
        which: {"name": one.name, "version": one.version, "codename": one.codename} if one else {}
        for which, one in found.items()
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_systems": orthanc_systems}
