# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Upgrades Orthanc to another image, or from its package to an image or back, and goes back if that fails
(docs/upgrade.md).

Each step can be interrupted at any moment and run again. What the way back needs is on the disk before the old Orthanc
goes: its container under another name or its package, its configuration, and its index as it left it. Images never
change once they are written, so both releases use the same files. Runs on the machine, standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import (
    adoption,
    differences,
    indexes,
    installed,
    present,
    previous,
    registry,
    removal,
    service,
    submission,
)

from .progress import Progress
from .server.backup import freeze
from .server.backup.settings import CONFIGURATION, COUNTED, Settings
from .server.core.errors import Refused
from .server.core.files import (
    copy_durably,
    hash_md5,
    read_object,
    sync_directory,
    write_atomic,
)
from .server.core.locks import hold_lock
from .server.core.process import read_output
from .server.core.settings import BACKUP, FACTS
from .server.core.words import say_size
from .server.dicom.scu import ACCEPTED, Scu
from .server.orthanc.layout import VERSION, name_attachment
from .server.orthanc.runtime import find_version

DIRECTORY = Path("/var/lib/orthanc-upgrade")  # for root alone
HISTORY = "history.json"
SITE = Path(present.CONFIGURATION)
DROP_IN = previous.DROP_INS / "clinicops.conf"
# in the storage directory, where a rename is possible and a copy may share its blocks
INDEX = ".upgrade-index"  # as the old Orthanc left it
TRIAL = ".upgrade-trial"  # the copy that the trial works on
SETTINGS = tuple(f"/etc/orthanc-{name}.json" for name in ("backup", "monitor", "verify", "worklist"))
# what a deploy writes by the release, or by the method of installation
KEPT = (str(FACTS), *SETTINGS, "/etc/nginx/conf.d/orthanc.conf", "/etc/nftables.d/orthanc.nft", str(DROP_IN))
LOCK_SECONDS = 3600
START_SECONDS = 1800.0  # a release may rebuild tables of a large index
CLOSE_SECONDS = 10.0  # the monitor opens the index for a moment
STUDY = (0x0020, 0x000D)  # StudyInstanceUID, in DicomIdentifiers
RATE = 50 << 20  # bytes a second at which an index is copied, for an estimate
# the steps of an upgrade, in upgrade.json
STEPS = ("", "tried", "switching", "switched", "confirmed", "returning", "returned", "settling", "settled")
UNDER_WAY = ("switching", "switched", "confirmed")  # from where a failure goes back
STOPPED = (*UNDER_WAY, "settling")  # the old Orthanc is stopped for the new one
UNFINISHED = (*STOPPED, "returning")


@dataclasses.dataclass
class Notes(Progress):
    """How far the upgrade is, and what the way back needs."""

    PLACE = DIRECTORY / "upgrade.json"

    method: str = "docker"  # of the new one
    image: str = ""  # the new one, as the inventory names it, or the package
    identity: str = ""  # its content
    version: str = ""  # the release that the trial saw
    old_method: str = "docker"
    old_image: str = ""
    old_identity: str = ""
    old_version: str = ""
    policy: str = ""  # the old container's restart policy
    aside: bool = False  # whether the old package is stopped and its index kept; a container has another name then
    stopped: float = 0.0  # when the old Orthanc was stopped, in seconds since 1970
    missing: list[str] = dataclasses.field(default_factory=list)  # images that were deleted after the switch
    orphans: list[str] = dataclasses.field(default_factory=list)  # files of images that came after the switch
    unread: list[str] = dataclasses.field(default_factory=list)  # those among them that are damaged, and stay
    came: int = 0  # images that came after the switch, and could be saved for the old Orthanc
    arrived: int = 0  # those among them that it has again
    completed: str = ""  # when the way back was given up, as the history has it


# --- what is there ------------------------------------------------------------------------------
def read_opened(storage: Path) -> str:
    """The release that last opened the index; empty where it is not known."""
    with contextlib.suppress(OSError):
        return str(find_version((storage / VERSION).read_text(encoding="utf-8")))
    return ""


