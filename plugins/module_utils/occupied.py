# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is on a machine before its first deploy, is somebody else's, and would be taken over or left behind.

Nothing is changed. On the machine, standard library alone.
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

from ansible_collections.clinicops.orthanc.plugins.module_utils import neighbours, present
from ansible_collections.clinicops.orthanc.plugins.module_utils.neighbours import Port, Problem
from ansible_collections.clinicops.orthanc.plugins.module_utils.present import NAME

from .server.core.process import try_output
from .server.verify.exposure import OWN_SITES

DIRECTORY = Path("/var/lib/orthanc")  # Debian's package keeps its images in db-v6 below it
NGINX = Path("/etc/nginx")
CLOSES_SITES = "closes_sites"  # the name of the waiver
FIRST_PERSON = 1000  # Debian Policy 9.2.2: numbers from here on are of persons
MARKER = ".orthanc-storage"  # of a deploy
FILES = "[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*-*-*-*-*"
IMAGES = "SELECT count(*) FROM Resources WHERE resourceType = 4"


class Container(NamedTuple):
    """One of Orthanc's, with the directories of this machine that are mounted in it; `ours` is one of a deploy's."""

    name: str
    runs: bool
    mounted: list[Path]
    ours: bool = False


def list_problems(storage: Path, ports: list[Port], *, closes: bool = True) -> list[Problem]:
    """Everything that is in the way of a first deploy with this storage directory and these ports.

    `closes` tells whether a firewall lets in to them only whom they name.
    """
    every = list_containers()
    containers = [one for one in every if not one.ours]  # a first deploy may have come no further
    found = check_account()
    for directory in find_indexes([DIRECTORY, *mount_points(), *(path for one in containers for path in one.mounted)]):
        if directory.resolve() != storage.resolve():
            found += check_images(directory)
    found += [problem for one in containers for problem in check_container(one)]
    found += neighbours.check_listeners(ports, [one.name for one in every])
    return found + check_sites(ports=ports if closes else [])


# --- the account --------------------------------------------------------------------------------
def check_account(name: str = NAME) -> list[Problem]:
    """Whether the account or the group under which Orthanc is to run is a person's."""
    found = []
    group = next((one for one in grp.getgrall() if one.gr_name == name and one.gr_gid >= FIRST_PERSON), None)
    account = next((one for one in pwd.getpwall() if one.pw_name == name and one.pw_uid >= FIRST_PERSON), None)
    rename_group = f"groupmod --new-name NEW-NAME {name}" if group else ""
    if account:
        groups = " ".join(sorted(one.gr_name for one in grp.getgrall() if name in one.gr_mem)) or "none"
        who = f"number {account.pw_uid}, shell {account.pw_shell}, more groups: {groups}"
        what = f"is a person's ({who}), and a deploy would take it for Orthanc and lock it"
        # usermod refuses while something runs under it
        stop = [f"systemctl stop {unit}" for unit in list_services(account.pw_uid)]
        commands = [*stop, f"usermod --login NEW-NAME {name}", *([rename_group] if rename_group else [])]
        found.append(Problem(f"The account {name}", what, f"rename it: {' && '.join(commands)}"))
    elif group:
        what = f"is a person's (number {group.gr_gid}), and a deploy would let its members read the images"
        found.append(Problem(f"The group {name}", what, f"rename it: {rename_group}"))
    return found


def list_services(uid: int) -> list[str]:
    """Units of systemd's under which processes of this account run; what a log-in began is none."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                found.add(neighbours.unit_of(int(process.name)))
    return sorted(unit for unit in found if unit.endswith(".service") and not unit.startswith("user@"))


# --- images -------------------------------------------------------------------------------------
def mount_points() -> list[Path]:
    """Where disks of their own are mounted."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    return [
        Path(line.split()[1].replace("\\040", " ")) for line in lines if line.startswith("/dev/") or " zfs " in line
    ]


def find_indexes(roots: Iterable[Path]) -> list[Path]:
    """Directories with a file called index, in these and one below, and where a running Orthanc has one open."""
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
    """How many images an Orthanc has there; 0 where it is none of Orthanc's. Nothing is written there."""
    number = 0
    parts = [path for path in (directory / "index", directory / "index-wal") if path.is_file()]
    with contextlib.suppress(OSError, sqlite3.Error), tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        if sum(path.stat().st_size for path in parts) > shutil.disk_usage(scratch).free // 4:
            raise OSError("a copy could fill the disk of an Orthanc that runs")
        # it holds a lock; what it has not written back yet is in the second file
        for path in parts:
            shutil.copyfile(path, Path(scratch, path.name))
        with contextlib.closing(sqlite3.connect(Path(scratch, "index"))) as index:
            number = int(index.execute(IMAGES).fetchone()[0])
    # of an index that cannot be read the files tell
    return number or sum(1 for _unused in directory.glob(FILES))


def has_files(directory: Path) -> bool:
    return next(directory.glob(FILES), None) is not None


