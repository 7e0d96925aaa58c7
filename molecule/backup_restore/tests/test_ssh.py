"""A repository over SFTP: host keys, the key for it, and that no program asks a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from backups import (
    PROGRAM,
    STORAGE,
    STORE,
    STORE_ADDRESS,
    configured,
    done,
    held,
    held_in,
    must,
    refused,
    sent_digests,
    stored,
)
from clients import client, put
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import sh

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
testinfra_hosts = AnsibleRunner.get_runner(INVENTORY).get_hosts("orthanc")
OWN = "/var/lib/orthanc-backup-ssh"
LIMIT = 60  # seconds after which a program that waits for a terminal is ended, with exit code 124
TRIED = {"orthanc_backup_repository": f"sftp:clinic@{STORE_ADDRESS}:/srv/sftp/ssh", "orthanc_backup_password": "x" * 20}


@pytest.fixture(scope="module", params=testinfra_hosts)
def machine(request: pytest.FixtureRequest) -> Iterator[str]:
    """A machine whose root has no ~/.ssh: nobody has ever logged in from it."""
    name = str(request.param)
    must(name, f"rm -rf {OWN} /root/.ssh-aside && mv /root/.ssh /root/.ssh-aside")
    try:
        yield name
    finally:
        must(name, f"rm -rf {OWN} /root/.ssh && mv /root/.ssh-aside /root/.ssh && rm -f /root/known /root/other*")
        must(STORE, "rm -rf /srv/sftp/ssh-*")


def campaign(name: str) -> ParameterSet:
    return pytest.param(name, marks=pytest.mark.campaign)


def config(machine: str, **changed: str) -> str:
    """Of a repository over SFTP of its own."""
    repository = f"sftp:clinic@{STORE_ADDRESS}:/srv/sftp/ssh-{machine}"
    return configured(machine, "/root/other.json", **{"repository": repository, "directory": OWN, **changed})


def on_terminal(machine: str, *command: str) -> tuple[int, str]:
    """Exit code and output of a command that has a terminal, at which nobody sits."""
    script = f"timeout --kill-after=5 {LIMIT} script --quiet --return --command '{' '.join(command)}' /dev/null"
    process = subprocess.Popen(
        ["docker", "exec", "-i", machine, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    with process:  # its standard input stays open until it has ended
        said = process.stdout.read().decode(errors="replace")
    return process.returncode, said


def host_key() -> str:
    return must(STORE, "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip()


def test_an_unknown_host_key_is_refused_and_nobody_is_asked(machine: str) -> None:
    status, said = on_terminal(machine, PROGRAM, "--config", config(machine), "init")
    assert status == 1, said
    assert f"The host key of {STORE_ADDRESS} is unknown" in said
    assert f"run `ssh-keyscan {STORE_ADDRESS}`" in said
    assert "orthanc_backup_ssh_known_hosts" in said
    assert "(yes/no" not in said
    assert sh(machine, "test -e /root/.ssh/known_hosts")[0] == 1
    for command in ("run", "list"):
        assert f"The host key of {STORE_ADDRESS} is unknown" in refused(machine, command, config=config(machine))


def test_a_machine_of_another_host_key_is_told_from_it(machine: str) -> None:
    must(machine, "rm -f /root/other-key* && ssh-keygen -q -t ed25519 -N '' -f /root/other-key")
    must(machine, f"echo {STORE_ADDRESS} $(cut -d' ' -f1,2 /root/other-key.pub) > /root/known")
    said = refused(machine, "init", config=config(machine, known_hosts="/root/known", ssh_key="/root/other-key"))
    fingerprint = must(STORE, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert f"shows another host key than orthanc_backup_ssh_known_hosts has ({fingerprint})" in said
    assert f"`ssh-keyscan {STORE_ADDRESS}`" in said

    # the right host, which does not know this key
    must(machine, f"echo {STORE_ADDRESS} {host_key()} > /root/known")
    status, said = on_terminal(
        machine, PROGRAM, "--config", config(machine, known_hosts="/root/known", ssh_key="/root/other-key"), "init"
    )
    assert status == 1, said
    assert f"{STORE_ADDRESS} does not let clinic in with orthanc_backup_ssh_key" in said
    assert "authorized_keys" in said


def test_a_key_with_a_passphrase_asks_nobody(machine: str) -> None:
    must(machine, "rm -f /root/other-locked* && ssh-keygen -q -t ed25519 -N secret -f /root/other-locked")
    must(machine, f"echo {STORE_ADDRESS} {host_key()} > /root/known")
    locked = config(machine, known_hosts="/root/known", ssh_key="/root/other-locked")
    status, said = on_terminal(machine, PROGRAM, "--config", locked, "init")
    assert (status, "passphrase for key" in said) == (1, False), said
    assert "orthanc_backup_ssh_key" in said


# the other machine's own repository is reached over SFTP, by all the other tests
@pytest.mark.parametrize("machine", [testinfra_hosts[1], campaign(testinfra_hosts[0])], indirect=True)
def test_with_host_key_and_key_backups_are_made_and_restored(machine: str) -> None:
    images = stored(machine, 1, aets=["US1"])
    must(machine, f"echo {STORE_ADDRESS} {host_key()} > /root/known")
    put(machine, "/root/other-right", client(STORE, "cat", "/etc/bed-key").stdout)
    must(machine, "chmod 600 /root/other-right")
    right = config(machine, known_hosts="/root/known", ssh_key="/root/other-right")
    assert done(machine, "init", config=right)["repository"] == "made"
    done(machine, "run", config=right)
    done(machine, "restore", "--target", f"{OWN}/restored", config=right)
    restored = held_in(machine, f"{OWN}/restored{STORAGE}")
    assert sent_digests(images).items() <= restored.items()
    assert restored == held(machine)


# one machine in make test, the other one in the campaign
@pytest.mark.parametrize("machine", [testinfra_hosts[0], campaign(testinfra_hosts[1])], indirect=True)
def test_the_preflight_refuses_before_anything_changes(machine: str) -> None:
    status, said = include(machine, "preflight", TRIED)
    assert status != 0
    assert f"The host key of {STORE_ADDRESS} is unknown" in said
    assert "Nothing was changed." in said
    # nobody answers there: the deploy itself waits for the repository, or says so
    assert include(machine, "preflight", {**TRIED, "orthanc_backup_repository": "sftp:clinic@127.0.0.9:/x"})[0] == 0


@pytest.mark.parametrize("machine", [testinfra_hosts[0], campaign(testinfra_hosts[1])], indirect=True)
def test_the_settings_are_files_for_root_alone_as_long_as_they_are_set(machine: str) -> None:
    key = must(STORE, "cat /etc/bed-key").strip()
    settings = {
        "orthanc_backup_repository": f"sftp:clinic@{STORE_ADDRESS}:/srv/sftp/ssh-role-{machine}",
        "orthanc_backup_password": "scenario-backup-password",
        "orthanc_backup_ssh_known_hosts": must(machine, f"ssh-keyscan {STORE_ADDRESS} 2>/dev/null"),
        "orthanc_backup_ssh_key": key.replace("\n", "\r\n"),  # as an editor on Windows leaves it
    }
    with kept_configuration(machine):
        status, said = include(machine, "install", settings)
        assert status == 0, said
        assert key.splitlines()[2] not in said
        files = must(machine, "stat --format='%n %U %a' /etc/orthanc-backup.known_hosts /etc/orthanc-backup.key")
        assert files.split("\n")[:2] == ["/etc/orthanc-backup.known_hosts root 600", "/etc/orthanc-backup.key root 600"]
        assert key.splitlines()[2] not in must(machine, "cat /etc/orthanc-backup.json")
        assert done(machine, "init")["repository"] == "made"

        # a setting that is taken out leaves no file behind
        status, said = include(machine, "install", {**settings, **dict.fromkeys(list(settings)[2:], "")})
        assert status == 0, said
        assert sh(machine, "ls /etc/orthanc-backup.known_hosts /etc/orthanc-backup.key")[1].count("No such file") == 2
        assert f"The host key of {STORE_ADDRESS} is unknown" in refused(machine, "init")


@contextlib.contextmanager
def kept_configuration(machine: str) -> Iterator[None]:
    """What the deploy wrote is there again afterwards."""
    files = "/etc/orthanc-backup.json /etc/orthanc-backup.password"
    must(machine, f"mkdir -p /root/other-kept && cp -a {files} /root/other-kept/")
    try:
        yield
    finally:
        must(machine, "cp -a /root/other-kept/* /etc/ && rm -rf /root/other-kept /etc/orthanc-backup.k*")


def include(machine: str, tasks: str, settings: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of one task file of the role."""
    inventory = str(Path(INVENTORY).parent)  # with what the scenario adds to it
    command = ["ansible", machine, "--inventory", inventory, "--module-name", "ansible.builtin.include_role", "-v"]
    role = json.dumps({"name": "clinicops.orthanc.orthanc_backup", "tasks_from": tasks})
    ran = subprocess.run(
        [*command, "--args", role, "--extra-vars", json.dumps(settings)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout + ran.stderr
