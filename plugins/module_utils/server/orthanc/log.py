# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads Orthanc's log, including the lines that this collection's own script writes into it."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

# Orthanc's default log, of 1.10.1 to 1.13.0
MOMENT = re.compile(r"^[A-Z](\d\d)(\d\d) (\d\d:\d\d:\d\d[.\d]*)")
UNLISTED = re.compile(r'Modality "(?P<aet>[^"]*)" is not listed in the "DicomModalities"')
ADDRESS = re.compile(
    r'Forbidding access from AET "(?P<aet>[^"]*)" given its hostname \((?P<ip>[^)]*)\)'
    r".*?\((?P<other>[^)]*) was expected\)"
)
# all of its characters belong to an AE title, also " on IP 10.1.1.1"; one of spaces or NULs alone is empty here
REJECTED = re.compile(r"Rejected association for remote AET (?P<aet>.{0,16}) on IP (?P<ip>\S+)")
# Orthanc 1.13's for an AE title with characters that none may have (written as *), for an empty one, and for a
# connection over which nobody asks for an association
NAMELESS = "Association Received from an invalid AET"
INVALID = re.compile(NAMELESS + r" \(sanitized: (?P<aet>.{0,16})\) on IP (?P<ip>[^\s,]+)")
CALLED = re.compile(r"bad called AET in the request \((?P<called>[^)]*)\)")
REQUEST = re.compile(
    r"authorization rejected for AET (?P<aet>.{0,16}) on IP (?P<ip>[^\s:]+(?::[0-9a-f:]+)?): (?P<reason>.+)"
)
COMMAND = re.compile(r"The DICOM command (?P<command>[\w -]+?) is not allowed")
SHOULD_BE = re.compile(r"Its IP address should be (?P<other>\S+)")
# what a request is called in `may`, by Orthanc's words
RIGHT_OF_REQUEST = {
    **{"Echo": "echo", "C-ECHO": "echo", "Store": "store", "C-STORE": "store", "Find": "find", "C-FIND": "find"},
    **{"FindWorklist": "find_worklist", "Find Worklist": "find_worklist", "Move": "move", "Get": "get"},
    **{"N-ACTION": "storage_commitment", "NAction": "storage_commitment", "N-ACTION-RQ": "storage_commitment"},
}
# of the script receive.py, in Orthanc's log as a line of its own; texts of devices are JSON's
QUOTED = r'"(?:[^"\\]|\\.)*"'
RECEIVED = re.compile(
    r"^W\d{4} [\d:.]+ [^]]{0,60}\] clinicops: (?P<kind>conflict|replaced): study (?P<study>[0-9.]+)"
    rf" \(accession (?P<accession>{QUOTED})\) from (?P<sender>{QUOTED}): image (?P<image>[0-9.]+) (?P<what>.*)"
)


# of this machine, and of Docker's bridges on it
LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|172\.(1[6-9]|2\d|3[01])\.\d+\.1|::1")


class Received(NamedTuple):
    """An image that Orthanc had already: `conflict`, it is another one; `replaced`, the first could not be read."""

    kind: str
    study: str
    accession: str
    sender: str  # AE title, or "an application"
    image: str
    what: str


def read_received(line: str) -> Received | None:
    """What the script tells in this line of an image that came a second time, if it tells of one."""
    found = RECEIVED.match(line)
    if not found:
        return None
    accession, sender = (str(json.loads(found[name])) for name in ("accession", "sender"))
    return Received(found["kind"], found["study"], accession, sender, found["image"], found["what"])


class Event(NamedTuple):
    """A rejection that the log reports."""

    moment: str  # MM-DD hh:mm:ss with fractions where the log has them, local time
    kind: str  # calling_aet, address, right, called_aet or tls
    aet: str = ""
    ip: str = ""
    detail: str = ""  # the other address, the right or the called AE title; of an AE title, that it is invalid


