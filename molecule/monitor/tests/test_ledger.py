"""The ledger of what was received: what a clock, a gateway and a stopped timer do to it; and the day of a check."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from backups import OWN, STORAGE, configured, done, must, restic, service, state
from clients import ADDRESSES, PASSWORDS, client, example, put, wait_for
from testinfra.utils.ansible_runner import AnsibleRunner
from verified import call
from watched import PROBE, changed, healthy, look, quiet, stopped
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
TIMER = "orthanc-ledger.timer"
OLD = "c['last_success_epoch'] = int(time.time()) - 3 * 3600"


@pytest.fixture(scope="module", params=testinfra_hosts)
def machine(request: pytest.FixtureRequest) -> Iterator[str]:
    """With a backup, and nobody else who writes the ledger."""
    name = str(request.param)
    must(name, f"systemctl stop {TIMER} orthanc-ledger.service")
    done(name, "run")
    done(name, "ledger")
    yield name
    must(name, f"systemctl start {TIMER}")


def store(machine: str) -> str:
    """A new study of us1; its UID."""
    put(PROBE, "/tmp/study.dcm", example().read_bytes())
    make = "/usr/bin/dcmodify --no-backup --gen-stud-uid --gen-ser-uid --gen-inst-uid /tmp/study.dcm"
    send = f"/usr/bin/storescu -xe -aet US1 -aec ORTHANC {ADDRESSES[machine][0]} 4242 /tmp/study.dcm"
    tell = "/usr/bin/dcmdump +P 0020,000d /tmp/study.dcm"
    stored = client(PROBE, "sh", "-ec", f"{make}; {send}; {tell}")
    assert stored.returncode == 0, stored.stderr
    return stored.stdout.decode().partition("[")[2].partition("]")[0]


ASK = """
import base64, http.client, sys
user, method, path = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 8042)
connection.request(method, path, headers={"Authorization": "Basic " + base64.b64encode(user.encode()).decode()})
answer = connection.getresponse()
assert answer.status == 200, answer.status
print(answer.read().decode())
"""


def ask(machine: str, method: str, path: str) -> str:
    return must(machine, f"python3 - it:{PASSWORDS['it']} {method} '{path}'", ASK.encode())


def resend(machine: str) -> dict[str, str]:
    """What a restore of the newest snapshot would ask for again: the device of each study."""
    found: list[dict[str, str]] = done(machine, "restore", "--dry-run")["resend"]
    return {one["study"]: one["aet"] for one in found}


def forgotten(machine: str) -> dict[str, str]:
    """The same, when the machine's own ledger is gone with it: by the repository alone."""
    must(machine, f"mv {OWN}/ledger {OWN}/ledger-away && mkdir {OWN}/ledger")
    try:
        return resend(machine)
    finally:
        must(machine, f"rmdir {OWN}/ledger && mv {OWN}/ledger-away {OWN}/ledger")


def ledgers(machine: str) -> list[Any]:
    status, said = restic(machine, "snapshots", "--json", "--tag", "ledger")
    assert status == 0, said
    found: list[Any] = json.loads(said)
    return found


def ahead(machine: str, *tags: str) -> str:
    """A snapshot of an empty ledger of this archive, made by a clock that is wrong; its id."""
    archive = must(machine, "cat /var/lib/orthanc/db/.orthanc-archive").strip()
    before = {one["id"] for one in ledgers(machine)}
    must(machine, "mkdir -p /root/empty/ledger")
    host = json.loads(must(machine, "cat /etc/orthanc-backup.json"))["host"]
    every = ",".join(["ledger", f"archive={archive}", *tags])
    arguments = ["--host", host, "--tag", every, "--time", "'2099-01-01 00:00:00'", "/root/empty/ledger"]
    status, said = restic(machine, "backup", "--quiet", *arguments)
    assert status == 0, said
    [new] = [one["id"] for one in ledgers(machine) if one["id"] not in before]
    return str(new)


NUMBERED = "import json; p = '/var/lib/orthanc-backup/ledger.json'; c = json.load(open(p)); "
NUMBERED += "c['last_serial'] = {}; json.dump(c, open(p, 'w'))"


# --- the clock ----------------------------------------------------------------------------------
def test_a_snapshot_of_the_future_hides_nothing_and_takes_no_place(machine: str) -> None:
    ahead(machine)
    studies = set()
    for _ in range(2):
        studies.add(store(machine))
        done(machine, "ledger")
    true = {one["id"] for one in ledgers(machine) if not one["time"].startswith("2099")}
    assert studies <= set(forgotten(machine))
    for _ in range(2):
        ahead(machine)
    done(machine, "check")
    left = ledgers(machine)
    kept = {one["id"] for one in left if not one["time"].startswith("2099")}
    assert len(kept & true) == 2
    assert studies <= set(forgotten(machine))


