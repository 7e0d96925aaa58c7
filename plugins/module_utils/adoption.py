# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes over an Orthanc that somebody set up, and brings it back if the deploy fails (docs/adopt.md).

Each step can be interrupted at any moment and run again. What the way back needs is on the disk before anything of the
old server changes. Runs on the machine, standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils import present, removal, submission
from ansible_collections.clinicops.orthanc.plugins.module_utils.neighbours import Problem

from .conffiles import ETC, is_changed, list_changed_conffiles, list_conffiles
from .indexes import (
    ARRIVED,
    INDEX,
    count_arrived,
    find_opener,
    list_arrived,
    list_attachments,
    read_schema,
    save_arrived,
    save_index,
)
from .progress import Progress
from .server.core.errors import Refused
from .server.core.files import (
    copy_durably,
    create_directories,
    find_existing,
    hash_file,
    sync_directory,
    write_atomic,
)
from .server.core.process import read_output, run_program, try_output
from .server.orthanc.layout import FOLDERS, MARKER, VERSION, find_attachments, name_attachment
from .server.orthanc.runtime import STOP_SECONDS

NAME = "orthanc_adopt"
BEFORE = Path("/etc/orthanc/site/before")  # what was there, for root alone
UNIT = "orthanc.service"
SYSTEMD = Path("/etc/systemd/system")
NGINX = Path("/etc/nginx")
ASIDE = ".adoption"  # beside the images: the index as the old Orthanc left it
NAMES = f"{ASIDE}-names"  # beside the images: a second name of each
RENAMED = f"{present.NAME}-before"  # the old container, where its name is the deploy's
START_SECONDS = 300.0
# the steps of an adoption, in adoption.json
STEPS = ("", "prepared", "switching", "switched", "returning", "returned", "adopted")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the inventory asks for. `target` is orthanc_storage_dir."""

    method: str
    storage: Path
    target: Path
    container: str = ""
    index: Path | None = None
    sites: tuple[str, ...] = ()
    # what a deploy makes and what would act on the old server, as each role lists it in `orthanc_<role>_made`
    units: tuple[str, ...] = ()
    acting: tuple[str, ...] = ()

    @property
    def index_directory(self) -> Path:
        """Where the old index is."""
        return self.index or self.storage

    @property
    def moves(self) -> bool:
        """Whether the images get another directory."""
        return os.path.realpath(self.storage) != os.path.realpath(self.target)

    @property
    def copies_index(self) -> bool:
        """Whether the new Orthanc has an index of its own, and the old one stays as it is."""
        return os.path.realpath(self.index_directory) != os.path.realpath(self.target)


# the setting orthanc_adopt, as a module's option
OPTIONS = {
    "method": {"type": "str", "choices": ["package", "container"]},
    "container": {"type": "str", "default": ""},
    "storage_dir": {"type": "path"},
    "index_dir": {"type": "path"},
    "sites": {"type": "list", "elements": "path", "default": []},
}


def read_wanted(given: dict[str, Any], target: Path, made: dict[str, list[str]] | None = None) -> Wanted:
    """The setting, orthanc_storage_dir, and the units and files of a deploy that act by themselves."""
    return Wanted(
        method=given["method"],
        storage=Path(given["storage_dir"]),
        target=target,
        container=given["container"],
        index=Path(given["index_dir"]) if given["index_dir"] else None,
        sites=tuple(given["sites"]),
        units=tuple((made or {}).get("units", ())),
        acting=tuple((made or {}).get("acting", ())),
    )


@dataclasses.dataclass
class Notes(Progress):
    """How far the adoption is, and what the way back needs."""

    PLACE = BEFORE / "adoption.json"

    enabled: str = ""  # the unit's state before
    policy: str = ""  # the container's restart policy before
    renamed: str = ""  # the container's name since
    storage: str = ""  # the directory of the images before
    index: str = ""  # that of the old index, where a deploy has another one
    owner: list[int] = dataclasses.field(default_factory=list)  # of the directory: user, group, mode
    files_owner: list[int] = dataclasses.field(default_factory=list)  # of the index and the images: user, group
    links: dict[str, str] = dataclasses.field(default_factory=dict)  # nginx sites that are links
    nginx: bool = False  # whether nginx ran
    sent: int = 0  # images that came after the switch, and that the old Orthanc got on the way back
    unread: list[str] = dataclasses.field(default_factory=list)  # files of those that are damaged, and stay


# --- what is there ------------------------------------------------------------------------------
# of a container that was started with --rm
REMOVED = "is removed by Docker when it stops (docker run --rm), with the images in its unnamed volumes"
KEEP_VOLUMES = (
    "do not stop it; make another one without --rm that keeps its volumes (docker create --volumes-from {0} --name "
    "pacs, then its other options, image and command), stop {0}, start the other one, and name that"
)


def is_removed(container: dict[str, Any]) -> bool:
    """Whether Docker removes the container when it stops, by what `docker inspect` says of it."""
    return bool((container.get("HostConfig") or {}).get("AutoRemove"))


def find_problems(wanted: Wanted, notes: Notes) -> list[Problem]:
    """Why the Orthanc that the inventory names cannot be adopted."""
    if notes.step in ("switching", "switched", "returning", "adopted"):
        return []  # it has been there
    if (present_file := Path(present.CONFIGURATION)).exists():
        message = f"is set, but this machine is deployed already: {present_file} exists"
        return [Problem(NAME, message, "remove the setting, and move the images of another Orthanc with its own tools")]
    found = []
    remedy = "correct it, or run clinicops.orthanc.adopt again"
    if not (wanted.index_directory / "index").is_file():
        setting = "index_dir" if wanted.index else "storage_dir"
        found.append(Problem(f"{NAME}.{setting}", f"{wanted.index_directory} has no index of an Orthanc", remedy))
    container = present.inspect(wanted.container)
    if wanted.method == "container" and not container:
        found.append(Problem(f"{NAME}.container", f"there is no container {wanted.container}", remedy))
    if is_removed(container):
        found.append(Problem(f"{NAME}.container", REMOVED, KEEP_VOLUMES.format(wanted.container)))
    if wanted.method == "package" and not is_installed():
        found.append(Problem(f"{NAME}.method", "is package, but the package orthanc is not installed", remedy))
    for site in wanted.sites:
        if not os.path.lexists(site):
            found.append(Problem(f"{NAME}.sites", f"{site} does not exist", remedy))
    if found:
        return found
    if wanted.copies_index and not wanted.moves and not notes.step and (wanted.target / "index").exists():
        message = f"{wanted.target} has an index of its own, beside that in {wanted.index_directory}"
        found.append(Problem(f"{NAME}.index_dir", message, "move the one away that Orthanc does not use"))
    return found + (find_obstacles(wanted, notes) if wanted.moves else [])


def find_obstacles(wanted: Wanted, notes: Notes) -> list[Problem]:
    """Why the images cannot move to their new directory."""
    files = list_files(wanted.target) if wanted.target.is_dir() else set()
    if notes.step in ("", "adopted") and (files or (wanted.target / "index").exists()):
        message = f"{wanted.target} has images already, which are not those of {wanted.storage}"
        remedy = f"name an empty directory, or {wanted.storage} to leave the images where they are"
        return [Problem("orthanc_storage_dir", message, remedy)]
    place = find_existing(wanted.target)
    if place.stat().st_dev == wanted.storage.stat().st_dev:
        return []  # a second name of each file
    needed = sum((wanted.storage / one).stat().st_size for one in list_files(wanted.storage) - files)
    free = shutil.disk_usage(place).free
    if needed * 1.05 < free:
        return []
    message = f"a copy of the images needs {needed >> 20} MiB in {wanted.target}, and {free >> 20} MiB are free"
    remedy = f"use a larger disk, or leave the images in {wanted.storage}"
    return [Problem("orthanc_storage_dir", message, remedy)]


def is_installed(package: str = "orthanc") -> bool:
    """Whether a package of Debian's is."""
    return try_output("dpkg-query", "--show", "--showformat", "${db:Status-Status}", package) == "installed"


