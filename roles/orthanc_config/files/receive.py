# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Orthanc does with an image that it has already. Orthanc's Python plugin runs this; see docs/devices.md.

Orthanc itself answers "success" to each such image and checks nothing: neither whether the first can still be read,
nor whether the second is the same. Here a first image that is lost or altered is removed, so that the second is stored,
and a second image with other content is reported and put aside. Storage commitment is given only for images whose file
exists and is intact.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import ipaddress
import json
import os
import re
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import dataset
import orthanc
import search

SETTINGS = json.loads(orthanc.GetConfiguration())
STORAGE = Path(SETTINGS["StorageDirectory"])
DISK_GUARD = STORAGE / ".orthanc-disk-guard"  # the disk is almost full: images are refused (roles.lua)
CONFLICTS = STORAGE / ".conflicts"
KEPT_CONFLICTS, KEPT_BYTES = 200, 2 << 30
EXPLICIT = "1.2.840.10008.1.2.1"
# from this release on (seen with 1.13.0) Orthanc does not call `from_device` for an image that it has
ASKS_NOBODY = (1, 12, 8)
ARRIVING_SECONDS = 5  # how long an image may take into the index
# by a waiver of the clinic's; the last is what 1.13 has
OVERWRITES = SETTINGS.get("OverwriteInstances") in (True, "Always", "IfChanged")
KEEP = (orthanc.ReceivedInstanceAction.KEEP_AS_IS, None)

# by thread, between two calls for one image; threading.local forgets, for the plugin makes each call a thread anew
telling: dict[int, tuple[str, dataset.Identity, str]] = {}
arriving: dict[str, tuple[float, bytes]] = {}  # since when, and what
# one association at a time inspects and removes an image, or a second would remove what the first stored again
turns = [threading.Lock() for _unused in range(64)]
counted = {"conflicts": 0, "replaced": 0}


# --- reporting ----------------------------------------------------------------------------------
def quote(text: str, length: int = 64) -> str:
    """What a device sent, without control characters: it must not be able to write lines of the log."""
    return json.dumps(text[:length])


def uid(text: str) -> str:
    return text if dataset.is_uid(text) else "0"


def say(kind: str, identity: dataset.Identity, sender: str, what: str) -> None:
    """A line that the monitor reads (server/orthanc/log.py), and a number among Orthanc's metrics."""
    counted[kind] += 1
    orthanc.SetMetricsValue(f"clinicops_{kind}", float(counted[kind]), orthanc.MetricsType.DEFAULT)
    name = {"conflicts": "conflict"}.get(kind, kind)
    study = f"study {uid(identity.study)} (accession {quote(identity.accession)}) from {quote(sender)}"
    orthanc.LogWarning(f"clinicops: {name}: {study}: image {uid(identity.instance)} {what}")


# --- what Orthanc has ---------------------------------------------------------------------------
def ask_orthanc(call: Any, *arguments: Any) -> bytes | None:
    """Orthanc's answer, or nothing when it has none."""
    try:
        answer: bytes = call(*arguments)
        return answer
    except orthanc.OrthancException:
        return None


def is_known(identifier: str) -> bool:
    return ask_orthanc(orthanc.RestApiGet, f"/instances/{identifier}/metadata") is not None


def path_of(identifier: str) -> Path | None:
    """Its file; nothing where this release does not tell (1.10.1 and later do)."""
    place = f"/instances/{identifier}/attachments/dicom"
    told = json.loads(ask_orthanc(orthanc.RestApiGet, f"{place}/info") or "{}")
    # 1.11 to 1.12 had it alone
    uuid = told.get("Uuid") or (ask_orthanc(orthanc.RestApiGet, f"{place}/uuid") or b"").decode()
    return STORAGE / uuid[:2] / uuid[2:4] / uuid if uuid else None


