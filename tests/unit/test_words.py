"""Moments, durations and sizes as a person says them."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest
from server.core import words

MOMENT = datetime.datetime(2026, 11, 28, 20, 14, 59, 123456, tzinfo=datetime.timezone.utc)


def test_a_moment_is_local_and_without_seconds() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    assert words.say_moment(MOMENT, berlin) == "28 Nov 2026 21:14"
    assert words.say_moment(MOMENT.timestamp(), datetime.timezone.utc) == "28 Nov 2026 20:14"
    assert (
        words.say_moment(datetime.datetime(2026, 3, 1, 23, 5, tzinfo=datetime.timezone.utc), berlin)
        == "2 Mar 2026 00:05"
    )


def test_a_noted_moment_is_of_utc_and_something_else_stays_as_it_is() -> None:
    assert words.say_stamp("20261128T201459.123") == words.say_moment(MOMENT)
    assert words.say_stamp("latest") == "latest"
    assert words.say_stamp("") == ""
    assert words.say_day("20261128") == "28 Nov 2026"
    assert words.say_day("") == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (134, "2 min 14 s"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (3601, "1 h"),
        (86400, "1 d"),
        (86400 * 3 + 4 * 3600 + 59, "3 d 4 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, said: str) -> None:
    assert words.say_duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (131072, "131 kB"), (1.44e6, "1.4 MB"), (999.96e6, "1.0 GB")],
)
def test_a_size_has_three_digits_at_most(count: float, said: str) -> None:
    assert words.say_size(count) == said