def read_index_size(storage: Path) -> int:
    """Bytes of the index, with its changes that are not in it yet."""
    return sum((storage / name).stat().st_size for name in indexes.INDEX if (storage / name).exists())


def find_old(notes: Notes) -> installed.Orthanc:
    """The Orthanc that is upgraded, which once a new one may run only the notes know. Refused where there is none."""
    if notes.step in UNFINISHED:
        return installed.choose(notes.old_method)
    old = installed.choose(str(read_object(FACTS).get("method")))
    if not SITE.exists() or not old.read_installed().identity:
        raise Refused(f"There is no {old.what} of Orthanc to upgrade. Remedy: deploy first.")
    return old


def is_aside(notes: Notes) -> bool:
    """Whether the old Orthanc has made room for the new one, and its index is kept."""
    return notes.aside if notes.old_method == "package" else bool(present.inspect(installed.OLD))


def require_no_other(notes: Notes) -> None:
    """Refused where there is a container under the name that the old one has during an upgrade, and none is under
    way."""
    if notes.step not in UNFINISHED and present.inspect(installed.OLD):
        what = f"There is a container {installed.OLD} of an earlier upgrade"
        raise Refused(f"{what}. Remedy: docker rm {installed.OLD}.")


def is_of_distribution(new: installed.Orthanc, notes: Notes) -> bool:
    """Whether the package stays, so that apt upgrades it."""
    return new.method == "package" and find_old(notes).method == "package" and notes.step not in UNFINISHED


def is_needed(new: installed.Orthanc, moved: str, notes: Notes) -> bool:
    """Whether there is anything to do: another method or image is asked for, its tag was moved, or an upgrade is under
    way."""
    if notes.step in UNFINISHED or moved:
        return True
    old = find_old(notes)
    return bool(old.method != new.method or old.read_installed().identity != new.read_identity())


def describe_offer(new: installed.Orthanc, moved: str, running: installed.Installed) -> str:
    """What would come in the place of what runs."""
    if moved:
        runs = installed.read_digest(running.identity) or running.name
        return (
            f"Offered: {new.name} as its registry has it now ({moved}). The tag was moved: what runs is {runs}. The"
            " trial brings the new one."
        )
    if not new.read_identity():
        return f"Offered: {new.name}. It is not on this machine yet; the trial brings it."
    return f"Offered: {new.describe()}."


def describe(
    new: installed.Orthanc, moved: str, version: str, content: str, storage: Path, directory: Path = DIRECTORY
) -> list[str]:
    """What is installed, what is offered, what changes, whether there is a way back, what it takes: in sentences.

    `moved` is the digest that the tag has in the registry, if the image on this machine is another one; `version` is
    the release that is offered, if it is known."""
    notes, size, version = Notes.read(directory), read_index_size(storage), find_version(version)
    require_no_other(notes)
    if is_of_distribution(new, notes):
        return []
    old, identity = find_old(notes), "" if moved else new.read_identity()
    was = notes.old_version if notes.step in UNDER_WAY else read_opened(storage)
    running = old.read_installed()
    said = [
        f"Installed: {running.name}, Orthanc {was or 'of an unknown release'}.",
        describe_offer(new, moved, running),
    ]
    if notes.step in UNFINISHED:
        what = "The way back from" if notes.step == "returning" else "The upgrade to"
        return [*said, f"{what} {notes.image} was interrupted ({notes.step}). It goes on from there."]
    if old.method != new.method:
        said.append(
            f"The method of installation changes from {old.method} to {new.method}. Images and index stay where they"
            f" are: the index was last opened by Orthanc {was or '?'}, and will be by"
            f" {version or 'the release that the trial finds'}."
        )
    if notes.step == "returned" and notes.identity == identity:
        said.append(f"An earlier upgrade to this {new.what} failed, and went back to {notes.old_image}.")
    before = SITE.read_text(encoding="utf-8") if SITE.exists() else ""
    if identity:  # otherwise its release and its plugins are not known
        changed = differences.list_differences(before, content)
        said.append(f"orthanc.json: {'; '.join(changed) or 'no option changes'}.")
    said.append(
        f"The way back: until the upgrade is complete, the old {old.what} and a copy of the index ({size >> 20} MiB)"
        " are kept, and any failure goes back by itself. Afterwards"
        + (
            " another upgrade leads back, as long as no newer release opens the index."
            if was and was == version
            else " an older release must not open the index, and the way back is a restore of the backup of before."
        )
    )
    free = shutil.disk_usage(storage).free
    said.append(f"Disk: {2 * size >> 20} MiB for copies of the index in {storage}; {free >> 20} MiB are free.")
    seconds = 20 + 2 * size // RATE
    said.append(
        f"Time: backup about {read_seconds('backup')}, its proof about {read_seconds('restore_check')}, trial about"
        f" {seconds} s. Devices are refused in the switch alone, for about {seconds} s, and send again."
    )
    return said


