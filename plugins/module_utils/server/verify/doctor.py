# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The doctor: why a device and Orthanc do not reach each other, in one sentence with the remedy. It does not import
Ansible.

The evidence: the inventory, Orthanc's device list, the firewall's table and log, the logs of Orthanc and nginx for the
last hour, a TCP connection to the device, and a C-ECHO from Orthanc to it.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import socket
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import Refused
from ..core.process import try_output
from ..dicom import web
from ..orthanc.log import RIGHT_OF_REQUEST, Event, describe_title, find_events
from ..orthanc.runtime import Container, Unit, choose_runtime
from . import acceptance, exposure

HOUR = 3600
TCP_SECONDS = 5.0  # if no machine has the address, the kernel reports that after three seconds
NGINX_LOG = Path("/var/log/nginx/orthanc_error.log")
HANDSHAKE = re.compile(
    r"^(?P<time>\S+ \S+) \[\w+\] [^*]*\*\d+ (?P<what>.*(?:SSL|certificate).*)"
    r", client: (?P<ip>[^,]+), server: \S+?:(?P<port>\d+)$"
)
KERNEL = re.compile(r"orthanc refused: .*\bSRC=(?P<ip>\S+) .*\bDPT=(?P<port>\d+)")


def find_handshakes(log: str, port: int, since: float) -> list[Event]:
    """TLS failures in nginx's log, at the port for DICOM over TLS."""
    found = []
    for line in log.splitlines():
        match = HANDSHAKE.match(line)
        # the shutdown after a failure is not another failure
        if not match or int(match["port"]) != port or "SSL_shutdown" in match["what"]:
            continue
        when = datetime.strptime(match["time"], "%Y/%m/%d %H:%M:%S")
        if when.timestamp() >= since:
            found.append(Event(when.strftime("%m-%d %H:%M:%S"), "tls", ip=match["ip"], detail=match["what"]))
    return found


@dataclass
class Evidence:
    """The evidence about a device."""

    device: dict[str, Any]  # from the inventory
    aet: str  # Orthanc's AE title
    own: str  # the acceptance test's AE title
    port: int  # the port to which the device must connect
    addresses: list[str]  # of this machine
    others: list[tuple[str, str]] = field(default_factory=list)  # AE title and address of each other device
    orthanc: str = ""  # why Orthanc does not answer
    listed: str = ""  # how Orthanc's device list differs from the inventory
    place: str = ""  # the address that Orthanc sees for the device: over TLS the proxy's
    firewall: str = ""  # why the kernel does not let it in
    refusals: list[Event] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)  # addresses that the firewall refused at this port
    packets: int = 0  # how many packets it has refused in total
    tcp: str = ""  # open, refused, silent, or unreachable
    echo: str = ""  # why Orthanc's C-ECHO failed; empty if it was answered


class Diagnosis(NamedTuple):
    """The cause in a word, and a sentence with the remedy."""

    kind: str
    sentence: str


def is_theirs(event: Event, known: Evidence) -> bool:
    """Whether an event belongs to this device, and not to the acceptance test."""
    if event.kind == "called_aet":
        return event.detail != acceptance.WRONG_CALLED  # the line does not name the device
    if event.ip in known.addresses or event.aet in (known.own, acceptance.STRANGER):
        return False
    here, titled = event.ip in (known.device["host"], known.place), event.aet == known.device["aet"]
    # another device may have the same address
    return (here and titled) if (event.aet, event.ip) in known.others else (here or titled)


