"""No moment of openness: strangers knock all the time, and an SSH connection stays open all the time."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import bed
import pytest
from clients import ROOT, UNLISTED, answers, name_of, play, put, wait_for
from exposure import DICOM, MOVED, Knocking, doors, ssh_open, ssh_stayed
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
Told = dict[str, dict[str, dict[str, Any]]]  # kind: place: door


@pytest.fixture(scope="session")
def deploys() -> dict[str, Told]:
    """Of the first deploy, see prepare.yml. All end at once: nobody knocks while others are tested."""
    return {machine: Knocking(machine, "deploys").stop() for machine in testinfra_hosts}


def nobody_got_in(told: Told, knocks: int) -> None:
    for place, seen in told["stranger"].items():
        for door, one in seen.items():
            assert one.get("in", 0) == 0, (place, door, [time.ctime(when) for when in one["times"][:3]])
            assert one["knocks"] > knocks, (place, door)
            # two cores do all of this; nobody slept through an opening
            assert one["longest_gap"] < 1, (place, door)
    # the same knocks where they are let in
    for place, seen in told["listed"].items():
        for door, one in seen.items():
            assert one["in"] > 20, (place, door, one)


def test_nobody_got_in_during_the_first_deploy(host: Host, deploys: dict[str, Told]) -> None:
    nobody_got_in(deploys[name_of(host)], 2000)


def test_the_ssh_connection_of_before_the_first_deploy_is_open(host: Host, deploys: dict[str, Told]) -> None:
    assert ssh_stayed(name_of(host))


def test_a_door_that_is_open_for_a_moment_is_noticed(host: Host, deploys: dict[str, Told]) -> None:
    door = doors(name_of(host), 0, (DICOM,), "4")
    put(UNLISTED, "/tmp/moment.py", (ROOT / "tests/testbed/knock.py").read_bytes())
    command = ["docker", "exec", UNLISTED, "python3", "/tmp/moment.py", "--seconds", "3", *door]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as knocking:
        time.sleep(1)
        # opened and closed by one command: two from here would be slower
        rule = "inet orthanc prerouting tcp dport 4242 counter accept"
        handle = f"nft --echo --handle insert rule {rule} | sed -n 's/.*# handle //p'; sleep 0.05"
        host.check_output(f"nft delete rule inet orthanc prerouting handle $({handle})")
        told = json.loads(knocking.communicate()[0])[door[0]]
    assert 0 < told["in"] < 100
    assert told["silent"] > 100


def test_nobody_got_in_during_reloads_and_a_reboot(host: Host, deploys: dict[str, Told]) -> None:
    machine = name_of(host)
    knocking = Knocking(machine, "reboot")
    knocking.start()
    for _ in range(5):
        host.check_output("systemctl reload orthanc-firewall")
    assert ssh_stayed(machine)
    bed.docker("restart", machine)
    ssh_open(machine)  # the machine's end was its end
    wait_for(lambda: answers(host), "Orthanc after the reboot")
    time.sleep(3)  # of knocks where they are let in
    nobody_got_in(knocking.stop(), 300)


@pytest.mark.campaign
def test_nobody_got_in_during_deploys_that_move_a_port(host: Host, deploys: dict[str, Told]) -> None:
    machine = name_of(host)
    knocking = Knocking(machine, "more-deploys")
    knocking.start()
    other = {"orthanc_dicom_port": MOVED, "orthanc_dicom_sources": ["198.51.100.44"]}
    for settings in ({}, other, {}):
        status, said = play("deploy", host, settings)
        assert status == 0, said
        assert ssh_stayed(machine)
    nobody_got_in(knocking.stop(), 5000)
