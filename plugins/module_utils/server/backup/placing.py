# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which files of a snapshot are put in place beside the images, and which of this machine stay.

The inventory of this machine decides who may log in and connect, not an old snapshot. What a restore makes valid
again nevertheless is reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..core.process import run_program
from ..orthanc.index import open_index

CA = "/etc/nginx/orthanc"
CA_KEY = f"{CA}/ca.key"
# what a self-signed CA has made; certificates that a clinic brings are the inventory's
OF_THE_CA = re.compile(rf"{CA}/((ca|self_signed|device-.+|user-.+|old-.+)\.(key|crt|csr|crl))")
DATA = ("/etc/letsencrypt/",)  # below /etc, and no configuration
ITEM_DAY = re.compile(rb"\x40\x00\x02\x00DA\x08\x00([0-9]{8})")  # ScheduledProcedureStepStartDate, explicit VR
INVENTORY = "this machine's inventory sets it"


class Placing(NamedTuple):
    """A file of the snapshot, and where it goes."""

    path: str
    target: str
    owner: str
    group: str
    mode: int
    digest: str


class KeptFile(NamedTuple):
    """A path that stays as it is on this machine although the snapshot has another, or has it alone; and why."""

    path: str
    why: str


class Machine(NamedTuple):
    """What is here before a restore: orthanc.json ({} without one), whether the archive is new and the worklist in use
    (what it lacks was removed from it), SHA-256 by path."""

    options: dict[str, Any]
    new: bool
    in_use: bool
    digests: dict[str, str]


def find_storage_paths(options: dict[str, Any]) -> tuple[str, str]:
    """Where an Orthanc with these options has images and index."""
    storage = str(options.get("StorageDirectory", ""))
    return storage, str(options.get("IndexDirectory", storage))


def find_served_directory(options: dict[str, Any]) -> str:
    """The directory of the worklist."""
    worklists = options.get("Worklists", {})
    return str(worklists.get("Database") or worklists.get("Directory") or "")


def find_last_day(item: bytes) -> str:
    """The last day of a worklist item, YYYYMMDD; nothing where it says none."""
    return max((day.decode() for day in ITEM_DAY.findall(item)), default="")


def plan_paths(
    paths: dict[str, list[Any]],
    former: dict[str, Any],
    copies: Path,
    machine: Machine,
    received: set[str],
    today: str,
    orthanc: str,
) -> tuple[list[Placing], list[KeptFile]]:
    """What of the manifest's paths is put where, and what stays.

    `former` are the snapshot's options of Orthanc, `copies` the directory that has its files, `received` the studies
    that the restored index has or that came later, `orthanc` this machine's orthanc.json.
    """
    placings, kept = [], []
    # a new machine has made a CA of its own, which no device trusts; where it is the same one, this machine's list of
    # revoked certificates and the keys that it has made since are the newer ones
    ca = machine.new and has_other_ca(paths, machine) and has_same_name(paths, copies)
    theirs, ours = find_served_directory(former), find_served_directory(machine.options or former)
    for path, (owner, group, mode, digest) in sorted(paths.items()):
        item = bool(theirs) and path.startswith(f"{theirs}/")
        target = f"{ours}{path.removeprefix(theirs)}" if item else path
        if machine.digests.get(target) == digest:
            continue
        here = target in machine.digests
        why = ""
        if item and path.removeprefix(f"{theirs}/").count("/") == 0:
            why = keep_item(copies / path.lstrip("/"), here, machine.in_use, received, today)
        elif item and machine.in_use:
            why = "this machine's worklist is in use"
        elif ca and OF_THE_CA.fullmatch(path):
            why = ""
        elif machine.options and path.startswith("/etc/") and not path.startswith(DATA):
            why = INVENTORY
        elif here:
            why = "this machine has its own"
        if why:
            kept.append(KeptFile(target, why))
        else:
            placings.append(Placing(path, target, owner, group, mode, digest))
    # one that says who may log in comes last: what it names is there by then
    return sorted(placings, key=lambda one: one.target == orthanc), kept


def is_item(path: str) -> bool:
    """Whether it is a file of the worklist."""
    return path.endswith(".wl")


def is_in_use(archive: str, history: dict[str, Any], served: str) -> bool:
    """Whether what the worklist lacks was removed from it, and not lost with a disk.

    That is so beside an archive. Beside a new one it is so where the machine remembers backups, and items are there:
    the list was not on the data disk. A list that may be lost is empty.
    """
    return bool(archive) or (bool(history) and bool(served) and any(Path(served).glob("*.wl")))