def find_small(needs: Iterable[tuple[Path, int]]) -> Iterator[tuple[int, int]]:
    """Of each disk that is too small for so many bytes at these paths: what they need together, and what is free."""
    disks: dict[int, list[int]] = {}
    for path, size in needs:
        place = find_existing(path)
        disks.setdefault(place.stat().st_dev, [0, shutil.disk_usage(place).free])[0] += size
    for needed, free in disks.values():
        if needed * 1.1 > free:
            yield needed, free


def list_files(directory: Path) -> set[str]:
    """The attachments below a storage directory, by their paths in it."""
    return {str(path.relative_to(directory)) for path in find_attachments(directory)}


def describe(wanted: Wanted, notes: Notes) -> list[str]:
    """What the switch does to the old server, for check mode and the summary."""
    old = f"the container {wanted.container}" if wanted.method == "container" else UNIT
    said = [f"{old} stopped, and kept"]
    if wanted.moves:
        linked = find_existing(wanted.target).stat().st_dev == wanted.storage.stat().st_dev
        how = "get a second name" if linked else "are copied and compared"
        said.append(f"the images {how} in {wanted.target}; {wanted.storage} stays")
    elif wanted.copies_index:
        said.append(f"the index copied to {wanted.target}; {wanted.index_directory} stays")
    changed = [] if notes.step == "adopted" else list_changed_conffiles()
    said += [f"{path} put back as its package has it" for path in changed]
    return said + [f"{site} removed" for site in wanted.sites if os.path.lexists(site)]


