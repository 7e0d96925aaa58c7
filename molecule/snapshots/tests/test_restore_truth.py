"""What a restore in place leaves as it is, what it refuses before anything stops, and the way back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

import pytest
from backups import OWN, STORAGE, Attempt, answers, backup, done, kill_9, main_process, must, refused, service
from clients import PASSWORDS, ask_index, wait_for
from server.orthanc.index import STATISTICS
from studies import Stored, all_readable, ask, file_of, identifier, make, readable, send
from testinfra.utils.ansible_runner import AnsibleRunner
from watched import statistics_gone
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
SITE = "/etc/orthanc/site/orthanc.json"
FACTS = "/etc/clinicops-orthanc.json"
CRL, WORKLISTS = "/etc/nginx/orthanc/ca.crl", "/var/lib/orthanc/worklists"
UNIT = "/etc/systemd/system/orthanc.service.d/clinicops.conf"
# an item as the gate writes it, in explicit VR: enough of it for its day
ITEM = "printf '@\\0\\2\\0DA\\10\\0%s' $(date -d '{day}' +%Y%m%d) > {path}"


# the other one is the campaign's
@pytest.fixture(params=[testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)])
def machine(request: pytest.FixtureRequest) -> Iterator[str]:
    name = str(request.param)
    yield name
    must(name, f"rm -rf {STORAGE}/.set-aside-*")


@pytest.fixture(scope="module")
def studies() -> dict[str, Stored]:
    return {}


def edit(machine: str, change: str) -> None:
    """Orthanc's configuration, by a line of Python that changes `it`; the container has the same file mounted."""
    script = f"import json; p = {SITE!r}; it = json.load(open(p)); {change}; json.dump(it, open(p, 'w'))"
    must(machine, "python3 -", script.encode())


@contextlib.contextmanager
def configuration(machine: str, *files: str) -> Iterator[None]:
    """These files are afterwards as they were, and Orthanc runs with them."""
    for file in files:
        must(machine, f"cp -p {file} /root/{file.rpartition('/')[2]}.before")
    try:
        yield
    finally:
        for file in files:
            must(machine, f"cat /root/{file.rpartition('/')[2]}.before > {file}")
        must(machine, "systemctl daemon-reload; systemctl reset-failed orthanc; true")
        service(machine, "restart")
        wait_for(lambda: answers(machine), "Orthanc", 120)


def signs_in(machine: str, user: str, password: str) -> bool:
    return ask(machine, "GET", "/dicom-web/studies?limit=1", user=f"{user}:{password}")[0] == 200


def restarted(machine: str) -> None:
    service(machine, "restart")
    wait_for(lambda: answers(machine), "Orthanc", 120)


def test_old_passwords_and_revocations_do_not_come_back(machine: str) -> None:
    study = make()
    send(machine, study)
    made = sh(machine, f"test -e {CRL}")[0] != 0  # where no device comes over TLS
    must(machine, f"test -e {CRL} || echo revoked > {CRL}")
    past, here = (f"{WORKLISTS}/{make().uid}_1.wl" for _ in range(2))
    must(machine, ITEM.format(day="yesterday", path=past))
    must(machine, ITEM.format(day="today", path=here))
    snapshot = done(machine, "run")["snapshot"]
    must(machine, f"rm {past} {here}")
    with configuration(machine, SITE, CRL):
        edit(machine, "it['RegisteredUsers']['viewer'] = 'since-the-snapshot'")
        edit(machine, "it['RegisteredUsers'].pop('gateway')")
        must(machine, f"echo revoked since >> {CRL}")
        restarted(machine)
        before = must(machine, f"sha256sum {SITE} {CRL}")

        said = done(machine, "restore", "--snapshot", snapshot)

        assert must(machine, f"sha256sum {SITE} {CRL}") == before
        assert all_readable(machine, study)
        assert signs_in(machine, "viewer", "since-the-snapshot")
        assert not signs_in(machine, "viewer", PASSWORDS["viewer"])
        assert not signs_in(machine, "gateway", PASSWORDS["gateway"])
        kept = {one["path"]: one["why"] for one in said["kept"]}
        assert {SITE, CRL, past} <= {*kept}
        assert said["valid_again"] == []
        # to compare: the snapshot's lie beside the data that was set aside
        copies = f"{said['set_aside']}/restored{OWN}/staging/paths"
        assert PASSWORDS["viewer"] in must(machine, f"cat {copies}{SITE}")
        # what was taken off the list since then stays off it, and is at hand to be submitted again
        assert said["put_in_place"] == []
        assert kept[past] == "its date has passed"
        assert "not on this machine's list any more" in kept[here]
        assert sh(machine, f"test -e {past} || test -e {here}")[0] != 0
        must(machine, f"test -s {copies}{here}")
    if made:
        must(machine, f"rm {CRL}")


def test_a_machine_without_a_configuration_says_who_may_log_in_again(machine: str) -> None:
    study = make()
    send(machine, study)
    snapshot = done(machine, "run")["snapshot"]
    was = must(machine, f"sha256sum {SITE}")
    service(machine, "stop")
    must(machine, f"mv {SITE} /root/lost.json")
    attempt = Attempt(machine, "restore", "--snapshot", snapshot)
    status, said = attempt.end()
    assert status == 0, (said, attempt.said)
    assert must(machine, f"sha256sum {SITE}") == was
    assert all_readable(machine, study)
    assert "user it (admin)" in said["valid_again"]
    assert "made valid again: user it (admin)" in attempt.said
    assert PASSWORDS["it"] not in attempt.said + json.dumps(said)


