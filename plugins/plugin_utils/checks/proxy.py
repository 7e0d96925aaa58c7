# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the settings of the proxy: certificates, users and origins. Without Ansible."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import acme, certificate
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

CERTIFICATES = ("self_signed", "provided", "acme")
LISTS = {
    "sources": "orthanc_https_sources",
    "admin_sources": "orthanc_admin_sources",
    "allowed_origins": "orthanc_proxy_allowed_origins",
    "certificate_users": "orthanc_proxy_certificate_users",
    "revoked_certificates": "orthanc_proxy_revoked_certificates",
}
TAKEN_PORTS = {"22": "the port of SSH", "80": "where plain HTTP must not lead to Orthanc"}
# the Origin header of a browser
ORIGIN = re.compile(r"https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")
SERIAL = re.compile(r"[0-9A-Fa-f:]{16,}")


def problems(settings: dict[str, Any], now: datetime) -> list[Problem]:
    """The problems of the settings, whose names come without `orthanc_proxy_`. `now` has a time zone."""
    found = []
    kind = settings["certificate"]
    if kind not in CERTIFICATES:
        found.append(problem("orthanc_proxy_certificate", f"is {kind}", "use self_signed, provided or acme"))
    port = str(settings["port"])
    # the check of its spec reports what is no number
    if port in TAKEN_PORTS or (port.isdecimal() and not 0 < int(port) < 65536):
        message = f"is {port}, {TAKEN_PORTS.get(port, 'which is not a TCP port')}"
        found.append(problem("orthanc_proxy_port", message, "choose another port, such as 8443"))
    found += _check_address(settings["address"])
    remedy = "write each item on its own line, after a hyphen"
    wrong = {name for name in LISTS if not isinstance(settings[name], list)}
    if not wrong & {"sources", "admin_sources"}:
        found += _check_version(settings["address"], [*settings["sources"], *settings["admin_sources"]])
    found += [problem(path, "must be a list", remedy) for name, path in LISTS.items() if name in wrong]
    for name, items in _find_wrong_items({**settings, **{name: [] for name in wrong}}):
        found.append(problem(LISTS[name], *items))
    if kind == "provided":
        found += _check_certificate(settings, now)
    if kind == "acme":
        found += _check_acme(settings)
    return found


def _check_address(address: Any) -> list[Problem]:
    """The problem of an address at which other machines cannot call; whether the machine has it is asked there."""
    if not address or not isinstance(address, str):
        return []  # the check of its spec reports what is not text
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        parsed = None
    if parsed and not (parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local):
        if str(parsed) == address:
            return []
        # it is compared with what the machine says
        return [problem("orthanc_proxy_address", f"({address}) is not in its usual form", f"write {parsed}")]
    remedy = "write one address of the server, such as 198.51.100.10, or remove it to serve every address"
    return [problem("orthanc_proxy_address", f"({address}) is not an address that other machines can call", remedy)]


def _check_version(address: Any, networks: list[Any]) -> list[Problem]:
    """The problem of an address of one version of IP, where all networks that may reach it are of the other one."""
    if not address or not networks or any((":" in str(one)) == (":" in str(address)) for one in networks):
        return []
    version, other = ("IPv6", "IPv4") if ":" in str(address) else ("IPv4", "IPv6")
    message = f"is {address}, but orthanc_https_sources and orthanc_admin_sources have no network of {version}"
    remedy = f"add the users' networks of {version} there, or set an address of {other}"
    return [problem("orthanc_proxy_address", message, remedy)]


def _find_wrong_items(settings: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The name of each list with wrong items, and the message and the remedy."""
    if held := [str(one) for one in settings["allowed_origins"] if not ORIGIN.fullmatch(str(one))]:
        remedy = "write each as a browser's Origin header, in lower case and without a path, such as"
        message = f"contains {', '.join(held)}, not an https origin"
        yield "allowed_origins", (message, f"{remedy} https://viewer.clinic.example")
    users, devices = _list_names(settings["users"]), _list_names(settings["dicom_devices"])
    if named := [str(one) for one in settings["certificate_users"] if one not in users]:
        message = f"names {', '.join(named)}, who is not in orthanc_users"
        yield "certificate_users", (message, "correct the name")
    if held := [str(one) for one in settings["revoked_certificates"] if not SERIAL.fullmatch(str(one))]:
        remedy = "write serial numbers as openssl x509 -noout -serial prints them, in quotes"
        yield "revoked_certificates", (f"contains {', '.join(held)}, not a serial number", remedy)
    if named := [str(one) for one in settings["certificate_users"] if one in devices]:
        message = f"names {', '.join(named)}, which is also the name of a device over TLS"
        yield "certificate_users", (message, "rename one of them")


def _list_names(items: Any) -> list[Any]:
    return [item.get("name") for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _check_certificate(settings: dict[str, Any], now: datetime) -> list[Problem]:
    pair = {certificate.CHAIN: settings["certificate_chain"], certificate.KEY: settings["certificate_key"]}
    if wrong := [path for path, value in pair.items() if not isinstance(value, str)]:
        return [problem(path, "must be text", "write it in PEM") for path in wrong]
    found: list[Problem] = certificate.problems(*pair.values(), str(settings["hostname"]), now)
    return found


def _check_acme(settings: dict[str, Any]) -> list[Problem]:
    texts = {name: settings[name] for name in ("acme_directory", "acme_email", "acme_dns_hook", "acme_ca")}
    if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
        return [problem(f"orthanc_proxy_{name}", "must be text", "write it in quotes") for name in wrong]
    found: list[Problem] = acme.problems(
        texts["acme_directory"],
        str(settings["hostname"]),
        texts["acme_email"],
        texts["acme_dns_hook"],
        texts["acme_ca"],
    )
    return found
