"""What goes wrong is named, and nothing else is accused; when it is right again, that is told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest
import watched
from backups import OWN, done
from testinfra.utils.ansible_runner import AnsibleRunner
from watched import look, quiet

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
Fault = Callable[[str], contextlib.AbstractContextManager[None]]
HOURS = "c['last_success_epoch'] = int(time.time()) - 30 * 3600"
FAULTS: dict[str, tuple[Fault, str]] = {
    "Orthanc stopped": (watched.orthanc_stopped, "OrthancStopped/"),
    "plugin missing": (watched.plugin_missing, "PluginMissing/worklists"),
    "certificate 10 days from expiry": (lambda machine: watched.certificate(machine, 10), "CertificateExpires/proxy"),
    "backup 30 hours old": (lambda machine: watched.changed(machine, f"{OWN}/backup.json", HOURS), "BackupOld/"),
    "restore check failed": (watched.restore_check_failed, "RestoreCheckFailed/"),
    "clock off": (lambda machine: watched.stopped(machine, "chrony"), "ClockUnsynchronised/"),
    "mount gone": (watched.mount_gone, "MountGone/"),
    "worklist quarantined": (watched.item_refused, "WorklistQuarantine/"),
    "index locked": (watched.index_locked, "IndexLocked/"),
    "index without statistics": (watched.statistics_gone, "IndexWithoutStatistics/"),
    "nginx down": (lambda machine: watched.stopped(machine, "nginx"), "ProxyDown/"),
    "firewall table deleted": (watched.firewall_gone, "FirewallGone/"),
    "a listed device rejected": (watched.device_rejected, "DeviceRejected/us1"),
    "log disk full": (watched.log_disk_full, "DiskAlmostFull/log"),
    "restart loop": (watched.restart_loop, "RestartLoop/"),
    "a new vulnerability": (watched.new_vulnerability, "KnownVulnerabilities/"),
}
LASTS = ("restart loop", "a listed device rejected", "mount gone", "index locked")


@pytest.fixture(
    scope="module", params=[testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)]
)
def machine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    watched.receive()  # a webhook that nobody takes is told, too
    for command in ("run", "check"):
        done(name, command)
    quiet(name)
    return name


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_nothing_else(machine: str, fault: str) -> None:
    named(machine, fault, *FAULTS[fault])


# Orthanc 1.12.9 and later count them
@pytest.mark.campaign
@pytest.mark.parametrize("machine", testinfra_hosts[1:], indirect=True)
def test_exhausted_threads_are_named(machine: str) -> None:
    named(machine, "threads exhausted", watched.threads_busy, "ThreadsExhausted/dicom")


def named(machine: str, fault: str, make: Fault, alert: str) -> None:
    assert look(machine) == {}
    with make(machine):
        found = look(machine, 3)
    print(f"{machine}: {fault}: {found}")
    assert list(found) == [alert]
    # what counts within an hour is over in an hour, when all of it has been seen
    ahead = 3700 if fault in LASTS else 0
    if ahead:
        look(machine)
    assert look(machine, 3, ahead) == {}
