#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_tools
short_description: Install the Python package of the programs on the server
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Writes the whole package C(server), which the programs of this collection import, in one call.
  - The package is a symbolic link to a directory that is replaced as a whole. A program that starts during the update
    finds either the old package or the new one, obsolete files are removed, and no outdated bytecode is read.
options:
  path:
    description: Directory that contains the package C(server).
    type: path
    default: /usr/local/lib/clinicops-orthanc
  files:
    description: Content of each file, by its name; the action plugin of the same name fills in the collection's files.
    type: dict
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Names the files, each with the beginning of its SHA-256.
    support: full
"""

EXAMPLES = r"""
- name: Install the package of the server programs
  clinicops.orthanc.orthanc_tools:
  become: true
"""

RETURN = r"""
files:
  description: Names of the files of the package.
  type: list
  elements: str
  returned: always
"""

import compileall
import hashlib
import os
import py_compile
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import explain

FILE = 0o644
DIRECTORY = 0o755


def list_files(package: Path) -> dict[str, str]:
    """The installed files by name, each with its line for the diff, and every path with a wrong owner or mode.

    Bytecode is not listed."""
    found = {}
    for path in sorted(package.rglob("*")) if package.is_dir() else []:
        if "__pycache__" in path.parts:
            continue
        facts = path.lstat()
        right = (0, 0, DIRECTORY if path.is_dir() else FILE) == (facts.st_uid, facts.st_gid, facts.st_mode & 0o7777)
        name = path.relative_to(package).as_posix()
        if not right:
            found[name] = f"{name} {facts.st_uid}:{facts.st_gid} {facts.st_mode & 0o7777:04o}"
        elif path.is_file():
            found[name] = describe(name, path.read_bytes())
    return found


def describe(name: str, content: bytes) -> str:
    """The line of a file for the diff."""
    return f"{name} {hashlib.sha256(content).hexdigest()[:12]}"


def make_directory(path: Path) -> None:
    """Creates the directory, owned by root and readable to all, whatever the umask."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(DIRECTORY)


def install(base: Path, files: dict[str, str]) -> Path:
    """Writes the files into a new directory and returns it."""
    directory = Path(tempfile.mkdtemp(prefix="server-", dir=base))
    directory.chmod(DIRECTORY)
    for name, content in files.items():
        path = directory / name
        for parent in reversed(path.relative_to(directory).parents[:-1]):
            make_directory(directory / parent)
        path.write_text(content, encoding="utf-8")
        path.chmod(FILE)
    # Python compares it with the source each time, so bytecode is never outdated
    compileall.compile_dir(directory, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return directory


def replace(package: Path, current: Path, stale: list[Path], files: dict[str, str]) -> None:
    """Installs the files, and lets the link lead to them. Removes what was there, and what is stale."""
    os.umask(0o022)
    make_directory(package.parent)
    for path in stale:
        shutil.rmtree(path)
    if package.is_dir() and not package.is_symlink():
        shutil.rmtree(package)
    directory = install(package.parent, files)
    link = package.with_name(f"link-{directory.name}")
    link.symlink_to(directory.name)
    link.replace(package)
    if current != package and current.is_dir():
        shutil.rmtree(current)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/usr/local/lib/clinicops-orthanc"},
            "files": {"type": "dict", "no_log": True},
        },
        supports_check_mode=True,
    )
    base, files = Path(module.params["path"]), module.params["files"]
    if not files:
        module.fail_json("The package has no files. Remedy: reinstall the collection.")
    package = base / "server"
    before = list_files(package)
    after = {name: describe(name, content.encode()) for name, content in files.items()}
    current = package.resolve()
    # left by an interrupted run, or not the target of the link
    stale = [path for path in base.glob("server*") if path not in (package, current)] if base.is_dir() else []
    changed = before != after or not package.is_symlink() or bool(stale)
    if changed and not module.check_mode:
        try:
            replace(package, current, stale, files)
        except OSError as error:
            module.fail_json(explain(error, package))
    headers = {"before_header": str(package), "after_header": str(package)}
    difference = {"before": lines(before), "after": lines(after), **headers}
    module.exit_json(changed=changed, files=sorted(files), diff=difference)


def lines(files: dict[str, str]) -> str:
    """One line for each file."""
    return "".join(f"{files[name]}\n" for name in sorted(files))


if __name__ == "__main__":
    main()
