"""What the inventory no longer has takes away what was made for it."""

from __future__ import annotations

import os

from backups import must
from clients import name_of, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import sh

# by the scenario's inventory this one has neither backup, mail, Prometheus nor writers
testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]

SWITCHED_ON = {
    "orthanc_backup_repository": "/srv/backup",
    "orthanc_backup_password": "scenario-backup-password",
    "orthanc_monitor_mail_to": ["it@clinic.example"],
    "orthanc_monitor_smtp": {"host": "198.51.100.99", "user": "orthanc", "password": "scenario-mail-password"},
    "orthanc_monitor_prometheus": True,
    "orthanc_monitor_prometheus_sources": ["198.51.100.98"],
}
FILES = (
    "/etc/cron.d/orthanc-backup",
    "/etc/orthanc-backup.json",
    "/etc/orthanc-backup.password",
    "/usr/local/sbin/orthanc-backup",
    "/etc/systemd/system/orthanc-ledger.timer",
    "/etc/systemd/system/orthanc-restore-check.timer",
    "/etc/systemd/system/orthanc-restore.service",
    "/etc/msmtprc",
    "/etc/systemd/system/prometheus-node-exporter.service.d/orthanc.conf",
)
TIMERS = "orthanc-ledger.timer orthanc-restore-check.timer"


def list_there(machine: str) -> list[str]:
    return [path for path in FILES if sh(machine, f"test -e {path}")[0] == 0]


def test_what_is_switched_off_leaves_nothing_that_runs_or_opens(host: Host) -> None:
    machine = name_of(host)
    assert list_there(machine) == []
    status, said = play("deploy", host, SWITCHED_ON)
    assert status == 0, said
    assert list_there(machine) == list(FILES)
    assert must(machine, f"systemctl is-active {TIMERS} prometheus-node-exporter").split() == ["active"] * 3
    assert "9100" in must(machine, "nft list table inet orthanc")
    kept = must(machine, "ls /srv/backup/snapshots")

    status, said = play("deploy", host)
    assert status == 0, said
    assert list_there(machine) == []
    assert "active" not in sh(machine, f"systemctl is-active {TIMERS} prometheus-node-exporter")[1].split()
    assert sh(machine, "systemctl is-enabled prometheus-node-exporter")[0] != 0
    assert must(machine, "ss --listening --tcp --numeric --no-header sport = 9100") == ""
    assert must(machine, "systemctl --failed --plain --no-legend") == ""
    assert must(machine, "ls /srv/backup/snapshots") == kept
    assert kept
