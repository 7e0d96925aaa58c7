# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A snapshot of an Orthanc that somebody set up, before a deploy takes it over: what restic restores by itself.

It has a tag of its own: it is not one of the archive's snapshots, is not restored by `orthanc-backup restore`, and no
retention removes it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import Refused
from ..orthanc.runtime import NAME
from .freeze import copy_index
from .manifest import list_attachments
from .restic import call_restic, list_files
from .settings import OURS, Settings

TAG = "before-adoption"
TRIES = 3  # while images are deleted


def save_old_server(settings: Settings, storage: Path, index: Path, container: str) -> dict[str, Any]:
    """One snapshot of the images, of a consistent copy of the index, and of /etc/orthanc; while Orthanc runs.

    Refused where anything that the index names and that is on the disk is not in the snapshot."""
    method = "docker" if container else "package"
    old = replace(settings, storage=index, method=method, name=container or NAME)
    copy = settings.directory / "adoption" / "index"
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        result = copy_index(old, copy)
        kept = [path for path in (storage, copy, Path("/etc/orthanc")) if path.exists()]
        identity = take_snapshot(settings, kept, [*find_excluded(storage), *find_excluded(index)])
        present = list_files(settings, identity)
        names = list_attachments(copy)
        there = [one for one in names if (storage / one.path).exists()]
        lost = [one.path for one in there if present.get(str(storage / one.path)) != one.size]
        if lost:
            what = f"The snapshot of the old Orthanc lacks {len(lost)} of {len(names)} files, such as {lost[0]}"
            raise Refused(f"{what}. Remedy: check that they can be read, and deploy again.")
        absent = len(names) - len(there)
    finally:
        shutil.rmtree(copy.parent, ignore_errors=True)
    said = f"{absent} of the {len(names)} files that the old index names are not in {storage}"
    remedy = "find out before the deploy whether they are elsewhere; Orthanc cannot show those images"
    warnings = [f"{said}. Remedy: {remedy}."] if absent else []
    return {"saved": identity[:8], "files": len(there), "warnings": warnings, **result}


def find_excluded(directory: Path) -> list[str]:
    """What is not copied from there: the live index, of which there is a copy, and what a deploy put beside it."""
    return [f"{directory}/index{end}" for end in ("", "-wal", "-shm", "-journal")] + [
        f"{directory}/{name}*" for name in OURS
    ]


def take_snapshot(settings: Settings, kept: list[Path], excluded: list[str]) -> str:
    """The id of a new snapshot of these paths, all of which was read; again while images are deleted."""
    arguments = ["backup", "--json", "--host", settings.host, "--tag", TAG]
    arguments += [f"--exclude={path}" for path in excluded]
    if settings.limit_upload:
        arguments += ["--limit-upload", str(settings.limit_upload)]
    for number in range(TRIES):
        try:
            said = call_restic(settings, *arguments, *map(str, kept)).splitlines()
            return str(json.loads(said[-1])["snapshot_id"])
        except Refused:
            if number == TRIES - 1:
                raise
    raise ValueError("no try")
