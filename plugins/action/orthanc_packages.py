# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Installs packages, and reports while it waits for another program that does."""

from __future__ import annotations

import re
import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.inspected import list_installed, note_installed

MINUTES = 30
EACH = 30  # seconds between two lines
TRIES = 3  # if the program that held the lock has already ended
# on Ubuntu needrestart would restart services in the middle of a deploy, Docker with its containers among them
ENVIRONMENT = {"NEEDRESTART_MODE": "l"}
# the messages of apt-get and python-apt
LOCKED = re.compile(r"could not get lock|failed to lock|unable to (?:acquire|lock)|held by process", re.IGNORECASE)


class ActionModule(ActionBase):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self._task.environment = [*(self._task.environment or []), ENVIRONMENT]
        arguments = dict(self._task.args)
        wanted = arguments.get("name") or []
        if wanted and set(wanted) <= list_installed(self._task, task_vars or {}):
            return {"changed": False}
        result = self._install(arguments, task_vars)
        if wanted and not result.get("failed") and not self._task.check_mode:
            result["ansible_facts"] = note_installed(self._task, task_vars or {}, wanted)
        return result

    def _install(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Calls apt, and again after another program has released its lock."""
        minutes = int(arguments.pop("minutes", MINUTES))
        begin, again = time.monotonic(), 0
        while True:
            # apt itself would wait without any message
            asked = {**arguments, "lock_timeout": 1}
            result = self._execute_module(module_name="ansible.builtin.apt", module_args=asked, task_vars=task_vars)
            if not result.get("failed") or not LOCKED.search(f"{result.get('msg')} {result.get('stderr')}"):
                return dict(result)
            holders = self._read_holders(0, task_vars)
            again = 0 if holders else again + 1
            if again > TRIES:  # the lock is not held by a program
                return dict(result)
            while holders:
                waited = time.monotonic() - begin
                if waited >= minutes * 60:
                    return {"failed": True, "changed": False, "msg": refusal(holders, minutes)}
                self._display.display(progress(task_vars, holders, waited, minutes))
                holders = self._read_holders(EACH, task_vars)

    def _read_holders(self, seconds: int, task_vars: dict[str, Any] | None) -> list[dict[str, Any]]:
        """The programs that hold a lock after so many seconds; returns early when no program does."""
        found = self._execute_module(
            module_name="clinicops.orthanc.orthanc_packages", module_args={"seconds": seconds}, task_vars=task_vars
        )
        holders: list[dict[str, Any]] = found.get("holders", [])
        return holders


def name(holder: dict[str, Any]) -> str:
    """unattended-upgrades (process 812 of apt-daily-upgrade.service: /usr/bin/unattended-upgrade)"""
    if not holder["pid"]:
        return "a process in another container"
    called = "unattended-upgrades" if "unattended-upgr" in holder["command"] else "another program"
    unit = f" of {holder['unit']}" if holder["unit"] else ""
    return f"{called} (process {holder['pid']}{unit}: {holder['command']})"


def progress(task_vars: dict[str, Any] | None, holders: list[dict[str, Any]], waited: float, minutes: int) -> str:
    host = (task_vars or {}).get("inventory_hostname", "")
    left = round(minutes - waited / 60)
    return f"{host}: waiting for {name(holders[0])}, which is installing packages; {left} more minutes at most"


def refusal(holders: list[dict[str, Any]], minutes: int) -> str:
    first = holders[0]
    look = f"systemctl status {first['unit']} shows what it is doing; " if first["unit"] else ""
    return (
        f"Packages cannot be installed: {name(first)} still holds {first['lock']} after {minutes} minutes. What was"
        f" deployed before this step is kept. Remedy: {look}wait until it ends, and deploy again."
    )
