"""What the monitor makes of dpkg's and apt's texts. Real machines are in the scenario monitor."""

from __future__ import annotations

import gzip
import json
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.monitor import (
    packages,
    support,
    survey,
    vulnerabilities,
)

ROOT = Path(__file__).resolve().parents[2]
KNOWN: dict[str, Any] = json.loads((ROOT / "roles/orthanc_monitor/files/vulnerabilities.json").read_text())
ORTHANC_2026 = {f"CVE-2026-{number}" for number in range(5437, 5446)}
DCMTK_JULY = {f"CVE-2026-{number}" for number in (35505, 44628, 50003, 50254, 52868)}
STATUS = """Package: nginx-common
Status: install ok installed
Architecture: all
Source: nginx
Version: 1.22.1-9+deb12u11
Conffiles:
 /etc/nginx/nginx.conf {digest}
 /etc/nginx/gone.conf e5398edc0b51497dba606859fb13a86e
 /etc/nginx/old.conf e5398edc0b51497dba606859fb13a86e obsolete
Description: small, powerful, scalable web/proxy server - common files
 Nginx ("engine X") is a web server.

Package: orthanc-dicomweb
Status: hold ok half-configured
Version: 1.7+dfsg-6+b2

Package: libstdc++6
Status: install ok installed
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+deb12u1
Architecture: amd64

Package: exim4
Status: deinstall ok config-files
Version: 4.96-15
"""


def package(name: str, version: str, source: str = "", state: str = "installed") -> packages.Package:
    return packages.Package(name, version, source or name, version, "install", state)


def test_dpkg_s_status_is_read() -> None:
    found = packages.parse_status(STATUS)
    assert set(found) == {"nginx-common", "orthanc-dicomweb", "libstdc++6"}
    nginx = found["nginx-common"]
    assert (nginx.source, nginx.source_version) == ("nginx", "1.22.1-9+deb12u11")
    assert [path for path, _ in nginx.conffiles] == ["/etc/nginx/nginx.conf", "/etc/nginx/gone.conf"]
    rebuilt = found["orthanc-dicomweb"]
    assert (rebuilt.version, rebuilt.source_version) == ("1.7+dfsg-6+b2", "1.7+dfsg-6")
    assert (rebuilt.wanted, rebuilt.state) == ("hold", "half-configured")
    assert (found["libstdc++6"].source, found["libstdc++6"].source_version) == ("gcc-12", "12.2.0-14")


def test_a_changed_configuration_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "etc/nginx").mkdir(parents=True)
    (tmp_path / "etc/nginx/nginx.conf").write_text("x")
    for digest, changed in (("9dd4e461268c8034f5c8564e155c67a6", []), ("0" * 32, ["/etc/nginx/nginx.conf"])):
        nginx = packages.parse_status(STATUS.replace("{digest}", digest))["nginx-common"]
        assert packages.find_changed_conffiles(tmp_path, nginx) == changed


# as apt 2.6 and 3.0 say it
SIMULATED = """NOTE: This is only a simulation!
      apt-get needs root privileges for real execution.
Reading package lists...
The following packages will be upgraded:
  base-files libcivetweb1 libssl3t64
Inst base-files [13.8+deb13u1] (13.8+deb13u2 Debian:13.2/stable [amd64])
Inst linux-image-6.12.57+deb13-amd64 (6.12.57-1 Debian:13.2/stable [amd64])
Inst libssl3t64 [3.5.1-1] (3.5.4-1~deb13u1 Debian:13.2/stable, Debian-Security:13/stable-security [amd64])
Inst libc6:i386 [2.41-12] (2.41-12+deb13u1 Debian-Security:13/stable-security [i386]) []
Inst libcivetweb1 [1.16+dfsg-2] (1.16+dfsg-2+deb13u1 Debian:13.5/stable [amd64])
Conf base-files (13.8+deb13u2 Debian:13.2/stable [amd64])
"""


def test_apt_s_plan_is_read() -> None:
    found = packages.parse_simulation(SIMULATED)
    assert {name: one.security for name, one in found.items()} == {
        "base-files": False,
        "libssl3t64": True,
        "libc6": True,
        "libcivetweb1": False,
    }
    assert found["libcivetweb1"][1:3] == ("1.16+dfsg-2", "1.16+dfsg-2+deb13u1")


