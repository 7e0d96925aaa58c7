# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What dpkg and apt know of a machine, or of a container: installed packages, their changelogs, their updates.

A container's files are read through /proc/PID/root of a process in it: nothing is started inside.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterable
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..core.process import ask_program

MACHINE = Path("/")
STATUS = Path("var/lib/dpkg/status")
LISTS = Path("var/lib/apt/lists")
CHANGELOG_BYTES = 4 << 20  # no changelog of a package is longer; more is not read
CVE = re.compile(r"CVE-\d{4}-\d{4,}", re.IGNORECASE)
LEFT_BEHIND = (".dpkg-dist", ".dpkg-new", ".ucf-dist")  # a new configuration that was not taken, or not yet


class Package(NamedTuple):
    """A package of dpkg's. `source_version` is without the number of a binary rebuild (+b1)."""

    name: str
    version: str
    source: str
    source_version: str
    wanted: str
    state: str
    conffiles: tuple[tuple[str, str], ...] = ()


class Upgrade(NamedTuple):
    """A newer version that apt offers; `security`: from the archive of security updates."""

    name: str
    installed: str
    candidate: str
    security: bool


@lru_cache(maxsize=1024)
def is_older(version: str, other: str) -> bool:
    """Whether a version comes before another in the order of deb-version(7). ValueError for what is not a version."""
    done = ask_program("dpkg", "--compare-versions", version, "lt", other)
    if done.status > 1 or done.errors:
        raise ValueError(f"dpkg cannot compare {version!r} with {other!r}: {done.errors}")
    return done.status == 0


# --- what is installed ------------------------------------------------------------------------------
def parse_status(text: str) -> dict[str, Package]:
    """The packages of dpkg's status file whose files are there, by name; of several architectures the first."""
    found: dict[str, Package] = {}
    for part in text.split("\n\n"):
        fields: dict[str, str] = dict(re.findall(r"^([A-Za-z-]+): *(.*(?:\n[ \t].*)*)", part, re.MULTILINE))
        wanted, _unused, state = [*fields.get("Status", "").split(), "", "", ""][:3]
        name, version = fields.get("Package", ""), fields.get("Version", "")
        if not name or not version or state in ("", "not-installed", "config-files"):
            continue
        source, _unused, of_source = fields.get("Source", name).partition(" ")
        conffiles = tuple(
            (words[0], words[1])
            for words in map(str.split, fields.get("Conffiles", "").splitlines())
            if len(words) == 2  # others are obsolete, or of the version to come
        )
        plain = of_source.strip("()") or re.sub(r"\+b\d+$", "", version)
        found.setdefault(name, Package(name, version, source, plain, wanted, state, conffiles))
    return found


def read_installed(root: Path = MACHINE) -> dict[str, Package]:
    """The packages of a system. FileNotFoundError where dpkg keeps none."""
    return parse_status((root / STATUS).read_text(encoding="utf-8", errors="replace"))


def list_loaded(maps: str) -> set[str]:
    """Programs and libraries that a process runs, from the text of its /proc/PID/maps."""
    fields = [line.split(maxsplit=5) for line in maps.splitlines()]
    return {one[5] for one in fields if len(one) == 6 and "x" in one[1] and one[5].startswith("/")}


def list_replaced(maps: str) -> list[str]:
    """Programs and libraries of packages that a process still runs after an update has replaced them."""
    gone = {path.removesuffix(" (deleted)") for path in list_loaded(maps) if path.endswith(" (deleted)")}
    return sorted(path for path in gone if path.startswith(("/usr/", "/lib/", "/opt/")))


def find_owners(root: Path, paths: Collection[str]) -> set[str]:
    """Names of the packages that brought these files; a file of no package has none."""
    # a merged /usr: the package says /lib, the kernel /usr/lib
    wanted = {*paths, *(path.removeprefix("/usr") for path in paths)}
    owners = set()
    for file in (root / "var/lib/dpkg/info").glob("*.list"):
        if not wanted.isdisjoint(file.read_text(encoding="utf-8", errors="replace").splitlines()):
            owners.add(file.stem.partition(":")[0])
    return owners


def read_changelog(root: Path, package: Package) -> set[str] | None:
    """CVE ids that the changelog of the installed version names; None where it is not there or another version's.

    Small images leave changelogs out (dpkg's path-exclude).
    """
    path = root / "usr/share/doc" / package.name / "changelog.Debian.gz"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(handle, "rb") as raw:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            text = str(gzip.GzipFile(fileobj=raw).read(CHANGELOG_BYTES), errors="replace")
    except (OSError, EOFError):
        return None
    first = text.partition("\n")[0]
    if f"({package.source_version})" not in first:
        return None
    return {found.upper() for found in CVE.findall(text)}


