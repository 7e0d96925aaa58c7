"""docs/measurements.md is what bench/results/*.json say, the newest of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import measurements
import pytest

RESULT: dict[str, Any] = {
    **{"id": "speed", "section": "measurement", "date": "2026-11-24", "versions": "Orthanc 1.12.7"},
    **{"command": "`make bench`", "what": "speed", "figure": "2 s", "promised": ""},
}


def test_the_page_is_up_to_date() -> None:
    assert measurements.PAGE.read_text() == measurements.write_page(measurements.read_results()), "Remedy: make docs"


def test_the_newest_of_each_is_shown_where_the_oldest_stood() -> None:
    other = {**RESULT, "id": "size", "what": "size", "figure": "3 kB"}
    newer = {**RESULT, "date": "2026-11-25", "figure": "1 s", "versions": {"python": "3.11"}}
    shown = measurements.select_newest([RESULT, other, newer])
    assert [one["figure"] for one in shown] == ["1 s", "3 kB"]
    page = measurements.write_page([RESULT, other, newer])
    assert "| speed | 1 s | | `make bench` | 2026-11-25, python 3.11 |" in page
    assert "2 s" not in page


def test_the_days_of_a_year_are_told_where_there_is_something_to_tell() -> None:
    def row(day: str, *mails: str, **more: Any) -> dict[str, Any]:
        return {"day": day, "mails": mails, "events": [], **more}

    days = [
        row("2027-11-15"),
        row("2027-11-16", "Trouble: TimerOff", events=["cron is stopped"]),
        row("2027-11-17", "Still: TimerOff"),
        row("2027-11-18", "All clear: TimerOff"),
        row("2027-11-21", snapshots=7, dropped="none"),
        row("2027-11-22", "Still: Other"),
    ]
    page = measurements.write_page([{**RESULT, "section": "campaign", "days": days}])
    assert page.splitlines()[-5:] == [
        "| --- | --- | --- | --- |",
        "| 2027-11-16 | cron is stopped | Trouble: TimerOff | |",
        "| 2027-11-18 | | All clear: TimerOff (reminders: 1) | |",
        "| 2027-11-21 | | | 7 kept; dropped: none |",
        "| | | Other (reminders: 1) until the last day | |",
    ]


def test_a_result_that_lacks_something_is_named(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(json.dumps({**RESULT, "id": "speed", "figure": "1 s"}))
    assert measurements.read_results(tmp_path) == [{**RESULT, "figure": "1 s"}]
    (tmp_path / "size.json").write_text(json.dumps([{"id": "size"}]))
    with pytest.raises(ValueError, match="size lacks section, date"):
        measurements.read_results(tmp_path)
