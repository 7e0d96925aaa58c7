# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an uninstall finds on the machine: what goes, what stays, and why it must not begin (docs/uninstall.md).

Runs on the machine, standard library only.
"""

from __future__ import annotations

import os
import pwd
import shlex
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import (
    adoption,
    distribution,
    indexes,
    occupied,
    present,
    removal,
    upgrade,
)
from ansible_collections.clinicops.orthanc.plugins.module_utils.neighbours import Problem

from .server.backup import restic
from .server.backup.settings import ARCHIVE, CONFIGURATION, OURS, STOPPED, Settings
from .server.core import nftables, words
from .server.core.errors import Busy, Refused
from .server.core.files import read_object
from .server.core.locks import hold_lock
from .server.core.process import try_output
from .server.core.settings import BACKUP, FACTS
from .server.orthanc.layout import FILES, FOLDERS, VERSION

DROP_IN = removal.SYSTEMD / f"{adoption.UNIT}.d/clinicops.conf"
RESTORE = "restore.json"  # while a restore is not complete
LAST_COPY = "removes_last_copy"  # the name of the waiver
WELCOME = adoption.NGINX / "sites-enabled/default"
# images that came meanwhile and that the old Orthanc did not take when it was brought back
KEPT = {"an upgrade": upgrade.DIRECTORY, "an adoption": adoption.BEFORE}
LOGS = "/var/log/nginx/orthanc_*.log"
SHELL = "/usr/sbin/nologin"


Made = dict[str, list[str]]  # of a role: units, acting, files and empty


class Clinic(NamedTuple):
    """What the inventory says: directories, what each role makes, in the order of a deploy, packages that a deploy
    installs, and what else goes with its waiver."""

    storage: Path
    worklist: Path
    made: list[Made]
    packages: list[str]
    images_go: bool = False
    backups_go: bool = False


# --- why it must not begin ----------------------------------------------------------------------
def find_problems(clinic: Clinic) -> list[Problem]:
    """Why nothing may be removed."""
    return [
        *find_strangers(),
        *find_unfinished(),
        *find_differences(clinic),
        *find_inside(clinic),
        *find_last_copy(clinic),
    ]


def find_strangers() -> list[Problem]:
    """An Orthanc that another than this collection runs in the place of a deploy's."""
    found = []
    what = "is an Orthanc that this collection did not deploy"
    # from the first moment of a deploy to the last of an uninstall it has the drop-in, or is masked
    if adoption.read_unit(adoption.UNIT, "LoadState") == "loaded" and not DROP_IN.exists():
        remedy = "name the right server; or, where it is not used: systemctl disable --now orthanc.service"
        remedy += " && systemctl mask orthanc.service"
        found.append(Problem(adoption.UNIT, what, remedy))
    container = present.inspect(present.NAME)
    if container and not is_ours(container):
        remedy = f"name the right server; or, where it is not used: docker stop {present.NAME}"
        remedy += f" && docker rename {present.NAME} {present.NAME}-before"
        found.append(Problem(f"The container {present.NAME}", what, remedy))
    return found


def is_ours(container: dict[str, object]) -> bool:
    """Whether a deploy made the container, from what `docker inspect` says."""
    config = container.get("Config")
    return isinstance(config, dict) and config.get("Cmd") == [present.CONFIGURATION]


def find_unfinished() -> list[Problem]:
    """What only the programs of a deploy can finish, or what is running."""
    found = []
    step = adoption.Notes.read().step
    if step in ("switching", "switched", "returning"):
        found.append(Problem("The adoption of the old Orthanc", f"is not complete ({step})", "deploy again first"))
    step = upgrade.Notes.read().step
    if step in upgrade.UNFINISHED:
        found.append(Problem("The upgrade of Orthanc", f"is not complete ({step})", "run the upgrade again first"))
    for name, what, command in (
        (RESTORE, "A restore", "orthanc-backup restore"),
        (STOPPED, "A backup", "orthanc-backup run"),
    ):
        if (BACKUP / name).exists():
            message = "is unfinished, and only orthanc-backup can finish it"
            found.append(Problem(what, message, f"run {command} on the server"))
    for path in sorted(BACKUP.glob("*.lock")):
        try:
            if path.name != "ledger.lock":  # of seconds
                with hold_lock(path, seconds=0):
                    pass
        except Busy:
            found.append(Problem(f"orthanc-backup {path.stem}", "is running", "wait until it has finished"))
    return found


def find_differences(clinic: Clinic) -> list[Problem]:
    """Directories of the inventory that are not those of the server."""
    facts = read_object(FACTS)
    found = []
    for setting, fact, given in (
        ("orthanc_storage_dir", "storage", clinic.storage),
        ("orthanc_worklist_dir", "worklist_served", clinic.worklist),
    ):
        if facts.get(fact, str(given)) != str(given):
            message = f"is {given}, but this server was deployed with {facts[fact]}"
            found.append(Problem(setting, message, "correct it in the inventory, or name the right server"))
    return found


