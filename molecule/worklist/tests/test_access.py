"""Who hands items over can do that alone: on the machine itself, and by SFTP from another host."""

from __future__ import annotations

import os

import pytest
from clients import ADDRESSES, client, put
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import (
    APP,
    DROP,
    SERVED,
    SPOOL,
    SSH,
    Item,
    command,
    csv,
    drop,
    empty,
    look,
    names,
    plain,
    settle,
    sftp,
    sh,
)

OLDER, NEWER = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
# an item of another application that waits for the rest of its name, and one that is served
SECRET = "GEHEIM^PATIENT"
WAITING = "secret.part"
OTHERS = Item("OTHERS", name=SECRET)
OWN = Item("OWN")


# one machine in make test, the other one in the campaign
@pytest.fixture(scope="module", params=[pytest.param(OLDER, marks=pytest.mark.campaign), NEWER])
def machine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    empty(name)
    drop(name, [plain("others", OTHERS.file())], user="his")
    settle(name)
    # as an application writes that thinks of nothing: everybody may read its file
    status, said = sh(name, f"umask 022; cat > {DROP}/{WAITING}", user="his", stdin=OTHERS.file())
    assert status == 0, said
    put(APP, "/tmp/own.wl", OWN.file())
    return name


SERVED_FILE = f"{SERVED}/{OTHERS.study}_1.wl"


# --- an application on the machine -------------------------------------------------------------
@pytest.mark.parametrize(
    "script",
    [
        *(f"cat {SERVED_FILE}", f"ls {SERVED}", "ls /var/lib/orthanc/db", "cat /etc/orthanc/site/orthanc.json"),
        *(f"ls {SPOOL}/quarantine", f"ls {SPOOL}/incoming", f"ls {DROP}", f"cat {DROP}/{WAITING}"),
        f"cat {SPOOL}/incoming/{WAITING}",
    ],
)
def test_an_application_s_user_reads_nothing_of_others(machine: str, script: str) -> None:
    status, said = sh(machine, script, user="ris")
    assert status != 0, said
    assert SECRET not in said
    assert sh(machine, script)[0] == 0  # it is there


@pytest.mark.parametrize(
    "script",
    [
        *(f"echo > {SERVED}/x.wl", f"echo > {SPOOL}/x.wl", "echo > /srv/worklists/x.wl", f"rm {DROP}/{WAITING}"),
        *(f"mv {DROP}/{WAITING} {DROP}/mine.part", f"echo > {DROP}/{WAITING}", f"mv {DROP}/{WAITING} /tmp/mine"),
        *(f"chmod 777 {DROP}", f"rmdir {DROP}", f"ln {DROP}/{WAITING} {DROP}/mine.part"),
        # what it puts there is no program
        f"cp /bin/true {DROP}/.true && chmod 755 {DROP}/.true && {DROP}/.true",
    ],
)
def test_an_application_s_user_changes_nothing_but_its_own(machine: str, script: str) -> None:
    status, said = sh(machine, script, user="ris")
    assert status != 0, said
    assert sh(machine, f"test -s {DROP}/{WAITING} && ! test -e {SERVED}/x.wl")[0] == 0


def test_who_is_no_writer_hands_nothing_over(machine: str) -> None:
    assert sh(machine, f"echo > {DROP}/x.part", user="ris")[0] == 0
    assert sh(machine, f"echo > {DROP}/y.part", user="operator")[0] != 0
    assert sh(machine, f"rm {DROP}/x.part", user="ris")[0] == 0


def test_without_the_mount_an_application_gets_an_error(machine: str) -> None:
    assert sh(machine, "systemctl stop srv-worklists-incoming.mount")[0] == 0
    assert sh(machine, f"echo > {DROP}/lost.part", user="ris")[0] != 0
    assert sh(machine, "systemctl start srv-worklists-incoming.mount")[0] == 0
    assert sh(machine, f"echo > {DROP}/found.part && rm {DROP}/found.part", user="ris")[0] == 0


def test_an_application_cannot_make_root_write_elsewhere(machine: str) -> None:
    """The names that the command uses can be guessed, and be there before it."""
    item = Item("LURED")
    base = f"{DROP}/{item.study}_1"
    for suffix in ("part", "wl"):
        assert sh(machine, f"echo intact > /root/{suffix}")[0] == 0
        assert sh(machine, f"ln -s /root/{suffix} {base}.{suffix}", user="ris")[0] == 0
        command(machine, "create", "-", stdin=csv([item]))
        assert sh(machine, f"cat /root/{suffix}") == (0, "intact\n")
        sh(machine, f"rm -f {base}.{suffix}")
    settle(machine)


# --- an application on another host ------------------------------------------------------------
def test_what_comes_by_sftp_is_served(machine: str) -> None:
    status, said = sftp(machine, "put /tmp/own.wl own.part", "rename own.part own.wl")
    assert status == 0, said
    settle(machine)
    assert "OWN" in names(machine)
    put(APP, "/tmp/second.wl", Item("SECOND").file())
    assert sftp(machine, "put /tmp/second.wl")[0] == 0  # under its own name at once
    settle(machine)
    assert "SECOND" in names(machine)


