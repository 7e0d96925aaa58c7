# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs restic: access to its repository, its output line by line, its errors with a remedy."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pwd
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..core.errors import Refused
from ..core.journal import NOTICE, say
from ..core.process import require_pipe, run_program
from . import ledger_history, ssh
from .settings import Settings

LOCK_SECONDS = 35 * 60  # another restic at work; a lock that nobody renews is dead after half an hour
QUIET_SECONDS = 60  # of that wait, until a person is told
SSH_SECONDS = 60  # restic without its ssh: it begins with one, and ends soon after it
GENTLE = ("nice", "-n", "10", "ionice", "-c", "2", "-n", "7")  # Orthanc goes first
REMEDIES = {
    "wrong password": "put the repository's password into orthanc_backup_password",
    "already locked": "wait for the other restic; if none is at work on any machine, orthanc-backup unlock",
    "unable to open config file": "make the repository available (mount its disk), or check orthanc_backup_repository; "
    "for a new disk, orthanc-backup init --new",
    "no space left": "make space for the repository, or keep fewer snapshots",
}


def build_environment(settings: Settings) -> dict[str, str]:
    """The environment, the only way in which restic gets secrets.

    Before 0.16 it reads those of a REST server from the URL alone.
    """
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


def build_restic_command(settings: Settings, command: str, *arguments: str) -> list[str]:
    """restic with the way to its repository; it has no terminal, and its ssh asks nobody."""
    options = ssh.build_options(settings.repository, settings.known_hosts, settings.ssh_key)
    return ["restic", command, *options, *arguments]


@functools.cache
def build_isolation(host: str) -> list[str]:
    """What runs restic under a host name that nothing has but this machine, since it booted; nothing where the system
    does not allow it. restic takes the lock of a process for dead that is not there, if the lock's host name is its
    own, and sends a SIGHUP to what has the number: another machine, or another boot, may have the same host name.
    """
    boot = f"{Path('/proc/sys/kernel/random/boot_id').read_text()}{os.stat('/proc/self/ns/pid').st_ino}"
    name = f"{re.sub('[^0-9A-Za-z]', '-', host)[:40]}-{hashlib.sha256(boot.encode()).hexdigest()[:16]}".lstrip("-")
    command = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
    return [] if run_program(*command, "true").status else command


