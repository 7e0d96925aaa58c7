#!/usr/bin/python3
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups of Orthanc that are proven by restoring them: run, list, ledger, check, restore, reconcile.

The index is copied while Orthanc stands still for a moment; the attachments, which never change once they are written,
are read afterwards. A manifest in each snapshot names every attachment with its size and MD5.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import errno
import fcntl
import gzip
import hashlib
import http.client
import io
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

sys.path.insert(0, "/usr/local/lib/clinicops-orthanc")
from server.backup import beginning, history, ledger_history, orphans, placing, retention, ssh
from server.backup.study import BRAKED, Source, StudyRefused, format_images, restore_study
from server.core import journal, words
from server.core.escaping import escape
from server.dicom import dataset

CONFIGURATION = Path("/etc/orthanc-backup.json")
FICLONE = 0x40049409  # linux/fs.h: the copy shares its blocks
NEW_INSTANCE = 2  # a changeType of the index
DUE_SECONDS = 20 * 3600
STOP_SECONDS = 600  # as the unit's TimeoutStopSec
START_SECONDS = 300  # until Orthanc answers
LOCK_SECONDS = 35 * 60  # another restic at work; a lock that nobody renews is dead after half an hour
SSH_SECONDS = 60  # restic without its ssh: it begins with one, and ends soon after it
REST_SECONDS = 0.5  # Orthanc ends a connection that rests for a second
RESTART_SECONDS = 60  # an Orthanc that is being restarted is no failure of the ledger
LEDGER_SECONDS = 20 * 60  # it ends sooner, though its repository does not answer
SETTLE_SECONDS = 60  # a file may be older than its row in the index by so much
UNSENT_SECONDS = 2 * 3600  # a prune or a short cut of the network is no failure of the ledger
KEPT_UNPROVEN = 3  # snapshots that were found incomplete
TRIES = 5  # of a backup during which studies are deleted
FORMATS = (1, 2)  # of the manifest: 2 has internal ids, sequence and lineage
SECOND = "orthanc-restore-check"  # the container, and the directory
# in the storage directory and no part of an archive: what is beside images for renames, and the monitor's
BRAKE = ".orthanc-brake"  # the monitor's: the disk is almost full, and images are refused
OURS = (".restore-", ".set-aside-", ".quarantine-", BRAKE, ".orthanc-reserve")
STOPPED = "stopped"  # Docker does not start what was stopped when the power went
MARKER = ".orthanc-storage"  # Orthanc's unit starts only where it is
ARCHIVE = ".orthanc-archive"  # which archive this is: a new machine has none until it is restored
COUNTED = ("patients", "studies", "series", "instances")  # in the order of the index's resourceType
HEX = "[0-9a-f][0-9a-f]"
ATTACHMENT = re.compile(r"([0-9a-f]{2})([0-9a-f]{2})[0-9a-f]{4}-[0-9a-f-]{27}")
GENTLE = ("nice", "-n", "10", "ionice", "-c", "2", "-n", "7")  # Orthanc goes first
STARTED = "Orthanc was started while its index was copied. Remedy: run it again."
ANOTHER = "use another of orthanc-backup list"
WITHOUT = "add --incomplete to go without them"
REMEDIES = {
    "wrong password": "put the repository's password into orthanc_backup_password",
    "already locked": "wait for the other restic, or see restic list locks",
    "unable to open config file": "see that orthanc_backup_repository is there; orthanc-backup init makes a new one",
    "no space left": "make space for the repository, or keep fewer snapshots",
}
SYSTEM_REMEDIES = {
    errno.EACCES: "run it as root",
    errno.EPERM: "run it as root",
    errno.ENOSPC: "make space where the images are, and in /var/lib/orthanc-backup",
}


class Refused(Exception):
    """What is wrong: sentences with their remedies."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Busy(Refused):
    """Another one is at work."""


class Interrupted(BaseException):
    """A signal: everything is put right on the way out."""


class Attachment(NamedTuple):
    """A row of the manifest; size and MD5 are those of the file, the number is the index's (0 in format 1)."""

    uuid: str
    type: int
    size: int
    md5: str
    uncompressed_md5: str
    instance: str
    number: int = 0

    @property
    def path(self) -> str:
        return f"{self.uuid[:2]}/{self.uuid[2:4]}/{self.uuid}"


class Defect(NamedTuple):
    """What is wrong with an attachment: it is missing, truncated (its size is another) or altered (its MD5 is)."""

    kind: str
    path: str


class Study(NamedTuple):
    """A row of the ledger: what one device sent to one study. The number is the last image's in Orthanc's changes."""

    number: int
    time: str
    aet: str
    study: str
    accession: str


@dataclass(frozen=True)
class Settings:
    """What the deploy wrote into /etc/orthanc-backup.json."""

    repository: str
    password_file: str
    environment: dict[str, str]
    host: str
    append_only: bool
    limit_upload: int
    keep: dict[str, int]
    subset: int
    storage: Path
    orthanc: Path
    paths: list[str]
    directory: Path
    scratch: Path
    scratch_bytes: int
    method: str
    name: str
    owner: str
    pause: str
    pause_seconds: int
    image: str
    collection: str
    fingerprint: str
    # files of the settings of these names; empty where root's ~/.ssh holds
    known_hosts: str = ""
    ssh_key: str = ""

    @classmethod
    def read(cls, path: Path) -> Settings:
        try:
            content = json.loads(path.read_text())
            paths = {name: Path(content[name]) for name in ("storage", "orthanc", "directory", "scratch")}
            paths["scratch"] /= SECOND  # what is in it is removed
            return cls(**{**content, **paths})
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{path} is not this version's ({error}). Remedy: deploy again.") from None

    @property
    def staging(self) -> Path:
        return self.directory / "staging"

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger"

    @property
    def account(self) -> pwd.struct_passwd:
        return pwd.getpwnam(self.owner)


# --- what a person, the journal and the monitor see --------------------------------------------
say = journal.say


def loud(text: str) -> None:
    """A line at priority 3, wherever the program was called from."""
    journal.say_loudly(text, "orthanc-backup")


def bar(done: float, what: str) -> None:
    """Progress, for a person who watches."""
    if sys.stderr.isatty():
        end = "\n" if done >= 1 else ""
        print(f"\r{what:12} [{'#' * int(30 * done):30}] {done:4.0%}", end=end, file=sys.stderr, flush=True)


def written(path: Path, content: str, mode: int = 0o600, owner: str = "root") -> None:
    """The whole file or the one of before; no link is followed, since a directory may be Orthanc's."""
    waiting = path.with_name(f"{path.name}.part")
    waiting.unlink(missing_ok=True)
    with waiting.open("x") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        if owner != "root":
            account = pwd.getpwnam(owner)
            os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
        os.fsync(file.fileno())
    waiting.rename(path)


