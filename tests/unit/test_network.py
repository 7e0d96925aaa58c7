"""Sources of the firewall."""

from __future__ import annotations

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import network


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
    assert "orthanc_https_sources" in found["remedy"]


def test_a_source_without_its_hyphen_is_named() -> None:
    (found,) = network.problems([{"name": "https", "port": 443, "sources": "198.51.100.64/26"}])
    assert "not a list" in found["message"]
