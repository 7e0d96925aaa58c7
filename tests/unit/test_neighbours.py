"""What else is on a machine: who listens, which firewalls there are, and who has dpkg's lock."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.action import orthanc_packages
from ansible_collections.clinicops.orthanc.plugins.filter.orthanc_neighbour_problems import orthanc_neighbour_problems
from ansible_collections.clinicops.orthanc.plugins.module_utils import locks, neighbours
from ansible_collections.clinicops.orthanc.plugins.module_utils.neighbours import Port

HTTPS = Port("https", 443, ["198.51.100.64/26", "2001:db8:100:2::/64"])
DICOM = Port("dicom", 4242, ["198.51.100.21"])
HTTP = Port("http", 8042, [])
PORTS = [HTTPS, DICOM, HTTP]


# --- nftables -----------------------------------------------------------------------------------
def test_a_dormant_table_that_nft_does_not_print_to_its_end_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Debian 12's nft. The deploy that closes the ports again must get there."""
    cut = '{"nftables": [{"table": {"family": "inet", "name": "orthanc", "flags": '
    monkeypatch.setattr(neighbours, "try_output", lambda *command: cut if command[0] == "nft" else "")
    assert neighbours.check_firewalls(PORTS) == []


# --- listeners ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "setting"), [("http", "orthanc_http_port"), ("https", "orthanc_proxy_port")])
def test_whoever_has_a_port_is_named_with_process_and_setting(name: str, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert neighbours.check_listeners([Port(name, number + 1, [])], []) == []
        [problem] = neighbours.check_listeners([Port(name, number, []), DICOM], [])
    assert problem.what == f"Port {number} ({name})"
    assert f"process {os.getpid()}: " in problem.message
    assert f"set {setting} to a free one" in problem.remedy


@pytest.mark.parametrize(
    ("unit", "name", "shared"),
    [
        ("nginx.service", "https", True),
        ("orthanc.service", "dicom", True),
        ("nginx.service", "dicom", False),
        ("apache2.service", "https", False),
        ("", "http", False),
    ],
)
def test_a_deploy_goes_on_with_services_of_its_own_names(unit: str, name: str, shared: bool) -> None:
    assert neighbours.is_shared(neighbours.Listener(1, 1, unit), Port(name, 1, [])) is shared


@pytest.mark.parametrize(
    ("listener", "address", "meet"),
    [
        ("198.51.100.47", "", True),
        ("0.0.0.0", "198.51.100.10", True),
        ("0.0.0.0", "2001:db8::10", True),  # nginx is at 127.0.0.1 as well
        ("*", "198.51.100.10", True),
        ("*", "2001:db8::10", True),
        ("::", "2001:db8::10", True),
        ("::", "198.51.100.10", False),
        ("127.0.0.1", "198.51.100.10", True),
        ("198.51.100.10", "198.51.100.10", True),
        ("198.51.100.47", "198.51.100.10", False),
    ],
)
def test_who_listens_at_another_address_is_not_in_the_way(listener: str, address: str, meet: bool) -> None:
    assert neighbours.overlaps(listener, HTTPS._replace(address=address)) is meet


@pytest.mark.parametrize(
    ("listener", "address", "meet"),
    [
        ("127.0.0.1", "", True),
        ("127.0.0.1", "198.51.100.10", False),
        ("0.0.0.0", "198.51.100.10", True),
        ("0.0.0.0", "2001:db8::10", False),
        ("::", "2001:db8::10", True),
    ],
)
def test_challenges_are_served_at_the_address_alone(listener: str, address: str, meet: bool) -> None:
    assert neighbours.overlaps(listener, Port("challenge", 80, [*neighbours.EVERYBODY], address)) is meet


def test_a_port_needs_an_address_that_the_machine_has() -> None:
    own = ["198.51.100.10", "2001:db8::10"]
    at = HTTPS._replace(address="198.51.100.9")
    [problem] = neighbours.check_addresses([at, DICOM], own, containers=False)
    assert problem.what == "orthanc_proxy_address"
    assert "198.51.100.9, which is not an address of this machine (198.51.100.10, 2001:db8::10)" in problem.message
    assert neighbours.check_addresses([at._replace(address=own[1]), DICOM], own, containers=False) == []
    [alone] = neighbours.check_addresses([HTTPS, DICOM], own[1:], containers=False)
    assert "IPv6 addresses alone" in alone.message
    assert neighbours.check_addresses([HTTPS, DICOM], own[1:], containers=True) == []
    assert neighbours.check_addresses([HTTPS, DICOM._replace(sources=[])], own[1:], containers=False) == []
    assert neighbours.check_addresses(PORTS, [], containers=False) == []  # ip could not be asked


# --- ufw ----------------------------------------------------------------------------------------
def ufw(directory: Path, rules: list[str], *, enabled: str = "yes", policy: str = "DROP") -> Path:
    """ufw's files, as far as they are read."""
    (directory / "ufw").mkdir()
    (directory / "default").mkdir()
    (directory / "ufw/ufw.conf").write_text(f"# comment\nENABLED={enabled}\nLOGLEVEL=low\n")
    (directory / "default/ufw").write_text(f'IPV6=yes\nDEFAULT_INPUT_POLICY="{policy}"\n')
    for name, mark in (("user.rules", "."), ("user6.rules", ":")):
        own = [f"### tuple ### {rule}" for rule in rules if mark in rule.split()[3]]
        (directory / "ufw" / name).write_text("*filter\n### RULES ###\n\n" + "\n".join(own) + "\n### END RULES ###\n")
    return directory / "ufw"


BOTH = ["allow tcp 443 0.0.0.0/0 any 0.0.0.0/0 in", "allow tcp 443 ::/0 any ::/0 in"]


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ([], ["443:198.51.100.64/26", "443:2001:db8:100:2::/64", "4242:198.51.100.21"]),
        (BOTH, ["4242:198.51.100.21"]),
        ([*BOTH, "allow any 4242 0.0.0.0/0 any 198.51.100.0/26 in"], []),
        ([*BOTH, "limit tcp 4000:4300 0.0.0.0/0 any 0.0.0.0/0 in"], []),
        (
            [
                "allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 Nginx%20Full - in",
                BOTH[1],
                "allow any any 0.0.0.0/0 any 198.51.100.21 in",
            ],
            [],
        ),
        ([*BOTH, "allow udp 4242 0.0.0.0/0 any 0.0.0.0/0 in"], ["4242:198.51.100.21"]),
        ([*BOTH, "allow tcp 4242 0.0.0.0/0 any 0.0.0.0/0 out"], ["4242:198.51.100.21"]),
        ([*BOTH, "allow tcp 4242 0.0.0.0/0 any 198.51.100.22 in"], ["4242:198.51.100.21"]),
        (
            ["deny any any 0.0.0.0/0 any 198.51.100.70 in", *BOTH, "allow tcp 4242 0.0.0.0/0 any 198.51.100.21 in"],
            ["443:198.51.100.64/26"],
        ),
        ([*BOTH, "allow tcp 4242 0.0.0.0/0 any 198.51.100.21 in_eth0"], []),
    ],
)
def test_ufw_lets_in_whom_its_first_rule_that_fits_lets_in(
    tmp_path: Path, rules: list[str], missing: list[str]
) -> None:
    found = neighbours.check_ufw(PORTS, ufw(tmp_path, rules))
    commands = [
        f"ufw allow proto tcp from {one.partition(':')[2]} to any port {one.partition(':')[0]}" for one in missing
    ]
    assert [one.remedy for one in found] == ([" && ".join(commands)] if missing else [])


