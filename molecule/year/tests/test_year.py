"""Moments of a year on a machine with a clock of its own, in their order: what is due runs once, nothing is lost."""

from __future__ import annotations

import os
from datetime import date, timedelta

import pytest
from backups import must
from clients import wait_for
from studies import Stored, all_readable, make, send
from testinfra.utils.ansible_runner import AnsibleRunner
from year import MACHINE, at, check, get_ready, go, is_trusted

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
LEAP_DAY, BEGINS, ENDS, AHEAD = date(2028, 2, 29), date(2028, 3, 26), date(2028, 10, 29), date(2028, 10, 30)
STUDIES: list[Stored] = []


@pytest.fixture(scope="module")
def minute() -> int:
    return get_ready()


def arrive() -> None:
    """A study arrives; all that came before are there, bit by bit."""
    STUDIES.append(make(series=1, images=2))
    send(MACHINE, STUDIES[-1])
    assert all_readable(MACHINE, *STUDIES)


def test_a_leap_day_is_a_day(minute: int) -> None:
    assert go(at(LEAP_DAY, 2, minute), "cron", "backup")["backup"]["result"] == "success"
    arrive()


def test_the_hour_that_is_left_out_has_its_backup(minute: int) -> None:
    """cron starts at three o'clock what it would have missed."""
    go(at(BEGINS, 1, 59, 50), "cron", run=("while [ $(date +%-H) -lt 3 ]; do sleep 0.2; done",))
    assert go(None, "cron", "backup", since=at(BEGINS, 3))["backup"]["result"] == "success"
    arrive()


def test_the_hour_that_comes_twice_has_one_backup(minute: int) -> None:
    first = go(at(ENDS, 2, minute), "cron", "backup")["backup"]
    assert first["result"] == "success"
    go(at(ENDS, 2, 59), "cron")
    assert go(at(ENDS, 2, minute, fold=1), "cron")["backup"] == first
    arrive()


def test_a_clock_that_runs_a_year_ahead_and_is_put_right() -> None:
    """The certificate is renewed in the wrong year, and again when the clock is right: clients accept it."""
    right = go(at(AHEAD, 11))["certificate"]
    wait_for(is_trusted, "the certificate of the right year")
    go(at(AHEAD + timedelta(days=365), 11))
    wait_for(lambda: go(None)["certificate"] != right, "the certificate of the wrong year")
    arrive()
    go(at(AHEAD, 12))
    wait_for(is_trusted, "a certificate that is valid now")
    assert not [alert for alert in check(None, 3)["alerts"] if alert.startswith("Certificate")]
    arrive()


def test_the_certificate_is_renewed_by_its_timer() -> None:
    day = AHEAD + timedelta(days=360)
    before = go(at(day, 9))["certificate"]
    go(at(day + timedelta(days=10), 9))
    wait_for(lambda: go(None)["certificate"] != before, "the next certificate")
    assert is_trusted()


def test_all_of_it_is_in_the_next_backup() -> None:
    must(MACHINE, "orthanc-backup run")
    must(MACHINE, "orthanc-backup check")
    assert all_readable(MACHINE, *STUDIES)
