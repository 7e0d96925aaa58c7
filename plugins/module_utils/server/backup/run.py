# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup: one snapshot, reported as a success only when all of it was read."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import Refused
from ..core.files import find_existing, write_atomic
from ..core.journal import say
from . import history
from .freeze import copy_index
from .listing import (
    find_former_host,
    find_present_id,
    identify_snapshot,
    list_archive,
    mark_unproven,
    read_past,
    save_past,
)
from .manifest import (
    Attachment,
    build_manifest,
    compare_sizes,
    describe_defects,
    find_defects,
    find_foreign_files,
    keep_content,
    list_attachments,
    list_current_attachments,
    prove_snapshot,
    read_content,
    read_present,
    recall_past,
)
from .output import say_problem, show_progress, summarize
from .restic import call_restic, forget_snapshots, list_files, list_snapshots, read_repository_id, stream_restic
from .settings import ARCHIVE, COUNTED, OURS, Settings, read_archive, stamp_now, stamp_tomorrow
from .state import is_in_use, note_repository, read_state, record_outcome, remove_abandoned_restores, write_state

DUE_SECONDS = 20 * 3600
TRIES = 5  # of a backup during which studies are deleted


def require_same_archive(settings: Settings, anew: bool) -> None:
    """Refuses a new archive in the place of the one that the repository holds."""
    if not read_archive(settings):
        found = list_snapshots(settings, "orthanc", "unproven")
        if found and not anew:
            raise Refused(
                f"{settings.storage} is another archive than the {len(found)} snapshots of {settings.host} belong to. "
                "Remedy: restore the last one; to start a new archive, orthanc-backup run --new-archive."
            )
    if anew or not read_archive(settings):
        write_atomic(settings.storage / ARCHIVE, secrets.token_hex(8) + "\n", 0o640, settings.owner)


def find_disks(device: int) -> set[str]:
    """The disks below a file system, through partitions, LVM, RAID and encryption (sysfs)."""
    node = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if not node.exists():  # btrfs, ZFS and a network have a number of their own
        return {str(device)}
    if (node / "partition").exists():
        node = node.parent
    below = [*node.glob("slaves/*/dev")]
    return {disk for one in below for disk in find_disks(os.makedev(*map(int, one.read_text().split(":"))))} or {
        node.name
    }


def find_place(settings: Settings) -> Path | None:
    """The directory of a repository on this machine, or the nearest one above it that exists."""
    path = Path(settings.repository.removeprefix("local:"))
    return find_existing(path) if path.is_absolute() else None


def is_on_system_disk(settings: Settings) -> bool:
    """Whether the repository is in the file system of /."""
    path = find_place(settings)
    return path is not None and path.stat().st_dev == Path("/").stat().st_dev


def require_mounted(settings: Settings) -> None:
    """Refuses a repository on the system disk if the last backup at this place went to another one, which is away."""
    elsewhere = read_state(settings, "backup").get("last_on_system_disk") is False
    if elsewhere and is_in_use(settings) and is_on_system_disk(settings):
        what = f"{settings.repository} is on the system disk, and was on another disk at the last backup"
        raise Refused(f"{what}. Remedy: mount that disk; if the repository is to stay here, orthanc-backup init --new.")


def find_shared_disk(settings: Settings) -> list[str]:
    """The warning about a repository on the same disk as the images."""
    path = find_place(settings)
    if not path or not settings.storage.exists():
        return []
    if not find_disks(path.stat().st_dev) & find_disks(settings.storage.stat().st_dev):
        return []
    what = f"The only repository {settings.repository} is on the disk that holds the images: one defect destroys both"
    return [f"{what}. Remedy: set orthanc_backup_repository to another machine or disk."]


def make_backup(settings: Settings, due: bool, anew: bool) -> dict[str, Any]:
    """Makes one snapshot; reports success only when all of it was read."""
    former = read_state(settings, "backup")
    if due and 0 <= time.time() - former.get("last_success_epoch", 0) < DUE_SECONDS:  # the clock may have been wrong
        return {"result": "not due"}
    cut = former.get("result", "success") != "success"
    unsettled = former.get("unsettled") or (cut and former.get("run")) or ""
    with record_outcome(settings, "backup", run=secrets.token_hex(8), unsettled=unsettled) as result:
        if unsettled:
            if unsettled not in read_past(settings).accepted:
                mark_unproven(settings, unsettled)
            result["unsettled"] = ""
            # at once: when this run is killed as well, its own snapshot is the one to disown
            write_state(settings, "backup", {**read_state(settings, "backup"), "unsettled": ""})
        if not read_state(settings, "restore"):
            remove_abandoned_restores(settings)
        require_mounted(settings)
        require_same_archive(settings, anew)
        result["warnings"] = find_shared_disk(settings) + find_foreign_files(settings)
        for warning in result["warnings"]:
            say_problem(warning)
        kept = sorted(path.name for path in settings.storage.glob(".set-aside-*"))
        result["warnings"] += summarize(
            "A restore set aside", kept, f"remove it from {settings.storage} when it is no longer needed"
        )
        for path in (settings.staging, settings.ledger):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        absent = sorted(path for path in settings.paths if not Path(path).exists())
        result["warnings"] += summarize("Missing", absent, "correct orthanc_backup_paths")
        present = [path for path in settings.paths if path not in absent]
        problems = take_complete_snapshot(settings, result, present, anew)
        if problems:
            raise Refused(*problems)
        result.update(last_moment=result["moment"], last_repository=settings.repository)
        result["last_on_system_disk"] = is_on_system_disk(settings)
    return result


