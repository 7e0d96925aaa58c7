"""A tag that its owner moves to another image: a deploy stays with the one that it knows, and an upgrade follows."""

from __future__ import annotations

import os

import pytest
import registry
from clients import answers, inspect, name_of, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from upgraded import BEGIN, END, REFUSES

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
TAG = "26.8.1"
NAME = f"{registry.REPOSITORY}:{TAG}"
BACKUP = {"orthanc_backup_repository": "/srv/backup", "orthanc_backup_password": "scenario-backup-password"}


def read_deployed(host: Host) -> list[str]:
    """Name, identity and digest of the image that was deployed."""
    return str(host.file("/etc/orthanc/site/image").content_string).split()


def move(host: Host, program: str = "") -> str:
    """The registry gives out another image now. The machine forgets the registry's name when it starts again."""
    registry.know(name_of(host))
    return registry.move("orthanc", TAG, program)


def require_as_before(host: Host, container: str, deployed: list[str], moved: str) -> None:
    """A deploy does not touch the container, and says which image the tag is now."""
    status, said = play("deploy", host, BACKUP)
    assert status == 0, said[-3000:]
    assert f"{NAME} is another image in its registry now: {moved} instead of {deployed[2]}." in said
    assert "Remedy: run the playbook clinicops.orthanc.upgrade" in said
    assert inspect(host)["Id"] == container
    assert read_deployed(host) == deployed
    assert answers(host)


def test_a_deploy_does_not_follow_and_an_upgrade_does(host: Host) -> None:
    container, deployed = inspect(host)["Id"], read_deployed(host)
    moved = move(host)
    assert deployed[2] not in ("", moved)
    require_as_before(host, container, deployed, moved)
    status, said = play("upgrade", host, BACKUP, "--tags", "plan")
    assert status == 0, said[-3000:]
    assert (
        f"Offered: {NAME} as its registry has it now ({moved}). The tag was moved: what runs is {deployed[2]}." in said
    )
    assert " changed=0 " in said
    assert inspect(host)["Id"] == container
    status, said = play("upgrade", host, BACKUP)
    assert status == 0, said[-3000:]
    assert " passed, 0 failed" in said
    assert f"docker rmi {deployed[1]}" in said
    assert read_deployed(host)[2] == moved
    assert inspect(host)["Image"] == read_deployed(host)[1] != deployed[1]
    status, said = play("deploy", host, BACKUP)
    assert status == 0, said[-3000:]
    assert " changed=0 " in said
    assert "is another image in its registry" not in said


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            f"{BEGIN.format(program=registry.PROGRAM)}{REFUSES}{END}",
            "this build does not open an index that has images",
        ),
        ("#!/bin/sh\necho an unnamed build\n", "cannot be read (Orthanc --version prints"),
    ],
    ids=["trial", "check"],
)
def test_a_release_that_is_refused_leaves_everything_as_it_was(host: Host, program: str, reason: str) -> None:
    status, said = play("deploy", host, BACKUP)
    assert status == 0, said[-3000:]
    container, deployed = inspect(host)["Id"], read_deployed(host)
    moved = move(host, program)
    status, said = play("upgrade", host, BACKUP, "--skip-tags", "backup")
    assert status == 2, said[-3000:]
    assert reason in said, said[-3000:]
    assert "The old Orthanc was not touched." in said
    assert f"Offered: {NAME} as its registry has it now ({moved})." in said
    # the other image was pulled, and the tag on the machine is again what runs
    assert host.check_output("docker image inspect --format '{{.Id}}' %s", NAME) == deployed[1]
    require_as_before(host, container, deployed, moved)
