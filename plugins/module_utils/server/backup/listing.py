# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which snapshots there are, whose they are, and what a person or a restore check has said of them."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from ..core import words
from ..core.journal import say
from . import history
from .restic import moment_of, restic, snapshots, wanted_by
from .settings import Refused, Settings, archive, tomorrow
from .state import note, state


def of_archive(settings: Settings, identity: str) -> list[dict[str, Any]]:
    """The archive's snapshots of images, proven or not."""
    return snapshots(settings, *(f"{tag},archive={identity}" for tag in ("orthanc", "unproven")))


def seen(snapshot: dict[str, Any]) -> history.Snapshot:
    """What decides about a snapshot; restic gives it another id with another tag, and its run's token stays."""
    tags = snapshot.get("tags") or []
    run = next((tag[4:] for tag in tags if re.fullmatch("run=[0-9a-f]{16}", tag)), "")
    token = run or snapshot.get("original", snapshot["id"])
    return history.Snapshot(snapshot["id"], token, moment_of(snapshot), "orthanc" in tags, snapshot["short_id"])


def past_of(settings: Settings) -> history.Past:
    """What this machine remembers of its archive's snapshots."""
    return history.Past.parse(state(settings, "history"), archive(settings))


def remember(settings: Settings, past: history.Past) -> None:
    note(settings, "history", asdict(past))


def chosen(settings: Settings, wanted: str) -> dict[str, Any]:
    """The newest is the newest of this archive that is proven and not another machine's."""
    identity = archive(settings)
    if wanted == "latest":
        found = of_archive(settings, identity) if identity else snapshots(settings, "orthanc")
        for one in [one for one in found if moment_of(one) > tomorrow()]:  # a clock that was wrong for a day
            say(f"Snapshot {one['short_id']} is dated {words.say_stamp(moment_of(one))}, which is in the future.", 4)
        archives = {tag for one in found for tag in one["tags"] if tag.startswith("archive=")}
        if len(archives) > 1:
            what = f"{len(archives)} archives of {settings.host} are in the repository, and this machine has none yet"
            raise Refused(f"{what}. Remedy: choose a snapshot of orthanc-backup list.")
        newest = history.choose_latest(map(seen, found), past_of(settings), tomorrow())
        found = [one for one in found if newest and one["id"] == newest.id]
    else:
        found = [one for one in snapshots(settings, "orthanc", "unproven") if wanted_by(one, wanted)]
    # a mark that was cut off leaves a snapshot twice, with the same run
    found = [*{seen(one).token: one for one in found}.values()]
    if len(found) != 1:
        raise Refused(f"{len(found)} snapshots of {settings.host} are {wanted!a}. Remedy: see orthanc-backup list.")
    return found[0]


def disowned(settings: Settings, attempt: str) -> None:
    """A snapshot of a run that did not end well stands for no success; where no tag may change history.json says so."""
    for one in [] if settings.append_only else snapshots(settings, f"orthanc,run={attempt}"):
        restic(settings, "tag", "--add=unproven", "--remove=orthanc", one["id"])


def listed(settings: Settings) -> dict[str, Any]:
    """What snapshots there are; `restic` is the id by which restic itself knows one now."""
    found, past, noted = [], past_of(settings), state(settings, "verified")
    for one in snapshots(settings, "orthanc", "unproven"):
        tags = dict(tag.split("=", 1) for tag in one["tags"] if "=" in tag)
        checked = {"verified": "", "verified_part": "", **noted.get(seen(one).token, {})}
        identity = {"id": one["short_id"], "restic": one["id"][:8], "time": moment_of(one)}
        found.append({**identity, "proven": history.is_proven(seen(one), past), **checked, **tags})
        if held := past.held.get(seen(one).token):
            found[-1]["kept"] = f"{held} images that no newer snapshot holds"
    return {"snapshots": found}


def mark_verified(settings: Settings, result: dict[str, Any]) -> None:
    """The snapshot that was restored on trial carries the day, and which part of its attachments was read if not all.

    It also stands in verified.json by the token of the backup's run, which no mark changes: where nothing may be
    changed in the repository, there alone.
    """
    snapshot = chosen(settings, result["snapshot"])
    run = next((tag.removeprefix("run=") for tag in snapshot["tags"] if tag.startswith("run=")), "")
    there = {tag for one in snapshots(settings, "orthanc", "unproven") for tag in one["tags"]}
    part = "" if result["verified"] == result["of"] else f"{result['verified']}/{result['of']}"
    day = {"verified": result["day"], "verified_part": part}
    kept = {key: value for key, value in state(settings, "verified").items() if f"run={key}" in there}
    note(settings, "verified", {**kept, run: day})
    facts = {name: result[name] for name in ("day", "moment", "verified", "of")}
    result["last_verified"] = {"snapshot": snapshot["short_id"], **facts}
    if settings.append_only:
        return
    wanted = {f"{name}={value}" for name, value in day.items() if value}
    former = {tag for tag in snapshot["tags"] if tag.startswith(("verified=", "verified_part="))}
    marks = [*(f"--add={tag}" for tag in wanted - former), *(f"--remove={tag}" for tag in former - wanted)]
    if marks:
        restic(settings, "tag", "--quiet", *marks, snapshot["id"])


def present_id(settings: Settings, snapshot: history.Snapshot | None) -> str:
    """restic's id of a snapshot at this moment: a restore check may have marked it meanwhile. "" of none."""
    found = of_archive(settings, archive(settings)) if snapshot else []
    return next((one["id"] for one in found if snapshot and seen(one).token == snapshot.token), "")


def proven_first(settings: Settings) -> list[dict[str, Any]]:
    """The proven snapshots of this archive, the newest run first; by time on a machine that remembers none."""
    past, identity = past_of(settings), archive(settings)
    order = {token: number for number, token in enumerate(past.ours)}
    found = of_archive(settings, identity) if identity else snapshots(settings, "orthanc")
    known = [one for one in found if history.is_proven(seen(one), past) and (seen(one).token in order or not order)]
    return sorted(known, key=lambda one: (order.get(seen(one).token, 0), moment_of(one)), reverse=True)
