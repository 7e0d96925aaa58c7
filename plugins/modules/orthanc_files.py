#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_files
short_description: Write files, create directories and links, and remove paths, all in one call
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Puts many paths into the requested state. A deploy that changes nothing costs one module run for all files of a role
    instead of one or two for each file.
  - A file is replaced atomically, so that no program reads half of it. The directories above a file must exist; those
    above a directory are created with the same owner, group and mode.
  - A link to a directory counts as that directory. Only a link is replaced by another kind of path, a file or another
    link.
  - In check mode a path below a directory that would be created is reported as one that would be created as well.
options:
  files:
    description: The paths, in the order in which they are processed.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The path.
        type: path
        required: true
      state:
        description: The state that the path must have.
        type: str
        choices: [file, directory, link, absent]
        default: file
      content:
        description: Text of a file, including its last line break. If omitted, an existing file keeps its content.
        type: str
      target:
        description:
          - The target of a link. With O(files[].state=absent), the path is removed only if it leads there as a link,
            and anything else is left alone.
        type: str
      default_acl:
        description:
          - Permissions of a directory's default ACL, in octal; new files in it get no others, whatever the umask of the
            program that creates them. If omitted, the default ACL stays as it is.
        type: str
      owner:
        description: Name of the owner. If empty, it is not changed; a new path belongs to the account of the module.
        type: str
        default: root
      group:
        description: Name of the group. If empty, it is not changed.
        type: str
        default: root
      mode:
        description: Permissions, in octal; if omitted, C(0644) for a file and C(0755) for a directory.
        type: str
      secret:
        description: Whether the content is left out of the diff and of the result.
        type: bool
        default: false
      validate:
        description: A command that must succeed before a file is replaced; C(%s) is the path of the new file.
        type: str
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the content of each file that is not secret, and the state of each path that changes.
    support: full
"""

EXAMPLES = r"""
- name: Write the systemd units
  clinicops.orthanc.orthanc_files:
    files:
      - {path: /etc/systemd/system/example.service.d, state: directory}
      - path: /etc/systemd/system/example.service.d/limits.conf
        content: "{{ lookup('ansible.builtin.template', 'limits.conf.j2') }}"
      - {path: /etc/systemd/system/old.service, state: absent}
"""

RETURN = r"""
paths:
  description: The paths that changed, or would in check mode.
  type: list
  elements: str
  returned: always
"""

import errno
import grp
import os
import pwd
import shlex
import shutil
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.files import write_atomic

SUBOPTIONS = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
    "content": {"type": "str"},
    "target": {"type": "str"},
    "default_acl": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str"},
    "secret": {"type": "bool", "default": False},
    "validate": {"type": "str"},
}
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
MODES = {"file": "0644", "directory": "0755"}
# Linux' form of a default ACL of owner, group and others: a version, then tag, permissions and an unused id of each
ACL = "system.posix_acl_default"
ACL_FORM = "<IHHIHHIHHI"
ACL_VERSION = 2
ACL_TAGS = (1, 4, 32)
ACL_NO_ID = 0xFFFFFFFF


def read_state(path: Path, follow: bool = False) -> dict[str, Any]:
    """The present state of a path: its kind, owner, group and mode; empty if it does not exist. With `follow` a
    link to a directory is followed, because people put directories on other disks that way."""
    try:
        known = path.stat() if follow and path.is_dir() else path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    kind = KINDS.get(stat.S_IFMT(known.st_mode), "something else")
    if kind == "link":
        return {"kind": kind, "target": os.readlink(path)}
    return {"kind": kind, "owner": known.st_uid, "group": known.st_gid, "mode": f"{stat.S_IMODE(known.st_mode):04o}"}


def read_default_acl(path: Path) -> str:
    """The permissions of a directory's default ACL, in octal; `more` if it names accounts, empty if there is none."""
    try:
        held = os.getxattr(path, ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT):
            return ""
        raise
    if len(held) != struct.calcsize(ACL_FORM):
        return "more"
    return "0" + "".join(str(one) for one in struct.unpack(ACL_FORM, held)[2::3])


def write_default_acl(path: Path, mode: str) -> None:
    """Sets a directory's default ACL to these permissions of owner, group and others, in octal."""
    permissions = int(mode, 8)
    entries = [(tag, permissions >> shift & 7, ACL_NO_ID) for tag, shift in zip(ACL_TAGS, (6, 3, 0), strict=True)]
    os.setxattr(path, ACL, struct.pack(ACL_FORM, ACL_VERSION, *(part for entry in entries for part in entry)))


def find_number(module: AnsibleModule, name: str, group: bool) -> int:
    """The id of an account or a group; -1, which changes nothing, for none, and in check mode for one that the deploy
    creates."""
    if not name:
        return -1
    try:
        return grp.getgrnam(name).gr_gid if group else pwd.getpwnam(name).pw_uid
    except KeyError:
        if module.check_mode:
            return -1
        kind = "group" if group else "account"
        module.fail_json(f"There is no {kind} {name}. Remedy: create it before the files that belong to it.")
        raise  # fail_json has ended the module


def describe_state(module: AnsibleModule, wanted: dict[str, Any]) -> dict[str, Any]:
    """The requested state, in the form of read_state."""
    kind = wanted["state"]
    if kind == "absent":
        return {}
    if kind == "link":
        return {"kind": kind, "target": wanted["target"]}
    owner, group = find_number(module, wanted["owner"], False), find_number(module, wanted["group"], True)
    mode = f"{int(wanted['mode'] or MODES[kind], 8):04o}"
    return {"kind": kind, "owner": owner, "group": group, "mode": mode}