# --- the old files ------------------------------------------------------------------------------
def list_own_files(wanted: Wanted) -> list[Path]:
    """What a person wrote or may have changed: configuration files, units, and drop-ins of Orthanc's unit."""
    drop_ins = SYSTEMD / f"{UNIT}.d"
    found = [path for path in ETC.glob("*") if path.is_file()]
    found += [path for path in [SYSTEMD / UNIT, *drop_ins.glob("*.conf")] if path.is_file() and not path.is_symlink()]
    return sorted(path for path in found if str(path) not in wanted.acting)


def keep_file(path: Path, directory: Path = BEFORE) -> None:
    """Copies a file below the directory, with its owner and mode."""
    target = directory / str(path).lstrip("/")
    create_directories(target.parent, 0o700)
    copy_durably(path, target)
    shutil.copystat(path, target)
    os.chown(target, path.stat().st_uid, path.stat().st_gid)


def restore_files(directory: Path = BEFORE) -> None:
    """Puts every kept file of /etc/orthanc and of systemd back where it was, and removes what came since.

    Orthanc reads every file in /etc/orthanc, and does not start where two of them have the same section."""
    for root in (ETC, SYSTEMD):
        kept = directory / str(root).lstrip("/")
        for source in sorted(path for path in kept.rglob("*") if path.is_file()):
            path = Path("/", source.relative_to(directory))
            create_directories(path.parent, 0o755)
            copy_durably(source, path)
            shutil.copystat(source, path)
            os.chown(path, source.stat().st_uid, source.stat().st_gid)
    for path in ETC.glob("*"):
        if path.is_file() and not (directory / str(path).lstrip("/")).exists():
            path.unlink()


def restore_conffiles() -> None:
    """Puts the packages' configuration files back as shipped, and takes away what Orthanc's unit must not read.

    dpkg holds back security updates of a package whose file was changed, and the package of Debian 13 cannot be
    configured without its credentials.json."""
    # an earlier run may have been cut off while dpkg was at work
    run_program("dpkg", "--force-confold", "--configure", "--pending", seconds=None)
    conffiles = list_conffiles()
    packages = sorted({one.package for one in conffiles if is_changed(one)})
    if packages:
        options = [f"--option=Dpkg::Options::=--force-{name}" for name in ("confask", "confnew", "confmiss")]
        read_output(
            *("env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1", "apt-get", "--yes", "--quiet"),
            *("--option=DPkg::Lock::Timeout=600", *options, "--reinstall", "install", *packages),
            seconds=None,
        )
        read_output("systemctl", "stop", UNIT, seconds=None)
        if left := list_changed_conffiles():
            what = f"{', '.join(left)} could not be put back as the package has it"
            raise Refused(f"{what}. Remedy: apt-get update, and deploy again.")
    shipped = {one.path for one in conffiles}
    for path in ETC.glob("*"):
        if path.is_file() and str(path) not in shipped and path.suffix in (".json", ".dpkg-old", ".dpkg-dist"):
            path.unlink()