class Predecessor(NamedTuple):
    """What a snapshot goes on from: the one before it, what it held, and why that cannot be read. `parent` is that one
    where restic need not read again what has not changed since."""

    snapshot: history.Snapshot | None
    content: history.Content | None
    unread: str
    parent: history.Snapshot | None


def read_predecessor(
    settings: Settings, found: list[dict[str, Any]], there: list[history.Snapshot], past: history.Past
) -> Predecessor:
    """What the next snapshot goes on from, of those that the archive has."""
    one = history.choose_predecessor(there, past, stamp_tomorrow())
    if not one:
        return Predecessor(None, None, "", None)
    try:
        content = read_content(settings, next(each for each in found if each["id"] == one.id))
    except Refused as refused:  # data first: the snapshot is made
        return Predecessor(one, None, str(refused).partition(" Remedy: ")[0], None)
    # what has not changed since a snapshot whose every MD5 was compared need not be read again
    parent = one if content.lineage and history.is_proven(one, past) else None
    content = replace(content, lineage=past.read_lineage(one.token, content))
    return Predecessor(one, content, "", parent)


def take_complete_snapshot(settings: Settings, result: dict[str, Any], present: list[str], anew: bool) -> list[str]:
    """A snapshot in which everything is that its manifest names; again while somebody deletes. Its problems."""
    identity, tries = read_archive(settings), list[str]()
    found = list_archive(settings, identity)
    there = [identify_snapshot(one) for one in found]
    past = recall_past(settings, identity, found)
    others = history.find_strangers(there, past)
    repository = read_repository_id(settings)
    noted = read_state(settings, "repositories").get(repository)
    emptied = history.is_emptied(there, past, noted, is_in_use(settings))
    predecessor = read_predecessor(settings, found, there, past)
    while True:
        begin, index = time.time(), settings.staging / "index"
        result["tries"] = len(tries) + 1
        result.update(copy_index(settings, index))
        names = list_attachments(index)
        now_there = read_present(settings, index, names, begin)
        judgement = history.judge_index(predecessor.content, now_there, anew)
        if predecessor.unread:
            judgement = history.Judgement(predecessor.unread, "unread", 0)
        manifest = build_manifest(
            settings, result["moment"], names, present, run=result["run"],
            sequence={"resources": now_there.last_resource, "changes": now_there.last_change},
            lineage=history.continue_lineage(predecessor.content, judgement, bool(others), result["run"]),
            ours=[*past.ours, result["run"]],
            unknown_files=now_there.unknown_files + now_there.young_files,  # each of them is old one day
        )  # fmt: skip
        write_atomic(settings.staging / "manifest.json", json.dumps(manifest, indent=1) + "\n", 0o600)
        result.update(counts=manifest["counts"], deleted_since=judgement.deleted)
        why = judgement.tag or ("others" if others else "emptied" if emptied else "")
        past.note_own(result["run"])
        save_past(settings, past)
        taking = take_snapshot(settings, manifest, result, why, find_present_id(settings, predecessor.parent))
        rows = ([str(field) for field in one] for one in names)
        keep_content(settings, result["run"], history.parse_content(manifest, rows))
        problems, absent = verify_snapshot(settings, result, names, taking)
        # a copy of this machine begins at the same minute: with what it added meanwhile this line is not the only one
        late = [] if others else history.find_strangers(map(identify_snapshot, list_archive(settings, identity)), past)
        others = others or late
        if problems or not (absent or late) or len(tries) + 1 == TRIES:
            break
        mark_unproven(settings, result["run"])
        tries.append(result["run"])
        result["run"] = secrets.token_hex(8)
        write_state(settings, "backup", {**read_state(settings, "backup"), **result})
    if absent:
        what = f"In each of {TRIES} attempts images were deleted before they were read, {absent} of them in the last"
        problems.append(f"{what}. Remedy: run orthanc-backup run when no images are being deleted.")
    if not problems:
        past.note_checked(result["run"])
    problems = [*explain_unproven(settings, judgement, predecessor.snapshot, others, emptied, result), *problems]
    if problems:
        save_past(settings, past)
        with contextlib.suppress(Refused):  # the next run does it otherwise
            mark_unproven(settings, result["run"])
        return problems
    past.note_proven(result["run"])
    save_past(settings, past)
    note_repository(settings, repository, identity)
    with contextlib.suppress(Refused):  # otherwise the retention does it
        superseded = [] if settings.append_only else [f"unproven,run={token}" for token in tries]
        forget_snapshots(settings, [one["id"] for one in list_snapshots(settings, *superseded)] if superseded else [])
    return []


