# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a snapshot says against those before it in the same archive: decisions alone, nothing is read or run here.

Orthanc never gives an internal id twice within one index (INTEGER PRIMARY KEY AUTOINCREMENT), and the numbers in
sqlite_sequence only grow. What a predecessor held and the index does not hold any more was deleted in Orthanc exactly
when these numbers have not fallen and nothing else stands at its internal id. An index to which this applies is one
line, a `lineage`: {token: the last internal id that belongs to it, or None for the line that goes on}.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

Lineage: TypeAlias = "dict[str, int | None]"


# --- what was there ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Content:
    """What an index held at the moment of a snapshot: the internal id of each image by Orthanc's id of it.

    A manifest of format 1 knows no internal ids (0 each), no highest one (-1) and no lineage ({}). `unknown_files` lay
    there and were not in the index.
    """

    images: dict[str, int]
    last_resource: int
    last_change: int
    lineage: Lineage
    unknown_files: int = 0

    def covers(self, token: str, number: int) -> bool:
        """Whether the index, at this moment, had already given this internal id in this line."""
        if token not in self.lineage or number > self.last_resource:
            return False
        bound = self.lineage[token]
        return bound is None or number <= bound


def parse_content(manifest: dict[str, Any], rows: Iterable[Sequence[str]]) -> Content:
    """The content by a manifest of either format and the rows of its attachments.csv; ValueError, KeyError, ..."""
    images = {row[5]: int(row[6]) if len(row) > 6 else 0 for row in rows if int(row[1]) == 1}
    sequence = manifest.get("sequence", {})
    return Content(
        images,
        int(sequence.get("resources", -1)),
        int(sequence.get("changes", manifest["counts"]["last_change"])),
        dict(manifest.get("lineage", {})),
        int(manifest.get("unknown_files", 0)),
    )


def find_owner(lineage: Lineage, number: int) -> str:
    """The token of the line in which an internal id was given; "" where that is not known."""
    if not number:
        return ""
    for token, bound in sorted(lineage.items(), key=lambda item: (item[1] is None, item[1] or 0)):
        if bound is None or number <= bound:
            return token
    return ""


def fork_lineage(lineage: Lineage, at: int, token: str) -> Lineage:
    """A line of its own from this internal id on: what is given from now on is not what the other line gives."""
    kept = {name: min(at, at if bound is None else bound) for name, bound in lineage.items()} if at >= 0 else {}
    return {**kept, token: None}


# --- a snapshot against its predecessor ----------------------------------------------------------
@dataclass(frozen=True)
class Present:
    """What the index says now: the public id of every resource by its internal id, the highest numbers ever given,
    and how many of the image files that lie there it knows and does not know; the young ones it may yet learn of."""

    resources: dict[int, str]
    last_resource: int
    last_change: int
    known_files: int
    unknown_files: int
    young_files: int = 0


class Judgement(NamedTuple):
    """Why the index does not go on from its predecessor ("" when it does), the same as a tag, and how many of the
    predecessor's images were deleted in Orthanc since."""

    reason: str
    tag: str
    deleted: int


def judge_index(before: Content | None, now: Present, begun_anew: bool = False) -> Judgement:
    """Whether the index goes on from its predecessor in the archive, and explains by deletions what it lacks.

    `begun_anew`: a person said so, and files that the index does not know are no surprise.
    """
    accepted = before.unknown_files if before else 0
    if not begun_anew and now.unknown_files > max(now.known_files, accepted):
        files = now.known_files + now.unknown_files
        return Judgement(
            f"the index knows {now.known_files} of the {files} image files in the storage directory", "files", 0
        )
    if before is None:
        return Judgement("", "", 0)
    for what, old, new in (
        ("change", before.last_change, now.last_change),
        ("internal id", before.last_resource, now.last_resource),
    ):
        if new < old:
            return Judgement(f"the last {what} in the index fell from {old} to {new}", "fell", 0)
    if before.last_resource < 0:
        return Judgement("", "", 0)
    replaced, deleted = 0, 0
    ids = {public: number for number, public in now.resources.items()}
    for instance, number in before.images.items():
        there = now.resources.get(number)
        if there == instance:
            continue
        elsewhere = ids.get(instance, 0)
        # at a new internal id it was deleted and received again
        if there is not None or 0 < elsewhere <= before.last_resource:
            replaced += 1
        elif not elsewhere:
            deleted += 1
    if replaced:
        what = f"{replaced} of {len(before.images)} images have another internal id in the index, or their id is held"
        return Judgement(f"{what} by something else", "replaced", 0)
    return Judgement("", "", deleted)