# --- images -------------------------------------------------------------------------------------
def bring_files(wanted: Wanted, directory: Path, *, last: bool) -> None:
    """Gives every attachment a second name in the new directory, or a compared copy on another file system.

    While the old Orthanc runs, images come and go; the `last` call follows when it has stopped."""
    create_directories(directory, 0o750)
    there, here = list_files(wanted.storage), list_files(directory)
    deleted = () if last else (FileNotFoundError,)
    for name in sorted(there - here):
        with contextlib.suppress(*deleted):
            bring_file(wanted.storage / name, directory / name, directory / f"{ASIDE}-file.part")
    if last:
        known = list_attachments(wanted.index_directory / "index")
        for name in here - there - known:  # deleted since the copy
            (directory / name).unlink()
        for one in [directory, *directory.glob(FOLDERS), *directory.glob(f"{FOLDERS}/{FOLDERS}")]:
            sync_directory(one)


def bring_file(source: Path, target: Path, part: Path) -> None:
    """One of them. Attachments never change once they are written, so both names may be the same file.

    `part` is where a copy is written first."""
    create_directories(target.parent, 0o755)
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    digest = copy_durably(source, part)
    if hash_file(part) != digest:
        raise Refused(f"{target} is not what was written there. Remedy: check this disk: dmesg, smartctl.")
    part.rename(target)


def keep_names(storage: Path) -> None:
    """Gives each attachment a second name: the new Orthanc may remove one that the old index has, for example because
    an image was sent again. Where the file system has no second names, none is kept."""
    kept = storage / NAMES
    create_directories(kept, 0o700)
    for name in sorted(list_files(storage) - list_files(kept)):
        create_directories((kept / name).parent, 0o700)
        with contextlib.suppress(OSError):
            os.link(storage / name, kept / name)


def restore_names(storage: Path) -> None:
    """Brings the attachments back that were removed since `keep_names`."""
    for name in sorted(list_files(storage / NAMES) - list_files(storage)):
        create_directories((storage / name).parent, 0o755)
        os.link(storage / NAMES / name, storage / name)


def require_complete(directory: Path, index: Path, old: Path) -> None:
    """Refuses where the new directory lacks an attachment that its index has and the old directory as well."""
    with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro&immutable=1", uri=True)) as database:
        rows = database.execute("SELECT uuid, compressedSize FROM AttachedFiles").fetchall()
    for uuid, size in rows:
        source, target = (place / name_attachment(uuid) for place in (old, directory))
        if source.exists() and (not target.exists() or target.stat().st_size != int(size)):
            raise Refused(f"{target} is not the same as {source}. Remedy: deploy again; nothing was removed.")


def copy_index(source: Path, target: Path) -> None:
    """Copies the index of an Orthanc that does not run into the directory of the images, all or nothing."""
    copy = target / f"{ASIDE}-copy"
    shutil.rmtree(copy, ignore_errors=True)
    save_index(source, copy)
    for name in INDEX[1:]:
        (target / name).unlink(missing_ok=True)
    (copy / "index").rename(target / "index")
    copy.rmdir()
    sync_directory(target)


# --- owners -------------------------------------------------------------------------------------
def read_owners(wanted: Wanted) -> tuple[list[int], list[int]]:
    """User, group and mode of the directory of the images; user and group of the index."""
    top, index = wanted.storage.stat(), (wanted.index_directory / "index").stat()
    return [top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)], [index.st_uid, index.st_gid]


def give_to_owner(directory: Path) -> None:
    """Gives all that is in a directory to its owner, unless that is root. A deploy does this only to a directory that
    is not Orthanc's yet, and after a deploy that failed it is."""
    top = directory.stat()
    for path in directory.rglob("*") if top.st_uid else ():
        os.chown(path, top.st_uid, top.st_gid, follow_symlinks=False)


def restore_owners(storage: Path, owner: list[int], files: list[int]) -> None:
    """Gives the images back to the account that they belonged to; the directory itself last."""
    for path in [*storage.rglob("*")]:
        os.chown(path, *files, follow_symlinks=False)
    os.chown(storage, *owner[:2])
    storage.chmod(owner[2])


# --- services -----------------------------------------------------------------------------------
def read_unit(name: str, what: str) -> str:
    """A property of a unit."""
    return try_output("systemctl", "show", f"--property={what}", "--value", name).strip()


def mask_unit(directory: Path) -> None:
    """Lets nothing start Orthanc's unit. A person's own unit file, which systemd does not mask, makes way: it is kept
    in the directory."""
    path = SYSTEMD / UNIT
    if path.is_file() and not path.is_symlink() and (directory / str(path).lstrip("/")).is_file():
        path.unlink()
    read_output("systemctl", "mask", UNIT)