def read_seconds(what: str) -> str:
    """How long the last run of the backup's programs took, in words."""
    found = read_object(BACKUP / f"{what}.json").get("seconds")
    return f"{found:.0f} s" if isinstance(found, int | float) else "as long as it takes"


# --- what else works on it ----------------------------------------------------------------------
@contextlib.contextmanager
def hold_backups() -> Iterator[None]:
    """Meanwhile no program of the backup pauses, stops or starts Orthanc. Busy where one runs for too long."""
    with contextlib.ExitStack() as locks:
        for name in ("run", "ledger"):
            locks.enter_context(hold_lock(BACKUP / f"{name}.lock", f"orthanc-backup ({name})", LOCK_SECONDS))
        yield


def require_closed(index: Path) -> None:
    """Refused where a process has an index open, although its Orthanc was stopped."""
    end = time.monotonic() + CLOSE_SECONDS
    while indexes.find_opener(index):
        if time.monotonic() > end:
            what = f"Orthanc was stopped, but a process still has {index} open"
            raise Refused(f"{what}. Remedy: fuser {index} shows it; stop it, and run the upgrade again.")
        time.sleep(0.2)


# --- trial --------------------------------------------------------------------------------------
class Expected(NamedTuple):
    """What a release must find in an index: how many of each level, a study's UID, and some images' MD5."""

    counts: dict[str, int]
    study: str
    images: dict[str, tuple[str, str]]  # by Orthanc's identifier: the name of the file, and the MD5 of its content


def read_expected(index: Path) -> Expected:
    """Of an index that no Orthanc has open. The images are the first, the last, and some in between."""
    images = "SELECT publicId, uuid, uncompressedMD5 FROM AttachedFiles JOIN Resources ON internalId = id"
    images += " WHERE fileType = 1 AND uncompressedMD5 <> ''"
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        counts = dict(database.execute("SELECT resourceType, COUNT(*) FROM Resources GROUP BY resourceType"))
        study = database.execute(
            "SELECT value FROM DicomIdentifiers WHERE tagGroup = ? AND tagElement = ? ORDER BY id DESC LIMIT 1", STUDY
        ).fetchone()
        chosen = [
            row
            for order in ("internalId LIMIT 1", "internalId DESC LIMIT 1", "uuid LIMIT 3")
            for row in database.execute(f"{images} ORDER BY {order}")
        ]
    return Expected(
        {name: counts.get(number, 0) for number, name in enumerate(COUNTED, 1)},
        study[0] if study else "",
        {identity: (uuid, digest) for identity, uuid, digest in chosen},
    )