def read_stored(identifier: str) -> bytes | None:
    """The image as it is on the disk; nothing when its file is not there, or not what was written.

    The disk itself is read, since Orthanc would answer out of its cache (1.13 checks even MD5s of what is in there).
    A release that does not tell where a file is may answer out of its cache as well: it is made to write what it has.
    """
    place = f"/instances/{identifier}/attachments/dicom"
    size, md5 = (ask_orthanc(orthanc.RestApiGet, f"{place}/compressed-{what}") for what in ("size", "md5"))
    path = path_of(identifier)
    try:
        raw = path.read_bytes() if path else ask_orthanc(orthanc.RestApiGet, f"{place}/compressed-data")
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # nothing follows from that for the image
        return None
    if raw is None or size is None or len(raw) != int(size):
        return None
    if md5 and path and hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5.decode():
        return None
    if not path and md5 and ask_orthanc(orthanc.RestApiPost, f"{place}/verify-md5", b"") is None:
        return None
    if not path and not is_rewritten(place):
        return None
    image = raw
    if raw[128:132] != b"DICM":
        # StorageCompression: its size (Orthanc Book, "Storage"), then zlib; else a file without a preamble
        with contextlib.suppress(zlib.error):
            image = zlib.decompress(raw[8:])
    # without a stored MD5 (StoreMD5ForAttachments) its length and that it can be read are all that can be known
    return image if md5 or is_readable(image) else None


def is_readable(data: bytes) -> bool:
    try:
        dataset.read_whole(data)
    except dataset.NotDicom:
        return ask_orthanc(orthanc.CreateDicomInstance, data) is not None  # Orthanc reads more than is DICOM
    return True


def is_rewritten(place: str) -> bool:
    """Whether Orthanc could write the attachment into a new file, and then back as it was; the old one goes after."""
    compressed = ask_orthanc(orthanc.RestApiGet, f"{place}/is-compressed") == b"1"
    turns = ("uncompress", "compress") if compressed else ("compress", "uncompress")
    return all(ask_orthanc(orthanc.RestApiPost, f"{place}/{turn}", b"") is not None for turn in turns)


def put_aside(identifier: str) -> str:
    """What there is of the file, into the quarantine; its name, or nothing when there is nothing."""
    directory = STORAGE / time.strftime(".quarantine-%Y%m%dT%H%M%S", time.gmtime())
    path = path_of(identifier)
    if path and path.exists():
        directory.mkdir(mode=0o700, exist_ok=True)
        path.rename(directory / path.name)
        return f"{directory.name}/{path.name}"
    place = f"/instances/{identifier}/attachments/dicom"
    raw = None if path else ask_orthanc(orthanc.RestApiGet, f"{place}/compressed-data")
    if not raw:
        return ""
    write(directory / identifier, raw)
    return f"{directory.name}/{identifier}"


def is_right(identifier: str, data: bytes) -> bool:
    """Whether it is, byte by byte, what the index says of the image's file. A compressed file is another one."""
    place = f"/instances/{identifier}/attachments/dicom"
    size, md5 = (ask_orthanc(orthanc.RestApiGet, f"{place}/compressed-{what}") for what in ("size", "md5"))
    if not size or not md5 or len(data) != int(size):
        return False
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == md5.decode()


def heal(identifier: str, data: bytes) -> bool:
    """Whether what arrives took the place of the lost file. Then nothing of the index goes, whatever comes between.

    A client that asked for a damaged image has put it into Orthanc's cache, which would serve it for hours: then the
    image is stored again, except while images are refused.
    """
    path = path_of(identifier)
    if not path or not is_right(identifier, data):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, data)
    return DISK_GUARD.exists() or ask_orthanc(orthanc.RestApiGet, f"/instances/{identifier}/file") == data


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    waiting = path.with_name(f"{path.name}.part-{threading.get_ident()}")
    with waiting.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    waiting.rename(path)


# --- an image arrives ---------------------------------------------------------------------------
def parse_image(data: bytes) -> dataset.File:
    try:
        return dataset.parse(data)
    except dataset.NotDicom as error:  # Orthanc reads more than is DICOM
        try:
            return dataset.parse(orthanc.CreateDicomInstance(data).SerializeDicomInstance())
        except orthanc.OrthancException:
            raise error from None


