# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds what a first deploy on a machine would conflict with, take over or leave behind.

Changes nothing. Runs on the machine, standard library only.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import itertools
import os
import pwd
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import adoption, neighbours, present
from ansible_collections.clinicops.orthanc.plugins.module_utils.neighbours import PROXY, Port, Problem
from ansible_collections.clinicops.orthanc.plugins.module_utils.present import NAME

from .server.core.escaping import escape
from .server.core.process import try_output
from .server.orthanc.layout import ATTACHMENT, FOLDERS, MARKER, find_attachments
from .server.verify.exposure import OWN_SITES
from .server.verify.sites import NGINX, leads_to, list_listens, list_sites, read_site

DIRECTORY = Path("/var/lib/orthanc")  # Debian's package keeps its images in db-v6 below it
HTTPS, ORTHANC_HTTP = 443, 8042
ADOPT = "To take the whole server over with its users and devices, run playbooks/adopt.yml (docs/adopt.md)"
CLOSES_SITES = "closes_sites"  # the name of the waiver
# in a directory that others do not use: what Orthanc has there, and a new disk; hidden files may be of a deploy, too
EXPECTED = re.compile(rf"\..*|{FOLDERS}|(Orthanc-(\d+-)?)?{ATTACHMENT.pattern}.*|lost\+found|a?quota\.(user|group)")
FIRST_PERSON = 1000  # Debian Policy 9.2.2: numbers from here on belong to persons
IMAGES = "SELECT count(*) FROM Resources WHERE resourceType = 4"


class Container(NamedTuple):
    """A container of Orthanc, with the directories of this machine that it mounts; `ours`: a deploy made it."""

    name: str
    runs: bool
    mounted: list[Path]
    ours: bool = False


def list_problems(
    storage: Path, ports: list[Port], *, closes: bool = True, adopted: adoption.Wanted | None = None
) -> list[Problem]:
    """All conflicts with a first deploy with this storage directory and these ports.

    `closes`: whether a firewall will limit the ports to the sources that they name. `adopted`: the Orthanc that the
    deploy takes over, which is not in its way.
    """
    every = list_containers()
    containers = [one for one in every if not one.ours]  # an earlier first deploy may have stopped there
    found = check_account()
    used, sites, processes = [storage], [], []
    if adopted:
        found += adoption.find_problems(adopted, adoption.Notes.read())
        used += [adopted.storage, adopted.index_directory]
        sites = [Path(one) for one in adopted.sites]
        processes = [adoption.read_container_pid(adopted)]
    if not adopted or adopted.moves:
        found += check_directory("orthanc_storage_dir", storage)
    going_on = {one.resolve() for one in used}
    for directory in find_indexes([DIRECTORY, *mount_points(), *(path for one in containers for path in one.mounted)]):
        if directory.resolve() not in going_on:
            found += check_images(directory)
    for one in containers:
        found += check_container(one) if not adopted or one.name != adopted.container else []
    found += neighbours.check_listeners(ports, [one.name for one in every], processes)
    return found + check_sites(ports=ports, closes=closes, adopted=sites)


# --- the account --------------------------------------------------------------------------------
def check_account(name: str = NAME) -> list[Problem]:
    """The problem if Orthanc's account or group belongs to a person."""
    found = []
    group = next((one for one in grp.getgrall() if one.gr_name == name and one.gr_gid >= FIRST_PERSON), None)
    account = next((one for one in pwd.getpwall() if one.pw_name == name and one.pw_uid >= FIRST_PERSON), None)
    rename_group = f"groupmod --new-name NEW-NAME {name}" if group else ""
    if account:
        groups = " ".join(sorted(one.gr_name for one in grp.getgrall() if name in one.gr_mem)) or "none"
        who = f"number {account.pw_uid}, shell {account.pw_shell}, more groups: {groups}"
        what = f"belongs to a person ({who}), but a deploy would use it for Orthanc and lock it"
        # usermod refuses while processes of the account run
        stop = [f"systemctl stop {unit}" for unit in list_services(account.pw_uid)]
        commands = [*stop, f"usermod --login NEW-NAME {name}", *([rename_group] if rename_group else [])]
        found.append(Problem(f"The account {name}", what, f"rename it: {' && '.join(commands)}"))
    elif group:
        what = f"belongs to a person (number {group.gr_gid}), but a deploy would let its members read the images"
        found.append(Problem(f"The group {name}", what, f"rename it: {rename_group}"))
    return found


