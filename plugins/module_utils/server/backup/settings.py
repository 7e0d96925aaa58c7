# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a deploy decided for the backup, and the names that all of its parts share.

The settings stand in /etc/orthanc-backup.json. What is wrong is raised as Refused: sentences with their remedies.
"""

from __future__ import annotations

import pwd
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ..core.monitor_state import read_margin
from ..core.settings import read_settings
from ..orthanc.layout import DISK_GUARD, RESERVE
from ..orthanc.runtime import Container, Unit, choose_runtime

CONFIGURATION = Path("/etc/orthanc-backup.json")
SETTLE_SECONDS = 60  # a file may be older than its row in the index by so much
FORMATS = (1, 2)  # of the manifest: 2 has internal ids, sequence and lineage
SECOND = "orthanc-restore-check"  # the container, and the directory
# in the storage directory and no part of an archive: what is beside images for renames, and the monitor's
OURS = (".adoption", ".upgrade-", ".restore-", ".set-aside-", ".quarantine-", DISK_GUARD, RESERVE)
STOPPED = "stopped"  # Docker does not start what was stopped when the power went
ARCHIVE = ".orthanc-archive"  # which archive this is: a new machine has none until it is restored
COUNTED = ("patients", "studies", "series", "instances")  # in the order of the index's resourceType
ANOTHER = "use another snapshot from orthanc-backup list"
MAKE_SPACE = "make space where the images are, and in /var/lib/orthanc-backup"
WITHOUT = "add --incomplete to restore without them"


@dataclass(frozen=True)
class Settings:
    """What the deploy wrote into /etc/orthanc-backup.json, and of the shared facts what the backup needs."""

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
    index_statistics: bool
    collection: str
    fingerprint: str
    # files of the settings of these names; empty where root's ~/.ssh holds
    known_hosts: str = ""
    ssh_key: str = ""

    file: Path = CONFIGURATION

    @classmethod
    def read(cls, path: Path) -> Settings:
        """The settings in a file, as it was given with --config. Misused for a file of another release."""
        found = read_settings(cls, path, "orthanc_backup")
        return replace(found, file=path, scratch=found.scratch / SECOND)  # what is in it is removed

    def build_command(self, *arguments: str) -> list[str]:
        """The command by which this program calls itself once more."""
        given = [] if self.file == CONFIGURATION else ["--config", str(self.file)]
        return [str(Path(sys.argv[0]).resolve()), *given, *arguments]

    @property
    def runtime(self) -> Unit | Container:
        """How Orthanc runs on this machine."""
        return choose_runtime(self.method, self.name)

    @property
    def staging(self) -> Path:
        """What goes into the next snapshot beside the images: the copy of the index, the manifest, other files."""
        return self.directory / "staging"

    @property
    def ledger(self) -> Path:
        """The ledger's files, one a day."""
        return self.directory / "ledger"

    @property
    def account(self) -> pwd.struct_passwd:
        """Orthanc's."""
        return pwd.getpwnam(self.owner)


def stamp_now() -> str:
    """UTC, in the form in which Orthanc writes it, and milliseconds."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-3]


def stamp_tomorrow() -> str:
    """A snapshot that is dated later was made with a wrong clock. UTC, to the second."""
    return f"{datetime.now(timezone.utc) + timedelta(days=1):%Y%m%dT%H%M%S}"


def join_below(target: Path, path: str) -> Path:
    """Where restic restores a path of the snapshot."""
    return target / path.lstrip("/")


def read_name(find: Callable[[], str]) -> str:
    """A name of an account or group; empty for a number that has none."""
    try:
        return find()
    except KeyError:
        return ""


def count_free(settings: Settings, path: Path) -> int:
    """Bytes that may be used below a directory while Orthanc receives: on the images' disk without the disk guard's."""
    usage, storage = shutil.disk_usage(path), settings.storage
    shared = storage.exists() and path.stat().st_dev == storage.stat().st_dev
    refusing = (storage / DISK_GUARD).exists()
    return max(0, usage.free - (read_margin(usage.used + usage.free, refusing) if shared else 0))


def set_aside(path: Path, directory: Path) -> None:
    """Moves a file into a directory that is made for it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    path.rename(directory / path.name)


def read_archive(settings: Settings) -> str:
    """Which archive is in the storage directory, 16 hexadecimal digits; empty for none."""
    path = settings.storage / ARCHIVE
    found = re.fullmatch(r"([0-9a-f]{16})\n", path.read_text()) if path.is_file() and not path.is_symlink() else None
    return found[1] if found else ""
