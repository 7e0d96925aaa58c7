# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps what a deploy may replace on a server that runs, and puts it back if the acceptance test fails
(docs/many-clinics.md).

What is kept are settings, programs and units: never images, index, worklists or backups. Each step can be interrupted
at any moment and run again. Runs on the machine, standard library only.
"""

from __future__ import annotations

import dataclasses
import http.client
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import present, removal, service

from .engine import Engine
from .progress import Progress
from .server.core import nftables
from .server.core.errors import Refused
from .server.core.files import create_directories, read_object, sync_directory, write_atomic
from .server.core.process import read_output, run_program, try_output
from .server.core.settings import FACTS
from .server.orthanc.runtime import NAME, STOP_SECONDS

DIRECTORY = Path("/var/lib/orthanc-previous")  # for root alone: passwords and keys are in it
ARCHIVE = "files.tar"
CONTAINER = "container.json"  # what Docker knows of it
# settings and programs; what a role makes elsewhere is data
PLACES = (Path("/etc"), Path("/usr/local"))
CONFIGURATION = Path(present.CONFIGURATION)
DROP_INS = removal.SYSTEMD / f"{NAME}.service.d"
FIREWALL = "orthanc-firewall.service"
NGINX = "nginx.service"
EXPORTER = "prometheus-node-exporter.service"
# units of packages that have files of ours
OTHERS = (f"{NAME}.service", NGINX, EXPORTER)
VERIFY = ("/usr/local/sbin/orthanc-verify", "run", "--json")
START_SECONDS = 1800.0  # of a large index


@dataclasses.dataclass
class Notes(Progress):
    """What was there before a deploy; the step is kept or returning."""

    PLACE = DIRECTORY / "previous.json"

    moment: str = ""
    method: str = ""
    release: str = ""  # the version of the package, or the content of the image
    paths: list[str] = dataclasses.field(default_factory=list)  # also those that were not there
    units: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # whether enabled, whether active


class Outcome(NamedTuple):
    """Whether the server is as before, in a few words, and what a person should know."""

    returned: bool
    short: str
    said: str


# --- files --------------------------------------------------------------------------------------
def choose_paths(made: Iterable[dict[str, list[str]]]) -> list[Path]:
    """The settings, programs and units among what the roles make; none of them below another."""
    found = [
        Path(path)
        for one in made
        for path in [*(removal.SYSTEMD / unit for unit in one["units"]), *one["acting"], *one["files"]]
    ]
    chosen = {path for path in found if any(path.is_relative_to(place) for place in PLACES)}
    return sorted(path for path in chosen if not chosen & {*path.parents})


def list_below(path: Path) -> list[Path]:
    """The path and all that is below it, if it exists; no link is followed."""
    found: list[Path] = removal.list_paths([path])
    if found and not path.is_symlink():
        for directory, directories, files in os.walk(path):
            found += [Path(directory, name) for name in sorted(directories + files)]
    return found


def archive_paths(paths: Iterable[Path], archive: Path) -> None:
    """Writes those that exist into a tar file, with owners and modes; it is on the disk when this returns."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as kept:
            for path in paths:
                if os.path.lexists(path):
                    kept.add(path)
        write_atomic(archive, buffer.getvalue(), 0o600)


def restore_paths(archive: Path, paths: Iterable[Path]) -> list[Path]:
    """Gives each path the content, owner and mode that it has in the tar file, and removes what came since. Returns
    what it changed."""
    changed = []
    with tarfile.open(archive) as kept:
        members = {Path("/", member.name): member for member in kept.getmembers()}
        for path in paths:
            for one in removal.list_paths(each for each in list_below(path) if each not in members):
                if os.path.lexists(one):  # its directory may have gone before
                    removal.remove_paths([one])
                    changed.append(one)
        for path, member in members.items():
            content = file.read() if (file := kept.extractfile(member)) and member.isreg() else b""
            if not is_same(path, member, content):
                put_back(path, member, content)
                changed.append(path)
    return changed