def state(settings: Settings, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((settings.directory / f"{name}.json").read_text())
        return content
    except (OSError, ValueError):
        return {}


def note(settings: Settings, name: str, content: dict[str, Any], mode: int = 0o644) -> None:
    """A state file; the monitor reads those of backup, restore check and ledger."""
    written(settings.directory / f"{name}.json", json.dumps(content, indent=2) + "\n", mode)


@contextlib.contextmanager
def noted(settings: Settings, name: str, **more: Any) -> Iterator[dict[str, Any]]:
    """How it went, in a state file; what the last success was stays true when this attempt fails."""
    begin = time.monotonic()
    kept = {key: value for key, value in state(settings, name).items() if key.startswith("last_")}
    result: dict[str, Any] = {"result": "running", "reason": "", "started": now(), **more}
    note(settings, name, {**kept, **result})
    try:
        yield result
        result.update(result="success", last_success=now(), last_success_epoch=int(time.time()))
    except BaseException as error:
        result.update(result="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        result["seconds"] = round(time.monotonic() - begin, 2)
        note(settings, name, {**kept, **result})


@contextlib.contextmanager
def alone(settings: Settings, name: str) -> Iterator[None]:
    """Nobody else does this at the same time. The ledger takes a moment, and comes every quarter of an hour."""
    end = time.monotonic() + (LEDGER_SECONDS if name == "ledger" else 0)
    with (settings.directory / f"{name}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    what = f"Another orthanc-backup ({name}) is at work"
                    raise Busy(f"{what}. Remedy: wait until it has ended.") from None
                time.sleep(0.1)
        yield


def now() -> str:
    """UTC, in the form in which Orthanc writes it, and milliseconds."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]


def tomorrow() -> str:
    """A snapshot that is dated later was made with a wrong clock. UTC, to the second."""
    return f"{datetime.now(UTC) + timedelta(days=1):%Y%m%dT%H%M%S}"


def run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{command[0]} {command[1]}: {done.stderr.strip()}. Remedy: see what it says.")
    return done.stdout.strip()


def shortened(what: str, found: Iterable[str], remedy: str) -> list[str]:
    """One sentence for a few or many of a kind."""
    found = list(found)
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return [f"{what}: {', '.join(found[:5])}{more}. Remedy: {remedy}."] if found else []


# --- restic ------------------------------------------------------------------------------------
def environment(settings: Settings) -> dict[str, str]:
    """The secrets' only way to restic. Before 0.16 it reads those of a REST server from its URL alone."""
    user, password = (
        quote(settings.environment.get(f"RESTIC_REST_{name}", ""), safe="") for name in ("USERNAME", "PASSWORD")
    )
    signed_in = f"rest:\\1{user}:{password}@" if user else "rest:\\1"
    return {
        **{name: value for name, value in ssh.build_environment(os.environ).items() if not name.startswith("RESTIC_")},
        **settings.environment,
        "RESTIC_REPOSITORY": re.sub(r"^rest:(https?://)(?!.*@)", signed_in, settings.repository),
        "RESTIC_PASSWORD_FILE": settings.password_file,
        "RESTIC_CACHE_DIR": str(settings.directory / "cache"),
        "RESTIC_PROGRESS_FPS": "2",
    }


def restic_command(settings: Settings, command: str, *arguments: str) -> list[str]:
    """restic with the way to its repository; it has no terminal, and its ssh asks nobody."""
    options = ssh.build_options(settings.repository, settings.known_hosts, settings.ssh_key)
    return ["restic", command, *options, *arguments]


def stream(settings: Settings, *arguments: str, good: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Lines of restic's, and its complaints where it went on. It ends with this program, and takes its lock away."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        command = ["setpriv", "--pdeathsig", "INT", *GENTLE, *restic_command(settings, *arguments)]
        # a file, since a pipe that nobody reads would stop restic; in memory, since the disk may be full
        with (
            os.fdopen(os.memfd_create("restic"), "w+") as errors,
            subprocess.Popen(
                command,
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # without a terminal nobody is asked
            ) as restic,
            attended(settings, restic) as lost,
        ):
            assert restic.stdout is not None
            try:
                yield from restic.stdout
                restic.wait()
            finally:
                if restic.poll() is None:
                    restic.send_signal(signal.SIGINT)
                    restic.wait()
            errors.seek(0)
            said = errors.read() + ("the connection was lost" if lost.is_set() else "")
        if restic.returncode in good:
            yield from said.splitlines() if restic.returncode else ()
            return
        if "already locked" not in said or time.monotonic() > end:
            break
        # takes locks away whose process is gone from this machine, or which are half an hour old
        subprocess.run(
            restic_command(settings, "unlock", "--quiet"), env=environment(settings), stdin=subprocess.DEVNULL,
            capture_output=True, check=False, start_new_session=True,
        )  # fmt: skip
        time.sleep(1)
    for secret in (*settings.environment.values(), *re.findall(r"//(.+)@", environment(settings)["RESTIC_REPOSITORY"])):
        said = said.replace(secret, "***") if secret else said
    said = " ".join(line for line in said.splitlines() if not line.startswith("{"))[-500:] or said[-500:]
    remedy = next((remedy for text, remedy in REMEDIES.items() if text in said), "")
    if not remedy and (why := refused_by_ssh(settings)):
        raise Refused(why)
    remedy = remedy or "see that the repository answers"
    raise Refused(f"restic {arguments[0]}: {said.strip()}. Remedy: {remedy}.")


def refused_by_ssh(settings: Settings) -> str:
    """Why ssh does not get to the repository, which restic does not always tell; empty for anything else."""
    known_hosts, key = settings.known_hosts, settings.ssh_key
    with contextlib.suppress(OSError):
        if place := ssh.find_place(settings.repository):
            return ssh.explain(ssh.probe(place, known_hosts, key), place, bool(known_hosts), bool(key))
    return ""


@contextlib.contextmanager
def attended(settings: Settings, restic: subprocess.Popen[str]) -> Iterator[threading.Event]:
    """restic 0.14 waits for ever when its ssh ends: without one for a while it is ended, and the event set."""
    over, lost = threading.Event(), threading.Event()

    def attend() -> None:
        alone = time.monotonic()
        while not over.wait(1):
            files = Path(f"/proc/{restic.pid}/task").glob("*/children")
            with contextlib.suppress(OSError):  # it has just ended
                if any(file.read_text().strip() for file in files):
                    alone = time.monotonic()
                elif time.monotonic() - alone > SSH_SECONDS:
                    lost.set()
                    restic.kill()
                    return

    if settings.repository.startswith("sftp:"):
        threading.Thread(target=attend, daemon=True).start()
    try:
        yield lost
    finally:
        over.set()


def restic(settings: Settings, *arguments: str) -> str:
    return "".join(stream(settings, *arguments))


def snapshots(settings: Settings, *tags: str) -> list[dict[str, Any]]:
    """Those with one of the tags, oldest first.

    A mark gives a snapshot another id: `id` is restic's, and `short_id`, which people see, is of the one at first.
    """
    wanted = [f"--tag={tag}" for tag in tags]
    found = json.loads(restic(settings, "snapshots", "--json", "--no-lock", "--host", settings.host, *wanted)) or []
    for one in found:
        one["short_id"] = (one.get("original") or one["id"])[:8]
    return sorted(found, key=moment_of)


def of_archive(settings: Settings, identity: str) -> list[dict[str, Any]]:
    """The archive's snapshots of images, proven or not."""
    return snapshots(settings, *(f"{tag},archive={identity}" for tag in ("orthanc", "unproven")))


def seen(snapshot: dict[str, Any]) -> history.Snapshot:
    """What decides about a snapshot; restic gives it another id with another tag, and its run's token stays."""
    tags = snapshot.get("tags") or []
    run = next((tag[4:] for tag in tags if re.fullmatch("run=[0-9a-f]{16}", tag)), "")
    token = run or snapshot.get("original", snapshot["id"])
    return history.Snapshot(snapshot["id"], token, moment_of(snapshot), "orthanc" in tags, snapshot["short_id"])


def past_of(settings: Settings) -> history.Past:
    """What this machine remembers of its archive's snapshots."""
    return history.Past.parse(state(settings, "history"), archive(settings))


def remember(settings: Settings, past: history.Past) -> None:
    note(settings, "history", asdict(past))


def chosen(settings: Settings, wanted: str) -> dict[str, Any]:
    """The newest is the newest of this archive that is proven and not another machine's."""
    identity = archive(settings)
    if wanted == "latest":
        found = of_archive(settings, identity) if identity else snapshots(settings, "orthanc")
        for one in [one for one in found if moment_of(one) > tomorrow()]:  # a clock that was wrong for a day
            say(f"Snapshot {one['short_id']} is dated {words.say_stamp(moment_of(one))}, which is in the future.", 4)
        archives = {tag for one in found for tag in one["tags"] if tag.startswith("archive=")}
        if len(archives) > 1:
            what = f"{len(archives)} archives of {settings.host} are in the repository, and this machine has none yet"
            raise Refused(f"{what}. Remedy: choose a snapshot of orthanc-backup list.")
        newest = history.choose_latest(map(seen, found), past_of(settings), tomorrow())
        found = [one for one in found if newest and one["id"] == newest.id]
    else:
        found = [one for one in snapshots(settings, "orthanc", "unproven") if wanted_by(one, wanted)]
    # a mark that was cut off leaves a snapshot twice, with the same run
    found = [*{seen(one).token: one for one in found}.values()]
    if len(found) != 1:
        raise Refused(f"{len(found)} snapshots of {settings.host} are {wanted!a}. Remedy: see orthanc-backup list.")
    return found[0]


def wanted_by(snapshot: dict[str, Any], wanted: str) -> bool:
    """Whether a snapshot has this id, or had it before it was marked."""
    return any(identity.startswith(wanted) for identity in (snapshot["id"], snapshot.get("original") or snapshot["id"]))


def disowned(settings: Settings, attempt: str) -> None:
    """A snapshot of a run that did not end well stands for no success; where no tag may change history.json says so."""
    for one in [] if settings.append_only else snapshots(settings, f"orthanc,run={attempt}"):
        restic(settings, "tag", "--add=unproven", "--remove=orthanc", one["id"])


def storage_in(snapshot: dict[str, Any]) -> str:
    """The storage directory that the snapshot was made of, which may not be this machine's by now."""
    return next(path for path in snapshot["paths"] if not path.endswith(("/staging", "/ledger")))


def moment_of(snapshot: dict[str, Any]) -> str:
    """UTC, to the second."""
    return f"{ledger_history.read_time(snapshot):%Y%m%dT%H%M%S}"


def listed(settings: Settings) -> dict[str, Any]:
    """What snapshots there are; `restic` is the id by which restic itself knows one now."""
    found, past, noted = [], past_of(settings), state(settings, "verified")
    for one in snapshots(settings, "orthanc", "unproven"):
        tags = dict(tag.split("=", 1) for tag in one["tags"] if "=" in tag)
        checked = {"verified": "", "verified_part": "", **noted.get(seen(one).token, {})}
        identity = {"id": one["short_id"], "restic": one["id"][:8], "time": moment_of(one)}
        found.append({**identity, "proven": history.is_proven(seen(one), past), **checked, **tags})
        if held := past.held.get(seen(one).token):
            found[-1]["kept"] = f"{held} images that no newer snapshot holds"
    return {"snapshots": found}


def mark_verified(settings: Settings, result: dict[str, Any]) -> None:
    """The snapshot that was restored on trial carries the day, and which part of its attachments was read if not all.

    It also stands in verified.json by the token of the backup's run, which no mark changes: where nothing may be
    changed in the repository, there alone.
    """
    snapshot = chosen(settings, result["snapshot"])
    run = next((tag.removeprefix("run=") for tag in snapshot["tags"] if tag.startswith("run=")), "")
    there = {tag for one in snapshots(settings, "orthanc", "unproven") for tag in one["tags"]}
    part = "" if result["verified"] == result["of"] else f"{result['verified']}/{result['of']}"
    day = {"verified": result["day"], "verified_part": part}
    kept = {key: value for key, value in state(settings, "verified").items() if f"run={key}" in there}
    note(settings, "verified", {**kept, run: day})
    facts = {name: result[name] for name in ("day", "moment", "verified", "of")}
    result["last_verified"] = {"snapshot": snapshot["short_id"], **facts}
    if settings.append_only:
        return
    wanted = {f"{name}={value}" for name, value in day.items() if value}
    former = {tag for tag in snapshot["tags"] if tag.startswith(("verified=", "verified_part="))}
    marks = [*(f"--add={tag}" for tag in wanted - former), *(f"--remove={tag}" for tag in former - wanted)]
    if marks:
        restic(settings, "tag", "--quiet", *marks, snapshot["id"])


# --- the moment --------------------------------------------------------------------------------
def main_process(settings: Settings) -> int:
    """Orthanc's process, seen from this machine in both cases; 0 when it does not run."""
    if settings.method == "docker":
        return int(run("docker", "inspect", "--format", "{{.State.Pid}}", settings.name))
    return int(run("systemctl", "show", "--property", "MainPID", "--value", settings.name))


def image_of(settings: Settings) -> str:
    """What the container was made of; nothing with the package."""
    return run("docker", "inspect", "--format", "{{.Image}}", settings.name) if settings.method == "docker" else ""


def service(settings: Settings, verb: str) -> list[str]:
    if settings.method == "docker":
        return ["docker", verb, *(["--time", str(STOP_SECONDS)] if verb == "stop" else []), settings.name]
    return ["systemctl", verb, settings.name]


@contextlib.contextmanager
def watchdog(seconds: int, *command: str, awaited: bool = True) -> Iterator[None]:
    """Runs the command when this block has ended, however it did, or after so many seconds.

    It reads from a pipe that ends with this program; its session is its own.
    """
    script = 'trap "" HUP INT TERM; echo; timeout -s KILL "$0" cat >/dev/null; exec "$@" >/dev/null 2>&1'
    dog = subprocess.Popen(
        ["sh", "-c", script, str(seconds), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert dog.stdin is not None
    assert dog.stdout is not None
    try:
        dog.stdout.readline()
        yield
    finally:
        dog.stdin.close()
        if awaited:
            dog.wait()


def stands(pid: int) -> bool:
    """Whether every thread is stopped: one that is in the kernel writes on until it comes back."""
    try:
        tasks = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return False
    return all(text.rpartition(")")[2].split()[0] in "Tt" for text in tasks)


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """Before everybody else on a busy machine, for a moment: devices wait."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)


@contextlib.contextmanager
def standing(settings: Settings) -> Iterator[dict[str, float]]:
    """Orthanc stands still inside, and runs again afterwards whatever happens."""
    pid, result = main_process(settings), {"pause": 0.0}
    if not pid:  # nobody writes, unless it is started just now
        yield result
        if main_process(settings):
            raise Refused(STARTED)
        return
    if not has_open(pid, settings.storage / "index"):
        what = f"{settings.name} (process {pid}) does not have {settings.storage}/index open"
        raise Refused(f"{what}. Remedy: set orthanc_storage_dir to the directory that Orthanc uses.")
    if settings.pause == "stop":
        with watchdog(STOP_SECONDS * 2, *service(settings, "start")):
            begin = time.monotonic()
            try:
                written(settings.directory / STOPPED, "")
                run(*service(settings, "stop"))
                yield result
                if main_process(settings):
                    raise Refused(STARTED)
            finally:
                started(settings)
                result["pause"] = time.monotonic() - begin
        return
    with watchdog(settings.pause_seconds, "kill", "-CONT", str(pid)), urgent():
        begin = time.monotonic()
        try:
            os.kill(pid, signal.SIGSTOP)
            while not stands(pid):
                if time.monotonic() - begin > settings.pause_seconds:
                    raise Refused("Orthanc does not stand still. Remedy: set orthanc_backup_pause to stop.")
                time.sleep(0.0005)
            yield result
            if not stands(pid):  # the watchdog, or a person, let it go on: the copy may be torn
                what = f"The copy took longer than {settings.pause_seconds} s, and Orthanc was continued"
                raise Refused(f"{what}. Remedy: set orthanc_backup_pause_seconds to more, or orthanc_backup_pause.")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            result["pause"] = time.monotonic() - begin


def started(settings: Settings) -> None:
    run(*service(settings, "start"))
    (settings.directory / STOPPED).unlink(missing_ok=True)


def has_open(pid: int, path: Path) -> bool:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samefile(entry, path):
                return True
    return False


def copied(source: Path, target: Path) -> None:
    """By reference where the file system can, over what is there already."""
    from_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)  # the directory is Orthanc's, and this is root
    to_fd = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.ioctl(to_fd, FICLONE, from_fd)
        except OSError:
            while os.sendfile(to_fd, from_fd, None, 1 << 30):
                pass
        os.ftruncate(to_fd, os.fstat(from_fd).st_size)
    finally:
        os.close(from_fd)
        os.close(to_fd)


def index_copy(settings: Settings, target: Path) -> dict[str, Any]:
    """The index of one moment as one file, checked."""
    index = settings.storage / "index"
    companions = [(Path(f"{index}-{end}"), Path(f"{target}-{end}")) for end in ("wal", "journal")]
    for path in (target, *(copy for _, copy in companions)):
        path.unlink(missing_ok=True)
    sizes = [path.stat().st_size for path in (index, *(source for source, _ in companions)) if path.exists()]
    needed, free = 2 * sum(sizes), shutil.disk_usage(target.parent).free
    if needed > free:  # Orthanc needs the rest
        what = f"A copy of the index needs {needed >> 20} MiB in {target.parent}, and {free >> 20} MiB are free"
        raise Refused(f"{what}. Remedy: {SYSTEM_REMEDIES[errno.ENOSPC]}.")
    before, begin = index.stat(), time.time()
    copied(index, target)  # the long part, which is still good if no checkpoint comes
    with standing(settings) as result:
        moment, after = now(), index.stat()
        # a file system's clock ticks slowly: a change at once after another may not show
        quiet = begin - before.st_mtime > 0.1
        if not quiet or (before.st_ino, before.st_size, before.st_mtime_ns) != (
            after.st_ino, after.st_size, after.st_mtime_ns
        ):  # fmt: skip
            copied(index, target)
        for source, copy in companions:
            if source.exists():
                copied(source, copy)
    problem = "the index cannot be read"
    try:
        with contextlib.closing(sqlite3.connect(target)) as database:
            database.execute("PRAGMA journal_mode=DELETE")  # takes the WAL in
            problem = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            database.execute("SELECT COUNT(*) FROM AttachedFiles").fetchone()
    except sqlite3.Error as error:
        problem = str(error)
    if problem != "ok":
        raise Refused(f"{index}: {problem}. Remedy: restore the last snapshot: orthanc-backup restore --dry-run.")
    return {"moment": moment, "pause": round(result["pause"], 4)}


# --- what the index says -----------------------------------------------------------------------
def attachments_of(index: Path) -> list[Attachment]:
    query = (
        "SELECT uuid, fileType, compressedSize, ifnull(compressedMD5, ''), ifnull(uncompressedMD5, ''), publicId, id"
        " FROM AttachedFiles JOIN Resources ON internalId = id ORDER BY id, fileType"
    )
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        return [*map(Attachment._make, database.execute(query))]


def present_of(settings: Settings, index: Path, names: list[Attachment], begin: float) -> history.Present:
    """What the copy of the index says, and the files in the images' directory say, since a second of the clock."""
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        resources = dict(database.execute("SELECT internalId, publicId FROM Resources"))
        sequence = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))
    listed, known, unknown, young = {one.uuid for one in names}, 0, 0, 0
    for path in images(settings.storage):
        if path.name in listed:
            known += 1
        else:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                settled = path.stat().st_mtime < begin - SETTLE_SECONDS
                unknown, young = unknown + settled, young + (not settled)
    return history.Present(resources, sequence.get("Resources", 0), sequence.get("Changes", 0), known, unknown, young)


def studies_of(index: Path, since: int, moment: str) -> list[Study]:
    """What came after a change, by device; or after a moment, since a restore lets the numbers begin anew."""
    query = """
        SELECT ifnull((SELECT MAX(seq) FROM Changes JOIN Resources AS instance USING (internalId)
                        WHERE changeType = ? AND instance.parentId = series.internalId), 0) AS number,
               ifnull((SELECT value FROM Metadata WHERE id = study.internalId AND type = 7), '') AS time,
               ifnull((SELECT value FROM Metadata WHERE id = series.internalId AND type = 3), ''),
               (SELECT value FROM MainDicomTags
                 WHERE id = study.internalId AND tagGroup = 32 AND tagElement = 13),
               ifnull((SELECT value FROM MainDicomTags
                 WHERE id = study.internalId AND tagGroup = 8 AND tagElement = 80), '')
        FROM Resources AS study JOIN Resources AS series ON series.parentId = study.internalId
        WHERE study.resourceType = 2 AND (number > ? OR time > ?)
        ORDER BY number"""
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        return [*map(Study._make, database.execute(query, (NEW_INSTANCE, since, moment[:15])))]


def counts_of(index: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        found = dict(database.execute("SELECT resourceType, COUNT(*) FROM Resources GROUP BY resourceType"))
        files, size = database.execute("SELECT COUNT(*), ifnull(SUM(compressedSize), 0) FROM AttachedFiles").fetchone()
        last = database.execute("SELECT ifnull(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'Changes'")
        counts = {name: found.get(kind, 0) for kind, name in enumerate(COUNTED, 1)}
        return {**counts, "attachments": files, "bytes": size, "last_change": last.fetchone()[0]}


def hashed(path: Path, method: str = "sha256") -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, method).hexdigest()


def rows_written(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    content = io.StringIO()
    csv.writer(content, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)  # a device may send a CR
    written(path, content.getvalue())


def studies_read(path: Path) -> list[Study]:
    """A row that cannot be read does not hold up those that can."""
    with path.open(newline="", errors="replace") as file:
        rows = [*csv.reader(file)]
    found = [Study(int(row[0]), *row[1:]) for row in rows if len(row) == len(Study._fields) and row[0].isdecimal()]
    if len(found) < len(rows):
        say(f"{path}: {len(rows) - len(found)} rows of the ledger cannot be read, and were left out.", 4)
    return found


def shortfall(wanted: list[Attachment], size_of: Callable[[Attachment], int | None]) -> dict[str, Defect]:
    """What is missing or has another size, by its uuid."""
    found = {}
    for one in wanted:
        size = size_of(one)
        if size != one.size:
            found[one.uuid] = Defect("missing" if size is None else "truncated", one.path)
    return found


def verified(data: Path, wanted: list[Attachment], what: str = "verify") -> list[Defect]:
    """What is wrong with the attachments: every size and MD5."""
    found = []
    for number, one in enumerate(wanted, 1):
        path = data / one.path
        if number % 100 == 0 or number == len(wanted):
            bar(number / len(wanted), what)
        try:
            size = path.stat().st_size
            kind = "truncated" if size != one.size else "altered" if one.md5 and hashed(path, "md5") != one.md5 else ""
        except FileNotFoundError:
            kind = "missing"
        if kind:
            found.append(Defect(kind, one.path))
    return found


def described(defects: Iterable[Defect], what: str, remedy: str) -> list[str]:
    return shortened(what, [f"{one.path} is {one.kind}" for one in defects], remedy)


def images(data: Path) -> Iterator[Path]:
    for path in data.glob(f"{HEX}/{HEX}/*"):
        if ATTACHMENT.fullmatch(path.name):
            yield path


def strangers(settings: Settings) -> list[str]:
    """What Orthanc's account does not own: Orthanc starts, looks healthy and refuses every image."""
    owner = settings.account.pw_uid
    found = []
    for path in (
        settings.storage,
        *(one for what in ("index*", HEX, f"{HEX}/**/*") for one in settings.storage.glob(what)),
    ):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid != owner:
                found.append(str(path))
    remedy = f"chown -R {settings.owner}: {settings.storage}"
    return shortened(f"Not owned by {settings.owner}, so that images are refused", found, remedy)


# --- run ---------------------------------------------------------------------------------------
def index_version(settings: Settings) -> str:
    """Who opened the index last; Orthanc notes it when it has (roles.lua)."""
    noted = settings.storage / ".orthanc-version"
    return (version_in(noted.read_text()) if noted.is_file() else "") or orthanc_version(settings)


def orthanc_version(settings: Settings) -> str:
    """Of the Orthanc that is installed."""
    command = ["Orthanc", "--version"]
    if image := image_of(settings):
        command = ["docker", "run", "--rm", "--network=none", "--entrypoint=Orthanc", image, "--version"]
    return version_in(run(*command).partition("\n")[0]) or "mainline"


def version_in(text: str) -> str:
    found = re.search(r"[0-9]+(\.[0-9]+)+", text)
    return found[0] if found else ""


def numbers(version: str) -> list[int]:
    found = version_in(version)
    return [int(part) for part in found.split(".")] if found else [10**6]


def name_of(look: Callable[[], str]) -> str:
    try:
        return look()
    except KeyError:
        return ""


def files_below(paths: Iterable[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (one for one in found if one.is_file() and not one.is_symlink())


def archive(settings: Settings) -> str:
    path = settings.storage / ARCHIVE
    found = re.fullmatch(r"([0-9a-f]{16})\n", path.read_text()) if path.is_file() and not path.is_symlink() else None
    return found[1] if found else ""


def known(settings: Settings, anew: bool) -> None:
    """An archive that is new never takes the place of the one that the repository holds."""
    if not archive(settings):
        found = snapshots(settings, "orthanc", "unproven")
        if found and not anew:
            raise Refused(
                f"{settings.storage} is another archive than the {len(found)} snapshots of {settings.host}. "
                "Remedy: restore the last one; if this archive is to begin anew, orthanc-backup run --new-archive."
            )
    if anew or not archive(settings):
        written(settings.storage / ARCHIVE, secrets.token_hex(8) + "\n", 0o640, settings.owner)


def manifest_of(
    settings: Settings, moment: str, names: list[Attachment], present: list[str], **more: Any
) -> dict[str, Any]:
    index, attachments = settings.staging / "index", settings.staging / "attachments.csv"
    rows_written(attachments, names)
    return {
        "format": FORMATS[-1],
        "archive": archive(settings),
        **more,
        "collection": settings.collection,
        "orthanc": index_version(settings),
        "method": settings.method,
        "image": image_of(settings),
        "inventory": settings.fingerprint,
        "host": settings.host,
        "moment": moment,
        "storage": str(settings.storage),
        "staging": str(settings.staging),
        "ledger": str(settings.ledger),
        "counts": counts_of(index),
        "index": {"size": index.stat().st_size, "sha256": hashed(index)},
        "attachments": hashed(attachments),
        "paths": staged(settings, present),
    }


def staged(settings: Settings, present: list[str]) -> dict[str, list[Any]]:
    """Copies of what is no image, by owner, group, mode and SHA-256: a worklist item may go while restic reads."""
    found, target = {}, settings.staging / "paths"
    shutil.rmtree(target, ignore_errors=True)
    for path in files_below(present):
        copy = below(target, str(path))
        copy.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(path, copy)
            mode = copy.stat().st_mode & 0o7777
            found[str(path)] = [name_of(path.owner), name_of(path.group), mode, hashed(copy)]
    return found


def disks(device: int) -> set[str]:
    """The disks below a file system, through partitions, LVM, RAID and encryption (sysfs)."""
    node = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if not node.exists():  # btrfs, ZFS and a network have a number of their own
        return {str(device)}
    if (node / "partition").exists():
        node = node.parent
    below = [*node.glob("slaves/*/dev")]
    return {disk for one in below for disk in disks(os.makedev(*map(int, one.read_text().split(":"))))} or {node.name}


def same_disk(settings: Settings) -> list[str]:
    """The warning for a repository that dies with the images."""
    path = Path(settings.repository.removeprefix("local:"))
    if not path.is_absolute() or not settings.storage.exists():
        return []
    while not path.exists():
        path = path.parent
    if not disks(path.stat().st_dev) & disks(settings.storage.stat().st_dev):
        return []
    what = f"The only repository {settings.repository} is on the disk that holds the images: one defect takes both"
    return [f"{what}. Remedy: set orthanc_backup_repository to another machine or disk."]


def backup(settings: Settings, due: bool, anew: bool) -> dict[str, Any]:
    """One snapshot; success is said only when all of it was read."""
    former = state(settings, "backup")
    if due and 0 <= time.time() - former.get("last_success_epoch", 0) < DUE_SECONDS:  # the clock may have been wrong
        return {"result": "not due"}
    cut = former.get("result", "success") != "success"
    unsettled = former.get("unsettled") or (cut and former.get("run")) or ""
    with noted(settings, "backup", run=secrets.token_hex(8), unsettled=unsettled) as result:
        if unsettled:
            if unsettled not in past_of(settings).accepted:
                disowned(settings, unsettled)
            result["unsettled"] = ""
            # at once: when this run is killed as well, its own snapshot is the one to disown
            note(settings, "backup", {**state(settings, "backup"), "unsettled": ""})
        if not state(settings, "restore"):
            given_up(settings)
        known(settings, anew)
        result["warnings"] = same_disk(settings) + strangers(settings)
        for warning in result["warnings"]:
            loud(warning)
        kept = sorted(path.name for path in settings.storage.glob(".set-aside-*"))
        result["warnings"] += shortened(
            "A restore set aside", kept, f"remove it from {settings.storage} when you are sure"
        )
        for path in (settings.staging, settings.ledger):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        absent = sorted(path for path in settings.paths if not Path(path).exists())
        result["warnings"] += shortened("There is no", absent, "correct orthanc_backup_paths")
        present = [path for path in settings.paths if path not in absent]
        problems = attempted(settings, result, present, anew)
        if problems:
            raise Refused(*problems)
        result["last_moment"] = result["moment"]
    return result


def attempted(settings: Settings, result: dict[str, Any], present: list[str], anew: bool) -> list[str]:
    """A snapshot in which everything is that its manifest names; again while somebody deletes. Its problems."""
    identity, tries = archive(settings), []
    found = of_archive(settings, identity)
    there = [seen(one) for one in found]
    past = past_of(settings)
    if not past.archive:
        past = history.adopt(identity, there, tomorrow())
    others = history.find_strangers(there, past)
    predecessor = history.choose_predecessor(there, past, tomorrow())
    before, unread = None, ""
    if predecessor:
        try:
            before = content_of(settings, next(one for one in found if one["id"] == predecessor.id))
            before = replace(before, lineage=past.lineage) if past.restored == predecessor.token else before
        except Refused as refused:  # data first: the snapshot is made
            unread = str(refused).partition(" Remedy: ")[0]
    # what has not changed since a snapshot whose every MD5 was compared need not be read again
    compared = predecessor and before and before.lineage and history.is_proven(predecessor, past)
    parent = predecessor if compared else None
    while True:
        begin, index = time.time(), settings.staging / "index"
        result["tries"] = len(tries) + 1
        result.update(index_copy(settings, index))
        names = attachments_of(index)
        now_there = present_of(settings, index, names, begin)
        judgement = history.judge(before, now_there, anew)
        if unread:
            judgement = history.Judgement(unread, "unread", 0)
        manifest = manifest_of(
            settings, result["moment"], names, present, run=result["run"],
            sequence={"resources": now_there.last_resource, "changes": now_there.last_change},
            lineage=history.continue_lineage(before, judgement, bool(others), result["run"]),
            unknown_files=now_there.unknown_files + now_there.young_files,  # each of them is old one day
        )  # fmt: skip
        written(settings.staging / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        result.update(counts=manifest["counts"], deleted_since=judgement.deleted)
        why = judgement.tag or ("others" if others else "")
        past.note_own(result["run"])
        remember(settings, past)
        taking = taken(settings, manifest, result, why, present_id(settings, parent))
        rows = ([str(field) for field in one] for one in names)
        content_kept(settings, result["run"], history.parse_content(manifest, rows))
        problems, absent = proof(settings, result, names, taking)
        # a copy of this machine begins at the same minute: with what it added meanwhile this line is not the only one
        late = [] if others else history.find_strangers(map(seen, of_archive(settings, identity)), past)
        others = others or late
        if problems or not (absent or late) or len(tries) + 1 == TRIES:
            break
        disowned(settings, result["run"])
        tries.append(result["run"])
        result["run"] = secrets.token_hex(8)
        note(settings, "backup", {**state(settings, "backup"), **result})
    if absent:
        what = f"In each of {TRIES} tries images were deleted before they were read, {absent} of them in the last"
        problems.append(f"{what}. Remedy: run orthanc-backup run when nobody deletes.")
    if not problems:
        past.note_checked(result["run"])
    problems = [*interpreted(settings, judgement, predecessor, others, result), *problems]
    if problems:
        remember(settings, past)
        with contextlib.suppress(Refused):  # the next run does it otherwise
            disowned(settings, result["run"])
        return problems
    past.note_proven(result["run"])
    remember(settings, past)
    with contextlib.suppress(Refused):  # otherwise the retention does it
        superseded = [] if settings.append_only else [f"unproven,run={token}" for token in tries]
        forgotten(settings, [one["id"] for one in snapshots(settings, *superseded)] if superseded else [])
    return []


def present_id(settings: Settings, snapshot: history.Snapshot | None) -> str:
    """restic's id of a snapshot at this moment: a restore check may have marked it meanwhile. "" of none."""
    found = of_archive(settings, archive(settings)) if snapshot else []
    return next((one["id"] for one in found if snapshot and seen(one).token == snapshot.token), "")


def interpreted(
    settings: Settings,
    judgement: history.Judgement,
    predecessor: history.Snapshot | None,
    others: list[history.Snapshot],
    result: dict[str, Any],
) -> list[str]:
    """Why a snapshot that has everything is not proven, and what to do."""
    new, problems = result["snapshot"], []
    accept = f"if all is as it should be, orthanc-backup accept {new}"
    made = f"Snapshot {new} was made and is not proven"
    result["judgement"] = judgement.reason
    if judgement.reason:
        what, remedy = f"The index does not fit the files in {settings.storage}", "orthanc-backup reconcile"
        if predecessor:
            old = predecessor.name
            what = f"The index does not go on from snapshot {old}"
            remedy = f"restore that one (orthanc-backup restore --snapshot {old})"
        if judgement.tag == "files":
            remedy += "; orthanc-backup reconcile --repair takes in what is no part of any index"
        problems.append(f"{what}: {judgement.reason}. {made}. Remedy: {remedy}, or, {accept}.")
    if others:
        named = ", ".join(f"{one.name} of {one.time}" for one in others[:3]) + ", ..." * (len(others) > 3)
        what = (
            f"Another machine has added {len(others)} snapshots ({named}) to this archive since this one's last backup"
        )
        remedy = f"find and stop the copy of this machine, then {accept}; on the copy orthanc-backup run --new-archive"
        problems.append(f"{what}. {made}. Remedy: {remedy}; if this machine was set back, restore the newest of them.")
    return problems


def content_kept(settings: Settings, token: str, content: history.Content) -> None:
    """Here, for the next run and the retention: the repository may be slow."""
    path = settings.directory / "contents" / f"{token}.json.gz"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    waiting = path.with_name(f"{token}.{os.getpid()}.part")  # a backup, a restore check and the ledger at once
    waiting.write_bytes(gzip.compress(json.dumps(asdict(content)).encode(), 1, mtime=0))
    waiting.rename(path)


def content_of(settings: Settings, snapshot: dict[str, Any]) -> history.Content:
    """What the index held at a snapshot's moment, from the copy here or from the snapshot; Refused."""
    token = seen(snapshot).token
    path = settings.directory / "contents" / f"{token}.json.gz"
    with contextlib.suppress(OSError, EOFError, ValueError, TypeError, zlib.error):
        return history.Content(**json.loads(gzip.decompress(path.read_bytes())))
    manifest, names = manifest_in(settings, snapshot)
    content = history.parse_content(manifest, [[str(field) for field in one] for one in names])
    content_kept(settings, token, content)
    return content


def forgotten(settings: Settings, ids: list[str]) -> None:
    for first in range(0, len(ids), 500):  # a command line has an end
        restic(settings, "forget", "--quiet", *ids[first : first + 500])


def accepted(settings: Settings, wanted: str, reason: str) -> dict[str, Any]:
    """A person says that a snapshot is as it should be, though it does not go on from its predecessor."""
    proof = proved(settings, wanted)
    one, identity = seen(proof.snapshot), archive(settings)
    named, found = proof.snapshot["short_id"], of_archive(settings, identity)
    there = [seen(each) for each in found]
    past = past_of(settings)
    if not past.archive:
        past = history.adopt(identity, there, tomorrow())
    if proof.manifest["archive"] != identity or one.token not in past.ours:
        what = f"Snapshot {named} was not made by this machine in its present archive"
        raise Refused(f"{what}. Remedy: restore it, or accept the newest one that this machine has made.")
    cut = one.token in past.accepted and not one.tagged_proven and not settings.append_only  # before it was marked
    if history.is_proven(one, past) and not cut:
        raise Refused(f"Snapshot {named} is proven. Remedy: nothing is to be done.")
    if proof.problems:
        raise Refused(*proof.problems)
    if one.token in past.unchecked:
        what = f"The run that made snapshot {named} did not end, or found defects, so that its files were not verified"
        raise Refused(f"{what}. Remedy: orthanc-backup run, and accept the snapshot that it makes.")
    others = history.find_strangers(there, past)
    others += [each for each in there if each.token in past.foreign and each.tagged_proven]
    by = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    remember(settings, history.accept(past, one, there, {"by": by, "at": now(), "reason": reason}))
    if not settings.append_only:
        for each in others:
            restic(settings, "tag", "--add=unproven", "--remove=orthanc", each.id)
        why = ["--remove=unproven", *(f"--remove={tag}" for tag in proof.snapshot["tags"] if tag.startswith("why="))]
        restic(settings, "tag", "--add=orthanc", f"--add=accepted={now()[:8]}", *why, one.id)
    say(f"Snapshot {named} was accepted by {by}: {reason or 'no reason given'}.", 4)
    return {"accepted": named, "by": by, "reason": reason, "others": [each.name for each in others]}


class Taking(NamedTuple):
    """The files in a snapshot, those of them whose content was compared with nothing before, and what restic could not
    read."""

    read: set[str]
    fresh: set[str]
    lost: list[str]


def taken(settings: Settings, manifest: dict[str, Any], result: dict[str, Any], why: str, parent: str) -> Taking:
    """A snapshot. It never stands for a success if there is a `why`, since a repository may not let a tag be changed
    later. Without a `parent`, a snapshot in which everything is verified, every file is fresh."""
    counts = manifest["counts"]
    tags = ["unproven", f"why={why}"] if why else ["orthanc"]
    tags += [f"run={result['run']}", f"archive={manifest['archive']}", f"version={manifest['orthanc']}"]
    tags += [f"{name}={counts[name]}" for name in COUNTED]
    excluded = [settings.storage / f"index{end}" for end in ("", "-wal", "-shm", "-journal")]
    excluded += [settings.storage / f"{ours}*" for ours in OURS]
    arguments = ["backup", "--json", "--verbose=2", "--host", settings.host, "--tag", ",".join(tags)]
    arguments += [f"--exclude={path}" for path in excluded]
    arguments += [f"--parent={parent}"] if parent else []
    if settings.limit_upload:
        arguments += ["--limit-upload", str(settings.limit_upload)]
    arguments += [str(settings.staging), str(settings.ledger), str(settings.storage)]
    taking = Taking(set(), set(), [])
    for line in stream(settings, *arguments, good=(0, 3)):
        if not line.startswith("{"):
            taking.lost.extend([] if "at least one source file" in line else [line.strip()])
            continue
        said = json.loads(line)
        if said["message_type"] == "verbose_status" and said["action"] in ("new", "modified", "unchanged"):
            taking.read.add(said["item"])
            if not parent or said["action"] != "unchanged":
                taking.fresh.add(said["item"])
        elif said["message_type"] == "status":
            bar(min(0.99, said.get("percent_done", 0)), "backup")
        elif said["message_type"] == "error":
            taking.lost.append(str(said.get("item", "")))
        elif said["message_type"] == "summary":
            bar(1, "backup")
            result.update(
                snapshot=said["snapshot_id"][:8], added=said["data_added"], files=said["total_files_processed"]
            )
    return taking


def attachments_now(settings: Settings) -> tuple[list[Attachment], float]:
    """What the index has at this moment, and how long Orthanc stood still for it."""
    settings.staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = settings.staging / "now"
    try:
        pause = index_copy(settings, copy)["pause"]
        return attachments_of(copy), pause
    finally:
        copy.unlink(missing_ok=True)


def proof(settings: Settings, result: dict[str, Any], names: list[Attachment], taking: Taking) -> tuple[list[str], int]:
    """Everything is in the snapshot, byte by byte, that was there at the moment: what is not, and of how much else a
    user deleted it before it was read."""

    def size_of(one: Attachment) -> int | None:
        path = settings.storage / one.path
        return path.stat().st_size if str(path) in taking.read and path.exists() else None

    defects, absent = shortfall(names, size_of), 0
    fresh = [one for one in names if one.uuid not in defects and str(settings.storage / one.path) in taking.fresh]
    by_path = {one.path: one.uuid for one in fresh}
    altered = {by_path[one.path]: one for one in verified(settings.storage, fresh)}
    defects |= altered
    if defects:  # a second look tells what a user deleted meanwhile
        still, pause = attachments_now(settings)
        result["pause"] = max(result["pause"], pause)
        missed = {one.uuid: defects[one.uuid] for one in still if one.uuid in defects}
        result["deleted"] = result.get("deleted", 0) + len(defects) - len(missed)
        if not missed:
            absent = len({*shortfall(names, snapshot_sizes(settings, result["snapshot"])), *altered})
        defects = missed
    unread = [path for path in taking.lost if not path.startswith("/") or Path(path).exists()]
    unread += [
        str(path) for name in ("index", "manifest.json", "attachments.csv")
        if str(path := settings.staging / name) not in taking.read
    ]  # fmt: skip
    remedy = "orthanc-backup reconcile --repair brings back what a snapshot has, and what none has is to be sent again "
    remedy += "or deleted in Orthanc; until then each snapshot has everything else, and is marked unproven"
    problems = described(defects.values(), "In Orthanc", remedy)
    return problems + shortened("restic could not read", unread, "see that root may read it"), absent


def snapshot_sizes(settings: Settings, snapshot: str) -> Callable[[Attachment], int | None]:
    """The size of an attachment in a snapshot."""
    files = files_in(settings, snapshot)
    return lambda one: files.get(f"{settings.storage}/{one.path}")


def files_in(settings: Settings, snapshot: str) -> dict[str, int]:
    """The sizes of the files in a snapshot."""
    nodes = map(json.loads, stream(settings, "ls", "--json", "--no-lock", snapshot))
    return {node["path"]: node.get("size", 0) for node in nodes if node.get("type") == "file"}


# --- Orthanc's REST API ------------------------------------------------------------------------
class Rest:
    """Orthanc on this machine; `port` and `token` for another one than production."""

    def __init__(self, settings: Settings, port: int = 0, token: str = "") -> None:
        if not port:
            options = json.loads(settings.orthanc.read_text())
            users, roles = options["RegisteredUsers"], options.get("ClinicopsRoles", {})
            admin = next((name for name in users if roles.get(name) == "admin"), next(iter(users)))
            port, token = options["HttpPort"], f"{admin}:{users[admin]}"
        self.headers = {"Authorization": "Basic " + base64.b64encode(token.encode()).decode()}
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.asked = 0.0

    def ask(self, method: str, path: str, body: bytes = b"", accept: str = "*/*") -> tuple[int, bytes, str]:
        if time.monotonic() >= self.asked + REST_SECONDS:
            self.connection.close()
        try:
            self.connection.request(method, path, body or None, {**self.headers, "Accept": accept})
            answer = self.connection.getresponse()
            content = answer.read()
            self.asked = time.monotonic()
            return answer.status, content, answer.getheader("Content-Type", "")
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            what = f"Orthanc does not answer ({error})"
            raise Refused(f"{what}. Remedy: see journalctl -u orthanc, or docker logs orthanc.") from None

    def get(self, path: str) -> Any:
        """None when it is gone."""
        status, body, _ = self.ask("GET", path)
        if status == 404:
            return None
        if status != 200:
            raise Refused(f"Orthanc answers {status} to {path}. Remedy: deploy again.")
        return json.loads(body)

    def awaited(self, alive: Callable[[], bool] = lambda: True) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.get("/changes?last")
                return
            except Refused:
                if time.monotonic() > end or not alive():
                    raise
                time.sleep(0.2)

    def counted(self, counts: dict[str, int], more: bool = False) -> None:
        """Whether it has what the manifest has; production may have received more."""
        found = self.get("/statistics")
        for name in COUNTED:
            number = found[f"Count{name.capitalize()}"]
            if number < counts[name] or (number > counts[name] and not more):
                what = f"Orthanc counts {number} {name} in the restored data instead of {counts[name]}"
                raise Refused(f"{what}. Remedy: make a new backup, or {ANOTHER}.")

    def without(self, instances: set[str], counts: dict[str, int]) -> dict[str, int]:
        """The counts after rows whose file is not there went: Orthanc would answer "already stored" to their image."""
        for number, one in enumerate(sorted(instances), 1):
            bar(number / len(instances), "clear")
            status, _, _ = self.ask("DELETE", f"/instances/{one}")
            if status not in (200, 404) or self.ask("GET", f"/instances/{one}")[0] != 404:
                what = f"Orthanc answers {status} when an image without its file is to go from the restored index"
                raise Refused(f"{what}. Remedy: {ANOTHER}.")
        found = self.get("/statistics")
        return {**counts, **{name: found[f"Count{name.capitalize()}"] for name in COUNTED}}

    def shown(self, one: Attachment, dicomweb: bool) -> str:
        """An image's bytes as they came; by which path."""
        path = f"/instances/{one.instance}/file"
        if dicomweb:
            tags = self.get(f"/instances/{one.instance}/simplified-tags")
            path = f"/dicom-web/studies/{tags['StudyInstanceUID']}/series/{tags['SeriesInstanceUID']}"
            path += f"/instances/{tags['SOPInstanceUID']}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*' if dicomweb else "*/*"
        status, body, kind = self.ask("GET", path, accept=accept)
        boundary = re.search(r'boundary="?([^";]+)', kind)
        if dicomweb and status == 200 and boundary:
            body = body.split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--" + boundary[1].encode())[0]
        if status != 200 or (
            one.uncompressed_md5 and hashlib.md5(body, usedforsecurity=False).hexdigest() != one.uncompressed_md5
        ):
            what = f"Orthanc answers {status} with other bytes for {one.path} of the restored data"
            raise Refused(f"{what}. Remedy: make a new backup, and see orthanc-backup reconcile.")
        return path

    def takes(self, storage: Path) -> None:
        """Refuses unless it stores an image that can be read back; the image goes again."""
        image = {"Tags": {"PatientName": "RESTORE^TEST", "PatientID": f"RESTORE-{secrets.token_hex(6)}"}}
        status, body, _ = self.ask("POST", "/tools/create-dicom", json.dumps(image).encode())
        if status != 200:
            remedy = (
                f"see its log, that {storage} is its own, and whether the monitor's brake is on (orthanc-monitor show)"
            )
            raise Refused(f"Orthanc takes no image ({status}). Remedy: {remedy}.")
        path = f"/instances/{json.loads(body)['ID']}"
        read, deleted = self.ask("GET", f"{path}/file")[0], self.ask("DELETE", path)[0]
        if (read, deleted) != (200, 200):
            what = f"Orthanc stored an image, and answers {read} when it is read and {deleted} when it is deleted"
            raise Refused(f"{what}. Remedy: see its log, and that {storage} is its own.")


# --- ledger ------------------------------------------------------------------------------------
class Received(NamedTuple):
    """What Orthanc's changes tell: up to which number, the last one's mark, and studies once a day and device.

    `gap`: changes were missing, and what they told was looked up otherwise; `found` studies came to light that way.
    """

    last: int
    mark: list[Any]
    studies: list[Study]
    gap: bool
    found: int


def changes(rest: Rest, since: int, noted_there: list[Any]) -> tuple[list[list[Any]], int, list[Any], bool]:
    """New images after a change, as marks; the newest number, the last change's mark, and whether changes are missing.

    `noted_there` is the mark of the change that `since` numbers, empty where it is not known.

    Orthanc numbers them without a break. Missing are those that somebody deleted (DELETE /changes, as gateways do that
    poll them), those of deleted resources, and all of another index.
    """
    images: list[list[Any]] = []
    gap = False
    if since and noted_there:
        same = [mark(one) for one in rest.get(f"/changes?since={since - 1}&limit=1")["Changes"]]
        gap = same != [noted_there]
        if gap and same and same[0][0] == since:
            since = 0  # another index: its numbers are its own
    last = [] if gap else noted_there
    while True:
        page = rest.get(f"/changes?since={since}&limit=1000")
        if page["Changes"]:
            gap = gap or page["Changes"][0]["Seq"] > since + 1
            images += [mark(one) for one in page["Changes"] if one["ChangeType"] == "NewInstance"]
            last = mark(page["Changes"][-1])
            since = last[0]
        elif page["Last"] < since:  # of an empty page it is the highest number that was ever given
            since, gap, last = 0, True, []
        else:
            missing = page["Last"] > since
            return images, page["Last"], [] if missing else last, gap or missing


def mark(change: dict[str, Any]) -> list[Any]:
    """What tells a change from another one with its number."""
    return [change["Seq"], change["ID"], change["Date"]]


def ledger(settings: Settings) -> dict[str, Any]:
    """What came since the last time, into a file a day; and the files into a snapshot of their own."""
    former = state(settings, "ledger")
    with noted(settings, "ledger", unsent_since=former.get("unsent_since", 0)) as result:
        settings.ledger.mkdir(mode=0o700, parents=True, exist_ok=True)
        # what came before the ledger is in the first snapshot
        first = state(settings, "staging/manifest").get("counts", {}).get("last_change", 0)
        identity = archive(settings)
        if former.get("last_archive", "") not in ("", identity):
            former, first = {}, 0
        rest = Rest(settings)
        end = time.monotonic() + RESTART_SECONDS
        rest.awaited(lambda: time.monotonic() < end)
        came = received(settings, rest, former.get("last_change", first), former.get("last_mark", []))
        noted_down(settings, came.studies)
        # not before what came is on the disk
        result.update(last_change=came.last, last_mark=came.mark, last_archive=identity)
        for one in came.studies:
            say(f"received study {one.study} ({one.accession or 'no accession number'}) from {device(one.aet)}")
        result.update(studies=len(came.studies), gap=came.gap, looked_up=came.found)
        if came.studies and not result["unsent_since"]:
            result["unsent_since"] = int(time.time())
        if result["unsent_since"] and identity:  # an archive without a backup has none to add to
            try:
                send(settings, result, identity, former.get("last_serial"))
                result["unsent_since"] = 0
            except Refused:
                if time.time() - result["unsent_since"] > UNSENT_SECONDS:
                    raise
        if result.get("foreign"):
            what = f"Another machine writes into archive {identity[:4]}: snapshot {result['foreign']} of its ledger"
            raise Refused(
                f"{what} is not this one's. Remedy: stop that machine, or let it begin an archive of its own with "
                "orthanc-backup run --new-archive on it."
            )
    return result


def noted_down(settings: Settings, studies: list[Study]) -> None:
    """Into the file of each one's day, in the place of what stood there of that study and device."""
    for day in sorted({one.time[:8] for one in studies}):
        path = settings.ledger / f"{day}.csv"
        rows = {(one.study, one.aet): one for one in (studies_read(path) if path.exists() else [])}
        rows |= {(one.study, one.aet): one for one in studies if one.time[:8] == day}
        rows_written(path, sorted(rows.values()))


def send(settings: Settings, result: dict[str, Any], identity: str, own: int | None) -> None:
    """The ledger's files into a snapshot with the next number; `own` is the last that this machine gave."""
    there = snapshots(settings, f"ledger,archive={identity}")
    foreign = ledger_history.find_foreign(there, own)
    serial = ledger_history.give_serial(there, own or 0)
    result["last_serial"] = serial
    # before it is sent: after a kill -9 the number is known as this machine's
    note(settings, "ledger", {**state(settings, "ledger"), "last_serial": serial})
    tags = f"ledger,archive={identity},serial={serial}"
    restic(settings, "backup", "--quiet", "--host", settings.host, "--tag", tags, str(settings.ledger))
    if foreign:
        result["foreign"] = foreign[-1]["short_id"]


def received(settings: Settings, rest: Rest, since: int, noted_there: list[Any]) -> Received:
    """What came after a change; `noted_there` is its mark."""
    came, last, last_mark, gap = changes(rest, since, noted_there)
    series: dict[str, Study | None] = {}
    found: dict[tuple[str, str, str], Study] = {}

    def add(image: str, number: int, date: str) -> None:
        instance = rest.get(f"/instances/{image}")
        if instance is None:  # deleted since
            return
        parent = instance["ParentSeries"]
        if parent not in series:
            series[parent] = study_of(rest, parent)
        study = series[parent]
        if study:
            one = study._replace(number=number, time=date or study.time)
            found[one.time[:8], one.study, one.aet] = one
        elif rest.get(f"/instances/{image}") is not None:
            what = f"Orthanc does not tell to which study image {image} belongs"
            raise Refused(f"{what}. Remedy: see orthanc-backup reconcile, and Orthanc's log.")

    if gap:
        there = images_in_backup(settings)
        rest.connection.close()  # Orthanc does not keep one that waits
        for image in sorted({*rest.get("/instances")} - {one[1] for one in came} - there):
            add(image, last, "")
        known = {one[1:] for path in settings.ledger.glob("*.csv") for one in studies_read(path)}
        for key in [key for key, one in found.items() if one[1:] in known]:
            del found[key]
    looked_up = len(found)
    for number, image, date in came:
        add(image, number, date)
    return Received(last, last_mark, [*found.values()], gap, looked_up)


def images_in_backup(settings: Settings) -> set[str]:
    """Orthanc's ids of the images in the newest proven snapshot of this archive: what is not in it came afterwards."""
    identity = archive(settings)
    found = of_archive(settings, identity) if identity else []
    newest = history.choose_latest(map(seen, found), past_of(settings), tomorrow())
    return {image for one in found if newest and one["id"] == newest.id for image in content_of(settings, one).images}


def device(aet: str) -> str:
    return aet or "an application"


def study_of(rest: Rest, series: str) -> Study | None:
    """The series' study as it was last changed; None when it is gone."""
    study, metadata = rest.get(f"/series/{series}/study"), rest.get(f"/series/{series}/metadata?expand")
    if study is None or metadata is None:
        return None
    tags = study["MainDicomTags"]
    aet, updated = metadata.get("RemoteAET", ""), metadata.get("LastUpdate", "") or now()[:15]
    return Study(0, updated, aet, tags["StudyInstanceUID"], tags.get("AccessionNumber", ""))


def received_after(settings: Settings, manifest: dict[str, Any]) -> list[Study]:
    """From the newest ledgers that the repository has, and the one on this machine."""
    found = []
    scratch = settings.directory / "ledgers"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for tag in ("ledger", "orthanc", "unproven"):
            there = snapshots(settings, f"{tag},archive={manifest['archive']}")
            for one in ledger_history.find_current(there, datetime.now(UTC), 1):
                only = [path for path in one["paths"] if path.endswith("/ledger")]
                fetched(settings, one, scratch / one["short_id"], only)
        for path in [*scratch.rglob("ledger/*.csv"), *settings.ledger.glob("*.csv")]:
            found += studies_read(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    last, moment = manifest["counts"]["last_change"], manifest["moment"][:15]
    # by time as well: after a restore, and on a new machine, numbers begin anew
    return [one for one in found if one.number > last or one.time > moment]


def by_device(studies: Iterable[Study]) -> list[dict[str, Any]]:
    """Each once, with the time of its last image."""
    last = {(one.aet, one.study): one for one in sorted(studies, key=lambda one: one.time)}
    return [one._asdict() for one in sorted(last.values(), key=lambda one: (one.aet, one.time))]


# --- a snapshot, proved ------------------------------------------------------------------------
class Proof(NamedTuple):
    """A snapshot with its manifest, compared with the files that it has."""

    snapshot: dict[str, Any]
    manifest: dict[str, Any]
    names: list[Attachment]
    bad: set[str]
    problems: list[str]


def manifest_in(settings: Settings, snapshot: dict[str, Any]) -> tuple[dict[str, Any], list[Attachment]]:
    """The manifest of a snapshot, of either format, and its attachments; Refused where it cannot be read."""
    what = f"snapshot {snapshot['short_id']}"
    staging = next((path for path in snapshot["paths"] if path.endswith("/staging")), "")
    manifest = {}
    with contextlib.suppress(ValueError):
        manifest = json.loads(restic(settings, "dump", "--no-lock", snapshot["id"], f"{staging}/manifest.json"))
    if manifest.get("format") not in FORMATS:
        raise Refused(f"The manifest of {what} cannot be read. Remedy: {ANOTHER}, or the collection that made it.")
    text = restic(settings, "dump", "--no-lock", snapshot["id"], f"{staging}/attachments.csv")
    if hashlib.sha256(text.encode()).hexdigest() != manifest["attachments"]:
        raise Refused(f"The list of attachments in {what} is not the manifest's. Remedy: {ANOTHER}.")
    rows = csv.reader(text.splitlines())
    return manifest, [Attachment(row[0], int(row[1]), int(row[2]), *row[3:6], *map(int, row[6:])) for row in rows]


def proved(settings: Settings, wanted: str) -> Proof:
    snapshot = chosen(settings, wanted)
    what = f"snapshot {snapshot['short_id']}"
    manifest, names = manifest_in(settings, snapshot)
    staging, files = manifest["staging"], files_in(settings, snapshot["id"])
    defects = shortfall(names, lambda one: files.get(f"{manifest['storage']}/{one.path}"))
    remedy = f"{ANOTHER}, or {WITHOUT}"
    problems = described(defects.values(), f"In {what}", remedy)
    problems += shortened(
        f"In {what} is no", [path for path in manifest["paths"] if f"{staging}/paths{path}" not in files], remedy
    )
    if files.get(f"{staging}/index") != manifest["index"]["size"]:
        raise Refused(f"The index in {what} is not the manifest's. Remedy: {ANOTHER}.")
    return Proof(snapshot, manifest, names, {*defects}, problems)


def fetched(
    settings: Settings, snapshot: dict[str, Any], target: Path, only: Iterable[str] = (), incomplete: bool = False
) -> None:
    """`incomplete` goes on with what restic cannot restore; who calls it verifies."""
    if target.is_symlink() or (target.exists() and target.stat().st_uid != os.getuid()):
        raise Refused(f"{target} is not {pwd.getpwuid(os.getuid()).pw_name}'s own directory. Remedy: remove it.")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["restore", "--no-lock", "--quiet", "--target", str(target), *(f"--include={path}" for path in only)]
    for _ in stream(settings, *command, snapshot["id"], good=(0, 1) if incomplete else (0,)):
        pass


def given_up(settings: Settings, but: Path | None = None) -> None:
    """The copies of restores that nobody ended go."""
    for left in {*settings.storage.glob(".restore-*")} - {but}:
        shutil.rmtree(left)


def below(target: Path, path: str) -> Path:
    """Where restic restores a path of the snapshot."""
    return target / path.lstrip("/")


def assembled(
    settings: Settings,
    proof: Proof,
    work: Path,
    wanted: list[Attachment],
    only: Iterable[str] = (),
    incomplete: bool = False,
) -> tuple[Path, list[Defect]]:
    """Index and attachments as Orthanc has them, every size and MD5 verified, and Orthanc's own; what is set aside."""
    bar(0, "fetch")
    fetched(settings, proof.snapshot, work, only, incomplete)
    data = below(work, proof.manifest["storage"])
    data.mkdir(parents=True, exist_ok=True)
    index, restored = data / "index", below(work, f"{proof.manifest['staging']}/index")
    what = f"Restored from snapshot {proof.snapshot['short_id']}"
    if not restored.exists() or hashed(restored) != proof.manifest["index"]["sha256"]:
        raise Refused(f"{what}: the index is altered. Remedy: {ANOTHER}.")
    restored.replace(index)
    for end in ("wal", "shm", "journal"):  # of an attempt that was interrupted
        index.with_name(f"index-{end}").unlink(missing_ok=True)
    defects = verified(data, wanted)
    if defects and not incomplete:
        raise Refused(*described(defects, what, f"orthanc-backup reconcile; {ANOTHER}; or {WITHOUT}"))
    for path in [data / one.path for one in defects if (data / one.path).exists()]:
        set_aside(path, data.with_name("damaged"))
    account = settings.account
    for path, directories, files in os.walk(data):
        os.chmod(path, 0o750)
        os.chown(path, account.pw_uid, account.pw_gid)
        for name in files:
            os.chown(f"{path}/{name}", account.pw_uid, account.pw_gid, follow_symlinks=False)
            if not os.path.islink(f"{path}/{name}"):
                os.chmod(f"{path}/{name}", 0o640)
        directories[:] = [name for name in directories if not os.path.islink(f"{path}/{name}")]
    for parent in data.parents:  # the way to it
        parent.chmod(0o711)
        if parent == work:
            break
    return data, defects


def set_aside(path: Path, directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    path.rename(directory / path.name)


def beside(settings: Settings) -> list[str]:
    """The command of an Orthanc beside production: its account, and nothing that it does not need."""
    account = settings.account
    if settings.method == "package":
        names = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "--no-new-privs"]
        return ["setpriv", *names, "/usr/sbin/Orthanc"]
    own = f"uid={account.pw_uid},gid={account.pw_gid},mode=0750"
    return [
        "docker", "run", "--rm", "--pull=never", f"--name={SECOND}", "--network=host", "--entrypoint=Orthanc",
        f"--user={account.pw_uid}:{account.pw_gid}", "--cap-drop=ALL", "--security-opt=no-new-privileges",
        # the second, since the image's own may be closed to this user
        "--read-only", f"--tmpfs=/tmp:{own}", f"--tmpfs=/var/lib/orthanc:{own}",
        *(f"--volume={path}:{path}" for path in (settings.scratch, settings.storage)),
        settings.image,
    ]  # fmt: skip


def stopping(settings: Settings, pid: int) -> list[str]:
    """The command that ends it."""
    return ["docker", "stop", "--time", "60", SECOND] if settings.method == "docker" else ["kill", str(pid)]


@contextlib.contextmanager
def second(settings: Settings, data: Path) -> Iterator[tuple[Rest, bool]]:
    """An Orthanc of its own on restored data: loopback, no DICOM, no plugin but DICOMweb; whether it has that."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = f"check:{secrets.token_hex(16)}"
    plugins = []
    if settings.orthanc.exists():
        plugins = [one for one in json.loads(settings.orthanc.read_text()).get("Plugins", []) if "DicomWeb" in one]
    options = {
        "Name": "Restore check", "StorageDirectory": str(data), "IndexDirectory": str(data),
        "TemporaryDirectory": str(data), "HttpPort": port, "HttpBindAddresses": ["127.0.0.1"],
        "DicomServerEnabled": False, "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
        "RegisteredUsers": dict([token.split(":")]), "Plugins": plugins, "WebDavEnabled": False, "SaveJobs": False,
    }  # fmt: skip
    configuration, log = data.with_name("restore-check.json"), data.with_name("restore-check.log")
    configuration.touch(mode=0o600)
    os.chown(configuration, settings.account.pw_uid, -1)
    configuration.write_text(json.dumps(options))
    if settings.method == "docker":  # of a machine whose power went
        subprocess.run(["docker", "rm", "--force", SECOND], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*beside(settings), str(configuration)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
        watchdog(86400, *stopping(settings, process.pid)),
    ):
        rest = Rest(settings, port, token)
        try:
            rest.awaited(lambda: process.poll() is None)
        except Refused:
            said = " ".join(log.read_text(errors="replace").splitlines()[-3:])
            raise Refused(f"Orthanc does not start on the restored data: {said}. Remedy: {ANOTHER}.") from None
        yield rest, bool(plugins)


# --- restore -----------------------------------------------------------------------------------
def restore(settings: Settings, wanted: str, target: Path | None, dry_run: bool, incomplete: bool) -> dict[str, Any]:
    """Proves, fetches, verifies and starts it beside production; then it takes production's place by renames."""
    under_way = state(settings, "restore") if target is None else {}
    if under_way and dry_run:
        return {"would": f"end the restore of snapshot {under_way['snapshot']} that was interrupted"}
    if under_way:
        ended = placed(settings, under_way)
        if wanted == "latest" or under_way["snapshot"].startswith(wanted[:8]):
            return ended
    begin, problems = time.time(), []
    try:
        restic(settings, "check", "--quiet", "--no-lock")  # a lock of the machine that is lost must not hold it up
    except Refused as refused:
        problems = refused.problems
    proof = proved(settings, wanted)
    identity, manifest = proof.snapshot["short_id"], proof.manifest
    problems += proof.problems
    if problems and not incomplete:
        raise Refused(*problems)
    if target and target.exists() and any(target.iterdir()):
        raise Refused(f"{target} is not empty. Remedy: give another directory to --target.")
    if not target:
        require_place(settings, proof)
    installed = orthanc_version(settings)
    if not target and numbers(installed) < numbers(manifest["orthanc"]):
        what = f"The index is of Orthanc {manifest['orthanc']}, and {installed} is installed, which would lose images"
        raise Refused(f"{what}. Remedy: install {manifest['orthanc']} or newer.")
    work = target or settings.storage / f".restore-{identity}"
    if not dry_run and not target:
        given_up(settings, work)
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) if work.exists() else 0
    needed = manifest["counts"]["bytes"] + 2 * manifest["index"]["size"] - there
    parent = next(path for path in (work, *work.parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if needed > free * 0.95:
        what = f"Snapshot {identity} needs {needed >> 20} MiB in {parent}, and {free >> 20} MiB are free"
        raise Refused(f"{what}. Remedy: make space, or a larger disk.")
    came = received_after(settings, manifest)
    result: dict[str, Any] = {
        "snapshot": identity, "moment": manifest["moment"], "counts": manifest["counts"], "problems": problems
    }  # fmt: skip
    if dry_run:
        would = f"restore it into {target or settings.storage}"
        if not target:
            result |= foretold(settings, proof, came)
        return {**result, "would": would, "resend": by_device(came)}
    names = [one for one in proof.names if one.uuid not in proof.bad]
    data, defects = assembled(settings, proof, work, names, incomplete=incomplete)
    problems += described(defects, "Not in the restored data", "send them again; what there was of them is set aside")
    names = [one for one in names if one.path not in {defect.path for defect in defects}]
    named = {one.uuid for one in names}
    for path in images(data):
        if path.name not in named:  # it came after the moment: the index does not know it
            set_aside(path, data.with_name("not-in-the-index"))
    result["verified"] = len(names)
    if target:
        return {**result, "data": str(data), "resend": by_device(came)}
    gone = {one.instance for one in proof.names if one.type == 1} - {one.instance for one in names if one.type == 1}
    lost = [Study(0, *one) for one in placing.studies_with(data / "index", sorted(gone))]
    result |= planned(settings, manifest, below(work, f"{manifest['staging']}/paths"), data / "index", came)
    sample = next((one for one in names if one.type == 1), None)
    with second(settings, data) as (rest, dicomweb):
        rest.counted(manifest["counts"])
        if gone:
            result["counts"] = rest.without(gone, manifest["counts"])
        if sample:
            rest.shown(sample, dicomweb)
    under_way = {
        **result, "manifest": manifest, "work": str(work), "begin": begin, "stamp": now()[:15],
        "came": came, "lost": lost, "sample": sample, "phase": "aside",
        "history": past_restored(settings, proof, names), "history_before": state(settings, "history"),
    }  # fmt: skip
    os.sync()  # what was verified is on the disk before anything depends on it
    note(settings, "restore", under_way, 0o600)
    return placed(settings, state(settings, "restore"))


def past_restored(settings: Settings, proof: Proof, names: list[Attachment]) -> dict[str, Any]:
    """What history.json says once these attachments of the snapshot are in place."""
    identity = proof.manifest["archive"]
    past = history.Past.parse(state(settings, "history"), identity)
    found = [seen(one) for one in of_archive(settings, identity)]
    whole, token = len(names) == len(proof.names), secrets.token_hex(8)
    return asdict(history.record_restored(proof.manifest, seen(proof.snapshot), found, past, token, whole))


def options_of(settings: Settings) -> dict[str, Any]:
    """orthanc.json of this machine; nothing where none was deployed."""
    try:
        found: dict[str, Any] = json.loads(settings.orthanc.read_text())
        return found
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Refused(f"{settings.orthanc} cannot be read ({error}). Remedy: deploy again.") from None


def require_place(settings: Settings, proof: Proof) -> None:
    """Refuses a machine on which Orthanc would not come up with the restored data, before anything is stopped."""
    manifest, options, whose = proof.manifest, options_of(settings), "this machine's"
    if not options:
        whose = "the snapshot's"
        if str(settings.orthanc) in manifest["paths"]:
            path = f"{manifest['staging']}/paths{settings.orthanc}"
            with contextlib.suppress(ValueError):
                options = json.loads(restic(settings, "dump", "--no-lock", proof.snapshot["id"], path))
        if not options or manifest["method"] != settings.method:
            what = f"This machine has no {settings.orthanc}, and the snapshot has none for the method {settings.method}"
            raise Refused(f"{what} (orthanc_install_method). Remedy: deploy this machine first, then restore.")
    storage = settings.storage.resolve()
    for option, path in zip(("StorageDirectory", "IndexDirectory"), placing.storage_of(options), strict=True):
        if Path(path).resolve() != storage:
            what = f"{option} in {whose} {settings.orthanc} is {path!r}, and orthanc_storage_dir is {settings.storage}"
            raise Refused(f"{what}: Orthanc would not find what is restored. Remedy: deploy this machine again.")
    if settings.method == "docker":
        mounts = json.loads(run("docker", "inspect", "--format", "{{json .Mounts}}", settings.name))
        if not any(Path(one["Source"]).resolve() == storage and one["RW"] for one in mounts):
            what = f"The container {settings.name} does not have {settings.storage} (orthanc_storage_dir)"
            raise Refused(f"{what}. Remedy: deploy this machine again.")
    elif (loaded := run("systemctl", "show", "--property", "LoadState", "--value", settings.name)) != "loaded":
        what = f"The unit {settings.name} is {loaded} (orthanc_install_method is package)"
        raise Refused(f"{what}. Remedy: deploy this machine again.")


def planned(
    settings: Settings, manifest: dict[str, Any], copies: Path, index: Path | None, came: list[Study]
) -> dict[str, Any]:
    """What of the snapshot's files is put in place, what stays, and what is valid again for it."""
    options, orthanc = options_of(settings), str(settings.orthanc)
    paths, former = manifest["paths"], {}
    with contextlib.suppress(OSError, ValueError):
        former = json.loads(below(copies, orthanc).read_text())
    theirs, ours = placing.served_of(former), placing.served_of(options or former)
    targets = {*paths, *(path.replace(theirs, ours, 1) for path in paths if theirs and path.startswith(f"{theirs}/"))}
    digests = {path: hashed(Path(path)) for path in targets if Path(path).is_file()}
    machine = placing.Machine(options, not archive(settings), digests)
    received = {one.study for one in came} | (placing.studies_in(index) if index else set())
    today = f"{datetime.now():%Y%m%d}"  # the clinic's, as in the worklist
    placings, kept = placing.plan_paths(paths, former, copies, machine, received, today, orthanc)
    again = placing.valid_again(placings, copies, options, placing.revoked_in(Path(placing.CA) / "ca.crl"), orthanc)
    return {
        "placings": placings, "kept": [one._asdict() for one in kept], "valid_again": again,
        "put_in_place": [one.target for one in placings],
    }  # fmt: skip


def foretold(settings: Settings, proof: Proof, came: list[Study]) -> dict[str, Any]:
    """The same without anything in its place, for a person who only asks."""
    scratch, copies = settings.directory / "paths", f"{proof.manifest['staging']}/paths"
    try:
        fetched(settings, proof.snapshot, scratch, [copies], incomplete=True)
        found = planned(settings, proof.manifest, below(scratch, copies), None, came)
        return {name: value for name, value in found.items() if name != "placings"}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def placed(settings: Settings, under_way: dict[str, Any]) -> dict[str, Any]:
    """The restored files in the place of the present ones: renames, each of which may be done already.

    What is to be done stands in restore.json, so that it goes on from there after an interruption at any point. When
    Orthanc does not come up on what is restored, the former data take their place again.
    """
    aside = settings.storage / f".set-aside-{under_way['stamp']}"
    # killed half-way the rest is done at once, not when somebody comes; a reboot has orthanc-restore.service
    script = 'flock "$0/run.lock" true; [ ! -e "$0/restore.json" ] || ORTHANC_BACKUP_AGAIN=1 exec "$@"'
    again = ["sh", "-c", script, str(settings.directory), sys.executable, str(Path(__file__).resolve()), *CONFIGURED]
    first = "ORTHANC_BACKUP_AGAIN" not in os.environ  # what fails again needs a person
    with watchdog(86400, *again, "restore", awaited=False) if first else contextlib.nullcontext():
        if under_way["phase"] not in ("back", "return"):
            try:
                result = put_in_place(settings, under_way, aside)
            except Exception as error:
                under_way.update(why=str(error), failed_in=under_way["phase"])
                reach(settings, under_way, "back")
        if under_way["phase"] in ("back", "return"):
            raise Refused(put_back(settings, under_way, aside))
        (settings.directory / "restore.json").unlink(missing_ok=True)
    result["recovery_seconds"] = round(time.time() - under_way["begin"], 1)
    note(settings, f"restored-{under_way['stamp']}", result, 0o600)
    for one in result["resend"]:
        name = f"{escape(one['study'])} ({escape(one['accession'])})"
        say(f"to be sent again from {device(escape(one['aet']))}: study {name}", 4)
    for door in result["valid_again"]:
        loud(f"The restore made valid again: {door}. Remedy: see that it may be, and deploy to have the inventory's.")
    return result


def reach(settings: Settings, under_way: dict[str, Any], phase: str) -> None:
    under_way["phase"] = phase
    note(settings, "restore", under_way, 0o600)


def put_in_place(settings: Settings, under_way: dict[str, Any], aside: Path) -> dict[str, Any]:
    """Aside with what is there, in with what is restored, start; what is said at the end."""
    storage, work, manifest = settings.storage, Path(under_way["work"]), under_way["manifest"]
    data, record = below(work, manifest["storage"]), f"restored-{under_way['stamp']}"
    if under_way["phase"] == "aside":
        run(*service(settings, "stop"))  # one that crashes again and again has no process at times
        if not aside.exists():  # with what came until the stop
            under_way["aside"] = sorted(one.name for one in storage.iterdir() if not one.name.startswith(OURS))
            under_way["ledger_state"] = state(settings, "ledger")
            reach(settings, under_way, "aside")
        aside.mkdir(mode=0o700, exist_ok=True)
        # without its marker Orthanc does not start, whatever a reboot comes between
        for name in sorted(under_way["aside"], key=lambda name: name != MARKER):
            if (storage / name).exists() and not (aside / name).exists():
                (storage / name).rename(aside / name)
        reach(settings, under_way, "in")
    if under_way["phase"] == "in":
        for path in sorted(data.iterdir(), key=lambda path: path.name == "index"):
            if path.name != MARKER and not path.name.startswith(OURS):
                if (storage / path.name).exists():  # a person put it there since
                    (storage / path.name).rename(aside / f"{path.name}.{now()}")
                path.rename(storage / path.name)
        written(storage / ARCHIVE, manifest["archive"] + "\n", 0o640, settings.owner)
        if "history" in under_way:  # the next run is judged against what was restored
            note(settings, "history", under_way["history"])
        ledger_placed(settings, work, aside, manifest)
        paths_placed(settings, work, aside, under_way)
        # the trial opened this index already, with the Orthanc that is installed
        written(storage / ".orthanc-version", orthanc_version(settings) + "\n", 0o640, settings.owner)
        reach(settings, under_way, "start")
    if work.exists():  # what nobody needs: its copies of the configuration, and images newer than the index
        work.rename(aside / "restored")
    if (aside / MARKER).exists():
        (aside / MARKER).rename(storage / MARKER)
    told = ("snapshot", "moment", "counts", "problems", "verified", "put_in_place", "kept", "valid_again")
    result = {name: under_way.get(name, []) for name in told}
    lost = [Study(*one) for one in under_way.get("lost", [])]
    result.update(set_aside=str(aside), resend=by_device(lost + came_after(settings, under_way, aside / "index")))
    note(settings, record, result, 0o600)
    run(*service(settings, "start"))
    confirm(settings, under_way, result)
    return result


def confirm(settings: Settings, under_way: dict[str, Any], result: dict[str, Any]) -> None:
    """Refuses what does not work on the restored data."""
    rest = Rest(settings)
    rest.awaited(lambda: comes_up(settings))
    rest.counted(under_way["counts"], more=True)
    if under_way["sample"]:
        rest.shown(Attachment(*under_way["sample"]), dicomweb=False)
    if (settings.storage / BRAKE).exists():
        what = "It was not tried whether Orthanc takes images: the disk is almost full (the monitor's brake)"
        result["problems"] = [*result["problems"], f"{what}. Remedy: make space; see orthanc-monitor show."]
    else:
        rest.takes(settings.storage)


def comes_up(settings: Settings) -> bool:
    """Not when Orthanc ended, or was started again and again."""
    if settings.method == "docker":
        said = run("docker", "inspect", "--format", "{{.State.Status}} {{.RestartCount}}", settings.name)
    else:
        said = run("systemctl", "show", "--property", "ActiveState,NRestarts", "--value", settings.name)
    words = said.split()
    starts = sum(int(word) for word in words if word.isdigit())
    return not {*words} & {"failed", "inactive", "exited", "dead"} and starts < 3


def put_back(settings: Settings, under_way: dict[str, Any], aside: Path) -> str:
    """The way back, by renames each of which may be done already: what was there takes its place again, and what was
    restored lies beside it, with all that came meanwhile. What to say of it."""
    storage, failed = settings.storage, aside.with_name(f"{aside.name}.not-restored")
    if under_way["phase"] == "back":  # later it does not run, or has just been started and would not hear of a stop
        run(*service(settings, "stop"))
        if main_process(settings):
            raise Refused("Orthanc does not stop. Remedy: stop it, and run orthanc-backup restore again: it goes on.")
        if under_way["failed_in"] != "aside":
            failed.mkdir(mode=0o700, exist_ok=True)
            if (storage / MARKER).exists():
                (storage / MARKER).rename(aside / MARKER)
            for path in sorted(storage.iterdir()):
                if not path.name.startswith(OURS):
                    path.rename(failed / path.name)
            paths_back(under_way, aside, failed)
            if under_way.get("history_before"):
                note(settings, "history", under_way["history_before"])
            else:
                (settings.directory / "history.json").unlink(missing_ok=True)
            if (aside / "ledger").exists():
                shutil.rmtree(settings.ledger, ignore_errors=True)
                shutil.copytree(aside / "ledger", settings.ledger)
                note(settings, "ledger", under_way.get("ledger_state", {}))
        reach(settings, under_way, "return")
    for name in sorted(under_way.get("aside", []), key=lambda name: name == MARKER):
        if (aside / name).exists():
            if (storage / name).exists():  # a person put it there since
                failed.mkdir(mode=0o700, exist_ok=True)
                (storage / name).rename(failed / f"{name}.{now()}")
            (aside / name).rename(storage / name)
    if aside.exists():
        failed.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(aside.iterdir()):
            path.rename(failed / f"aside-{path.name}")
        aside.rmdir()
    run(*service(settings, "start"))
    came = by_device(meanwhile(settings, under_way, failed / "index"))
    if came:
        note(settings, f"not-restored-{under_way['stamp']}", {"resend": came}, 0o600)
        for one in came:
            say(f"to be sent again from {device(escape(one['aet']))}: study {escape(one['study'])}", 4)
    (settings.directory / "restore.json").unlink(missing_ok=True)
    said = f"Snapshot {under_way['snapshot']} was not restored: {under_way['why']} What was there is in its place again"
    try:
        Rest(settings).awaited()
    except (Refused, OSError, ValueError, KeyError) as error:
        return f"{said}, and Orthanc does not come up on that either: {error}"
    beside = f" What was restored lies in {failed}" if failed.exists() else ""
    if came:
        beside += f"; {len(came)} studies that came meanwhile are in the journal, and must be sent again"
    return f"{said}, and Orthanc answers.{beside}{'.' * bool(beside)}"


def meanwhile(settings: Settings, under_way: dict[str, Any], index: Path) -> list[Study]:
    """What devices sent to the restored data before it was taken away again."""
    if under_way["failed_in"] != "start" or not index.exists():
        return []
    manifest = under_way["manifest"]
    return came_after(settings, {**under_way, "came": []}, index) if manifest else []


def came_after(settings: Settings, under_way: dict[str, Any], index: Path) -> list[Study]:
    """By the ledger, and what the index that was set aside knew, if it can be read."""
    manifest, copy = under_way["manifest"], settings.directory / "aside"
    found = [Study(*one) for one in under_way["came"]]
    identity = index.with_name(ARCHIVE)
    same = identity.exists() and identity.read_text().strip() == manifest["archive"]
    since, moment = (manifest["counts"]["last_change"], manifest["moment"]) if same else (-1, "")
    try:
        for end in ("", "-wal"):
            if Path(f"{index}{end}").exists():
                copied(Path(f"{index}{end}"), Path(f"{copy}{end}"))
        with contextlib.closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA journal_mode=DELETE")
        found += studies_of(copy, since, moment)
    except (OSError, sqlite3.Error):
        say("The index that was set aside cannot be read; the list of what to send again is the ledger's.", 4)
    finally:
        for end in ("", "-wal", "-journal"):
            Path(f"{copy}{end}").unlink(missing_ok=True)
    return found


def ledger_placed(settings: Settings, work: Path, aside: Path, manifest: dict[str, Any]) -> None:
    """The snapshot's rows, and this machine's that came later: by their time alone, since numbers begin anew."""
    if settings.ledger.exists() and not (aside / "ledger").exists():
        shutil.copytree(settings.ledger, aside / "ledger.part", dirs_exist_ok=True)
        (aside / "ledger.part").rename(aside / "ledger")
    shutil.rmtree(settings.ledger, ignore_errors=True)
    settings.ledger.mkdir(mode=0o700)
    for path in below(work, manifest["ledger"]).glob("*.csv"):
        rows = [one for one in studies_read(path) if one.number <= manifest["counts"]["last_change"]]
        rows_written(settings.ledger / path.name, rows)
    # what is to be sent again stays on the list of another restore; its numbers are of the index that went
    noted_down(settings, [Study(*one)._replace(number=0) for one in state(settings, "restore").get("came", [])])
    since = {"last_change": manifest["counts"]["last_change"], "last_archive": manifest["archive"]}
    # for the monitor: the ledger did run
    kept = {name: value for name, value in state(settings, "ledger").items() if name.startswith("last_success")}
    note(settings, "ledger", {**kept, **since})


def paths_placed(settings: Settings, work: Path, aside: Path, under_way: dict[str, Any]) -> None:
    """Worklist items and what this machine lacks (see `planned`); what is replaced is kept with the data set aside."""
    manifest, changed = under_way["manifest"], False
    for one in (placing.Placing(*each) for each in under_way.get("placings", [])):
        target, source = Path(one.target), below(work, f"{manifest['staging']}/paths{one.path}")
        if target.is_file() and hashed(target) == one.digest:
            continue
        if not source.exists() or hashed(source) != one.digest:
            say(f"{one.path} is not the manifest's, and was not restored.", 3)
            continue
        copy = below(aside / "paths", one.target)
        if target.exists() and not copy.exists():
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            duplicate(target, copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, waiting)
        with contextlib.suppress(LookupError, PermissionError):  # by name: another machine has other numbers
            shutil.chown(waiting, one.owner or -1, one.group or -1)
        waiting.chmod(one.mode)
        waiting.rename(target)
        changed = True
    if changed:
        reload_services()


def paths_back(under_way: dict[str, Any], aside: Path, failed: Path) -> None:
    """As they were before `paths_placed`."""
    changed = False
    for one in (placing.Placing(*each) for each in under_way.get("placings", [])):
        target, copy = Path(one.target), below(aside / "paths", one.target)
        if not target.is_file() or hashed(target) != one.digest:
            continue
        if copy.exists():
            waiting = target.with_name(f".{target.name}.part")
            duplicate(copy, waiting)
            waiting.rename(target)
        else:
            kept = below(failed / "paths", one.target)
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            duplicate(target, kept)
            target.unlink()
        changed = True
    if changed:
        reload_services()


def duplicate(source: Path, target: Path) -> None:
    """A copy with mode, owner and times."""
    shutil.copy2(source, target)
    there = source.stat()
    os.chown(target, there.st_uid, there.st_gid)


def reload_services() -> None:
    run("systemctl", "daemon-reload")
    subprocess.run(
        ["systemctl", "try-reload-or-restart", "nginx.service"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


# --- one study ---------------------------------------------------------------------------------
def proven_first(settings: Settings) -> list[dict[str, Any]]:
    """The proven snapshots of this archive, the newest run first; by time on a machine that remembers none."""
    past, identity = past_of(settings), archive(settings)
    order = {token: number for number, token in enumerate(past.ours)}
    found = of_archive(settings, identity) if identity else snapshots(settings, "orthanc")
    known = [one for one in found if history.is_proven(seen(one), past) and (seen(one).token in order or not order)]
    return sorted(known, key=lambda one: (order.get(seen(one).token, 0), moment_of(one)), reverse=True)


def study_restored(settings: Settings, value: str, wanted: str, dry_run: bool) -> dict[str, Any]:
    """A study from a proven snapshot through Orthanc; nothing stops, and no other data are touched."""
    if state(settings, "restore"):
        raise Refused("A restore was interrupted. Remedy: end it with orthanc-backup restore, then call this again.")
    if (settings.storage / BRAKE).exists() and not dry_run:
        raise Refused(BRAKED)
    found = proven_first(settings) if wanted == "latest" else [chosen(settings, wanted)]
    rest, scratch, quarantine = Rest(settings), settings.directory / "study", f".quarantine-{now()[:15]}"
    manifests: dict[str, dict[str, Any]] = {}

    def read_index(snapshot: dict[str, Any]) -> Path:
        shutil.rmtree(scratch, ignore_errors=True)
        staging = next((path for path in snapshot["paths"] if path.endswith("/staging")), "")
        try:
            fetched(settings, snapshot, scratch, [f"{staging}/index", f"{staging}/manifest.json"])
            manifest = json.loads(below(scratch, f"{staging}/manifest.json").read_text())
            index = below(scratch, f"{staging}/index")
            if hashed(index) != manifest["index"]["sha256"]:
                raise StudyRefused("it is not the manifest's")
        except (Refused, OSError, ValueError, KeyError) as error:
            raise StudyRefused(str(error)) from None
        manifests[snapshot["id"]] = manifest
        return index

    def fetch(snapshot: dict[str, Any], paths: list[str]) -> Path:
        storage = manifests[snapshot["id"]]["storage"]
        only = [f"{storage}/{path}" for path in paths]
        fetched(settings, snapshot, scratch / "images", only, incomplete=True)
        data = below(scratch / "images", storage)
        data.mkdir(parents=True, exist_ok=True)
        return data

    def check_files(instances: set[str]) -> dict[str, tuple[Path, bool]]:
        names = [one for one in attachments_now(settings)[0] if one.type == 1 and one.instance in instances]
        defects = {one.path for one in verified(settings.storage, names, "compare")}
        return {one.instance: (settings.storage / one.path, one.path not in defects) for one in names}

    def ask(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            return rest.ask(method, path, body)[:2]
        except Refused:  # Orthanc ends connections that rest for a second
            return rest.ask(method, path, body)[:2]

    source = Source(
        snapshots=[{**one, "moment": moment_of(one)} for one in found],
        read_index=read_index,
        fetch=fetch,
        ask=ask,
        check_files=check_files,
        set_aside=lambda path: set_aside(path, settings.storage / quarantine),
        free_bytes=lambda: shutil.disk_usage(settings.directory).free,
        progress=bar,
        warn=lambda text: say(text, 4),
    )
    try:
        result = restore_study(source, value, dry_run)
    except StudyRefused as refused:
        raise Refused(str(refused)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if result.get("left"):
        remedy = "see the reasons; try an older snapshot with --snapshot, or orthanc-backup reconcile"
        loud(f"{len(result['left'])} images of study {escape(value)} are not as they were. Remedy: {remedy}.")
    return result


# --- restore check -----------------------------------------------------------------------------
def check(settings: Settings) -> dict[str, Any]:
    """The newest snapshot in a scratch directory, and an Orthanc that reads it; only then old snapshots go."""
    with noted(settings, "restore_check") as result:
        os.nice(10)
        with watchdog(7 * 86400, "rm", "-rf", "--one-file-system", str(settings.scratch)):
            shutil.rmtree(settings.scratch, ignore_errors=True)
            checked(settings, result, time.monotonic())
        mark_verified(settings, result)
        tended(settings, result)
        problems = strangers(settings)
        if problems:
            raise Refused(*problems)
    return result


def checked(settings: Settings, result: dict[str, Any], begin: float) -> None:
    proof = proved(settings, "latest")
    manifest, counts = proof.manifest, proof.manifest["counts"]
    result.update(snapshot=proof.snapshot["short_id"], moment=manifest["moment"], counts=counts)
    if proof.problems:
        raise Refused(*proof.problems)
    result["warnings"] = unproved(proof)
    settings.scratch.mkdir(mode=0o711, parents=True)
    room = min(settings.scratch_bytes, int(shutil.disk_usage(settings.scratch).free * 0.5))
    room -= 2 * manifest["index"]["size"]
    parts = 256 if counts["bytes"] <= room else 256 * max(0, room) // counts["bytes"]
    if not parts:
        what = f"A restore check has {max(0, room) >> 20} MiB for attachments, less than one part in 256"
        raise Refused(
            f"{what}. Remedy: make space in {settings.scratch.parent}, or raise orthanc_backup_scratch_bytes."
        )
    # uuids are random: a directory more or less is a sample, and each week it is the next ones
    first = int(time.time()) // (7 * 86400) * parts % 256
    prefixes = {f"{(first + number) % 256:02x}" for number in range(parts)}
    images = [one for one in proof.names if one.type == 1]
    shown = ([one for one in images if one.uuid[:2] in prefixes] or images)[-1:]
    sample = [one for one in proof.names if one.uuid[:2] in prefixes or one in shown]
    only = [] if parts == 256 else [f"{manifest['staging']}/index", *(
        f"{manifest['storage']}/{part}" for part in (*sorted(prefixes), *(one.path for one in shown))
    )]  # fmt: skip
    data, _ = assembled(settings, proof, settings.scratch, sample, only)
    result.update(verified=len(sample), of=len(proof.names), day=now()[:8])
    with second(settings, data) as (rest, dicomweb):
        rest.counted(counts)
        result["read"] = [rest.shown(one, dicomweb) for one in shown]
    moment = datetime.strptime(manifest["moment"], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    result.update(
        recovery_seconds=round(time.monotonic() - begin, 2),
        recovery_point_seconds=round((datetime.now(UTC) - moment).total_seconds()),
    )


def unproved(proof: Proof) -> list[str]:
    """What a restore check that succeeds does not say."""
    what, unhashed = f"Snapshot {proof.snapshot['short_id']}", [one for one in proof.names if not one.md5]
    if not proof.names:
        return [f"{what} holds no image. Remedy: see that devices reach Orthanc, if it should hold some."]
    if unhashed:
        known = (
            f"{what} has no MD5 of {len(unhashed)} of {len(proof.names)} attachments, of which only sizes are compared"
        )
        return [f"{known}. Remedy: set StoreMD5ForAttachments to true."]
    return []


def tended(settings: Settings, result: dict[str, Any]) -> None:
    """What is superseded goes, which no machine may do that can only append; and a part of the repository is read."""
    if not settings.append_only:
        retained(settings, result)
        restic(settings, "prune", "--quiet")
    part = int(time.time()) // (7 * 86400) % settings.subset + 1
    restic(settings, "check", "--quiet", f"--read-data-subset={part}/{settings.subset}")


def retained(settings: Settings, result: dict[str, Any]) -> None:
    """Old snapshots of this archive go, but for those that hold what no other one does, and those of other machines.

    What is not proven never stands for what is.
    """
    identity, at = archive(settings), datetime.now(UTC)
    if not identity:  # the images' disk is not mounted, or nothing was restored yet
        result.update(forgotten=0, held=0)
        return
    past, found = past_of(settings), of_archive(settings, identity)
    by_token = {seen(one).token: one for one in found}
    if not past.archive:
        past = history.adopt(identity, map(seen, found), tomorrow())
    undecided = {one.token for one in history.find_strangers(map(seen, found), past)}
    newest = history.choose_latest(map(seen, found), past, "9")

    def dated(one: dict[str, Any]) -> retention.Dated:
        time = datetime.fromisoformat(re.sub(r"[.][0-9]+", "", one["time"]))
        return retention.Dated(one["id"], seen(one).token, time)

    def content(token: str) -> history.Content | None:
        try:
            known = content_of(settings, by_token[token])
            # another machine may have gone on in the same line: nobody here can say what was deleted there
            return replace(known, lineage={}) if token in past.foreign else known
        except Refused as refused:
            say(f"{refused} The snapshot stays.", 4)
            return None

    ours = [one for one in found if seen(one).token not in undecided]
    proven = [dated(one) for one in ours if history.is_proven(seen(one), past)]
    unproven = [dated(one) for one in ours if not history.is_proven(seen(one), past)]
    stays = {past.restored, newest.token if newest else ""}
    superseded = [one for one in retention.apply_policy(proven, settings.keep, at) if one.token not in stays]
    kept = {one.token for one in proven} - {one.token for one in superseded}
    old = retention.protect(superseded, kept, content, proven=True)
    superseded = [
        one for one in retention.apply_policy(unproven, {"last": KEPT_UNPROVEN}, at) if one.token not in stays
    ]
    failed = retention.protect(superseded, kept | {*old.held}, content, proven=False)
    going = ledger_history.find_superseded(snapshots(settings, f"ledger,archive={identity}"), at)
    forgotten(settings, [*old.going, *failed.going, *going])
    held, noted_since = {**old.held, **failed.held}, past_of(settings)  # a backup may have gone on meanwhile
    remember(settings, replace(noted_since if noted_since.archive else past, held=held))
    result.update(forgotten=len(old.going) + len(failed.going), held=len(held))
    for path in (settings.directory / "contents").glob("*"):
        if path.name.partition(".")[0] not in by_token:
            path.unlink()


# --- reconcile ---------------------------------------------------------------------------------
def reconcile(settings: Settings, repair: bool) -> dict[str, Any]:
    """The index against the files; a repair moves files and never deletes one."""
    begin = time.time()
    names, _ = attachments_now(settings)
    listed = {one.uuid for one in names}
    lost = [
        path for path in images(settings.storage)
        if path.name not in listed and path.stat().st_mtime < begin - SETTLE_SECONDS
    ]  # fmt: skip
    defects = verified(settings.storage, names, "compare")
    if defects:
        still = {one.path for one in attachments_now(settings)[0]}
        defects = [one for one in defects if one.path in still]
    result: dict[str, Any] = {"attachments": len(names)}
    for kind in ("missing", "truncated", "altered"):
        result[kind] = [one.path for one in defects if one.kind == kind]
    result["orphaned"] = [str(path.relative_to(settings.storage)) for path in lost]
    left = [*(one.path for one in defects), *result["orphaned"]]
    if repair:
        quarantine = settings.storage / f".quarantine-{now()[:15]}"
        wanted = {one.path: one for one in names}
        # first what is surely right: an orphan with the same UIDs may be another image
        back = brought_back(settings, [wanted[one.path] for one in defects], quarantine)
        defects = [one for one in defects if wanted[one.path].uuid not in back]
        damaged = {one.uuid: one for one in damaged_orphans(settings, lost)}
        for uuid in brought_back(settings, [*damaged.values()], quarantine, listed=False):
            del damaged[uuid]
        whole = [path for path in lost if path.name not in damaged]
        result["repaired"], result["unresolved"] = imported(settings, whole, quarantine)
        result["repaired"] |= back
        result["unresolved"] |= dict.fromkeys(damaged, "altered: no snapshot has it as it was")
        # an orphan may have come into the place of what could not be read, as a new image or as its file
        still = {one.path: one for one in (attachments_now(settings)[0] if lost else names)}
        rest = [still[one.path] for one in defects if one.path in still]
        defects = verified(settings.storage, rest, "compare")
        healed = {one.path: one for one in rest}.keys() - {one.path for one in defects}
        result["repaired"] |= {still[path].uuid: "from an orphan" for path in healed}
        left = [*(one.path for one in defects), *result["orphaned"]]
        left = [one for one in left if one.rpartition("/")[2] not in result["repaired"]]
    return {**result, "left": left}


def damaged_orphans(settings: Settings, lost: list[Path]) -> list[Attachment]:
    """Orphans that are not what the newest snapshot that names them says: the index tells their MD5 no more."""
    names, found = {path.name for path in lost}, dict[str, Attachment]()
    try:
        for snapshot in reversed(snapshots(settings, "orthanc", "unproven")) if names else ():
            with contextlib.suppress(Refused):  # another one may tell
                for one in manifest_in(settings, snapshot)[1]:
                    if one.uuid in names:
                        found.setdefault(one.uuid, one)
            if len(found) == len(names):
                break
    except Refused as refused:  # the images that lie there do not wait for the repository
        say(f"Files are imported without a comparison with the snapshots. {refused}", 4)
    wrong = {defect.path for defect in verified(settings.storage, [*found.values()], "compare")}
    return [one for one in found.values() if one.path in wrong]


def imported(settings: Settings, lost: list[Path], quarantine: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What became of orphans, and why others stay where they are.

    An orphan is an image again when its copy was read back from the disk; then the file goes aside.
    """
    repaired: dict[str, str] = {}
    unresolved: dict[str, str] = {}
    rest, waiting = Rest(settings), lost
    for last in (False, True):
        answers: dict[Path, dict[str, str]] = {}
        for path in waiting:
            try:
                status, body, _ = rest.ask("POST", "/instances", orphans.read_image(path))
                if status == 200:
                    answers[path] = json.loads(body)
                else:
                    unresolved[path.name] = f"Orthanc refuses it ({status})"
            except dataset.NotDicom as error:
                unresolved[path.name] = f"not an image: {error}"
        stored = orphans.by_instance(attachments_now(settings)[0]) if answers else {}
        waiting = []
        for path, answer in answers.items():
            one = stored.get(answer["ID"])
            verdict = orphans.judge(settings.storage, orphans.read_image(path), answer["Status"], one)
            if verdict.is_done:
                set_aside(path, quarantine)
                repaired[path.name] = verdict.text
            elif verdict.word == "damaged" and one and not last:
                # an Orthanc without the filter of images that arrive: the damaged one makes way, and nothing is lost
                if (settings.storage / one.path).exists():
                    set_aside(settings.storage / one.path, quarantine)
                rest.ask("DELETE", f"/instances/{one.instance}")
                waiting.append(path)
            else:
                unresolved[path.name] = f"{verdict.word}: {verdict.text}"
    return repaired, unresolved


def is_given(rest: Rest, one: Attachment) -> bool | None:
    """Whether Orthanc gives it out as it was written; what it read of a damaged file stays in its cache for hours.

    None: it is not there any more.
    """
    status, body, _ = rest.ask("GET", f"/instances/{one.instance}/attachments/{one.type}/data")
    if status == 404:
        return None
    return status == 200 and one.uncompressed_md5 in ("", hashlib.md5(body, usedforsecurity=False).hexdigest())


def brought_back(settings: Settings, wanted: list[Attachment], quarantine: Path, listed: bool = True) -> dict[str, str]:
    """Attachments with a defect come from the newest snapshot that has them as they were, and are read in place:
    through Orthanc, where its index lists them."""
    done: dict[str, str] = {}
    account, scratch, rest = settings.account, settings.storage / ".restore-attachments", Rest(settings)
    for snapshot in reversed(snapshots(settings, "orthanc", "unproven")) if wanted else ():
        shutil.rmtree(scratch, ignore_errors=True)
        storage = storage_in(snapshot)
        for first in range(0, len(wanted), 1000):  # a command line has an end
            part = wanted[first : first + 1000]
            fetched(settings, snapshot, scratch, [f"{storage}/{one.path}" for one in part], incomplete=True)
        data, placed = below(scratch, storage), list[Attachment]()
        for one in [one for one in wanted if orphans.is_whole(data, one)]:
            path = settings.storage / one.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.resolve() != settings.storage.resolve() / one.path.rpartition("/")[0]:
                raise Refused(f"{path.parent} leads elsewhere. Remedy: remove that link.")
            if path.exists():
                set_aside(path, quarantine)
            for each in (path.parent.parent, path.parent, data / one.path):
                os.chown(each, account.pw_uid, account.pw_gid, follow_symlinks=False)
            (data / one.path).chmod(0o640)
            os.sync()
            (data / one.path).rename(path)
            placed.append(one)
        if listed and any(is_given(rest, one) is False for one in placed):
            say("Orthanc is started anew: it gives out what it has read of a damaged image.", 4)
            with watchdog(STOP_SECONDS * 2, *service(settings, "start")):
                try:
                    written(settings.directory / STOPPED, "")  # for whoever comes after a kill
                    run(*service(settings, "stop"))
                finally:
                    started(settings)
            rest.awaited()
        for one in placed:
            if (not listed or is_given(rest, one)) and orphans.is_whole(settings.storage, one):
                unproven = "" if one.md5 else "; without a stored MD5 only its size and that it can be read are known"
                done[one.uuid] = f"from snapshot {snapshot['short_id']}{unproven}"
        wanted = [one for one in wanted if one.uuid not in done]
        if not wanted:
            break
    shutil.rmtree(scratch, ignore_errors=True)
    return done


# --- the command -------------------------------------------------------------------------------
CONFIGURED: list[str] = []  # --config as it was given, for the program that goes on


def interrupted(number: int, _frame: Any) -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)  # once is enough
    raise Interrupted(signal.Signals(number).name)


def show(result: dict[str, Any]) -> None:
    for one in result.get("snapshots", []):
        proven = "" if one["proven"] else "  NOT PROVEN"
        counts = f"{one.get('studies', '?')} studies, {one.get('instances', '?')} instances"
        belongs = f"archive {one.get('archive', '?')[:4]}, Orthanc {one.get('version', '?'):8}"
        kept = f"  kept: {one['kept']}" if "kept" in one else ""
        taken = f"{words.say_stamp(one['time']):>17}"
        print(escape(f"{one['id']}  {taken}  {belongs} {counts}, {verified_of(one)}{proven}{kept}"))
    for one in result.get("kept", []):
        print(escape(f"stays as it is: {one['path']} ({one['why']})"))
    for line in format_images(result.get("images", [])):
        print(escape(line))
    for aet in dict.fromkeys(one["aet"] for one in result.get("resend", [])):
        print(escape(f"send again from {aet or 'applications'}:"))
        for one in result["resend"]:
            if one["aet"] == aet:
                print(escape(f"    {words.say_stamp(one['time']):>17}  {one['accession']:16}  {one['study']}"))
    for name, value in result.items():
        if name not in ("snapshots", "resend", "kept", "images") and value not in ("", [], {}):
            if isinstance(value, dict):
                value = [f"{key} {say_value(key, of)}" for key, of in value.items()]
            text = ", ".join(map(str, value)) if isinstance(value, list) else say_value(name, value)
            print(escape(f"{name.removesuffix('_seconds').replace('_', ' ')}: {text}"))


def say_value(name: str, value: Any) -> str:
    """A moment, a duration or a number of bytes as a person says it, everything else as it is."""
    if isinstance(value, str):
        return words.say_day(value) if name == "day" else words.say_stamp(value)
    if name == "pause":
        return f"{1000 * value:.0f} ms"
    if name == "seconds" or name.endswith("_seconds"):
        return words.say_duration(value)
    return words.say_size(value) if name in ("added", "bytes") or name.endswith("_bytes") else str(value)


def verified_of(snapshot: dict[str, Any]) -> str:
    """On which day a listed snapshot was restored on trial."""
    day, part = snapshot["verified"], snapshot["verified_part"].replace("/", " of ")
    if not day:
        return "never verified"
    return f"verified {words.say_day(day)}" + f" ({part} attachments)" * bool(part)


def made(settings: Settings) -> dict[str, Any]:
    """The repository, new or not. Where it is there, a backup at work does not matter."""
    result = {"repository": "was there", "warnings": same_disk(settings)}
    try:
        restic(settings, "cat", "config", "--no-lock")
    except Refused as refused:
        if "unable to open config file" not in str(refused):
            raise
        with alone(settings, "run"):
            restic(settings, "init")
        result["repository"] = "made"
    return result


def make_first(settings: Settings, dry_run: bool) -> dict[str, Any]:
    """The first backup, where none has succeeded: made, or begun and left at work, or why it is still to come."""
    if state(settings, "backup").get("last_success_epoch"):
        return {"first": "was there"}
    try:
        with alone(settings, "run"):
            if state(settings, "restore"):
                what = "A restore was begun and has not ended, and the first backup is made after it"
                return {"first": "waits", "warnings": [f"{what}. Remedy: end it: orthanc-backup restore."]}
            if not archive(settings) and snapshots(settings, "orthanc", "unproven"):
                what = f"The repository has snapshots of {settings.host}, and this archive is none of theirs yet"
                remedy = (
                    "restore the last one (orthanc-backup restore), or begin anew: orthanc-backup run --new-archive"
                )
                return {"first": "waits", "warnings": [f"{what}. Remedy: {remedy}."]}
            size = int(Rest(settings).get("/statistics")["TotalDiskSize"])
            awaited = beginning.is_awaited(size, settings.limit_upload)
            if dry_run:
                return {"first": "would be made" if awaited else "would be begun"}
            if awaited:
                if (settings.directory / STOPPED).exists():
                    started(settings)
                return {"first": "made", **backup(settings, due=True, anew=False)}
    except Busy:
        return {"first": "is at work"}
    # it may have been begun a moment ago, and have no lock yet
    if not subprocess.run(
        ["systemctl", "is-active", "--quiet", beginning.UNIT], stdin=subprocess.DEVNULL, check=False
    ).returncode:
        return {"first": "is at work"}
    run(*beginning.LEAVE_AT_WORK, str(Path(__file__).resolve()), *CONFIGURED, "run")
    return {"first": "begun", "warnings": [beginning.tell(size, settings.limit_upload)]}


def done(settings: Settings, given: argparse.Namespace) -> dict[str, Any]:
    if not settings.directory.exists():
        settings.directory.mkdir(parents=True)
        settings.directory.chmod(0o755)  # the monitor reads what is there
    actions: dict[str, tuple[tuple[str, ...], Callable[[], dict[str, Any]]]] = {
        "init": ((), lambda: made(settings)),
        "first": ((), lambda: make_first(settings, given.dry_run)),
        "run": (("run",), lambda: backup(settings, given.due, given.new_archive)),
        "accept": (("run",), lambda: accepted(settings, given.id, given.reason)),
        "list": ((), lambda: listed(settings)),
        "ledger": (("ledger",), lambda: ledger(settings)),
        "check": (("check",), lambda: check(settings)),
        "restore": (
            ("run", "check", "ledger"),
            lambda: restore(settings, given.snapshot, given.target, given.dry_run, given.incomplete),
        ),
        "study": (("run",), lambda: study_restored(settings, given.study, given.snapshot, given.dry_run)),
        "reconcile": (("run",), lambda: reconcile(settings, given.repair)),
    }
    locks, action = actions["study" if getattr(given, "study", "") else given.command]
    with contextlib.ExitStack() as stack:
        for name in locks:
            stack.enter_context(alone(settings, name))
        if "run" in locks and (settings.directory / STOPPED).exists():
            started(settings)
        return action()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="the result as JSON")
    add: Callable[..., argparse.ArgumentParser] = commands.add_parser
    add("init", parents=[common], help="make the repository where there is none")
    one = add("first", parents=[common], help="make the first backup; a large one is begun, and goes on by itself")
    one.add_argument("--dry-run", action="store_true", help="say whether it would be made")
    one = add("run", parents=[common], help="make a backup")
    one.add_argument("--due", action="store_true", help="unless one was made in the last 20 hours")
    one.add_argument(
        "--new-archive", action="store_true", help="this archive begins anew beside the snapshots of another"
    )
    one = add("accept", parents=[common], help="say that a snapshot is as it should be, though it is not proven")
    one.add_argument("id", help="of orthanc-backup list")
    one.add_argument("--reason", default="", metavar="TEXT", help="kept with it")
    add("list", parents=[common], help="what snapshots there are")
    add("ledger", parents=[common], help="note which studies came, for a list of what to send again")
    add("check", parents=[common], help="restore the newest snapshot into a scratch directory, and read it")
    one = add("restore", parents=[common], help="put a snapshot in the place of what is there")
    one.add_argument("--snapshot", default="latest", help="an id of the list; the newest that is proven otherwise")
    one.add_argument("--target", type=Path, metavar="DIRECTORY", help="only restore and verify there")
    one.add_argument("--dry-run", action="store_true", help="prove the snapshot and say what would be done")
    one.add_argument("--incomplete", action="store_true", help="go without attachments that the snapshot does not have")
    one.add_argument(
        "--study", default="", metavar="VALUE",
        help="put only this study in, by AccessionNumber or StudyInstanceUID, while everything else goes on",
    )  # fmt: skip
    one = add("reconcile", parents=[common], help="compare the index with the files")
    one.add_argument(
        "--repair", action="store_true", help="import orphans, and bring the others back from the snapshots"
    )
    given = parser.parse_args()
    journal.prepare_output()
    if getattr(given, "study", "") and (given.target or given.incomplete):
        parser.error("--study goes with --snapshot and --dry-run alone")
    os.umask(0o077)
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # cron's has neither
    if given.config != CONFIGURATION:
        CONFIGURED[:] = ["--config", str(given.config)]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        result = done(Settings.read(given.config), given)
    except Refused as refused:
        problems = refused.problems
    except OSError as error:
        remedy = SYSTEM_REMEDIES.get(error.errno or 0, "see that it is there")
        problems = [f"{error.filename or 'A file'}: {error.strerror}. Remedy: {remedy}."]
    except sqlite3.Error as error:
        problems = [f"The index: {error}. Remedy: see orthanc-backup check, and restore."]
    except Exception as error:
        journal.say_traceback(error)
        problems = [f"{type(error).__name__}: {error}. Remedy: it is a defect of orthanc-backup; report these lines."]
    except Interrupted as signalled:
        problems = [f"Interrupted ({signalled}). Remedy: run it again."]
    else:
        print(json.dumps(result, indent=2)) if given.json else show(result)
        return int(bool(result.get("left")))
    if given.json:
        print(json.dumps({"problems": problems}, indent=2))
    for problem in problems:
        loud(problem)
    return 1


if __name__ == "__main__":
    sys.exit(main())
