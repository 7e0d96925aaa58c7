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
import fcntl
import hashlib
import http.client
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
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

CONFIGURATION = Path("/etc/orthanc-backup.json")
FICLONE = 0x40049409  # linux/fs.h: the copy shares its blocks
NEW_INSTANCE = 2  # a changeType of the index
DUE_SECONDS = 20 * 3600
STOP_SECONDS = 600  # as the unit's TimeoutStopSec
START_SECONDS = 300  # until Orthanc answers
LOCK_SECONDS = 600  # another restic at work in the repository
SETTLE_SECONDS = 60  # a file may be older than its row in the index by so much
UNSENT_SECONDS = 2 * 3600  # a prune or a short cut of the network is no failure of the ledger
SECOND = "orthanc-restore-check"  # the container, and the directory
OURS = (".restore-", ".set-aside-", ".quarantine-")  # in the storage directory: beside images, for renames
MARKER = ".orthanc-storage"  # Orthanc starts only where it is
ATTACHMENT = re.compile(r"([0-9a-f]{2})([0-9a-f]{2})[0-9a-f]{4}-[0-9a-f-]{27}")
GENTLE = ("nice", "-n", "10", "ionice", "-c", "2", "-n", "7")  # Orthanc goes first
REMEDIES = {
    "wrong password": "put the repository's password into orthanc_backup_password",
    "already locked": "wait for the other restic, or see restic list locks",
    "unable to open config file": "see that orthanc_backup_repository is there; orthanc-backup init makes a new one",
    "no space left": "make space for the repository, or keep fewer snapshots",
}


class Refused(Exception):
    """What is wrong: sentences with their remedies."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Interrupted(BaseException):
    """A signal: everything is put right on the way out."""


class Attachment(NamedTuple):
    """A row of the manifest; size and MD5 are those of the file."""

    uuid: str
    type: int
    size: int
    md5: str
    uncompressed_size: int
    uncompressed_md5: str
    instance: str

    @property
    def path(self) -> str:
        return f"{self.uuid[:2]}/{self.uuid[2:4]}/{self.uuid}"


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
    second: list[str]
    collection: str
    fingerprint: str

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


def say(text: str, level: int = 6) -> None:
    """A line for the journal (sd-daemon(3))."""
    print(f"<{level}>" * ("INVOCATION_ID" in os.environ) + text, file=sys.stderr, flush=True)


def loud(text: str) -> None:
    """A line at priority 3, wherever the program was called from."""
    say(text, 3)
    if "INVOCATION_ID" not in os.environ and shutil.which("logger"):
        subprocess.run(["logger", "-p", "daemon.err", "-t", "orthanc-backup", "--", text], check=False)


def bar(done: float, what: str) -> None:
    """Progress, for a person who watches."""
    if sys.stderr.isatty():
        end = "\n" if done >= 1 else ""
        print(f"\r{what:12} [{'#' * int(30 * done):30}] {done:4.0%}", end=end, file=sys.stderr, flush=True)


def written(path: Path, content: str) -> None:
    """The whole file or the one of before."""
    waiting = path.with_name(f"{path.name}.part")
    with waiting.open("w") as file:
        file.write(content)
        file.flush()
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
    path = settings.directory / f"{name}.json"
    written(path, json.dumps(content, indent=2) + "\n")
    path.chmod(mode)


def successes(settings: Settings, name: str) -> dict[str, Any]:
    """What stays true when the next attempt fails."""
    return {key: value for key, value in state(settings, name).items() if key.startswith("last_success")}


@contextlib.contextmanager
def alone(settings: Settings, name: str) -> Iterator[None]:
    with (settings.directory / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("Another orthanc-backup is at work. Remedy: wait until it has ended.") from None
        yield


def now() -> str:
    """UTC, in the form in which Orthanc writes it, and milliseconds."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{command[0]} {command[1]}: {done.stderr.strip()}. Remedy: see what it says.")
    return done.stdout.strip()


# --- restic ------------------------------------------------------------------------------------
def environment(settings: Settings) -> dict[str, str]:
    """The secrets' only way to restic; the repository's URL may hold one as well."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RESTIC_")},
        **settings.environment,
        "RESTIC_REPOSITORY": settings.repository,
        "RESTIC_PASSWORD_FILE": settings.password_file,
        "RESTIC_CACHE_DIR": str(settings.directory / "cache"),
        "RESTIC_PROGRESS_FPS": "2",
    }


def stream(settings: Settings, *arguments: str, good: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Lines of restic's. It ends with this program, and takes its lock away."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        command = ["setpriv", "--pdeathsig", "INT", *GENTLE, "restic", *arguments]
        # a file, since a pipe that nobody reads would stop restic
        with (
            (settings.directory / f"restic-{os.getpid()}.log").open("w+") as errors,
            subprocess.Popen(
                command, env=environment(settings), stdout=subprocess.PIPE, stderr=errors, text=True
            ) as restic,
        ):
            Path(errors.name).unlink()
            assert restic.stdout is not None
            try:
                yield from restic.stdout
                restic.wait()
            finally:
                if restic.poll() is None:
                    restic.send_signal(signal.SIGINT)
                    restic.wait()
            errors.seek(0)
            said = errors.read()
        if restic.returncode in good:
            yield from said.splitlines() if restic.returncode else ()
            return
        if "already locked" not in said or time.monotonic() > end:
            break
        # takes locks away whose process is gone from this machine, or which are half an hour old
        subprocess.run(["restic", "unlock", "--quiet"], env=environment(settings), capture_output=True, check=False)
        time.sleep(1)
    for secret in (*settings.environment.values(), *re.findall(r"://([^@/]+)@", settings.repository)):
        said = said.replace(secret, "***") if secret else said
    said = " ".join(line for line in said.splitlines() if not line.startswith("{"))[-500:] or said[-500:]
    remedy = next((remedy for text, remedy in REMEDIES.items() if text in said), "see that the repository answers")
    raise Refused(f"restic {arguments[0]}: {said.strip()}. Remedy: {remedy}.")


def restic(settings: Settings, *arguments: str) -> str:
    return "".join(stream(settings, *arguments))


def snapshots(settings: Settings, tag: str = "orthanc") -> list[dict[str, Any]]:
    """Oldest first."""
    found = json.loads(restic(settings, "snapshots", "--json", "--no-lock", "--tag", tag, "--host", settings.host))
    return sorted(found or [], key=lambda one: datetime.fromisoformat(re.sub(r"\.\d+", "", one["time"])))


def proved(snapshot: dict[str, Any]) -> bool:
    return "unproven" not in snapshot["tags"]


def chosen(settings: Settings, wanted: str) -> dict[str, Any]:
    found = snapshots(settings)
    if wanted == "latest":
        found = [one for one in found if proved(one)][-1:]
    else:
        found = [one for one in found if one["id"].startswith(wanted)]
    if len(found) != 1:
        raise Refused(f"{len(found)} snapshots are {wanted!a}. Remedy: give an id of orthanc-backup list.")
    return found[0]


# --- the moment --------------------------------------------------------------------------------
def main_process(settings: Settings) -> int:
    """Orthanc's process, seen from this machine in both cases; 0 when it does not run."""
    if settings.method == "docker":
        return int(run("docker", "inspect", "--format", "{{.State.Pid}}", settings.name))
    return int(run("systemctl", "show", "--property", "MainPID", "--value", settings.name))