# as apt 3.0 said it on a machine of the test bed, one of two packages on hold: without and with --ignore-hold
HELD = """Reading package lists...
Building dependency tree...
Reading state information...
Calculating upgrade...
The following packages have been kept back:
  clinic-note
The following packages will be upgraded:
  libcivetweb1
1 upgraded, 0 newly installed, 0 to remove and 1 not upgraded.
Inst libcivetweb1 [1.16+dfsg-2+deb13u1] (1.16+dfsg-2+deb13u1+bed1 Debian-Security:stable-security [amd64])
Conf libcivetweb1 (1.16+dfsg-2+deb13u1+bed1 Debian-Security:stable-security [amd64])
"""
WITHOUT_HOLDS = "Inst clinic-note [1.0] (2.0 Debian-Security:stable-security [all])\n" + HELD


def test_what_is_on_hold_is_in_the_plan_without_holds() -> None:
    assert set(packages.parse_simulation(HELD)) == {"libcivetweb1"}
    assert set(packages.parse_simulation(WITHOUT_HOLDS)) == {"clinic-note", "libcivetweb1"}
    assert packages.parse_simulation(WITHOUT_HOLDS)["clinic-note"] == ("clinic-note", "1.0", "2.0", True)
    assert packages.parse_simulation("0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n") == {}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.16+dfsg-2", "1.16+dfsg-2+deb13u1"),
        ("3.6.7-9~deb12u4", "3.6.7-9"),
        ("1.12.7+dfsg-4", "1.12.10~"),
        ("1.9.7", "1.12.0~"),
        ("3.7.0+really3.7.0-7", "3.7.1~"),
    ],
)
def test_versions_are_compared_as_debian_does(older: str, newer: str) -> None:
    assert packages.is_older(older, newer)
    assert not packages.is_older(newer, older)
    assert not packages.is_older(older, older)


def test_what_is_no_version_is_not_compared() -> None:
    with pytest.raises(ValueError, match="dpkg cannot compare"):
        packages.is_older("one two", "1.0")


MAPS = """55d0-55e0 r-xp 00000000 08:01 1 /usr/sbin/Orthanc
7f00-7f10 r--p 00000000 08:01 2 /usr/share/zoneinfo/UTC
7f10-7f20 r-xp 00000000 08:01 3 /usr/lib/x86_64-linux-gnu/libcivetweb.so.1.16.0 (deleted)
7f20-7f30 r-xp 00000000 00:01 4 /memfd:jit (deleted)
7f30-7f40 rw-p 00000000 08:01 5 /var/lib/orthanc/db/index-shm (deleted)
7f40-7f50 r-xp 00000000 00:00 0 [vdso]
"""


def test_what_a_process_runs_is_known_from_its_maps() -> None:
    assert "/usr/sbin/Orthanc" in packages.list_loaded(MAPS)
    assert "/usr/share/zoneinfo/UTC" not in packages.list_loaded(MAPS)
    assert packages.list_replaced(MAPS) == ["/usr/lib/x86_64-linux-gnu/libcivetweb.so.1.16.0"]
    assert packages.list_replaced(MAPS.replace(" (deleted)", "")) == []


def test_a_file_s_package_is_found_whatever_usr_is(tmp_path: Path) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "libcivetweb1:amd64.list").write_text("/.\n/usr\n/usr/lib/x86_64-linux-gnu/libcivetweb.so.1.16.0\n")
    (info / "libz.list").write_text("/lib/x86_64-linux-gnu/libz.so.1\n")
    (info / "other.list").write_text("/usr/bin/other\n")
    paths = ["/usr/lib/x86_64-linux-gnu/libcivetweb.so.1.16.0", "/usr/lib/x86_64-linux-gnu/libz.so.1", "/opt/own.so"]
    assert packages.find_owners(tmp_path, paths) == {"libcivetweb1", "libz"}


def write_changelog(root: Path, name: str, text: bytes) -> None:
    directory = root / "usr/share/doc" / name
    directory.mkdir(parents=True)
    (directory / "changelog.Debian.gz").write_bytes(text)


