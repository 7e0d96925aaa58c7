# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The weekly test restore: the newest snapshot in a scratch directory, read by an Orthanc; then old snapshots go."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ..core.errors import Refused
from ..core.files import create_directories
from ..core.journal import say
from ..core.process import run_at_end
from . import history, ledger_history, retention
from .listing import identify_snapshot, list_archive, mark_verified, read_past, save_past
from .manifest import (
    Attachment,
    Proof,
    describe_defects,
    find_defects,
    find_foreign_files,
    prove_snapshot,
    read_content,
    recall_past,
)
from .restic import call_restic, forget_snapshots, list_snapshots
from .restored_orthanc import assemble_data, require_counts, require_image, start_second_orthanc
from .settings import Settings, count_free, read_archive, stamp_now
from .state import record_outcome

KEPT_UNPROVEN = 3  # snapshots that were found incomplete


def check_restore(settings: Settings) -> dict[str, Any]:
    """The newest snapshot in a scratch directory, and an Orthanc that reads it; old snapshots go unless that fails."""
    with record_outcome(settings, "restore_check") as result:
        os.nice(10)
        with run_at_end(7 * 86400, "rm", "-rf", "--one-file-system", str(settings.scratch)):
            shutil.rmtree(settings.scratch, ignore_errors=True)
            names, problems = restore_on_trial(settings, result, time.monotonic())
        if not problems:
            mark_verified(settings, result)
        maintain_repository(settings, result)
        problems += find_foreign_files(settings) + find_altered_images(settings, names, result)
        if problems:
            raise Refused(*problems)
    return result


def count_weeks() -> int:
    """Since 1970: each week it is the next part."""
    return int(time.time()) // (7 * 86400)


def restore_on_trial(settings: Settings, result: dict[str, Any], begin: float) -> tuple[list[Attachment], list[str]]:
    """Restores the newest snapshot, or as large a part of it as there is room for, and has an Orthanc read it. Returns
    what the snapshot names, and that there is no room for it, which says nothing against the snapshot."""
    proof = prove_snapshot(settings, "latest")
    manifest, counts = proof.manifest, proof.manifest["counts"]
    result.update(snapshot=proof.snapshot["short_id"], moment=manifest["moment"], counts=counts)
    if proof.problems:
        raise Refused(*proof.problems)
    result["warnings"] = find_unproven(proof)
    create_directories(settings.scratch.parent, 0o711)  # the second Orthanc's account passes through
    settings.scratch.mkdir(mode=0o711)
    room = measure_room(settings, manifest["index"]["size"])
    parts = 256 if counts["bytes"] <= room else 256 * max(0, room) // counts["bytes"]
    if not parts:
        what = f"The restore check has {max(0, room) >> 20} MiB for attachments, less than 1/256 of them"
        remedy = f"make space in {settings.scratch.parent}, set orthanc_backup_scratch_dir to another disk"
        return proof.names, [f"{what}. Remedy: {remedy}, or raise orthanc_backup_scratch_bytes."]
    # uuids are random: a directory more or less is a sample, and each week it is the next ones
    first = count_weeks() * parts % 256
    prefixes = {f"{(first + number) % 256:02x}" for number in range(parts)}
    images = [one for one in proof.names if one.type == 1]
    shown = ([one for one in images if one.uuid[:2] in prefixes] or images)[-1:]
    sample = [one for one in proof.names if one.uuid[:2] in prefixes or one in shown]
    only = [] if parts == 256 else [f"{manifest['staging']}/index", *(
        f"{manifest['storage']}/{part}" for part in (*sorted(prefixes), *(one.path for one in shown))
    )]  # fmt: skip
    data, _unused = assemble_data(settings, proof, settings.scratch, sample, only)
    result.update(verified=len(sample), of=len(proof.names), day=stamp_now()[:8])
    with start_second_orthanc(settings, data) as (api, dicomweb):
        require_counts(api, counts)
        result["read"] = [require_image(api, one, dicomweb) for one in shown]
    moment = datetime.strptime(manifest["moment"], "%Y%m%dT%H%M%S.%f").replace(tzinfo=timezone.utc)
    result.update(
        recovery_seconds=round(time.monotonic() - begin, 2),
        recovery_point_seconds=round((datetime.now(timezone.utc) - moment).total_seconds()),
    )
    return proof.names, []


