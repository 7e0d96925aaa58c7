"""What is too old is the same for the monitor, acceptance test and report; a look of long ago is told as such."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from backups import OWN, must
from clients import name_of, play, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from verified import failed
from watched import changed, look
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[
    :1
]  # has backups
SHARED = "/etc/clinicops-orthanc.json"


@pytest.fixture(name="machine")
def fixture_machine(host: Host) -> Iterator[str]:
    name = name_of(host)
    must(name, "systemctl stop orthanc-monitor.timer")
    wait_for(lambda: sh(name, "systemctl is-active orthanc-monitor.service")[1].strip() != "activating", "the look")
    look(name, 3)
    yield name
    must(name, "systemctl start orthanc-monitor.timer")


def test_a_monitor_that_last_looked_ten_days_ago_is_told(machine: str) -> None:
    assert "has not run a check" not in sh(machine, "orthanc-monitor show")[1]
    with changed(machine, "/var/lib/orthanc-monitor/state.json", "c['time'] -= 10 * 86400"):
        for form in ("", " --json"):
            status, said = sh(machine, f"orthanc-monitor show{form}")
            assert status == 1
            assert "The monitor has not run a check for 10 days; its results are out of date. Remedy: " in said
        assert failed(machine) == {"the monitor looks"}
        page = must(machine, "cat /var/lib/orthanc-verify/report.html")
        assert "measured 10 days before this report" in page
    # and the remedy is true
    must(machine, "systemctl enable --now orthanc-monitor.timer && systemctl start orthanc-monitor.service")
    assert "has not run a check" not in sh(machine, "orthanc-monitor show")[1]
    assert failed(machine) == set()


def test_a_limit_of_the_inventory_is_everybody_s(host: Host, machine: str) -> None:
    must(machine, "orthanc-backup run")
    must(machine, f'test "$(stat -c "%a %U" {SHARED})" = "644 root"')
    before = json.loads(must(machine, f"cat {SHARED}"))
    assert before["limits"] == {}
    try:
        with changed(machine, f"{OWN}/backup.json", "c['last_success_epoch'] = int(time.time()) - 30 * 3600"):
            assert "BackupOld/" in look(machine)
            assert failed(machine) == {"last backup"}
            status, said = play("verify", host, {"orthanc_monitor_thresholds": {"backup_hours": 50}})
            assert status == 0, said
            assert "BackupOld/" not in look(machine, 3)
            assert failed(machine) == set()
            report = json.loads(must(machine, "cat /var/lib/orthanc-verify/report.json"))
            assert report["limits"]["backup_hours"] == 50
            [check] = [check for check in report["checks"] if check["name"] == "last backup"]
            assert check["expected"].startswith("a success in the last 50 hours")
    finally:
        status, said = play("verify", host)
    assert status == 0, said
    assert json.loads(must(machine, f"cat {SHARED}")) == before
    assert failed(machine) == set()


def test_programs_of_another_version_are_not_replaced_without_a_deploy(host: Host, machine: str) -> None:
    """They read settings that an older deploy wrote."""
    program = "/usr/local/lib/clinicops-orthanc/server/core/words.py"
    must(machine, f"cp -a {program} /root/words.py && echo '# older' >> {program}")
    try:
        older = must(machine, f"sha256sum {program}")
        status, said = play("verify", host)
        assert status == 2, said
        assert "The programs on this server are not those of this collection. Nothing was changed." in said
        assert " changed=0 " in said
        assert must(machine, f"sha256sum {program}") == older
    finally:
        must(machine, f"cp -a /root/words.py {program}")