# --- what is offered ----------------------------------------------------------------------------------
DATES = re.compile(r"^(Date|Valid-Until): *(.+)$", re.MULTILINE)
RELEASE_CHARACTERS = 4096  # of a Release file, in which the dates are; checksums follow
INSTALL = re.compile(r"^Inst (\S+) \[([^\]]+)\] \((\S+) (.*?) ?\[[^\]]*\]\)", re.MULTILINE)


def parse_simulation(text: str) -> dict[str, Upgrade]:
    """The upgrades that `apt-get --simulate` would make, by the package's name."""
    found = {}
    for name, installed, candidate, origins in INSTALL.findall(text):
        plain = name.partition(":")[0]
        found[plain] = Upgrade(plain, installed, candidate, "security" in origins.lower())
    return found


def simulate_upgrade(*options: str) -> dict[str, Upgrade]:
    """The upgrades that apt would make now, from the lists that it has. OSError with its words where it makes none."""
    done = ask_program("apt-get", "--simulate", "-o", "Debug::NoLocking=1", *options, "dist-upgrade")
    if done.status:
        raise OSError(f"apt cannot plan updates: {' '.join(done.errors.split())[:300]}")
    return parse_simulation(done.output)


def find_changed_conffiles(root: Path, package: Package) -> list[str]:
    """Configuration files of a package that a person changed: with them dpkg asks, or unattended-upgrades skips."""
    changed = []
    for name, digest in package.conffiles:
        try:
            content = (root / name.lstrip("/")).read_bytes()
        except OSError:
            continue  # removed on purpose, which dpkg respects
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            changed.append(name)
    return changed


def find_left_behind(directory: Path = MACHINE / "etc") -> list[str]:
    """Configuration files that came with an update and were not installed."""
    return sorted(
        os.path.join(place, name)
        for place, _unused, names in os.walk(directory)
        for name in names
        if name.endswith(LEFT_BEHIND)
    )


def read_validity(root: Path = MACHINE) -> tuple[float, float] | None:
    """When the newest lists of security updates were signed, and until when they are valid; None where they do not say
    it, as Ubuntu's."""
    found = []
    for path in (root / LISTS).glob("*security*Release"):
        with open(path, encoding="utf-8", errors="replace") as file:
            dates = dict(DATES.findall(file.read(RELEASE_CHARACTERS)))
        if len(dates) == 2:
            found.append((read_moment(dates["Date"]), read_moment(dates["Valid-Until"])))
    return max(found, default=None)


def read_moment(text: str) -> float:
    """A date of a Release file, such as Sat, 28 Nov 2026 02:53:00 UTC, in seconds since 1970."""
    return parsedate_to_datetime(text).timestamp()


def read_lists_age(now: float, root: Path = MACHINE) -> float | None:
    """Seconds since apt last asked for its lists, or, once these have expired, since they were signed; None where it
    has none. apt asks in vain where the mirrors are cut off, or a proxy answers with what was."""
    if not any((root / LISTS).glob("*Packages*")):
        return None
    periodic = root / "var/lib/apt/periodic"
    places = (periodic / "update-success-stamp", periodic / "update-stamp", root / LISTS, root / LISTS / "partial")
    asked = max(path.stat().st_mtime for path in places if path.exists())
    signed, until = read_validity(root) or (asked, now)
    return now - (signed if until < now else asked)


# --- what is due --------------------------------------------------------------------------------------
KERNEL = re.compile(r"linux-image-(\d[^-]*(?:-\d+)?)-(.+)")


def find_newer_kernel(installed: Iterable[Package], release: str, build: str) -> str:
    """The newer kernel of the same flavour that is installed and does not run, such as `linux-image-… 6.12.57-1`.

    `release` and `build` are uname's -r and -v. Empty where there is none, or where the running kernel is not a
    package's, as in a container.
    """
    kernels = {package.name: package for package in installed if KERNEL.fullmatch(package.name)}
    own = kernels.get(f"linux-image-{release}")
    if own is None:
        return ""
    running = re.search(r"Debian (\S+)", build)
    if running and is_older(running[1], own.version):
        return f"{own.name} {own.version}"
    newest = own
    for name, package in kernels.items():
        if KERNEL.sub(r"\2", name) == KERNEL.sub(r"\2", own.name) and is_older(newest.version, package.version):
            newest = package
    return "" if newest is own else f"{newest.name} {newest.version}"
