# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_tls_devices
short_description: List the devices that connect over TLS, with the addresses that Orthanc sees
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - The proxy terminates the TLS of a device and passes its associations to Orthanc from an address in 127.0.0.0/8. Each
    device has its own address, derived from its name, so that Orthanc can match the certificate with the AE title.
options:
  _input:
    description: Devices as in C(orthanc_modalities).
    type: list
    required: true
  names:
    description: Names of those that connect over TLS.
    type: list
    required: true
positional: names
"""

EXAMPLES = r"""
- name: Show the address of a device that connects over TLS
  ansible.builtin.debug:
    msg: "{{ orthanc_modalities | clinicops.orthanc.orthanc_tls_devices(['us3']) }}"
"""

RETURN = r"""
_value:
  description: C(name), C(host) (the device's own address) and C(address) of each device that connects over TLS.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration


def orthanc_tls_devices(value: Any, names: Any) -> list[dict[str, str]]:
    for given in (value, names):
        if not isinstance(given, list):
            kind = type(given).__name__
            raise AnsibleFilterError(f"clinicops.orthanc.orthanc_tls_devices: expects a list, not {kind}")
    return [
        {
            "name": str(device["name"]),
            "host": str(device["host"]),
            "address": configuration.tls_address(str(device["name"])),
        }
        for device in value
        if device["name"] in names
    ]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_tls_devices": orthanc_tls_devices}
