# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The devices of the old server: what each may do today, and which of them a deploy refuses. Without Ansible."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.escaping import escape
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.orthanc.rights import RIGHTS
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.old import Old, Path, list_leaves
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.options import (
    KEPT,
    REFUSED,
    REPLACED,
    Verdict,
    Verdicts,
)
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.configuration import COMMITMENT_SINCE
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

POSITIONS = ("AET", "Host", "Port", "Manufacturer")
IN_DATABASE = "Orthanc ignores it: DicomModalitiesInDatabase is on, and the devices are those in its index"


class Change(NamedTuple):
    """What changes for somebody: today, and after the deploy."""

    who: str
    today: str
    tomorrow: str


class Device(NamedTuple):
    """A device of the old server: its name there, what was written of it, and its entry of orthanc_modalities."""

    old_name: str
    written: dict[str, Any]
    entry: dict[str, Any]


def read_devices(old: Old, index: Mapping[str, Any], hosts: Mapping[str, list[str]]) -> list[Device]:
    """The devices that Orthanc knows today. `hosts` are the addresses of names, as the server resolves them."""
    found: list[Device] = []
    names: set[str] = set()
    for old_name, value in _list_known(old, index).items():
        written = (
            dict(zip(POSITIONS, value, strict=False))
            if isinstance(value, list)
            else value
            if isinstance(value, dict)
            else {}
        )
        name = base = re.sub(r"[^A-Za-z0-9_-]", "_", str(old_name)) or "device"
        number = 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.add(name)
        host = str(written.get("Host", ""))
        addresses = hosts.get(host, [])
        port = str(written.get("Port", ""))
        entry = {
            "name": name,
            "aet": written.get("AET", ""),
            "host": addresses[0] if len(addresses) == 1 else written.get("Host", ""),
            "port": int(port) if port.isdecimal() else port,
            "may": list_rights(old, written),
        }
        found.append(Device(str(old_name), written, entry))
    return found


def find_obstacles(old: Old, index: Mapping[str, Any]) -> list[Problem]:
    """Why the devices are unknown: Orthanc keeps them in its index, which could not be read."""
    if old.effective("DicomModalitiesInDatabase") is not True or not index.get("why"):
        return []
    message = f"keeps the devices in the index of {index['path']}, which could not be read: {index['why']}"
    remedy = "make room in /var/tmp, or wait until no device sends, and read the server again"
    return [problem("DicomModalitiesInDatabase", message, remedy)]


def _list_known(old: Old, index: Mapping[str, Any]) -> dict[str, Any]:
    if old.effective("DicomModalitiesInDatabase") is True:
        known = index.get("modalities", {})
        return dict(known) if isinstance(known, dict) else {}
    devices: dict[str, Any] = old.section("DicomModalities")
    return devices


def is_open_to_all(old: Old, right: str) -> bool:
    """Whether any device may do this today, listed or not."""
    name = f"DicomAlways{RIGHTS[right]}"
    return name in rules.SCHEMA["properties"] and old.effective(name) is True


def list_rights(old: Old, written: Mapping[str, Any]) -> list[str]:
    """What a listed device may do today: all that its options do not deny, and what any device may."""
    denied = {
        right for right, option in RIGHTS.items() if written.get(option) is False and not is_open_to_all(old, right)
    }
    if written.get("AllowStorageCommitment", written.get("AllowNAction")) is False:
        denied.add("storage_commitment")
    if rules.release(old.version) < rules.release(COMMITMENT_SINCE):
        denied.add("storage_commitment")
    return [right for right in RIGHTS if right not in denied]


def judge_devices(old: Old, devices: Iterable[Device]) -> Verdicts:
    """The verdicts on DicomModalities."""
    if old.effective("DicomModalitiesInDatabase") is True:
        section = {"DicomModalities": old.section("DicomModalities")}
        return {
            path: Verdict(REFUSED, IN_DATABASE) for path, _value in list_leaves(section) if path != ("DicomModalities",)
        } | ({("DicomModalities",): Verdict(REFUSED, IN_DATABASE)} if not section["DicomModalities"] else {})
    found: Verdicts = {}
    for one in devices:
        base: Path = ("DicomModalities", one.old_name)
        value = old.section("DicomModalities").get(one.old_name)
        if not isinstance(value, dict) or not value:
            found[base] = Verdict(KEPT, f"orthanc_modalities, {one.entry['name']}: {describe(one.entry)}")
            if isinstance(value, list) and len(value) > 3 and value[3] != "Generic":
                found[base] = Verdict(KEPT, f"{found[base].what}; not the manufacturer, which a deploy does not set")
            continue
        for option, inner in value.items():
            for path, leaf in list_leaves(inner, (*base, str(option))):
                found[path] = _judge_device(one, str(option), leaf)
    return found