def find_faults(configuration: dict[str, Any], expected: Expected, storage: Path) -> Iterator[str]:
    """What the Orthanc of this configuration, on this index, does not do as it should."""
    orthanc = service.open_api(configuration)
    try:
        counted = orthanc.get("/statistics")
        for name, number in expected.counts.items():
            if (found := counted[f"Count{name.capitalize()}"]) != number:
                yield f"it counts {found} {name} instead of {number}"
        root = configuration.get("DicomWeb", {}).get("Root", "/dicom-web/").rstrip("/")
        if expected.study:
            answer = orthanc.ask("GET", f"{root}/studies?StudyInstanceUID={expected.study}", accept="application/json")
            if answer.status != 200 or len(json.loads(answer.body or b"[]")) != 1:
                yield f"it answers {answer.status} to a search for one study over DICOMweb, and does not find it"
        for identity, (uuid, digest) in expected.images.items():
            answer = orthanc.ask("GET", f"/instances/{identity}/file")
            is_there = find_file(storage, uuid).exists()  # nobody deleted it since
            if is_there and (answer.status != 200 or hash_md5(answer.body) != digest):
                yield f"it answers {answer.status} for the image {identity}, and does not give it out as it came"
    finally:
        orthanc.close()
    devices = [one for one in configuration["DicomModalities"].values() if isinstance(one, dict)]
    local = [one["AET"] for one in devices if one["Host"] == "127.0.0.1"]
    if local:
        scu = Scu("127.0.0.1", configuration["DicomPort"], configuration["DicomAet"], local[0])
        for what, answer in (("C-ECHO", scu.echo()), ("a worklist query", scu.find_worklist({"PatientName": ""})[0])):
            if answer.outcome != ACCEPTED:
                yield f"it does not answer {what}: {answer}"


def build_candidate(configuration: dict[str, Any], address: str, index: Path) -> dict[str, Any]:
    """The configuration of a trial: on a copy of the index, with this machine's own device in its network."""
    devices = {
        name: {**one, "Host": "127.0.0.1"} if isinstance(one, dict) and one.get("Host") == address else one
        for name, one in configuration["DicomModalities"].items()
    }
    return {**configuration, "IndexDirectory": str(index), "DicomModalities": devices}


def try_release(
    new: installed.Orthanc,
    configuration: dict[str, Any],
    plugins: list[str],
    address: str,
    directory: Path = DIRECTORY,
) -> list[str]:
    """Starts the new Orthanc on a copy of the index beside production, and asks it. The images are read where they are
    and cannot be written. Returns what was seen, in sentences; Refused, and production was not touched."""
    notes = Notes.read(directory)
    if notes.step in UNFINISHED:
        return []
    identity = require_here(new)
    require_no_other(notes)
    settings = Settings.read(CONFIGURATION)
    trial, account = settings.storage / TRIAL, settings.account
    shutil.rmtree(trial, ignore_errors=True)
    try:
        trial.mkdir(mode=0o700)
        with hold_backups():
            pause = freeze.copy_index(settings, trial / "index")["pause"]
        expected = read_expected(trial / "index")
        for path in (trial, trial / "index"):
            os.chown(path, account.pw_uid, account.pw_gid)
        candidate = build_candidate(configuration, address, trial)
        shown = {str(settings.storage): False, **dict.fromkeys(find_worklists(configuration), False), str(trial): True}
        begin = time.monotonic()
        runner = new.build_runner("127.0.0.1")
        places = [str(configuration["TemporaryDirectory"])]
        with service.start_trial(runner, candidate, places, shown, START_SECONDS) as one:
            one.await_answer(plugins, START_SECONDS)
            seconds = time.monotonic() - begin
            version = one.ask(lambda: str(service.open_api(candidate).get("/system")["Version"]))
            faults = one.ask(lambda: [*find_faults(candidate, expected, settings.storage)])
            if faults:
                raise Refused(f"{'; '.join(faults)}. Orthanc said:\n{one.end()}")
    except service.Failure as failure:
        raise Refused(str(failure)) from failure
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    old = find_old(notes)
    running = old.read_installed()
    Notes(
        method=new.method,
        image=new.name,
        identity=identity,
        version=version,
        old_method=old.method,
        old_image=running.name,
        old_identity=running.identity,
        old_version=read_opened(settings.storage),
    ).write("tried", directory)
    counts = ", ".join(f"{number} {name}" for name, number in expected.counts.items())
    return [
        f"Production was paused for {pause * 1000:.0f} ms while its index was copied.",
        f"Orthanc {version} was up after {seconds:.0f} s on the copy, and counts the same: {counts}.",
        f"It gave out {len(expected.images)} image(s) as they came, found a study over DICOMweb, and answered a C-ECHO"
        " and a worklist query.",
    ]