def check_images(directory: Path) -> list[Problem]:
    """Images that a deploy would leave where they are, and begin an empty archive elsewhere."""
    number = 0 if (directory / MARKER).exists() else count_images(directory)
    if not number:
        return []
    what = f"holds {number} image{'s' * (number != 1)} of an Orthanc that this collection did not deploy"
    remedy = f"set orthanc_storage_dir: {directory} to go on with them, or move the directory out of the way"
    if "/docker/volumes/" in str(directory):  # docker volume prune would take them
        remedy = "move its files to a directory of their own, and set orthanc_storage_dir to that to go on with them"
    elif not has_files(directory):
        remedy = "bring this index and the files of its StorageDirectory together, and set orthanc_storage_dir to that"
    return [Problem(str(directory), f"{what}, and a deploy would leave them behind", remedy)]


# --- containers ---------------------------------------------------------------------------------
def list_containers() -> list[Container]:
    """Those whose image or command is Orthanc's, or that have a deploy's name, running or not."""
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
    """One that runs has the ports, and a deploy's own container has the name."""
    if not one.runs and one.name != NAME:
        return []
    remedy = f"docker update --restart=no {one.name}; docker stop {one.name}"
    if one.name == NAME:
        remedy += f"; docker rename {NAME} {NAME}-before"
    message = "is an Orthanc that this collection did not deploy, and would be in the way"
    return [Problem(f"The container {one.name}", message, f"{remedy}. It stays, with all that is in it")]


# --- nginx --------------------------------------------------------------------------------------
def check_sites(nginx: Path = NGINX, ports: Iterable[Port] = ()) -> list[Problem]:
    """Sites beside which nginx would not start with the proxy's, that go round it, or that a deploy would take away.

    And those that the firewall would close to their users: `ports` are the ones that it guards.
    """
    found = []
    default = nginx / "sites-enabled/default"
    if default.is_symlink() and default.exists() and not is_vendors(default):
        move = f"mv {default} {default.with_name('NAME')}"
        found.append(Problem(str(default), "is not as its package left it, and a deploy takes that name away", move))
    sites = [nginx / "nginx.conf", *nginx.glob("conf.d/*.conf"), *nginx.glob("sites-enabled/*")]
    own = [nginx / "conf.d" / name for name in OWN_SITES]
    guarded = {port.number: port for port in ports if not port.is_for_everybody}
    for path in sorted(one for one in sites if one.is_file() and one not in own):
        if path == default and is_vendors(default):
            continue  # it goes
        lines = [line.partition("#")[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        text = " ".join(lines)
        found += check_listens(path, text, guarded)
        # as an upstream or a variable as well
        if re.search(r"(?<![\w.])(127\.0\.0\.1|0\.0\.0\.0|localhost|\[::1\]):8042\b", text):
            message = "leads to Orthanc past the proxy's roles and orthanc_admin_sources"
            found.append(Problem(str(path), message, "take that site out; the proxy has https://<orthanc_hostname>/"))
    return found


def check_listens(path: Path, text: str, guarded: dict[int, Port]) -> list[Problem]:
    """What a site's `listen` directives do to the proxy, and a deploy to the site's users."""
    found, closed = [], set()
    for words in (directive.split() for directive in re.findall(r"\blisten\s+([^;]+);", text)):
        address, _unused, number = words[0].rpartition(":") if re.search(r":\d+$", words[0]) else ("", "", words[0])
        if not number.isdigit():
            address, number = number, "80"  # nginx's own
        if re.match(r"unix:|127\.|localhost|\[::1\]", address):
            continue
        if int(number) in guarded:
            closed.add(int(number))
        if number != "443":
            continue
        if address not in ("", "*", "0.0.0.0", "[::]"):
            message = f"listens at {words[0]} alone, and nginx would give it what comes there for the proxy"
            found.append(Problem(str(path), message, f"write listen 443 there in place of {words[0]}"))
        elif {"default_server", "default"} & {*words}:
            message = "is nginx's default server at port 443, and so is the proxy's"
            found.append(Problem(str(path), message, "take default_server out there; its server_name is enough"))
    for number in sorted(closed):
        admitted = ", ".join(guarded[number].sources) or "this machine"
        message = f"listens at port {number}, which a deploy closes to all but {admitted}"
        remedy = "let it listen at another port"
        if number == 443:
            remedy += ", or add its users' networks to orthanc_https_sources and give the waiver"
        found.append(Problem(str(path), message, remedy, CLOSES_SITES))
    return list(dict.fromkeys(found))


def is_vendors(site: Path) -> bool:
    """Whether it is the link to the welcome page of Debian's package, which nobody edited."""
    page = site.resolve()
    if page.parent.name != "sites-available" or not page.is_file():
        return False
    conffiles = try_output("dpkg-query", "--show", "--showformat", "${Conffiles}", "nginx-common").split()
    digest = hashlib.md5(page.read_bytes(), usedforsecurity=False).hexdigest()
    return (str(page), digest) in itertools.pairwise(conffiles)
