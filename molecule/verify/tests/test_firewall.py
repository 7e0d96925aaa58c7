"""What somebody does to the firewall by hand: which of it opens a port, who tells it, and what closes it again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import bed
import pytest
from backups import must
from clients import ADDRESSES, client, name_of, play, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from verified import DEVICE, DEVICE_ADDRESS, failed
from watched import look
from worklists import sh

MACHINES = ["orthanc-verify12", "orthanc-verify13"]
testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
RESTART = "systemctl restart orthanc-firewall"
# what is done to the table, and the alert
CHANGES = {
    "nft flush table inet orthanc": "FirewallChanged/",
    "nft insert rule inet orthanc prerouting accept": "FirewallChanged/",
    f"nft add element inet orthanc https_4 '{{ {DEVICE_ADDRESS} }}'": "FirewallChanged/",
    "nft delete table inet orthanc": "FirewallGone/",
}
BED = "nft 'table inet bed { chain c { type %s priority %s; %s; }; }'"
# rules of others: at which port a stranger comes in by them, if at all
OPENING = {
    BED % ("nat hook prerouting", "dstnat", "tcp dport 104 redirect to :443"): 104,
    BED % ("nat hook prerouting", "-190", "tcp dport 104 redirect to :443"): 104,
}
HARMLESS = [
    BED % ("filter hook prerouting", "-300", "accept"),
    BED % ("filter hook prerouting", "raw", "notrack"),
    BED % ("filter hook input", "-400", "policy accept; tcp dport 443 accept"),
    BED % ("nat hook prerouting", "dstnat", "tcp dport 443 redirect to :9"),
]


@pytest.fixture(
    name="watched", scope="module", params=[MACHINES[0], pytest.param(MACHINES[1], marks=pytest.mark.campaign)]
)
def fixture_watched(request: pytest.FixtureRequest) -> Iterator[str]:
    """The tests look themselves."""
    name = str(request.param)
    must(name, "systemctl stop orthanc-monitor.timer")
    wait_for(lambda: sh(name, "systemctl is-active orthanc-monitor.service")[1].strip() != "activating", "the look")
    yield name
    look(name, 3)
    must(name, "systemctl start orthanc-monitor.timer")


@pytest.fixture(name="machine")
def fixture_machine(watched: str) -> Iterator[str]:
    yield watched
    sh(watched, "nft delete table inet bed")
    must(watched, RESTART)


def is_open(machine: str, port: int = 443) -> bool:
    """Whether the device, which may come to the DICOM port alone, reaches this one."""
    address = ADDRESSES[machine][0]
    return client(DEVICE, "timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}").returncode == 0


def alerts(machine: str, before: dict[str, str]) -> list[str]:
    return sorted(look(machine, 2).keys() - before.keys())


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_table_is_told_and_the_remedy_is_true(machine: str, change: str) -> None:
    before = look(machine, 3)
    assert not is_open(machine)
    must(machine, change)
    assert is_open(machine)
    assert alerts(machine, before) == [CHANGES[change]]
    _, said = sh(machine, "orthanc-monitor show")
    assert f"Remedy: {RESTART}" in said
    must(machine, RESTART)
    assert not is_open(machine)
    assert look(machine, 3).keys() == before.keys()


@pytest.mark.parametrize("rule", OPENING)
def test_a_rule_that_leads_past_the_firewall_is_told(machine: str, rule: str) -> None:
    before, port = look(machine, 3), OPENING[rule]
    assert not is_open(machine, port)
    must(machine, rule)
    assert is_open(machine, port)
    assert alerts(machine, before) == ["FirewallDetour/"]


@pytest.mark.parametrize("rule", HARMLESS)
def test_a_rule_that_opens_nothing_is_not_accused(machine: str, rule: str) -> None:
    before = look(machine, 3)
    must(machine, rule)
    assert not is_open(machine)
    assert alerts(machine, before) == []


def test_sets_and_counters_that_only_count_are_no_change(machine: str) -> None:
    """A packet of a device and one of a stranger's; Docker and the deploy write beside it."""
    is_open(machine, 4242)  # Orthanc 1.13 takes it for a device without an AE title
    before = look(machine, 3)
    is_open(machine)
    must(machine, f"nft delete element inet orthanc dicom_4 '{{ {DEVICE_ADDRESS} }}'")
    must(machine, f"nft add element inet orthanc dicom_4 '{{ {DEVICE_ADDRESS} }}'")
    assert alerts(machine, before) == []