def continue_lineage(before: Content | None, judgement: Judgement, others: bool, token: str) -> Lineage:
    """The lineage of a new snapshot: its predecessor's, or a new one where it does not go on from there. Where
    `others` write into the archive it leaves them at its predecessor's last internal id."""
    if before is None or judgement.reason or not before.lineage:
        return {token: None}
    return fork_lineage(before.lineage, before.last_resource, token) if others else before.lineage


# --- whose snapshots they are --------------------------------------------------------------------
@dataclass
class Past:
    """What this machine remembers of an archive's snapshots by their tokens, the oldest run first; kept outside the
    archive, since its identity moves with a copy of the disk and this is what tells two machines apart. Tokens stay
    when a repository has no such snapshot (any more): disks may take turns as the repository.

    `ours`: made or once taken over by this machine. `foreign`: a person said that they are another's. `unproven`:
    ours, and not yet, or never, found to be right; `unchecked`: those of them whose files were not verified.
    `accepted`: by whom, when and why. `restored`: what was put in place last, and the `lineage` that begins with it,
    on each disk. `held`: snapshots that the retention kept, and for how many images.
    """

    archive: str = ""
    ours: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    accepted: dict[str, dict[str, str]] = field(default_factory=dict)
    restored: str = ""
    lineage: Lineage = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: dict[str, Any], archive: str) -> Past:
        """What was noted, if it was noted of this archive; nothing otherwise."""
        if not archive or content.get("archive") != archive:
            return cls()
        return cls(**{name: content[name] for name in cls.__dataclass_fields__ if name in content})

    def note_own(self, token: str) -> None:
        """Before its snapshot exists, so that one of a run that was killed is known."""
        self.unproven = [*self.unproven, token]
        self.unchecked = [*self.unchecked, token]
        self.ours = [*self.ours, token]

    def note_checked(self, token: str) -> None:
        """The run's snapshot has everything, whatever it goes on from."""
        self.unchecked = [one for one in self.unchecked if one != token]

    def note_proven(self, token: str) -> None:
        """The run's snapshot has everything and goes on from its predecessor: the next is judged against it."""
        self.unproven = [one for one in self.unproven if one != token]

    def precedes_restore(self, token: str) -> bool:
        """Whether it was made before the last restore, or is what was restored."""
        if self.restored not in self.ours or token not in self.ours:
            return False
        return self.ours.index(token) <= self.ours.index(self.restored)

    def read_lineage(self, token: str, content: Content) -> Lineage:
        """What the successor of a snapshot continues. The restored line begins on every disk, whichever is used first:
        other lines, even up to the same internal id, may have parted from it before."""
        return self.lineage if self.precedes_restore(token) else content.lineage


class Snapshot(NamedTuple):
    """A snapshot of images: restic's id, its run's token, its time (UTC, YYYYMMDDTHHMMSS), what its tags say, and the
    id by which people know it."""

    id: str
    token: str
    time: str
    tagged_proven: bool
    name: str = ""


def is_proven(one: Snapshot, past: Past) -> bool:
    """By its tags, and by what this machine knows where it may not change a tag."""
    if one.token in past.accepted:
        return True
    return one.tagged_proven and one.token not in past.unproven and one.token not in past.foreign