def list_services(uid: int) -> list[str]:
    """The systemd services in which processes of this account run, without those of log-in sessions."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                found.add(neighbours.unit_of(int(process.name)))
    return sorted(unit for unit in found if unit.endswith(".service") and not unit.startswith("user@"))


# --- files of others ----------------------------------------------------------------------------
def check_directory(setting: str, directory: Path) -> list[Problem]:
    """The problem of a directory that a deploy would give to Orthanc, and in which others have their files."""
    names = [] if is_orthancs(directory) else list_foreign(directory)
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    held = f"{directory} holds what Orthanc does not keep there ({', '.join(map(escape, names[:3]))}{more})"
    remedy = f"set {setting}: {directory}/orthanc, which a deploy creates"
    if setting == "orthanc_storage_dir":
        remedy += f"; or, if no one else uses the directory, touch {directory / MARKER}"
    return [Problem(setting, f"{held}, and a deploy would make Orthanc the owner", remedy)]


def is_orthancs(directory: Path) -> bool:
    """Whether the directory belongs to Orthanc's account, has its index, or has had a deploy."""
    with contextlib.suppress(KeyError, OSError):  # no such account, or no such directory
        if directory.stat().st_uid == pwd.getpwnam(NAME).pw_uid:
            return True
    return any((directory / name).exists() for name in (MARKER, "index"))


def list_foreign(directory: Path) -> list[str]:
    """The names in the directory that neither Orthanc nor a new disk has there; none if it does not exist."""
    with contextlib.suppress(OSError):
        return sorted(name for name in os.listdir(directory) if not EXPECTED.fullmatch(name))
    return []


# --- images -------------------------------------------------------------------------------------
def mount_points() -> list[Path]:
    """The mount points of disks."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    return [
        Path(line.split()[1].replace("\\040", " ")) for line in lines if line.startswith("/dev/") or " zfs " in line
    ]


def find_indexes(roots: Iterable[Path]) -> list[Path]:
    """Directories with a file named index: these, those one level below, and any that a running Orthanc has open."""
    found = set()
    for root in roots:
        with contextlib.suppress(OSError):
            found |= {path.parent.resolve() for pattern in ("index", "*/index") for path in root.glob(pattern)}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() == "Orthanc":
                opened = {Path(os.readlink(one)) for one in (process / "fd").iterdir()}
                found |= {path.parent for path in opened if path.name == "index"}
    return sorted(path for path in found if (path / "index").is_file())


def count_images(directory: Path) -> int:
    """How many images Orthanc has there; 0 if the directory is not Orthanc's. Writes nothing there."""
    number = 0
    parts = [path for path in (directory / "index", directory / "index-wal") if path.is_file()]
    with contextlib.suppress(OSError, sqlite3.Error), tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        if sum(path.stat().st_size for path in parts) > shutil.disk_usage(scratch).free // 4:
            raise OSError("a copy could fill the disk of a running Orthanc")
        # Orthanc holds a lock; changes not yet in the index are in the second file
        for path in parts:
            shutil.copyfile(path, Path(scratch, path.name))
        with contextlib.closing(sqlite3.connect(Path(scratch, "index"))) as index:
            number = int(index.execute(IMAGES).fetchone()[0])
    # if the index cannot be read, count the files
    return number or sum(1 for _unused in find_attachments(directory))


def has_files(directory: Path) -> bool:
    return next(find_attachments(directory), None) is not None


def check_images(directory: Path) -> list[Problem]:
    """The problem of images that a deploy would leave behind while it begins an empty archive elsewhere."""
    number = 0 if (directory / MARKER).exists() else count_images(directory)
    if not number:
        return []
    what = f"holds {number} image{'s' * (number != 1)} of an Orthanc that this collection did not deploy"
    remedy = f"set orthanc_storage_dir: {directory} to continue with them, or move the directory away; {ADOPT}"
    if "/docker/volumes/" in str(directory):  # docker volume prune would take them
        remedy = "move its files to their own directory, and set orthanc_storage_dir to it to continue with them"
    elif not has_files(directory):
        remedy = "move this index and the files of its StorageDirectory together, and set orthanc_storage_dir to that"
    return [Problem(str(directory), f"{what}, but a deploy would leave them behind", remedy)]


# --- containers ---------------------------------------------------------------------------------
def list_containers() -> list[Container]:
    """The containers whose image or command is Orthanc's, or that have a deploy's name, running or not."""
    return [
        Container(
            name=one["Name"].lstrip("/"),
            runs=bool(one["State"]["Running"]),
            mounted=[Path(mount["Source"]) for mount in one["Mounts"] if mount.get("Source")],
            ours=one["Config"].get("Cmd") == [present.CONFIGURATION],
        )
        for one in present.list_containers(stopped=True)
    ]


