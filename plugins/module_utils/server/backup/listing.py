# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists snapshots: whose they are, and how a person or a restore check judged them."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from ..core import words
from ..core.errors import Refused
from ..core.journal import say
from . import history
from .restic import call_restic, has_identity, list_snapshots, read_moment
from .settings import Settings, read_archive, stamp_tomorrow
from .state import read_state, write_state


def list_archive(settings: Settings, identity: str, any_host: bool = False) -> list[dict[str, Any]]:
    """The archive's snapshots of images, proven or not."""
    tags = (f"{tag},archive={identity}" for tag in ("orthanc", "unproven"))
    return list_snapshots(settings, *tags, any_host=any_host)


def find_former_host(settings: Settings, past: history.Past) -> str:
    """The name under which the repository has the newest of this machine's snapshots, if it is another one."""
    found = list_archive(settings, past.archive, any_host=True)
    names = [one["hostname"] for one in found if identify_snapshot(one).token in past.ours]
    return next((name for name in reversed(names) if name != settings.host), "")


def identify_snapshot(snapshot: dict[str, Any]) -> history.Snapshot:
    """What decides about a snapshot; restic gives it another id with another tag, and its run's token stays."""
    tags = snapshot.get("tags") or []
    run = next((tag[4:] for tag in tags if re.fullmatch("run=[0-9a-f]{16}", tag)), "")
    token = run or snapshot.get("original", snapshot["id"])
    return history.Snapshot(snapshot["id"], token, read_moment(snapshot), "orthanc" in tags, snapshot["short_id"])


def read_past(settings: Settings) -> history.Past:
    """What this machine remembers of its archive's snapshots."""
    return history.Past.parse(read_state(settings, "history"), read_archive(settings))


def save_past(settings: Settings, past: history.Past) -> None:
    """Keeps in history.json what this machine remembers of its archive."""
    write_state(settings, "history", asdict(past))


def choose_snapshot(settings: Settings, wanted: str) -> dict[str, Any]:
    """The newest is the newest of this archive that is proven and not another machine's."""
    identity = read_archive(settings)
    if wanted == "latest":
        found = list_archive(settings, identity) if identity else list_snapshots(settings, "orthanc")
        for one in [one for one in found if read_moment(one) > stamp_tomorrow()]:  # a clock that was wrong for a day
            say(f"Snapshot {one['short_id']} is dated {words.say_stamp(read_moment(one))}, which is in the future.", 4)
        archives = {tag for one in found for tag in one["tags"] if tag.startswith("archive=")}
        if len(archives) > 1:
            what = f"{len(archives)} archives of {settings.host} are in the repository, but none on this machine"
            raise Refused(f"{what}. Remedy: choose a snapshot from orthanc-backup list.")
        newest = history.choose_latest(map(identify_snapshot, found), read_past(settings), stamp_tomorrow())
        found = [one for one in found if newest and one["id"] == newest.id]
    else:
        found = [one for one in list_snapshots(settings, "orthanc", "unproven") if has_identity(one, wanted)]
    # a mark that was cut off leaves a snapshot twice, with the same run
    found = [*{identify_snapshot(one).token: one for one in found}.values()]
    if not found:
        require_same_host(settings)
    if len(found) != 1:
        matching = (
            f"{len(found)} snapshots of {settings.host} match" if found else f"No snapshot of {settings.host} matches"
        )
        raise Refused(f"{matching} {wanted!a}. Remedy: choose one from orthanc-backup list.")
    return found[0]


def require_same_host(settings: Settings) -> None:
    """Refuses a name of which the repository has nothing while it has snapshots of others: it may be a new one."""
    names = {one["hostname"] for one in list_snapshots(settings, "orthanc", "unproven", any_host=True)}
    if names and settings.host not in names:
        what = f"The repository has no snapshot of {settings.host}, but those of {', '.join(sorted(names))}"
        remedy = "if this machine was one of these or replaces it, set orthanc_backup_host to that name and deploy"
        raise Refused(f"{what}. Remedy: {remedy}; if it is new, orthanc-backup run makes its first.")


def mark_unproven(settings: Settings, attempt: str) -> None:
    """A snapshot of a run that did not end well stands for no success; where no tag may change history.json says so."""
    for one in [] if settings.append_only else list_snapshots(settings, f"orthanc,run={attempt}"):
        call_restic(settings, "tag", "--add=unproven", "--remove=orthanc", one["id"])


def describe_snapshots(settings: Settings) -> dict[str, Any]:
    """What snapshots there are; `restic` is the id by which restic itself knows one now."""
    found, past, noted = [], read_past(settings), read_state(settings, "verified")
    for one in list_snapshots(settings, "orthanc", "unproven"):
        tags = dict(tag.split("=", 1) for tag in one["tags"] if "=" in tag)
        checked = {"verified": "", "verified_part": "", **noted.get(identify_snapshot(one).token, {})}
        identity = {"id": one["short_id"], "restic": one["id"][:8], "time": read_moment(one)}
        found.append({**identity, "proven": history.is_proven(identify_snapshot(one), past), **checked, **tags})
        if held := past.held.get(identify_snapshot(one).token):
            found[-1]["kept"] = f"{held} images that no newer snapshot holds"
    return {"snapshots": found}


def mark_verified(settings: Settings, result: dict[str, Any]) -> None:
    """The snapshot that was restored on trial carries the day, and which part of its attachments was read if not all.

    It also stands in verified.json by the token of the backup's run, which no mark changes: where nothing may be
    changed in the repository, there alone.
    """
    snapshot = choose_snapshot(settings, result["snapshot"])
    run = next((tag.removeprefix("run=") for tag in snapshot["tags"] if tag.startswith("run=")), "")
    there = {tag for one in list_snapshots(settings, "orthanc", "unproven") for tag in one["tags"]}
    part = "" if result["verified"] == result["of"] else f"{result['verified']}/{result['of']}"
    day = {"verified": result["day"], "verified_part": part}
    kept = {key: value for key, value in read_state(settings, "verified").items() if f"run={key}" in there}
    write_state(settings, "verified", {**kept, run: day})
    facts = {name: result[name] for name in ("day", "moment", "verified", "of")}
    result["last_verified"] = {"snapshot": snapshot["short_id"], **facts}
    if settings.append_only:
        return
    wanted = {f"{name}={value}" for name, value in day.items() if value}
    former = {tag for tag in snapshot["tags"] if tag.startswith(("verified=", "verified_part="))}
    marks = [*(f"--add={tag}" for tag in wanted - former), *(f"--remove={tag}" for tag in former - wanted)]
    if marks:
        call_restic(settings, "tag", "--quiet", *marks, snapshot["id"])


def find_present_id(settings: Settings, snapshot: history.Snapshot | None) -> str:
    """restic's id of a snapshot at this moment: a restore check may have marked it meanwhile. "" of none."""
    found = list_archive(settings, read_archive(settings)) if snapshot else []
    return next((one["id"] for one in found if snapshot and identify_snapshot(one).token == snapshot.token), "")


def list_proven(settings: Settings) -> list[dict[str, Any]]:
    """The proven snapshots of this archive, the newest run first; by time on a machine that remembers none."""
    past, identity = read_past(settings), read_archive(settings)
    order = {token: number for number, token in enumerate(past.ours)}
    found = list_archive(settings, identity) if identity else list_snapshots(settings, "orthanc")
    known = [
        one
        for one in found
        if history.is_proven(identify_snapshot(one), past) and (identify_snapshot(one).token in order or not order)
    ]
    return sorted(known, key=lambda one: (order.get(identify_snapshot(one).token, 0), read_moment(one)), reverse=True)
