# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restores one study from a snapshot through Orthanc's REST API, while Orthanc runs.

Whoever calls it brings the snapshots, restic and Orthanc along (`Source`).
"""

from __future__ import annotations

import shutil
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..core import words
from ..core.escaping import escape
from ..core.files import hash_md5
from ..orthanc.index import open_index
from ..orthanc.layout import name_attachment

ZLIB_WITH_SIZE = 2  # a compressionType of the index: 8 bytes little-endian with the size, then zlib
PART_FILES, PART_BYTES = 500, 1 << 30  # what is fetched at a time: a command line and a disk have an end
GUARDED = (
    "Orthanc refuses images now: the disk is almost full (the monitor's disk guard is on). "
    "Remedy: make space, see orthanc-monitor show, and run the command again; restored images stay."
)
QUERY = """
    SELECT study.publicId,
           (SELECT value FROM MainDicomTags WHERE id = study.internalId AND tagGroup = 32 AND tagElement = 13),
           ifnull((SELECT value FROM MainDicomTags
                    WHERE id = study.internalId AND tagGroup = 8 AND tagElement = 80), ''),
           ifnull((SELECT value FROM MainDicomTags
                    WHERE id = study.internalId AND tagGroup = 8 AND tagElement = 32), ''),
           ifnull((SELECT value FROM MainDicomTags
                    WHERE id = study.internalId AND tagGroup = 8 AND tagElement = 4144), ''),
           ifnull((SELECT value FROM MainDicomTags
                    WHERE id = study.parentId AND tagGroup = 16 AND tagElement = 32), ''),
           study.internalId
    FROM Resources AS study WHERE study.resourceType = 2 AND study.internalId IN (
        SELECT id FROM MainDicomTags WHERE ((tagGroup = 32 AND tagElement = 13) OR (tagGroup = 8 AND tagElement = 80))
                                       AND rtrim(value, ' ' || char(0)) = ?)
    ORDER BY study.internalId"""
IMAGES = """
    SELECT (SELECT value FROM MainDicomTags WHERE id = image.internalId AND tagGroup = 8 AND tagElement = 24),
           (SELECT value FROM MainDicomTags WHERE id = series.internalId AND tagGroup = 32 AND tagElement = 14),
           image.publicId, uuid, compressedSize, ifnull(compressedMD5, ''), compressionType, ifnull(uncompressedMD5, '')
    FROM Resources AS series JOIN Resources AS image ON image.parentId = series.internalId
         JOIN AttachedFiles ON AttachedFiles.id = image.internalId AND fileType = 1
    WHERE series.parentId = ? ORDER BY series.internalId, image.internalId"""


class StudyRefused(Exception):
    """Why nothing is done, or no more of it: a sentence with its remedy."""


class Damaged(Exception):
    """A file in the snapshot is not what its index says."""


class Image(NamedTuple):
    """An image by the snapshot's index; size and MD5 are those of its file."""

    uid: str
    series: str
    instance: str
    uuid: str
    size: int
    md5: str
    compression: int
    uncompressed_md5: str

    @property
    def path(self) -> str:
        """Below the storage directory."""
        return name_attachment(self.uuid)


class Study(NamedTuple):
    """A study by the snapshot's index; `identifier` is Orthanc's."""

    identifier: str
    uid: str
    accession: str
    date: str
    description: str
    patient: str
    images: list[Image]

    def describe(self) -> str:
        """A line for a person, fit for a terminal."""
        shown = [self.date or "no date", self.description or "no description", f"patient {self.patient or 'unknown'}"]
        return escape(f"{self.uid} ({', '.join(shown)}, {len(self.images)} images)")


@dataclass(frozen=True)
class Source:
    """Where studies come from and where they go.

    `snapshots` are proven, the newest first; `read_index` gives the path of a snapshot's index, verified, and raises
    StudyRefused; `fetch` restores files (paths below the storage directory) of a snapshot and gives the directory that
    they are below; `ask` is an Orthanc's REST API as the administrator, and gives status and body; `check_files` gives,
    for Orthanc's identifiers of instances that it has now, the file of each and whether it is whole on the disk (its
    cache goes on showing files that are gone); `set_aside` moves a file to where nothing is deleted.
    """

    snapshots: list[dict[str, Any]]
    read_index: Callable[[dict[str, Any]], Path]
    fetch: Callable[[dict[str, Any], list[str]], Path]
    ask: Callable[[str, str, bytes], tuple[int, bytes]]
    check_files: Callable[[set[str]], dict[str, tuple[Path, bool]]]
    set_aside: Callable[[Path], None]
    free_bytes: Callable[[], int]
    progress: Callable[[float, str], None]
    warn: Callable[[str], None]


