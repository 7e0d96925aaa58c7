"""A year day by day on a machine with a clock of its own (tests/support/days.py), and the list of what happened."""

from __future__ import annotations

import json
import os
import time
from calendar import monthrange
from datetime import date

import pytest
from days import FIRST, LAST, RESULT, Year, choose_days, describe_year
from repositories import cheapen_repository
from testinfra.utils.ansible_runner import AnsibleRunner
from year import MACHINE

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
MONTHS = [date(FIRST.year + (FIRST.month + n - 1) // 12, (FIRST.month + n - 1) % 12 + 1, 1) for n in range(13)]
BEGIN = time.monotonic()


@pytest.fixture(scope="module")
def year() -> Year:
    cheapen_repository("/srv/backup", "scenario-backup-password", MACHINE)
    year = Year(pace=os.environ.get("BED_YEAR", "weekly"))
    year.get_ready()
    return year


@pytest.mark.parametrize("month", MONTHS, ids=[f"{month:%Y-%m}" for month in MONTHS])
def test_each_day_of_the_month_is_as_it_must_be(year: Year, month: date, capsys: pytest.CaptureFixture[str]) -> None:
    last = min(LAST, month.replace(day=monthrange(month.year, month.month)[1]))
    # a line for each day, with the minutes that are left
    with capsys.disabled():
        print()
        problems = year.live_until(last)
    assert problems == []


def test_the_list_of_the_year_is_kept(year: Year) -> None:
    """It is complete, and says what was not as it must be; `make docs` writes it into docs/measurements.md."""
    assert [row["day"] for row in year.happened] == [f"{day}" for day in choose_days(FIRST, LAST, year.pace)]
    result = describe_year(year, (time.monotonic() - BEGIN) / 60, "`make campaign ONLY=year`")
    RESULT.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
