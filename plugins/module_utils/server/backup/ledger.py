# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records every quarter of an hour which studies came from which device, to know what to send again after a restore."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import Refused
from ..core.journal import say
from ..orthanc.api import Api, Unanswered
from ..orthanc.index import open_index
from . import history, ledger_history
from .listing import identify_snapshot, list_archive, read_past
from .manifest import read_content, write_rows
from .output import summarize
from .restic import call_restic, fetch_files, list_snapshots
from .settings import Settings, join_below, read_archive, stamp_now, stamp_tomorrow
from .state import read_state, record_outcome, write_state

NEW_INSTANCE = 2  # a changeType of the index
RESTART_SECONDS = 60  # an Orthanc that is being restarted is not a failure of the ledger
UNSENT_SECONDS = 2 * 3600  # a prune or a short cut of the network is not a failure of the ledger


class Study(NamedTuple):
    """A row of the ledger: what one device sent to one study. The number is the last image's in Orthanc's changes."""

    number: int
    time: str
    aet: str
    study: str
    accession: str


def query_studies(index: Path, since: int, moment: str) -> list[Study]:
    """What came after a change, by device; or after a moment, since a restore lets the numbers begin anew."""
    query = """
        SELECT ifnull((SELECT MAX(seq) FROM Changes JOIN Resources AS instance USING (internalId)
                        WHERE changeType = ? AND instance.parentId = series.internalId), 0) AS number,
               ifnull((SELECT value FROM Metadata WHERE id = study.internalId AND type = 7), '') AS time,
               ifnull((SELECT value FROM Metadata WHERE id = series.internalId AND type = 3), ''),
               (SELECT value FROM MainDicomTags
                 WHERE id = study.internalId AND tagGroup = 32 AND tagElement = 13),
               ifnull((SELECT value FROM MainDicomTags
                 WHERE id = study.internalId AND tagGroup = 8 AND tagElement = 80), '')
        FROM Resources AS study JOIN Resources AS series ON series.parentId = study.internalId
        WHERE study.resourceType = 2 AND (number > ? OR time > ?)
        ORDER BY number"""
    with open_index(index) as database:
        return [*map(Study._make, database.execute(query, (NEW_INSTANCE, since, moment[:15])))]


def read_studies(path: Path) -> list[Study]:
    """A row that cannot be read does not hold up those that can."""
    with path.open(newline="", errors="replace") as file:
        rows = [*csv.reader(file)]
    found = [Study(int(row[0]), *row[1:]) for row in rows if len(row) == len(Study._fields) and row[0].isdecimal()]
    if len(found) < len(rows):
        say(f"{path}: {len(rows) - len(found)} rows of the ledger cannot be read and were left out.", 4)
    return found


class Arrivals(NamedTuple):
    """What Orthanc's changes tell: up to which number, the last one's mark, and studies once a day and device.

    `gap`: changes were missing, and what they told was looked up otherwise; `found` studies came to light that way.
    """

    last: int
    mark: list[Any]
    studies: list[Study]
    gap: bool
    found: int


def read_changes(api: Api, since: int, noted_there: list[Any]) -> tuple[list[list[Any]], int, list[Any], bool]:
    """New images after a change, as marks; the newest number, the last change's mark, and whether changes are missing.

    `noted_there` is the mark of the change that `since` numbers, empty where it is not known.

    Orthanc numbers them without a break. Missing are those that somebody deleted (DELETE /changes, as gateways do that
    poll them), those of deleted resources, and all of another index.
    """
    images: list[list[Any]] = []
    gap = False
    if since and noted_there:
        same = [identify_change(one) for one in api.get(f"/changes?since={since - 1}&limit=1")["Changes"]]
        gap = same != [noted_there]
        if gap and same and same[0][0] == since:
            since = 0  # another index: its numbers are its own
    last = [] if gap else noted_there
    while True:
        page = api.get(f"/changes?since={since}&limit=1000")
        if page["Changes"]:
            gap = gap or page["Changes"][0]["Seq"] > since + 1
            images += [identify_change(one) for one in page["Changes"] if one["ChangeType"] == "NewInstance"]
            last = identify_change(page["Changes"][-1])
            since = last[0]
        elif page["Last"] < since:  # of an empty page it is the highest number that was ever given
            since, gap, last = 0, True, []
        else:
            missing = page["Last"] > since
            return images, page["Last"], [] if missing else last, gap or missing


def identify_change(change: dict[str, Any]) -> list[Any]:
    """What tells a change from another one with its number."""
    return [change["Seq"], change["ID"], change["Date"]]


