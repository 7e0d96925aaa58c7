# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a deploy decided for the backup, and the names that all of its parts share.

The settings stand in /etc/orthanc-backup.json. What is wrong is raised as Refused: sentences with their remedies.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ..core import journal

CONFIGURATION = Path("/etc/orthanc-backup.json")
STOP_SECONDS = 600  # as the unit's TimeoutStopSec
SETTLE_SECONDS = 60  # a file may be older than its row in the index by so much
FORMATS = (1, 2)  # of the manifest: 2 has internal ids, sequence and lineage
SECOND = "orthanc-restore-check"  # the container, and the directory
# in the storage directory and no part of an archive: what is beside images for renames, and the monitor's
BRAKE = ".orthanc-brake"  # the monitor's: the disk is almost full, and images are refused
OURS = (".restore-", ".set-aside-", ".quarantine-", BRAKE, ".orthanc-reserve")
STOPPED = "stopped"  # Docker does not start what was stopped when the power went
MARKER = ".orthanc-storage"  # Orthanc's unit starts only where it is
ARCHIVE = ".orthanc-archive"  # which archive this is: a new machine has none until it is restored
COUNTED = ("patients", "studies", "series", "instances")  # in the order of the index's resourceType
ANOTHER = "use another of orthanc-backup list"
WITHOUT = "add --incomplete to go without them"
SYSTEM_REMEDIES = {
    errno.EACCES: "run it as root",
    errno.EPERM: "run it as root",
    errno.ENOSPC: "make space where the images are, and in /var/lib/orthanc-backup",
}
CONFIGURED: list[str] = []  # --config as it was given, for the program that goes on


class Refused(Exception):
    """What is wrong: sentences with their remedies."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Busy(Refused):
    """Another one is at work."""


class Interrupted(BaseException):
    """A signal: everything is put right on the way out."""


@dataclass(frozen=True)
class Settings:
    """What the deploy wrote into /etc/orthanc-backup.json."""

    repository: str
    password_file: str
    environment: dict[str, str]
    host: str
    append_only: bool
    limit_upload: int
    keep: dict[str, int]
    subset: int
    storage: Path
    orthanc: Path
    paths: list[str]
    directory: Path
    scratch: Path
    scratch_bytes: int
    method: str
    name: str
    owner: str
    pause: str
    pause_seconds: int
    image: str
    collection: str
    fingerprint: str
    # files of the settings of these names; empty where root's ~/.ssh holds
    known_hosts: str = ""
    ssh_key: str = ""

    @classmethod
    def read(cls, path: Path) -> Settings:
        try:
            content = json.loads(path.read_text())
            paths = {name: Path(content[name]) for name in ("storage", "orthanc", "directory", "scratch")}
            paths["scratch"] /= SECOND  # what is in it is removed
            return cls(**{**content, **paths})
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{path} is not this version's ({error}). Remedy: deploy again.") from None

    @property
    def staging(self) -> Path:
        return self.directory / "staging"

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger"

    @property
    def account(self) -> pwd.struct_passwd:
        return pwd.getpwnam(self.owner)


def loud(text: str) -> None:
    """A line at priority 3, wherever the program was called from."""
    journal.say_loudly(text, "orthanc-backup")


def find_program() -> str:
    """The path of the command that runs, to call it once more."""
    return str(Path(sys.argv[0]).resolve())


def bar(done: float, what: str) -> None:
    """Progress, for a person who watches."""
    if sys.stderr.isatty():
        end = "\n" if done >= 1 else ""
        print(f"\r{what:12} [{'#' * int(30 * done):30}] {done:4.0%}", end=end, file=sys.stderr, flush=True)


def written(path: Path, content: str, mode: int = 0o600, owner: str = "root") -> None:
    """The whole file or the one of before; no link is followed, since a directory may be Orthanc's."""
    waiting = path.with_name(f"{path.name}.part")
    waiting.unlink(missing_ok=True)
    with waiting.open("x") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        if owner != "root":
            account = pwd.getpwnam(owner)
            os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
        os.fsync(file.fileno())
    waiting.rename(path)


def now() -> str:
    """UTC, in the form in which Orthanc writes it, and milliseconds."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-3]


def tomorrow() -> str:
    """A snapshot that is dated later was made with a wrong clock. UTC, to the second."""
    return f"{datetime.now(timezone.utc) + timedelta(days=1):%Y%m%dT%H%M%S}"


def run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{command[0]} {command[1]}: {done.stderr.strip()}. Remedy: see what it says.")
    return done.stdout.strip()


def shortened(what: str, found: Iterable[str], remedy: str) -> list[str]:
    """One sentence for a few or many of a kind."""
    found = list(found)
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return [f"{what}: {', '.join(found[:5])}{more}. Remedy: {remedy}."] if found else []


def hashed(path: Path, method: str = "sha256") -> str:
    digest = hashlib.new(method, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def below(target: Path, path: str) -> Path:
    """Where restic restores a path of the snapshot."""
    return target / path.lstrip("/")


def name_of(look: Callable[[], str]) -> str:
    try:
        return look()
    except KeyError:
        return ""


def set_aside(path: Path, directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    path.rename(directory / path.name)


def archive(settings: Settings) -> str:
    path = settings.storage / ARCHIVE
    found = re.fullmatch(r"([0-9a-f]{16})\n", path.read_text()) if path.is_file() and not path.is_symlink() else None
    return found[1] if found else ""
