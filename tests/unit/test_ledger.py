"""What the ledger makes of Orthanc's changes, and what a restore leaves in it. With Orthanc: the scenario `monitor`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from server.backup import ledger
from server.backup.ledger import Study, put_ledger, read_changes, read_studies
from server.backup.manifest import write_rows
from server.backup.settings import ARCHIVE, join_below
from server.backup.state import write_state
from server.core.errors import Refused
from server.orthanc.api import Account, Api, Unanswered
from test_backup import make_settings


class Changes:
    """Orthanc's answers about changes: what is left of them, and the highest number that was ever given."""

    def __init__(self, newest: int, left: dict[int, str]) -> None:
        self.newest, self.left = newest, left

    def get(self, path: str) -> dict[str, Any]:
        options = dict(part.split("=") for part in path.partition("?")[2].split("&") if "=" in part)
        after = [number for number in sorted(self.left) if number > int(options.get("since", 0))]
        page = after[-1:] if path.endswith("?last") else after[: int(options["limit"])]
        found = [
            {"Seq": number, "ID": self.left[number], "Date": "20261128T120000", "ChangeType": "NewInstance"}
            for number in page
        ]
        return {"Changes": found, "Last": found[-1]["Seq"] if found else self.newest}


def orthanc(newest: int, left: dict[int, str]) -> Any:
    """What stands for Orthanc's REST API."""
    return Changes(newest, left)


def mark(number: int, image: str) -> list[Any]:
    return [number, image, "20261128T120000"]


ALL = {number: f"image{number}" for number in range(1, 11)}


@pytest.mark.parametrize(
    ("left", "newest", "since", "there", "came", "gap"),
    [
        (ALL, 10, 0, [], [*range(1, 11)], False),
        (ALL, 10, 7, mark(7, "image7"), [8, 9, 10], False),
        (ALL, 10, 10, mark(10, "image10"), [], False),
        ({}, 0, 0, [], [], False),
        # deleted, all of them or those before a number
        ({}, 10, 7, mark(7, "image7"), [], True),
        ({9: "image9", 10: "image10"}, 10, 7, mark(7, "image7"), [9, 10], True),
        ({8: "image8", 9: "image9"}, 10, 7, [], [8, 9], True),
        # where the last one is not known, as after a restore, a number alone is missed
        ({9: "image9"}, 9, 7, [], [9], True),
        ({8: "image8"}, 8, 7, [], [8], False),
        # another index: its numbers are lower, or the number is another change's
        ({1: "new1", 2: "new2"}, 2, 7, mark(7, "image7"), [1, 2], True),
        ({number: f"new{number}" for number in range(1, 10)}, 9, 7, mark(7, "image7"), [*range(1, 10)], True),
        ({}, 0, 7, [], [], True),
    ],
)
def test_missing_changes_are_noticed(
    left: dict[int, str], newest: int, since: int, there: list[Any], came: list[int], gap: bool
) -> None:
    found, last, last_mark, missing = read_changes(orthanc(newest, left), since, there)
    assert [one[0] for one in found] == came
    assert (last, missing) == (newest, gap)
    # the next time nothing is missing
    again = read_changes(orthanc(newest, left), last, last_mark)
    assert (again[0], again[3]) == ([], False)


def test_changes_of_many_pages_have_no_gap() -> None:
    left = {number: f"image{number}" for number in range(1, 2501)}
    found, last, _mark, gap = read_changes(orthanc(2500, left), 0, [])
    assert (len(found), last, gap) == (2500, 2500, False)


def test_what_is_to_be_sent_again_stays_listed_after_a_restore(tmp_path: Path) -> None:
    own = make_settings(tmp_path)
    own.ledger.mkdir(parents=True)
    work, aside = tmp_path / "work", tmp_path / "aside"
    aside.mkdir()
    kept = join_below(work, str(own.ledger))
    kept.mkdir(parents=True)
    before = Study(5, "20261127T080000", "US1", "1.2.3", "A1")
    after = Study(12, "20261128T090000", "US2", "1.2.4", "A2")
    write_rows(kept / "20261127.csv", [before])
    write_state(own, "restore", {"came": [after]}, 0o600)
    manifest = {"ledger": str(own.ledger), "archive": "0" * 16, "counts": {"last_change": 7}}
    put_ledger(own, work, aside, manifest)
    found = [one for path in sorted(own.ledger.glob("*.csv")) for one in read_studies(path)]
    assert found == [before, after._replace(number=0)]
    # a restore of the same snapshot lists it again, and one of a newer snapshot does not
    assert [one for one in found if one.number > 7 or one.time > "20261127T100000"] == [after._replace(number=0)]
    assert [one for one in found if one.number > 7 or one.time > "20261128T100000"] == []


def test_a_repository_that_is_away_is_told_although_the_clock_was_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_settings(tmp_path)
    (own.storage / ARCHIVE).write_text(f"{'0' * 16}\n")
    write_state(own, "ledger", {"unsent_since": int(time.time()) + 365 * 86400})

    def fail(*_arguments: Any) -> None:
        raise Refused("The repository does not answer. Remedy: none.")

    monkeypatch.setattr(Api, "as_administrator", lambda *_arguments: Api(Account(1, "it", "secret")))
    monkeypatch.setattr(ledger, "await_arrivals", lambda *_arguments: ledger.Arrivals(0, [], [], False, 0))
    monkeypatch.setattr(ledger, "send_ledger", fail)
    with pytest.raises(Refused, match="The repository does not answer"):
        ledger.update_ledger(own)


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_a_restart_in_the_middle_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: int) -> None:
    tries: list[int] = []

    arrivals = ledger.Arrivals(7, [], [], False, 0)

    def collect(*_arguments: Any) -> ledger.Arrivals:
        tries.append(1)
        if len(tries) <= restarts:
            raise Unanswered("Connection reset by peer")
        return arrivals

    monkeypatch.setattr(Api, "await_answer", lambda *_arguments: None)
    monkeypatch.setattr(ledger, "collect_arrivals", collect)
    api = Api(Account(1, "it", "secret"))
    assert ledger.await_arrivals(make_settings(tmp_path), api, 0, []) == arrivals
    assert len(tries) == restarts + 1


def test_an_orthanc_that_does_not_come_back_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RESTART_SECONDS", 0.1)
    with pytest.raises(Unanswered, match="Orthanc does not answer"):
        ledger.await_arrivals(make_settings(tmp_path), Api(Account(1, "it", "secret")), 0, [])
