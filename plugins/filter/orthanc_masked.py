# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_masked
short_description: Mask every secret of a configuration
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Replaces every password, header and token, for a diff or a log.
options:
  _input:
    description: A configuration of Orthanc.
    type: dict
    required: true
seealso:
  - name: Orthanc Book, configuration
    description: Every option of C(orthanc.json).
    link: https://orthanc.uclouvain.be/book/users/configuration.html
"""

EXAMPLES = r"""
- name: Mask every secret of a configuration
  ansible.builtin.debug:
    msg: "{{ __orthanc_config_input | clinicops.orthanc.orthanc_json | clinicops.orthanc.orthanc_masked }}"
"""

RETURN = r"""
_value:
  description: The same structure without its secrets.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.module_utils import masking


def orthanc_masked(value: Any) -> Any:
    if not isinstance(value, dict):
        raise AnsibleFilterError(f"clinicops.orthanc.orthanc_masked: expects a dictionary, not {type(value).__name__}")
    return masking.masked(value)


class FilterModule:
    def filters(self) -> dict[str, Callable[[Any], Any]]:
        return {"orthanc_masked": orthanc_masked}