def test_ufw_that_is_off_or_open_keeps_nobody_out(tmp_path: Path) -> None:
    for number, more in enumerate(({"enabled": "no"}, {"policy": "ACCEPT"})):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert neighbours.check_ufw(PORTS, ufw(directory, [], **more)) == []
    assert neighbours.check_ufw(PORTS, tmp_path / "nowhere/ufw") == []


# --- chains -------------------------------------------------------------------------------------
def chains(policy: str, *rules: list[dict[str, Any]], table: str = "filter") -> dict[str, Any]:
    """A table as nft lists it."""
    place = {"family": "inet", "table": table}
    chain = {"chain": {**place, "name": "input", "hook": "input", "policy": policy}}
    return {"nftables": [chain, *({"rule": {**place, "chain": "input", "expr": rule}} for rule in rules)]}


def dport(right: Any, operator: str = "==") -> dict[str, Any]:
    return {"match": {"op": operator, "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": right}}


ACCEPT: dict[str, Any] = {"accept": None}
LOOPBACK = [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, ACCEPT]


@pytest.mark.parametrize(
    ("ruleset", "numbers"),
    [
        (chains("drop", LOOPBACK), "443, 4242"),
        (chains("accept", LOOPBACK), ""),
        (chains("accept", LOOPBACK, [{"counter": {}}, {"reject": None}]), "443, 4242"),
        (chains("drop", [dport({"set": [22, 443]}), ACCEPT]), "4242"),
        (chains("drop", [dport({"set": [22, {"range": [400, 5000]}]}), ACCEPT]), ""),
        (chains("drop", [dport(443, "!="), ACCEPT], [dport(4242), {"drop": None}]), "443, 4242"),
        (chains("drop", [dport("@clinic"), ACCEPT]), ""),
        (chains("drop", [{"xt": None}, ACCEPT]), ""),
        (chains("drop", LOOPBACK, table="orthanc"), ""),
        (chains("drop", LOOPBACK, table="firewalld"), ""),
        ({}, ""),
    ],
)
def test_a_chain_that_drops_what_it_does_not_name_is_named(ruleset: dict[str, Any], numbers: str) -> None:
    found = neighbours.check_chains(PORTS, ruleset)
    assert [f"tcp dport '{{ {numbers} }}' accept" in one.remedy for one in found] == ([True] if numbers else [])