# --- what the index of a snapshot knows --------------------------------------------------------
def find_studies(index: Path, value: str) -> list[Study]:
    """The studies with this StudyInstanceUID or AccessionNumber, exactly as written."""
    with open_index(index) as database:
        found: dict[str, Study] = {}
        for *row, study in database.execute(QUERY, (value.strip(),)).fetchall():
            identifier, uid, accession, date, description, patient = (str(one).rstrip(" \0") for one in row)
            images = [*map(Image._make, database.execute(IMAGES, (study,)))]
            if uid in found:  # sent again with a corrected PatientID: for Orthanc they are two, with the same UIDs
                patient, images = f"{found[uid].patient} and {patient}", found[uid].images + images
            found[uid] = Study(identifier, uid, accession, date, description, patient, images)
        return [*found.values()]


def read_image(path: Path, image: Image) -> bytes:
    """The DICOM file of an attachment, decompressed where it is compressed; raises Damaged."""
    if not path.exists():
        raise Damaged("is missing in the snapshot")
    data = path.read_bytes()
    if len(data) != image.size:
        raise Damaged("is truncated in the snapshot")
    if image.md5 and hash_md5(data) != image.md5:
        raise Damaged("is altered in the snapshot")
    if image.compression == ZLIB_WITH_SIZE:
        try:
            size, data = int.from_bytes(data[:8], "little"), zlib.decompress(data[8:]) if data[8:] else b""
        except zlib.error:
            raise Damaged("cannot be decompressed") from None
        if len(data) != size:
            raise Damaged("cannot be decompressed")
    if image.uncompressed_md5 and hash_md5(data) != image.uncompressed_md5:
        raise Damaged("is altered in the snapshot")
    return data


# --- choosing ----------------------------------------------------------------------------------
def is_held(source: Source, study: Study) -> bool:
    """Whether Orthanc's index has each image, readable or not."""
    return all(source.ask("GET", f"/instances/{one.instance}", b"")[0] == 200 for one in study.images)


def choose_study(source: Source, value: str) -> tuple[dict[str, Any], Study]:
    """The newest snapshot that has the study with something that Orthanc lacks; else the newest that has it.

    Raises StudyRefused when there is none, and when it could be several.
    """
    found: dict[str, tuple[dict[str, Any], Study]] = {}
    looked = unread = 0
    for number, snapshot in enumerate(source.snapshots):
        source.progress(number / len(source.snapshots), "search")
        try:
            studies = find_studies(source.read_index(snapshot), value)
        except (StudyRefused, sqlite3.Error) as error:
            unread += 1
            source.warn(f"The index of snapshot {snapshot['short_id']} cannot be read: {error}")
            continue
        looked += 1
        lacking = [one for one in studies if not is_held(source, one)]
        for one in studies:
            found.setdefault(one.uid, (snapshot, one))
        for one in lacking:
            found[one.uid] = (snapshot, one)
        if lacking:
            break
    source.progress(1, "search")
    if not found:
        what = f"{escape(value)!r} is in none of {looked} proven snapshots"
        if source.snapshots:
            last, first = source.snapshots[0]["moment"], source.snapshots[-1]["moment"]
            what += f", from {words.say_stamp(first)} to {words.say_stamp(last)}"
        if unread:
            what += f"; {unread} more cannot be read"
        remedy = "give the AccessionNumber or StudyInstanceUID as it was sent; orthanc-backup list shows the snapshots"
        raise StudyRefused(f"{what}. Remedy: {remedy}.")
    if len(found) > 1:
        several = "; ".join(one.describe() for _unused, one in found.values())
        what = f"{len(found)} studies have the accession number {escape(value)!r}: {several}"
        raise StudyRefused(f"{what}. Remedy: give the StudyInstanceUID of one of them to --study.")
    return next(iter(found.values()))


