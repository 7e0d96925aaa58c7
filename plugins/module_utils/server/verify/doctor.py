# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a device and Orthanc do not reach each other, in one sentence with the remedy. Nothing here imports Ansible.

What is known: the inventory, Orthanc's own list, the firewall's table and log, what Orthanc and nginx wrote in the last
hour, a TCP connection to the device, and a C-ECHO from Orthanc to it.
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
from ..orthanc.log import RIGHTS, Event, describe_title, find_events
from ..orthanc.runtime import Container, Unit, choose_runtime
from . import acceptance, exposure

HOUR = 3600
TCP_SECONDS = 5.0  # where no machine has the address, the kernel knows it after three
NGINX_LOG = Path("/var/log/nginx/orthanc_error.log")
HANDSHAKE = re.compile(
    r"^(?P<time>\S+ \S+) \[\w+\] [^*]*\*\d+ (?P<what>.*(?:SSL|certificate).*)"
    r", client: (?P<ip>[^,]+), server: \S+?:(?P<port>\d+)$"
)
KERNEL = re.compile(r"orthanc refused: .*\bSRC=(?P<ip>\S+) .*\bDPT=(?P<port>\d+)")


def find_handshakes(log: str, port: int, since: float) -> list[Event]:
    """Failures of TLS in nginx's log, at the port of DICOM over TLS."""
    found = []
    for line in log.splitlines():
        match = HANDSHAKE.match(line)
        # the shutdown of what failed is no failure of its own
        if not match or int(match["port"]) != port or "SSL_shutdown" in match["what"]:
            continue
        when = datetime.strptime(match["time"], "%Y/%m/%d %H:%M:%S")
        if when.timestamp() >= since:
            found.append(Event(when.strftime("%m-%d %H:%M:%S"), "tls", ip=match["ip"], detail=match["what"]))
    return found


@dataclass
class Evidence:
    """All that is known of a device."""

    device: dict[str, Any]  # of the inventory
    aet: str  # Orthanc's
    own: str  # the acceptance test's
    port: int  # where the device must come
    addresses: list[str]  # this machine's
    others: list[tuple[str, str]] = field(default_factory=list)  # AE title and address of each other device
    orthanc: str = ""  # why Orthanc does not answer
    listed: str = ""  # how Orthanc's own list differs from the inventory
    place: str = ""  # the address from which the device comes for Orthanc: over TLS the proxy's
    firewall: str = ""  # why the kernel does not let it in
    refusals: list[Event] = field(default_factory=list)
    knocked: list[str] = field(default_factory=list)  # addresses that the firewall refused at this port
    packets: int = 0  # how many it refused at all
    tcp: str = ""  # open, refused, silent, or unreachable
    echo: str = ""  # what Orthanc's C-ECHO said; empty when it was answered


class Diagnosis(NamedTuple):
    kind: str
    sentence: str


def is_theirs(event: Event, known: Evidence) -> bool:
    """Whether an event is this device's, and not the acceptance test's own."""
    if event.kind == "called_aet":
        return event.detail != acceptance.WRONG_CALLED  # the line names nobody
    if event.ip in known.addresses or event.aet in (known.own, acceptance.STRANGER):
        return False
    here, titled = event.ip in (known.device["host"], known.place), event.aet == known.device["aet"]
    # another device may have the same address
    return (here and titled) if (event.aet, event.ip) in known.others else (here or titled)