def compare_images(first: bytes, second: bytes) -> list[str]:
    """In what two files of an image differ."""
    if first == second:
        return []
    one, other = parse_image(first), parse_image(second)
    if one.syntax != other.syntax:
        files = []
        for data, file in ((first, one), (second, other)):
            if file.syntax != EXPLICIT:
                try:
                    data = orthanc.TranscodeDicomInstance(data, EXPLICIT).SerializeDicomInstance()
                except orthanc.OrthancException:
                    return [f"transfer syntax {uid(file.syntax)}, which cannot be decoded here"]
            files.append(dataset.parse(data))
        one, other = files
    try:
        return dataset.differences(one, other)
    except dataset.NotDicom:
        return ["content that cannot be compared"]


def put_by(identity: dataset.Identity, data: bytes) -> str:
    """Keeps the other image for a person to review; returns its place. The same one once, and up to a limit."""
    digest = hashlib.sha256(parse_image(data).body).hexdigest()[:16]
    path = CONFLICTS / f"{identity.orthanc}-{digest}.dcm"
    if not path.exists():
        CONFLICTS.mkdir(mode=0o700, exist_ok=True)
        sizes = [one.stat().st_size for one in CONFLICTS.iterdir()]
        if len(sizes) >= KEPT_CONFLICTS or sum(sizes) + len(data) > KEPT_BYTES:
            return ""
        write(path, data)
    return f"{path.parent.name}/{path.name}"


def arrives_beside(identifier: str, body: memoryview) -> bool:
    """Whether other content with the same identity is on its way into the index, over another association.

    It does not wait: Orthanc calls these functions one at a time, and the other one must be called again."""
    now, digest = time.monotonic(), hashlib.sha256(body).digest()
    if len(arriving) > 1000:
        for one in [one for one, (since, _unused) in [*arriving.items()] if since < now - ARRIVING_SECONDS]:
            arriving.pop(one, None)
    since, other = arriving.setdefault(identifier, (now, digest))
    if since < now - ARRIVING_SECONDS:
        arriving[identifier] = now, digest
        return False
    return other != digest


def inspect(data: bytes) -> tuple[str, dataset.Identity, str] | None:
    """What must be reported about an image that arrives, if anything; removes the first one where it is unusable."""
    file = parse_image(data)
    identity = dataset.identify(file)
    identifier = identity.orthanc
    if is_known(identifier):
        with turns[int(identifier[:8], 16) % len(turns)]:
            if is_known(identifier):  # it was not removed meanwhile
                arriving.pop(identifier, None)
                return judge(identity, file, data)
    if DISK_GUARD.exists() or not arrives_beside(identifier, file.body):
        return None
    path = put_by(identity, data)
    where = f"is in {path}" if path else f"is not kept, because {CONFLICTS.name} is full"
    what = "differs from one that arrives at the same moment; one of the two is stored, and this one"
    return "conflicts", identity, f"{what} {where}"


def judge(identity: dataset.Identity, file: dataset.File, data: bytes) -> tuple[str, dataset.Identity, str] | None:
    """The same, of an image that Orthanc has."""
    first = read_stored(identity.orthanc)
    if first is None:
        if DISK_GUARD.exists() and not is_right(identity.orthanc, data):
            return None  # Orthanc would refuse the new one
        aside = put_aside(identity.orthanc)
        if not heal(identity.orthanc, data):
            arriving[identity.orthanc] = time.monotonic(), hashlib.sha256(file.body).digest()
            orthanc.RestApiDelete(f"/instances/{identity.orthanc}")
        what = f"its remains are in {aside}" if aside else "its file was missing"
        return "replaced", identity, f"could no longer be read and was replaced by the one that arrived; {what}"
    different = [] if DISK_GUARD.exists() else compare_images(first, data)
    if not different:
        return None
    path = put_by(identity, first if OVERWRITES else data)
    which = "the second replaces it (OverwriteInstances), the first" if OVERWRITES else "the first is kept, the second"
    where = f"is in {path}" if path else f"is not kept, because {CONFLICTS.name} is full"
    tags = " ".join(different[:8])
    return "conflicts", identity, f"differs from the one that is stored in {tags}; {which} {where}"


