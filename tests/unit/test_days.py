"""What a year day by day is compared with (tests/support/days.py), for cases whose answer is known."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock

import pytest
from days import (
    ACCEPTANCE,
    BEGINS,
    ENDS,
    EXPECTED,
    FIRST,
    LAST,
    PLAN,
    TRIALS,
    Alert,
    Year,
    choose_days,
    describe_figure,
    expect_mails,
    expect_support,
    is_served,
    keep_snapshots,
    list_mails,
)
from server.backup.retention import Dated, apply_policy

DAYS = [date(2027, 11, 15) + timedelta(days=number) for number in range(366)]


def test_the_plan_is_a_year_with_its_leap_day() -> None:
    assert (DAYS[0], DAYS[-1]) == (FIRST, LAST)
    assert date(2028, 2, 29) in DAYS


@pytest.mark.parametrize(
    ("number", "keep", "kept"),
    [
        (0, {"daily": 2}, []),
        (1, {"daily": 2}, [0]),
        (5, {"daily": 2}, [3, 4]),
        # Sundays are 6 and 13; the oldest stays, so that there will be three weeks
        (16, {"weekly": 3}, [6, 13, 15]),
        (14, {"weekly": 3}, [0, 6, 13]),
        # months end on 15 (November) and 46 (December)
        (48, {"daily": 1, "monthly": 2}, [46, 47]),
    ],
)
def test_what_is_kept(number: int, keep: dict[str, int], kept: list[int]) -> None:
    assert keep_snapshots({*DAYS[:number]}, keep) == {DAYS[one] for one in kept}


def test_what_is_kept_is_kept_again() -> None:
    """A year of Sundays, each with what the one before has left."""
    there: set[date] = set()
    for day in DAYS:
        there.add(day)
        if day.weekday() == 6:
            there = keep_snapshots(there, {"daily": 14, "weekly": 8, "monthly": 12})
            assert there == keep_snapshots(there, {"daily": 14, "weekly": 8, "monthly": 12})
    # the two days since the last Sunday, 14 before them, 6 Sundays before those, and 10 ends of months
    assert len(there) == 32


@pytest.mark.parametrize("seed", range(20))
def test_the_product_keeps_the_same(seed: int) -> None:
    """Its policy and this one were written apart; some nights have no snapshot."""
    rng, there, keep = random.Random(seed), {FIRST}, {"daily": 14, "weekly": 8, "monthly": 12}
    for day in DAYS:
        there |= {day} if rng.random() < 0.9 else set()
        if day.weekday() == 6:
            found = [Dated("", f"{one}", datetime.combine(one, clock(2), timezone.utc)) for one in there]
            gone = {
                one.time.date() for one in apply_policy(found, keep, datetime.combine(day, clock(12), timezone.utc))
            }
            assert keep_snapshots(there, keep) == there - gone
            there -= gone


MAIL = """\
From orthanc-monitor@orthanc-year Mon Jan 10 19:30:00 2028
Subject: [Clinic Orthanc] Trouble: A unit that starts a regular task is stopped and 1 more
Content-Transfer-Encoding: quoted-printable

Trouble, warning: A unit that starts a regular task is stopped, disabled or =
missing (orthanc-restore-check.timer).
  TimerOff since 10 January 2028, 19:30
  Remedy: systemctl enable --now with its name.

All clear, critical: The last backup is old.
  BackupOld since 9 January 2028, 19:30