def test_a_neighbour_does_not_reach_the_container_itself() -> None:
    """Docker before 28 lets everybody in who routes to the container through the server."""
    machine = "orthanc-verify13"
    inside = must(machine, "docker inspect -f '{{.NetworkSettings.Networks.orthanc.IPAddress}}' orthanc").strip()
    way = f"{inside.rpartition('.')[0]}.0/24"
    image = bed.docker("inspect", "--format={{.Config.Image}}", DEVICE).stdout.strip()
    route = ["run", "--rm", f"--network=container:{DEVICE}", "--cap-add=NET_ADMIN", image, "ip", "route"]

    def reached(port: int) -> bool:
        return client(DEVICE, "timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{inside}/{port}").returncode == 0

    bed.docker(*route, "add", way, "via", ADDRESSES[machine][0])
    try:
        assert [port for port in (4242, 8042) if reached(port)] == []
        # without our table Docker's own rules let it in
        must(machine, "nft flush table inet orthanc")
        assert [port for port in (4242, 8042) if reached(port)] == [4242, 8042]
    finally:
        must(machine, RESTART)
        bed.docker(*route, "del", way)


# a bridge of the administrator's, with a machine behind it that serves HTTP at one of our ports
LAN = """
ip netns add lan
ip link add br-lan type bridge
ip address add 192.0.2.1/24 dev br-lan
ip link set br-lan up
ip link add lan0 type veth peer name eth0 netns lan
ip link set lan0 master br-lan up
ip -n lan address add 192.0.2.2/24 dev eth0
ip -n lan link set eth0 up
ip -n lan route add default via 192.0.2.1
iptables -I DOCKER-USER -o br-lan -j ACCEPT
iptables -I DOCKER-USER -i br-lan -o eth0 -j ACCEPT
systemd-run --quiet --unit=lan ip netns exec lan python3 -m http.server 443
"""
NO_LAN = """
systemctl stop lan
iptables -D DOCKER-USER -o br-lan -j ACCEPT
iptables -D DOCKER-USER -i br-lan -o eth0 -j ACCEPT
ip link del br-lan
ip netns del lan
"""


def test_a_bridge_of_the_administrator_is_not_taken_for_docker_s() -> None:
    """Who is behind it does not reach the container itself, and is reached at ports that are also ours."""
    machine = "orthanc-verify13"
    inside = must(machine, "docker inspect -f '{{.NetworkSettings.Networks.orthanc.IPAddress}}' orthanc").strip()
    image = bed.docker("inspect", "--format={{.Config.Image}}", DEVICE).stdout.strip()
    route = ["run", "--rm", f"--network=container:{DEVICE}", "--cap-add=NET_ADMIN", image, "ip", "route"]

    def reached(port: int) -> bool:
        probe = f"timeout 2 ip netns exec lan bash -c 'exec 3<>/dev/tcp/{inside}/{port}'"
        return sh(machine, probe)[0] == 0

    must(machine, LAN)
    bed.docker(*route, "add", "192.0.2.0/24", "via", ADDRESSES[machine][0])
    try:
        wait_for(
            lambda: client(DEVICE, "curl", "-sf", "-m", "2", "http://192.0.2.2:443/").returncode == 0,
            "the machine behind",
        )
        assert [port for port in (4242, 8042) if reached(port)] == []
        # without our table Docker's own rules let it in
        must(machine, "nft flush table inet orthanc")
        assert [port for port in (4242, 8042) if reached(port)] == [4242, 8042]
    finally:
        must(machine, RESTART)
        bed.docker(*route, "del", "192.0.2.0/24")
        must(machine, NO_LAN)


def test_what_a_deploy_calls_loads_the_table_again(host: Host) -> None:
    machine, module = name_of(host), "clinicops.orthanc.orthanc_firewall_table"
    assert not is_open(machine)
    must(machine, "nft insert rule inet orthanc prerouting accept")
    for check, opened in ((True, True), (False, False)):
        said = host.ansible(module, check=check)
        assert (said["changed"], said["differences"]) == (True, ["chain prerouting has in addition 'accept'"])
        assert is_open(machine) == opened
    assert host.ansible(module, check=False)["changed"] is False


@pytest.mark.campaign
def test_a_deploy_loads_the_table_again(host: Host) -> None:
    machine = name_of(host)
    assert not is_open(machine)
    must(machine, "nft insert rule inet orthanc prerouting accept")
    assert is_open(machine)
    status, said = play("deploy", host)
    assert status == 0, said
    assert not is_open(machine)
    assert re.search(
        rf"Reload the firewall table where the kernel holds a different one\] \*+ changed: \[{machine}\]", said
    )
    assert failed(machine) == set()