def find_altered_images(settings: Settings, names: list[Attachment], result: dict[str, Any]) -> list[str]:
    """What a defect of the disk changed in a part of the images, as large as that of the repository. Neither size nor
    time of such a file tells it, so no backup reads it again. What is missing was deleted, or the next backup says so.
    """
    week = count_weeks() % settings.subset
    part = [one for one in names if int(one.uuid[:8], 16) % settings.subset == week]
    result["compared"] = len(part)
    altered = [one for one in find_defects(settings.storage, part, "compare") if one.kind != "missing"]
    return describe_defects(altered, f"In {settings.storage}", "orthanc-backup reconcile --repair; check the disk")


def measure_room(settings: Settings, index: int) -> int:
    """Bytes for attachments beside an index of this size: never so many that devices are refused meanwhile."""
    return min(settings.scratch_bytes, count_free(settings, settings.scratch) // 2) - 2 * index


def find_unproven(proof: Proof) -> list[str]:
    """What a restore check that succeeds does not say."""
    what, unhashed = f"Snapshot {proof.snapshot['short_id']}", [one for one in proof.names if not one.md5]
    if not proof.names:
        return [f"{what} does not contain an image. Remedy: if it should, check that devices reach Orthanc."]
    if unhashed:
        known = (
            f"{what} lacks the MD5 of {len(unhashed)} of {len(proof.names)} attachments; only their sizes are compared"
        )
        return [f"{known}. Remedy: set StoreMD5ForAttachments to true."]
    return []


def maintain_repository(settings: Settings, result: dict[str, Any]) -> None:
    """What is superseded goes, which no machine may do that can only append; and a part of the repository is read."""
    if not settings.append_only:
        apply_retention(settings, result)
        call_restic(settings, "prune", "--quiet")
    part = count_weeks() % settings.subset + 1
    call_restic(settings, "check", "--quiet", f"--read-data-subset={part}/{settings.subset}")


def apply_retention(settings: Settings, result: dict[str, Any]) -> None:
    """Old snapshots of this archive go, but for those that hold what no other one does, and those of other machines.

    What is not proven never stands for what is.
    """
    identity, at = read_archive(settings), datetime.now(timezone.utc)
    if not identity:  # the images' disk is not mounted, or nothing was restored yet
        result.update(forgotten=0, held=0)
        return
    found = list_archive(settings, identity)
    there = [identify_snapshot(one) for one in found]
    by_token = {one.token: each for one, each in zip(there, found, strict=True)}
    past = recall_past(settings, identity, found)
    undecided = {one.token for one in history.find_strangers(there, past)}
    used = history.choose_latest(there, past, "9"), history.choose_predecessor(there, past, "9")

    def read_dated(one: dict[str, Any]) -> retention.Dated:
        return retention.Dated(one["id"], identify_snapshot(one).token, ledger_history.read_local_time(one))

    def content(token: str) -> history.Content | None:
        try:
            known = read_content(settings, by_token[token])
            # another machine may have gone on in the same line: nobody here can say what was deleted there
            return replace(known, lineage={}) if token in past.foreign else known
        except Refused as refused:
            say(f"{refused} The snapshot is kept.", 4)
            return None

    ours = [one for one in found if identify_snapshot(one).token not in undecided]
    proven = [read_dated(one) for one in ours if history.is_proven(identify_snapshot(one), past)]
    unproven = [read_dated(one) for one in ours if not history.is_proven(identify_snapshot(one), past)]
    stays = {one.token for one in used if one}
    superseded = [one for one in retention.apply_policy(proven, settings.keep, at) if one.token not in stays]
    kept = {one.token for one in proven} - {one.token for one in superseded}
    old = retention.protect_images(superseded, kept, content, proven=True)
    superseded = [
        one for one in retention.apply_policy(unproven, {"last": KEPT_UNPROVEN}, at) if one.token not in stays
    ]
    failed = retention.protect_images(superseded, kept | {*old.held}, content, proven=False)
    going = ledger_history.find_superseded(list_snapshots(settings, f"ledger,archive={identity}"), at)
    forget_snapshots(settings, [*old.going, *failed.going, *going])
    held, noted_since = {**old.held, **failed.held}, read_past(settings)  # a backup may have gone on meanwhile
    save_past(settings, replace(noted_since if noted_since.archive else past, held=held))
    result.update(forgotten=len(old.going) + len(failed.going), held=len(held))
    for path in (settings.directory / "contents").glob("*"):
        if path.name.partition(".")[0] not in by_token:
            path.unlink()