def find_inside(clinic: Clinic) -> list[Problem]:
    """Directories that go and have data in them that stay."""
    try:
        removal.check_paths([path for one in clinic.made for path in one["files"]], [clinic.storage, clinic.worklist])
    except Refused as error:
        message, _unused, remedy = str(error).partition(". Remedy: ")
        return [Problem("A directory that goes:", message, remedy.rstrip("."))]
    return []


def find_last_copy(clinic: Clinic) -> list[Problem]:
    """Images that would go without a proven backup, and backups that cannot be removed."""
    found = []
    if clinic.images_go and has_images(clinic.storage) and not read_proven():
        message = "is set, but no backup of this server was ever proven: its images may be the last copy"
        remedy = "prove one with playbooks/restore_check.yml, or leave the images"
        found.append(Problem("orthanc_waivers.removes_images", message, remedy, LAST_COPY))
    if clinic.backups_go and CONFIGURATION.exists():
        try:
            settings = Settings.read(CONFIGURATION)
            restic.list_snapshots(settings)
            if settings.append_only:
                message = "is set, but this server may only add to its repository (orthanc_backup_append_only)"
                remedy = "remove the backups where the repository is, and the waiver"
                found.append(Problem("orthanc_waivers.removes_backups", message, remedy))
        except Refused as error:
            message, _unused, remedy = str(error).rstrip(".").partition(" Remedy: ")
            found.append(Problem("The repository of the backups", f"does not answer: {message.rstrip('.')}", remedy))
    return found


# --- the backups and the images -----------------------------------------------------------------
def read_proven() -> str:
    """The day of the last restore check that succeeded, such as 2026-08-01; empty where there was none."""
    epoch = distribution.read_proof(BACKUP)
    return f"{datetime.fromtimestamp(epoch):%Y-%m-%d}" if epoch else ""


def has_images(storage: Path) -> bool:
    """Whether Orthanc has any in this directory."""
    return bool(occupied.has_files(storage))


def tell(clinic: Clinic) -> list[str]:
    """What a person must know before the name of the clinic is typed."""
    if not has_images(clinic.storage):
        return []
    if not CONFIGURATION.exists():
        return ["There is no backup of the images, or its settings were removed already."]
    proven = read_proven()
    if not proven:
        return ["No backup of this server was ever proven. Remedy: run playbooks/restore_check.yml first."]
    return [f"The last restore check that succeeded was on {proven}; images that came since may not be in a backup."]


