# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One study out of the newest proven snapshot that has it, put in while everything else goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..core.escaping import escape
from ..core.journal import say
from .listing import chosen, proven_first
from .manifest import attachments_now, verified
from .restic import fetched, moment_of
from .restored_orthanc import Rest
from .settings import BRAKE, Refused, Settings, bar, below, hashed, loud, now, set_aside
from .state import state
from .study import BRAKED, Source, StudyRefused, restore_study


def study_restored(settings: Settings, value: str, wanted: str, dry_run: bool) -> dict[str, Any]:
    """A study from a proven snapshot through Orthanc; nothing stops, and no other data are touched."""
    if state(settings, "restore"):
        raise Refused("A restore was interrupted. Remedy: end it with orthanc-backup restore, then call this again.")
    if (settings.storage / BRAKE).exists() and not dry_run:
        raise Refused(BRAKED)
    found = proven_first(settings) if wanted == "latest" else [chosen(settings, wanted)]
    rest, scratch, quarantine = Rest(settings), settings.directory / "study", f".quarantine-{now()[:15]}"
    manifests: dict[str, dict[str, Any]] = {}

    def read_index(snapshot: dict[str, Any]) -> Path:
        shutil.rmtree(scratch, ignore_errors=True)
        staging = next((path for path in snapshot["paths"] if path.endswith("/staging")), "")
        try:
            fetched(settings, snapshot, scratch, [f"{staging}/index", f"{staging}/manifest.json"])
            manifest = json.loads(below(scratch, f"{staging}/manifest.json").read_text())
            index = below(scratch, f"{staging}/index")
            if hashed(index) != manifest["index"]["sha256"]:
                raise StudyRefused("it is not the manifest's")
        except (Refused, OSError, ValueError, KeyError) as error:
            raise StudyRefused(str(error)) from None
        manifests[snapshot["id"]] = manifest
        return index

    def fetch(snapshot: dict[str, Any], paths: list[str]) -> Path:
        storage = manifests[snapshot["id"]]["storage"]
        only = [f"{storage}/{path}" for path in paths]
        fetched(settings, snapshot, scratch / "images", only, incomplete=True)
        data = below(scratch / "images", storage)
        data.mkdir(parents=True, exist_ok=True)
        return data

    def check_files(instances: set[str]) -> dict[str, tuple[Path, bool]]:
        names = [one for one in attachments_now(settings)[0] if one.type == 1 and one.instance in instances]
        defects = {one.path for one in verified(settings.storage, names, "compare")}
        return {one.instance: (settings.storage / one.path, one.path not in defects) for one in names}

    def ask(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            return rest.ask(method, path, body)[:2]
        except Refused:  # Orthanc ends connections that rest for a second
            return rest.ask(method, path, body)[:2]

    source = Source(
        snapshots=[{**one, "moment": moment_of(one)} for one in found],
        read_index=read_index,
        fetch=fetch,
        ask=ask,
        check_files=check_files,
        set_aside=lambda path: set_aside(path, settings.storage / quarantine),
        free_bytes=lambda: shutil.disk_usage(settings.directory).free,
        progress=bar,
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
        loud(f"{len(result['left'])} images of study {escape(value)} are not as they were. Remedy: {remedy}.")
    return result