def decide(known: Evidence) -> Diagnosis:
    """The diagnosis: the first cause that applies. Causes that block every attempt come before the last attempt."""
    name, host = known.device["name"], known.device["host"]
    place = f"{host}:{known.device['port']}"
    mine = sorted((event for event in known.refusals if is_theirs(event, known)), key=lambda event: event.moment)
    if known.orthanc:
        text = (
            f"Orthanc does not answer ({known.orthanc}), so no device can reach it. Remedy: start it with "
            "systemctl start orthanc or docker start orthanc, and see its log."
        )
        return Diagnosis("orthanc", text)
    if known.listed:
        text = f"Orthanc's entry for {name} differs from the inventory ({known.listed}). Remedy: deploy again."
        return Diagnosis("not_deployed", text)
    if known.firewall:
        text = (
            f"The firewall does not let {name} ({host}) in at port {known.port}: {known.firewall}. "
            "Remedy: deploy again, or load its table: systemctl reload-or-restart orthanc-firewall."
        )
        return Diagnosis("firewall", text)
    if mine:
        newest = mine[-1]
        if newest.kind == "address" and newest.aet != known.device["aet"]:
            # the request came from this device, under another device's AE title
            newest = newest._replace(kind="calling_aet")
        return explain_refusal(newest, known)
    if known.tcp in ("silent", "unreachable"):
        return explain_silence(known)
    if known.tcp == "refused":
        text = (
            f"{name} is up at {host}, but nothing listens on its port {known.device['port']}: it can send, but "
            "Orthanc cannot reach it. Remedy: start the DICOM service (storage SCP) on the device, or correct its port "
            "in orthanc_modalities and deploy again; a device that only sends does not need the service."
        )
        return Diagnosis("closed_port", text)
    if "Rejected" in known.echo:
        text = (
            f"{name} answers at {place}, but refuses Orthanc's AE title {known.aet}, or its own AE title is not "
            f"{known.device['aet']}. Remedy: enter {known.aet} with this machine's address on the device, and the "
            "device's AE title in orthanc_modalities."
        )
        return Diagnosis("device_refuses", text)
    if known.echo:
        text = (
            f"{name} accepts a connection at {place}, but does not answer C-ECHO ({known.echo}). "
            "Remedy: check that a DICOM service without TLS listens on that port."
        )
        return Diagnosis("device_fails", text)
    text = (
        f"{name} answers at {place}, the firewall lets it in at port {known.port}, and none of its requests was "
        f"refused in the last hour; it may {', '.join(known.device['may'])}."
    )
    return Diagnosis("fine", text)


def explain_silence(known: Evidence) -> Diagnosis:
    """No machine answers at the device's address: perhaps it has another one, which the firewall refuses."""
    name, host, port = known.device["name"], known.device["host"], known.device["port"]
    how = "no machine has this address" if known.tcp == "unreachable" else f"no reply from port {port}"
    others = [address for address in dict.fromkeys(known.blocked) if address != host]
    hint, other = "", "another address"
    if others:
        hint, other = f", while the firewall refuses {', '.join(others)} at port {known.port}", others[-1]
    elif known.packets:
        hint = f", while the firewall has refused {known.packets} packets from machines that are not listed"
    remedy = (
        f"check that the device is on and that its network settings are right; if it has {other}, set its host in "
        "orthanc_modalities to that address and deploy again"
    )
    text = f"No device answers at {host}, the address of {name} ({how}){hint}. Remedy: {remedy}."
    return Diagnosis("wrong_address", text)


def explain_refusal(event: Event, known: Evidence) -> Diagnosis:
    """What a refusal means for this device."""
    device, when = known.device, f"at {event.moment.partition(' ')[2].partition('.')[0]}"
    name, host, aet = device["name"], device["host"], device["aet"]
    if event.kind == "called_aet":
        text = (
            f"A device called AE title {event.detail} {when}, but Orthanc's AE title is {known.aet}. "
            f"Remedy: if it was {name}, set the called (remote) AE title on it to {known.aet}."
        )
    elif event.kind == "calling_aet":
        usable = event.aet.strip() and event.detail != "invalid"
        other = f", or set its aet in orthanc_modalities to {event.aet} and deploy again" if usable else ""
        text = (
            f"{name} ({host}) {describe_title(event)} {when}, but Orthanc knows it as {aet}. "
            f"Remedy: set the AE title on the device to {aet}{other}."
        )
    elif event.kind == "address":
        text = (
            f"AE title {event.aet} came from {event.ip} {when}, but {name} is listed at {host}. Remedy: give the "
            f"device the address {host}, or set its host in orthanc_modalities to {event.ip} and deploy again."
        )
    elif event.kind == "right":
        right = RIGHT_OF_REQUEST.get(event.detail, event.detail)
        text = (
            f"{name} requested {right} {when}, for which it has no right. "
            f"Remedy: add {right} to may of {name} in orthanc_modalities, and deploy again."
        )
        if right in device["may"]:
            text = f"{name} requested {right} {when}, which Orthanc does not allow it yet. Remedy: deploy again."
    else:
        text = f"TLS with {name} ({event.ip}) failed {when}: {explain_handshake(event.detail)}"
        if not device["tls"]:
            text = (
                f"{name} ({event.ip}) used the port for DICOM over TLS {when}, but is not in orthanc_dicom_tls. "
                f"Remedy: use the port without TLS on the device, or list the device there and deploy again."
            )
    return Diagnosis(event.kind, text)


