# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inspects the machine, unless the play has done so already."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.inspected import find_play, read_inspected


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        asked = self._task.args
        seen: dict[str, Any] = read_inspected(self._task, task_vars or {})
        if seen and all(set(wanted) <= set(seen["asked"].get(kind, [])) for kind, wanted in asked.items()):
            return seen
        found: dict[str, Any] = {
            **self._execute_module(
                module_name="clinicops.orthanc.orthanc_machine", module_args=asked, task_vars=task_vars
            ),
            "asked": asked,
            "play": find_play(self._task),
        }
        return found