def _judge_device(one: Device, option: str, value: Any) -> Verdict:
    name = one.entry["name"]
    if option == "Host" and one.entry["host"] != value:
        return Verdict(REPLACED, f"orthanc_modalities, {name}: its address today, {one.entry['host']}")
    if option in ("AET", "Host", "Port"):
        return Verdict(KEPT, f"orthanc_modalities, {name}")
    right = next((right for right, known in RIGHTS.items() if known == option), "")
    if option == "AllowNAction":
        right = "storage_commitment"
    if right:
        may = right in one.entry["may"]
        if may == (value is True):
            return Verdict(KEPT, f"orthanc_modalities, {name}: may {'' if may else 'not '}{right}")
        why = "any device may" if may else f"not with Orthanc before {COMMITMENT_SINCE}"
        return Verdict(REPLACED, f"orthanc_modalities, {name}: may {'' if may else 'not '}{right} ({why})")
    default = rules.SCHEMA["$defs"]["Modality"]["else"]["properties"].get(option, {}).get("default")
    if value in (default, "Generic"):
        return Verdict(KEPT, "Orthanc's default")
    if option == "UseDicomTls":
        return Verdict(REPLACED, "orthanc_dicom_tls, by which the proxy accepts TLS (docs/devices.md)")
    return Verdict(REFUSED, "orthanc_modalities has no such key, and Orthanc's default applies")


def describe(entry: Mapping[str, Any]) -> str:
    return f"{entry['aet']} at {entry['host']}:{entry['port']}, may {', '.join(entry['may']) or 'nothing'}"


# --- who sent -----------------------------------------------------------------------------------
def list_device_changes(old: Old, devices: Iterable[Device], index: Mapping[str, Any], aet: str) -> Iterator[Change]:
    """Who stored images until now and is refused after the deploy, and what else devices must know."""
    entries = [one.entry for one in devices]
    for one in index.get("senders", []):
        if one["origin"] != "DicomProtocol":
            continue
        who = f"{one['aet']} at {one['address']}"
        today = f"stored {count(one['images'], 'image')}, the last on {show_day(one['last'])}"
        known = [entry for entry in entries if str(entry["aet"]).strip().upper() == str(one["aet"]).strip().upper()]
        called = str(one["called"] or aet)
        if not known:
            yield Change(who, today, "is refused: it is not in orthanc_modalities")
        elif one["address"] and not any(is_same_host(entry["host"], one["address"]) for entry in known):
            listed = ", ".join(str(entry["host"]) for entry in known)
            yield Change(who, today, f"is refused: orthanc_modalities names {listed} as its address")
        elif not any("store" in entry["may"] for entry in known):
            yield Change(who, today, "is refused: it may not store")
        elif called.strip().upper() != aet.strip().upper():
            yield Change(who, today, f"is refused: it calls {called}, and the server is {aet}")
    for entry in entries:
        if not entry["may"]:
            yield Change(str(entry["name"]), "may do nothing", "must be removed, or given a right")
    for one in devices:
        host = one.written.get("Host")
        if one.entry["host"] != host:
            yield Change(
                str(one.entry["name"]), f"is found by the name {host}", f"must keep its address {one.entry['host']}"
            )
    anybody = [right for right in RIGHTS if is_open_to_all(old, right)]
    if anybody:
        yield Change(
            "Devices that are not in orthanc_modalities", f"may {', '.join(anybody)}", "are refused, whatever they ask"
        )
    if old.effective("DicomCheckModalityHost") is not True and entries:
        yield Change("Every device", "may have any address", "must have the address in orthanc_modalities")
    if old.effective("DicomCheckCalledAet") is not True:
        yield Change("Every device", "may call the server by any AE title", f"must call it {aet}")


def list_unlisted(devices: Iterable[Device], index: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Entries of orthanc_modalities for those who stored images by DICOM and are not listed; the port is a guess."""
    known = {str(one.entry["aet"]).upper() for one in devices}
    found: dict[str, dict[str, Any]] = {}
    for one in index.get("senders", []):
        aet = escape(one["aet"] or "")
        if one["origin"] == "DicomProtocol" and aet and aet.upper() not in known and one["address"]:
            name = re.sub(r"[^A-Za-z0-9_-]", "_", aet).lower()
            entry = {"name": name, "aet": aet, "host": one["address"], "port": 104, "may": ["echo", "store"]}
            found.setdefault(aet.upper(), entry)
    return list(found.values())


def is_same_host(one: Any, other: Any) -> bool:
    """Whether two addresses are the same, however they are written."""
    try:
        return ipaddress.ip_address(str(one)) == ipaddress.ip_address(str(other).removeprefix("::ffff:"))
    except ValueError:
        return str(one) == str(other)


def count(number: int, noun: str) -> str:
    """'1 image' or '1,200 images'; study becomes studies."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def show_day(moment: Any) -> str:
    """'2026-11-29' of Orthanc's 20261129T101112."""
    found = re.match(r"(\d{4})(\d\d)(\d\d)T", str(moment))
    return "-".join(found.groups()) if found else "an unknown day"
