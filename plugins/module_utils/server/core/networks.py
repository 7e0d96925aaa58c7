# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Networks of either version of IP."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


def is_within(
    inner: ipaddress.IPv4Network | ipaddress.IPv6Network, outer: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> bool:
    """Whether every address of the inner network is one of the outer."""
    first, last = int(outer.network_address), int(outer.broadcast_address)
    within = first <= int(inner.network_address) and int(inner.broadcast_address) <= last
    return inner.version == outer.version and within


def collapse(networks: Iterable[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The fewest networks with the same addresses, of both versions of IP."""
    known = [ipaddress.ip_network(network) for network in networks]
    four = [network for network in known if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in known if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]