def service(settings: Settings, verb: str) -> list[str]:
    if settings.method == "docker":
        return ["docker", verb, *(["--time", str(STOP_SECONDS)] if verb == "stop" else []), settings.name]
    return ["systemctl", verb, settings.name]


@contextlib.contextmanager
def watchdog(seconds: int, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the command when this program has ended, however it did, or after so many seconds.

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
        yield dog
    finally:
        dog.stdin.close()
        dog.wait()


def stands(pid: int) -> bool:
    """Whether every thread is stopped: one that is in the kernel writes on until it comes back."""
    try:
        tasks = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return False
    return all(text.rpartition(")")[2].split()[0] in "Tt" for text in tasks)


@contextlib.contextmanager
def standing(settings: Settings) -> Iterator[dict[str, float]]:
    """Orthanc stands still inside, and runs again afterwards whatever happens."""
    pid, result = main_process(settings), {"pause": 0.0}
    if not pid:  # nobody writes, unless it is started just now
        yield result
        if main_process(settings):
            raise Refused("Orthanc was started while its index was copied. Remedy: run it again.")
        return
    if not has_open(pid, settings.storage / "index"):
        what = f"{settings.name} (process {pid}) does not have {settings.storage}/index open"
        raise Refused(f"{what}. Remedy: set orthanc_storage_dir to the directory that Orthanc uses.")
    if settings.pause == "stop":
        with watchdog(STOP_SECONDS * 2, *service(settings, "start")):
            begin = time.monotonic()
            try:
                run(*service(settings, "stop"))
                yield result
            finally:
                run(*service(settings, "start"))
                result["pause"] = time.monotonic() - begin
        return
    with watchdog(settings.pause_seconds, "kill", "-CONT", str(pid)):
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
    return {"moment": moment, "pause": result["pause"]}


# --- what the index says -----------------------------------------------------------------------
def attachments_of(index: Path) -> Iterator[Attachment]:
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        yield from map(
            Attachment._make,
            database.execute(
                "SELECT uuid, fileType, compressedSize, ifnull(compressedMD5, ''), uncompressedSize,"
                " ifnull(uncompressedMD5, ''), publicId FROM AttachedFiles JOIN Resources ON internalId = id"
                " ORDER BY id, fileType"
            ),
        )


def studies_of(index: Path, since: int = -1, moment: str = "") -> list[Study]:
    """What came after a change, by device; where somebody cleared the changes, by the study's time."""
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
        WHERE study.resourceType = 2 AND (number > ? OR number = 0 AND time >= ?)
        ORDER BY number"""
    last: dict[tuple[str, str], Study] = {}
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        for row in database.execute(query, (NEW_INSTANCE, since, moment[:15])):
            one = Study._make(row)
            last[one.study, one.aet] = one
    return list(last.values())


def counts_of(index: Path) -> dict[str, int]:
    kinds = {1: "patients", 2: "studies", 3: "series", 4: "instances"}
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        found = dict(database.execute("SELECT resourceType, COUNT(*) FROM Resources GROUP BY resourceType"))
        files, size = database.execute("SELECT COUNT(*), ifnull(SUM(compressedSize), 0) FROM AttachedFiles").fetchone()
        last = database.execute("SELECT ifnull(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'Changes'")
        counts = {name: found.get(kind, 0) for kind, name in kinds.items()}
        return {**counts, "attachments": files, "bytes": size, "last_change": last.fetchone()[0]}


def hashed(path: Path, method: str = "sha256") -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, method).hexdigest()


def rows_written(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def attachments_read(text: str) -> list[Attachment]:
    rows = csv.reader(text.splitlines())
    return [Attachment(row[0], int(row[1]), int(row[2]), row[3], int(row[4]), *row[5:]) for row in rows]


def studies_read(path: Path) -> list[Study]:
    with path.open(newline="") as file:
        return [Study(int(row[0]), *row[1:]) for row in csv.reader(file)]


# --- run ---------------------------------------------------------------------------------------
def index_version(settings: Settings) -> str:
    """Who opened the index last; the deploy and the unit note it."""
    noted = settings.storage / ".orthanc-version"
    return (noted.read_text().strip() if noted.exists() else "") or orthanc_version(settings)


def orthanc_version(settings: Settings) -> str:
    """Of the Orthanc that is installed."""
    command = ["Orthanc", "--version"]
    if settings.method == "docker":
        image = run("docker", "inspect", "--format", "{{.Image}}", settings.name)
        command = ["docker", "run", "--rm", "--network=none", "--entrypoint=Orthanc", image, "--version"]
    found = re.search(r"[0-9]+(\.[0-9]+)+", run(*command).splitlines()[0])
    return found[0] if found else "mainline"


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")] if version[:1].isdigit() else [10**6]


def account(look: Callable[[], str]) -> str:
    try:
        return look()
    except KeyError:
        return ""


def files_below(paths: Iterable[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        yield from sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def manifest_of(settings: Settings, moment: dict[str, Any], present: list[str]) -> dict[str, Any]:
    index, listed, came = (settings.staging / name for name in ("index", "attachments.csv", "studies.csv"))
    rows_written(listed, attachments_of(index))
    rows_written(came, studies_of(index))
    digest = ""
    if settings.method == "docker":
        digest = run("docker", "inspect", "--format", "{{.Image}}", settings.name)
    return {
        "format": 1,
        "collection": settings.collection,
        "orthanc": index_version(settings),
        "image": digest,
        "inventory": settings.fingerprint,
        "host": settings.host,
        "moment": moment["moment"],
        "storage": str(settings.storage),
        "staging": str(settings.staging),
        "ledger": str(settings.ledger),
        "counts": counts_of(index),
        "index": {"size": index.stat().st_size, "sha256": hashed(index)},
        "attachments": hashed(listed),
        "paths": {
            str(path): [account(path.owner), account(path.group), path.stat().st_mode & 0o7777, hashed(path)]
            for path in files_below(present)
        },
    }


def same_disk(settings: Settings) -> bool:
    if not settings.repository.startswith(("/", "local:")):
        return False
    path = Path(settings.repository.removeprefix("local:"))
    while not path.exists():
        path = path.parent
    return path.stat().st_dev == settings.storage.stat().st_dev


def contents(settings: Settings, snapshot: str) -> dict[str, int]:
    """Every file in a snapshot, with its size."""
    files: dict[str, int] = {}
    for line in stream(settings, "ls", "--json", "--no-lock", snapshot):
        node = json.loads(line)
        if node.get("type") == "file":
            files[node["path"]] = node.get("size", 0)
    return files


def problems_in(
    files: dict[str, int], storage: str, wanted: Iterable[Attachment]
) -> tuple[list[Attachment], list[str]]:
    """Attachments that are missing in a snapshot, and what is wrong with the others."""
    missing, wrong = [], []
    for one in wanted:
        size = files.get(f"{storage}/{one.path}")
        if size is None:
            missing.append(one)
        elif size != one.size:
            wrong.append(f"{one.path} has {size} bytes instead of {one.size}")
    return missing, wrong


def shortened(what: str, found: list[str], remedy: str) -> list[str]:
    """One sentence for a few or many of a kind."""
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return [f"{what}: {', '.join(found[:5])}{more}. Remedy: {remedy}."] if found else []


def backup(settings: Settings) -> dict[str, Any]:
    """One snapshot, proved complete; then the older ones that nobody needs go."""
    kept, begin = successes(settings, "backup"), time.monotonic()
    result: dict[str, Any] = {"result": "running", "reason": "", "started": now(), "warnings": []}
    note(settings, "backup", {**result, **kept})
    try:
        steps(settings, result)
        result["result"] = "success"
    except BaseException as error:
        result.update(result="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        result["seconds"] = round(time.monotonic() - begin, 2)
        note(settings, "backup", {**kept, **result})
    return result


def steps(settings: Settings, result: dict[str, Any]) -> None:
    if same_disk(settings):
        warning = (
            f"The repository {settings.repository} is on the disk that holds the images: one defect takes both. "
            "Remedy: set orthanc_backup_repository to another machine or disk."
        )
        result["warnings"].append(warning)
        loud(warning)
    for path in (settings.staging, settings.ledger):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    present = [path for path in settings.paths if Path(path).exists()]
    result["warnings"] += shortened(
        "There is no", sorted({*settings.paths} - {*present}), "correct orthanc_backup_paths"
    )
    moment = index_copy(settings, settings.staging / "index")
    result["pause"] = round(moment["pause"], 4)
    manifest = manifest_of(settings, moment, present)
    written(settings.staging / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    result.update(moment=manifest["moment"], counts=manifest["counts"])
    identity, lost = taken(settings, result, present)
    proof(settings, result, identity, lost)
    if not settings.append_only:
        restic(settings, "tag", "--set", "orthanc", identity)
    result.update(last_success=result["moment"], last_success_epoch=int(time.time()))
    tended(settings)


def taken(settings: Settings, result: dict[str, Any], present: list[str]) -> tuple[str, list[str]]:
    """The new snapshot, and what restic could not read."""
    excluded = [settings.storage / f"index{end}" for end in ("", "-wal", "-shm", "-journal")]
    excluded += [settings.storage / f"{ours}*" for ours in OURS]
    arguments = ["backup", "--json", "--host", settings.host]
    arguments += ["--tag", "orthanc" if settings.append_only else "orthanc,unproven"]
    arguments += [f"--exclude={path}" for path in excluded]
    if settings.limit_upload:
        arguments += ["--limit-upload", str(settings.limit_upload)]
    arguments += [str(settings.staging), str(settings.ledger), str(settings.storage), *present]
    identity, lost = "", []
    for line in stream(settings, *arguments, good=(0, 3)):
        if not line.startswith("{"):
            lost += [] if "at least one source file" in line else [line.strip()]
            continue
        said = json.loads(line)
        if said["message_type"] == "status":
            bar(min(0.99, said.get("percent_done", 0)), "backup")
        elif said["message_type"] == "error":
            lost.append(str(said.get("item", "")))
        elif said["message_type"] == "summary":
            bar(1, "backup")
            identity = said["snapshot_id"]
            result.update(added=said["data_added"], files=said["total_files_processed"])
    return identity, lost


def proof(settings: Settings, result: dict[str, Any], identity: str, lost: list[str]) -> None:
    """Success is said only when everything is there that was there at the moment and nobody has deleted since."""
    files, storage = contents(settings, identity), str(settings.storage)
    listed = attachments_of(settings.staging / "index")
    missing, wrong = problems_in(files, storage, listed)
    unread = [path for path in lost if not (path.startswith(f"{storage}/") and not Path(path).exists())]
    if missing:  # a second look at the index tells what a user deleted
        second = settings.staging / "second"
        try:
            result["pause"] = max(result["pause"], round(index_copy(settings, second)["pause"], 4))
            still = {one.uuid for one in attachments_of(second)}
        finally:
            second.unlink(missing_ok=True)
        result["deleted"] = sum(one.uuid not in still for one in missing)
        missing = [one for one in missing if one.uuid in still]
    absent = [
        path for path in (settings.staging / "index", settings.staging / "manifest.json") if str(path) not in files
    ]
    remedy = "orthanc-backup reconcile tells about each; the snapshot has everything else"
    problems = shortened("Attachments are missing", [one.path for one in missing], remedy)
    problems += shortened("Attachments are damaged", wrong, remedy)
    problems += shortened("restic could not read", [*unread, *map(str, absent)], "see that root may read it")
    if problems:
        raise Refused(*problems)


def tended(settings: Settings) -> None:
    """The retention, which no machine may do that can only append, and a part of the check."""
    if settings.keep and not settings.append_only:
        keep = [f"--keep-{name}={number}" for name, number in sorted(settings.keep.items()) if number]
        # what is not proven is a group of its own: it does not stand for what is
        groups = ["--host", settings.host, "--group-by", "host,tags", "--tag", "orthanc", "--tag", "ledger"]
        restic(settings, "forget", "--quiet", *groups, *keep, "--prune")
    day = int(time.time()) // 86400
    restic(settings, "check", "--quiet", f"--read-data-subset={day % settings.subset + 1}/{settings.subset}")


def listed(settings: Settings) -> dict[str, Any]:
    found = []
    for one in snapshots(settings):
        manifest = manifest_in(settings, one)
        found.append({
            "id": one["short_id"], "proven": proved(one), "moment": manifest.get("moment", ""),
            "orthanc": manifest.get("orthanc", ""), "counts": manifest.get("counts", {}),
        })  # fmt: skip
    return {"snapshots": found}


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

    def ask(self, method: str, path: str, body: bytes = b"", accept: str = "*/*") -> tuple[int, bytes, str]:
        try:
            self.connection.request(method, path, body or None, {**self.headers, "Accept": accept})
            answer = self.connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type", "")
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


# --- ledger ------------------------------------------------------------------------------------
def changes(rest: Rest, since: int) -> Iterator[dict[str, Any]]:
    while True:
        page = rest.get(f"/changes?since={since}&limit=1000")
        yield from page["Changes"]
        if page["Done"] or not page["Changes"]:
            return
        since = page["Last"]


def ledger(settings: Settings) -> dict[str, Any]:
    """What came since the last time, into a file a day; and the files into a snapshot of their own."""
    former = state(settings, "ledger")
    settings.ledger.mkdir(mode=0o700, parents=True, exist_ok=True)
    rest = Rest(settings)
    last = rest.get("/changes?last")["Last"]
    since = former.get("last_change", -1)
    if since < 0:  # what came before is in the first snapshot
        since = state_of_staging(settings, last)
    since = min(since, last)
    series: dict[str, Study | None] = {}
    found: dict[tuple[str, str, str], Study] = {}
    for change in changes(rest, since):
        since = max(since, change["Seq"])
        if change["ChangeType"] != "NewInstance":
            continue
        instance = rest.get(f"/instances/{change['ID']}")
        if instance is None:  # deleted since
            continue
        parent = instance["ParentSeries"]
        if parent not in series:
            series[parent] = study_of(rest, parent)
        study = series[parent]
        if study:
            day = change["Date"][:8]
            found[day, study.study, study.aet] = study._replace(number=change["Seq"], time=change["Date"])
    for day in sorted({day for day, _, _ in found}):
        path = settings.ledger / f"{day}.csv"
        rows = {(one.study, one.aet): one for one in (studies_read(path) if path.exists() else [])}
        rows |= {(one.study, one.aet): one for (its, _, _), one in found.items() if its == day}
        waiting = path.with_name(f".{path.name}.part")
        rows_written(waiting, sorted(rows.values()))
        waiting.rename(path)
    for one in found.values():
        say(f"received study {one.study} ({one.accession or 'no accession number'}) from {one.aet or 'an application'}")
    result = {**former, "last_change": since, "studies": len(found), "reason": ""}
    result["unsent_since"] = former.get("unsent_since") or (int(time.time()) if found else 0)
    note(settings, "ledger", result)
    if result["unsent_since"]:
        try:
            restic(settings, "backup", "--quiet", "--host", settings.host, "--tag", "ledger", str(settings.ledger))
            result.update(unsent_since=0, sent=int(time.time()))
        except Refused as refused:
            result["reason"] = " ".join(refused.problems)
            if time.time() - result["unsent_since"] > UNSENT_SECONDS:
                raise
        finally:
            note(settings, "ledger", result)
    return result


def state_of_staging(settings: Settings, last: int) -> int:
    try:
        return int(json.loads((settings.staging / "manifest.json").read_text())["counts"]["last_change"])
    except (OSError, ValueError, KeyError):
        return last


def study_of(rest: Rest, series: str) -> Study | None:
    study, metadata = rest.get(f"/series/{series}/study"), rest.get(f"/series/{series}/metadata?expand")
    if study is None or metadata is None:
        return None
    tags = study["MainDicomTags"]
    return Study(0, "", metadata.get("RemoteAET", ""), tags["StudyInstanceUID"], tags.get("AccessionNumber", ""))


# --- a snapshot, proved ------------------------------------------------------------------------
def manifest_in(settings: Settings, snapshot: dict[str, Any]) -> dict[str, Any]:
    path = next((path for path in snapshot["paths"] if path.endswith("/staging")), "")
    try:
        manifest: dict[str, Any] = json.loads(
            restic(settings, "dump", "--no-lock", snapshot["id"], f"{path}/manifest.json")
        )
    except ValueError:
        manifest = {}
    if manifest.get("format") != 1:
        what = f"The manifest of snapshot {snapshot['short_id']} cannot be read"
        raise Refused(f"{what}. Remedy: use another of orthanc-backup list, or the collection that made it.")
    return manifest


def attachments_in(settings: Settings, snapshot: dict[str, Any], manifest: dict[str, Any]) -> list[Attachment]:
    text = restic(settings, "dump", "--no-lock", snapshot["id"], f"{manifest['staging']}/attachments.csv")
    if hashlib.sha256(text.encode()).hexdigest() != manifest["attachments"]:
        what = f"The list of attachments in snapshot {snapshot['short_id']} is not the manifest's"
        raise Refused(f"{what}. Remedy: use another of orthanc-backup list.")
    return attachments_read(text)


def complete(
    settings: Settings, snapshot: dict[str, Any], manifest: dict[str, Any], wanted: list[Attachment]
) -> tuple[set[str], list[str]]:
    """What the manifest names and the snapshot does not have, and all that is wrong in the snapshot."""
    files = contents(settings, snapshot["id"])
    missing, wrong = problems_in(files, manifest["storage"], wanted)
    remedy = "use another of orthanc-backup list, or add --incomplete to go without them"
    problems = shortened("The snapshot does not have", [one.path for one in missing], remedy)
    problems += shortened("In the snapshot", wrong, remedy)
    if files.get(f"{manifest['staging']}/index") != manifest["index"]["size"]:
        problems.append("The snapshot's index is not the manifest's. Remedy: use another of orthanc-backup list.")
    absent = [path for path in manifest["paths"] if path not in files]
    problems += shortened("The snapshot does not have", absent, remedy)
    bad = {one.uuid for one in missing} | {line.split(" ")[0].rpartition("/")[2] for line in wrong}
    return bad, problems


def spaced(directory: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free * 0.95:
        raise Refused(f"{what} needs {needed >> 20} MiB in {directory}, and {free >> 20} MiB are free. "
                      "Remedy: make space, or a larger disk.")  # fmt: skip


def fetched(settings: Settings, snapshot: dict[str, Any], target: Path, only: Iterable[str] = ()) -> None:
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    includes = [f"--include={path}" for path in only]
    for _ in stream(settings, "restore", "--no-lock", "--quiet", "--target", str(target), *includes, snapshot["id"]):
        pass


def verified(data: Path, wanted: list[Attachment], what: str = "verify") -> list[str]:
    """What is wrong with the attachments: every size and MD5."""
    problems = []
    for number, one in enumerate(wanted, 1):
        path = data / one.path
        if number % 100 == 0 or number == len(wanted):
            bar(number / len(wanted), what)
        try:
            size = path.stat().st_size
        except OSError:
            problems.append(f"{one.path} is missing")
            continue
        if size != one.size:
            problems.append(f"{one.path} has {size} bytes instead of {one.size}")
        elif one.md5 and hashed(path, "md5") != one.md5:
            problems.append(f"{one.path} has another MD5")
    return problems


def sound(index: Path, manifest: dict[str, Any]) -> list[str]:
    problem = "ok"
    try:
        if hashed(index) != manifest["index"]["sha256"]:
            problem = "it is not the manifest's"
        else:
            with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
                problem = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except (OSError, sqlite3.Error) as error:
        problem = str(error)
    return [] if problem == "ok" else [f"The index: {problem}. Remedy: use another of orthanc-backup list."]


def given_to(settings: Settings, data: Path) -> None:
    """Owner and modes: with another owner Orthanc starts, looks healthy and refuses every image."""
    account = pwd.getpwnam(settings.owner)
    for path, directories, files in os.walk(data):
        os.chmod(path, 0o750)
        os.chown(path, account.pw_uid, account.pw_gid)
        for name in files:
            os.chown(f"{path}/{name}", account.pw_uid, account.pw_gid, follow_symlinks=False)
            if not os.path.islink(f"{path}/{name}"):
                os.chmod(f"{path}/{name}", 0o640)
        directories[:] = [name for name in directories if not os.path.islink(f"{path}/{name}")]


def below(target: Path, path: str) -> Path:
    """Where restic restores a path of the snapshot."""
    return target / path.lstrip("/")


def images(data: Path) -> Iterator[Path]:
    for path in data.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
        if ATTACHMENT.fullmatch(path.name):
            yield path


# --- restore -----------------------------------------------------------------------------------
def restore(settings: Settings, wanted: str, target: Path | None, dry_run: bool, incomplete: bool) -> dict[str, Any]:
    """Proves, fetches and verifies beside production, and then takes its place by renames.

    What it has done stands in restore.json, so that it goes on from there after an interruption at any point.
    """
    under_way = state(settings, "restore") if target is None else {}
    if under_way:
        if wanted not in ("latest", under_way["snapshot"]):
            what = f"A restore of snapshot {under_way['snapshot']} was interrupted"
            raise Refused(f"{what}. Remedy: orthanc-backup restore ends it; then choose another one.")
        if dry_run:
            return {"would": f"go on with snapshot {under_way['snapshot']} ({under_way['phase']})"}
        if under_way["phase"] != "fetch":
            return placed(settings, under_way)
        wanted, incomplete = under_way["snapshot"], incomplete or under_way["incomplete"]
    restic(settings, "check", "--quiet", "--no-lock")  # a lock of the machine that is lost must not hold it up
    snapshot = chosen(settings, wanted)
    manifest = manifest_in(settings, snapshot)
    names = attachments_in(settings, snapshot, manifest)
    bad, problems = complete(settings, snapshot, manifest, names)
    installed = orthanc_version(settings)
    if target is None and numbers(installed) < numbers(manifest["orthanc"]):
        what = f"The index is of Orthanc {manifest['orthanc']}, and {installed} is installed, which would lose images"
        raise Refused(f"{what}. Remedy: install {manifest['orthanc']} or newer.")
    if problems and not incomplete:
        raise Refused(*problems)
    names = [one for one in names if one.uuid not in bad]
    work = target or settings.storage / f".restore-{snapshot['short_id']}"
    if target and target.exists() and any(target.iterdir()):
        raise Refused(f"{target} is not empty. Remedy: give another directory to --target.")
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) if work.exists() else 0
    needed = manifest["counts"]["bytes"] + 2 * manifest["index"]["size"] - there
    spaced(work.parent if target else settings.storage, needed, f"Snapshot {snapshot['short_id']}")
    came = received_after(settings, manifest)
    result: dict[str, Any] = {"snapshot": snapshot["short_id"], "moment": manifest["moment"],
                              "counts": manifest["counts"], "problems": problems}  # fmt: skip
    if dry_run:
        return {
            **result,
            "would": f"restore it into {target or settings.storage}",
            "resend": [*map(Study._asdict, came)],
        }
    under_way = {**result, "phase": "fetch", "incomplete": incomplete, "work": str(work), "manifest": manifest}
    if target is None:
        note(settings, "restore", under_way, 0o600)
    fetched(settings, snapshot, work)
    data = below(work, manifest["storage"])
    data.mkdir(parents=True, exist_ok=True)
    below(work, f"{manifest['staging']}/index").replace(data / "index")
    wrong = sound(data / "index", manifest)
    wrong += shortened("Restored with defects", verified(data, names), "restic check --read-data, another snapshot")
    if wrong:
        raise Refused(*wrong)
    named = {one.uuid for one in names}
    for path in images(data):
        if path.name not in named:  # it came after the moment: the index does not know it
            aside = work / "not-in-the-index"
            aside.mkdir(exist_ok=True)
            path.rename(aside / path.name)
    given_to(settings, data)
    result["verified"] = len(names)
    if target:
        return {**result, "data": str(data), "resend": [*map(Study._asdict, came)]}
    # the marker's own is the mount's, the rest takes the place of what is there
    stamp = now()[:15]
    under_way.update(
        result, phase="aside", stamp=stamp, resend=[*map(Study._asdict, came)],
        aside=sorted(one.name for one in settings.storage.iterdir() if not one.name.startswith(OURS)),
        sample=next((one._asdict() for one in names if one.type == 1 and one.uncompressed_md5), None),
    )  # fmt: skip
    note(settings, "restore", under_way, 0o600)
    return placed(settings, under_way)


def placed(settings: Settings, under_way: dict[str, Any]) -> dict[str, Any]:
    """The restored files in the place of the present ones: renames, each of which may be done already."""
    storage, work, manifest = settings.storage, Path(under_way["work"]), under_way["manifest"]
    data, aside = below(work, manifest["storage"]), storage / f".set-aside-{under_way['stamp']}"
    # killed half-way the rest is done at once, not when somebody comes
    script = '[ ! -e "$0/restore.json" ] || flock -w 5 "$0/run.lock" true && exec "$@"'
    again = [sys.executable, str(Path(__file__).resolve()), *CONFIGURED, "restore"]
    with watchdog(86400, "sh", "-c", script, str(settings.directory), *again):
        if under_way["phase"] == "aside":
            if main_process(settings):
                run(*service(settings, "stop"))
            aside.mkdir(mode=0o700, exist_ok=True)
            # without its marker Orthanc does not start, whatever a reboot comes between
            for name in sorted(under_way["aside"], key=lambda name: name != MARKER):
                if (storage / name).exists() and not (aside / name).exists():
                    (storage / name).rename(aside / name)
            under_way["phase"] = "in"
            note(settings, "restore", under_way, 0o600)
        if under_way["phase"] == "in":
            for path in sorted(data.iterdir(), key=lambda path: path.name == "index"):
                if path.name != MARKER and not path.name.startswith(OURS):
                    path.rename(storage / path.name)
            paths_placed(settings, work, aside, manifest)
            under_way["phase"] = "start"
            note(settings, "restore", under_way, 0o600)
        if (aside / MARKER).exists():
            (aside / MARKER).rename(storage / MARKER)
        run(*service(settings, "start"))
        rest = Rest(settings)
        rest.awaited()
        under_way["resend"] = merged(under_way["resend"], aside / "index", settings, manifest)
        note(settings, "restore", under_way, 0o600)
        served(rest, under_way)
        if settings.ledger.exists() and not (aside / "ledger").exists():  # numbers begin anew at the snapshot's
            shutil.copytree(settings.ledger, aside / "ledger")
            for path in settings.ledger.glob("*.csv"):
                path.unlink()
        note(settings, "ledger", {"last_change": manifest["counts"]["last_change"]})
        result = {name: value for name, value in under_way.items() if name not in ("manifest", "phase", "aside")}
        del result["work"]
        result["set_aside"] = str(aside)
        if work.exists():  # what nobody needs: its copies of the configuration, and images newer than the index
            work.rename(aside / "restored")
        note(settings, f"restored-{under_way['stamp']}", result, 0o600)
        (settings.directory / "restore.json").unlink()
    return result


def paths_placed(settings: Settings, work: Path, aside: Path, manifest: dict[str, Any]) -> None:
    """Configuration, certificates and the rest; what is there and differs is kept with the data set aside."""
    for name, (owner, group, mode, digest) in manifest["paths"].items():
        target, source = Path(name), below(work, name)
        if target.is_file() and hashed(target) == digest:
            continue
        if hashed(source) != digest:
            raise Refused(f"{name} is not the manifest's. Remedy: use another of orthanc-backup list.")
        if target.exists():
            kept = below(aside / "paths", name)
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not kept.exists():
                shutil.copy2(target, kept)
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, waiting)
        with contextlib.suppress(LookupError, PermissionError):  # by name: another machine has other numbers
            shutil.chown(waiting, owner or -1, group or -1)
        waiting.chmod(mode)
        waiting.rename(target)


def served(rest: Rest, under_way: dict[str, Any]) -> None:
    """Counts, one read and one write by the Orthanc that runs now."""
    counts, found = under_way["counts"], rest.get("/statistics")
    for name in ("Patients", "Studies", "Series", "Instances"):
        if found[f"Count{name}"] < counts[name.lower()]:
            what = f"Orthanc has {found[f'Count{name}']} {name.lower()} instead of {counts[name.lower()]}"
            raise Refused(f"{what}. Remedy: see its log; what was there before is set aside, nothing is deleted.")
    sample = under_way["sample"]
    if sample:
        _, body, _ = rest.ask("GET", f"/instances/{sample['instance']}/file")
        if hashlib.md5(body, usedforsecurity=False).hexdigest() != sample["uncompressed_md5"]:
            raise Refused("Orthanc gives another image than the snapshot's. Remedy: see Orthanc's log.")
    status, body, _ = rest.ask("POST", "/instances", probe())
    if status != 200:
        remedy = f"see its log, and that {under_way['manifest']['storage']} is its own"
        raise Refused(f"Orthanc takes no image ({status}). Remedy: {remedy}.")
    rest.ask("DELETE", f"/instances/{json.loads(body)['ID']}")


def probe() -> bytes:
    """The smallest data set that Orthanc stores."""
    uid = f"2.25.{secrets.randbits(100)}"
    values = [
        (0x0008, 0x0016, b"UI", "1.2.840.10008.5.1.4.1.1.7"), (0x0008, 0x0018, b"UI", f"{uid}.3"),
        (0x0010, 0x0010, b"PN", "RESTORE^TEST"), (0x0010, 0x0020, b"LO", uid[-16:]),
        (0x0020, 0x000D, b"UI", f"{uid}.1"), (0x0020, 0x000E, b"UI", f"{uid}.2"),
    ]  # fmt: skip
    syntax = element(2, 0x10, b"UI", "1.2.840.10008.1.2.1")
    head = element(2, 2, b"UI", values[0][3]) + element(2, 3, b"UI", values[1][3]) + syntax
    length = b"\2\0\0\0UL\4\0" + len(head).to_bytes(4, "little")
    return b"\0" * 128 + b"DICM" + length + head + b"".join(element(*value) for value in values)


def element(group: int, number: int, vr: bytes, text: str) -> bytes:
    value = text.encode() + (b"\0" if vr == b"UI" else b" ") * (len(text) % 2)
    parts = [(group).to_bytes(2, "little"), number.to_bytes(2, "little"), vr, len(value).to_bytes(2, "little"), value]
    return b"".join(parts)


def received_after(settings: Settings, manifest: dict[str, Any]) -> list[Study]:
    """From the newest ledger that the repository has, and the one on this machine."""
    found: dict[tuple[str, str], Study] = {}
    scratch = settings.directory / "ledgers"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for one in (snapshots(settings, "ledger")[-1:]) + snapshots(settings)[-1:]:
            paths = [path for path in one["paths"] if path.endswith("/ledger")]
            fetched(settings, one, scratch / one["short_id"], paths)
        for path in [*scratch.rglob("*.csv"), *settings.ledger.glob("*.csv")]:
            for study in studies_read(path):
                if study.number > manifest["counts"]["last_change"]:
                    found[study.study, study.aet] = max(study, found.get((study.study, study.aet), study))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted(found.values(), key=lambda one: (one.aet, one.number))


def merged(
    resend: list[dict[str, Any]], index: Path, settings: Settings, manifest: dict[str, Any]
) -> list[dict[str, Any]]:
    """With what the index knew that was set aside, if it can be read."""
    found = {(one["study"], one["aet"]): one for one in resend}
    copy = settings.directory / "aside"
    try:
        for end in ("", "-wal"):
            if Path(f"{index}{end}").exists():
                copied(Path(f"{index}{end}"), Path(f"{copy}{end}"))
        with contextlib.closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA journal_mode=DELETE")
        for one in studies_of(copy, manifest["counts"]["last_change"], manifest["moment"]):
            found[one.study, one.aet] = one._asdict()
    except (OSError, sqlite3.Error):
        say("The index that was set aside cannot be read; the list of what to send again is the ledger's.", 4)
    finally:
        for end in ("", "-wal", "-journal"):
            Path(f"{copy}{end}").unlink(missing_ok=True)
    return sorted(found.values(), key=lambda one: (one["aet"], one["number"]))


# --- restore check -----------------------------------------------------------------------------
def check(settings: Settings) -> dict[str, Any]:
    """The newest snapshot in a scratch directory, and an Orthanc that reads it."""
    kept, begin = successes(settings, "restore_check"), time.monotonic()
    result: dict[str, Any] = {"result": "running", "reason": "", "started": now()}
    note(settings, "restore_check", {**result, **kept})
    try:
        os.nice(10)
        with watchdog(7 * 86400, "rm", "-rf", "--one-file-system", str(settings.scratch)):
            shutil.rmtree(settings.scratch, ignore_errors=True)
            checked(settings, result, begin)
        result.update(result="success", last_success=now(), last_success_epoch=int(time.time()))
    except BaseException as error:
        result.update(result="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        result["seconds"] = round(time.monotonic() - begin, 2)
        note(settings, "restore_check", {**kept, **result})
    return result


def checked(settings: Settings, result: dict[str, Any], begin: float) -> None:
    snapshot = chosen(settings, "latest")
    manifest = manifest_in(settings, snapshot)
    names = attachments_in(settings, snapshot, manifest)
    result.update(snapshot=snapshot["short_id"], moment=manifest["moment"], counts=manifest["counts"])
    _, problems = complete(settings, snapshot, manifest, names)
    if problems:
        raise Refused(*problems)
    settings.scratch.mkdir(mode=0o700, parents=True)
    room = min(settings.scratch_bytes, int(shutil.disk_usage(settings.scratch).free * 0.5))
    room -= 2 * manifest["index"]["size"]
    parts = 256 if manifest["counts"]["bytes"] <= room else 256 * max(0, room) // manifest["counts"]["bytes"]
    if not parts:
        what = f"A restore check has {room >> 20} MiB for attachments, less than one part in 256"
        raise Refused(f"{what}. Remedy: make space in {settings.scratch}, or raise orthanc_backup_scratch_bytes.")
    # uuids are random: a directory more or less is a sample, and each week it is the next ones
    first = int(time.time()) // (7 * 86400) * parts % 256
    prefixes = {f"{(first + number) % 256:02x}" for number in range(parts)}
    study = one_study(names, prefixes)
    sample = [one for one in names if one.uuid[:2] in prefixes or one in study]
    storage, staging = manifest["storage"], manifest["staging"]
    only = [] if parts == 256 else [
        f"{staging}/index", *(f"{storage}/{prefix}" for prefix in sorted(prefixes)),
        *(f"{storage}/{one.path}" for one in study),
    ]  # fmt: skip
    fetched(settings, snapshot, settings.scratch, only)
    data = below(settings.scratch, storage)
    data.mkdir(parents=True, exist_ok=True)
    below(settings.scratch, f"{staging}/index").rename(data / "index")
    problems = sound(data / "index", manifest)
    problems += shortened("Restored with defects", verified(data, sample), "restic check --read-data, a new backup")
    if not problems and counts_of(data / "index") != manifest["counts"]:
        problems.append("The index has other counts than the manifest. Remedy: make a new backup.")
    if problems:
        raise Refused(*problems)
    result.update(verified=len(sample), of=len(names))
    for path in (data, *data.parents):  # the way to it, for Orthanc's account
        if path == settings.scratch.parent:
            break
        path.chmod(0o711)
    given_to(settings, data)
    read(settings, manifest, data, study, result)
    moment = datetime.strptime(manifest["moment"], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    result.update(
        recovery_seconds=round(time.monotonic() - begin, 2),
        recovery_point_seconds=round((datetime.now(UTC) - moment).total_seconds()),
    )


def one_study(names: list[Attachment], prefixes: set[str]) -> list[Attachment]:
    """The newest images in the sample stand for it: with parts of a large archive no study is whole."""
    images = [one for one in names if one.type == 1]
    inside = [one for one in images if one.uuid[:2] in prefixes]
    return (inside or images)[-1:]


def read(
    settings: Settings, manifest: dict[str, Any], data: Path, study: list[Attachment], result: dict[str, Any]
) -> None:
    """A second Orthanc on the restored data: loopback, no DICOM; it reads an image, through DICOMweb if it can."""
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
    configuration = settings.scratch / "orthanc.json"
    configuration.write_text(json.dumps(options))
    configuration.chmod(0o640)
    os.chown(configuration, -1, pwd.getpwnam(settings.owner).pw_gid)
    log = settings.scratch / "orthanc.log"
    with (
        log.open("w") as output,
        subprocess.Popen([*settings.second, str(configuration)], stdout=output, stderr=output) as second,
        watchdog(86400, *ended(settings, second.pid)),
    ):
        rest = Rest(settings, port, token)
        try:
            rest.awaited(lambda: second.poll() is None)
        except Refused:
            said = " ".join(log.read_text(errors="replace").splitlines()[-3:])
            raise Refused(f"Orthanc does not start on the restored data: {said}. Remedy: see above.") from None
        found = rest.get("/statistics")
        for name in ("Patients", "Studies", "Series", "Instances"):
            if found[f"Count{name}"] != manifest["counts"][name.lower()]:
                what = f"Orthanc counts {found[f'Count{name}']} {name.lower()} in the restored data"
                raise Refused(f"{what} instead of {manifest['counts'][name.lower()]}. Remedy: make a new backup.")
        for one in study:
            result["read"] = read_one(rest, one, bool(plugins))


def ended(settings: Settings, pid: int) -> list[str]:
    """The command that ends the second Orthanc."""
    return ["docker", "rm", "--force", SECOND] if settings.method == "docker" else ["kill", str(pid)]


def read_one(rest: Rest, one: Attachment, dicomweb: bool) -> str:
    """The image's bytes, as they came."""
    path = f"/instances/{one.instance}/file"
    if dicomweb:
        tags = rest.get(f"/instances/{one.instance}/simplified-tags")
        path = f"/dicom-web/studies/{tags['StudyInstanceUID']}/series/{tags['SeriesInstanceUID']}"
        path += f"/instances/{tags['SOPInstanceUID']}"
    status, body, kind = rest.ask("GET", path, accept='multipart/related; type="application/dicom"; transfer-syntax=*'
                                  if dicomweb else "*/*")  # fmt: skip
    boundary = re.search(r'boundary="?([^";]+)', kind)
    if dicomweb and status == 200 and boundary:
        body = body.split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--" + boundary[1].encode())[0]
    if status != 200 or (
        one.uncompressed_md5 and hashlib.md5(body, usedforsecurity=False).hexdigest() != one.uncompressed_md5
    ):
        raise Refused(f"Orthanc answers {status} with other bytes for an image of the restored data. "
                      "Remedy: make a new backup, and see orthanc-backup reconcile.")  # fmt: skip
    return path


# --- reconcile ---------------------------------------------------------------------------------
def reconcile(settings: Settings, repair: bool) -> dict[str, Any]:
    """The index against the files; a repair moves files and never deletes one."""
    settings.staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = settings.staging / "reconcile"
    begin = time.time()
    try:
        index_copy(settings, copy)
        names = list(attachments_of(copy))
    finally:
        copy.unlink(missing_ok=True)
    known = {one.uuid for one in names}
    orphans = [
        path for path in images(settings.storage)
        if path.name not in known and path.stat().st_mtime < begin - SETTLE_SECONDS
    ]  # fmt: skip
    result: dict[str, Any] = {"attachments": len(names), "missing": [], "truncated": [], "altered": []}
    for line in verified(settings.storage, names, "compare"):
        kind = "missing" if line.endswith("missing") else "altered" if line.endswith("MD5") else "truncated"
        result[kind].append(line.split(" ")[0])
    result["orphaned"] = [str(path.relative_to(settings.storage)) for path in orphans]
    if repair:
        result["repaired"] = repaired(settings, orphans)
    return result


def repaired(settings: Settings, orphans: list[Path]) -> dict[str, str]:
    """Orphans that Orthanc takes are images again; the file goes aside in any case, for its copy has another name."""
    done, rest = {}, Rest(settings)
    quarantine = settings.storage / f".quarantine-{now()[:15]}"
    for path in orphans:
        data = path.read_bytes()
        status = rest.ask("POST", "/instances", data)[0] if data[128:132] == b"DICM" else 0
        quarantine.mkdir(mode=0o700, exist_ok=True)
        path.rename(quarantine / path.name)
        done[path.name] = "imported" if status == 200 else "quarantined"
    return done


# --- the command -------------------------------------------------------------------------------
CONFIGURED: list[str] = []  # --config as it was given, for the program that goes on


def interrupted(number: int, _frame: Any) -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)  # once is enough
    raise Interrupted(signal.Signals(number).name)


