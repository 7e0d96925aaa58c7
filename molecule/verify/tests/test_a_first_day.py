"""What a newcomer sees of a first deploy: report, overview, mails and the monitor tell the same; before other tests."""

from __future__ import annotations

import email
import email.policy
import json
import os
from pathlib import Path
from typing import Any

import page
import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core import verdict
from backups import STORAGE, done, must
from clients import wait_for
from verified import call, failed
from watched import changed, firing, look, state, stopped
from worklists import sh

FILED = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent.parent / "reports"
# of which one has a mail server, a time service and a repository
CLINIC, BARE = MACHINES = ["orthanc-verify12", "orthanc-verify13"]
BEGINNING = "/usr/local/lib/clinicops-orthanc/server/backup/beginning.py"
STATE = "/var/lib/orthanc-backup/backup.json"


def filed(machine: str) -> Any:
    return json.loads((FILED / f"{machine}.json").read_text())


def mails() -> list[str]:
    """The subject of each mail that the clinic got."""
    waiting = 'test -z "$(find /var/spool/postfix/active /var/spool/postfix/incoming -type f)"'
    wait_for(lambda: sh(CLINIC, waiting)[0] == 0, "delivery")
    box = must(CLINIC, "cat /var/mail/clinic 2>&- || true")
    parts = [part.partition("\n")[2] for part in f"\n{box}".split("\nFrom ")[1:]]
    return [str(email.message_from_string(part, policy=email.policy.default)["Subject"]) for part in parts]


@pytest.fixture(name="settled", scope="module")
def fixture_settled() -> None:
    """What needs several looks has had them."""
    for machine in MACHINES:
        look(machine, 3)


def test_the_deploy_made_the_first_backup() -> None:
    [first] = done(CLINIC, "list")["snapshots"]
    assert first["proven"]
    backup = filed(CLINIC)["backup"]
    assert backup["result"] == "success"
    assert backup["proven"]
    [check] = [one for one in filed(CLINIC)["checks"] if one["name"] == "last backup"]
    assert check["passed"]
    assert "last attempt: success" in check["seen"]
    # and a second deploy makes none
    assert done(CLINIC, "first")["first"] == "was there"
    assert len(done(CLINIC, "list")["snapshots"]) == 1


def test_each_machine_has_a_time_service() -> None:
    installed = "dpkg-query --show --showformat='${Status}' "
    assert must(BARE, f"{installed} systemd-timesyncd") == "install ok installed"
    assert must(BARE, "systemctl is-enabled systemd-timesyncd").strip() == "enabled"
    assert must(CLINIC, f"{installed} chrony") == "install ok installed"
    assert sh(CLINIC, f"{installed} systemd-timesyncd")[1] != "install ok installed"


def test_report_and_overview_say_the_same_and_fit(tmp_path: Path) -> None:
    reports = {machine: filed(machine) for machine in MACHINES}
    judged = {machine: verdict.judge(report) for machine, report in reports.items()}
    assert (judged[CLINIC].state, judged[CLINIC].reasons) == ("good", [])
    assert judged[BARE].state == "soon"
    assert "no backup is set up" in " ".join(reason.text for reason in judged[BARE].reasons)
    over = (FILED / "index.html").read_text()
    with page.browser() as chromium:
        for machine, (state, sentence, reasons) in judged.items():
            said = (FILED / f"{machine}.html").read_text()
            assert f'<p class="verdict {state}">' in said
            assert f"</svg> {sentence}</span>" in over
            # a sound server has nothing red
            for text in (said, over):
                assert 'class="icon bad"' not in text
                assert 'class="state bad"' not in text
            shows = [sentence, *(reason.text for reason in reasons if len(reasons) > 1)]
            assert page.problems(chromium, FILED / f"{machine}.html", shows, None, (390, 1280)) == []
        shows = ["1 of 2 clinics should be checked", *(verdict.sentence for verdict in judged.values())]
        assert page.problems(chromium, FILED / "index.html", shows, None, (390, 1280)) == []
        # the page on the server is of what the server saw itself, in its newest run
        assert failed(CLINIC) == set()
        own = tmp_path / "own.html"
        own.write_text(must(CLINIC, "cat /var/lib/orthanc-verify/report.html"))
        assert page.problems(chromium, own, ["Everything works"], None, (390, 1280)) == []


@pytest.mark.usefixtures("settled")
def test_what_nobody_can_change_is_one_mail_and_then_a_line() -> None:
    """Debian 12's Orthanc has vulnerabilities that Debian has not fixed."""
    standing = firing(CLINIC)
    assert {state(CLINIC)["alerts"][key]["severity"] for key in standing} <= {"info"}
    # five minutes after the deploy
    script = "import json; p = '/var/lib/orthanc-monitor/state.json'; c = json.load(open(p)); c['began'] -= 300;"
    must(CLINIC, "python3 -", f"{script} json.dump(c, open(p, 'w'))".encode())
    look(CLINIC)
    assert len(mails()) == bool(standing)
    assert all("] For information: " in subject for subject in mails())
    # a day later nobody is told again, and it is still listed
    before = mails()
    age = "[alert.update(told=alert['told'] - 2 * 86400) for alert in c['alerts'].values()]"
    with changed(CLINIC, "/var/lib/orthanc-monitor/state.json", age):
        look(CLINIC)
        assert mails() == before
    status, said = sh(CLINIC, "orthanc-monitor show")
    assert status == 0
    assert all(key.partition("/")[0] in said for key in standing)