def test_a_changelog_tells_of_its_own_version_alone(tmp_path: Path) -> None:
    text = b"civetweb (1.16+dfsg-2+deb13u1) trixie; urgency=medium\n\n  * CVE-2025-9648: x\n  * cve-2025-55763.patch\n"
    write_changelog(tmp_path, "libcivetweb1", gzip.compress(text))
    civetweb = package("libcivetweb1", "1.16+dfsg-2+deb13u1", "civetweb")
    assert packages.read_changelog(tmp_path, civetweb) == {"CVE-2025-9648", "CVE-2025-55763"}
    assert packages.read_changelog(tmp_path, package("libcivetweb1", "1.16+dfsg-2", "civetweb")) is None
    assert packages.read_changelog(tmp_path, package("orthanc", "1.0")) is None


@pytest.mark.parametrize("what", ["cut off", "no gzip", "a fifo"])
def test_a_changelog_that_is_none_ends_nothing(tmp_path: Path, what: str) -> None:
    write_changelog(tmp_path, "orthanc", {"cut off": gzip.compress(b"x" * 999)[:20]}.get(what, b"text"))
    path = tmp_path / "usr/share/doc/orthanc/changelog.Debian.gz"
    if what == "a fifo":
        path.unlink()
        os.mkfifo(path)
    assert packages.read_changelog(tmp_path, package("orthanc", "1.0")) is None


# --- vulnerabilities --------------------------------------------------------------------------------
DEBIAN: dict[str, tuple[list[tuple[str, str, str, set[str]]], set[str]]] = {
    "12": (
        [
            ("orthanc", "1.10.1+dfsg-2+deb12u1", "", {"CVE-2023-33466"}),
            ("libcivetweb1", "1.15+dfsg-4", "civetweb", set()),
            ("libdcmtk17", "3.6.7-9~deb12u4", "dcmtk", {"CVE-2026-12805"}),
        ],
        {*ORTHANC_2026, *DCMTK_JULY, "CVE-2025-15581", "CVE-2026-10528", "CVE-2025-55763", "CVE-2025-9648"},
    ),
    "13": (
        [
            ("orthanc", "1.12.7+dfsg-4", "", {"CVE-2023-33466"}),
            ("libcivetweb1", "1.16+dfsg-2+deb13u1", "civetweb", {"CVE-2025-55763", "CVE-2025-9648"}),
            ("libdcmtk19", "3.6.9-5+deb13u3", "dcmtk", DCMTK_JULY),
        ],
        {*ORTHANC_2026, "CVE-2025-15581", "CVE-2026-10528"},
    ),
    # its changelog names CVE-2026-10528, and takes the patch out again
    "the image": (
        [
            ("orthanc", "1.13.0+dfsg-1", "", set()),
            ("libcivetweb1", "1.16+dfsg-6", "civetweb", {"CVE-2025-55763", "CVE-2025-9648"}),
            ("libdcmtk20", "3.7.0+really3.7.0-7", "dcmtk", {*DCMTK_JULY, "CVE-2026-10528"}),
        ],
        {"CVE-2026-10528"},
    ),
}


@pytest.mark.parametrize("system", DEBIAN)
@pytest.mark.parametrize("with_changelogs", [True, False])
def test_a_system_s_open_vulnerabilities(system: str, with_changelogs: bool) -> None:
    installed, expected = DEBIAN[system]
    named = {name: ids for name, _, _, ids in installed}
    found = vulnerabilities.find_open(
        KNOWN,
        [package(name, version, source) for name, version, source, _ in installed],
        lambda one: named[one.name] if with_changelogs else None,
    )
    if not with_changelogs and system == "12":
        expected = {*expected, "CVE-2023-33466"}  # what Debian mended in it, its changelog alone can tell
    assert {one.id for one in found} == expected
    if system == "the image":
        assert [one.package for one in found] == ["libdcmtk20"]
    else:
        assert all(one.package != "libcivetweb1" for one in found) == (system == "13")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.10.0+dfsg-4", {*ORTHANC_2026, "CVE-2023-33466", "CVE-2025-15581", "CVE-2026-10528"}),
        ("1.12.2+dfsg-1build2", {*ORTHANC_2026, "CVE-2025-15581", "CVE-2026-10528"}),
        ("1.12.10+dfsg-1ubuntu1", {*ORTHANC_2026, "CVE-2026-10528"}),
    ],
)
def test_the_orthanc_of_ubuntu_s_releases(version: str, expected: set[str]) -> None:
    named: list[set[str] | None] = [set(), None]
    while named:
        found = vulnerabilities.find_open(KNOWN, [package("orthanc", version)], lambda _one: named[-1])
        assert {one.id for one in found} == expected
        named.pop()