def apply(module: AnsibleModule, wanted: dict[str, Any], present: dict[str, Any]) -> None:
    """Puts a path into its requested state; raises OSError if the system refuses."""
    path, kind = Path(wanted["path"]), wanted["state"]
    if present and present["kind"] != kind:
        if kind != "absent" and (present["kind"] != "link" or kind == "directory"):
            module.fail_json(
                f"{path} is a {present['kind']}, but must be a {kind}. Remedy: find out who uses it, and move it."
            )
        remove(path)
    if kind == "link":
        link(path, wanted["target"])
    if kind in ("absent", "link"):
        return
    owner, group = find_number(module, wanted["owner"], False), find_number(module, wanted["group"], True)
    mode = int(wanted["mode"] or MODES[kind], 8)
    if kind == "directory":
        for parent in [one for one in reversed(path.parents) if not one.exists()]:
            make_directory(parent, owner, group, mode)
        make_directory(path, owner, group, mode)
        if wanted["default_acl"] is not None:
            write_default_acl(path, wanted["default_acl"])
        return
    elif wanted["content"] is not None or not path.exists():
        validate(module, wanted)
        write_atomic(path, wanted["content"] or "", mode, wanted["owner"], wanted["group"])
        return
    os.chown(path, owner, group)
    os.chmod(path, mode)  # after chown, which clears some bits


def make_directory(path: Path, owner: int, group: int, mode: int) -> None:
    """Creates the directory if needed, whatever the umask, and sets its owner, group and mode."""
    path.mkdir(mode=0o700, exist_ok=True)
    os.chown(path, owner, group)
    os.chmod(path, mode)  # after chown, which clears some bits


def remove(path: Path) -> None:
    """Removes a file, a link, or a directory with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def link(path: Path, target: str) -> None:
    """Creates or replaces a link atomically."""
    waiting = path.with_name(f".{path.name}.part")
    waiting.unlink(missing_ok=True)
    waiting.symlink_to(target)
    waiting.replace(path)


def validate(module: AnsibleModule, wanted: dict[str, Any]) -> None:
    """Fails with the output of the validation command if it rejects the new file."""
    if not wanted["validate"]:
        return
    with tempfile.NamedTemporaryFile("w", dir=module.tmpdir, encoding="utf-8") as file:
        file.write(wanted["content"] or "")
        file.flush()
        status, output, errors = module.run_command(
            [part.replace("%s", file.name) for part in shlex.split(wanted["validate"])]
        )
    if status:
        module.fail_json(f"{wanted['path']} is not valid: {(output + errors).strip()}. Remedy: correct its settings.")


def read_text(path: Path) -> str:
    """The content of a file as text; empty if the file does not exist."""
    return path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""


def compare(module: AnsibleModule, wanted: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The present and the requested state, as an Ansible diff; None if they are the same."""
    path = Path(wanted["path"])
    if wanted["state"] == "absent" and wanted["target"] and not leads(path, wanted["target"]):
        return None
    present, intended = read_state(path, wanted["state"] == "directory"), describe_state(module, wanted)
    if wanted["default_acl"] is not None:
        intended["default_acl"] = f"{int(wanted['default_acl'], 8):04o}"
        present |= {"default_acl": read_default_acl(path)} if present else {}
    if present and -1 in intended.values():
        present = {**present, **{key: -1 for key, value in intended.items() if value == -1}}
    before = read_text(path) if present.get("kind") == "file" else ""
    changes_text = wanted["state"] == "file" and wanted["content"] is not None and before != wanted["content"]
    if present == intended and not changes_text:
        return None
    shown = changes_text and not wanted["secret"]
    return present, {
        "before_header": f"{path} {format_state(present)}",
        "after_header": f"{path} {format_state(intended)}",
        "before": before if shown else format_state(present) + "\n",
        "after": wanted["content"] if shown else format_state(intended) + "\n",
    }


def leads(path: Path, target: str) -> bool:
    """Whether the path is a link to the target."""
    return path.is_symlink() and os.path.realpath(path) == target


def format_state(state: dict[str, Any]) -> str:
    """`file 0:0 0644`, `link to /dev/null`, `absent`."""
    if not state:
        return "absent"
    if state["kind"] == "link":
        return f"link to {state['target']}"
    acl = f" default ACL {state['default_acl'] or 'none'}" if "default_acl" in state else ""
    return f"{state['kind']} {state['owner']}:{state['group']} {state['mode']}{acl}"


class SilentModule(AnsibleModule):
    """A module whose arguments, which are files, are not logged to the journal. The constructor's `no_log` would not
    do: the task's replaces it (ansible-core 2.16 to 2.19)."""

    def _log_invocation(self) -> None:
        pass


def main() -> None:
    module = SilentModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": SUBOPTIONS}},
        supports_check_mode=True,
    )
    # without its last line break, which other texts have as well
    secrets = {(one["content"] or "").strip() for one in module.params["files"] if one["secret"]}
    module.no_log_values |= secrets - {""}
    changed, diffs = [], []
    for wanted in module.params["files"]:
        try:
            found = compare(module, wanted)
            if found is None:
                continue
            present, diff = found
            if not module.check_mode:
                apply(module, wanted, present)
        except OSError as error:
            module.fail_json(f"{wanted['path']}: {error.strerror or error}. Remedy: check this path, and deploy again.")
        changed.append(wanted["path"])
        diffs.append(diff)
    module.exit_json(changed=bool(changed), paths=changed, diff=diffs)


if __name__ == "__main__":
    main()
