# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One study out of the newest proven snapshot that has it, put in while everything else goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..core.errors import Refused
from ..core.escaping import escape
from ..core.files import hash_file
from ..core.journal import say
from ..orthanc.api import Api
from ..orthanc.layout import DISK_GUARD
from .listing import choose_snapshot, list_proven
from .manifest import find_defects, list_current_attachments
from .output import say_problem, show_progress
from .restic import fetch_files, read_moment
from .settings import Settings, join_below, set_aside, stamp_now
from .state import read_state
from .study import GUARDED, Source, StudyRefused, restore_study


def restore_one_study(settings: Settings, value: str, wanted: str, dry_run: bool) -> dict[str, Any]:
    """A study from a proven snapshot through Orthanc; nothing stops, and no other data are touched."""
    if read_state(settings, "restore"):
        raise Refused(
            "A restore was interrupted. Remedy: complete it with orthanc-backup restore, then run this again."
        )
    if (settings.storage / DISK_GUARD).exists() and not dry_run:
        raise Refused(GUARDED)
    found = list_proven(settings) if wanted == "latest" else [choose_snapshot(settings, wanted)]
    api, scratch, quarantine = (
        Api.as_administrator(settings.orthanc),
        settings.directory / "study",
        f".quarantine-{stamp_now()[:15]}",
    )
    manifests: dict[str, dict[str, Any]] = {}

    def read_index(snapshot: dict[str, Any]) -> Path:
        shutil.rmtree(scratch, ignore_errors=True)
        staging = next((path for path in snapshot["paths"] if path.endswith("/staging")), "")
        try:
            fetch_files(settings, snapshot, scratch, [f"{staging}/index", f"{staging}/manifest.json"])
            manifest = json.loads(join_below(scratch, f"{staging}/manifest.json").read_text())
            index = join_below(scratch, f"{staging}/index")
            if hash_file(index) != manifest["index"]["sha256"]:
                raise StudyRefused("it differs from the manifest")
        except (Refused, OSError, ValueError, KeyError) as error:
            raise StudyRefused(str(error)) from None
        manifests[snapshot["id"]] = manifest
        return index

    def fetch(snapshot: dict[str, Any], paths: list[str]) -> Path:
        storage = manifests[snapshot["id"]]["storage"]
        only = [f"{storage}/{path}" for path in paths]
        fetch_files(settings, snapshot, scratch / "images", only, incomplete=True)
        data = join_below(scratch / "images", storage)
        data.mkdir(parents=True, exist_ok=True)
        return data

    def check_files(instances: set[str]) -> dict[str, tuple[Path, bool]]:
        names = [one for one in list_current_attachments(settings)[0] if one.type == 1 and one.instance in instances]
        defects = {one.path for one in find_defects(settings.storage, names, "compare")}
        return {one.instance: (settings.storage / one.path, one.path not in defects) for one in names}

    def ask(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            return api.ask(method, path, body)[:2]
        except Refused:  # Orthanc ends connections that rest for a second
            return api.ask(method, path, body)[:2]

    source = Source(
        snapshots=[{**one, "moment": read_moment(one)} for one in found],
        read_index=read_index,
        fetch=fetch,
        ask=ask,
        check_files=check_files,
        set_aside=lambda path: set_aside(path, settings.storage / quarantine),
        free_bytes=lambda: shutil.disk_usage(settings.directory).free,
        progress=show_progress,
        warn=lambda text: say(text, 4),
    )
    try:
        result = restore_study(source, value, dry_run)
    except StudyRefused as refused:
        raise Refused(str(refused)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if result.get("left"):
        remedy = "see the reasons; try an older snapshot with --snapshot, or orthanc-backup reconcile"
        say_problem(
            f"{len(result['left'])} images of study {escape(value)} were not restored correctly. Remedy: {remedy}."
        )
    return result