def decide(known: Evidence) -> Diagnosis:
    """The first of these that holds: what nobody can come past goes before what was tried last."""
    name, host = known.device["name"], known.device["host"]
    place = f"{host}:{known.device['port']}"
    mine = sorted((event for event in known.refusals if is_theirs(event, known)), key=lambda event: event.moment)
    if known.orthanc:
        text = (
            f"Orthanc itself does not answer ({known.orthanc}), so that no device reaches it. Remedy: start it with "
            "systemctl start orthanc or docker start orthanc, and see its log."
        )
        return Diagnosis("orthanc", text)
    if known.listed:
        text = f"Orthanc knows {name} otherwise than the inventory ({known.listed}). Remedy: deploy again."
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
            # it came from this device, under the AE title of another one
            newest = newest._replace(kind="calling_aet")
        return explain_refusal(newest, known)
    if known.tcp in ("silent", "unreachable"):
        return explain_silence(known)
    if known.tcp == "refused":
        text = (
            f"{name} is there at {host}, and nothing listens on its port {known.device['port']}: it may send, and "
            "Orthanc cannot reach it. Remedy: start the DICOM service (storage SCP) on the device, or set its port in "
            "orthanc_modalities and deploy again; a device that only sends needs none."
        )
        return Diagnosis("closed_port", text)
    if "Rejected" in known.echo:
        text = (
            f"{name} answers at {place} and refuses Orthanc's AE title {known.aet}, or does not call itself "
            f"{known.device['aet']}. Remedy: enter {known.aet} with this machine's address on the device, and the "
            "device's own AE title in orthanc_modalities."
        )
        return Diagnosis("device_refuses", text)
    if known.echo:
        text = (
            f"{name} takes a connection at {place} and does not answer C-ECHO ({known.echo}). "
            "Remedy: see that it is a DICOM service without TLS that listens on that port."
        )
        return Diagnosis("device_fails", text)
    text = (
        f"{name} answers at {place}, the firewall lets it in at port {known.port}, and nothing of it was refused in "
        f"the last hour; it may {', '.join(known.device['may'])}."
    )
    return Diagnosis("fine", text)


def explain_silence(known: Evidence) -> Diagnosis:
    """No machine answers at the device's address: perhaps it has another, and the firewall keeps it out."""
    name, host, port = known.device["name"], known.device["host"], known.device["port"]
    how = "no machine has it" if known.tcp == "unreachable" else f"nothing comes back from port {port}"
    others = [address for address in dict.fromkeys(known.knocked) if address != host]
    hint, other = "", "another address"
    if others:
        hint, other = f", while the firewall refuses {', '.join(others)} at port {known.port}", others[-1]
    elif known.packets:
        hint = f", while the firewall has refused {known.packets} packets of machines that are not listed"
    remedy = (
        f"see that the device is on and its network settings are right; if it has {other}, set its host in "
        "orthanc_modalities to that and deploy again"
    )
    text = f"Nobody answers at {host}, the address of {name} ({how}){hint}. Remedy: {remedy}."
    return Diagnosis("wrong_address", text)


def explain_refusal(event: Event, known: Evidence) -> Diagnosis:
    """What a refusal means for this device."""
    device, when = known.device, f"at {event.moment.partition(' ')[2].partition('.')[0]}"
    name, host, aet = device["name"], device["host"], device["aet"]
    if event.kind == "called_aet":
        text = (
            f"A device called {event.detail} {when}, and Orthanc's AE title is {known.aet}. "
            f"Remedy: if it was {name}, set the called (remote) AE title on it to {known.aet}."
        )
    elif event.kind == "calling_aet":
        usable = event.aet.strip() and event.detail != "invalid"
        other = f", or its aet in orthanc_modalities to {event.aet} and deploy again" if usable else ""
        text = (
            f"{name} ({host}) {describe_title(event)} {when}, and Orthanc knows it as {aet}. "
            f"Remedy: set the AE title on the device to {aet}{other}."
        )
    elif event.kind == "address":
        text = (
            f"AE title {event.aet} came from {event.ip} {when}, and {name} is listed at {host}. Remedy: give the "
            f"device the address {host}, or set its host in orthanc_modalities to {event.ip} and deploy again."
        )
    elif event.kind == "right":
        right = RIGHTS.get(event.detail, event.detail)
        text = (
            f"{name} asked for {right} {when}, which it may not. "
            f"Remedy: add {right} to may of {name} in orthanc_modalities, and deploy again."
        )
        if right in device["may"]:
            text = f"{name} asked for {right} {when}, which Orthanc does not let it do yet. Remedy: deploy again."
    else:
        text = f"TLS with {name} ({event.ip}) failed {when}: {explain_handshake(event.detail)}"
        if not device["tls"]:
            text = (
                f"{name} ({event.ip}) speaks to the port of DICOM over TLS {when}, and is not in orthanc_dicom_tls. "
                f"Remedy: use the other port without TLS on the device, or list it there and deploy again."
            )
    return Diagnosis(event.kind, text)


