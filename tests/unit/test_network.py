"""Sources of the firewall."""

from __future__ import annotations

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import network


def ports(source: object) -> list[dict[str, object]]:
    return [{"name": "https", "port": 443, "sources": [source]}]


@pytest.mark.parametrize("source", ["198.51.100.21", "198.51.100.64/26", "2001:db8::1", "2001:db8::/32"])
def test_addresses_and_networks_are_taken(source: str) -> None:
    assert network.problems(ports(source)) == []


@pytest.mark.parametrize("source", ["office", "198.51.100.999", "198.51.100.65/26", "198.51.100.0/33", "", None])
def test_anything_else_is_named(source: object) -> None:
    (found,) = network.problems(ports(source))
    assert "port 443 (https)" in found["path"]
    assert str(source) in found["message"]
    assert "in orthanc_https_sources and orthanc_admin_sources" in found["remedy"]
    assert "orthanc_modalities" not in found["remedy"]


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("198.51.100.90/26", "should be 198.51.100.64/26, or 198.51.100.90 alone"),
        ("2001:DB8::1/32", "should be 2001:db8::/32, or 2001:db8::1 alone"),
        ("198.51.100.90/255.255.255.192", "should be 198.51.100.64/26, or 198.51.100.90 alone"),
        ("198.51.100.64/255.255.255.192", "should be 198.51.100.64/26"),
        ("office", "is not an address or a network"),
        ("fe80::1%eth0", "is not an address or a network"),
    ],
)
def test_the_network_that_was_probably_meant(source: str, meant: str) -> None:
    (found,) = network.problems(ports(source))
    assert found["message"] == f"must all be addresses: {source!r} {meant}"


def test_a_source_without_its_hyphen_is_named() -> None:
    (found,) = network.problems([{"name": "https", "port": 443, "sources": "198.51.100.64/26"}])
    assert "must be a list" in found["message"]


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("dicom", "0.0.0.0/0", "dicom_for_everybody"),
        ("dicom", "128.0.0.0/1", "dicom_for_everybody"),
        ("dicom_tls", "::/0", "dicom_for_everybody"),
        ("https", "2000::/3", "https_for_everybody"),
        ("acme", "0.0.0.0/0", ""),
        ("https", "10.0.0.0/8", ""),
    ],
)
def test_everybody_takes_a_waiver(name: str, source: str, rule: str) -> None:
    port = {"name": name, "port": 1, "sources": [source]}
    assert [item["rule"] for item in network.problems([port])] == ([rule] if rule else [])
    reasons = {rule: "the clinic's own firewall stands before it"} if rule else {}
    assert all(item["severity"] == "waived" for item in network.problems([port], waivers=reasons))


def test_no_firewall_takes_a_waiver() -> None:
    (found,) = network.problems([], enabled=False)
    assert (found["rule"], found["severity"]) == ("no_firewall", "error")
    (waived,) = network.problems([], enabled=False, waivers={"no_firewall": "the hypervisor filters"})
    assert waived["severity"] == "waived"


def test_a_waiver_of_the_configuration_is_not_idle_here() -> None:
    assert network.problems([], waivers={"webdav": "the old viewer reads through it"}) == []
    (idle,) = network.problems([], waivers={"no_firewall": "the hypervisor filters"})
    assert idle["rule"] == "idle_waiver"


def test_two_ports_of_one_name_are_refused() -> None:
    twice: list[dict[str, object]] = [{"name": "http", "port": port, "sources": []} for port in (80, 8042)]
    assert [item["message"] for item in network.problems(twice)] == ["names http twice"] * 2


def test_the_proxy_does_not_share_its_port() -> None:
    both = [*ports("198.51.100.64/26"), {"name": "dicom", "port": "443", "sources": []}]
    (found,) = network.problems(both)
    assert (found["path"], "port of dicom" in found["message"]) == ("orthanc_proxy_port", True)