# --- putting it in -----------------------------------------------------------------------------
def restore_study(source: Source, value: str, dry_run: bool = False) -> dict[str, Any]:
    """Puts a study in, and reads back what is there; `left` names each image that is not readable as it was.

    Raises StudyRefused before anything is done, or when Orthanc takes no image.
    """
    snapshot, study = choose_study(source, value)
    instances = {one.instance for one in study.images}
    files = source.check_files(instances)
    states = {one.instance: compare_image(source, one, files) for one in study.images}
    wanted = [one for one in study.images if states[one.instance] in ("absent", "unreadable", "not compared")]
    result: dict[str, Any] = {
        "snapshot": snapshot["short_id"], "moment": snapshot["moment"], "study": study.uid,
        "accession": study.accession, "date": study.date, "description": study.description, "patient": study.patient,
    }  # fmt: skip
    if dry_run:
        series = Counter(one.series for one in wanted)
        result["would"] = f"restore {len(wanted)} of {len(study.images)} images"
        return {**result, "series": dict(series), "images": describe_states(study, states)}
    needed = min(sum(one.size for one in wanted), PART_BYTES + max([one.size for one in wanted], default=0))
    if needed > source.free_bytes() * 0.95:
        raise StudyRefused(
            f"The study needs {needed >> 20} MiB of space. Remedy: make space in /var/lib/orthanc-backup."
        )
    for number, (one, path) in enumerate(fetch_images(source, snapshot, wanted)):
        source.progress(number / len(wanted), "restore")
        states[one.instance] = put_in(source, one, path, states[one.instance], files)
    source.progress(1, "restore")
    files = source.check_files(instances)
    for one in study.images:
        if states[one.instance] in ("restored", "there") and not files.get(one.instance, (None, False))[1]:
            states[one.instance] = "failed: its file on the disk is not intact"
    counts = Counter(state.partition(":")[0] for state in states.values())
    left = [
        f"{one.uid} {states[one.instance]}" for one in study.images if states[one.instance] not in ("restored", "there")
    ]
    return {**result, **counts, "images": describe_states(study, states), "left": left}


def describe_states(study: Study, states: dict[str, str]) -> list[dict[str, str]]:
    """The state of each image, for whoever called the program."""
    return [{"uid": one.uid, "series": one.series, "state": states[one.instance]} for one in study.images]


def fetch_images(source: Source, snapshot: dict[str, Any], wanted: list[Image]) -> Iterator[tuple[Image, Path]]:
    """Each with its file, which goes when the next part is fetched."""
    part: list[Image] = []
    for number, one in enumerate(wanted):
        part.append(one)
        last = number + 1 == len(wanted)
        if last or len(part) == PART_FILES or sum(each.size for each in part) >= PART_BYTES:
            directory = source.fetch(snapshot, [each.path for each in part])
            yield from ((each, directory / each.path) for each in part)
            shutil.rmtree(directory)
            part = []


def compare_image(source: Source, image: Image, files: dict[str, tuple[Path, bool]]) -> str:
    """What Orthanc has in an image's place: nothing (absent), it (there), another one (differs), or a damaged file
    (unreadable); "not compared" where the index keeps no MD5."""
    if image.instance not in files:
        return "absent"
    status, data = source.ask("GET", f"/instances/{image.instance}/file", b"")
    if status != 200 or not files[image.instance][1]:
        return "unreadable"
    if not image.uncompressed_md5:
        return "not compared"
    return "there" if hash_md5(data) == image.uncompressed_md5 else "differs"


def put_in(source: Source, image: Image, path: Path, state: str, files: dict[str, tuple[Path, bool]]) -> str:
    """What became of an image: restored, there, differs, or failed with the reason."""
    try:
        data = read_image(path, image)
    except Damaged as damaged:
        return f"failed: {damaged}"
    if state == "not compared":
        return "there" if is_read_back(source, image, data) else "differs"
    if state == "unreadable":
        # Orthanc would keep row and file, and answer "already stored": the file goes aside, and the row goes
        if files[image.instance][0].exists():
            source.set_aside(files[image.instance][0])
        source.ask("DELETE", f"/instances/{image.instance}", b"")
    status, _unused = source.ask("POST", "/instances", data)
    if status == 403:
        raise StudyRefused(GUARDED)
    if status != 200:
        return f"failed: Orthanc answers {status}"
    return "restored" if is_read_back(source, image, data) else "failed: Orthanc does not return it unchanged"


def is_read_back(source: Source, image: Image, data: bytes) -> bool:
    """Whether Orthanc gives out these bytes."""
    return source.ask("GET", f"/instances/{image.instance}/file", b"") == (200, data)


def format_images(images: list[dict[str, str]]) -> list[str]:
    """Lines for a person: each image that was not simply there or restored, and how many those were by series."""
    series = Counter((one["series"], one["state"]) for one in images if one["state"].partition(":")[0] != "failed")
    lines = [f"series {escape(uid)}: {number} {state}" for (uid, state), number in series.items()]
    return lines + [f"image {escape(one['uid'])} {escape(one['state'])}" for one in images if "failed" in one["state"]]