def stop_old(wanted: Wanted, notes: Notes, directory: Path) -> None:
    """Stops the old Orthanc so that no boot starts it."""
    if wanted.method == "package":
        for drop_in in (SYSTEMD / f"{UNIT}.d").glob("*.conf"):
            if str(drop_in) not in wanted.acting:
                drop_in.unlink()
        mask_unit(directory)
        read_output("systemctl", "daemon-reload")
        read_output("systemctl", "stop", UNIT, seconds=None)
        return
    name = find_container(wanted, notes)
    read_output("docker", "update", "--restart=no", name)
    read_output("docker", "stop", "--time", str(STOP_SECONDS), name, seconds=None)
    if name != notes.renamed:
        read_output("docker", "rename", name, notes.renamed)


def read_container_pid(wanted: Wanted) -> int:
    """The main process of the old container, as this machine sees it; 0 without one."""
    return int(present.inspect(wanted.container).get("State", {}).get("Pid", 0))


def find_container(wanted: Wanted, notes: Notes) -> str:
    """The old container's present name: its own, or the one that makes room for a deploy's."""
    renamed: str = notes.renamed
    return renamed if present.inspect(renamed) else wanted.container


def start_old(wanted: Wanted, notes: Notes) -> None:
    """Starts the old Orthanc as it was."""
    if wanted.method == "package":
        read_output("systemctl", "unmask", UNIT)
        read_output("systemctl", "daemon-reload")
        if notes.enabled == "enabled":
            read_output("systemctl", "enable", UNIT)
        read_output("systemctl", "start", UNIT, seconds=None)
    else:
        name = find_container(wanted, notes)
        if name != wanted.container:
            read_output("docker", "rename", name, wanted.container)
        read_output("docker", "update", f"--restart={notes.policy or 'no'}", wanted.container)
        read_output("docker", "start", wanted.container, seconds=None)
    index = wanted.index_directory / "index"
    end = time.monotonic() + START_SECONDS
    while not find_opener(index):
        if time.monotonic() > end:
            what = f"The old Orthanc was started, but does not open {index}"
            log = "journalctl -u orthanc" if wanted.method == "package" else f"docker logs {wanted.container}"
            raise Refused(f"{what}. Remedy: see {log}; its files are as they were.")
        time.sleep(0.2)


def remove_new(wanted: Wanted, directory: Path) -> None:
    """Stops and takes away what a deploy has put on the machine and would act on the old server.

    Packages, programs, the backups and their settings stay: the next deploy needs them."""
    if wanted.method == "package" or is_installed():
        mask_unit(directory)
        read_output("systemctl", "stop", UNIT, seconds=None)
    found = present.inspect(present.NAME)
    if found and found["Config"].get("Cmd") == [present.CONFIGURATION]:
        read_output("docker", "stop", "--time", str(STOP_SECONDS), present.NAME, seconds=None)
        read_output("docker", "rm", present.NAME)
    removal.remove_units(wanted.units)
    run_program("nft", "delete", "table", "inet", "orthanc")
    removal.remove_paths(wanted.acting)
    with contextlib.suppress(OSError):
        (SYSTEMD / f"{UNIT}.d").rmdir()  # where nothing else is in it
    read_output("systemctl", "daemon-reload")


# --- nginx --------------------------------------------------------------------------------------
def reload_nginx() -> None:
    """Makes a running nginx read its sites again; it keeps those that it has where they are wrong."""
    if read_unit("nginx.service", "ActiveState") == "active":
        if (wrong := run_program("nginx", "-t", "-q")).status:
            raise Refused(f"nginx: {wrong.errors.strip()}. Remedy: correct this, and deploy again.")
        read_output("systemctl", "reload", "nginx.service")


def restore_sites(notes: Notes, sites: Iterable[str], directory: Path = BEFORE) -> None:
    """Puts the sites back as they were: a link as a link, a file as a file."""
    for path in map(Path, sites):
        if os.path.lexists(path):
            continue
        if str(path) in notes.links:
            path.symlink_to(notes.links[str(path)])
        elif (kept := directory / str(path).lstrip("/")).is_file():
            copy_durably(kept, path)
            path.chmod(0o644)