def is_same(path: Path, member: tarfile.TarInfo, content: bytes) -> bool:
    """Whether the path is as it was kept."""
    if not os.path.lexists(path):
        return False
    if member.issym():
        return path.is_symlink() and os.readlink(path) == member.linkname
    found = path.lstat()
    same_kind = not path.is_symlink() and (path.is_dir() if member.isdir() else path.is_file())
    same = same_kind and (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (member.uid, member.gid, member.mode)
    return same and (member.isdir() or path.read_bytes() == content)


def put_back(path: Path, member: tarfile.TarInfo, content: bytes) -> None:
    """Makes the path as it was kept."""
    create_directories(path.parent, 0o755)
    if os.path.lexists(path) and (path.is_symlink() or path.is_dir() != member.isdir()):
        removal.remove_paths([path])
    if member.issym():
        path.symlink_to(member.linkname)
    elif member.isdir():
        path.mkdir(exist_ok=True)
        os.chown(path, member.uid, member.gid)
        path.chmod(member.mode)
    else:
        write_atomic(path, content, member.mode, member.uid, member.gid)


# --- units --------------------------------------------------------------------------------------
def read_units(names: Iterable[str]) -> dict[str, list[str]]:
    """Whether each is enabled, and whether it is active, by its name."""
    shown = {}
    for name in names:
        said = try_output("systemctl", "show", "--property=UnitFileState,ActiveState", name)
        found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        shown[name] = [found.get("UnitFileState", ""), found.get("ActiveState", "")]
    return shown


def restore_units(notes: Notes, changed: list[Path]) -> None:
    """Enables, starts, restarts and stops units as before. Orthanc and nginx are started on their files later."""
    if any(path.is_relative_to(removal.SYSTEMD) for path in changed):
        read_output("systemctl", "daemon-reload", seconds=None)
    now = read_units(notes.units)
    for name, (enabled, active) in notes.units.items():
        if name == f"{NAME}.service":
            continue
        is_enabled, is_active = now[name]
        if enabled in ("enabled", "disabled") and enabled != is_enabled:
            read_output("systemctl", enabled.removesuffix("d"), name)
        if active != "active":
            # not one that a timer or a path has started meanwhile
            if enabled == "disabled" and is_active == "active":
                read_output("systemctl", "stop", name, seconds=None)
        elif name == FIREWALL:
            # without a moment in which the ports are open
            read_output("systemctl", "reload-or-restart", name, seconds=None)
        elif is_active != "active":
            read_output("systemctl", "start", name, seconds=None)
        elif concerns(changed, [removal.SYSTEMD / name]) or (name == EXPORTER and has_drop_in(changed, name)):
            read_output("systemctl", "restart", name, seconds=None)


def concerns(changed: Iterable[Path], places: list[Path]) -> bool:
    """Whether something of these places changed."""
    return any(path.is_relative_to(place) for path in changed for place in places)


def has_drop_in(changed: list[Path], name: str) -> bool:
    """Whether a drop-in of the unit changed."""
    return concerns(changed, [removal.SYSTEMD / f"{name}.d"])


def restart_programs(changed: list[Path], notes: Notes) -> None:
    """Lets nginx, sshd and the worklist's intake read their files again."""
    if notes.units[NGINX][1] == "active" and (concerns(changed, [Path("/etc/nginx")]) or has_drop_in(changed, NGINX)):
        if (wrong := run_program("nginx", "-t", "-q")).status:
            raise Refused(f"nginx: {wrong.errors.strip()}")
        read_output("systemctl", "restart", NGINX, seconds=None)
    if concerns(changed, [Path("/etc/ssh")]):
        create_directories(Path("/run/sshd"), 0o755)
        if (wrong := run_program("/usr/sbin/sshd", "-t")).status:
            raise Refused(f"sshd: {wrong.errors.strip()}")
        read_output("systemctl", "try-reload-or-restart", "ssh.service")
    if concerns(changed, [Path("/usr/local"), Path("/etc/orthanc-worklist.json")]):
        run_program("systemctl", "try-restart", "orthanc-worklist.service", seconds=None)


def describe_container(found: dict[str, Any]) -> dict[str, Any]:
    """What Docker needs to make the container again, of what `docker inspect` says of it."""
    definition = {**found["Config"], "HostConfig": found["HostConfig"]}
    if definition.get("Hostname") == found["Id"][:12]:  # Docker's own choice
        del definition["Hostname"]
    return definition


def restore_limits(now: dict[str, Any], found: dict[str, Any]) -> None:
    """Gives the container, which is the same one, what a deploy changes of it in place: memory and restart policy."""
    if all(now[one] == found[one] for one in ("Memory", "MemorySwap", "RestartPolicy")):
        return
    policy, retries = found["RestartPolicy"]["Name"] or "no", found["RestartPolicy"]["MaximumRetryCount"]
    limits = [f"--memory={found['Memory']}", f"--memory-swap={found['MemorySwap']}"]
    read_output("docker", "update", *limits, f"--restart={policy}{f':{retries}' if retries else ''}", NAME)


def restore_container(found: dict[str, Any]) -> bool:
    """Makes the container as it was defined before, if it is another one now. Returns whether it did; it is not started
    yet. Images and index are in directories of the machine."""
    now = present.inspect(NAME)
    # Docker takes a limit away only with the container
    limited = bool(now) and bool(now["HostConfig"]["Memory"]) and not found["HostConfig"]["Memory"]
    if now.get("Id") == found["Id"] and not limited:
        restore_limits(now["HostConfig"], found["HostConfig"])
        return False
    if now and describe_container(now) == describe_container(found):
        return False  # an earlier attempt made it
    if now:
        read_output("docker", "stop", "--time", str(STOP_SECONDS), NAME, seconds=None)
        read_output("docker", "rm", NAME)
    make_container(found)
    return True


def make_container(found: dict[str, Any]) -> None:
    """Makes the container that `docker inspect` described. Refused where Docker does not."""
    engine = Engine()
    try:
        body = json.dumps(describe_container(found))
        engine.request("POST", f"/containers/create?name={NAME}", body, {"Content-Type": "application/json"})
        answer = engine.getresponse()
        said = answer.read().decode(errors="replace")
    finally:
        engine.close()
    if answer.status != http.client.CREATED:
        raise Refused(f"Docker does not make the container of before: {said.strip()}")


def restart_orthanc(changed: list[Path], notes: Notes, plugins: list[str], address: str) -> None:
    """Restarts Orthanc where a file of its start was put back, and waits until it answers. Refused where it does
    not."""
    runner = service.Container("", address) if notes.method == "docker" else service.Unit()
    text = CONFIGURATION.read_text(encoding="utf-8", errors="replace")
    try:
        if concerns(changed, [CONFIGURATION.parent, DROP_INS]) or not service.is_running(runner):
            service.restart_orthanc(runner, text, plugins, START_SECONDS)
        else:
            service.await_running(runner, text, plugins, START_SECONDS, time.time(), "")
    except service.Failure as failure:
        raise Refused(f"Orthanc: {failure}") from failure


# --- the steps ----------------------------------------------------------------------------------
def read_release(method: str) -> str:
    """The version of the package, or the content of the image that the container has."""
    if method == "docker":
        return str(present.inspect(NAME).get("Image", ""))
    return try_output("dpkg-query", "--show", "--showformat", "${Version}", "orthanc")


def keep(made: list[dict[str, list[str]]], plugins: list[str], address: str, directory: Path = DIRECTORY) -> bool:
    """Before a deploy: keeps what it may replace. Returns whether anything was kept now.

    What an earlier deploy kept that did not come to its end stays: the server was last known to work with that."""
    notes = Notes.read(directory)
    can_return = notes.step and not find_obstacle(notes)
    if can_return and (notes.step == "kept" or not go_back(plugins, address, directory).returned):
        return False
    remove(directory)
    facts = read_object(FACTS)
    if not CONFIGURATION.exists() or not facts:
        return False
    part = directory.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    create_directories(part, 0o700)
    paths = choose_paths(made)
    archive_paths(paths, part / ARCHIVE)
    method = str(facts.get("method"))
    write_atomic(part / CONTAINER, json.dumps(present.inspect(NAME) if method == "docker" else {}), 0o600)
    Notes(
        moment=f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        method=method,
        release=read_release(method),
        paths=[str(path) for path in paths],
        units=read_units([*OTHERS, *(unit for one in made for unit in one["units"])]),
    ).write("kept", part)
    part.rename(directory)
    sync_directory(directory.parent)
    return True


def find_obstacle(notes: Notes) -> str:
    """Why the server cannot be put back; empty where it can."""
    if not notes.step:
        return "this was its first deploy, or nothing was kept before it"
    method = str(read_object(FACTS).get("method"))
    if method != notes.method:
        return f"the method of installation changed from {notes.method} to {method}"
    # a way back that was cut off may have removed the container
    if read_release(method) not in ((notes.release, "") if notes.step == "returning" else (notes.release,)):
        return "the release of Orthanc changed, and the older one must not open the index"
    return ""


def go_back(plugins: list[str], address: str, directory: Path = DIRECTORY) -> Outcome:
    """Puts back what was kept, restarts what it concerns, and runs the acceptance test of before."""
    notes = Notes.read(directory)
    try:
        if obstacle := find_obstacle(notes):
            return Outcome(False, f"not put back: {obstacle}", f"Nothing was put back: {obstacle}.")
        notes.write("returning", directory)
        paths = [Path(path) for path in notes.paths]
        with tarfile.open(directory / ARCHIVE) as kept:
            names = {Path("/", name) for name in kept.getnames()}
        came = [path.name for path in paths if path.parent == removal.SYSTEMD and path not in names]
        if FIREWALL in [path.name for path in removal.remove_units(came)]:
            run_program("nft", "delete", *nftables.TABLE.split())
        changed = restore_paths(directory / ARCHIVE, paths)
        if found := read_object(directory / CONTAINER):
            restore_container(found)
        restore_units(notes, changed)
        restart_orthanc(changed, notes, plugins, address)
        restart_programs(changed, notes)
    except (Refused, OSError, ValueError, http.client.HTTPException, tarfile.TarError) as error:
        what = f"The configuration of before could not be put back: {error}".rstrip(".")
        return Outcome(False, "could not be put back", f"{what}. What was kept is in {directory} on the server.")
    told = judge()
    remove(directory)
    said = f"The configuration of before this deploy was put back, and Orthanc answers. {told}"
    return Outcome(True, "put back", said)


def judge() -> str:
    """What the server's own acceptance test says now, in a sentence."""
    done = run_program(*VERIFY, seconds=None)
    try:
        checks: list[dict[str, Any]] = json.loads(done.output)["checks"]
    except (ValueError, KeyError, TypeError):
        return "Its acceptance test does not run."
    failed = [str(check.get("name")) for check in checks if not check["passed"]]
    if not failed:
        return f"Its acceptance test passes with it ({len(checks)} checks)."
    return (
        f"With it, too, {len(failed)} of {len(checks)} checks of its acceptance test fail ({', '.join(failed)}): "
        "what this deploy changed is not the only cause."
    )


def remove(directory: Path = DIRECTORY) -> bool:
    """Removes what was kept. Returns whether there was anything."""
    was = directory.exists()
    shutil.rmtree(directory, ignore_errors=True)
    shutil.rmtree(directory.with_suffix(".part"), ignore_errors=True)
    return was