def test_a_chain_is_read_with_those_that_it_leads_to_and_no_other() -> None:
    place = {"family": "ip", "table": "filter"}
    ruleset = chains("drop")
    ruleset["nftables"][0]["chain"] |= place
    names = {"DOCKER": [dport(4242), ACCEPT], "clinic": [dport(443), ACCEPT], "input": [{"jump": {"target": "clinic"}}]}
    ruleset["nftables"] += [{"rule": {**place, "chain": name, "expr": rule}} for name, rule in names.items()]
    [problem] = neighbours.check_chains(PORTS, ruleset)
    assert problem.what == "The chain input of table ip filter"
    assert "does not accept port 4242 (dicom)" in problem.message


# --- Docker's rules -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ("-P PREROUTING ACCEPT\n-N DOCKER\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n", False),
        ("-P PREROUTING ACCEPT\n-N DOCKER_OUTPUT\n", True),
        ("", False),  # no engine runs
    ],
)
def test_a_docker_engine_without_its_rules_is_named(rules: str, missing: bool) -> None:
    found = neighbours.check_docker(rules)
    assert [one.remedy.partition(",")[0] for one in found] == ["systemctl restart docker"] * missing


# --- waivers ------------------------------------------------------------------------------------
def test_what_is_waived_is_marked_and_the_rest_names_its_waiver() -> None:
    closed = {"what": "intranet", "message": "is closed", "remedy": "move it", "rule": "closes_sites"}
    account = {"what": "orthanc", "message": "is a person's", "remedy": "rename it", "rule": ""}
    found = orthanc_neighbour_problems([closed, account], {"webdav": "for the old viewer"})
    assert [one["severity"] for one in found] == ["error", "error"]
    assert found[0]["remedy"] == "move it; if it is intended: orthanc_waivers: {closes_sites: <your reason>}"
    assert found[1]["remedy"] == "rename it"
    waivers = {"closes_sites": "its users are in orthanc_https_sources"}
    assert [one["severity"] for one in orthanc_neighbour_problems([closed, account], waivers)] == ["waived", "error"]


# --- dpkg's lock --------------------------------------------------------------------------------
HOLD = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"


def test_whoever_has_a_lock_is_named_until_it_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "lock-frontend")
    assert locks.list_holders([path]) == []
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holding:
        assert holding.stdout
        holding.stdout.readline()
        [holder] = locks.list_holders([path, path])
        assert (holder.pid, holder.lock) == (holding.pid, path)
        assert holder.command.startswith(sys.executable)
        holding.communicate("\n")
    assert locks.list_holders([path]) == []


@pytest.mark.parametrize(
    ("said", "locked"),
    [
        ("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (unattended-upgr)", True),
        (
            "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
            True,
        ),
        ("Failed to lock apt for exclusive operation: Failed to lock directory /var/lib/apt/lists/", True),
        ("No package matching 'lockfile-progs' is available", False),
        ("E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.", False),
    ],
)
def test_a_lock_is_told_from_other_failures(said: str, locked: bool) -> None:
    assert bool(orthanc_packages.LOCKED.search(said)) is locked


def test_whoever_is_waited_for_is_named_with_unit_and_command() -> None:
    command = "/usr/bin/python3 /usr/bin/unattended-upgrade"
    holder = {"pid": 812, "lock": locks.LOCKS[0], "command": command, "unit": "apt-daily-upgrade.service"}
    name = f"unattended-upgrades (process 812 of apt-daily-upgrade.service: {command})"
    said = orthanc_packages.progress({"inventory_hostname": "pacs"}, [holder], 61.0, 30)
    assert said == f"pacs: waiting for {name}, which is installing packages; 29 more minutes at most"
    refused = orthanc_packages.refusal([holder], 30)
    assert f"{name} still holds /var/lib/dpkg/lock-frontend after 30 minutes" in refused
    assert "systemctl status apt-daily-upgrade.service shows what it is doing" in refused
    unseen = {"pid": 0, "lock": locks.LOCKS[0], "command": "", "unit": ""}
    assert "a process in another container" in orthanc_packages.refusal([unseen], 30)