def find_events(log: str) -> list[Event]:
    """Refusals in Orthanc's log."""
    found: list[Event] = []
    forbidden: dict[str, str] = {}  # what the line before said of an AE title
    for line in log.split("\n"):  # an AE title may hold what splitlines() takes for the end of a line
        stamp = MOMENT.match(line)
        moment = f"{stamp[1]}-{stamp[2]} {stamp[3]}" if stamp else ""
        if match := CALLED.search(line):
            found.append(Event(moment, "called_aet", detail=match["called"].strip()))
        elif match := ADDRESS.search(line):
            forbidden[match["aet"]] = match["other"]
        elif match := UNLISTED.search(line):
            forbidden.pop(match["aet"], None)
        elif match := REJECTED.search(line):
            other = forbidden.pop(match["aet"], "")
            found.append(Event(moment, "address" if other else "calling_aet", match["aet"], match["ip"], other))
        elif match := INVALID.search(line):
            found.append(Event(moment, "calling_aet", match["aet"], match["ip"], "invalid"))
        elif match := REQUEST.search(line):
            command, should = COMMAND.search(match["reason"]), SHOULD_BE.search(match["reason"])
            if command:
                found.append(Event(moment, "right", match["aet"], match["ip"], command["command"].strip()))
            elif should:
                found.append(Event(moment, "address", match["aet"], match["ip"], should["other"].rstrip(".")))
            elif "not listed" in match["reason"]:
                found.append(Event(moment, "calling_aet", match["aet"], match["ip"]))
    return found


def find_device(event: Event, devices: dict[str, tuple[str, str]]) -> str:
    """The device (name: AE title, address) that Orthanc rejected, or nothing where it is none of them.

    Both together name one of several at one address. Else the address decides, since the AE title may be what is
    wrong; a device behind another address is known by its own.
    This machine's addresses are the acceptance test's, which plays rejected devices.
    """
    # over TLS a device comes from an address of this machine that stands for its certificate
    known = {host for _unused, host in devices.values()}
    if not event.ip or (LOOPBACK.fullmatch(event.ip) and event.ip not in known):
        return ""
    by_both = [name for name, known_as in devices.items() if known_as == (event.aet, event.ip)]
    by_address = [name for name, (_unused, host) in devices.items() if host == event.ip]
    by_title = [name for name, (aet, _unused) in devices.items() if aet == event.aet]
    return next(iter(by_both + by_address + by_title), "")


def describe_title(event: Event) -> str:
    """What a device calls itself, as the second half of a sentence that begins with the device."""
    invalid = event.detail == "invalid"
    if event.aet.strip():
        return f"calls itself {event.aet}" + " (each * is a character that is not allowed in an AE title)" * invalid
    return "sends no AE title of its own (the field is empty)" + ", or opens connections and sends nothing," * invalid


def describe_rejection(event: Event, aet: str, host: str) -> str:
    """Why Orthanc rejected the device that is listed with this AE title and address, in a sentence without its end."""
    if event.kind == "right":
        return f"it requested {RIGHT_OF_REQUEST.get(event.detail, event.detail)}, which it is not allowed to use"
    if event.aet != aet:
        return f"it {describe_title(event)} at {event.ip}, but Orthanc knows it as {aet}"
    if event.ip != host:
        return f"it connects from {event.ip}, but Orthanc expects it at {host}"
    return f"Orthanc rejected it as {aet} at {host}"


def list_rejections(log: str, devices: dict[str, tuple[str, str]], tester: str = "") -> list[tuple[str, str]]:
    """Each rejection of a listed device in the log: the device's name, and why in a sentence without its end.

    `tester` is the AE title of the acceptance test, which has itself rejected under a device's certificate.
    """
    others = (event for event in find_events(log) if not tester or event.aet.strip() != tester)
    found = ((find_device(event, devices), event) for event in others)
    return [(name, describe_rejection(event, *devices[name])) for name, event in found if name]
