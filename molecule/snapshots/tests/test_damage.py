"""What is damaged is named, and what would damage more is refused without a change to production."""

from __future__ import annotations

import json
import os

import pytest
from backups import (
    OWN,
    STORAGE,
    Image,
    answers,
    attachment,
    backup,
    configured,
    done,
    held,
    lacking,
    listed,
    main_process,
    must,
    python,
    refused,
    restic,
    service,
    state,
    stored,
)
from clients import wait_for
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


# one machine in make test, the other one in the campaign
@pytest.fixture(
    scope="module", params=[testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)]
)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def images(machine: str) -> list[Image]:
    """In a snapshot that nothing is wrong with."""
    made = stored(machine, 5)
    done(machine, "run")
    return made


def production(machine: str) -> tuple[object, ...]:
    """What a refusal must leave as it is: the process, its images, and what lies in the directory."""
    return main_process(machine), held(machine), must(machine, f"ls -A {STORAGE}")


def test_a_flipped_byte_is_named(machine: str, images: list[Image]) -> None:
    path = attachment(machine, images[0].uid)
    was = must(machine, f"md5sum {path}")
    flip = "import sys; f = open(sys.argv[1], 'r+b'); f.seek(-99, 2); b = f.read(1)[0]; f.seek(-99, 2)"
    flip += "; f.write(bytes([b ^ 1]))"
    must(machine, f'python3 -c "{flip}" {path}')
    name = path.removeprefix(f"{STORAGE}/")
    assert f"{name} is altered" in refused(machine, "check", config=configured(machine, subset=1))
    # size and index are as they were; and restic has read it when it comes a second time
    for _ in range(2):
        assert f"{name} is altered" in refused(machine, "run")
    newest = done(machine, "list")["snapshots"][-1]
    assert newest["proven"] is False
    assert "were not verified" in refused(machine, "accept", newest["id"])
    assert f"{name} is altered" in refused(machine, "check", config=configured(machine, subset=1))
    assert state(machine, "restore_check")["snapshot"] != newest["id"]
    status, said = backup(machine, "reconcile")
    assert (status, said["altered"]) == (1, [name])
    # the rest can be had from that snapshot
    from_it = ("restore", "--snapshot", newest["id"])
    assert f"{name} is altered" in refused(machine, *from_it, "--target", "/root/refused")
    partial = done(machine, *from_it, "--incomplete", "--target", "/root/partial")
    assert f"{name} is altered" in partial["problems"][0]
    assert partial["verified"] == partial["counts"]["attachments"] - 1
    have = python(machine, "held.py", "paths", partial["data"])
    assert {image.uid for image in images} - {*have} == {images[0].uid}
    must(machine, "rm -r /root/refused /root/partial")
    done(machine, "reconcile", "--repair")
    assert must(machine, f"md5sum {path}") == was
    done(machine, "run")
    done(machine, "check")
    assert lacking(held(machine), images) == []


def test_a_deleted_file_is_named(machine: str, images: list[Image]) -> None:
    path = attachment(machine, images[1].uid)
    must(machine, f"mv {path} /root/kept")
    name = path.removeprefix(f"{STORAGE}/")
    assert f"{name} is missing" in refused(machine, "run")
    told = state(machine, "backup")
    assert (told["result"], name in told["reason"]) == ("failed", True)
    newest = done(machine, "list")["snapshots"][-1]
    assert not newest["proven"]
    before = production(machine)
    assert f"{name} is missing" in refused(machine, "restore", "--snapshot", newest["id"])
    assert done(machine, "restore", "--dry-run")["snapshot"] != newest["id"]
    assert production(machine) == before
    must(machine, f"mv /root/kept {path}")
    # a user may delete it
    done(machine, "run")


def test_a_snapshot_of_a_wrong_clock_is_not_the_latest(machine: str, images: list[Image]) -> None:
    identity = must(machine, f"cat {STORAGE}/.orthanc-archive").strip()
    host = json.loads(must(machine, "cat /etc/orthanc-backup.json"))["host"]
    tags, time = f"orthanc,archive={identity}", "'2042-01-01 00:00:00'"
    status, said = restic(machine, "backup", "--host", host, "--tag", tags, "--time", time, "/etc/hostname")
    assert status == 0, said
    newest, before = done(machine, "list")["snapshots"][-2:][::-1]
    assert newest["time"].startswith("2042")
    assert done(machine, "restore", "--dry-run")["snapshot"] == before["id"]
    assert restic(machine, "forget", newest["id"])[0] == 0


def test_files_of_somebody_else_are_named(machine: str, images: list[Image]) -> None:
    path = attachment(machine, images[2].uid)
    must(machine, f"chown root: {path}")
    assert f"{path}" in refused(machine, "check")
    assert any("Not owned by orthanc" in warning for warning in done(machine, "run")["warnings"])
    must(machine, f"chown orthanc: {path}")
    done(machine, "check")


def test_a_wrong_password_is_refused(machine: str, images: list[Image]) -> None:
    must(machine, "echo this-is-not-the-password-at-all > /root/wrong; chmod 600 /root/wrong")
    before, snapshots = production(machine), listed(machine)
    own = "/var/lib/orthanc-backup-wrong"
    config = configured(machine, password_file="/root/wrong", directory=own)
    for arguments in (("run",), ("check",), ("restore",), ("restore", "--dry-run"), ("init",), ("list",)):
        assert "wrong password" in refused(machine, *arguments, config=config), arguments
    assert production(machine) == before
    assert listed(machine) == snapshots


def test_an_older_orthanc_is_refused(machine: str, images: list[Image]) -> None:
    version = must(machine, f"cat {STORAGE}/.orthanc-version").strip()
    must(machine, f"echo 1.99.0 > {STORAGE}/.orthanc-version")
    snapshot = done(machine, "run")["snapshot"]
    must(machine, f"echo {version} > {STORAGE}/.orthanc-version")
    before = production(machine)
    said = refused(machine, "restore", "--snapshot", snapshot)
    assert "The index is of Orthanc 1.99.0" in said
    assert version in said
    assert production(machine) == before
    done(machine, "run")


def test_too_little_space_is_refused(machine: str, images: list[Image]) -> None:
    must(machine, "mkdir -p /mnt/small && mount -t tmpfs -o size=1m tmpfs /mnt/small")
    before = production(machine)
    assert "MiB are free" in refused(machine, "restore", "--target", "/mnt/small")
    assert must(machine, "ls -A /mnt/small") == ""
    must(machine, "umount /mnt/small")
    assert production(machine) == before


def test_a_broken_index_is_refused_and_restored(machine: str, images: list[Image]) -> None:
    snapshot = done(machine, "run")["snapshot"]
    everything = held(machine)
    service(machine, "stop")
    must(machine, f"truncate --size=$(($(stat -c %s {STORAGE}/index) / 2)) {STORAGE}/index")
    said = refused(machine, "run")
    assert f"{STORAGE}/index" in said
    assert state(machine, "backup")["result"] == "failed"

    restored = done(machine, "restore")

    assert restored["snapshot"] == snapshot
    wait_for(lambda: answers(machine), "Orthanc")
    assert held(machine) == everything
    again = stored(machine, 2)
    assert lacking(held(machine), again) == []
    must(machine, f"rm -rf {restored['set_aside']}")
    began = int(must(machine, "date +%s"))
    done(machine, "run")
    assert state(machine, "backup")["last_success_epoch"] >= began
    assert must(machine, f"ls -A {OWN} | grep -c '^restore.json$' || true").strip() == "0"