def receive_image(data: bytes, origin: int) -> tuple[int, None]:
    """Called for each image, whichever way it comes, before Orthanc checks whether it has it."""
    thread = threading.get_ident()
    telling.pop(thread, None)
    try:
        told = inspect(data)
        if told and origin != orthanc.InstanceOrigin.DICOM_PROTOCOL:
            say(told[0], told[1], "an application", told[2])
        elif told and release() < ASKS_NOBODY:
            telling[thread] = told  # `from_device` knows which
        elif told:
            say(told[0], told[1], list_connected(), told[2])
    except dataset.NotDicom:
        pass  # Orthanc refuses it, or knows better
    except Exception as error:
        why = quote(f"{type(error).__name__}: {error}", 300)
        orthanc.LogError(f"clinicops: an image was not compared with what is stored: {why}")
    return KEEP


@functools.cache
def release() -> tuple[int, ...]:
    version = json.loads(orthanc.RestApiGet("/system"))["Version"]
    return tuple(map(int, re.findall(r"[0-9]+", version))) or ASKS_NOBODY  # a build of the mainline is newer


def list_connected() -> str:
    """The AE titles of the devices that have a connection to the DICOM port now; most often it is one."""
    port, hosts = SETTINGS.get("DicomPort", 4242), set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
                here, there, state = line.split()[1:4]
                if state == "01" and int(here.rpartition(":")[2], 16) == port:
                    hosts.add(address(there.rpartition(":")[0]))
    devices = [one for one in SETTINGS.get("DicomModalities", {}).values() if isinstance(one, dict)]
    found = sorted({str(one["AET"]) for one in devices if one["Host"] in hosts and one.get("AllowStore", True)})
    return " or ".join(found[:4]) or "a device"


def address(text: str) -> str:
    """Of the kernel's table: words of 32 bits in the machine's own order; an IPv4 address also where IPv6 holds it."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return str(getattr(found, "ipv4_mapped", None) or found)


def from_device(image: Any) -> int:
    """Called next in the same thread, with the sender's AE title; 0 is DICOM's success."""
    told = telling.pop(threading.get_ident(), None)
    with contextlib.suppress(orthanc.OrthancException):
        if told:
            say(told[0], told[1], image.GetInstanceRemoteAet(), told[2])
    return 0


# --- storage commitment -------------------------------------------------------------------------
def asked_for(_job: str, _transaction: str, _classes: Any, _instances: Any, _aet: str, _called: str) -> None:
    return None


def verify_commitment(sop_class: str, sop_instance: str, _driver: Any) -> int:
    """The reason why an image is not safe here, or success (DICOM PS3.3, C.14.1.1)."""
    reasons = orthanc.StorageCommitmentFailureReason
    found = json.loads(ask_orthanc(orthanc.RestApiPost, "/tools/lookup", sop_instance) or "[]")
    identifiers = [one["ID"] for one in found if one["Type"] == "Instance"]
    if not identifiers:
        return int(reasons.NO_SUCH_OBJECT_INSTANCE)
    for identifier in identifiers:
        kind = ask_orthanc(orthanc.RestApiGet, f"/instances/{identifier}/metadata/SopClassUid") or b""
        if kind.decode(errors="replace").strip("\0 ") != sop_class.strip("\0 "):
            return int(reasons.CLASS_INSTANCE_CONFLICT)
        data = read_stored(identifier)
        try:
            if data is None or dataset.identify(parse_image(data)).orthanc != identifier:
                return int(reasons.NO_SUCH_OBJECT_INSTANCE)
        except (dataset.NotDicom, orthanc.OrthancException):
            return int(reasons.NO_SUCH_OBJECT_INSTANCE)
    return int(reasons.SUCCESS)


search.register()
orthanc.RegisterReceivedInstanceCallback(receive_image)
orthanc.RegisterIncomingCStoreInstanceFilter(from_device)
commitment = getattr(orthanc, "RegisterStorageCommitmentScpCallback", None)
if commitment:
    commitment(asked_for, verify_commitment)
elif any(
    isinstance(device, dict) and device.get("AllowStorageCommitment")
    for device in SETTINGS.get("DicomModalities", {}).values()
):
    raise RuntimeError("this release of Orthanc's Python plugin cannot verify what it commits to")
