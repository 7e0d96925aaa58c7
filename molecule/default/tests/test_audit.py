"""The exposure audit, from places that the inventory names."""

from __future__ import annotations

import os

import pytest
from clients import ADDRESSES, OFFICE, OUTSIDE, PROVEN, name_of, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]

PLACES = {"orthanc_verify_places": [OFFICE, OUTSIDE]}
LOOKED = f"{int(PROVEN.split()[0]) + 16} passed, 0 failed"  # two places, two families, four ports


@pytest.mark.campaign
def test_a_firewall_that_is_gone_is_found_from_every_place(host: Host) -> None:
    _clinic, office, outside = ADDRESSES[name_of(host)]
    status, said = play("verify", host, PLACES)
    assert status == 0, said
    assert LOOKED in said
    assert "changed=0" in said
    assert f"passed port 443 (https) from {OFFICE} (198.51.100.91) open at {office}" in said
    assert f"passed port 443 (https) from {OUTSIDE} (198.51.100.161) closed" in said

    host.check_output("nft delete table inet orthanc")
    try:
        status, said = play("verify", host, PLACES)
    finally:
        host.check_output("systemctl reload orthanc-firewall")
    assert status == 2
    failed = "FAILED the kernel drops strangers at 443, 4242, 8042"
    assert f"{failed} expected: yes; actual: the table inet orthanc does not exist" in said
    for port, place, source, address in (
        ("4242 (dicom)", OUTSIDE, "198.51.100.161", outside),
        ("443 (https)", OUTSIDE, "198.51.100.161", outside),
        ("443 (https)", OUTSIDE, "2001:db8:100:3::161", "2001:db8:100:"),
        ("8042 (http)", OFFICE, "198.51.100.91", office),
        ("8042 (http)", "localhost", "198.51.100.129", outside),
    ):
        assert f"FAILED port {port} from {place} ({source}) expected: closed; actual: open at {address}" in said

    status, said = play("verify", host, PLACES)
    assert status == 0, said
    assert LOOKED in said


@pytest.mark.campaign
def test_a_port_that_nobody_asked_for_is_named(host: Host) -> None:
    site = "/etc/nginx/conf.d/zz-forgotten.conf"
    server = "server { listen 8080; location / { proxy_pass http://127.0.0.1:8042; } }"
    host.check_output(f"echo '{server}' > {site} && systemctl reload nginx")
    try:
        status, said = play("verify", host)
    finally:
        host.check_output(f"rm {site} && systemctl reload nginx")
    assert status == 2
    assert "FAILED other ports of Orthanc and nginx expected: none; actual: nginx on 8080" in said
