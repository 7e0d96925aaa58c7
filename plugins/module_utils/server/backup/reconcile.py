# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares the index with the files on the disk; the repair moves files and never deletes one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ..core.errors import Refused
from ..core.files import hash_md5, write_atomic
from ..core.journal import say
from ..core.process import run_at_end
from ..orthanc.api import Api
from ..orthanc.layout import find_attachments
from ..orthanc.runtime import STOP_SECONDS
from . import orphans
from .freeze import command_orthanc, start_orthanc
from .manifest import Attachment, find_defects, list_current_attachments, read_manifest
from .restic import fetch_many, find_storage, list_snapshots
from .settings import SETTLE_SECONDS, STOPPED, Settings, join_below, set_aside, stamp_now


def reconcile_index(settings: Settings, repair: bool) -> dict[str, Any]:
    """Compares the index with the files; the repair moves files and never deletes one."""
    begin = time.time()
    names, _unused = list_current_attachments(settings)
    listed = {one.uuid for one in names}
    lost = []
    for path in find_attachments(settings.storage):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            if path.name not in listed and path.stat().st_mtime < begin - SETTLE_SECONDS:
                lost.append(path)
    defects = find_defects(settings.storage, names, "compare")
    if defects:
        listed_now = {one.path for one in list_current_attachments(settings)[0]}
        defects = [one for one in defects if one.path in listed_now]
    result: dict[str, Any] = {"attachments": len(names)}
    for kind in ("missing", "truncated", "altered", "unreadable"):
        result[kind] = [one.path for one in defects if one.kind == kind]
    result["orphaned"] = [str(path.relative_to(settings.storage)) for path in lost]
    left = [*(one.path for one in defects), *result["orphaned"]]
    if repair:
        quarantine = settings.storage / f".quarantine-{stamp_now()[:15]}"
        wanted = {one.path: one for one in names}
        # first what is surely right: an orphan with the same UIDs may be another image
        back = bring_back(settings, [wanted[one.path] for one in defects], quarantine)
        defects = [one for one in defects if wanted[one.path].uuid not in back]
        known = find_known_orphans(settings, lost)
        damaged = {one.uuid: one for one in find_damaged_orphans(settings, known)}
        for uuid in bring_back(settings, [*damaged.values()], quarantine, listed=False):
            del damaged[uuid]
        whole = [path for path in lost if path.name not in damaged]
        types = {one.uuid: one.type for one in known}
        result["repaired"], result["unresolved"] = import_orphans(settings, whole, types, quarantine)
        result["repaired"] |= back
        result["unresolved"] |= dict.fromkeys(damaged, "altered: no snapshot has the original")
        # an orphan may have come into the place of what could not be read, as a new image or as its file
        still = {one.path: one for one in (list_current_attachments(settings)[0] if lost else names)}
        rest = [still[one.path] for one in defects if one.path in still]
        defects = find_defects(settings.storage, rest, "compare")
        healed = {one.path: one for one in rest}.keys() - {one.path for one in defects}
        result["repaired"] |= {still[path].uuid: "from an orphan" for path in healed}
        left = [*(one.path for one in defects), *result["orphaned"]]
        left = [one for one in left if one.rpartition("/")[2] not in result["repaired"]]
    return {**result, "left": left}


def find_known_orphans(settings: Settings, lost: list[Path]) -> list[Attachment]:
    """What the newest snapshots that name them say of orphans: the index tells their type and MD5 no more."""
    names, found = {path.name for path in lost}, dict[str, Attachment]()
    try:
        for snapshot in reversed(list_snapshots(settings, "orthanc", "unproven")) if names else ():
            with contextlib.suppress(Refused):  # another one may tell
                for one in read_manifest(settings, snapshot)[1]:
                    if one.uuid in names:
                        found.setdefault(one.uuid, one)
            if len(found) == len(names):
                break
    except Refused as refused:  # the images that lie there do not wait for the repository
        say(f"Files are imported without comparing them with the snapshots. {refused}", 4)
    return [*found.values()]


def find_damaged_orphans(settings: Settings, known: list[Attachment]) -> list[Attachment]:
    """Images that are not what a snapshot says. What Orthanc keeps beside an image it makes again."""
    images = [one for one in known if one.type == orphans.DICOM]
    wrong = {defect.path for defect in find_defects(settings.storage, images, "compare")}
    return [one for one in images if one.path in wrong]


