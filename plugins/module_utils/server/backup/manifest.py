# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an index says, as the manifest of a snapshot has it: every attachment with its size and MD5."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import Refused
from ..core.files import UNREADABLE, hash_file, write_atomic
from ..orthanc.index import open_index
from ..orthanc.layout import find_attachments, name_attachment, walk_folders
from . import history
from .freeze import copy_index, read_index_version
from .listing import choose_snapshot, identify_snapshot, read_past
from .output import show_progress, summarize
from .restic import call_restic, list_files
from .settings import (
    ANOTHER,
    COUNTED,
    FORMATS,
    SETTLE_SECONDS,
    WITHOUT,
    Settings,
    join_below,
    read_archive,
    read_name,
    stamp_tomorrow,
)


class Attachment(NamedTuple):
    """A row of the manifest; size and MD5 are those of the file, the number is the index's (0 in format 1)."""

    uuid: str
    type: int
    size: int
    md5: str
    uncompressed_md5: str
    instance: str
    number: int = 0

    @property
    def path(self) -> str:
        return name_attachment(self.uuid)


def parse_attachment(row: list[str]) -> Attachment:
    """An attachment by its row in attachments.csv; format 1 has no number."""
    uuid, kind, size, md5, uncompressed_md5, instance = row[:6]
    return Attachment(uuid, int(kind), int(size), md5, uncompressed_md5, instance, *map(int, row[6:]))


class Defect(NamedTuple):
    """What is wrong with an attachment: it is missing, truncated (its size is another), altered (its MD5 is) or
    unreadable (on a bad sector)."""

    kind: str
    path: str


def list_attachments(index: Path) -> list[Attachment]:
    """Every attachment of an index, by its internal ids."""
    query = (
        "SELECT uuid, fileType, compressedSize, ifnull(compressedMD5, ''), ifnull(uncompressedMD5, ''), publicId, id"
        " FROM AttachedFiles JOIN Resources ON internalId = id ORDER BY id, fileType"
    )
    with open_index(index) as database:
        return [*map(Attachment._make, database.execute(query))]


def read_present(settings: Settings, index: Path, names: list[Attachment], begin: float) -> history.Present:
    """What the copy of the index says, and the files in the images' directory say, since a second of the clock."""
    with open_index(index) as database:
        resources = dict(database.execute("SELECT internalId, publicId FROM Resources"))
        sequence = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))
    listed, known, unknown, young = {one.uuid for one in names}, 0, 0, 0
    for path in find_attachments(settings.storage):
        if path.name in listed:
            known += 1
        else:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                settled = path.stat().st_mtime < begin - SETTLE_SECONDS
                unknown, young = unknown + settled, young + (not settled)
    return history.Present(resources, sequence.get("Resources", 0), sequence.get("Changes", 0), known, unknown, young)


def count_resources(index: Path) -> dict[str, int]:
    """How many patients, studies, series, instances, attachments and bytes an index has, and its last change."""
    with open_index(index) as database:
        found = dict(database.execute("SELECT resourceType, COUNT(*) FROM Resources GROUP BY resourceType"))
        files, size = database.execute("SELECT COUNT(*), ifnull(SUM(compressedSize), 0) FROM AttachedFiles").fetchone()
        last = database.execute("SELECT ifnull(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'Changes'")
        counts = {name: found.get(kind, 0) for kind, name in enumerate(COUNTED, 1)}
        return {**counts, "attachments": files, "bytes": size, "last_change": last.fetchone()[0]}


