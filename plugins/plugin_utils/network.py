# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the sources of a firewall rule are addresses. Without Ansible."""

from __future__ import annotations

import ipaddress

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem


def problems(ports: list[dict[str, object]]) -> list[Problem]:
    """`ports` as in `orthanc_firewall_ports`: name, port, sources."""
    found = []
    for port in ports:
        sources = port["sources"]
        path = f"the sources of port {port['port']} ({port['name']})"
        if not isinstance(sources, list):
            found.append(problem(path, "are not a list", "write each on a line of its own, after a hyphen"))
            continue
        for source in sources:
            try:
                ipaddress.ip_network(str(source))
            except ValueError as error:
                remedy = "write them like 198.51.100.21 or 198.51.100.64/26 in orthanc_modalities and"
                found.append(problem(path, f"are not all addresses: {error}", f"{remedy} orthanc_https_sources"))
    return found