def find_worklists(configuration: dict[str, Any]) -> list[str]:
    """The directories that the worklist plugin reads, whichever it is."""
    section = configuration.get("Worklists", {})
    return sorted({str(section[name]) for name in ("Database", "Directory") if section.get(name)})


def require_here(new: installed.Orthanc) -> str:
    """What identifies the new Orthanc. Refused where it is not on this machine."""
    identity: str = new.read_identity()
    if not identity:
        raise Refused(f"{new.name} is not on this machine. Remedy: run the phase trial, which brings it.")
    return identity


# --- switch -------------------------------------------------------------------------------------
def switch(new: installed.Orthanc, storage: Path, directory: Path = DIRECTORY) -> bool:
    """Stops the old Orthanc and makes room for the new one. Returns whether anything was done."""
    notes = Notes.read(directory)
    identity = require_here(new)
    tried = (notes.method, notes.identity) == (new.method, identity)
    if notes.step not in ("tried", *STOPPED) or not tried:
        what = f"The trial has not passed with {new.name}"
        what += f", but with {notes.image}" if notes.step == "tried" else ""
        raise Refused(f"{what}. Remedy: run the phase trial first.")
    if notes.step == "confirmed":  # it is deployed again, and must pass its acceptance test again
        notes.write("switched", directory)
    if notes.step in ("switched", "settling"):
        return False
    with hold_backups():
        old = installed.choose(notes.old_method, notes.old_image)
        if notes.step == "tried":
            keep_files(notes, old, directory)
        if not is_aside(notes):
            put_aside(notes, old, storage, directory)
        notes.aside = True
        notes.write("switched", directory)
    return True


def keep_files(notes: Notes, old: installed.Orthanc, directory: Path) -> None:
    """Keeps the configuration and the settings that the old Orthanc runs with."""
    notes.policy = old.read_policy()
    shutil.rmtree(directory / "etc", ignore_errors=True)  # of an upgrade before
    for path in [*sorted(path for path in SITE.parent.iterdir() if path.is_file()), *map(Path, KEPT)]:
        if path.is_file():
            adoption.keep_file(path, directory)
    previous.remove()  # a roll-out that was interrupted before must not lead back behind this upgrade
    notes.write("switching", directory)


def put_aside(notes: Notes, old: installed.Orthanc, storage: Path, directory: Path) -> None:
    """Stops the old Orthanc so that no boot starts it, and keeps its index as it left it."""
    if not notes.stopped:
        notes.stopped = time.time()
        notes.write("switching", directory)
    old.stop()
    require_closed(storage / "index")
    shutil.rmtree(storage / INDEX, ignore_errors=True)  # of an attempt since which Orthanc may have run
    indexes.save_index(storage, storage / INDEX)
    require_closed(storage / "index")  # somebody may have started it meanwhile
    old.set_aside()