def update_ledger(settings: Settings) -> dict[str, Any]:
    """What came since the last time, into a file a day; and the files into a snapshot of their own."""
    former = read_state(settings, "ledger")
    with record_outcome(settings, "ledger", unsent_since=former.get("unsent_since", 0)) as result:
        settings.ledger.mkdir(mode=0o700, parents=True, exist_ok=True)
        # what came before the ledger is in the first snapshot
        first = read_state(settings, "staging/manifest").get("counts", {}).get("last_change", 0)
        identity = read_archive(settings)
        if former.get("last_archive", "") not in ("", identity):
            former, first = {}, 0
        api = Api.as_administrator(settings.orthanc)
        came = await_arrivals(settings, api, former.get("last_change", first), former.get("last_mark", []))
        write_studies(settings, came.studies)
        # not before what came is on the disk
        result.update(last_change=came.last, last_mark=came.mark, last_archive=identity)
        for one in came.studies:
            say(f"received study {one.study} ({one.accession or 'no accession number'}) from {name_device(one.aet)}")
        result.update(studies=len(came.studies), gap=came.gap, looked_up=came.found)
        if came.studies and not result["unsent_since"]:
            result["unsent_since"] = int(time.time())
        if result["unsent_since"] and identity:  # an archive without a backup has none to add to
            try:
                send_ledger(settings, result, identity, former.get("last_serial"))
                result["unsent_since"] = 0
            except Refused:
                # a clock that was wrong does not hide it
                if abs(time.time() - result["unsent_since"]) > UNSENT_SECONDS:
                    raise
        if result.get("foreign"):
            what = f"Another machine writes into archive {identity[:4]}: snapshot {result['foreign']} of its ledger"
            raise Refused(
                f"{what} was not made here. Remedy: stop that machine, or give it an archive of its own with "
                "orthanc-backup run --new-archive on it."
            )
    return result


def await_arrivals(settings: Settings, api: Api, since: int, noted_there: list[Any]) -> Arrivals:
    """The same as collect_arrivals, begun anew where Orthanc is restarted before it or in the middle of it."""
    end = time.monotonic() + RESTART_SECONDS
    while True:
        try:
            api.await_answer(lambda: time.monotonic() < end)
            return collect_arrivals(settings, api, since, noted_there)
        except Unanswered:
            if time.monotonic() >= end:
                raise


def write_studies(settings: Settings, studies: list[Study]) -> None:
    """Into the file of each one's day, in the place of what stood there of that study and device."""
    for day in sorted({one.time[:8] for one in studies}):
        path = settings.ledger / f"{day}.csv"
        rows = {(one.study, one.aet): one for one in (read_studies(path) if path.exists() else [])}
        rows |= {(one.study, one.aet): one for one in studies if one.time[:8] == day}
        write_rows(path, sorted(rows.values()))


def send_ledger(settings: Settings, result: dict[str, Any], identity: str, own: int | None) -> None:
    """The ledger's files into a snapshot with the next number; `own` is the last that this machine gave."""
    there = list_snapshots(settings, f"ledger,archive={identity}")
    foreign = ledger_history.find_foreign(there, own)
    serial = ledger_history.give_serial(there, own or 0)
    result["last_serial"] = serial
    # before it is sent: after a kill -9 the number is known as this machine's
    write_state(settings, "ledger", {**read_state(settings, "ledger"), "last_serial": serial})
    tags = f"ledger,archive={identity},serial={serial}"
    call_restic(settings, "backup", "--quiet", "--host", settings.host, "--tag", tags, str(settings.ledger))
    if foreign:
        result["foreign"] = foreign[-1]["short_id"]


def collect_arrivals(settings: Settings, api: Api, since: int, noted_there: list[Any]) -> Arrivals:
    """What came after a change; `noted_there` is its mark."""
    came, last, last_mark, gap = read_changes(api, since, noted_there)
    series: dict[str, Study | None] = {}
    found: dict[tuple[str, str, str], Study] = {}

    def add(image: str, number: int, date: str) -> None:
        instance = api.get(f"/instances/{image}")
        if instance is None:  # deleted since
            return
        parent = instance["ParentSeries"]
        if parent not in series:
            series[parent] = read_study(api, parent)
        study = series[parent]
        if study:
            one = study._replace(number=number, time=date or study.time)
            found[one.time[:8], one.study, one.aet] = one
        elif api.get(f"/instances/{image}") is not None:
            what = f"Orthanc does not report to which study image {image} belongs"
            raise Refused(f"{what}. Remedy: run orthanc-backup reconcile, and see Orthanc's log.")

    if gap:
        there = list_images_in_backup(settings)
        api.close()  # Orthanc does not keep one that waits
        for image in sorted({*api.get("/instances")} - {one[1] for one in came} - there):
            add(image, last, "")
        known = {one[1:] for path in settings.ledger.glob("*.csv") for one in read_studies(path)}
        for key in [key for key, one in found.items() if one[1:] in known]:
            del found[key]
    looked_up = len(found)
    for number, image, date in came:
        add(image, number, date)
    return Arrivals(last, last_mark, [*found.values()], gap, looked_up)


