"""After the year that was lived day by day: a clock that is wrong and is put right, and what is due after years."""

from __future__ import annotations

import os
import shlex
from datetime import datetime, timedelta, timezone

from backups import must
from clients import wait_for
from days import LAST, list_mails, write_item
from studies import Stored, all_readable, make, send
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import DROP, Item
from year import MACHINE, at, check, get_ready, go, is_trusted

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
AHEAD = LAST + timedelta(days=1)
TIDY = "systemctl start orthanc-worklist-tidy.service"
STUDIES: list[Stored] = []


def arrive() -> None:
    """A study arrives; all that came before are there, bit by bit."""
    STUDIES.append(make(series=1, images=2))
    send(MACHINE, STUDIES[-1])
    assert all_readable(MACHINE, *STUDIES)


def test_a_clock_that_runs_a_year_ahead_and_is_put_right() -> None:
    """The certificate is renewed in the wrong year, and again when the clock is right: clients accept it. Today's item
    is on the list again."""
    get_ready()
    item = Item("AHEAD", date=f"{AHEAD:%Y%m%d}")
    waiting = f'while [ -n "$(ls -A {DROP})" ]; do sleep 0.2; done'
    written = (write_item("ahead", item.file()), f"timeout 300 sh -c {shlex.quote(waiting)}")
    right = go(at(AHEAD, 11), run=(*written, TIDY))
    assert f"{item.study}_1.wl" in right["served"]
    wait_for(is_trusted, "the certificate of the right year")
    assert go(at(AHEAD + timedelta(days=390), 11), run=(TIDY,))["served"] == []
    wait_for(lambda: go(None)["certificate"] != right["certificate"], "the certificate of the wrong year")
    arrive()
    assert f"{item.study}_1.wl" in go(at(AHEAD, 12), run=(TIDY,))["served"]
    wait_for(is_trusted, "a certificate that is valid now")
    assert not [alert for alert in check(None, 3)["alerts"] if alert.startswith("Certificate")]
    arrive()


def test_the_certificate_is_renewed_by_its_timer_on_its_day() -> None:
    day = AHEAD + timedelta(days=397 - 30)
    before = go(at(day - timedelta(days=1), 9))["certificate"]
    assert go(at(day, 9))["certificate"] == before
    go(at(day, 13))
    wait_for(lambda: go(None)["certificate"] != before, "the next certificate")
    assert is_trusted()


def test_all_of_it_is_in_the_next_backup() -> None:
    must(MACHINE, "orthanc-backup run")
    must(MACHINE, "orthanc-backup check")
    assert all_readable(MACHINE, *STUDIES)


def test_the_end_of_the_ca_is_told_in_time_and_once() -> None:
    """Ten years after the deploy: what else the monitor says of the years without a backup is not this test's."""
    told = must(MACHINE, "openssl x509 -noout -enddate -in /etc/nginx/orthanc/ca.crt").strip().partition("=")[2]
    first = datetime.strptime(told, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc) - timedelta(days=180)

    def say(moment: datetime) -> list[tuple[str, str]]:
        seen = go((moment - timedelta(minutes=30)).timestamp(), look=moment.timestamp())
        return [mail for mail in list_mails(seen["mails"]) if mail[1] == "CertificateAuthorityExpires"]

    assert say(first - timedelta(hours=1)) == []
    assert say(first + timedelta(hours=1)) == [("Trouble", "CertificateAuthorityExpires")]
    assert say(first + timedelta(hours=2)) == []
    assert say(first + timedelta(hours=26)) == [("Still", "CertificateAuthorityExpires")]