def test_a_snapshot_of_the_future_that_was_numbered_is_passed(machine: str) -> None:
    """As this machine made it before its clock was put right."""
    serials = [int(tag[7:]) for one in ledgers(machine) for tag in one["tags"] if tag.startswith("serial=")]
    before = max(serials, default=0)
    ahead(machine, f"serial={before + 1}")
    must(machine, f"python3 -c {shlex.quote(NUMBERED.format(before + 1))}")
    study = store(machine)
    done(machine, "ledger")
    assert forgotten(machine)[study] == "US1"
    done(machine, "check")
    assert forgotten(machine)[study] == "US1"


def test_another_machine_in_the_archive_is_told(machine: str) -> None:
    serials = [int(tag[7:]) for one in ledgers(machine) for tag in one["tags"] if tag.startswith("serial=")]
    other = ahead(machine, f"serial={max(serials) + 3}")
    study = store(machine)
    status, said = sh(machine, "orthanc-backup ledger 2>&1")
    assert status == 1
    assert "Another machine writes into archive" in said
    assert other[:8] in said
    assert forgotten(machine)[study] == "US1"  # and nothing is lost by that
    assert done(machine, "ledger")["result"] == "success"


# --- changes that are gone ------------------------------------------------------------------------
def test_what_a_gateway_deletes_from_the_changes_is_in_the_ledger(machine: str) -> None:
    done(machine, "run")
    studies = {store(machine), store(machine)}
    ask(machine, "DELETE", "/changes")
    said = done(machine, "ledger")
    assert resend(machine) == dict.fromkeys(studies, "US1")
    assert (said["gap"], said["looked_up"], said["studies"]) == (True, 2, 2)
    assert forgotten(machine) == dict.fromkeys(studies, "US1")
    # once
    again = done(machine, "ledger")
    assert (again["gap"], again["studies"]) == (False, 0)


def test_changes_that_came_after_the_deleted_ones_hide_nothing(machine: str) -> None:
    done(machine, "run")
    first = store(machine)
    ask(machine, "DELETE", "/changes")
    second = store(machine)
    said = done(machine, "ledger")
    assert resend(machine) == {first: "US1", second: "US1"}
    assert (said["gap"], said["looked_up"], said["studies"]) == (True, 1, 2)


def test_what_a_user_deleted_is_no_alarm(machine: str) -> None:
    done(machine, "run")
    gone, stays = store(machine), store(machine)
    [study] = [one for one in json.loads(ask(machine, "GET", "/studies?expand")) if gone in json.dumps(one)]
    ask(machine, "DELETE", f"/studies/{study['ID']}")
    done(machine, "ledger")
    assert resend(machine) == {stays: "US1"}


def test_an_index_that_was_replaced_is_read_from_its_beginning(machine: str) -> None:
    done(machine, "run")
    done(machine, "ledger")
    service(machine, "stop")
    must(machine, f"mkdir /root/index && mv {STORAGE}/index* /root/index")
    service(machine, "start")
    healthy(machine)
    try:
        study = store(machine)
        said = done(machine, "ledger")
        assert resend(machine)[study] == "US1"
        assert (said["gap"], said["last_change"] < 100) == (True, True)
        for one in json.loads(ask(machine, "GET", "/studies")):
            ask(machine, "DELETE", f"/studies/{one}")
    finally:
        service(machine, "stop")
        must(machine, f"rm {STORAGE}/index* && mv /root/index/* {STORAGE} && rmdir /root/index")
        service(machine, "start")
        healthy(machine)
    # and again
    second = store(machine)
    done(machine, "ledger")
    assert resend(machine)[second] == "US1"
    done(machine, "run")


def test_after_a_failed_backup_the_last_proven_one_counts(machine: str) -> None:
    """What lies in staging is then of no snapshot."""
    done(machine, "run")
    study = store(machine)
    must(machine, "mv /srv/backup /srv/backup-away")
    try:
        assert sh(machine, "orthanc-backup run")[0] == 1
    finally:
        must(machine, "mv /srv/backup-away /srv/backup")
    ask(machine, "DELETE", "/changes")
    done(machine, "ledger")
    assert resend(machine)[study] == "US1"
    done(machine, "run")


# --- nobody writes it -----------------------------------------------------------------------------
def failed(machine: str) -> dict[str, Any]:
    """The checks of the acceptance test that fail, of which one is that the monitor looked a moment ago."""
    look(machine)
    _status, report, said = call(machine, "run")
    assert report, said
    return {check["name"]: check for check in report["checks"] if not check["passed"]}


