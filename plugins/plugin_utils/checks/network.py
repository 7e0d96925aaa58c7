# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks whether the sources of firewall rules are addresses, and not open to everybody. Without Ansible."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.booleans import is_false
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# The shortest prefixes that one organisation can own.
SHORTEST = {4: 8, 6: 16}
# Name of a port: the rule that is broken if everybody may reach it. Others are open on purpose, or closed.
EVERYBODY = {"dicom": "dicom_for_everybody", "dicom_tls": "dicom_for_everybody", "https": "https_for_everybody"}
# Names of the ports whose sources are the devices.
DEVICES = ("dicom", "dicom_tls")
# Name of a port: the settings that its sources come from.
SETTINGS = {
    "dicom": "orthanc_modalities and orthanc_dicom_sources",
    "dicom_tls": "orthanc_modalities",
    "https": "orthanc_https_sources and orthanc_admin_sources",
    "metrics": "orthanc_monitor_prometheus_sources",
}


def problems(
    ports: list[dict[str, object]], enabled: object = True, waivers: Any = None, reported: Collection[str] = ()
) -> list[Problem]:
    """The problems of `ports`, as in `orthanc_firewall_ports`: name, port, sources. `enabled`: whether there is a
    firewall. `reported`: the hosts of devices that another check reports."""
    found = []
    if is_false(enabled):
        message = f"is {str(enabled).lower()}: {rules.WAIVABLE['no_firewall']}"
        found.append(problem("orthanc_firewall_enabled", message, "remove it", "no_firewall"))
    for port in ports:
        sources = port["sources"]
        path = f"the sources of port {port['port']} ({port['name']})"
        if sum(other["name"] == port["name"] for other in ports) > 1:
            # one set would contain the sources of both
            message = f"names {port['name']} twice"
            found.append(problem("orthanc_firewall_ports", message, "give each port its own name"))
        shared = [other["name"] for other in ports if str(other["port"]) == str(port["port"]) and other is not port]
        if port["name"] == "https" and shared:  # of Orthanc's own ports the check of the configuration reports it
            message = f"is {port['port']}, which is also the port of {', '.join(map(str, shared))}"
            found.append(problem("orthanc_proxy_port", message, "give each service its own port"))
        if not isinstance(sources, list):
            found.append(problem(path, "must be a list", "write each on its own line, after a hyphen"))
            continue
        for source in sources:
            if port["name"] not in DEVICES or str(source) not in reported:
                found += _source(path, str(port["name"]), source)
    configurations = tuple(rule for rule in rules.WAIVABLE if rule not in rules.FIREWALL)
    waived: list[Problem] = rules.waive(found, waivers or {}, configurations)
    return waived


def read_source(source: object) -> Network:
    """The network that a source of a firewall rule is. Raises ValueError for anything else."""
    text = str(source)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        network = None
    # nft and nginx do not accept a zone
    if network is None or "%" in text:
        raise ValueError(f"{text!r} is not an address or a network")
    address = ipaddress.ip_address(text.partition("/")[0])
    if address != network.network_address:
        raise ValueError(f"{text!r} should be {network}, or {address} alone")
    # nor a dotted mask
    if text.lower() not in (str(network), str(address), network.exploded):
        raise ValueError(f"{text!r} should be {network}")
    return network


def is_address(value: object) -> bool:
    """Whether the value is one address, and neither a name nor a network."""
    try:
        return bool(ipaddress.ip_address(str(value)))
    except ValueError:
        return False


def is_everybody(network: Network) -> bool:
    """Whether a network is larger than what one organisation can own."""
    return network.prefixlen < SHORTEST[network.version]


def _source(path: str, name: str, source: object) -> list[Problem]:
    try:
        network = read_source(source)
    except ValueError as error:
        settings = SETTINGS.get(name, "the setting that they come from")
        remedy = f"write them like 198.51.100.21 or 198.51.100.64/26 in {settings}"
        return [problem(path, f"must all be addresses: {error}", remedy)]
    if name in EVERYBODY and is_everybody(network):
        rule = EVERYBODY[name]
        return [problem(path, f"include {network}: {rules.WAIVABLE[rule]}", "list the clinic's networks", rule)]
    return []