def test_an_index_from_before_its_statistics_has_them_again(machine: str) -> None:
    study = make()
    with statistics_gone(machine):
        assert ask_index(machine)["rows"] == {}
        send(machine, study)
        snapshot = done(machine, "run")["snapshot"]
    done(machine, "restore", "--snapshot", snapshot)
    assert ask_index(machine)["rows"] == {name: numbers for (_table, name), numbers in STATISTICS.items()}
    assert all_readable(machine, study)


def test_another_storage_directory_is_refused_before_anything_stops(machine: str) -> None:
    """The configuration that would be in force afterwards does not have what is restored."""
    done(machine, "run")
    process = main_process(machine)
    with configuration(machine, SITE):
        edit(machine, "it['StorageDirectory'] = it['IndexDirectory'] = '/var/lib/orthanc/elsewhere'")
        said = refused(machine, "restore")
        assert "orthanc_storage_dir" in said
        assert "/var/lib/orthanc/elsewhere" in said
        assert main_process(machine) == process
        assert "orthanc_storage_dir" in refused(machine, "restore", "--dry-run")
    assert sh(machine, f"test -e {OWN}/restore.json")[0] != 0


def test_a_machine_with_another_storage_directory_takes_the_data(machine: str) -> None:
    if machine.endswith("13"):
        return  # a container has its directories from when it was made: the test before this one is its own
    study = make()
    send(machine, study)
    snapshot = done(machine, "run")["snapshot"]
    other = "/var/lib/orthanc/other"
    with configuration(machine, SITE, UNIT, FACTS):
        service(machine, "stop")
        must(machine, f"sed -i 's#{STORAGE}#{other}#g' {SITE} {UNIT} {FACTS}")
        must(machine, f"install -d -o orthanc -g orthanc -m 750 {other} && cp -p {STORAGE}/.orthanc-storage {other}/")
        must(machine, "systemctl daemon-reload")
        restarted(machine)
        assert readable(machine, study) == []
        said = done(machine, "restore", "--snapshot", snapshot)
        assert said["set_aside"].startswith(other)
        assert all_readable(machine, study)
        assert f"{other}" in must(machine, f"cat {SITE}")
        # a repair finds the file in a snapshot of the other directory
        lost = must(machine, f"find {other}/[0-9a-f][0-9a-f] -type f | head -1").strip()
        must(machine, f"rm {lost}")
        assert [*done(machine, "reconcile", "--repair")["repaired"]] == [lost.rpartition("/")[2]]
        must(machine, f"test -s {lost}")
    must(machine, f"rm -r {other}")
    assert all_readable(machine, study)


def test_a_new_data_disk_is_refused_with_the_command_that_prepares_it(machine: str) -> None:
    study = make()
    send(machine, study)
    snapshot = done(machine, "run")["snapshot"]
    service(machine, "stop")
    # as mkfs and mount leave it
    must(machine, f"find {STORAGE} -mindepth 1 -delete; chown root:root {STORAGE}; mkdir -m 700 {STORAGE}/lost+found")
    for options in ([], ["--dry-run"]):
        said = refused(machine, "restore", "--snapshot", snapshot, *options)
        assert "orthanc_storage_dir" in said
        assert "mount the data disk" in said
    assert must(machine, f"ls -A {STORAGE}").split() == ["lost+found"]
    must(machine, said.rpartition("prepare it: ")[2].strip())
    done(machine, "restore", "--snapshot", snapshot)
    assert all_readable(machine, study)


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "killed"])
def test_the_way_back_is_one(machine: str, cut: bool) -> None:
    """Orthanc does not come up on what is restored: what was there takes its place again, and runs."""
    snapshot = done(machine, "run")["snapshot"]
    study, script = make(), f"{STORAGE}/since.lua"
    send(machine, study)
    with configuration(machine, SITE):
        # a file of after the moment, without which Orthanc does not start
        must(machine, f"touch {script} && chown orthanc: {script}")
        edit(machine, f"it['LuaScripts'].insert(0, {script!r})")
        restarted(machine)
        must(machine, "systemctl start orthanc-ledger")  # its timer comes 15 minutes after this
        rows = must(machine, f"cat {OWN}/ledger/*.csv | sort")
        assert study.uid in rows
        attempt = Attempt(machine, "restore", "--snapshot", snapshot)
        if cut:
            wait_for(lambda: sh(machine, f"ls -d {STORAGE}/.set-aside-*.not-restored")[0] == 0, "the way back", 120)
            kill_9(machine)
            attempt.end()
            wait_for(lambda: sh(machine, f"test -e {OWN}/restore.json")[0] != 0, "the rest of the way back", 120)
        else:
            status, said = attempt.end()
            assert status == 1
            assert "in its place again, and Orthanc answers" in "".join(said["problems"])
            assert all("Remedy: " in problem for problem in said["problems"])
        wait_for(lambda: answers(machine), "Orthanc", 120)
        assert all_readable(machine, study)
        assert sh(machine, f"test -e {OWN}/restore.json")[0] != 0
        assert must(machine, f"cat {OWN}/ledger/*.csv | sort") == rows
    must(machine, f"rm {script}")
    done(machine, "run")


def test_what_an_incomplete_restore_lacks_can_be_sent_again(machine: str) -> None:
    study = make(series=1)
    send(machine, study)
    lost = next(iter(study.files))
    must(machine, f"mv {file_of(machine, lost)} /root/lost-image")
    backup(machine, "run")  # says so, and leaves a snapshot that is not proven
    newest = done(machine, "list")["snapshots"][-1]["id"]
    said = done(machine, "restore", "--snapshot", newest, "--incomplete")
    assert [one["study"] for one in said["resend"]].count(study.uid) == 1
    assert identifier(machine, lost) == ""
    send(machine, study)
    assert all_readable(machine, study)
    done(machine, "run")
