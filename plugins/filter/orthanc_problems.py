# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_problems
short_description: List what is wrong with the settings
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Checks the settings of a clinic against the rules of DICOM and against the options of the Orthanc that is installed.
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
- name: List what is wrong with the settings
  ansible.builtin.debug:
    msg: "{{ __orthanc_config_input | clinicops.orthanc.orthanc_problems }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import missing_library


def orthanc_problems(value: Any) -> Any:
    if not isinstance(value, dict):
        raise AnsibleFilterError(
            f"clinicops.orthanc.orthanc_problems: expects a dictionary, not {type(value).__name__}"
        )
    try:
        return configuration.problems(value)
    except ImportError as error:
        return [missing_library(error)]


class FilterModule:
    def filters(self) -> dict[str, Callable[[Any], Any]]:
        return {"orthanc_problems": orthanc_problems}