def list_images_in_backup(settings: Settings) -> set[str]:
    """Orthanc's ids of the images in the newest proven snapshot of this archive: what is not in it came afterwards."""
    identity = read_archive(settings)
    found = list_archive(settings, identity) if identity else []
    newest = history.choose_latest(map(identify_snapshot, found), read_past(settings), stamp_tomorrow())
    return {image for one in found if newest and one["id"] == newest.id for image in read_content(settings, one).images}


def name_device(aet: str) -> str:
    """A device as a sentence names it."""
    return aet or "an application"


def read_study(api: Api, series: str) -> Study | None:
    """The series' study as it was last changed; None when it is gone."""
    study, metadata = api.get(f"/series/{series}/study"), api.get(f"/series/{series}/metadata?expand")
    if study is None or metadata is None:
        return None
    tags = study["MainDicomTags"]
    aet, updated = metadata.get("RemoteAET", ""), metadata.get("LastUpdate", "") or stamp_now()[:15]
    return Study(0, updated, aet, tags["StudyInstanceUID"], tags.get("AccessionNumber", ""))


def fetch_ledgers(settings: Settings, archive: str, target: Path) -> list[str]:
    """Fetches the newest ledgers of the repository that can be read; returns what cannot, in sentences: a damaged one
    must not hold up the restore of an intact snapshot."""
    now, unread = datetime.now(timezone.utc), []
    for tag in ("ledger", "orthanc", "unproven"):
        there = list_snapshots(settings, f"{tag},archive={archive}")
        for one in ledger_history.find_current(there, now):
            only = [path for path in one["paths"] if path.endswith("/ledger")]
            try:
                fetch_files(settings, one, target / one["short_id"], only)
            except Refused as refused:
                unread.append(f"{one['short_id']} ({str(refused).partition(' Remedy: ')[0]})")
                continue
            if not ledger_history.is_ahead(one, now):
                break
    what = "Studies may be missing from the list of what to send again, since a ledger cannot be read"
    return summarize(what, unread, "compare with the devices what they sent since the snapshot")


def find_received_after(settings: Settings, manifest: dict[str, Any]) -> tuple[list[Study], list[str]]:
    """From the newest ledgers that the repository has, and the one on this machine; and what could not be read."""
    found = []
    scratch = settings.directory / "ledgers"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        unread = fetch_ledgers(settings, manifest["archive"], scratch)
        for path in [*scratch.rglob("ledger/*.csv"), *settings.ledger.glob("*.csv")]:
            found += read_studies(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    last, moment = manifest["counts"]["last_change"], manifest["moment"][:15]
    # by time as well: after a restore, and on a new machine, numbers begin anew
    return [one for one in found if one.number > last or one.time > moment], unread


def group_by_device(studies: Iterable[Study]) -> list[dict[str, Any]]:
    """Each once, with the time of its last image."""
    last = {(one.aet, one.study): one for one in sorted(studies, key=lambda one: one.time)}
    return [one._asdict() for one in sorted(last.values(), key=lambda one: (one.aet, one.time))]


def put_ledger(settings: Settings, work: Path, aside: Path, manifest: dict[str, Any]) -> None:
    """The snapshot's rows, and this machine's that came later: by their time alone, since numbers begin anew."""
    if settings.ledger.exists() and not (aside / "ledger").exists():
        shutil.copytree(settings.ledger, aside / "ledger.part", dirs_exist_ok=True)
        (aside / "ledger.part").rename(aside / "ledger")
    shutil.rmtree(settings.ledger, ignore_errors=True)
    settings.ledger.mkdir(mode=0o700)
    for path in join_below(work, manifest["ledger"]).glob("*.csv"):
        rows = [one for one in read_studies(path) if one.number <= manifest["counts"]["last_change"]]
        write_rows(settings.ledger / path.name, rows)
    # what is to be sent again stays on the list of another restore; its numbers are of the index that went
    write_studies(settings, [Study(*one)._replace(number=0) for one in read_state(settings, "restore").get("came", [])])
    since = {"last_change": manifest["counts"]["last_change"], "last_archive": manifest["archive"]}
    # for the monitor: the ledger did run
    kept = {name: value for name, value in read_state(settings, "ledger").items() if name.startswith("last_success")}
    write_state(settings, "ledger", {**kept, **since})