def test_what_debian_mended_says_nothing_of_a_version_of_ubuntu_s() -> None:
    entry = next(one for one in KNOWN["vulnerabilities"] if one["id"] == "CVE-2026-35505")
    assert not vulnerabilities.is_open(entry, package("dcmtk", "3.6.9-5+deb13u3"), None)
    assert vulnerabilities.is_open(entry, package("dcmtk", "3.6.9-6ubuntu1"), None)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("1.12.9", {*ORTHANC_2026, "CVE-2025-15581", "CVE-2025-55763", "CVE-2026-10528"}),
        ("1.12.10", {*ORTHANC_2026, "CVE-2026-10528"}),
        ("1.12.11", {"CVE-2026-10528"}),
        ("1.13.0", set()),
    ],
)
def test_one_of_orthanc_s_own_builds(release: str, expected: set[str]) -> None:
    assert {one.id for one in vulnerabilities.find_open_in_release(KNOWN, release)} == expected


def test_the_list_says_what_each_means_and_what_to_do() -> None:
    for entry in KNOWN["vulnerabilities"]:
        assert packages.CVE.fullmatch(entry["id"])
        assert entry["url"] == f"https://security-tracker.debian.org/tracker/{entry['id']}"
        assert min(len(entry["summary"]), len(entry["remedy"])) > 30
    for entry in KNOWN["not_affected"]:
        assert packages.CVE.fullmatch(entry["id"])
        assert len(entry["reason"]) > 20
        assert packages.is_older(entry["below"], "9")


def test_they_are_summarised_by_package() -> None:
    made = [vulnerabilities.Open(name, "orthanc", "1.0", "", "", "") for name in ("CVE-1", "CVE-2")]
    made.append(vulnerabilities.Open("CVE-3", "dcmtk", "2.0", "", "", ""))
    assert vulnerabilities.summarise(made) == "orthanc 1.0: CVE-1, CVE-2; dcmtk 2.0: CVE-3"


def test_what_an_update_may_end_is_not_called_without_one() -> None:
    found = [{"id": "CVE-1", "package": "libcivetweb1"}, {"id": "CVE-2", "package": "libcivetweb1 of the container"}]
    assert survey.list_lasting(found, ["libcivetweb1"]) == found[1:]
    assert survey.list_lasting(found, []) == found


# --- what is due ------------------------------------------------------------------------------------
BUILD = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)"


@pytest.mark.parametrize(
    ("others", "version", "newer"),
    [
        ([], "6.1.76-1", ""),
        ([], "6.1.78-1", "linux-image-6.1.0-18-amd64 6.1.78-1"),
        ([("linux-image-6.1.0-17-amd64", "6.1.69-1")], "6.1.76-1", ""),
        ([("linux-image-6.1.0-20-amd64", "6.1.85-1")], "6.1.76-1", "linux-image-6.1.0-20-amd64 6.1.85-1"),
        ([("linux-image-6.1.0-20-rt-amd64", "6.1.85-1"), ("linux-image-amd64", "6.1.85-1")], "6.1.76-1", ""),
    ],
)
def test_a_newer_kernel_is_found(others: list[tuple[str, str]], version: str, newer: str) -> None:
    installed = [package("linux-image-6.1.0-18-amd64", version), *(package(*one) for one in others)]
    assert packages.find_newer_kernel(installed, "6.1.0-18-amd64", BUILD) == newer
    # a container, or a kernel of one's own
    assert packages.find_newer_kernel(installed, "6.8.0-1-generic", "#1 SMP") == ""


CSV = """version,codename,series,created,release,eol,eol-lts,eol-elts
11,Bullseye,bullseye,2019-07-06,2021-08-14,2024-08-14,2026-08-31,2031-06-30
12,Bookworm,bookworm,2021-08-14,2023-06-10,2026-07-11,2028-06-30,2033-06-30
13,Trixie,trixie,2023-06-10,2025-08-09
,Sid,sid,1993-08-16
"""
UBUNTU = """version,codename,series,created,release,eol,eol-server,eol-esm,eol-legacy
24.04 LTS,Noble Numbat,noble,2023-10-26,2024-04-25,2029-05-31,2029-05-31,2034-04-25,2036-04-25
"""