def explain_unproven(
    settings: Settings,
    judgement: history.Judgement,
    predecessor: history.Snapshot | None,
    others: list[history.Snapshot],
    emptied: bool,
    result: dict[str, Any],
) -> list[str]:
    """Why a snapshot that has everything is not proven, and what to do."""
    new, problems = result["snapshot"], []
    accept = f"if everything is correct, orthanc-backup accept {new}"
    made = f"Snapshot {new} was made and is not proven"
    result["judgement"] = judgement.reason
    if judgement.reason:
        what, remedy = f"The index does not match the files in {settings.storage}", "orthanc-backup reconcile"
        if predecessor:
            old = predecessor.name
            what = f"The index does not continue from snapshot {old}"
            remedy = f"restore that one (orthanc-backup restore --snapshot {old})"
        if judgement.tag == "files":
            remedy += "; orthanc-backup reconcile --repair imports files that no index knows"
        problems.append(f"{what}: {judgement.reason}. {made}. Remedy: {remedy}, or, {accept}.")
    if others:
        named = ", ".join(f"{one.name} of {one.time}" for one in others[:3]) + ", ..." * (len(others) > 3)
        what = (
            f"Another machine has added {len(others)} snapshots ({named}) to this archive since this one's last backup"
        )
        remedy = f"find and stop the copy of this machine, then {accept}; on the copy orthanc-backup run --new-archive"
        problems.append(
            f"{what}. {made}. Remedy: {remedy}; if this machine has an older state, restore the newest one."
        )
    if emptied:
        what = "The repository has none of the snapshots that this machine made: they were removed, or it is another"
        remedy = f"find out why (a wrong disk, a rule that deletes, an intruder); {accept}"
        if former := find_former_host(settings, read_past(settings)):
            what = (
                f"The repository has snapshots of this machine under the name {former}, and none under {settings.host}"
            )
            remedy = f"if the machine was renamed, set orthanc_backup_host to {former} and deploy, or go on with the "
            remedy += f"new name: orthanc-backup accept {new}; if it was not, find out who removed the others"
        problems.append(f"{what}. {made}. Remedy: {remedy}.")
    return problems


class Taking(NamedTuple):
    """The files in a snapshot, those of them whose content was compared with nothing before, and what restic could not
    read."""

    read: set[str]
    fresh: set[str]
    lost: list[str]


def take_snapshot(
    settings: Settings, manifest: dict[str, Any], result: dict[str, Any], why: str, parent: str
) -> Taking:
    """A snapshot. It never stands for a success if there is a `why`, since a repository may not let a tag be changed
    later. Without a `parent`, a snapshot in which everything is verified, every file is fresh."""
    counts = manifest["counts"]
    tags = ["unproven", f"why={why}"] if why else ["orthanc"]
    tags += [f"run={result['run']}", f"archive={manifest['archive']}", f"version={manifest['orthanc']}"]
    tags += [f"{name}={counts[name]}" for name in COUNTED]
    excluded = [settings.storage / f"index{end}" for end in ("", "-wal", "-shm", "-journal")]
    excluded += [settings.storage / f"{ours}*" for ours in OURS]
    arguments = ["backup", "--json", "--verbose=2", "--host", settings.host, "--tag", ",".join(tags)]
    arguments += [f"--exclude={path}" for path in excluded]
    arguments += [f"--parent={parent}"] if parent else []
    if settings.limit_upload:
        arguments += ["--limit-upload", str(settings.limit_upload)]
    arguments += [str(settings.staging), str(settings.ledger), str(settings.storage)]
    taking = Taking(set(), set(), [])
    for line in stream_restic(settings, *arguments, good=(0, 3)):
        if not line.startswith("{"):
            taking.lost.extend([] if "at least one source file" in line else [line.strip()])
            continue
        said = json.loads(line)
        if said["message_type"] == "verbose_status" and said["action"] in ("new", "modified", "unchanged"):
            taking.read.add(said["item"])
            if not parent or said["action"] != "unchanged":
                taking.fresh.add(said["item"])
        elif said["message_type"] == "status":
            show_progress(min(0.99, said.get("percent_done", 0)), "backup")
        elif said["message_type"] == "error":
            taking.lost.append(str(said.get("item", "")))
        elif said["message_type"] == "summary":
            show_progress(1, "backup")
            result.update(
                snapshot=said["snapshot_id"][:8], added=said["data_added"], files=said["total_files_processed"]
            )
    return taking