# --- the steps ----------------------------------------------------------------------------------
def prepare(wanted: Wanted, directory: Path = BEFORE) -> bool:
    """While the old Orthanc runs: notes what it is, keeps its files, and brings its images to their new directory.

    Returns whether anything was done. Refused with every problem, before anything is written."""
    notes = Notes.read(directory)
    if notes.step in ("switching", "switched", "adopted"):
        return False
    if notes.step == "returning":
        bring_back(wanted, directory)
        notes = Notes.read(directory)
    if problems := find_problems(wanted, notes):
        raise Refused(*(f"{one.what} {one.message}. Remedy: {one.remedy}." for one in problems))
    create_directories(directory.parent, 0o755)
    create_directories(directory, 0o700)
    container = present.inspect(wanted.container)
    notes.sent, notes.unread = 0, []
    notes.storage = str(wanted.storage)
    notes.index = str(wanted.index_directory) if wanted.copies_index else ""
    notes.owner, notes.files_owner = read_owners(wanted)
    notes.enabled = read_unit(UNIT, "UnitFileState")
    notes.nginx = read_unit("nginx.service", "ActiveState") == "active"
    if container:
        policy = container["HostConfig"].get("RestartPolicy") or {}
        retries = f":{policy['MaximumRetryCount']}" if policy.get("MaximumRetryCount") else ""
        notes.policy = f"{policy.get('Name') or 'no'}{retries}"
        taken = wanted.container == present.NAME
        notes.renamed = RENAMED if taken else wanted.container
        write_atomic(directory / "container.json", json.dumps(container, indent=4) + "\n", 0o600)
    shutil.rmtree(directory / "etc", ignore_errors=True)  # of an attempt before
    for path in [*(list_own_files(wanted) if wanted.method == "package" else []), *map(Path, wanted.sites)]:
        if path.is_file():
            keep_file(path, directory)
    # a deploy removes the vendor's default site
    for path in [*map(Path, wanted.sites), NGINX / "sites-enabled/default"]:
        if path.is_symlink():
            notes.links[str(path)] = os.readlink(path)
    notes.write("prepared", directory)
    if wanted.moves:
        bring_files(wanted, wanted.target, last=False)
    return True


def switch(wanted: Wanted, directory: Path = BEFORE) -> bool:
    """Stops the old Orthanc and makes room for the deploy's. Returns whether anything was done."""
    notes = Notes.read(directory)
    if notes.step not in ("prepared", "switching"):
        return False
    notes.write("switching", directory)
    stop_old(wanted, notes, directory)
    if not (wanted.index_directory / "index").is_file():
        what = f"The old Orthanc was stopped, and {wanted.index_directory}/index is gone with it"
        raise Refused(f"{what}. Nothing was removed. Remedy: bring its disk or volume back, and deploy again.")
    if find_opener(wanted.index_directory / "index"):
        what = f"The old Orthanc was stopped, but a process still has {wanted.index_directory}/index open"
        raise Refused(f"{what}. Remedy: fuser {wanted.index_directory}/index shows it; stop it, and deploy again.")
    if wanted.moves:
        bring_files(wanted, wanted.target, last=True)
        give_to_owner(wanted.target)
    else:
        keep_names(wanted.storage)
    if wanted.copies_index:
        copy_index(wanted.index_directory, wanted.target)
        top = wanted.target.stat()
        os.chown(wanted.target / "index", top.st_uid, top.st_gid)
        (wanted.target / "index").chmod(0o640)
        require_complete(wanted.target, wanted.target / "index", wanted.storage)
    elif not (wanted.target / ASIDE).exists():
        save_index(wanted.index_directory, wanted.target / ASIDE)
    restore_conffiles()
    for site in wanted.sites:
        Path(site).unlink(missing_ok=True)
    reload_nginx()
    notes.write("switched", directory)
    return True


def finish(wanted: Wanted, directory: Path = BEFORE) -> list[str]:
    """After the acceptance test: notes that the adoption is complete, and returns what a person may remove now."""
    notes = Notes.read(directory)
    if notes.step not in ("switched", "adopted"):
        raise Refused(f"The adoption is not complete ({notes.step or 'not begun'}). Remedy: deploy again.")
    for name in (ASIDE, NAMES):
        shutil.rmtree(wanted.target / name, ignore_errors=True)
    if notes.step != "adopted":
        notes.write("adopted", directory)
    said = []
    if wanted.method == "container":
        said.append(f"the old container is stopped and kept: docker rm {notes.renamed}")
    if wanted.moves:
        said.append(f"the images are in {wanted.target}; the old directory is kept: rm -r {wanted.storage}")
    if wanted.copies_index and wanted.index:
        said.append(f"the old index is kept: rm -r {wanted.index}")
    return said


