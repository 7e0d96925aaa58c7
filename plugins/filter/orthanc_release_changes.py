# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_release_changes
short_description: List which options of Orthanc change between two releases
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Names the options that the later release has and the earlier does not, and those of the configuration that
    have another name or take other values in the later one.
options:
  _input:
    description: The whole configuration, as C(orthanc_json) returns it.
    type: dict
    required: true
  before:
    description: Release that runs; empty if it is not known.
    type: str
    required: true
  after:
    description: Release that is to run.
    type: str
    required: true
positional: before, after
"""

EXAMPLES = r"""
- name: List which options of Orthanc change
  ansible.builtin.debug:
    msg: "{{ {'ZipLoaderThreads': 2} | clinicops.orthanc.orthanc_release_changes('1.12.7', '1.13.0') }}"
"""

RETURN = r"""
_value:
  description: What a clinic should know, in sentences.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import releases


def orthanc_release_changes(value: dict[str, Any], before: str, after: str) -> list[str]:
    changes: list[str] = releases.list_changes(value, str(before), str(after))
    return changes


class FilterModule:
    def filters(self) -> dict[str, Callable[..., list[str]]]:
        return {"orthanc_release_changes": orthanc_release_changes}