def verify_snapshot(
    settings: Settings, result: dict[str, Any], names: list[Attachment], taking: Taking
) -> tuple[list[str], int]:
    """Everything is in the snapshot, byte by byte, that was there at the moment: what is not, and of how much else a
    user deleted it before it was read."""

    def size_of(one: Attachment) -> int | None:
        path = settings.storage / one.path
        return path.stat().st_size if str(path) in taking.read and path.exists() else None

    defects, absent = compare_sizes(names, size_of), 0
    fresh = [one for one in names if one.uuid not in defects and str(settings.storage / one.path) in taking.fresh]
    by_path = {one.path: one.uuid for one in fresh}
    altered = {by_path[one.path]: one for one in find_defects(settings.storage, fresh)}
    defects |= altered
    if defects:  # a second comparison shows what a user deleted meanwhile
        still, pause = list_current_attachments(settings)
        result["pause"] = max(result["pause"], pause)
        missed = {one.uuid: defects[one.uuid] for one in still if one.uuid in defects}
        result["deleted"] = result.get("deleted", 0) + len(defects) - len(missed)
        if not missed:
            absent = len({*compare_sizes(names, read_sizes(settings, result["snapshot"])), *altered})
        defects = missed
    unread = [path for path in taking.lost if not path.startswith("/") or Path(path).exists()]
    unread += [
        str(path) for name in ("index", "manifest.json", "attachments.csv")
        if str(path := settings.staging / name) not in taking.read
    ]  # fmt: skip
    remedy = "orthanc-backup reconcile --repair restores what a snapshot has; what none has must be sent again "
    remedy += "or deleted in Orthanc; until then each snapshot has everything else and is marked unproven"
    problems = describe_defects(defects.values(), "In Orthanc", remedy)
    return problems + summarize("restic could not read", unread, "check that root can read it"), absent


def read_sizes(settings: Settings, snapshot: str) -> Callable[[Attachment], int | None]:
    """The size of an attachment in a snapshot."""
    files = list_files(settings, snapshot)
    return lambda one: files.get(f"{settings.storage}/{one.path}")


def accept_snapshot(settings: Settings, wanted: str, reason: str) -> dict[str, Any]:
    """A person says that a snapshot is as it should be, though it does not go on from its predecessor."""
    proof = prove_snapshot(settings, wanted)
    one, identity = identify_snapshot(proof.snapshot), read_archive(settings)
    named, found = proof.snapshot["short_id"], list_archive(settings, identity)
    there = [identify_snapshot(each) for each in found]
    past = recall_past(settings, identity, found)
    if proof.manifest["archive"] != identity or one.token not in past.ours:
        what = f"Snapshot {named} was not made by this machine in its present archive"
        raise Refused(f"{what}. Remedy: restore it, or accept the newest one that this machine made.")
    cut = one.token in past.accepted and not one.tagged_proven and not settings.append_only  # before it was marked
    if history.is_proven(one, past) and not cut:
        raise Refused(f"Snapshot {named} is proven. Remedy: no action is needed.")
    if proof.problems:
        raise Refused(*proof.problems)
    if one.token in past.unchecked:
        what = f"The run that made snapshot {named} did not finish or found defects, so its files were not verified"
        raise Refused(f"{what}. Remedy: orthanc-backup run, and accept the snapshot that it makes.")
    others = history.find_strangers(there, past)
    others += [each for each in there if each.token in past.foreign and each.tagged_proven]
    by = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    save_past(settings, history.record_accepted(past, one, there, {"by": by, "at": stamp_now(), "reason": reason}))
    if not settings.append_only:
        for each in others:
            call_restic(settings, "tag", "--add=unproven", "--remove=orthanc", each.id)
        why = ["--remove=unproven", *(f"--remove={tag}" for tag in proof.snapshot["tags"] if tag.startswith("why="))]
        call_restic(settings, "tag", "--add=orthanc", f"--add=accepted={stamp_now()[:8]}", *why, one.id)
    say(f"Snapshot {named} was accepted by {by}: {reason or 'no reason given'}.", 4)
    return {"accepted": named, "by": by, "reason": reason, "others": [each.name for each in others]}
