# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_files
short_description: List the files that a configuration names
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Finds the certificates, keys, Lua scripts and dictionaries that Orthanc opens at startup. Orthanc does not start
    without them.
options:
  _input:
    description: Options of Orthanc. If it is not a dictionary, the result is empty.
    type: raw
    required: true
seealso:
  - name: Orthanc Book, configuration
    description: Every option of C(orthanc.json).
    link: https://orthanc.uclouvain.be/book/users/configuration.html
"""

EXAMPLES = r"""
- name: List the files that a configuration names
  ansible.builtin.debug:
    msg: "{{ orthanc_config_settings | clinicops.orthanc.orthanc_files }}"
"""

RETURN = r"""
_value:
  description: Absolute paths.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules


class FilterModule:
    def filters(self) -> dict[str, Callable[[Any], Any]]:
        return {"orthanc_files": rules.files}