def import_orphans(
    settings: Settings, lost: list[Path], types: dict[str, int], quarantine: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """What became of orphans, and why others stay where they are. `types` as in `sort_orphans`.

    An orphan is an image again when its copy was read back from the disk; then the file goes aside.
    """
    repaired: dict[str, str] = {}
    waiting, headers, unresolved = orphans.sort_orphans(lost, types)
    api = Api.as_administrator(settings.orthanc)
    for last in (False, True):
        answers: dict[Path, dict[str, str]] = {}
        for path in waiting:
            status, body, _unused = api.ask("POST", "/instances", orphans.read_image(path))
            if status == 200:
                answers[path] = json.loads(body)
            else:
                unresolved[path.name] = f"Orthanc refuses it ({status})"
        stored = orphans.index_by_instance(list_current_attachments(settings)[0]) if answers else {}
        waiting = []
        for path, answer in answers.items():
            one = stored.get(answer["ID"])
            verdict = orphans.judge_orphan(settings.storage, orphans.read_image(path), answer["Status"], one)
            if verdict.is_done:
                set_aside(path, quarantine)
                repaired[path.name] = verdict.text
            elif verdict.word == "damaged" and one and not last:
                # an Orthanc without the filter of images that arrive: the damaged one makes way, and nothing is lost
                if (settings.storage / one.path).exists():
                    set_aside(settings.storage / one.path, quarantine)
                api.ask("DELETE", f"/instances/{one.instance}")
                waiting.append(path)
            else:
                unresolved[path.name] = f"{verdict.word}: {verdict.text}"
    for path, whole in headers.items():
        if whole.name in repaired:
            set_aside(path, quarantine)
            repaired[path.name] = f"headers of {whole.name}"
        else:
            unresolved[path.name] = f"not an image: headers of {whole.name}, which was not imported"
    return repaired, unresolved


def is_given_out(api: Api, one: Attachment) -> bool | None:
    """Whether Orthanc gives it out as it was written; what it read of a damaged file stays in its cache for hours.

    None: it is not there any more.
    """
    status, body, _unused = api.ask("GET", f"/instances/{one.instance}/attachments/{one.type}/data")
    if status == 404:
        return None
    return status == 200 and one.uncompressed_md5 in ("", hash_md5(body))


def bring_back(settings: Settings, wanted: list[Attachment], quarantine: Path, listed: bool = True) -> dict[str, str]:
    """Attachments with a defect come from the newest snapshot that has them as they were, and are read in place:
    through Orthanc, where its index lists them."""
    done: dict[str, str] = {}
    account, scratch, api = (
        settings.account,
        settings.storage / ".restore-attachments",
        Api.as_administrator(settings.orthanc),
    )
    for snapshot in reversed(list_snapshots(settings, "orthanc", "unproven")) if wanted else ():
        shutil.rmtree(scratch, ignore_errors=True)
        storage = find_storage(snapshot)
        fetch_many(settings, snapshot, scratch, [f"{storage}/{one.path}" for one in wanted])
        data, placed = join_below(scratch, storage), list[Attachment]()
        for one in [one for one in wanted if orphans.is_whole(data, one)]:
            path = settings.storage / one.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.resolve() != settings.storage.resolve() / one.path.rpartition("/")[0]:
                raise Refused(f"{path.parent} is a link to another directory. Remedy: remove that link.")
            if path.exists():
                set_aside(path, quarantine)
            for each in (path.parent.parent, path.parent, data / one.path):
                os.chown(each, account.pw_uid, account.pw_gid, follow_symlinks=False)
            (data / one.path).chmod(0o640)
            os.sync()
            (data / one.path).rename(path)
            placed.append(one)
        if listed and any(is_given_out(api, one) is False for one in placed):
            say("Orthanc is restarted, since it still serves a damaged image from its cache.", 4)
            with run_at_end(STOP_SECONDS * 2, *settings.runtime.build_command("start")):
                try:
                    write_atomic(settings.directory / STOPPED, "", 0o600)  # for whoever comes after a kill
                    command_orthanc(settings, "stop")
                finally:
                    start_orthanc(settings)
            api.await_answer()
        for one in placed:
            if (not listed or is_given_out(api, one)) and orphans.is_whole(settings.storage, one):
                unproven = "" if one.md5 else "; without a stored MD5 only its size and readability were verified"
                done[one.uuid] = f"from snapshot {snapshot['short_id']}{unproven}"
        wanted = [one for one in wanted if one.uuid not in done]
        if not wanted:
            break
    shutil.rmtree(scratch, ignore_errors=True)
    return done
