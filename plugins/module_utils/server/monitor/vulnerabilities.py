# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which known vulnerabilities are open in what runs: a list made by hand, and the packages' own changelogs.

The list says what a changelog cannot: which vulnerabilities there are, in which version the authors fixed each,
and where a changelog names one that is not fixed. What a distribution has fixed in its own version is in its
changelog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .packages import Package, is_older

Read = Callable[[Package], "set[str] | None"]


class Open(NamedTuple):
    """A vulnerability of an installed package that is not fixed."""

    id: str
    package: str
    version: str
    summary: str
    remedy: str
    url: str


def is_open(entry: dict[str, Any], package: Package, named: set[str] | None) -> bool:
    """Whether a package has the vulnerability; `named` are the ids of its changelog, None where it has none."""
    version = package.source_version
    if is_older(version, f"{entry.get('since', '0')}~") or not is_older(version, f"{entry['fixed_in']}~"):
        return False
    if entry.get("changelog_misleads"):
        return True
    if named is not None:
        return entry["id"] not in named
    # versions of Debian's, which say nothing about one of Ubuntu's
    mended: list[str] = [] if "ubuntu" in version else entry.get("mended_in", [])
    return all(is_older(version, one) for one in mended)


def find_open(known: dict[str, Any], packages: Iterable[Package], read_changelog: Read) -> list[Open]:
    """The open vulnerabilities of these packages, one a source package, in the order of the list."""
    by_source: dict[str, Package] = {}
    for package in packages:
        by_source.setdefault(package.source, package)
    named: dict[str, set[str] | None] = {}
    found = []
    for entry in known["vulnerabilities"]:
        watched = by_source.get(entry["source"])
        if watched is None:
            continue
        if watched.source not in named:
            named[watched.source] = read_changelog(watched)
        if is_open(entry, watched, named[watched.source]):
            found.append(describe(entry, watched.name, watched.version))
    return found


def find_open_in_release(known: dict[str, Any], version: str) -> list[Open]:
    """The open vulnerabilities of one of Orthanc's own builds, which hold their libraries and no packages.

    What no release note says of such a build is left out.
    """
    return [
        describe(entry, "Orthanc", version)
        for entry in known["vulnerabilities"]
        for fixed in [entry["fixed_in"] if entry["source"] == "orthanc" else entry.get("built_in")]
        if fixed and is_older(version, f"{fixed}~") and not is_older(version, f"{entry.get('since_built_in', '0')}~")
    ]


def describe(entry: dict[str, Any], package: str, version: str) -> Open:
    """The entry of the list, of this package."""
    return Open(entry["id"], package, version, entry["summary"], entry["remedy"], entry["url"])


def summarise(found: Iterable[Open]) -> str:
    """A line for a person: the ids by package."""
    grouped: dict[str, list[str]] = {}
    for one in found:
        grouped.setdefault(f"{one.package} {one.version}", []).append(one.id)
    return "; ".join(f"{package}: {', '.join(ids)}" for package, ids in grouped.items())
