# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a deploy runs: it creates the repository and makes the first backup of an archive.

It waits for a small backup, and leaves a large one running in the background.
"""

from __future__ import annotations

from typing import Any

from ..core import words
from ..core.errors import Busy, Refused
from ..core.limits import describe
from ..core.process import read_output, run_program
from ..orthanc.api import Api
from .freeze import start_orthanc
from .restic import call_restic, list_snapshots, read_repository_id
from .run import find_shared_disk, is_on_system_disk, make_backup
from .settings import STOPPED, Settings, read_archive
from .state import hold_program_lock, is_in_use, is_unnoted, note_repository, read_state, write_state

WAIT_BYTES = 2_000_000_000
WAIT_SECONDS = 300  # at the speed that the inventory allows
UNIT = "orthanc-first-backup"
# what goes on by itself takes the lock of every backup
LEAVE_AT_WORK = (
    *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--description=The first backup of Orthanc"),
    "--property=Nice=10",
)


def is_awaited(size: int, limit_upload: int) -> bool:
    """Whether a deploy waits for the backup of so many bytes, which may be sent at so many KiB/s (0: no limit)."""
    return size <= WAIT_BYTES and (not limit_upload or size <= 1024 * limit_upload * WAIT_SECONDS)


def describe_first_backup(size: int, limit_upload: int) -> str:
    """The message about a backup that a deploy does not wait for."""
    at = f" at {limit_upload} KiB/s" if limit_upload else ""
    hours = size / (1024 * limit_upload) / 3600 if limit_upload else 0
    lasts = f", which takes {describe(round(hours), 'hour')} or more" if hours >= 1 else ""
    what = f"The first backup has {size / 1e9:.1f} GB to read{at}{lasts}, and continues in the background"
    return f"{what}. Remedy: no action is needed; journalctl -u {UNIT} shows how it ends."


def require_unused(settings: Settings, said: str) -> None:
    """Refuses a new repository in the place of one that has backups: its disk may not be mounted."""
    unnoted = is_unnoted(settings) and is_on_system_disk(settings)  # a disk that is away leaves its place there
    if not (is_in_use(settings) or unnoted):
        return
    at, there = words.say_moment(read_state(settings, "backup")["last_success_epoch"]), "may be" if unnoted else "is"
    what = f"{said} The last backup of {at} {there} there, so no new repository is created"
    remedy = "make the repository available again (mount its disk, check its server)"
    raise Refused(f"{what}. Remedy: {remedy}; for a new or another disk, orthanc-backup init --new on the server.")


def make_repository(settings: Settings, new: bool = False) -> dict[str, Any]:
    """Creates the repository if it does not exist. Where it exists, a running backup does not matter.

    `new`: a person said that the one at this place may have no backups, though the last one was there."""
    missing, warnings = "", find_shared_disk(settings)
    try:
        call_restic(settings, "cat", "config", "--no-lock")
    except Refused as refused:
        missing = str(refused).partition(" Remedy: ")[0]
        if "unable to open config file" not in missing:
            raise
    if missing and not new:
        require_unused(settings, missing)
    if missing or new:
        with hold_program_lock(settings, "run"):
            if missing:
                call_restic(settings, "init")
            note_repository(settings, read_repository_id(settings), "")
            if former := read_state(settings, "backup"):  # its last success is in another one
                write_state(settings, "backup", {**former, "last_repository": ""})
    return {"repository": "made" if missing else "was there", "warnings": warnings}


def make_first_backup(settings: Settings, dry_run: bool) -> dict[str, Any]:
    """Makes the first backup of a repository: waits for it, leaves it running, or reports why it must wait."""
    if is_in_use(settings) or (is_unnoted(settings) and list_snapshots(settings, "orthanc")):
        return {"first": "was there"}
    try:
        with hold_program_lock(settings, "run"):
            if read_state(settings, "restore"):
                what = "A restore has started and is not complete; the first backup is made after it"
                return {"first": "waits", "warnings": [f"{what}. Remedy: complete it: orthanc-backup restore."]}
            if not read_archive(settings) and list_snapshots(settings, "orthanc", "unproven"):
                what = f"The repository has snapshots of {settings.host}, but this archive does not belong to them"
                remedy = "orthanc-backup restore restores the last one, orthanc-backup run --new-archive starts anew"
                return {"first": "waits", "warnings": [f"{what}. Remedy: {remedy}."]}
            size = int(Api.as_administrator(settings.orthanc).get("/statistics")["TotalDiskSize"])
            awaited = is_awaited(size, settings.limit_upload)
            if dry_run:
                return {"first": "would be made" if awaited else "would be begun"}
            if awaited:
                if (settings.directory / STOPPED).exists():
                    start_orthanc(settings)
                return {"first": "made", **make_backup(settings, due=False, anew=False)}
    except Busy:
        return {"first": "is at work"}
    # it may have been begun a moment ago, and have no lock yet
    if run_program("systemctl", "is-active", "--quiet", UNIT).status == 0:
        return {"first": "is at work"}
    read_output(*LEAVE_AT_WORK, *settings.build_command("run"))
    return {"first": "begun", "warnings": [describe_first_backup(size, settings.limit_upload)]}
