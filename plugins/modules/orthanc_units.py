#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_units
short_description: Enable, start, restart, stop and disable several systemd units in one call
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Reads the state of all units once, reloads systemd if their files are newer than what it has loaded, and changes
    only what differs.
options:
  enabled:
    description: Units that must start at boot.
    type: list
    elements: str
    default: []
  unmasked:
    description: Units to unmask before they are enabled. Another unit that an administrator has masked stays masked.
    type: list
    elements: str
    default: []
  started:
    description: Units that must be running.
    type: list
    elements: str
    default: []
  restarted:
    description: Units among these to restart, or to start if they are not running.
    type: list
    elements: str
    default: []
  stopped:
    description: Units that must not be running; they need not exist.
    type: list
    elements: str
    default: []
  disabled:
    description: Units that must not start at boot; they need not exist.
    type: list
    elements: str
    default: []
  masked:
    description: Units that nothing may start. One that does not exist stays so.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Reports what would change, and changes nothing. A unit that does not exist yet is reported as a change.
    support: full
  diff_mode:
    description: Lists what changes.
    support: full
"""

EXAMPLES = r"""
- name: Start the timers
  clinicops.orthanc.orthanc_units:
    enabled: [orthanc-ledger.timer, orthanc-restore.service]
    started: [orthanc-ledger.timer]
  become: true
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, such as C(enable orthanc-ledger.timer).
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = "LoadState,ActiveState,UnitFileState"
LISTS = ("unmasked", "enabled", "started", "restarted", "disabled", "masked", "stopped")
RUNNING = ("active", "activating", "reloading")
AT_BOOT = ("enabled", "enabled-runtime", "static", "indirect", "alias", "generated")


def read_units(module: AnsibleModule, names: list[str]) -> dict[str, dict[str, str]]:
    """The properties of each unit from systemd, by its name."""
    _unused, output, _unused = module.run_command(
        ["systemctl", "show", f"--property={PROPERTIES}", "--", *names], check_rc=True
    )
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in output.strip().split("\n\n")]
    return dict(zip(names, blocks, strict=True))


def is_stale(module: AnsibleModule, units: dict[str, dict[str, str]], needed: list[str]) -> bool:
    """Whether systemd must reload: unit files or drop-ins are newer than what it has loaded, or it does not know one of
    the `needed` units."""
    command = ["systemctl", "show", "--property=NeedDaemonReload", "--", "*.service", "*.timer", "*.path", "*.mount"]
    return "yes" in module.run_command(command, check_rc=True)[1] or any(
        units[name]["LoadState"] == "not-found" for name in needed
    )


def plan(wanted: dict[str, list[str]], units: dict[str, dict[str, str]]) -> list[tuple[str, list[str]]]:
    """The commands for systemctl, each with its units, in the order to run them."""
    enable = [name for name in wanted["enabled"] if units[name]["UnitFileState"] not in AT_BOOT]
    start = [
        name
        for name in wanted["started"]
        if name not in wanted["restarted"] and units[name]["ActiveState"] not in RUNNING
    ]
    stop = [name for name in wanted["stopped"] if units[name]["ActiveState"] in RUNNING]
    disable = [name for name in wanted["disabled"] if units[name]["UnitFileState"] in ("enabled", "enabled-runtime")]
    unmask = [name for name in wanted["unmasked"] if units[name]["LoadState"] == "masked"]
    mask = [name for name in wanted["masked"] if units[name]["LoadState"] not in ("masked", "not-found")]
    steps = [
        ("unmask", unmask),
        ("enable", enable),
        ("restart", wanted["restarted"]),
        ("start", start),
        # a masked unit cannot be disabled, but stopped
        ("disable", disable),
        ("mask", mask),
        ("stop", stop),
    ]
    return [(verb, names) for verb, names in steps if names]


def main() -> None:
    module = AnsibleModule(
        argument_spec={name: {"type": "list", "elements": "str", "default": []} for name in LISTS},
        supports_check_mode=True,
    )
    wanted = {name: module.params[name] for name in LISTS}
    names = list(dict.fromkeys(name for name in LISTS for name in wanted[name]))
    units = read_units(module, names) if names else {}
    needed = [*wanted["enabled"], *wanted["started"], *wanted["restarted"]]
    if not module.check_mode and is_stale(module, units, needed):
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        units = read_units(module, names)
    steps = plan(wanted, units)
    for verb, of in [] if module.check_mode else steps:
        status, output, errors = module.run_command(["systemctl", verb, "--", *of])
        if status:
            what = f"systemctl {verb} {' '.join(of)}: {(errors or output).strip()}"
            module.fail_json(f"{what}. Remedy: see journalctl -u {of[0]}.")
    actions = [" ".join([verb, *of]) for verb, of in steps]
    diff = {"before": "", "after": "".join(f"{one}\n" for one in actions)}
    module.exit_json(changed=bool(steps), actions=actions, diff=diff)


if __name__ == "__main__":
    main()
