"""Disks that take turns as the repository: one that is away, a new one, a new machine, and snapshots that vanish."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

import pytest
from backups import PASSWORD, STORAGE, answers, configured, done, held, listed, must, refused, restic, stored
from clients import wait_for
from repositories import cheapen_repository
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
PLACE, OWN = "/mnt/turns", "/var/lib/orthanc-backup-turns"


@pytest.fixture(params=[testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)])
def machine(request: pytest.FixtureRequest) -> Iterator[str]:
    name = str(request.param)
    must(name, f"mkdir -p {PLACE} /root/disks/1 /root/disks/2")
    done(name, "run")
    yield name
    must(name, f"rm -rf {OWN} /root/disks {PLACE} {STORAGE}/.set-aside-*")
    done(name, "run")


@contextlib.contextmanager
def plugged(machine: str, disk: int) -> Iterator[None]:
    must(machine, f"mount --bind /root/disks/{disk} {PLACE}")
    yield
    must(machine, f"umount {PLACE}")


def forget_machine(machine: str) -> str:
    """The system's disk is a new one."""
    must(machine, f"rm -rf {OWN}")
    return configured(machine, "/root/turns.json", repository=f"{PLACE}/clinic", directory=OWN)


def make(machine: str, config: str, *new: str) -> None:
    assert done(machine, "init", *new, config=config)["repository"] == "made"
    cheapen_repository(f"{PLACE}/clinic", PASSWORD, machine)


def test_disks_take_turns(machine: str) -> None:
    config = forget_machine(machine)
    with plugged(machine, 1):
        make(machine, config)
        done(machine, "run", config=config)

    # somebody deploys while no disk is there
    assert "so no new repository is created" in refused(machine, "init", config=config)
    assert "mount its disk" in refused(machine, "run", config=config)
    assert must(machine, f"ls -A {PLACE}") == ""

    with plugged(machine, 2):
        refused(machine, "init", config=config)
        make(machine, config, "--new")
        done(machine, "run", config=config)
    stored(machine, 1)
    for disk in (1, 2, 1):
        with plugged(machine, disk):
            assert done(machine, "run", config=config)["result"] == "success"

    # a machine that remembers nothing goes on with both
    config = forget_machine(machine)
    for disk in (1, 2, 1):
        with plugged(machine, disk):
            assert done(machine, "run", config=config)["result"] == "success"

    # and so does one that was restored
    config, everything = forget_machine(machine), held(machine)
    with plugged(machine, 1):
        done(machine, "restore", config=config)
        wait_for(lambda: answers(machine), "Orthanc", 120)
        assert done(machine, "run", config=config)["result"] == "success"
    assert held(machine) == everything
    with plugged(machine, 2):
        assert done(machine, "run", config=config)["result"] == "success"


def test_snapshots_that_vanish_are_noticed(machine: str) -> None:
    config = forget_machine(machine)
    with plugged(machine, 1):
        make(machine, config)
        for _ in range(2):
            done(machine, "run", config=config)
        found = [one["restic"] for one in done(machine, "list", config=config)["snapshots"]]
        status, said = restic(machine, "forget", "--prune", *found, config=config)
        assert status == 0, said

        for _ in range(2):  # each day, until somebody decides
            said = refused(machine, "run", config=config)
            assert "The repository has none of the snapshots that this machine made" in said
        noted = json.loads(must(machine, f"cat {OWN}/backup.json"))
        assert noted["result"] == "failed"

        done(machine, "accept", listed(machine, config)[-1], config=config)
        assert done(machine, "run", config=config)["result"] == "success"

        # an empty repository in its place
        must(machine, f"mv {PLACE}/clinic {PLACE}/away")
        status, said = restic(machine, "init", config=config)
        assert status == 0, said
        assert "they were removed, or it is another" in refused(machine, "run", config=config)
        must(machine, f"rm -rf {PLACE}/clinic && mv {PLACE}/away {PLACE}/clinic")
        assert done(machine, "run", config=config)["result"] == "success"
