"""Machines like Ubuntu's: that everything works beside what Ubuntu has, and what is refused with its remedy."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from backups import must
from clients import (
    ADDRESSES,
    HOSTNAME,
    PASSWORDS,
    ROOT,
    answers,
    client,
    fingerprint,
    name_of,
    play,
    require_accepted,
    scu,
)
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
CLIENT = "orthanc-ubuntu-us2"
OPERATOR = "scenario-operator-password"
LIKE_24, LIKE_26 = "orthanc-ubuntu24", "orthanc-ubuntu26"
LATER = "sed -i s/^VERSION_ID=.*/VERSION_ID=26.10/"
WAIVER = {"orthanc_waivers": {"untested_system": "the clinic's own workstation, until the server arrives"}}


# --- that it works --------------------------------------------------------------------------------
def test_the_machine_says_that_it_is_ubuntu(host: Host) -> None:
    release = host.check_output("cat /etc/os-release")
    assert "ID=ubuntu\n" in release
    assert ('VERSION_ID="26.04"' in release) == (name_of(host) == LIKE_26)
    assert "Status: active" in host.check_output("ufw status")
    # names are resolved by systemd-resolved, and sshd is started by its socket
    assert host.file("/etc/resolv.conf").linked_to == "/run/systemd/resolve/stub-resolv.conf"
    assert host.check_output("systemctl is-enabled ssh.socket") == "enabled"
    assert host.check_output("findmnt --noheadings --output FSTYPE /sys/fs/cgroup") == "cgroup2"


def test_the_acceptance_test_passes(host: Host) -> None:
    require_accepted(host)


def test_a_device_stores_beside_an_active_ufw(host: Host) -> None:
    machine = name_of(host)
    assert answers(host)
    # not in ufw's rules for this port, and so closed by both
    assert scu(CLIENT, "echoscu", "US2", ADDRESSES[machine][1])[0] != 0
    options = ["--insecure", "--silent", "--max-time", "60", "--user", f"viewer:{PASSWORDS['viewer']}"]
    resolve = ["--resolve", f"{HOSTNAME}:443:{ADDRESSES[machine][1]}"]
    found = client(CLIENT, "curl", *options, *resolve, f"https://{HOSTNAME}/dicom-web/studies")
    assert (found.returncode, found.stdout[:1]) == (0, b"["), found.stderr


def test_check_mode_announces_nothing(host: Host) -> None:
    status, said = play("deploy", host, {}, "--check")
    assert status == 0, said[-3000:]
    assert " changed=0 " in said, said[-3000:]


def sftp(machine: str, line: str) -> tuple[int, str]:
    options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i /root/broker"
    command = f"echo {shlex.quote(line)} | sftp {options} -b - broker@{ADDRESSES[machine][0]}"
    done = client(CLIENT, "sh", "-c", command)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_an_application_gets_in_by_sftp_through_ssh_s_socket(host: Host) -> None:
    """Whether sshd runs already or its socket starts it: the settings of the account hold."""
    machine = name_of(host)
    for _unused in ("a new sshd", "one that runs"):
        status, said = sftp(machine, "ls -1 /")
        assert status == 0, said
        assert "incoming" in said
        assert sftp(machine, "ls /etc")[0] != 0
    assert host.service("ssh.service").is_running


def test_needrestart_does_not_restart_services_during_a_deploy(host: Host) -> None:
    before = host.check_output("cat /root/clinic-app.pid")
    now = "systemctl show --property MainPID --value clinic-app.service"
    assert host.check_output(now) == before
    # another call of apt does
    must(name_of(host), "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --reinstall acl")
    assert host.check_output(now) not in (before, "0")


def test_addresses_that_come_late_are_served(host: Host) -> None:
    """As with netplan on a slow network: the services start before the machine has its addresses."""
    machine = name_of(host)
    address = ADDRESSES[machine][0]
    device = host.check_output(f"ip -o -4 address show to {address} | cut -d' ' -f2")
    way = host.check_output("ip -4 route show default")  # goes with the address
    units = "orthanc-firewall nginx" + (" orthanc" if machine == LIKE_26 else "")
    must(machine, f"ip address del {address}/26 dev {device} && systemctl restart {units}")
    try:
        assert not answers(host)
    finally:
        must(machine, f"ip address add {address}/26 dev {device} && ip route replace {way}")
    assert answers(host)


# --- uutils ---------------------------------------------------------------------------------------
# Each program of coreutils with each option that a deploy and the programs on the server give it.
COREUTILS = [
    "readlink -m /srv/../etc/./nowhere",
    "readlink -f /etc/os-release",
    "printf '%s\\n' 1.12.7 1.13.0 1.9.7 | sort --version-sort | tail -n 1",
    "head -c 64 /etc/os-release | head -n 1",
    "mkdir --mode=0755 made && stat --format %a made",
    "mkdir -p a/b && touch a/b/c && chown --recursive 1:1 a && stat --format '%u %g' a/b/c",
    "touch own.wl other.wl into/own.wl; mv --no-clobber --target-directory=into own.wl other.wl; ls; ls into",
    "nice -n 10 nice",
    "env -u HOME sh -c 'echo ${HOME-none}'",
    "echo one | tee written && cat written",
    "dirname /etc/nginx/orthanc && basename /etc/nginx/orthanc.conf",
    "mktemp -d ./XXXXXX >/dev/null && ls -d ./?????? | wc -l",
    "printf abc | sha256sum; printf abc | md5sum | cut -d' ' -f1",
    "ln -s target link && ln -sfn other link && readlink link",
    "touch old && chmod 0640 old && stat -c %a old",
    "timeout 5 true && echo in time",
    "mkdir -p a/b && id -u && test -e a && rm -rf a && ls",
    "df --output=fstype / | tail -n 1",
    "echo a b | tr ' ' '\\n' | sort | uniq -c",
]


@pytest.mark.parametrize("command", COREUTILS)
def test_uutils_does_as_gnu_s_do(command: str) -> None:
    names = "for f in /usr/bin/gnu*; do ln -sf $f $bin/${f#/usr/bin/gnu}; done"
    script = f"bin=$(mktemp -d); {names}; cd $(mktemp -d); mkdir into; PATH=$(eval echo $1)$PATH; {command}"
    uutils, gnu = (client(LIKE_26, "sh", "-c", script, "sh", way) for way in ("", "$bin:"))
    assert (uutils.returncode, gnu.returncode) == (0, 0), uutils.stderr
    assert uutils.stdout == gnu.stdout


# --- what is refused ------------------------------------------------------------------------------
# machine, what provokes it, what undoes that, settings, what is said and its remedy
REFUSED: dict[str, tuple[str, str, str, dict[str, Any], list[str]]] = {
    "universe": (
        LIKE_24,
        "mkdir -p /root/apt && mv /etc/apt/sources.list* /root/apt/",
        "mv /root/apt/* /etc/apt/ && apt-get update -qq",
        {"orthanc_install_method": "package"},
        [
            "apt does not offer orthanc, orthanc-dicomweb",
            "universe, which is switched off",
            "add-apt-repository universe",
        ],
    ),
    "snap": (
        LIKE_24,
        "mkdir -p /snap/bin && ln -s /usr/bin/true /snap/bin/docker",
        "rm -r /snap",
        {},
        ["/snap/bin/docker is Docker as a snap", "snap remove docker"],
    ),
    "a later release": (
        LIKE_26,
        f"cp /usr/lib/os-release /root/ && {LATER} /usr/lib/os-release",
        "cp /root/os-release /usr/lib/os-release",
        {},
        ["Ubuntu 26.10 is not a system that this collection was tested on", "{untested_system: <your reason>}"],
    ),
    "ufw": (
        LIKE_26,
        "ufw delete allow proto tcp from 198.51.100.5 to any port 4242",
        "ufw allow proto tcp from 198.51.100.5 to any port 4242",
        {},
        ["ufw is active, and blocks port 4242", "ufw allow proto tcp from 198.51.100.5 to any port 4242"],
    ),
}


def machine_of(name: str) -> Host:
    inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    host: Host = testinfra.get_host(f"ansible://{name}", ansible_inventory=inventory)
    return host


@pytest.mark.parametrize("case", REFUSED)
def test_what_stands_in_the_way_is_named_and_nothing_changes(case: str) -> None:
    machine, provoke, undo, settings, lines = REFUSED[case]
    host = machine_of(machine)
    must(machine, provoke)
    try:
        before = fingerprint(host)
        status, said = play("deploy", host, settings)
        after = fingerprint(host)
    finally:
        must(machine, undo)
    assert status == 2, said[-3000:]
    for line in lines:
        assert line in said, said[-3000:]
    assert " changed=0 " in said
    # without an archive apt forgets its lists
    assert case == "universe" or after == before


def test_with_a_waiver_a_later_release_is_deployed_to() -> None:
    _machine, provoke, undo, _settings, _lines = REFUSED["a later release"]
    must(LIKE_26, provoke)
    try:
        status, said = play("deploy", machine_of(LIKE_26), WAIVER, "--check")
    finally:
        must(LIKE_26, undo)
    assert status == 0, said[-3000:]


def as_operator(**more: str) -> dict[str, Any]:
    """A connection as an administrator whose sudo asks for a password; root's is another one."""
    options = yaml.safe_load((ROOT / ".config/molecule/hosts.yml").read_text())["orthanc"]["vars"]
    own = options["ansible_ssh_common_args"].replace("/bed-%h", "/bed-operator-%h")
    return {"ansible_user": "operator", "ansible_ssh_common_args": own, "ansible_become_password": OPERATOR, **more}


def test_sudo_rs_with_a_password_is_named_with_its_remedy() -> None:
    status, said = play("deploy", machine_of(LIKE_26), as_operator())
    assert status == 2, said[-3000:]
    assert "This machine has sudo-rs" in said
    assert "ansible_become_exe: sudo.ws" in said
    assert " changed=0 " in said
    assert OPERATOR not in said


def test_the_classic_sudo_beside_it_deploys() -> None:
    status, said = play("deploy", machine_of(LIKE_26), as_operator(ansible_become_exe="sudo.ws"))
    assert status == 0, said[-3000:]
    assert " changed=0 " in said


def test_a_machine_that_does_not_answer_is_unreachable() -> None:
    elsewhere = {"ansible_ssh_common_args": "-F /dev/null -o ProxyCommand=false", "ansible_ssh_retries": 0}
    status, said = play("deploy", machine_of(LIKE_26), elsewhere)
    assert status == 4, said[-3000:]
    assert "UNREACHABLE" in said
    assert "sudo-rs" not in said
