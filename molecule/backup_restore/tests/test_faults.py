"""Backups, restore checks and restores are cut off at random moments; production and the snapshots live on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest
from backups import (
    OWN,
    STORE,
    Attempt,
    after,
    answers,
    choice,
    configured,
    done,
    full,
    held,
    kill_9,
    lacking,
    listed,
    must,
    on_small_disk,
    power_off,
    python,
    restic,
    sound,
    state,
    stored,
    unplugged,
)
from clients import wait_for
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
OPERATIONS = ("run", "check", "restore")
FAULTS = ("kill", "disk", "repository", "network", "power")
# a full repository takes restic a minute to give up: the campaign's
BOUNDED = [("run", "kill"), ("check", "disk"), ("check", "network"), ("restore", "power")]


def cases() -> Iterator[object]:
    for number, (operation, fault) in enumerate(BOUNDED):
        yield pytest.param(testinfra_hosts[number % 2], operation, fault, number, id=f"{operation}-{fault}")
    for number in range(12):
        for operation in OPERATIONS:
            fault = FAULTS[number % len(FAULTS)]
            values = (testinfra_hosts[number // len(FAULTS) % 2], operation, fault, 100 + number)
            yield pytest.param(*values, id=f"{operation}-{fault}-{number}", marks=pytest.mark.campaign)


@contextlib.contextmanager
def struck(machine: str, fault: str, moment: float) -> Iterator[None]:
    """So long after the program began, and for as long as it takes the program to end."""
    after(moment)
    if fault == "kill":
        kill_9(machine)
        yield
    elif fault == "power":
        power_off(machine)
        yield
    elif fault == "network":
        with unplugged(machine):
            yield
    else:
        with full(*((STORE, "/srv") if fault == "repository" else (machine, OWN))):
            yield


def settled(machine: str) -> None:
    """Nothing of the program is at work any more, and no restore is half done."""
    wait_for(lambda: sh(machine, f"test -e {OWN}/restore.json")[0] != 0, "the restore that goes on by itself")
    wait_for(lambda: sh(machine, "pgrep -f '^/usr/bin/python3 /usr/local/sbin/orthanc-backup|^restic '")[0] != 0, "end")
    wait_for(lambda: answers(machine), "Orthanc")


# how long each operation takes when nobody disturbs it
LASTS: dict[tuple[str, str], float] = {}


@pytest.mark.parametrize(("machine", "operation", "fault", "seed"), [*cases()])
def test_a_cut_attempt_harms_nothing(machine: str, operation: str, fault: str, seed: int) -> None:
    images = stored(machine, 5)
    done(machine, "run")  # a restore then has what everybody has
    if (machine, operation) not in LASTS:
        begin = time.monotonic()
        done(machine, operation)
        LASTS[machine, operation] = time.monotonic() - begin
    lasting = fault in ("disk", "repository", "network")
    # in make test the machine's disk is full from the beginning, which cannot end well; a repository is tried again
    certain = seed < 100 and fault == "disk"
    moment = 0.0 if certain else choice(f"{seed} {operation} {fault}").uniform(0, 0.7) * LASTS[machine, operation]
    if operation == "run":
        images += stored(machine, 40)  # something to do, and some time for it
    before, snapshots = held(machine), listed(machine)
    began = time.time()
    with on_small_disk(machine, OWN) if fault == "disk" else contextlib.nullcontext():
        attempt = None if certain else Attempt(machine, operation)
        with struck(machine, fault, moment):
            attempt = attempt or Attempt(machine, operation)
            if lasting:  # restic tries a server again and again
                with contextlib.suppress(Exception):
                    attempt.process.wait(timeout=20)
        status, said = attempt.end(1200)
        print(
            f"{machine}: {operation} takes {LASTS[machine, operation]:.1f} s, {fault} after {moment:.1f} s: "
            f"exit {status}, {str(said)[:300]}"
        )
        if certain:
            assert "space" in str(said), said
        settled(machine)
        if operation in ("run", "check"):
            told = state(machine, {"run": "backup", "check": "restore_check"}[operation])
            assert (told["result"] == "success") == (status == 0), told
            if status:
                assert told.get("last_success_epoch", 0) <= began

    now = held(machine)
    assert lacking(now, images) == []
    assert before.items() <= now.items()
    again = stored(machine, 1)
    assert lacking(held(machine), again) == []
    # a check that was not cut applies the retention: the last four stay
    assert set(snapshots if operation != "check" else snapshots[-4:]) <= set(listed(machine))
    sound(machine)
    done(machine, "run")
    must(machine, "rm -rf /var/lib/orthanc/db/.set-aside-*")


@pytest.mark.parametrize("machine", testinfra_hosts)
def test_a_backup_of_another_machine_with_this_host_name_is_not_disturbed(machine: str) -> None:
    config = configured(machine, repository="/root/shared", directory="/root/shared-state", environment={})
    done(machine, "init", config=config)
    found = python(machine, "foreign_lock.py", config)
    assert "already locked" in found.pop("said")
    assert found.pop("told").count("Another restic has locked the repository") == 1
    assert found == {"locked": True, "bystander": None, "other": 0}
    assert restic(machine, "check", "--read-data", config=config)[0] == 0
    must(machine, "rm -rf /root/shared /root/shared-state")