def show(result: dict[str, Any]) -> None:
    for one in result.get("snapshots", []):
        counts = ", ".join(f"{one['counts'].get(name, 0)} {name}" for name in ("studies", "instances"))
        proven = "" if one["proven"] else "  NOT PROVEN"
        print(f"{one['id']}  {one['moment'][:15]}  Orthanc {one['orthanc']:8} {counts}{proven}")
    device = None
    for one in result.get("resend", []):
        if one["aet"] != device:
            device = one["aet"]
            print(f"send again from {device or 'applications'}:")
        print(f"    {one['time'][:15]}  {one['accession']:16}  {one['study']}")
    for name, value in result.items():
        if name not in ("snapshots", "resend", "manifest", "sample") and value not in ("", [], {}):
            print(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="the result as JSON")
    add: Callable[..., argparse.ArgumentParser] = commands.add_parser
    add("init", parents=[common], help="make the repository where there is none")
    one = add("run", parents=[common], help="make a backup")
    one.add_argument("--due", action="store_true", help="unless one was made in the last 20 hours")
    add("list", parents=[common], help="what snapshots there are")
    add("ledger", parents=[common], help="note which studies came, for a list of what to send again")
    add("check", parents=[common], help="restore the newest snapshot into a scratch directory, and read it")
    one = add("restore", parents=[common], help="put a snapshot in the place of what is there")
    one.add_argument("--snapshot", default="latest", help="an id of the list; the newest that is proven otherwise")
    one.add_argument("--target", type=Path, metavar="DIRECTORY", help="only restore and verify there")
    one.add_argument("--dry-run", action="store_true", help="prove the snapshot and say what would be done")
    one.add_argument("--incomplete", action="store_true", help="go without attachments that the snapshot does not have")
    one = add("reconcile", parents=[common], help="compare the index with the files")
    one.add_argument("--repair", action="store_true", help="import orphaned images, and put the files aside")
    given = parser.parse_args()
    os.umask(0o077)
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # cron's has neither
    if given.config != CONFIGURATION:
        CONFIGURED[:] = ["--config", str(given.config)]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        result = done(Settings.read(given.config), given)
        if given.json:
            print(json.dumps(result, indent=2))
        else:
            show(result)
        found = (
            "missing",
            "truncated",
            "altered",
            *([] if given.command != "reconcile" or given.repair else ["orphaned"]),
        )
        return int(given.command == "reconcile" and any(result[kind] for kind in found))
    except Refused as refused:
        if given.json:
            print(json.dumps({"problems": refused.problems}, indent=2))
        for problem in refused.problems:
            loud(problem)
        return 1
    except OSError as error:
        remedy = "run it as root" if isinstance(error, PermissionError) else "see that it is there, and space"
        loud(f"{error.filename or ''}: {error.strerror}. Remedy: {remedy}.")
        return 1
    except sqlite3.Error as error:
        loud(f"The index: {error}. Remedy: see orthanc-backup check, and restore.")
        return 1
    except Interrupted as signalled:
        loud(f"Interrupted ({signalled}). Remedy: run it again.")
        return 1