def check_container(one: Container) -> list[Problem]:
    """The problem of a container that uses the ports or the name of a deploy's own container."""
    if not one.runs and one.name != NAME:
        return []
    remedy = f"docker update --restart=no {one.name}; docker stop {one.name}"
    if one.name == NAME:
        remedy += f"; docker rename {NAME} {NAME}-before"
    message = "is an Orthanc that this collection did not deploy, and conflicts with it"
    return [Problem(f"The container {one.name}", message, f"{remedy}. It stays, with all its data. {ADOPT}")]


# --- nginx --------------------------------------------------------------------------------------
def check_sites(
    nginx: Path = NGINX, ports: Iterable[Port] = (), *, closes: bool = True, adopted: Iterable[Path] = ()
) -> list[Problem]:
    """Problems of nginx sites that conflict with the proxy's, that bypass it, or that a deploy would remove.

    And of those that the firewall would close to their users, if there is one that limits `ports` to their sources. The
    `adopted` ones end with the deploy.
    """
    found = []
    served = {port.number: port for port in ports if port.name in PROXY} or {HTTPS: Port("https", HTTPS, [])}
    default = nginx / "sites-enabled/default"
    ending = {*adopted}
    if default.is_symlink() and default.exists() and not is_vendors(default) and default not in ending:
        move = f"mv {default} {default.with_name('NAME')}"
        found.append(
            Problem(str(default), "is not the one of its package, but a deploy removes a site of that name", move)
        )
    own = [*(nginx / "conf.d" / name for name in OWN_SITES), *ending]
    guarded = {port.number: port for port in ports if closes and not port.is_for_everybody}
    for path in sorted(one for one in list_sites(nginx) if one.is_file() and one not in own):
        if path == default and is_vendors(default):
            continue  # a deploy removes it
        text = read_site(path)
        found += check_listens(path, text, guarded, served)
        # an Orthanc that was here before may serve Orthanc's default port
        if leads_to(text, [ORTHANC_HTTP, *(port.number for port in ports if port.name == "http")]):
            message = "forwards to Orthanc and bypasses the proxy's roles and orthanc_admin_sources"
            remedy = "remove that site, or name it in orthanc_adopt.sites; the proxy serves https://<orthanc_hostname>/"
            found.append(Problem(str(path), message, remedy))
    return found


def check_listens(path: Path, text: str, guarded: dict[int, Port], served: dict[int, Port]) -> list[Problem]:
    """The conflicts of a site's `listen` directives with those of the proxy, at the ports that are `served`, and of the
    firewall with the site's users."""
    found, closed = [], set()
    for address, number, words in list_listens(text):
        everywhere = address in ("", "*", "0.0.0.0", "[::]")
        ours = served.get(number)
        elsewhere = bool(ours and ours.address and not everywhere and address.strip("[]") != ours.address)
        if number in guarded and not (ours and ours.address and (everywhere or elsewhere)):
            closed.add(number)
        if not ours or elsewhere:
            continue
        more = "" if ours.name == "https" else ", set orthanc_proxy_acme_dns_hook, which needs no port 80"
        if ours.address and everywhere:
            if (address == "[::]") != (":" in ours.address):
                continue  # the other version of IP
            message = f"listens at every address, and at {ours.address} nginx would pass its requests to the proxy"
            remedy = f"write the address that its users call there, such as listen <address>:{number}"
            found.append(Problem(str(path), message, remedy + more, CLOSES_SITES))
        elif not ours.address and not everywhere:
            message = f"listens only at {words[0]}, and nginx would pass it the proxy's requests to that address"
            remedy = f"write listen {number} there instead of {words[0]}{more}, or set orthanc_proxy_address"
            found.append(Problem(str(path), message, f"{remedy} to another address of this machine"))
        elif ours.name == "https" and {"default_server", "default"} & {*words}:
            message = f"is nginx's default server at port {number}, and so is the proxy's"
            found.append(Problem(str(path), message, "remove default_server there; its server_name is enough"))
    for number in sorted(closed):
        admitted = ", ".join(guarded[number].sources) or "this machine"
        message = f"listens at port {number}, which a deploy closes to all sources except {admitted}"
        remedy = "move it to another port"
        if number in served:
            remedy += ", or the proxy with orthanc_proxy_port or orthanc_proxy_address"
            remedy += ", or add its users' networks to orthanc_https_sources and set the waiver"
        found.append(Problem(str(path), message, remedy, CLOSES_SITES))
    return list(dict.fromkeys(found))


def is_vendors(site: Path) -> bool:
    """Whether it is the link to the unmodified welcome page of Debian's package."""
    page = site.resolve()
    if page.parent.name != "sites-available" or not page.is_file():
        return False
    conffiles = try_output("dpkg-query", "--show", "--showformat", "${Conffiles}", "nginx-common").split()
    digest = hashlib.md5(page.read_bytes(), usedforsecurity=False).hexdigest()
    return (str(page), digest) in itertools.pairwise(conffiles)