def bring_back(wanted: Wanted, directory: Path = BEFORE) -> bool:
    """Brings the old server back as it was before the switch. Returns whether there was anything to bring back."""
    notes = Notes.read(directory)
    if notes.step not in ("switching", "switched", "returning"):
        return False
    notes.write("returning", directory)
    remove_new(wanted, directory)
    stop_late(wanted, notes)
    notes.unread = sorted({*notes.unread, *bring_index_back(wanted, directory)})
    notes.write("returning", directory)
    # before the marker: whether a machine was deployed is told by this file
    for name in ("orthanc.json", "orthanc.json.before"):
        if (path := directory.parent / name).exists():
            path.rename(directory / f"failed-{name}")
    for name in (MARKER, VERSION):
        (wanted.target / name).unlink(missing_ok=True)
    if wanted.method == "package":
        read_output("systemctl", "unmask", UNIT)  # a link to /dev/null is in the place of a person's unit
        restore_files(directory)
    restore_owners(wanted.storage, notes.owner, notes.files_owner)
    if wanted.index:
        for path in (wanted.index / name for name in INDEX if (wanted.index / name).exists()):
            os.chown(path, *notes.files_owner)
    start_old(wanted, notes)
    send_arrived(wanted, notes, directory)
    restore_sites(notes, [*wanted.sites, *notes.links], directory)
    if notes.nginx:
        reload_nginx()
    elif read_unit("nginx.service", "ActiveState") == "active":
        read_output("systemctl", "disable", "--now", "nginx.service")
    for name in (ASIDE, NAMES):
        shutil.rmtree(wanted.target / name, ignore_errors=True)
    notes.write("returned", directory)
    return True


def stop_late(wanted: Wanted, notes: Notes) -> None:
    """Stops the old Orthanc where an interrupted way back had started it already."""
    if wanted.method == "container" and (name := find_container(wanted, notes)) and present.inspect(name):
        read_output("docker", "stop", "--time", str(STOP_SECONDS), name, seconds=None)


def bring_index_back(wanted: Wanted, directory: Path = BEFORE) -> list[str]:
    """Gives the old Orthanc its own index again where the new one has changed its tables, or has another one.

    Otherwise the index stays, with all that came since. Images that came and that the old index does not have are kept
    in the directory `arrived`, until the old Orthanc has them (`send_arrived`). Returns the files of those that are
    damaged."""
    now, aside = wanted.target / "index", wanted.target / ASIDE / "index"
    before = wanted.index_directory / "index" if wanted.copies_index else aside
    if not now.exists() or not before.exists():  # the new Orthanc had no index yet
        return []
    if not wanted.copies_index and read_schema(now) == read_schema(before):
        return []
    unread = save_arrived(wanted.target, list_arrived(now, before), directory / ARRIVED)
    damaged = [str(wanted.target / name_attachment(uuid)) for uuid in unread]
    if not wanted.moves:
        restore_names(wanted.storage)
    if wanted.copies_index:
        for name in INDEX:  # of a deploy that failed: the next one copies the old index again
            (wanted.target / name).unlink(missing_ok=True)
        return damaged
    for name in INDEX[1:]:
        (wanted.target / name).unlink(missing_ok=True)
    part = wanted.target / f"{ASIDE}-index.part"
    copy_durably(aside, part)
    part.rename(now)
    return damaged


def send_arrived(wanted: Wanted, notes: Notes, directory: Path = BEFORE) -> None:
    """Submits the images that came meanwhile to the old Orthanc, which runs again. Those that it does not take stay."""
    files = sorted((directory / ARRIVED).glob("*.dcm"))
    if files and (pid := find_opener(wanted.index_directory / "index")):
        with contextlib.suppress(OSError, ValueError, Refused):
            submission.submit(pid, files)
        notes.sent += len(files) - count_arrived(directory)
        notes.write(notes.step, directory)
