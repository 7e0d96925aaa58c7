#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_machine
short_description: Read the packages, paths, accounts and groups that the roles ask about, in one call
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - A deploy finds out with one module run, not with one for each path, what is on the machine already, and runs the
    modules that change something only where it is not.
  - The action plugin of the same name returns what the variable C(__orthanc_machine) of the same play holds,
    if it contains all that is asked. A playbook asks for all roles at once; a role that is used alone asks for itself.
  - It changes nothing.
options:
  paths:
    description: Paths to describe.
    type: list
    elements: str
    default: []
  texts:
    description: Files whose text is returned as well. A file without a secret only.
    type: list
    elements: str
    default: []
  accounts:
    description: Accounts to look up by name; a directory service may not list its accounts, but finds them by name.
    type: list
    elements: str
    default: []
  groups:
    description: Groups to look up by name.
    type: list
    elements: str
    default: []
extends_documentation_fragment: clinicops.orthanc.reads
"""

EXAMPLES = r"""
- name: Inspect the machine
  clinicops.orthanc.orthanc_machine:
    paths: [/etc/orthanc/site, /var/lib/orthanc/db]
    groups: [orthanc]
  register: __orthanc_install_machine
"""

RETURN = r"""
packages:
  description: Names of the packages that are installed and configured, whatever becomes of other packages.
  type: list
  elements: str
  returned: always
automatic:
  description: Names of those that are installed only because another one needs them. apt may remove them with that one.
  type: list
  elements: str
  returned: always
paths:
  description:
    - For each path, C(exists), C(kind) (V(file), V(directory), V(link), V(other) or empty), the names C(owner) and
      C(group), C(mode) in octal, C(inode), C(target) of a link as it is written, C(mount) (the mount point of the file
      system on which the path is or will be), and C(ours), whether a file names this collection. Owner, group, mode and
      inode are those of what a link leads to; a link that leads nowhere has neither owner nor group.
  type: dict
  returned: always
texts:
  description: The text of each file; empty if it does not exist.
  type: dict
  returned: always
accounts:
  description: Lines of the machine's accounts, in the form of C(/etc/passwd).
  type: list
  elements: str
  returned: always
groups:
  description: Members of each group that exists.
  type: dict
  returned: always
"""

import grp
import os
import pwd
import re
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
MARK = b"clinicops.orthanc"
MARKED_BYTES = 65536  # files of this collection name it at their beginning
STATUS = Path("/var/lib/dpkg/status")
STATES = Path("/var/lib/apt/extended_states")


def list_packages(status: str) -> list[str]:
    """Names of the packages that are installed and not waiting for their configuration, from dpkg's status file."""
    installed = (part for part in status.split("\n\n") if re.search(r"^Status: \S+ ok installed$", part, re.MULTILINE))
    return sorted({name for part in installed for name in re.findall(r"^Package: (\S+)$", part, re.MULTILINE)})


def list_automatic(states: str) -> set[str]:
    """Names of the packages that apt has installed for another one, from its file of their states."""
    return set(re.findall(r"^Package: (\S+)\n(?:\S.*\n)*?Auto-Installed: 1$", states, re.MULTILINE))


def list_mounts(text: str) -> list[str]:
    """The mount points of /proc/self/mountinfo; a blank is written as `\\040` there."""
    return [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split()[4]) for line in text.splitlines()]


def find_mount(path: Path, mounts: list[str]) -> str:
    """The mount point of the file system on which the path is, or on which it would be created."""
    real = Path(os.path.realpath(path))  # unlike resolve, also where links lead to each other
    return str(max((one for one in map(Path, mounts) if real.is_relative_to(one)), key=lambda one: len(one.parts)))


def describe(path: Path, mounts: list[str]) -> dict[str, Any]:
    """The path's entry in the result."""
    absent = {"exists": False, "kind": "", "owner": "", "group": "", "mode": "", "target": "", "inode": ""}
    place = {"mount": find_mount(path, mounts), "ours": False}
    try:
        known = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return {**absent, **place}
    kind = KINDS.get(stat.S_IFMT(known.st_mode), "other")
    if kind == "file":
        with path.open("rb") as file:
            place["ours"] = MARK in file.read(MARKED_BYTES)
    lost = not path.exists()  # a link that leads nowhere
    led = known if lost else path.stat()
    return {
        "exists": True,
        "kind": kind,
        "owner": "" if lost else find_name(led.st_uid, group=False),
        "group": "" if lost else find_name(led.st_gid, group=True),
        "mode": f"{stat.S_IMODE(led.st_mode):04o}",
        "target": os.readlink(path) if kind == "link" else "",
        "inode": f"{led.st_dev}:{led.st_ino}",
        **place,
    }


def find_name(number: int, group: bool) -> str:
    """The name of an account or group; empty if it has none."""
    try:
        return grp.getgrgid(number).gr_name if group else pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def list_accounts(names: list[str]) -> list[str]:
    """A line for each account that the machine lists, and for each of the names that it finds."""
    found = {one.pw_name: one for one in pwd.getpwall()}
    for name in names:
        if name not in found:
            try:
                found[name] = pwd.getpwnam(name)
            except KeyError:
                continue
    return [":".join(map(str, one)) for one in found.values()]


def read_groups(names: list[str]) -> dict[str, list[str]]:
    """The members of the groups that exist."""
    found = {}
    for name in names:
        try:
            found[name] = list(grp.getgrnam(name).gr_mem)
        except KeyError:
            continue
    return found


def read_text(path: Path) -> str:
    """The text of a file; empty if it does not exist."""
    return path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""


def main() -> None:
    names = ("paths", "texts", "accounts", "groups")
    module = AnsibleModule(
        argument_spec={name: {"type": "list", "elements": "str", "default": []} for name in names},
        supports_check_mode=True,
    )
    asked = module.params
    mounts = list_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    try:
        installed, automatic = list_packages(read_text(STATUS)), list_automatic(read_text(STATES))
        module.exit_json(
            changed=False,
            packages=[name for name in installed if name not in automatic],
            automatic=[name for name in installed if name in automatic],
            paths={path: describe(Path(path), mounts) for path in asked["paths"]},
            texts={path: read_text(Path(path)) for path in asked["texts"]},
            accounts=list_accounts(asked["accounts"]),
            groups=read_groups(asked["groups"]),
        )
    except OSError as error:
        module.fail_json(f"The machine cannot be inspected: {error}. Remedy: check this path, and deploy again.")


if __name__ == "__main__":
    main()