@pytest.mark.parametrize(
    "lines",
    [
        *(["ls /incoming"], [f"get /incoming/{WAITING} /tmp/got"], [f"rm {WAITING}"]),
        *([f"rename {WAITING} mine.part"], [f"put /tmp/own.wl {WAITING}"], [f"chmod 666 {WAITING}"]),
        *(["get /etc/passwd /tmp/got"], ["get ../../../../etc/passwd /tmp/got"]),
        *(["get /incoming/../../etc/shadow /tmp/got"], ["cd /etc"], ["cd ../../etc"]),
        *(["symlink /etc/passwd lure.part"], ["ln /etc/passwd lure2.part"], [f"ln {WAITING} lure3.part"]),
        ["put /tmp/own.wl own.part", "ln own.part lure4.part"],
        # no directory: it could hold any number of files
        *(["mkdir more"], ["mkdir more.wl"]),
        *(["put /tmp/own.wl /x.wl"], ["put /tmp/own.wl ../x.wl"], ["mkdir /more"], ["rmdir /incoming"]),
        *(["put /tmp/own.wl own.part", "rename own.part /x.wl"], ["chmod 777 /incoming"], ["chmod 777 /"]),
    ],
    ids=str,
)
def test_sftp_gives_nothing_and_leads_nowhere(machine: str, lines: list[str]) -> None:
    client(APP, "rm", "-f", "/tmp/got")
    status, said = sftp(machine, *lines)
    assert status != 0, said
    assert "not connect" not in said
    assert client(APP, "cat", "/tmp/got").stdout == b""
    # only the last command is refused: what leads to it is allowed
    assert said.count("sftp>") == len(lines), said


def test_the_root_of_sftp_is_the_directory_above_incoming(machine: str) -> None:
    for path in ("/", "/..", "/incoming/..", "../../.."):
        status, said = sftp(machine, f"ls -1 {path}")
        assert status == 0, said
        listed = [line.split("/")[-1] for line in said.splitlines() if not line.startswith("sftp>")]
        assert listed == ["incoming"], said


WAYS_OUT = {
    "a command": "ssh {ssh} {at} cat /etc/passwd",
    "a shell": r'printf "cat /etc/passwd\nexit\n" | ssh {ssh} -tt {at}',
    "scp": "scp -O {ssh} {at}:/etc/passwd /tmp/got",
    "scp over SFTP": "scp -s {ssh} {at}:/etc/passwd /tmp/got",
    "a port of the machine": "echo | ssh {ssh} -W 127.0.0.1:22 {at}",
    # -f: in the background when it is logged in
    "a port brought back": "ssh {ssh} -M -S /tmp/way -fN -o ExitOnForwardFailure=yes -R 18043:127.0.0.1:22 {at}"
    " && ssh -S /tmp/way -O exit x",
    "forwarding": "ssh {ssh} -M -S /tmp/way -fN -L 18042:127.0.0.1:8042 {at}"
    " && curl --silent --max-time 60 http://127.0.0.1:18042/; code=$?; ssh -S /tmp/way -O exit x; exit $code",
    "SOCKS": "ssh {ssh} -M -S /tmp/way -fN -D 18080 {at} && curl --silent --max-time 60"
    " --proxy socks5://127.0.0.1:18080 http://127.0.0.1:8042/; code=$?; ssh -S /tmp/way -O exit x; exit $code",
    "a password": "export SSH_ASKPASS=/tmp/password SSH_ASKPASS_REQUIRE=force;"
    " echo bye | sftp {ssh} -o PubkeyAuthentication=no -o NumberOfPasswordPrompts=1 {at}",
}


@pytest.fixture(scope="module")
def passwords(machine: str) -> None:
    """Somebody gave the account a password: it must not be enough."""
    put(APP, "/tmp/password", b"#!/bin/sh\necho correct-password\n")
    client(APP, "chmod", "755", "/tmp/password")
    status, said = sh(machine, "chpasswd", stdin=b"broker:correct-password\noperator:correct-password\n")
    assert status == 0, said


@pytest.mark.parametrize("way", WAYS_OUT)
def test_there_is_no_way_out_of_sftp(machine: str, passwords: None, way: str) -> None:
    """Each way works for an administrator with the same key."""

    def taken(user: str) -> tuple[int, str]:
        client(APP, "rm", "-f", "/tmp/got")
        options = SSH if way == "a password" else f"-o BatchMode=yes {SSH}"
        script = WAYS_OUT[way].format(ssh=options, at=f"{user}@{ADDRESSES[machine][0]}")
        status, said = sh(APP, f"timeout 100 sh -c '{script}'; code=$?; cat /tmp/got 2>/dev/null; exit $code")
        return status, said

    status, said = taken("operator")
    assert status == 0, said
    status, said = taken("broker")
    assert status != 0, said
    assert "root:x:0" not in said
    assert "timeout" not in said
    assert status != 124


def test_nothing_of_all_this_was_served(machine: str) -> None:
    settle(machine)
    assert set(names(machine)) == {"OTHERS", "OWN", "SECOND", "LURED"}
    assert {entry["mode"] for entry in look(machine)["served"].values()} == {0o640}
