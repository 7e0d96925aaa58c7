# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which of the server's addresses a device must type in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from ..core.process import run_program

EVERY = {4: ("0.0.0.0", "*"), 6: ("::", "*")}  # what ss says of them
Listener = tuple[str, int, list[str]]  # address, port and processes


class Place(NamedTuple):
    """Where a device reaches the server, or why it does not: one of the two is empty."""

    address: str
    problem: str


def choose_address(device: str, source: str, port: int, listeners: Iterable[Listener]) -> Place:
    """The address from which the server reaches the device, if a program listens there on that port.

    `source` is that address by the server's routes, empty without a route. Docker's own proxy does not count: it hands
    a connection on from another address than the device's, which Orthanc refuses.
    """
    if not source:
        why = f"The server has no route to {device}"
        return Place("", f"{why}. Remedy: correct the server's network or the device's address, and deploy again.")
    version = ip_address(source).version
    taken = {address for address, number, processes in listeners if number == port and "docker-proxy" not in processes}
    if taken & {source, *EVERY[version]}:
        return Place(source, "")
    why = f"The server reaches {device} from {source}, where nothing listens on port {port}"
    if version == 6 and any(address not in EVERY[6] and ip_address(address).version == 4 for address in taken):
        return Place(
            "", f"{why}; Orthanc listens only on IPv4. Remedy: give the device an IPv4 address, and deploy again."
        )
    return Place("", f"{why}. Remedy: check that Orthanc runs, and deploy again.")


def read_published(text: str) -> list[Listener]:
    """What Docker publishes of a container, of `.NetworkSettings.Ports` as JSON.

    Over IPv4 alone: the container has no address of IPv6, and Docker's proxy takes what comes there.
    """
    try:
        ports: dict[str, list[dict[str, str]] | None] = json.loads(text) or {}
    except ValueError:
        return []  # no such container, and no Docker
    return [
        (one["HostIp"] or EVERY[4][0], int(one["HostPort"]), ["docker"])
        for name, places in ports.items()
        for one in places or []
        if name.endswith("/tcp") and ":" not in one["HostIp"]
    ]


def find_published() -> list[Listener]:
    """What Docker publishes of the container orthanc; nothing where there is none."""
    command = ["docker", "inspect", "--type=container", "--format={{json .NetworkSettings.Ports}}", "orthanc"]
    return read_published(run_program(*command).output)