def confirm(address: str, storage: Path, directory: Path = DIRECTORY) -> list[str]:
    """After the acceptance test, for which settling waits: Refused where an image of before is not in the new Orthanc.
    Returns what was seen."""
    notes = Notes.read(directory)
    if notes.step not in ("switched", "confirmed"):
        return []
    configuration = json.loads(SITE.read_text(encoding="utf-8"))
    orthanc = service.open_api(configuration)
    try:
        version = orthanc.get("/system")["Version"]
        here = set(orthanc.get("/instances"))
    finally:
        orthanc.close()
    before = indexes.list_images(storage / INDEX / "index")
    lost = [
        identity for identity, one in before.items() if identity not in here and find_file(storage, one.uuid).exists()
    ]
    if lost:
        raise Refused(f"The new Orthanc does not have {len(lost)} of the {len(before)} images of before: {lost[0]} …")
    seconds = installed.choose(notes.method).build_runner(address).read_started() - notes.stopped
    notes.write("confirmed", directory)
    return [
        f"Orthanc {version} has the {len(before)} images of before, and {len(here - before.keys())} that came since.",
        f"Devices were refused for about {seconds:.0f} s.",
    ]


def settle(storage: Path, directory: Path = DIRECTORY) -> list[str]:
    """Removes what the way back needed, and records the upgrade. Returns what is left, in sentences."""
    notes = Notes.read(directory)
    if notes.step not in UNFINISHED:
        return []
    if notes.step not in ("confirmed", "settling"):
        what = f"{notes.image} has not passed its acceptance test"
        raise Refused(f"{what}. Remedy: run the upgrade again, without --tags.")
    if not installed.choose(notes.method).is_deployed(notes.identity):
        raise Refused(f"What runs as {present.NAME} is not {notes.image}. Remedy: run the upgrade again.")
    if notes.step == "confirmed":
        notes.completed = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
        notes.write("settling", directory)
    record_upgrade(notes, directory)
    old = installed.choose(notes.old_method, notes.old_image)
    old.discard()
    remove_copies(storage)
    shutil.rmtree(directory / "etc", ignore_errors=True)
    notes.aside = False
    notes.write("settled", directory)
    warning = "" if notes.old_version == notes.version else " It must not open the index any more."
    return [
        f"Orthanc {notes.old_version} ({notes.old_image}) became {notes.version} ({notes.image}); recorded in"
        f" {directory / HISTORY}.",
        f"{old.describe_kept(notes.image, notes.old_identity)}.{warning}",
    ]


def remove_copies(storage: Path) -> None:
    """Removes the copies of the index that the trial and the way back need."""
    for name in (INDEX, f"{INDEX}.part", TRIAL):
        shutil.rmtree(storage / name, ignore_errors=True)


def record_upgrade(notes: Notes, directory: Path) -> None:
    """Notes once which release became which, with the digests of their images."""
    history = read_object(directory / HISTORY).get("upgrades", [])
    record = {
        "moment": notes.completed,
        "from": describe_side(notes.old_method, notes.old_image, notes.old_identity, notes.old_version),
        "to": describe_side(notes.method, notes.image, notes.identity, notes.version),
    }
    if history[-1:] != [record]:
        text = json.dumps({"upgrades": [*history, record]}, indent=4) + "\n"
        write_atomic(directory / HISTORY, text, 0o600)


def describe_side(method: str, image: str, identity: str, version: str) -> dict[str, str]:
    """One of the two, as the history has it."""
    digest = installed.read_digest(identity) if method == "docker" else ""
    return {"method": method, "image": image, "id": identity, "digest": digest, "orthanc": version}


# --- back ---------------------------------------------------------------------------------------
def find_file(storage: Path, uuid: str) -> Path:
    """Where Orthanc keeps an attachment."""
    return storage / name_attachment(uuid)


class Changes(NamedTuple):
    """What the new Orthanc did with the images: which came, all files of those, and which were deleted."""

    arrived: list[indexes.Arrived]
    files: list[str]
    deleted: list[str]