def test_a_ledger_that_stopped_is_told(machine: str) -> None:
    must(machine, f"systemctl start {TIMER}")
    wait_for(lambda: sh(machine, "systemctl is-active orthanc-ledger.service")[1].strip() == "inactive", "the ledger")
    assert failed(machine) == {}
    quiet(machine)
    with stopped(machine, TIMER), changed(machine, f"{OWN}/ledger.json", OLD):
        found = look(machine, 10)
        wrong = failed(machine)
    assert "3 hours" in found["LedgerOld/"]
    assert list(found) == ["LedgerOld/", f"TimerOff/{TIMER}"]
    assert list(wrong) == ["last ledger of what was received"]
    [check] = wrong.values()
    assert f"{TIMER} is stopped" in check["seen"]
    assert f"systemctl enable --now {TIMER}" in check["remedy"]
    assert failed(machine) == {}
    assert look(machine, 3) == {}


def test_a_stopped_timer_alone_is_told(machine: str) -> None:
    for timer in ("orthanc-restore-check.timer", "orthanc-worklist-tidy.timer", "orthanc-certificate.timer"):
        with stopped(machine, timer):
            assert list(look(machine, 3)) == [f"TimerOff/{timer}"]
        assert look(machine, 3) == {}


def test_a_ledger_that_fails_is_told(machine: str) -> None:
    must(machine, f"systemctl stop {TIMER}")
    with changed(machine, f"{OWN}/ledger.json", "c['result'] = 'failed'; c['reason'] = 'no space left'"):
        found, wrong = look(machine), failed(machine)
    must(machine, f"systemctl start {TIMER}")
    assert found["LedgerFailed/"] == "no space left"
    assert "last ledger of what was received" in wrong
    assert failed(machine) == {}
    assert look(machine, 3) == {}


def test_a_restore_that_nobody_ended_is_told(machine: str) -> None:
    must(machine, f"touch -d '20 minutes ago' {OWN}/restore.json")
    try:
        assert list(look(machine)) == ["RestoreInterrupted/"]
    finally:
        must(machine, f"rm {OWN}/restore.json")
    assert look(machine, 3) == {}


# --- the day ----------------------------------------------------------------------------------------
def test_a_snapshot_carries_the_day_on_which_it_was_verified(machine: str) -> None:
    ran = done(machine, "run")
    [before] = [one for one in done(machine, "list")["snapshots"] if one["id"] == ran["snapshot"]]
    assert before["verified"] == ""
    assert "never verified" in must(machine, f"orthanc-backup list | grep ^{ran['snapshot']}")
    checked = done(machine, "check")
    day = must(machine, "date -u +%Y%m%d").strip()
    assert (checked["snapshot"], checked["day"]) == (ran["snapshot"], day)
    # by the id that the backup told, whatever restic calls it since
    [after] = [one for one in done(machine, "list")["snapshots"] if one["id"] == ran["snapshot"]]
    assert (after["verified"], after["verified_part"], after["run"]) == (day, "", before["run"])
    line = must(machine, f"orthanc-backup list | grep ^{ran['snapshot']}")
    shown = must(machine, "date -u '+%-d %b %Y'").strip()
    assert f"verified {shown}" in line
    assert done(machine, "restore", "--dry-run", "--snapshot", ran["snapshot"])["snapshot"] == ran["snapshot"]
    assert restic(machine, "snapshots", "--json", after["restic"])[0] == 0
    # the report says which, when, and how much
    _status, report, _said = call(machine, "run")
    seen = report["backup"]["restore_check"]["verified"]
    assert (seen["snapshot"], seen["day"], seen["verified"]) == (ran["snapshot"], day, seen["of"])
    assert report["backup"]["proven"].replace("-", "").replace(":", "")[:15] == state(machine, "backup")["moment"][:15]
    page = must(machine, "cat /var/lib/orthanc-verify/report.html")
    assert f"snapshot {ran['snapshot']}" in page
    assert f"{seen['of']} of {seen['of']} attachments" in page


def test_where_nothing_may_be_changed_the_day_is_noted_here(machine: str) -> None:
    other = configured(machine, append_only=True)
    ran = done(machine, "run")
    tagged = restic(machine, "snapshots", "--json", "--tag", f"run={state(machine, 'backup')['run']}")[1]
    done(machine, "check", config=other)
    assert restic(machine, "snapshots", "--json", "--tag", f"run={state(machine, 'backup')['run']}")[1] == tagged
    [one] = [one for one in done(machine, "list")["snapshots"] if one["id"] == ran["snapshot"]]
    assert one["verified"] == must(machine, "date -u +%Y%m%d").strip()


def test_a_sample_is_not_told_for_the_whole(machine: str) -> None:
    done(machine, "run")
    size = state(machine, "staging/manifest")
    bytes_, index = size["counts"]["bytes"], size["index"]["size"]
    checked = done(machine, "check", config=configured(machine, scratch_bytes=2 * index + bytes_ // 2))
    assert 0 < checked["verified"] < checked["of"]
    [one] = [one for one in done(machine, "list")["snapshots"] if one["id"] == checked["snapshot"]]
    assert one["verified_part"] == f"{checked['verified']}/{checked['of']}"
    said = must(machine, "orthanc-backup list")
    assert f"({checked['verified']} of {checked['of']} attachments)" in said
