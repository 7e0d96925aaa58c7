# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_json
short_description: Build orthanc.json
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Builds the complete configuration of Orthanc from the settings of a clinic.
options:
  _input:
    description: The settings, as C(__orthanc_config_input) of the role orthanc_config.
    type: dict
    required: true
seealso:
  - name: Orthanc Book, configuration
    description: Every option of C(orthanc.json).
    link: https://orthanc.uclouvain.be/book/users/configuration.html
"""

EXAMPLES = r"""
- name: Build orthanc.json
  ansible.builtin.debug:
    msg: "{{ __orthanc_config_input | clinicops.orthanc.orthanc_json }}"
"""

RETURN = r"""
_value:
  description: The configuration, to be written as JSON.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration


def orthanc_json(value: Any) -> Any:
    if not isinstance(value, dict):
        raise AnsibleFilterError(f"clinicops.orthanc.orthanc_json: expects a dictionary, not {type(value).__name__}")
    wrong = [item for item in configuration.problems(value) if item["severity"] == "error"]
    if wrong:
        lines = "; ".join(f"{item['path']} {item['message']}" for item in wrong)
        raise AnsibleFilterError(f"clinicops.orthanc.orthanc_json: {lines}")
    return configuration.build(value)


class FilterModule:
    def filters(self) -> dict[str, Callable[[Any], Any]]:
        return {"orthanc_json": orthanc_json}