def write_rows(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file, whole or not at all."""
    content = io.StringIO()
    csv.writer(content, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)  # a device may send a CR
    write_atomic(path, content.getvalue(), 0o600)


def compare_sizes(wanted: list[Attachment], size_of: Callable[[Attachment], int | None]) -> dict[str, Defect]:
    """What is missing or has another size, by its uuid."""
    found = {}
    for one in wanted:
        size = size_of(one)
        if size != one.size:
            found[one.uuid] = Defect("missing" if size is None else "truncated", one.path)
    return found


def find_defects(data: Path, wanted: list[Attachment], what: str = "verify") -> list[Defect]:
    """What is wrong with the attachments: every size and MD5."""
    found = []
    for number, one in enumerate(wanted, 1):
        path = data / one.path
        if number % 100 == 0 or number == len(wanted):
            show_progress(number / len(wanted), what)
        try:
            size = path.stat().st_size
            kind = (
                "truncated" if size != one.size else "altered" if one.md5 and hash_file(path, "md5") != one.md5 else ""
            )
        except FileNotFoundError:
            kind = "missing"
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            kind = "unreadable"
        if kind:
            found.append(Defect(kind, one.path))
    return found


def describe_defects(defects: Iterable[Defect], what: str, remedy: str) -> list[str]:
    """One sentence for defects, or none where there are none."""
    return summarize(what, [f"{one.path} is {one.kind}" for one in defects], remedy)


def find_foreign_files(settings: Settings) -> list[str]:
    """What Orthanc's account does not own: Orthanc starts, looks healthy and refuses every image."""
    owner = settings.account.pw_uid
    found = []
    for path in (settings.storage, *settings.storage.glob("index*"), *walk_folders(settings.storage)):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid != owner:
                found.append(str(path))
    remedy = f"chown -R {settings.owner}: {settings.storage}/"
    return summarize(f"Not owned by {settings.owner}, so Orthanc refuses images", found, remedy)


def list_current_attachments(settings: Settings) -> tuple[list[Attachment], float]:
    """What the index has at this moment, and how long Orthanc stood still for it."""
    settings.staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = settings.staging / "now"
    try:
        pause = copy_index(settings, copy)["pause"]
        return list_attachments(copy), pause
    finally:
        copy.unlink(missing_ok=True)


def build_manifest(
    settings: Settings, moment: str, names: list[Attachment], present: list[str], **more: Any
) -> dict[str, Any]:
    """The manifest of a snapshot, whose files it puts into the staging directory."""
    index, attachments = settings.staging / "index", settings.staging / "attachments.csv"
    write_rows(attachments, names)
    return {
        "format": FORMATS[-1],
        "archive": read_archive(settings),
        **more,
        "collection": settings.collection,
        "orthanc": read_index_version(settings),
        "method": settings.method,
        "image": settings.runtime.image,
        "inventory": settings.fingerprint,
        "host": settings.host,
        "moment": moment,
        "storage": str(settings.storage),
        "staging": str(settings.staging),
        "ledger": str(settings.ledger),
        "counts": count_resources(index),
        "index": {"size": index.stat().st_size, "sha256": hash_file(index)},
        "attachments": hash_file(attachments),
        "paths": stage_paths(settings, present),
    }


def stage_paths(settings: Settings, present: list[str]) -> dict[str, list[Any]]:
    """Copies of what is no image, by owner, group, mode and SHA-256: a worklist item may go while restic reads."""
    found, target = {}, settings.staging / "paths"
    shutil.rmtree(target, ignore_errors=True)
    for path in find_files(present):
        copy = join_below(target, str(path))
        copy.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(path, copy)
            mode = copy.stat().st_mode & 0o7777
            found[str(path)] = [read_name(path.owner), read_name(path.group), mode, hash_file(copy)]
    return found


def find_files(paths: Iterable[str]) -> Iterator[Path]:
    """Every regular file below these paths, or at them; no link is followed."""
    for path in map(Path, paths):
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (one for one in found if one.is_file() and not one.is_symlink())


def read_manifest(settings: Settings, snapshot: dict[str, Any]) -> tuple[dict[str, Any], list[Attachment]]:
    """The manifest of a snapshot, of either format, and its attachments; Refused where it cannot be read."""
    what = f"snapshot {snapshot['short_id']}"
    staging = next((path for path in snapshot["paths"] if path.endswith("/staging")), "")
    manifest = {}
    with contextlib.suppress(ValueError):
        manifest = json.loads(call_restic(settings, "dump", "--no-lock", snapshot["id"], f"{staging}/manifest.json"))
    if manifest.get("format") not in FORMATS:
        raise Refused(
            f"The manifest of {what} cannot be read. Remedy: {ANOTHER}, or the version of the collection that made it."
        )
    text = call_restic(settings, "dump", "--no-lock", snapshot["id"], f"{staging}/attachments.csv")
    if hashlib.sha256(text.encode()).hexdigest() != manifest["attachments"]:
        raise Refused(f"The list of attachments in {what} differs from the manifest. Remedy: {ANOTHER}.")
    rows = csv.reader(text.splitlines())
    return manifest, [parse_attachment(row) for row in rows]


class Proof(NamedTuple):
    """A snapshot with its manifest, compared with the files that it has."""

    snapshot: dict[str, Any]
    manifest: dict[str, Any]
    names: list[Attachment]
    bad: set[str]
    problems: list[str]


def prove_snapshot(settings: Settings, wanted: str) -> Proof:
    """The snapshot with this id (or `latest`), compared with the files that it has. Refused where it cannot be read."""
    snapshot = choose_snapshot(settings, wanted)
    what = f"snapshot {snapshot['short_id']}"
    manifest, names = read_manifest(settings, snapshot)
    staging, files = manifest["staging"], list_files(settings, snapshot["id"])
    defects = compare_sizes(names, lambda one: files.get(f"{manifest['storage']}/{one.path}"))
    remedy = f"{ANOTHER}, or {WITHOUT}"
    problems = describe_defects(defects.values(), f"In {what}", remedy)
    problems += summarize(
        f"Missing in {what}", [path for path in manifest["paths"] if f"{staging}/paths{path}" not in files], remedy
    )
    if files.get(f"{staging}/index") != manifest["index"]["size"]:
        raise Refused(f"The index in {what} differs from the manifest. Remedy: {ANOTHER}.")
    return Proof(snapshot, manifest, names, {*defects}, problems)


def keep_content(settings: Settings, token: str, content: history.Content) -> None:
    """Saves it on this machine for the next run and the retention, since the repository may be slow."""
    path = settings.directory / "contents" / f"{token}.json.gz"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_name(f"{token}.{os.getpid()}.part")  # a backup, a restore check and the ledger at once
    write_atomic(path, gzip.compress(json.dumps(asdict(content)).encode(), 1, mtime=0), 0o600, part=part)


def read_content(settings: Settings, snapshot: dict[str, Any]) -> history.Content:
    """What the index held at a snapshot's moment, from the copy here or from the snapshot; Refused."""
    token = identify_snapshot(snapshot).token
    path = settings.directory / "contents" / f"{token}.json.gz"
    with contextlib.suppress(OSError, EOFError, ValueError, TypeError, zlib.error):
        return history.Content(**json.loads(gzip.decompress(path.read_bytes())))
    manifest, names = read_manifest(settings, snapshot)
    content = history.parse_content(manifest, [[str(field) for field in one] for one in names])
    keep_content(settings, token, content)
    return content


def recall_past(settings: Settings, identity: str, found: list[dict[str, Any]]) -> history.Past:
    """What this machine remembers of its archive's snapshots; where it remembers nothing, what is there is taken over,
    and what by the newest proven one its machine had made."""
    past = read_past(settings)
    if past.archive:
        return past
    there, inherited = [identify_snapshot(one) for one in found], list[str]()
    if newest := history.choose_latest(there, past, stamp_tomorrow()):
        with contextlib.suppress(Refused):
            manifest, _unused = read_manifest(settings, next(one for one in found if one["id"] == newest.id))
            inherited = manifest.get("ours", [])
    return history.adopt_snapshots(identity, there, stamp_tomorrow(), inherited)
