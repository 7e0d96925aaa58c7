# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Passes all files of the server package to the module that installs it, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

PACKAGE = Path(__file__).parents[1] / "module_utils" / "server"


class ActionModule(ActionBase):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        found = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc")
        files = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in found}
        result: dict[str, Any] = self._execute_module(
            module_name="clinicops.orthanc.orthanc_tools",
            module_args={**self._task.args, "files": files},
            task_vars=task_vars,
        )
        result.pop("invocation", None)  # it would repeat the whole package
        return result
