"""The firewall beside others, and without them."""

from __future__ import annotations

import os

import bed
import pytest
from clients import ADDRESSES, OUTSIDE, answers, client, closed_but_for_devices, name_of, play, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]
UFW = "ufw allow 22/tcp && ufw allow 443,2762,4242/tcp && ufw --force enable"
FIREWALLD = (
    "firewall-cmd --permanent --add-port=443/tcp --add-port=2762/tcp --add-port=4242/tcp && firewall-cmd --reload"
)


def silent(host: Host, port: int = 4242) -> bool:
    """Whether somebody outside gets no answer at all."""
    url = f"http://{ADDRESSES[name_of(host)][2]}:{port}/"
    return client(OUTSIDE, "curl", "--silent", "--max-time", "1", url).returncode == 28


def test_nftables_own_unit_does_not_open_a_port(host: Host) -> None:
    try:
        for what in ("start", "reload", "restart", "stop"):
            host.check_output(f"systemctl {what} nftables")
            assert silent(host), what
            assert silent(host, 8042), what
            assert answers(host), what
    finally:
        # the unit took away the rules by which Docker resolves names in the machine
        bed.docker("restart", name_of(host))
    wait_for(lambda: answers(host), "Orthanc after the reboot")
    assert silent(host)


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("package", "on", "off"),
    [
        ("ufw", UFW, "ufw --force disable"),
        ("firewalld", f"systemctl start firewalld && {FIREWALLD}", "systemctl stop firewalld"),
    ],
)
def test_another_firewall_beside_it(host: Host, package: str, on: str, off: str) -> None:
    host.check_output(f"apt-get update -qq && apt-get install -qq -y {package} && {on}")
    closed_but_for_devices(host)
    bed.docker("restart", name_of(host))
    wait_for(lambda: host.run("systemctl is-active nginx").stdout.strip() == "active", "nginx")
    closed_but_for_devices(host)
    status, said = play("deploy", host)
    assert status == 0, said
    host.check_output(f"{off} && apt-get purge -qq -y {package}")
    closed_but_for_devices(host)


@pytest.mark.campaign
def test_it_goes_and_comes_back(host: Host) -> None:
    assert silent(host)
    off = {"orthanc_firewall_enabled": False, "orthanc_waivers": {"no_firewall": "the hypervisor filters for us"}}
    for settings in (off, off):
        status, said = play("deploy", host, settings)
        assert status == 0, said
    assert "changed=0" in said
    assert "no_firewall: the hypervisor filters for us" in said
    assert "orthanc" not in host.check_output("nft list tables")
    assert not silent(host)
    status, said = play("deploy", host)
    assert status == 0, said
    assert silent(host)
    closed_but_for_devices(host)