def find_strangers(found: Iterable[Snapshot], past: Past) -> list[Snapshot]:
    """Snapshots of the archive that this machine neither made nor took over, and of which nobody has decided."""
    if not past.archive:
        return []
    decided = {*past.ours, *past.foreign}
    return [one for one in found if one.token not in decided]


def is_emptied(found: Iterable[Snapshot], past: Past, noted: str | None, in_use: bool) -> bool:
    """Whether a repository has none of the snapshots that this machine made and proved, though it should.

    `noted` is the archive whose proven snapshots it had, "" of a new repository, None of an unknown one. That is a
    surprise only where the last backup went to the same place (`in_use`). What others added is judged elsewhere."""
    found = [*found]
    proven = {*past.ours} - {*past.unproven, *past.foreign}
    if find_strangers(found, past) or not proven.isdisjoint(one.token for one in found):
        return False
    return in_use and bool(proven) if noted is None else noted == past.archive


def choose_latest(found: Iterable[Snapshot], past: Past, horizon: str) -> Snapshot | None:
    """The newest proven snapshot: by the order of this machine's runs, which no clock changes; on a machine that
    remembers nothing by time, without what is dated later than `horizon`."""
    proven = [one for one in found if is_proven(one, past)]
    if past.archive:
        order = {token: number for number, token in enumerate(past.ours)}
        return max((one for one in proven if one.token in order), key=lambda one: order[one.token], default=None)
    return max((one for one in proven if one.time <= horizon), key=lambda one: one.time, default=None)


def choose_predecessor(found: Iterable[Snapshot], past: Past, horizon: str) -> Snapshot | None:
    """What the next snapshot goes on from: what was restored in place, or the newest proven one."""
    found = [*found]
    latest = choose_latest(found, past, horizon)
    if latest and not past.precedes_restore(latest.token):
        return latest
    return next((one for one in found if past.restored and one.token == past.restored), latest)


def adopt_snapshots(archive: str, found: Iterable[Snapshot], horizon: str = "9", inherited: Iterable[str] = ()) -> Past:
    """The past of a machine that remembers none: everything that is there is taken over, in the order of time; what is
    dated later than `horizon` stands for nothing newer. `inherited` is what was made before, in other repositories too.
    """
    by_time = sorted(found, key=lambda one: (one.time <= horizon, one.time))
    tokens, unchecked = [one.token for one in by_time], [one.token for one in by_time if not one.tagged_proven]
    return Past(archive, ours=[*(one for one in inherited if one not in {*tokens}), *tokens], unchecked=unchecked)


def record_restored(
    manifest: dict[str, Any], restored: Snapshot, found: Iterable[Snapshot], past: Past, token: str, whole: bool = True
) -> Past:
    """The past after a restore in place: what is there now is taken over, and what the snapshot's machine had made by
    then, on other disks too. The next snapshot is judged against the one that was restored, of which it begins a new
    line (`token`). What a restore left out that was not `whole` nobody deleted: the new line knows nothing of those
    before."""
    archive = str(manifest["archive"])
    before = past if past.archive == archive else Past(archive)
    decided, number = {*before.ours, *before.foreign, restored.token}, manifest.get("sequence", {}).get("resources", -1)
    new = [one.token for one in sorted(found, key=lambda one: one.time) if one.token not in decided]
    inherited = [one for one in manifest.get("ours", []) if one not in {*decided, *new}]
    return replace(
        before,
        ours=[*inherited, *(one for one in before.ours if one != restored.token), *new, restored.token],
        foreign=[one for one in before.foreign if one != restored.token],
        restored=restored.token,
        lineage=fork_lineage(dict(manifest.get("lineage", {})) if whole else {}, number, token),
    )


def record_accepted(past: Past, accepted: Snapshot, found: Iterable[Snapshot], how: dict[str, str]) -> Past:
    """The past after a person accepted a snapshot of this machine's: what others wrote into the archive is theirs."""
    others = [one.token for one in find_strangers(found, past)]
    new = replace(past, foreign=[*past.foreign, *others], accepted={**past.accepted, accepted.token: how})
    new.note_proven(accepted.token)
    return new