def keep_item(copy: Path, here: bool, in_use: bool, received: set[str], today: str) -> str:
    """Why an item of the worklist does not come back; nothing when it does."""
    if here:
        return "this machine has a newer one"
    if copy.name.partition("_")[0] in received:
        return "its study has been received"
    if not copy.exists() or find_last_day(copy.read_bytes()) < today:
        return "its date has passed"
    if in_use:  # it was cancelled, or dropped for a corrected one: no scanner must offer it again
        return "it is not on this machine's list any more; submit it again if it is wanted"
    return ""


def has_other_ca(paths: dict[str, list[Any]], machine: Machine) -> bool:
    """Whether both have a CA of their own, and not the same one."""
    return CA_KEY in paths and machine.digests.get(CA_KEY, "") not in ("", paths[CA_KEY][3])


def has_same_name(paths: dict[str, list[Any]], copies: Path) -> bool:
    """Whether the server's certificate of the snapshot is for the name that this machine has."""
    name = f"{CA}/self_signed.crt"
    if name not in paths:
        return not Path(name).exists()
    return Path(name).exists() and read_subject(Path(name)) == read_subject(copies / name.lstrip("/"))


def read_subject(path: Path) -> str:
    """The name in a certificate."""
    command = ["openssl", "x509", "-noout", "-subject", "-ext", "subjectAltName", "-in", str(path)]
    return run_program(*command).output


def read_revoked(path: Path) -> set[str]:
    """Serial numbers of a revocation list, hexadecimal; none where there is no list."""
    command = ["openssl", "crl", "-noout", "-text", "-in", str(path)]
    said = run_program(*command).output
    return {number.upper() for number in re.findall(r"Serial Number: *([0-9A-Fa-f]+)", said)}


def find_valid_again(
    placings: Iterable[Placing], copies: Path, before: dict[str, Any], revoked: set[str], orthanc: str
) -> list[str]:
    """Access that the restore makes valid again; never with a secret in it.

    `before` are this machine's options of Orthanc, `revoked` the serial numbers that its list has.
    """
    found = []
    placed = {one.target: copies / one.path.lstrip("/") for one in placings}
    if orthanc in placed:
        found += find_changed_users(before, json.loads(placed[orthanc].read_text()))
    if f"{CA}/ca.crl" in placed:
        gone = sorted(revoked - read_revoked(placed[f"{CA}/ca.crl"]))
        found += [f"certificate {serial}, which is revoked on this machine" for serial in gone]
    keys = [path for path in sorted(placed) if path.startswith("/etc/") and path.endswith((".key", "privkey.pem"))]
    found += [f"key {path}" for path in keys]
    return found


def find_changed_users(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Users who can log in after and could not before, and those with another password or role."""
    old, new = before.get("RegisteredUsers", {}), after.get("RegisteredUsers", {})
    roles, others = before.get("ClinicopsRoles", {}), after.get("ClinicopsRoles", {})
    found = []
    for name in sorted(new):
        if name not in old:
            found.append(f"user {name} ({others.get(name, 'no role')})")
        elif new[name] != old[name]:
            found.append(f"the snapshot's password of user {name}")
        elif roles.get(name) != others.get(name):
            found.append(f"user {name} as {others.get(name, 'no role')}")
    return found


def list_studies(index: Path) -> set[str]:
    """StudyInstanceUIDs of an index."""
    query = "SELECT DISTINCT value FROM MainDicomTags WHERE tagGroup = 32 AND tagElement = 13"
    with open_index(index) as database:
        return {str(row[0]).rstrip(" \0") for row in database.execute(query)}


def list_studies_with(index: Path, instances: Iterable[str]) -> list[tuple[str, str, str, str]]:
    """Time of reception, sender, StudyInstanceUID and AccessionNumber of instances (Orthanc's identifiers), each
    study and sender once, with the latest time."""
    query = """
        SELECT ifnull((SELECT value FROM Metadata WHERE id = image.internalId AND type = 2), ''),
               ifnull((SELECT value FROM Metadata WHERE id = series.internalId AND type = 3), ''),
               (SELECT value FROM MainDicomTags WHERE id = study.internalId AND tagGroup = 32 AND tagElement = 13),
               ifnull((SELECT value FROM MainDicomTags
                        WHERE id = study.internalId AND tagGroup = 8 AND tagElement = 80), '')
        FROM Resources AS image JOIN Resources AS series ON series.internalId = image.parentId
             JOIN Resources AS study ON study.internalId = series.parentId
        WHERE image.publicId = ?"""
    found: dict[tuple[str, str], tuple[str, str, str, str]] = {}
    with open_index(index) as database:
        for instance in instances:
            for time, aet, study, accession in database.execute(query, (instance,)):
                last = max(time, found.get((aet, study), ("",))[0])
                found[aet, study] = (last, aet, study, accession)
    return [*found.values()]
