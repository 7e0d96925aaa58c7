# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are written completely or not at all, in directories that may belong to another account."""

from __future__ import annotations

import errno
import grp
import hashlib
import json
import os
import pwd
from pathlib import Path
from typing import Any

# what a disk or its file system says of content that is lost: a bad sector, a checksum that differs (ext4, XFS, Btrfs)
UNREADABLE = {errno.EIO, errno.EBADMSG, errno.EUCLEAN}


def write_atomic(
    path: Path,
    content: str | bytes,
    mode: int = 0o644,
    owner: str | int = "",
    group: str | int = "",
    part: Path | None = None,
) -> None:
    """Writes the whole file, or leaves the former one. The content is on the disk when this returns.

    `part` is where it is written first, on the same file system: `.<name>.part` beside it. No link is followed there,
    since the directory may be another account's. The caller holds a lock where another process may write the same file.
    `owner` and `group` are names or numbers. KeyError for a name that the system does not know.
    """
    waiting = part or path.with_name(f".{path.name}.part")
    waiting.unlink(missing_ok=True)  # left by a program that was killed
    descriptor = os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fchown(descriptor, *find_numbers(owner, group))
        os.fchmod(descriptor, mode)  # whatever the umask; after the owner, whose change takes some bits away
        os.fsync(descriptor)
    waiting.rename(path)


def create_directories(path: Path, mode: int) -> None:
    """Creates a directory and its parents; those that were missing have this mode, whatever the umask."""
    for one in [each for each in (*reversed(path.parents), path) if not each.exists()]:
        one.mkdir()
        one.chmod(mode)


def find_existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


def find_numbers(owner: str | int, group: str | int) -> tuple[int, int]:
    """Of an account and a group, by name or number; -1, which changes nothing, for none. Without a group, the owner's.

    KeyError for a name that the system does not know."""
    number = -1 if owner == "" else owner if isinstance(owner, int) else pwd.getpwnam(owner).pw_uid
    if group == "":
        return number, pwd.getpwnam(owner).pw_gid if owner and isinstance(owner, str) else -1
    return number, group if isinstance(group, int) else grp.getgrnam(group).gr_gid


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a program of ours; empty where it is not there, cut off or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def copy_durably(source: Path, target: Path) -> str:
    """Copies a file's content, which is on the disk when this returns. Returns the SHA-256 of what was read.

    An existing target is overwritten; no link is followed there. The owner is this process's, the mode 0600."""
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with source.open("rb") as read, os.fdopen(descriptor, "wb") as written:
        while block := read.read(1 << 20):
            digest.update(block)
            written.write(block)
        written.flush()
        os.fsync(descriptor)
    return digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """Puts the names in a directory on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path, method: str = "sha256") -> str:
    """The hexadecimal hash of a file of any size."""
    digest = hashlib.new(method, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_md5(data: bytes) -> str:
    """The hexadecimal MD5, as Orthanc's index has it of an attachment."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