def list_archive(storage: Path, worklist: Path) -> list[Path]:
    """The index, the images, what was set aside of them, and the worklists; nothing else in these directories."""
    if not storage.is_dir():
        return []
    found = [path for path in storage.glob(FOLDERS) if path.is_dir()]
    found += [storage / f"index{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]
    found += [path for path in storage.iterdir() if path.name.startswith(OURS)]
    found += [storage / name for name in (ARCHIVE, VERSION)]
    paths = [*sorted(found), *sorted(worklist.glob("*.wl")), worklist / ".spool"]
    return [path for path in paths if os.path.lexists(path)]


def list_lost(clinic: Clinic) -> list[str]:
    """What goes for good, since the inventory waives it: what, how much and where; without what is no longer there."""
    said = []
    if clinic.images_go and list_archive(clinic.storage, clinic.worklist):
        sizes = [path.stat().st_size for path in clinic.storage.glob(FILES)]
        items = words.say_count(len(list(clinic.worklist.glob("*.wl"))), "worklist item")
        files = words.say_count(len(sizes), "file")
        said.append(f"{files} of images, {words.say_size(sum(sizes))}, and the index, in {clinic.storage}")
        said.append(f"{items} in {clinic.worklist}")
    if clinic.backups_go and CONFIGURATION.exists():
        said += list_lost_backups()
    return said


def list_lost_backups() -> list[str]:
    """The same of the backups; nothing where the repository does not answer, for then nothing goes (find_last_copy)."""
    try:
        settings = Settings.read(CONFIGURATION)
        snapshots = words.say_count(len(restic.list_snapshots(settings)), "backup")
    except Refused:
        return []
    return [f"{snapshots} of {settings.host} in {settings.repository}"]


def forget_backups(settings: Settings) -> int:
    """Removes every snapshot of this server from its repository, and what only they needed. Returns how many."""
    ids = [str(one["id"]) for one in restic.list_snapshots(settings)]
    if ids:
        restic.forget_snapshots(settings, ids)
        restic.call_restic(settings, "prune", "--quiet")
    return len(ids)


# --- what goes, and what stays ------------------------------------------------------------------
def list_going(clinic: Clinic) -> list[str]:
    """What is on the machine of what the roles make, in the order in which it goes."""
    found: list[Path] = []
    for one in reversed(clinic.made):
        found += removal.list_units(one["units"])
        found += removal.list_paths([*one["acting"], *one["files"]])
    said = [str(path) for path in found]
    if has_container():
        said.append(f"the container {present.NAME}")
    if try_output("nft", "list", *nftables.TABLE.split()):
        said.append(f"the firewall's {nftables.TABLE}")
    return said + (["the account orthanc"] if has_account() else [])


def has_container() -> bool:
    """Whether the container of a deploy is there."""
    container = present.inspect(present.NAME)
    return bool(container) and is_ours(container)


def has_network() -> bool:
    """Whether Docker has the network of that name, and only a deploy's container in it."""
    used = "{{range .Containers}}{{.Name}} {{end}}"
    names = try_output("docker", "network", "inspect", f"--format={used}-", present.NAME).split()
    return bool(names) and {*names} <= {"-", present.NAME}


def has_account() -> bool:
    """Whether the account is there as a deploy makes it, and no package has it too."""
    try:
        account = pwd.getpwnam(present.NAME)
    except KeyError:
        return False
    ours = account.pw_uid < occupied.FIRST_PERSON and (account.pw_dir, account.pw_shell) == (
        str(occupied.DIRECTORY),
        SHELL,
    )
    status = try_output("dpkg-query", "--show", "--showformat", "${db:Status-Status}", present.NAME)
    return ours and status in ("", "not-installed")


def list_staying(clinic: Clinic) -> list[str]:
    """What stays on the machine, each with the command that removes it where that is safe."""
    said = []
    if not clinic.images_go and (has_images(clinic.storage) or (clinic.storage / "index").exists()):
        count = sum(1 for _unused in clinic.storage.glob(FILES))
        said.append(f"{count} files of images, and the index, in {clinic.storage}; worklists in {clinic.worklist}")
    said += list_arrived()
    if not clinic.backups_go and (repository := read_object(CONFIGURATION).get("repository")):
        said.append(f"the backups in {repository}; its password is orthanc_backup_password of the inventory: keep it")
    installed = [name for name in dict.fromkeys(clinic.packages) if adoption.is_installed(name)]
    if present.NAME in installed:
        said.append(
            "the package orthanc, masked, with its account. Do not purge it: from Debian's next release on, that"
            f" removes {occupied.DIRECTORY} with all images"
        )
    others = [name for name in installed if not name.startswith("orthanc")]
    if others:
        command = shlex.join(["apt", "remove", *others])
        said.append(
            f"packages that a deploy needs and that may have been there before. If nothing else does: {command}"
        )
    container = present.inspect(present.NAME)
    if container and is_ours(container):
        image = container["Config"]["Image"]
        said.append(f"the image {image}. If no other container needs it: docker image rm {image}")
    page = adoption.NGINX / "sites-available/default"
    if page.exists() and not os.path.lexists(WELCOME):
        said.append(f"nginx without its welcome page. To have it again: ln -s {page} {WELCOME}")
    if any(Path("/").glob(LOGS.lstrip("/"))):
        said.append(f"the logs {LOGS}")
    return said


def list_arrived() -> list[str]:
    """The images that are in no Orthanc: how many, where, and when they came. No waiver removes them."""
    said = []
    for when, kept in KEPT.items():
        directory = kept / indexes.ARRIVED
        if count := indexes.count_arrived(kept):
            what = f"{words.say_count(count, 'image')} in {directory} that came during {when} and that no Orthanc has"
            said.append(f"{what}. Once stored elsewhere: rm -r {directory}")
    return said


def list_offers(before: Path = adoption.BEFORE) -> list[str]:
    """How to bring back what an adoption had put away, as commands; empty where nothing was adopted."""
    notes = adoption.Notes.read(before)
    if notes.step != "adopted":
        return []
    package = not notes.renamed
    said = []
    if package:
        said.append(f"the configuration files of the package go first: find {adoption.ETC} -maxdepth 1 -type f -delete")
    if (before / "etc").is_dir():
        # not cp, which would give /etc itself the mode of the kept directory
        copy = f"tar --directory {before} --create etc | tar --directory / --extract --no-overwrite-dir"
        said.append(f"configuration, units and sites: {copy} && systemctl daemon-reload")
    said += [f"a site: ln -s {shlex.join([target, path])}" for path, target in sorted(notes.links.items())]
    if notes.nginx:
        said.append("nginx, which ran: systemctl enable --now nginx.service")
    if not package:
        if any(notes.files_owner):  # a container of root reads every file
            owner = ":".join(map(str, notes.files_owner))
            images = shlex.quote(f"{notes.storage}/")
            said.append(f"the owner of its images: chown --recursive --no-dereference {owner} {images}")
        said.append(f"the container: docker update --restart={notes.policy or 'no'} {notes.renamed}")
        said.append(f"and its start: docker start {notes.renamed}")
    else:
        start = "enable --now" if notes.enabled == "enabled" else "start"
        said.append(f"Orthanc: systemctl unmask {adoption.UNIT} && systemctl {start} {adoption.UNIT}")
    index = "an Orthanc that is older than the one that was deployed cannot read the index as it is now"
    if notes.index:
        index = f"the old Orthanc has an index of its own in {notes.index}, without what came since the adoption"
    return [
        *said,
        f"{index}; and the old one is as open as it was",
        f"once nothing of this is needed: rm -r {before}",
    ]
