# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A restore up to the moment at which it replaces the present data: checked, fetched, verified, tried, planned."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ..core.errors import Refused
from ..core.files import find_existing, hash_file
from ..core.process import read_output
from ..orthanc.layout import MARKER, find_attachments
from . import history, placing
from .exchange import exchange_data
from .freeze import parse_version
from .ledger import Study, find_received_after, group_by_device
from .listing import identify_snapshot, list_archive
from .manifest import Attachment, Proof, describe_defects, prove_snapshot
from .restic import call_restic, fetch_files
from .restored_orthanc import assemble_data, remove_images, require_counts, require_image, start_second_orthanc
from .settings import Settings, count_free, join_below, read_archive, set_aside, stamp_now
from .state import read_state, remove_abandoned_restores, write_state


def restore_snapshot(
    settings: Settings, wanted: str, target: Path | None, dry_run: bool, incomplete: bool
) -> dict[str, Any]:
    """Checks and fetches the snapshot, starts it beside production, then replaces the present data by renames."""
    under_way = read_state(settings, "restore") if target is None else {}
    if under_way and dry_run:
        return {"would": f"complete the interrupted restore of snapshot {under_way['snapshot']}"}
    if under_way:
        ended = exchange_data(settings, under_way)
        if wanted == "latest" or under_way["snapshot"].startswith(wanted[:8]):
            return ended
    begin, problems = time.time(), []
    try:
        call_restic(settings, "check", "--quiet", "--no-lock")  # a lock of the machine that is lost must not hold it up
    except Refused as refused:
        problems = refused.problems
    sound, proof = not problems, prove_snapshot(settings, wanted)
    identity, manifest = proof.snapshot["short_id"], proof.manifest
    problems += proof.problems
    if problems and not incomplete:
        raise Refused(*problems)
    if target and target.exists() and any(target.iterdir()):
        raise Refused(f"{target} is not empty. Remedy: choose another directory for --target.")
    if not target:
        require_disk(settings)
        require_place(settings, proof)
        require_version(settings, manifest["orthanc"])
    work = target or settings.storage / f".restore-{identity}"
    if not dry_run and not target:
        remove_abandoned_restores(settings, work)
    require_space(settings, work, proof, production=not target)
    came, unread = find_received_after(settings, manifest)
    problems += unread
    result: dict[str, Any] = {
        "snapshot": identity, "moment": manifest["moment"], "counts": manifest["counts"], "problems": problems
    }  # fmt: skip
    if dry_run:
        would = f"restore it into {target or settings.storage}"
        if not target:
            result |= preview_placings(settings, proof, came)
        return {**result, "would": would, "resend": group_by_device(came)}
    names = [one for one in proof.names if one.uuid not in proof.bad]
    data, defects = assemble_data(settings, proof, work, names, incomplete=incomplete)
    if defects:
        require_same_repository(settings, sound)
    problems += describe_defects(defects, "Not in the restored data", "send them again; damaged files are set aside")
    names = [one for one in names if one.path not in {defect.path for defect in defects}]
    named = {one.uuid for one in names}
    for path in find_attachments(data):
        if path.name not in named:  # it came after the moment: the index does not know it
            set_aside(path, data.with_name("not-in-the-index"))
    result["verified"] = len(names)
    if target:
        return {**result, "data": str(data), "resend": group_by_device(came)}
    gone = {one.instance for one in proof.names if one.type == 1} - {one.instance for one in names if one.type == 1}
    lost = [Study(0, *one) for one in placing.list_studies_with(data / "index", sorted(gone))]
    result |= plan_placings(settings, manifest, join_below(work, f"{manifest['staging']}/paths"), data / "index", came)
    sample = next((one for one in names if one.type == 1), None)
    with start_second_orthanc(settings, data) as (api, dicomweb):
        require_counts(api, manifest["counts"])
        if gone:
            result["counts"] = remove_images(api, gone, manifest["counts"])
        if sample:
            require_image(api, sample, dicomweb)
    under_way = {
        **result, "manifest": manifest, "work": str(work), "begin": begin, "stamp": stamp_now()[:15],
        "came": came, "lost": lost, "sample": sample, "phase": "aside",
        "history": build_restored_past(settings, proof, names), "history_before": read_state(settings, "history"),
    }  # fmt: skip
    os.sync()  # what was verified is on the disk before anything depends on it
    write_state(settings, "restore", under_way, 0o600)
    return exchange_data(settings, read_state(settings, "restore"))


def require_same_repository(settings: Settings, sound: bool) -> None:
    """Refuses a repository that does not answer any more, or was without errors before and has some now: what it did
    not give is not lost."""
    try:
        call_restic(settings, *(("check", "--quiet") if sound else ("cat", "config")), "--no-lock")
    except Refused as refused:
        said = str(refused).partition(" Remedy: ")[0]
        what = f"The repository stopped answering during the restore, so images are missing that it may have ({said})"
        raise Refused(f"{what}. Remedy: restore again when the repository can be reached.") from None


def require_version(settings: Settings, version: str) -> None:
    """Refuses an Orthanc that is older than the one that opened the snapshot's index last."""
    installed = settings.runtime.read_version()
    if parse_version(installed) < parse_version(version):
        what = f"The index is of Orthanc {version}, but {installed} is installed, which would lose images"
        raise Refused(f"{what}. Remedy: install {version} or newer.")


def require_space(settings: Settings, work: Path, proof: Proof, production: bool) -> None:
    """Refuses a disk without space for the snapshot, of which a part may be there already. What does not replace
    production leaves it what it needs to receive."""
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) if work.exists() else 0
    needed = proof.manifest["counts"]["bytes"] + 2 * proof.manifest["index"]["size"] - there
    parent = find_existing(work)
    free = shutil.disk_usage(parent).free if production else count_free(settings, parent)
    if needed > free * 0.95:
        what = (
            f"Snapshot {proof.snapshot['short_id']} needs {needed >> 20} MiB in {parent}, and {free >> 20} MiB are free"
        )
        raise Refused(f"{what}. Remedy: make space, or use a larger disk.")