@pytest.mark.parametrize(
    ("system", "version", "last"),
    [
        ("debian", "11", date(2026, 8, 31)),
        ("debian", "12", date(2028, 6, 30)),
        ("debian", "13", None),
        ("debian", "", None),
        ("ubuntu", "24.04", date(2029, 5, 31)),
    ],
)
def test_the_end_of_a_system_s_support(tmp_path: Path, system: str, version: str, last: date | None) -> None:
    (tmp_path / "debian.csv").write_text(CSV)
    (tmp_path / "ubuntu.csv").write_text(UBUNTU)
    (tmp_path / "os-release").write_text(f'PRETTY_NAME="A system"\nID={system}\nVERSION_ID="{version}"\n')
    release = support.read_release(tmp_path / "os-release")
    assert release["PRETTY_NAME"] == "A system"
    assert support.find_support_end(release, tmp_path) == last
    with pytest.raises(FileNotFoundError):
        support.find_support_end({"ID": "arch"}, tmp_path)


def test_lists_that_nobody_asked_for_are_old(tmp_path: Path) -> None:
    assert packages.read_lists_age(1000, tmp_path) is None
    lists = tmp_path / "var/lib/apt/lists"
    (lists / "partial").mkdir(parents=True)
    (lists / "mirror_dists_trixie_main_binary-amd64_Packages").touch()
    for path, moment in ((lists / "partial", 500), (lists, 400)):
        os.utime(path, (moment, moment))
    assert packages.read_lists_age(1000, tmp_path) == 500


SIGNED = datetime(2026, 11, 28, 2, 53, tzinfo=UTC).timestamp()
WEEK = "Date: Sat, 28 Nov 2026 02:53:00 UTC\nValid-Until: Sat, 05 Dec 2026 02:53:00 UTC\n"
LATER = "Date: Sun, 29 Nov 2026 00:53:13 UTC\nValid-Until: Sun, 06 Dec 2026 00:53:13 UTC\n"
ENDLESS = "Date: Sat, 28 Nov 2026 02:53:00 UTC\n"  # Ubuntu's


@pytest.mark.parametrize(
    ("releases", "days", "age"),
    [
        ([WEEK], 6.5, 0),
        ([WEEK], 7.5, 7.5),
        ([WEEK, LATER], 7.5, 0),
        ([WEEK, ENDLESS], 7.5, 7.5),
        ([ENDLESS], 300, 0),
        ([], 300, 0),
    ],
)
def test_expired_lists_are_old_although_apt_has_just_asked(
    tmp_path: Path, releases: list[str], days: float, age: float
) -> None:
    """The mirrors are cut off, or a proxy answers with what was: apt leaves its stamps in any case."""
    lists, now = tmp_path / "var/lib/apt/lists", SIGNED + days * 86400
    (lists / "partial").mkdir(parents=True)
    (lists / "mirror_dists_trixie_main_binary-amd64_Packages").touch()
    for number, dates in enumerate(releases):
        text = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\n{dates}SHA256:\n ab 1 main\n"
        (lists / f"mirror{number}_dists_trixie-security_InRelease").write_text(text)
    for path in (lists / "partial", lists):
        os.utime(path, (now, now))
    assert packages.read_lists_age(now, tmp_path) == age * 86400


def test_a_machine_that_updates_itself_has_two_days_for_it() -> None:
    waiting, day = {"waiting": ["a 1 -> 2"], "unattended": True}, 86400.0
    due, seen = survey.list_due(waiting, {}, 10 * day)
    assert due == []
    due, seen = survey.list_due(waiting, seen, 11 * day)
    assert due == []
    due, seen = survey.list_due(waiting, seen, 12 * day)
    assert due == ["a 1 -> 2"]
    # another version of the same package begins anew
    due, _ = survey.list_due({**waiting, "waiting": ["a 1 -> 3"]}, seen, 12 * day)
    assert due == []
    due, _ = survey.list_due({**waiting, "unattended": False}, {}, 10 * day)
    assert due == ["a 1 -> 2"]