@pytest.mark.usefixtures("settled")
def test_the_clock_is_told_with_the_reason_and_comes_back() -> None:
    assert "ClockUnsynchronised/" not in firing(CLINIC)
    with stopped(CLINIC, "chrony"):
        assert look(CLINIC, 3)["ClockUnsynchronised/"]
        report = call(CLINIC, "run")[1]
        assert report["clock"]["synchronised"] is False
        assert verdict.judge(report).state == "soon"
        assert "the clock is not synchronised" in [reason.text for reason in verdict.judge(report).reasons]
    wait_for(lambda: must(CLINIC, "chronyc -n -c tracking").strip().endswith("Normal"), "the clock")
    assert "ClockUnsynchronised/" not in look(CLINIC, 3)
    # whose clock it is that a container has
    host = must(BARE, "timedatectl show --property=NTPSynchronized --value").strip()
    assert (host == "yes") != ("ClockUnsynchronised/" in firing(BARE))
    assert host == "yes" or "its host's clock" in firing(BARE)["ClockUnsynchronised/"]


@pytest.mark.usefixtures("settled")
def test_dicom_over_tls_that_does_not_answer_is_told() -> None:
    site = "/etc/nginx/modules-enabled/90-orthanc-dicom.conf"
    standing = set(firing(CLINIC))
    must(CLINIC, f"mv {site} /root/ && systemctl reload nginx")
    try:
        assert set(look(CLINIC, 3)) - standing == {"DicomTlsDown/"}
        assert "answers REST, DICOM, HTTPS, does not answer DICOM over TLS" in sh(CLINIC, "orthanc-status")[1]
    finally:
        must(CLINIC, f"mv /root/{Path(site).name} {site} && systemctl reload nginx")
    assert "DicomTlsDown/" not in look(CLINIC, 3)


def test_a_large_first_backup_goes_on_by_itself() -> None:
    must(CLINIC, f"cp -a {STATE} /root/first.json && rm {STATE} && cp -a {BEGINNING} /root/beginning.py")
    try:
        must(CLINIC, f"sed -i 's/^WAIT_BYTES = .*/WAIT_BYTES = -1/' {BEGINNING}")
        assert done(CLINIC, "first", "--dry-run")["first"] == "would be begun"
        begun = done(CLINIC, "first")
        assert begun["first"] == "begun"
        assert "continues in the background. Remedy: no action is needed" in begun["warnings"][0]
        assert done(CLINIC, "first")["first"] in ("is at work", "was there")
        wait_for(lambda: '"success"' in sh(CLINIC, f"cat {STATE}")[1], "the first backup")
        assert done(CLINIC, "first")["first"] == "was there"
    finally:
        must(CLINIC, f"cp -a /root/beginning.py {BEGINNING}")
    # while one is at work, a deploy finds the repository all the same
    must(CLINIC, "rm -f /root/held; systemd-run --quiet --unit=held flock /var/lib/orthanc-backup/run.lock sleep 600")
    try:
        wait_for(lambda: sh(CLINIC, "flock --nonblock /var/lib/orthanc-backup/run.lock true")[0] == 1, "the lock")
        must(CLINIC, f"mv {STATE} /root/state.json")
        assert done(CLINIC, "first")["first"] == "is at work"
        assert done(CLINIC, "init")["repository"] == "was there"
    finally:
        must(CLINIC, f"systemctl stop held; mv /root/state.json {STATE}")


def test_a_machine_that_was_made_anew_waits_for_its_restore() -> None:
    """An empty archive is never added to the snapshots of the lost one by itself."""
    mark, before = f"{STORAGE}/.orthanc-archive", done(CLINIC, "list")
    must(CLINIC, f"mv {STATE} /root/state.json && mv {mark} /root/archive")
    try:
        waits = done(CLINIC, "first")
        assert waits["first"] == "waits"
        assert "orthanc-backup restore restores the last one" in waits["warnings"][0]
        assert done(CLINIC, "list") == before
        assert verdict.judge(call(CLINIC, "run")[1]).state == "soon"
    finally:
        must(CLINIC, f"mv /root/state.json {STATE}; mv /root/archive {mark}")


def test_a_first_backup_that_is_to_come_is_amber_and_one_that_failed_is_red() -> None:
    must(CLINIC, f"mv {STATE} /root/state.json")
    try:
        report = call(CLINIC, "run")[1]
        assert report["passed"]
        assert verdict.judge(report).sentence.endswith("look at: last backup: the first one is due")
        must(CLINIC, "mv /srv/backup /srv/backup-away")
        try:
            status, said = sh(CLINIC, "orthanc-backup first")
        finally:
            must(CLINIC, "rm -rf /srv/backup && mv /srv/backup-away /srv/backup")
        assert status == 1
        assert "Remedy: " in said
        status, report, _said = call(CLINIC, "run")
        assert status == 1
        [check] = [one for one in report["checks"] if not one["passed"]]
        assert check["name"] == "last backup"
        assert check["seen"].startswith("none yet, failed: ")
        assert verdict.judge(report).state == "bad"
    finally:
        must(CLINIC, f"mv /root/state.json {STATE}")
    assert failed(CLINIC) == set()