def stream_restic(settings: Settings, *arguments: str, good: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Lines of restic's, and its complaints where it went on. It ends with this program, and takes its lock away."""
    end, isolated = time.monotonic() + LOCK_SECONDS, build_isolation(settings.host)
    quiet = end - LOCK_SECONDS + QUIET_SECONDS
    while True:
        restic_command = build_restic_command(settings, *arguments)
        command = ["setpriv", "--pdeathsig", "INT", *GENTLE, *isolated, *restic_command]
        # a file, since a pipe that nobody reads would stop restic; in memory, since the disk may be full
        with (
            os.fdopen(os.memfd_create("restic"), "w+") as errors,
            subprocess.Popen(
                command,
                env=build_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # without a terminal nobody is asked
            ) as restic,
            watch_ssh(settings, restic) as lost,
        ):
            try:
                yield from require_pipe(restic.stdout)
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
        if time.monotonic() > quiet:
            what = "Another restic has locked the repository, or left its lock: waiting for up to 35 minutes"
            say(f"{what}. Remedy: {REMEDIES['already locked']}.", NOTICE)
            quiet = end
        if isolated:
            remove_dead_locks(settings)
        time.sleep(1)
    raise Refused(explain_failure(settings, arguments[0], said))


def explain_failure(settings: Settings, command: str, said: str) -> str:
    """Why restic failed by what it said, without secrets, and the remedy."""
    for secret in (
        *settings.environment.values(),
        *re.findall(r"//(.+)@", build_environment(settings)["RESTIC_REPOSITORY"]),
    ):
        said = said.replace(secret, "***") if secret else said
    said = " ".join(line for line in said.splitlines() if not line.startswith("{"))[-500:] or said[-500:]
    remedy = next((remedy for text, remedy in REMEDIES.items() if text in said), "")
    if not remedy and (why := explain_ssh(settings)):
        return why
    return f"restic {command}: {said.strip()}. Remedy: {remedy or 'check that the repository can be reached'}."


def remove_dead_locks(settings: Settings) -> None:
    """Takes locks away whose process is gone from this machine since it booted, or which are half an hour old."""
    subprocess.run(
        [*build_isolation(settings.host), *build_restic_command(settings, "unlock", "--quiet")],
        env=build_environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        start_new_session=True,
    )


def remove_locks(settings: Settings) -> dict[str, Any]:
    """Takes all locks away: a person says that no other restic is at work on any machine."""
    call_restic(settings, "unlock", "--remove-all")
    return {"locks": "removed"}


def explain_ssh(settings: Settings) -> str:
    """Why ssh does not get to the repository, which restic does not always tell; empty for anything else."""
    known_hosts, key = settings.known_hosts, settings.ssh_key
    with contextlib.suppress(OSError):
        if place := ssh.find_place(settings.repository):
            return ssh.explain_failure(
                ssh.probe_repository(place, known_hosts, key), place, bool(known_hosts), bool(key)
            )
    return ""


@contextlib.contextmanager
def watch_ssh(settings: Settings, restic: subprocess.Popen[str]) -> Iterator[threading.Event]:
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


def call_restic(settings: Settings, *arguments: str) -> str:
    """What restic says on its standard output; Refused where it fails."""
    return "".join(stream_restic(settings, *arguments))


def read_repository_id(settings: Settings) -> str:
    """The id that the repository got when it was made, wherever it is; a copy has the same."""
    return str(json.loads(call_restic(settings, "cat", "config", "--no-lock"))["id"])


def list_snapshots(settings: Settings, *tags: str, any_host: bool = False) -> list[dict[str, Any]]:
    """Those with one of the tags, oldest first; `any_host`: under other names than this machine's as well.

    A mark gives a snapshot another id: `id` is restic's, and `short_id`, which people see, is of the one at first.
    """
    wanted = [*([] if any_host else ["--host", settings.host]), *(f"--tag={tag}" for tag in tags)]
    found = json.loads(call_restic(settings, "snapshots", "--json", "--no-lock", *wanted)) or []
    for one in found:
        one["short_id"] = (one.get("original") or one["id"])[:8]
    return sorted(found, key=read_moment)


def read_moment(snapshot: dict[str, Any]) -> str:
    """UTC, to the second."""
    return f"{ledger_history.read_time(snapshot):%Y%m%dT%H%M%S}"


def find_storage(snapshot: dict[str, Any]) -> str:
    """The storage directory that the snapshot was made of, which may not be this machine's by now."""
    paths: list[str] = snapshot["paths"]
    return next(path for path in paths if not path.endswith(("/staging", "/ledger")))


def has_identity(snapshot: dict[str, Any], wanted: str) -> bool:
    """Whether a snapshot has this id, or had it before it was marked."""
    return any(identity.startswith(wanted) for identity in (snapshot["id"], snapshot.get("original") or snapshot["id"]))


def forget_snapshots(settings: Settings, ids: list[str]) -> None:
    """Takes snapshots out of the list of the repository; their data go with the next prune."""
    for first in range(0, len(ids), 500):  # a command line has an end
        call_restic(settings, "forget", "--quiet", *ids[first : first + 500])


def list_files(settings: Settings, snapshot: str) -> dict[str, int]:
    """The sizes of the files in a snapshot."""
    nodes = map(json.loads, stream_restic(settings, "ls", "--json", "--no-lock", snapshot))
    return {node["path"]: node.get("size", 0) for node in nodes if node.get("type") == "file"}


def fetch_files(
    settings: Settings, snapshot: dict[str, Any], target: Path, only: Iterable[str] = (), incomplete: bool = False
) -> None:
    """`incomplete` goes on with what restic cannot restore; who calls it verifies."""
    if target.is_symlink() or (target.exists() and target.stat().st_uid != os.getuid()):
        raise Refused(f"{target} is not a directory owned by {pwd.getpwuid(os.getuid()).pw_name}. Remedy: remove it.")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["restore", "--no-lock", "--quiet", "--target", str(target), *(f"--include={path}" for path in only)]
    for _unused in stream_restic(settings, *command, snapshot["id"], good=(0, 1) if incomplete else (0,)):
        pass


def fetch_many(settings: Settings, snapshot: dict[str, Any], target: Path, paths: list[str]) -> None:
    """As much of these files as can be restored; who calls it verifies. Refused where the repository does not answer
    any more: restic says the same as of files that it cannot restore, and would try each part for a quarter of an hour.
    """
    for first in range(0, len(paths), 1000):  # a command line has an end
        read_repository_id(settings)
        fetch_files(settings, snapshot, target, paths[first : first + 1000], incomplete=True)