def explain_handshake(said: str) -> str:
    """The cause and the remedy of a TLS failure, from nginx's message."""
    if "did not return a certificate" in said or "no required SSL certificate" in said:
        return (
            "the device sent no certificate. Remedy: install on the device the certificate and key that the deploy "
            "wrote to orthanc_proxy_ca_directory, and enable client authentication there."
        )
    if "wrong version number" in said or "http request" in said or "packet length" in said:
        return "the device does not use TLS. Remedy: enable TLS on the device, or use the port without TLS."
    if "unknown ca" in said or "bad certificate" in said or "certificate unknown" in said:
        return "the device does not trust the server's certificate. Remedy: import the CA's root on the device."
    if "revoked" in said:
        return "its certificate is revoked. Remedy: install the new one from orthanc_proxy_ca_directory on the device."
    if "verify" in said or "certificate" in said:
        return (
            f"its certificate was not issued by the server's CA or is not valid ({said[:120]}). Remedy: install the "
            "one from orthanc_proxy_ca_directory on the device, and check its clock."
        )
    return f"{said[:160]}. Remedy: let the device use TLS 1.2 or 1.3 with an ECDHE AES-GCM cipher suite."


# --- evidence -----------------------------------------------------------------------------------
def find_runtime() -> Unit | Container:
    """How Orthanc runs: as a container if its unit is masked or absent."""
    enabled = try_output("systemctl", "is-enabled", "orthanc.service").strip() == "enabled"
    return choose_runtime("docker" if not enabled and shutil.which("docker") else "package")


def find_image() -> str:
    """The name of the container's image; empty with the package."""
    runtime = find_runtime()
    with contextlib.suppress(Refused):
        return runtime.inspect("{{.Config.Image}}") if isinstance(runtime, Container) else ""
    return ""


def probe_tcp(host: str, port: int) -> str:
    """'open', 'refused', 'unreachable', or 'silent'."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(TCP_SECONDS)
        try:
            probe.connect((host, port))
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return "unreachable" if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH) else "silent"
        return "open"


def gather_evidence(settings: dict[str, Any], device: dict[str, Any]) -> Evidence:
    over_tls = device["tls"]
    port = settings["dicom_tls_port"] if over_tls else settings["dicom_port"]
    known = Evidence(device, settings["aet"], settings["calling_aet"], port, acceptance.local_addresses())
    known.others = [(one["aet"], one["host"]) for one in settings["devices"] if one["name"] != device["name"]]
    try:
        found = acceptance.ask_orthanc(settings, "GET", "/modalities?expand").get(device["name"])
    except (OSError, ValueError) as error:
        known.orthanc = str(error)
        return known
    if not found:
        known.listed = "it is not listed"
        return known
    known.place = found["Host"]
    same = {"AE title": (found["AET"], device["aet"]), "port": (int(found["Port"]), int(device["port"]))}
    if not over_tls:
        same["address"] = (found["Host"], device["host"])
    known.listed = ", ".join(
        f"{what} {has} instead of {wanted}" for what, (has, wanted) in same.items() if has != wanted
    )
    if any(one["port"] == port for one in settings["ports"]) and "no_firewall" not in settings["waivers"]:
        table = exposure.read_table()
        if not exposure.is_let_in(table, {"port": port}, device["host"]):
            known.firewall = exposure.find_dropped(table)[1] or "its address is not among the allowed sources"
        known.packets = exposure.count_refused_packets(table)
        kernel = try_output("journalctl", "-k", "--since=-1h", "--output=cat", "--no-pager", "--grep=orthanc refused")
        known.blocked = [match["ip"] for match in KERNEL.finditer(kernel) if int(match["port"]) == port]
    # only of the present process: an earlier one may have had another configuration
    known.refusals = find_events(find_runtime().read_log(time.time() - HOUR, of_now=True))
    if NGINX_LOG.exists():
        known.refusals += find_handshakes(NGINX_LOG.read_text(errors="replace"), port, time.time() - HOUR)
    known.tcp = probe_tcp(device["host"], int(device["port"]))
    if known.tcp == "open":
        path, body = f"/modalities/{device['name']}/echo", b'{"Timeout": 5}'
        # for a device over TLS, Orthanc's entry points to the proxy: no C-ECHO
        if not over_tls:
            reply = web.http_ask(settings["http_port"], "POST", path, acceptance.find_admin(settings), body)
            known.echo = "" if reply.status == 200 else read_detail(reply.body)
    return known


def read_detail(body: bytes) -> str:
    """Orthanc's reason without its prefix. Older releases do not give one."""
    match = re.search(rb'"Details" : "(.*)"', body)
    text = match[1].decode(errors="replace").replace('\\"', '"') if match else "no association"
    return text.rpartition(": ")[2] if text.startswith("DicomAssociation") else text


def examine(settings: dict[str, Any], name: str) -> Diagnosis:
    """The diagnosis for a device. Raises KeyError if the inventory does not list it."""
    device = next((one for one in settings["devices"] if one["name"] == name), None)
    if device is None:
        raise KeyError(name)
    tls = name in settings["certificates"].get("device", {})
    return decide(gather_evidence(settings, {**device, "tls": tls}))