def explain_handshake(said: str) -> str:
    """What nginx says of a handshake, for a person."""
    if "did not return a certificate" in said or "no required SSL certificate" in said:
        return (
            "the device showed no certificate. Remedy: install the certificate and key that the deploy left in "
            "orthanc_proxy_ca_directory on the device, and switch its client authentication on."
        )
    if "wrong version number" in said or "http request" in said or "packet length" in said:
        return "the device speaks without TLS. Remedy: switch TLS on at the device, or use the port without TLS."
    if "unknown ca" in said or "bad certificate" in said or "certificate unknown" in said:
        return "the device does not trust the server's certificate. Remedy: import the CA's root on the device."
    if "revoked" in said:
        return "its certificate is revoked. Remedy: install the new one from orthanc_proxy_ca_directory on the device."
    if "verify" in said or "certificate" in said:
        return (
            f"its certificate is not the CA's ({said[:120]}). Remedy: install the one from orthanc_proxy_ca_directory "
            "on the device, and set its clock."
        )
    return f"{said[:160]}. Remedy: let the device use TLS 1.2 or 1.3 with an ECDHE AES-GCM cipher suite."


# --- looking ------------------------------------------------------------------------------------
def find_runtime() -> Unit | Container:
    """Orthanc runs as a container where its unit is masked or absent."""
    enabled = try_output("systemctl", "is-enabled", "orthanc.service").strip() == "enabled"
    return choose_runtime("docker" if not enabled and shutil.which("docker") else "package")


def find_image() -> str:
    """The name of the image that the container was made of; empty with the package."""
    runtime = find_runtime()
    with contextlib.suppress(Refused):
        return runtime.inspect("{{.Config.Image}}") if isinstance(runtime, Container) else ""
    return ""


def probe_tcp(host: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as door:
        door.settimeout(TCP_SECONDS)
        try:
            door.connect((host, port))
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
        known.listed = "it is not listed at all"
        return known
    known.place = found["Host"]
    same = {"AE title": (found["AET"], device["aet"]), "port": (int(found["Port"]), int(device["port"]))}
    if not over_tls:
        same["address"] = (found["Host"], device["host"])
    known.listed = ", ".join(f"{what} {has} and not {wanted}" for what, (has, wanted) in same.items() if has != wanted)
    if any(one["port"] == port for one in settings["ports"]) and "no_firewall" not in settings["waivers"]:
        table = exposure.table()
        if not exposure.is_let_in(table, {"port": port}, device["host"]):
            known.firewall = exposure.find_dropped(table)[1] or "its address is not among the sources"
        known.packets = exposure.refused_packets(table)
        kernel = try_output("journalctl", "-k", "--since=-1h", "--output=cat", "--no-pager", "--grep=orthanc refused")
        known.knocked = [match["ip"] for match in KERNEL.finditer(kernel) if int(match["port"]) == port]
    # another process had another configuration
    known.refusals = find_events(find_runtime().read_log(time.time() - HOUR, of_now=True))
    if NGINX_LOG.exists():
        known.refusals += find_handshakes(NGINX_LOG.read_text(errors="replace"), port, time.time() - HOUR)
    known.tcp = probe_tcp(device["host"], int(device["port"]))
    if known.tcp == "open":
        path, body = f"/modalities/{device['name']}/echo", b'{"Timeout": 5}'
        # over TLS Orthanc's own entry leads to the proxy: a device that comes over TLS is not called
        if not over_tls:
            reply = web.http_ask(settings["http_port"], "POST", path, acceptance.find_admin(settings), body)
            known.echo = "" if reply.status == 200 else read_detail(reply.body)
    return known


def read_detail(body: bytes) -> str:
    """Orthanc's reason, without its own prefix; of older releases there is none."""
    match = re.search(rb'"Details" : "(.*)"', body)
    text = match[1].decode(errors="replace").replace('\\"', '"') if match else "no association"
    return text.rpartition(": ")[2] if text.startswith("DicomAssociation") else text


def examine(settings: dict[str, Any], name: str) -> Diagnosis:
    """KeyError for a device that the inventory does not know."""
    device = next((one for one in settings["devices"] if one["name"] == name), None)
    if device is None:
        raise KeyError(name)
    tls = name in settings["certificates"].get("device", {})
    return decide(gather_evidence(settings, {**device, "tls": tls}))
