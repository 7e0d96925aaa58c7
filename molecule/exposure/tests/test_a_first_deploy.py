"""No moment of openness: strangers knock all the time, and an SSH connection stays open all the time."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import bed
import pytest
from clients import CLIENTS, ROOT, UNLISTED, answers, client, name_of, play, put, wait_for
from exposure import DICOM, MOVED, Knocking, appears, doors, ssh_open, ssh_stayed
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
Told = dict[str, dict[str, dict[str, Any]]]  # kind: place: door
KNOCKS = 100  # at each door and at least: they are no few that happened to be late


@pytest.fixture(scope="session")
def deploys() -> dict[str, Told]:
    """Of the first deploy, see prepare.yml. All end at once: nobody knocks while others are tested."""
    return {machine: Knocking(machine, "deploys").stop() for machine in testinfra_hosts}


def nobody_got_in(told: Told) -> None:
    for place, seen in told["stranger"].items():
        for door, one in seen.items():
            assert one.get("in", 0) == 0, (place, door, [time.ctime(when) for when in one["times"][:3]])
            assert one["knocks"] > KNOCKS, (place, door)
            print(f"{place} {door}: {one['knocks']} knocks, the longest time without {one['longest_gap']} s")
    # the same knocks where they are let in
    for place, seen in told["listed"].items():
        for door, one in seen.items():
            assert one["in"] > 0, (place, door, one)


def test_nobody_got_in_during_the_first_deploy(host: Host, deploys: dict[str, Told]) -> None:
    nobody_got_in(deploys[name_of(host)])


@pytest.mark.campaign
def test_nobody_slept_through_an_opening(host: Host, deploys: dict[str, Told]) -> None:
    """Nothing else runs beside the campaign: each stranger knocks often enough to notice a door open for a second."""
    for place, seen in deploys[name_of(host)]["stranger"].items():
        for door, one in seen.items():
            assert one["longest_gap"] < 1, (place, door)


def test_the_ssh_connection_of_before_the_first_deploy_is_open(host: Host, deploys: dict[str, Told]) -> None:
    assert ssh_stayed(name_of(host))


def test_a_door_that_is_open_for_a_moment_is_noticed(host: Host, deploys: dict[str, Told]) -> None:
    door = doors(name_of(host), 0, (DICOM,), "4")
    put(UNLISTED, "/tmp/moment.py", (ROOT / "tests/agents/knock.py").read_bytes())
    client(UNLISTED, "rm", "-f", "/tmp/moment.json", "/tmp/moment.pid")
    command = ["python3", "/tmp/moment.py", "--result", "/tmp/moment.json", "--pid", "/tmp/moment.pid", *door]
    bed.docker("exec", "--detach", UNLISTED, *command)
    appears(UNLISTED, "/tmp/moment.pid")
    # closed by the command that opened it, as soon as the kernel has let one knock in: two from here would be slower
    rule = f"inet orthanc prerouting ip saddr {CLIENTS[UNLISTED][0]} tcp dport 4242 ct state new counter accept"
    opened = f"handle=$(nft --echo --handle insert rule {rule} | sed -n 's/.*# handle //p')"
    counted = "nft --handle list chain inet orthanc prerouting | grep \"# handle $handle$\" | grep -v 'packets 0 '"
    host.check_output(
        f"{opened}; n=0; until {counted} || [ $((n += 1)) -gt 10000 ]; do sleep 0.01; done;"
        " nft delete rule inet orthanc prerouting handle $handle"
    )
    # and closed again it is
    client(UNLISTED, "sh", "-c", "kill $(cat /tmp/moment.pid)")
    appears(UNLISTED, "/tmp/moment.json")
    told = json.loads(client(UNLISTED, "cat", "/tmp/moment.json").stdout)[door[0]]
    assert told["in"] > 0
    shut = client(UNLISTED, "python3", "/tmp/moment.py", "--seconds", "0", *door)
    assert json.loads(shut.stdout)[door[0]].get("in", 0) == 0


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
    wait_for(knocking.let_in, "knocks where they are let in")
    nobody_got_in(knocking.stop())


@pytest.mark.campaign
def test_nobody_got_in_during_deploys_that_move_a_port(host: Host, deploys: dict[str, Told]) -> None:
    machine = name_of(host)
    knocking = Knocking(machine, "more-deploys")
    knocking.start()
    other = {
        "orthanc_dicom_port": MOVED,
        "orthanc_dicom_sources": ["198.51.100.44"],
        "orthanc_config_settings": {"DicomCheckModalityHost": False},
        "orthanc_waivers": {"any_address": "the portable scanner has no fixed address"},
    }
    for settings in ({}, other, {}):
        status, said = play("deploy", host, settings)
        assert status == 0, said
        assert ssh_stayed(machine)
    nobody_got_in(knocking.stop())