def find_changes(now: Path, before: Path, storage: Path) -> Changes:
    """The difference of two indexes, by the attachments, which have names of their own."""
    query = "SELECT publicId, uuid, fileType, compressionType FROM AttachedFiles JOIN Resources ON internalId = id"
    rows = []
    for index in (now, before):
        with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
            rows.append(database.execute(query).fetchall())
    known, present_now = ({uuid for _identity, uuid, _kind, _packed in part} for part in reversed(rows))
    new = [row for row in rows[0] if row[1] not in known]
    images = {identity for identity, _uuid, kind, _packed in new if kind == indexes.DICOM}
    return Changes(
        [indexes.Arrived(uuid, packed) for _identity, uuid, kind, packed in new if kind == indexes.DICOM],
        [uuid for identity, uuid, _kind, _packed in new if identity in images],
        [
            identity
            for identity, uuid, kind, _packed in rows[1]
            if kind == indexes.DICOM and uuid not in present_now and not find_file(storage, uuid).exists()
        ],
    )


def go_back(address: str, storage: Path, directory: Path = DIRECTORY) -> tuple[bool, list[str]]:
    """Brings the old Orthanc back, with its data of before and the images that came since. Returns whether there was
    anything to bring back, and what a person has to see to, in sentences."""
    notes = Notes.read(directory)
    if notes.step == "tried":
        put_tag_back(notes.image)
    if notes.step not in (*UNDER_WAY, "returning"):
        return False, []
    with hold_backups():
        if is_aside(notes) and notes.step != "returning":
            require_space(notes, storage, directory)
        notes.write("returning", directory)
        if is_aside(notes):
            installed.choose(notes.method).remove()
            require_closed(storage / "index")
            put_index_back(notes, storage, directory)
            put_files_back(directory)
            notes.aside = False
            notes.write("returning", directory)
        problems = start_old(notes, address)
        put_images_in(notes, json.loads(SITE.read_text(encoding="utf-8")), storage, directory)
        remove_copies(storage)
        shutil.rmtree(directory / "etc", ignore_errors=True)
        notes.write("returned", directory)
    return True, [*describe_unread(notes, storage), *problems]


def require_space(notes: Notes, storage: Path, directory: Path) -> None:
    """Refused where there is no space for a copy of the index of before, and for the images that came since: they are
    saved, and then stored again. The new Orthanc still runs."""
    came = 0
    for path in adoption.find_attachments(storage):
        with contextlib.suppress(FileNotFoundError):  # Orthanc removes some
            known = path.stat()
            came += known.st_size if known.st_mtime >= notes.stopped else 0
    index = storage / INDEX / "index"
    kept = index.stat().st_size if index.exists() else 0
    for needed, free in adoption.find_small([(storage, kept + came), (directory / indexes.ARRIVED, came)]):
        what = f"The way back to {notes.old_image} needs {say_size(needed)} in {storage} or {directory}"
        raise Refused(
            f"{what}, and {say_size(free)} are free. Nothing was changed. Remedy: make space, and go back with --tags"
            " back, or correct what failed, and run the upgrade again."
        )


def start_old(notes: Notes, address: str) -> list[str]:
    """Starts the old Orthanc on its files of before. Returns what else could not be brought back: devices do not wait
    for it."""
    old = installed.choose(notes.old_method, notes.old_image)
    # first, without a moment in which the ports are open; where it is refused, the rules that are in force stay
    problems = collect_refusals(load_units, load_firewall)
    old.bring_back()
    since = time.time()
    old.start(notes.policy)
    problems += collect_refusals(adoption.reload_nginx, lambda: put_tag_back(notes.image))
    text = SITE.read_text(encoding="utf-8")
    try:
        service.await_running(old.build_runner(address), text, [], START_SECONDS, since, "")
    except service.Failure as failure:
        what = f"The old Orthanc was started with its data of before, but does not come up: {failure}"
        raise Refused(what, *problems) from None
    return problems


def collect_refusals(*tasks: Callable[[], object]) -> list[str]:
    """Does each of these, whatever becomes of the others. Returns what was refused, in sentences."""
    refused = []
    for task in tasks:
        try:
            task()
        except (Refused, OSError) as error:
            refused.append(str(error))
    return refused