orthanc-year (pacs.clinic.example). More on the machine: orthanc-monitor show
"""


def test_what_the_mails_say() -> None:
    assert list_mails(MAIL) == [("Trouble", "TimerOff"), ("All clear", "BackupOld")]
    assert list_mails("") == []


def test_what_the_mails_should_say() -> None:
    alerts = [Alert("A", DAYS[1], DAYS[3]), Alert("B", DAYS[2], DAYS[3])]
    said = [expect_mails(DAYS[number], DAYS[number + 1], alerts, {"A": DAYS[number]}) for number in range(4)]
    assert said == [
        [("Trouble", "A")], [("Still", "A"), ("Trouble", "B")], [("All clear", "A"), ("All clear", "B")], []
    ]  # fmt: skip
    # days that are left out
    assert expect_mails(DAYS[0], DAYS[2], alerts, {}) == [("Trouble", "A"), ("Trouble", "B")]
    assert expect_mails(DAYS[0], DAYS[4], alerts, {}) == []


def test_on_which_days_a_mail_reminds() -> None:
    """Each day of the first week, and then once a week; also if days are left out."""
    last, reminded = DAYS[0], []
    for number in (1, 5, 6, 7, 8, 12, 13, 14, 21, 28):
        said = expect_mails(DAYS[number - 1], DAYS[number], [Alert("A", DAYS[0], DAYS[-1])], {"A": last})
        if said:
            assert said == [("Still", "A")]
            last = DAYS[number]
            reminded.append(number)
    assert reminded == [1, 5, 6, 13, 21, 28]


def test_which_days_are_lived() -> None:
    assert choose_days(FIRST, LAST, "daily") == DAYS
    some = choose_days(FIRST, LAST, "planned")
    assert {*PLAN, BEGINS, ENDS, *ACCEPTANCE, *TRIALS, LAST, date(2028, 2, 29)} < {*some}
    # what is on the day that is left out must not begin or end on it
    assert {one.first for one in EXPECTED} | {one.clear for one in EXPECTED} < {*some}
    assert len(some) < 40
    with pytest.raises(ValueError, match="monthly must be one of"):
        choose_days(FIRST, LAST, "monthly")
    assert {*choose_days(FIRST, LAST, "weekly")} == {*some} | {day for day in DAYS if day.weekday() == 6}


def test_when_the_support_ends() -> None:
    csv = "version,codename,series,created,release,eol,eol-lts,eol-elts\n"
    csv += "12 LTS,Bookworm,bookworm,2021-08-14,2023-06-10,2026-06-10,2028-06-30,2033-06-30\n"
    soon, over = expect_support(csv)
    assert (soon.first, over.first) == (date(2028, 4, 2), date(2028, 7, 1))


def test_what_is_on_the_list() -> None:
    assert [is_served(DAYS[0], day, False) for day in (DAYS[0], DAYS[7], DAYS[8])] == [True, True, False]
    assert not is_served(DAYS[0], DAYS[0], True)


def test_a_problem_does_not_end_the_year() -> None:
    year = Year()
    year.expect(False, "nothing")
    assert year.problems == ["2027-11-14: nothing"]


def test_a_day_that_ends_early_does_not_end_the_year(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is wrong is told, until the machine lives no day any more."""
    year = Year(pace="weekly")
    broken = {DAYS[0], DAYS[13], DAYS[20]}

    def live_day(year: Year) -> None:
        year.happened.append({"day": f"{year.day}", "events": [], "mails": []})
        if year.day in broken:
            raise AssertionError("no answer")

    monkeypatch.setattr(Year, "live_day", live_day)
    assert year.live_until(DAYS[6]) == [f"{DAYS[0]}: the day ended early: AssertionError: no answer"]
    with pytest.raises(AssertionError, match="the last days ended early"):
        year.live_until(DAYS[27])
    assert [row["day"] for row in year.happened] == [f"{DAYS[number]}" for number in (0, 6, 13, 20)]


def test_how_far_the_year_is() -> None:
    year = Year(day=FIRST, took=[30.0], happened=[{"day": f"{FIRST}"}])
    said = 'day 1 of 366 took 30 s, about 182 min are left: {"day": "2027-11-15"}'
    assert year.describe_progress() == said


def test_the_disk_fills_as_steadily_if_days_are_left_out() -> None:
    for pace, most in (("daily", 2 * 366), ("weekly", 366)):
        year, found = Year(pace=pace), 0
        for day in choose_days(FIRST, LAST, pace):
            year.before, year.day = year.day, day
            found += year.count_images(random.Random(7))
        assert 366 <= found <= most


def test_what_is_said_of_the_year() -> None:
    row = {"day": "2027-11-15", "backup": "02:05", "stored": 1, "mails": ["Trouble: TimerOff"], "expired": 2}
    year = Year(happened=[row, {"day": "2027-11-21", "events": [], "mails": []}])
    assert describe_figure(year, 2).startswith("2 of the 7 days from 2027-11-15 to 2027-11-21 in 2 min: 1 backups, ")
    assert describe_figure(year, 2).endswith("on its day and once")
    year.problems = ["2027-11-21: no backup"]
    assert describe_figure(year, 2).endswith("**Not as it must be**: 2027-11-21: no backup")