def done(settings: Settings, given: argparse.Namespace) -> dict[str, Any]:
    if not settings.directory.exists():
        settings.directory.mkdir(parents=True)
        settings.directory.chmod(0o755)  # the monitor reads what is there
    actions: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
        "init": ("init", lambda: made(settings)),
        "run": ("run", lambda: {"result": "not due"} if given.due and recent(settings) else backup(settings)),
        "list": ("", lambda: listed(settings)),
        "ledger": ("ledger", lambda: ledger(settings)),
        "check": ("check", lambda: check(settings)),
        "restore": (
            "run", lambda: restore(settings, given.snapshot, given.target, given.dry_run, given.incomplete)
        ),
        "reconcile": ("run", lambda: reconcile(settings, given.repair)),
    }  # fmt: skip
    lock, action = actions[given.command]
    with alone(settings, lock) if lock else contextlib.nullcontext():
        return action()


def recent(settings: Settings) -> bool:
    return bool(time.time() - state(settings, "backup").get("last_success_epoch", 0) < DUE_SECONDS)


def made(settings: Settings) -> dict[str, Any]:
    try:
        restic(settings, "cat", "config", "--no-lock")
        return {"repository": "was there"}
    except Refused as refused:
        if "unable to open config file" not in str(refused):
            raise
    restic(settings, "init")
    return {"repository": "made"}


if __name__ == "__main__":
    sys.exit(main())
