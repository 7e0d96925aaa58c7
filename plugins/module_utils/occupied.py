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
import json
import os
import pwd
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

NAME = "orthanc"  # of the account and of the container that a deploy makes
DIRECTORY = Path("/var/lib/orthanc")  # Debian's package keeps its images in db-v6 below it
NGINX = Path("/etc/nginx")
FIRST_PERSON = 1000  # Debian Policy 9.2.2: numbers from here on are of persons
OURS = "/etc/orthanc/site/orthanc.json"
MARKER = ".orthanc-storage"  # of a deploy
FILES = "[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*-*-*-*-*"
IMAGES = "SELECT count(*) FROM Resources WHERE resourceType = 4"


class Problem(NamedTuple):
    """`what message. Remedy: remedy.` is a sentence."""

    what: str
    message: str
    remedy: str


class Container(NamedTuple):
    """One of Orthanc's, with the directories of this machine that are mounted in it."""

    name: str
    runs: bool
    mounted: list[Path]


def list_problems(storage: Path) -> list[Problem]:
    """Everything that is in the way of a first deploy with this storage directory."""
    containers = list_containers()
    found = check_account()
    for directory in find_indexes([DIRECTORY, *mount_points(), *(path for one in containers for path in one.mounted)]):
        if directory.resolve() != storage.resolve():
            found += check_images(directory)
    found += [problem for one in containers for problem in check_container(one)]
    return found + check_sites()


# --- the account --------------------------------------------------------------------------------
def check_account(name: str = NAME) -> list[Problem]:
    """Whether the account under which Orthanc is to run is a person's."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        return []
    if account.pw_uid < FIRST_PERSON:
        return []
    groups = " ".join(sorted(group.gr_name for group in grp.getgrall() if name in group.gr_mem)) or "none"
    who = f"number {account.pw_uid}, shell {account.pw_shell}, more groups: {groups}"
    what = f"is a person's ({who}), and a deploy would take it for Orthanc and lock it"
    return [Problem(f"The account {name}", what, f"rename it: usermod --login NEW-NAME {name}")]


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
    return number or sum(1 for _ in directory.glob(FILES))


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
    """Those whose image or command is Orthanc's, or that have a deploy's name, but for a deploy's own."""
    listed = run("docker", "ps", "--all", "--no-trunc", "--format", "{{.Names}}\t{{.Image}}\t{{.Command}}")
    found = []
    for name, image, command in (line.split("\t", 2) for line in listed.splitlines()):
        if name != NAME and NAME not in f"{image.rpartition('/')[2]} {command}".lower():
            continue
        shown: list[dict[str, Any]] = json.loads(run("docker", "inspect", "--type", "container", name) or "[]")
        for one in shown:
            if one["Config"].get("Cmd") == [OURS]:  # of a first deploy that came no further
                continue
            mounted = [Path(mount["Source"]) for mount in one["Mounts"] if mount.get("Source")]
            found.append(Container(name, bool(one["State"]["Running"]), mounted))
    return found


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
def check_sites(nginx: Path = NGINX) -> list[Problem]:
    """Sites beside which nginx would not start with the proxy's, that go round it, or that a deploy would take away."""
    found = []
    default = nginx / "sites-enabled/default"
    if default.is_symlink() and default.exists() and not is_vendors(default):
        move = f"mv {default} {default.with_name('NAME')}"
        found.append(Problem(str(default), "is not as its package left it, and a deploy takes that name away", move))
    sites = [*nginx.glob("conf.d/*.conf"), *nginx.glob("sites-enabled/*")]
    for path in sorted(one for one in sites if one.is_file()):
        lines = [line.partition("#")[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        text = " ".join(lines)
        if re.search(r"\blisten\s[^;]*\b443\b[^;]*\bdefault_server\b", text):
            message = "is nginx's default server at port 443, and so is the proxy's"
            found.append(Problem(str(path), message, "take default_server out there; its server_name is enough"))
        # as an upstream or a variable as well
        if re.search(r"(?<![\w.])(127\.0\.0\.1|0\.0\.0\.0|localhost|\[::1\]):8042\b", text):
            message = "leads to Orthanc past the proxy's roles and orthanc_admin_sources"
            found.append(Problem(str(path), message, "take that site out; the proxy has https://<orthanc_hostname>/"))
    return found


def is_vendors(site: Path) -> bool:
    """Whether it is the link to the welcome page of Debian's package, which nobody edited."""
    page = site.resolve()
    if page.parent.name != "sites-available" or not page.is_file():
        return False
    conffiles = run("dpkg-query", "--show", "--showformat", "${Conffiles}", "nginx-common").split()
    digest = hashlib.md5(page.read_bytes(), usedforsecurity=False).hexdigest()
    return (str(page), digest) in itertools.pairwise(conffiles)


def run(*command: str) -> str:
    """What the command says, or nothing where it fails or is not there."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
