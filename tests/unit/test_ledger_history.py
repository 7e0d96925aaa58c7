"""Which of the ledger's snapshots count, whatever the clock said when they were made."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import ledger_history as history
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)


def snapshot(identity: str, days: float, serial: int | None = None) -> dict[str, Any]:
    time = (NOW + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.123456789+00:00")
    return {"id": identity, "time": time, "tags": ["ledger", *([] if serial is None else [f"serial={serial}"])]}


def current(*snapshots: dict[str, Any]) -> list[str]:
    return [one["id"] for one in history.find_current(snapshots, NOW)]


def test_the_number_decides_and_not_the_clock() -> None:
    found = [snapshot("a", 0, 3), snapshot("b", -9, 4), snapshot("c", 5, 1), snapshot("d", -1, 2)]
    assert current(*found) == ["b", "a"]
    assert history.find_superseded(found, NOW) == ["c", "d"]


def test_one_of_the_future_takes_no_true_one_s_place() -> None:
    assert current(snapshot("f", 9999, 9), snapshot("a", -1, 7), snapshot("b", 0, 8)) == ["f", "b", "a"]
    # without numbers, as an earlier release made them
    assert current(snapshot("f", 9999), snapshot("g", 9998), snapshot("a", -1), snapshot("b", 0)) == ["b", "a"]
    assert current(snapshot("f", 9999), snapshot("a", -1)) == ["a", "f"]


def test_those_without_a_number_are_the_oldest() -> None:
    assert current(snapshot("a", 0), snapshot("b", -5, 1), snapshot("c", -1)) == ["b", "a"]


@pytest.mark.parametrize("tags", [None, [], ["serial="], ["serial=x"], ["serial=-3"], ["serial=" + "9" * 30]])
def test_what_is_no_number_is_none(tags: Any) -> None:
    assert history.read_serial({"tags": tags}) == -1


def test_numbers_only_grow() -> None:
    there = [snapshot("a", 0, 3), snapshot("b", 0)]
    assert history.give_serial([], 0) == 1
    assert history.give_serial(there, 0) == 4
    assert history.give_serial(there, 7) == 8  # the last one did not arrive


def test_another_machine_is_known_by_its_number() -> None:
    there = [snapshot("a", 0, 3), snapshot("b", 0, 5)]
    assert [one["id"] for one in history.find_foreign(there, 4)] == ["b"]
    assert history.find_foreign(there, 5) == []
    assert history.find_foreign(there, None) == []  # after a restore nobody knows


@given(st.lists(st.tuples(st.floats(-999, 999), st.one_of(st.none(), st.integers(0, 50))), max_size=12))
def test_the_newest_true_ones_always_stay(made: list[tuple[float, int | None]]) -> None:
    found = [snapshot(str(number), days, serial) for number, (days, serial) in enumerate(made)]
    superseded = {*history.find_superseded(found, NOW)}
    true = [one for one in history.rank_snapshots(found, NOW) if history.read_time(one) <= NOW + history.AHEAD]
    assert superseded.isdisjoint(one["id"] for one in true[:2])
    assert len(found) - len(superseded) <= 4