def put_index_back(notes: Notes, storage: Path, directory: Path) -> None:
    """Gives the old Orthanc its own index again. What the new one did is noted and saved first."""
    now, before = storage / "index", storage / INDEX / "index"
    if not before.exists():
        raise Refused(f"{before} is gone. Remedy: orthanc-backup restore brings the backup of before the upgrade.")
    if now.exists():
        changes = find_changes(now, before, storage)
        unread = indexes.save_arrived(storage, changes.arrived, directory / indexes.ARRIVED)
        notes.missing = sorted({*notes.missing, *changes.deleted})
        notes.unread = sorted({*notes.unread, *unread})
        notes.orphans = sorted({*notes.orphans, *changes.files} - {*notes.unread})
        notes.write("returning", directory)
    owner = storage.stat()
    part = storage / f"{INDEX}.part"
    copy_durably(before, part)
    os.chown(part, owner.st_uid, owner.st_gid)
    part.chmod(0o640)
    for name in indexes.INDEX[1:]:
        (storage / name).unlink(missing_ok=True)
    part.rename(now)
    sync_directory(storage)


def put_files_back(directory: Path, root: Path = Path("/")) -> None:
    """The configuration and the settings as they were. A file of the configuration that came since goes."""
    kept = directory / "etc"
    site = SITE.parent.relative_to("/")
    if (directory / site).is_dir():
        for path in [*(root / site).iterdir(), root / DROP_IN.relative_to("/")]:
            if path.is_file() and not (directory / path.relative_to(root)).exists():
                path.unlink()
    for source in sorted(path for path in kept.rglob("*") if path.is_file()):
        path = root / source.relative_to(directory)
        found = source.stat()
        write_atomic(path, source.read_bytes(), found.st_mode & 0o777)
        os.chown(path, found.st_uid, found.st_gid)


def load_units() -> None:
    """Lets systemd read its files again."""
    read_output("systemctl", "daemon-reload", seconds=None)


def load_firewall() -> None:
    """Lets the firewall read its rules again, if it has any."""
    if (removal.SYSTEMD / previous.FIREWALL).exists():
        read_output("systemctl", "reload-or-restart", previous.FIREWALL, seconds=None)


def put_tag_back(image: str) -> bool:
    """Gives a tag that the trial pulled anew back to the image that runs, so that a deploy changes nothing. The
    registry still has the other one, and the next trial pulls it again. Returns whether it was another."""
    running = installed.Image().read_installed()
    if running.name != image or "@" in image or not registry.read_digests(image):
        return False
    if running.identity == installed.Image(image).read_identity():
        return False
    read_output("docker", "tag", running.identity, image)
    return True


def put_images_in(notes: Notes, configuration: dict[str, Any], storage: Path, directory: Path) -> None:
    """Brings the old Orthanc to what devices and people did meanwhile: images that were deleted go, and those that came
    are stored, read back and compared. What is refused stays in the directory `arrived`."""
    orthanc = service.open_api(configuration)
    try:
        for identity in notes.missing:
            # its file is gone; one that Orthanc gives out was stored again since
            if orthanc.ask("GET", f"/instances/{identity}/file").status != http.client.OK:
                orthanc.ask("DELETE", f"/instances/{identity}")
        notes.missing, notes.came = [], max(notes.came, indexes.count_arrived(directory))
        notes.write("returning", directory)
        for path in sorted((directory / indexes.ARRIVED).glob("*.dcm")):
            submission.store_file(orthanc, path)
    finally:
        orthanc.close()
    left = indexes.count_arrived(directory)
    notes.arrived = notes.came - left
    if not left:
        for uuid in notes.orphans:
            find_file(storage, uuid).unlink(missing_ok=True)


def describe_unread(notes: Notes, storage: Path) -> list[str]:
    """The files of images that came meanwhile, and that the old Orthanc does not have because they are damaged."""
    return [
        f"{find_file(storage, uuid)} came meanwhile, and cannot be read. It stays there. Remedy: send the image again."
        for uuid in notes.unread
    ]
