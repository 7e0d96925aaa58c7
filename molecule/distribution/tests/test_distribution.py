"""Debian 12 becomes Debian 13 below an Orthanc that is in use: no image is lost, and the next deploy sets all right."""

from __future__ import annotations

import contextlib
import functools
import json
import re

import pytest
from backups import done, must, power_off
from clients import play, wait_for
from distribution import (
    ADOPTED,
    IMAGES,
    MACHINES,
    PACKAGE,
    WAIVER,
    read_commands,
    read_release,
    serves,
    upgrade_system,
)
from uninstalled import GUIDE, on_all, read_images
from upgraded import store, storing

Images = dict[str, dict[str, str]]
# what a check may not change
DESCRIBE = (
    "find /etc/apt /etc/orthanc /var/lib/apt/lists -type f ! -name '*.dpkg-old' -exec sha256sum {} + | sort;"
    " apt-mark showhold; dpkg-query --show orthanc"
)
LEFT = "find /etc -name '*.dpkg-dist' -o -name '*.dpkg-new' -o -name '*.dpkg-old' -o -name '*.ucf-dist'"


@pytest.fixture(scope="module")
def images() -> Images:
    """What each machine has when it is deployed, or was adopted: the MD5 of each image."""
    old = read_images(ADOPTED, GUIDE)
    assert old == {}
    stored = {ADOPTED: store(ADOPTED, IMAGES)}
    for status, told in on_all(lambda machine: play("deploy", machine), MACHINES).values():
        assert status == 0, told[-3000:]
    stored |= {machine: store(machine, IMAGES) for machine in MACHINES if machine != ADOPTED}
    found = on_all(read_images, MACHINES)
    assert {machine: set(uids) for machine, uids in stored.items()} == {name: set(one) for name, one in found.items()}
    return found


@pytest.fixture(scope="module")
def commands() -> dict[str, list[str]]:
    """What the playbook names for each machine, once it has."""
    return {}


def test_the_check_before_says_what_is_in_the_way(images: Images) -> None:
    before = must(PACKAGE, DESCRIBE)
    must(PACKAGE, "apt-mark hold restic && rm /etc/orthanc/credentials.json && echo >> /etc/orthanc/orthanc.json")
    status, said = play("upgrade", PACKAGE, {}, "--tags", "plan")
    assert status == 2, said[-3000:]
    assert "Installed: Debian 12, Orthanc 1.10.1 (package " in said
    assert "Offered: Debian 13 (trixie), Orthanc 1.12.7 (package " in said
    assert "Nothing was changed." in said
    assert "apt holds restic back. Remedy: apt-mark unhold restic." in said
    assert "/etc/orthanc/credentials.json (missing), /etc/orthanc/orthanc.json (changed) differ from the" in said
    assert "The upgrade to Debian 13 has no way back" in said
    assert "orthanc_waivers: {no_way_back: <your reason>}" in said
    assert " changed=0 " in said
    # as the message says
    remedy = re.search(r"put back what the package has: (apt-get install [^;]*);", said)
    assert remedy, said[-3000:]
    must(PACKAGE, f"apt-mark unhold restic && DEBIAN_FRONTEND=noninteractive {remedy[1]}")
    must(PACKAGE, "rm /etc/orthanc/orthanc.json.dpkg-old")
    wait_for(functools.partial(serves, PACKAGE), "Orthanc runs again")
    assert must(PACKAGE, DESCRIBE) == before
    assert read_images(PACKAGE) == images[PACKAGE]


def test_the_commands_come_after_a_proven_backup(images: Images, commands: dict[str, list[str]]) -> None:
    for machine, (status, said) in on_all(lambda one: play("upgrade", one, WAIVER, "--tags", "plan"), MACHINES).items():
        assert status == 0, said[-3000:]
        assert "No backup was proven within the last day" in said, said[-3000:]
        assert " changed=0 " in said, machine
    for machine, (status, said) in on_all(lambda one: play("upgrade", one, WAIVER), MACHINES).items():
        assert status == 0, said[-3000:]
        commands[machine] = read_commands(said)
    assert read_images(PACKAGE) == images[PACKAGE]


def test_the_distribution_is_upgraded_while_a_device_stores(images: Images, commands: dict[str, list[str]]) -> None:
    with contextlib.ExitStack() as devices:
        seen = {machine: devices.enter_context(storing(machine)) for machine in MACHINES}
        said = on_all(lambda machine: upgrade_system(machine, commands[machine]), MACHINES)
        for machine in MACHINES:
            assert read_release(machine) == ("13", "1.12.7"), said[machine][-3000:]
        on_all(power_off, MACHINES)
        for machine in MACHINES:
            wait_for(functools.partial(serves, machine), f"{machine} serves its device again")
    for machine in MACHINES:
        print(machine, "refused for", seen[machine]["refused"], "s;", len(seen[machine]["uids"]), "stored meanwhile")
        found = read_images(machine)
        assert [uid for uid in seen[machine]["uids"] if uid not in found] == []
        assert {uid: found.get(uid) for uid in images[machine]} == images[machine]
        images[machine] = found
        # nothing waits for an answer, and nothing is half done
        assert must(machine, "dpkg --audit") == ""
        assert must(machine, "dpkg --verify orthanc orthanc-dicomweb orthanc-python") == ""
        assert must(machine, LEFT) == ""


def test_the_next_deploy_finds_all_right(images: Images) -> None:
    for machine, (status, told) in on_all(lambda machine: play("deploy", machine), MACHINES).items():
        assert status == 0, told[-3000:]
        assert " passed, 0 failed" in told, machine
    assert on_all(read_images, MACHINES) == images
    for machine in MACHINES:
        assert must(machine, "systemctl --failed --no-legend --plain") == ""
        assert must(machine, "cat /var/lib/orthanc/db/.orthanc-version") == "1.12.7\n"


def test_a_second_deploy_changes_nothing(images: Images) -> None:
    for status, told in on_all(lambda machine: play("deploy", machine), MACHINES).values():
        assert status == 0, told[-3000:]
        assert " changed=0 " in told, told[-3000:]


def test_a_backup_of_before_is_still_good(images: Images) -> None:
    for machine in MACHINES:
        for command in ("run", "check"):
            done(machine, command)
        monitor = json.loads(must(machine, "orthanc-monitor show --json || true"))
        assert monitor
