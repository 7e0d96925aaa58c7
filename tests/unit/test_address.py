"""Which address a connection sheet names."""

from __future__ import annotations

import json

import pytest
from server.orthanc.address import Listener, choose_address, read_published

IPV4: list[Listener] = [("0.0.0.0", 4242, ["Orthanc"]), ("127.0.0.1", 8042, ["Orthanc"])]
PROXY: list[Listener] = [("0.0.0.0", 4242, ["docker-proxy"]), ("::", 4242, ["docker-proxy"])]
PUBLISHED = json.dumps(
    {
        "4242/tcp": [{"HostIp": "0.0.0.0", "HostPort": "4242"}, {"HostIp": "::", "HostPort": "4242"}],
        "8042/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8042"}],
        "9/tcp": None,
        "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "53"}],
    }
)


@pytest.mark.parametrize(
    ("source", "port", "listeners"),
    [
        ("198.51.100.28", 4242, IPV4),
        ("198.51.100.92", 4242, IPV4),
        ("198.51.100.28", 4242, [("198.51.100.28", 4242, ["Orthanc"])]),
        ("198.51.100.28", 4242, [("*", 4242, ["Orthanc"])]),
        ("198.51.100.28", 4242, PROXY + read_published(PUBLISHED)),
        # Docker without its own proxy: nobody listens that ss sees
        ("198.51.100.28", 4242, read_published(PUBLISHED)),
        # nginx, for those that speak TLS
        ("2001:db8:100:1::28", 2762, [("0.0.0.0", 2762, ["nginx"]), ("::", 2762, ["nginx"])]),
    ],
)
def test_the_address_of_the_route_is_named(source: str, port: int, listeners: list[Listener]) -> None:
    assert choose_address("198.51.100.35", source, port, listeners) == (source, "")


@pytest.mark.parametrize(
    ("source", "listeners", "said"),
    [
        ("", IPV4, "The server has no route to D. Remedy: correct the server's network or the device's address"),
        (
            "198.51.100.92",
            [("198.51.100.28", 4242, ["Orthanc"])],
            "from 198.51.100.92, where nothing listens on port 4242",
        ),
        ("198.51.100.28", [("0.0.0.0", 4243, ["Orthanc"])], "on port 4242. Remedy: check that Orthanc runs"),
        ("198.51.100.28", [("::", 4242, ["Orthanc"])], "on port 4242. Remedy: check that Orthanc runs"),
        ("198.51.100.28", [], "on port 4242. Remedy: check that Orthanc runs"),
        ("198.51.100.28", PROXY, "on port 4242. Remedy: check that Orthanc runs"),
        ("2001:db8::28", IPV4, "on port 4242; Orthanc listens only on IPv4. Remedy: give the device an IPv4 address"),
        (
            "2001:db8::28",
            PROXY + read_published(PUBLISHED),
            "Orthanc listens only on IPv4. Remedy: give the device an IPv4 address",
        ),
    ],
)
def test_an_address_at_which_nobody_listens_is_not_named(source: str, listeners: list[Listener], said: str) -> None:
    place = choose_address("D", source, 4242, listeners)
    assert place.address == ""
    assert said in place.problem


@pytest.mark.parametrize(
    ("text", "published"),
    [
        (PUBLISHED, [("0.0.0.0", 4242, ["docker"]), ("127.0.0.1", 8042, ["docker"])]),
        ('{"104/tcp": [{"HostIp": "", "HostPort": "4242"}]}', [("0.0.0.0", 4242, ["docker"])]),
        ("{}", []),
        ("null", []),
        ("Error: No such container: orthanc", []),
        ("", []),
    ],
)
def test_what_docker_publishes_is_read(text: str, published: list[Listener]) -> None:
    assert read_published(text) == published