def build_restored_past(settings: Settings, proof: Proof, names: list[Attachment]) -> dict[str, Any]:
    """What history.json says once these attachments of the snapshot are in place."""
    identity = proof.manifest["archive"]
    past = history.Past.parse(read_state(settings, "history"), identity)
    found = [identify_snapshot(one) for one in list_archive(settings, identity)]
    whole, token = len(names) == len(proof.names), secrets.token_hex(8)
    return asdict(history.record_restored(proof.manifest, identify_snapshot(proof.snapshot), found, past, token, whole))


def read_own_options(settings: Settings) -> dict[str, Any]:
    """orthanc.json of this machine; nothing where none was deployed."""
    try:
        found: dict[str, Any] = json.loads(settings.orthanc.read_text())
        return found
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Refused(f"{settings.orthanc} cannot be read ({error}). Remedy: deploy again.") from None


def require_disk(settings: Settings) -> None:
    """Refuses a storage directory in which Orthanc would not start: the data disk is not mounted, or is a new one."""
    storage, account = settings.storage, settings.account
    if (storage / MARKER).exists() and storage.stat().st_uid == account.pw_uid:
        return
    what = f"{storage} (orthanc_storage_dir) has no file {MARKER}, or does not belong to {settings.owner}"
    prepare = f"install -d -o {settings.owner} -g {settings.owner} -m 750 {storage} && touch {storage / MARKER}"
    raise Refused(f"{what}. Remedy: mount the data disk; if it is a new one, prepare it: {prepare}")


def require_place(settings: Settings, proof: Proof) -> None:
    """Refuses a machine on which Orthanc would not come up with the restored data, before anything is stopped."""
    manifest, options, whose = proof.manifest, read_own_options(settings), "this machine's"
    if not options:
        whose = "the snapshot's"
        if str(settings.orthanc) in manifest["paths"]:
            path = f"{manifest['staging']}/paths{settings.orthanc}"
            with contextlib.suppress(ValueError):
                options = json.loads(call_restic(settings, "dump", "--no-lock", proof.snapshot["id"], path))
        if not options or manifest["method"] != settings.method:
            what = f"{settings.orthanc} is missing, and the snapshot has none for the method {settings.method}"
            raise Refused(f"{what} (orthanc_install_method). Remedy: deploy this machine first, then restore.")
    storage = settings.storage.resolve()
    for option, path in zip(("StorageDirectory", "IndexDirectory"), placing.find_storage_paths(options), strict=True):
        if Path(path).resolve() != storage:
            what = f"{option} in {whose} {settings.orthanc} is {path!r}, and orthanc_storage_dir is {settings.storage}"
            raise Refused(f"{what}: Orthanc would not find the restored data. Remedy: deploy this machine again.")
    if settings.method == "docker":
        mounts = json.loads(read_output("docker", "inspect", "--format", "{{json .Mounts}}", settings.name))
        if not any(Path(one["Source"]).resolve() == storage and one["RW"] for one in mounts):
            what = f"The container {settings.name} does not mount {settings.storage} (orthanc_storage_dir)"
            raise Refused(f"{what}. Remedy: deploy this machine again.")
    elif (loaded := read_output("systemctl", "show", "--property", "LoadState", "--value", settings.name)) != "loaded":
        what = f"The unit {settings.name} is {loaded} (orthanc_install_method is package)"
        raise Refused(f"{what}. Remedy: deploy this machine again.")


def plan_placings(
    settings: Settings, manifest: dict[str, Any], copies: Path, index: Path | None, came: list[Study]
) -> dict[str, Any]:
    """What of the snapshot's files is put in place, what stays, and what is valid again for it."""
    options, orthanc = read_own_options(settings), str(settings.orthanc)
    paths, former = manifest["paths"], {}
    with contextlib.suppress(OSError, ValueError):
        former = json.loads(join_below(copies, orthanc).read_text())
    theirs, ours = placing.find_served_directory(former), placing.find_served_directory(options or former)
    targets = {*paths, *(path.replace(theirs, ours, 1) for path in paths if theirs and path.startswith(f"{theirs}/"))}
    digests = {path: hash_file(Path(path)) for path in targets if Path(path).is_file()}
    archive = read_archive(settings)
    in_use = placing.is_in_use(archive, read_state(settings, "history"), ours)
    machine = placing.Machine(options, not archive, in_use, digests)
    received = {one.study for one in came} | (placing.list_studies(index) if index else set())
    today = f"{datetime.now():%Y%m%d}"  # the clinic's, as in the worklist
    placings, kept = placing.plan_paths(paths, former, copies, machine, received, today, orthanc)
    again = placing.find_valid_again(
        placings, copies, options, placing.read_revoked(Path(placing.CA) / "ca.crl"), orthanc
    )
    return {
        "placings": placings, "kept": [one._asdict() for one in kept], "valid_again": again,
        "put_in_place": [one.target for one in placings],
    }  # fmt: skip


def preview_placings(settings: Settings, proof: Proof, came: list[Study]) -> dict[str, Any]:
    """The same without anything in its place, for a person who only asks."""
    scratch, copies = settings.directory / "paths", f"{proof.manifest['staging']}/paths"
    try:
        fetch_files(settings, proof.snapshot, scratch, [copies], incomplete=True)
        found = plan_placings(settings, proof.manifest, join_below(scratch, copies), None, came)
        return {name: value for name, value in found.items() if name != "placings"}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
