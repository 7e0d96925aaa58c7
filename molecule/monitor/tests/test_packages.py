"""Updates, restarts, the end of a system, and known vulnerabilities: of real packages, by their changelogs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import bed
import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.monitor.packages import is_older
from backups import must, service
from clients import ROOT, wait_for
from testinfra.utils.ansible_runner import AnsibleRunner
from updates import REPOSITORY, build, offered, quiet_config, rebuild
from watched import docker, healthy, look, quiet, state
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
KNOWN: dict[str, Any] = json.loads((ROOT / "roles/orthanc_monitor/files/vulnerabilities.json").read_text())
SOURCES = ("orthanc", "civetweb", "dcmtk", "nginx", "restic")
PACKAGED = "orthanc-vuln-packaged"  # Debian 13 with its own Orthanc: in this scenario Debian 13 has the container


@pytest.fixture(
    scope="module", params=[testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)]
)
def machine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    quiet(name)
    return name


# --- vulnerabilities --------------------------------------------------------------------------------
# what a person would do: zgrep in each package's changelog
READ = r"""
dpkg-query -W -f '${source:Package} ${Package} ${source:Version} ${Status}\n' | grep ' installed$' |
while read -r source package version _; do
  case $source in orthanc|civetweb|dcmtk|nginx|restic) ;; *) continue ;; esac
  log=/usr/share/doc/$package/changelog.Debian.gz
  [ -e "$log" ] || continue
  echo "$source $version $(zcat $log | grep -ioE 'CVE-[0-9]{4}-[0-9]{4,}' | tr a-z A-Z | sort -u | tr '\n' ' ')"
done | sort -u
"""


def read_changelogs(*where: str) -> dict[str, tuple[str, set[str]]]:
    """Version and CVE ids of the changelog by source package."""
    done = bed.docker("exec", *where, "sh", "-c", READ)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {source: (version, set(ids)) for source, version, *ids in lines}


@pytest.fixture(scope="module")
def systems() -> Iterator[dict[str, tuple[dict[str, tuple[str, set[str]]], dict[str, set[str]]]]]:
    """Of Debian 12, Debian 13 and the image: what changelogs say, and what the monitor says is open, by source."""
    package, container = testinfra_hosts
    for name in testinfra_hosts:
        look(name)
    beside = state(container)["packages"]["vulnerabilities"]
    run = ("run", "--detach", "--rm", "--name", PACKAGED, bed.image("orthanc-debian13"))
    bed.docker(*run, "/usr/sbin/Orthanc", "/etc/orthanc")
    try:
        yield {
            "12": (read_changelogs(package), found(state(package)["packages"]["vulnerabilities"])),
            "13": (read_changelogs(PACKAGED), found(survey_packaged())),
            "13, beside the container": (read_changelogs(container), found(beside)),
            "image": (read_changelogs(container, "docker", "exec", "orthanc"), found(beside, inside=True)),
        }
    finally:
        bed.docker("rm", "--force", PACKAGED)


def survey_packaged() -> Any:
    """What the monitor's program sees of a machine with Debian 13's own Orthanc."""
    bed.docker("exec", PACKAGED, "mkdir", "-p", "/usr/local/lib/clinicops-orthanc", "/usr/local/share/orthanc-monitor")
    bed.docker("cp", f"{ROOT / 'plugins/module_utils/server'}", f"{PACKAGED}:/usr/local/lib/clinicops-orthanc/")
    known = ROOT / "roles/orthanc_monitor/files/vulnerabilities.json"
    bed.docker("cp", str(known), f"{PACKAGED}:/usr/local/share/orthanc-monitor/")
    script = "import json, sys; sys.path.insert(0, '/usr/local/lib/clinicops-orthanc'); "
    script += "from server.monitor import survey; known = json.loads(survey.KNOWN.read_text()); "
    script += "print(json.dumps(survey.survey_packages(known, 1, '1.12.7', False)))"
    running = "grep -q libcivetweb /proc/1/maps"
    wait_for(lambda: bed.docker("exec", PACKAGED, "sh", "-c", running, check=False).returncode == 0, "Orthanc")
    return json.loads(bed.docker("exec", PACKAGED, "python3", "-c", script).stdout)


def found(survey: Any, inside: bool = False) -> dict[str, set[str]]:
    """CVE ids by source package; an id may belong to two."""
    by_source: dict[str, set[str]] = {source: set() for source in SOURCES}
    sources = {(one["id"], one["summary"]): one["source"] for one in KNOWN["vulnerabilities"]}
    for one in survey["open"]:
        if one["package"].endswith("of the container") == inside:
            by_source[sources[one["id"], one["summary"]]].add(one["id"])
    return by_source


def test_no_entry_is_false_and_none_is_missing(systems: Any) -> None:
    misleading = {(one["source"], one["id"]) for one in KNOWN["vulnerabilities"] if one.get("changelog_misleads")}
    for system, (changelogs, open_) in systems.items():
        print(f"Debian {system}: {[(source, version) for source, (version, _) in changelogs.items()]} open: {open_}")
        assert {"nginx", "restic", "dcmtk"} <= set(changelogs) or {"orthanc", "civetweb", "dcmtk"} <= set(changelogs)
        for source, (version, named) in changelogs.items():
            false = {one for one in open_[source] & named if (source, one) not in misleading}
            assert false == set(), f"{system}: {source} {version} has these fixed"
            # what the changelog of a newer one of the three names, this one must have, or not be touched by it
            for other, (others, _) in systems.items():
                newer, names = others.get(source, ("", set()))
                if not newer or not is_older(version, newer):
                    continue
                spared = {
                    one["id"]
                    for one in KNOWN["not_affected"]
                    if one["source"] == source and is_older(version, one["below"])
                }
                missing = names - named - open_[source] - spared
                assert missing == set(), f"{system}: {source} {version}, named by {other}'s {newer}"


def test_every_fix_of_orthanc_s_release_notes_is_open_in_an_older_release(systems: Any) -> None:
    """The release notes of the image's Orthanc, as Debian's package brings them."""
    container = testinfra_hosts[1]
    notes = bed.docker(
        "exec", container, "docker", "exec", "orthanc", "zcat", "/usr/share/doc/orthanc/changelog.gz"
    ).stdout
    parts = re.split(r"^Version (\d+\.\d+\.\d+) .*$", notes, flags=re.MULTILINE)
    fixes = {
        release: set(re.findall(r"CVE-\d{4}-\d+", text)) for release, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    assert {"CVE-2026-5437", "CVE-2026-5445"} <= fixes["1.12.11"]
    for system, (changelogs, open_) in systems.items():
        version, named = changelogs.get("orthanc", ("", set()))
        if not version:
            continue
        later = set().union(*(ids for release, ids in fixes.items() if is_older(version, f"{release}~")))
        spared = {one["id"] for one in KNOWN["not_affected"] if one["source"] == "orthanc"}
        known = named | spared | set().union(*open_.values(), *(ids for _, ids in changelogs.values()))
        assert later - known == set(), system
        # and no fix of a release that this one has is called open
        earlier = set().union(*(ids for release, ids in fixes.items() if not is_older(version, f"{release}~")))
        assert open_["orthanc"] & (earlier - later) == set(), system


def test_what_was_open_on_the_day_of_the_list(systems: Any) -> None:
    """On 2026-11-28; Debian's later updates may only end some."""
    open_ = {system: set().union(*ids.values()) for system, (_, ids) in systems.items()}
    july = {f"CVE-2026-{number}" for number in (35505, 44628, 50003, 50254, 52868)}
    assert open_["12"] <= {*open_["13"], *july, "CVE-2025-55763", "CVE-2025-9648"}
    assert not open_["13"] & {*july, "CVE-2025-55763", "CVE-2025-9648", "CVE-2023-33466"}
    assert open_["image"] <= {"CVE-2026-10528"}
    assert "CVE-2025-15581" in open_["13"]
    said = must(testinfra_hosts[0], "orthanc-monitor vulnerabilities")
    for name in open_["12"]:
        assert f"{name} (accepted) in " in said


def test_what_orthanc_runs_is_watched(systems: Any) -> None:
    assert systems
    package, container = testinfra_hosts
    of_machine = dict(state(package)["packages"]["vulnerabilities"]["watched"])
    assert {"orthanc", "libcivetweb1", "nginx", "restic", "dcmtk"} <= set(of_machine)
    assert of_machine["libcivetweb1"] == must(package, "dpkg-query -W -f '${Version}' libcivetweb1")
    of_image = dict(state(container)["packages"]["vulnerabilities"]["container"])
    assert {"orthanc", "libcivetweb1"} <= set(of_image)
    assert "orthanc" not in dict(state(container)["packages"]["vulnerabilities"]["watched"])


# --- updates ----------------------------------------------------------------------------------------
def test_a_security_update_is_told_until_it_is_installed(machine: str) -> None:
    build(machine, "clinic-note", "1.0", "first", "/root")
    build(machine, "clinic-note", "2.0", "second", REPOSITORY)
    must(machine, "dpkg --install /root/clinic-note_1.0_all.deb")
    try:
        with offered(machine, "Debian-Security", "stable-security"):
            assert look(machine) == {"SecurityUpdates/": "clinic-note 1.0 -> 2.0"}
            # a person changed its configuration, and holds it
            must(machine, "echo mine > /etc/clinic-note.conf && apt-mark hold clinic-note")
            held = look(machine, 3)
            assert held == {"PackageHeldBack/": "clinic-note 1.0, 2.0 is offered (apt-mark hold)"}
            must(machine, "apt-mark unhold clinic-note")
            both = look(machine, 3)
            assert both["PackageHeldBack/"] == "clinic-note 1.0, 2.0 is offered (/etc/clinic-note.conf was changed)"
            assert both["SecurityUpdates/"] == "clinic-note 1.0 -> 2.0"
            keep = "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Options::=--force-confold"
            must(machine, f"{keep} clinic-note")
            assert look(machine, 3) == {"ConfigurationLeft/": "/etc/clinic-note.conf.dpkg-dist"}
            must(machine, "mv /etc/clinic-note.conf.dpkg-dist /etc/clinic-note.conf")
            assert look(machine, 3) == {}
            must(machine, "dpkg --unpack /root/clinic-note_1.0_all.deb")
            assert "clinic-note 1.0 is unpacked" in look(machine, 3)["PackageHeldBack/"]
    finally:
        must(machine, "apt-mark unhold clinic-note; dpkg --purge clinic-note; rm -f /root/clinic-note*")
    assert look(machine, 3) == {}


def list_known(machine: str) -> str:
    """What KnownVulnerabilities says where a clinic has accepted none."""
    config = quiet_config(machine, accepted_cves=[])
    must(machine, f"orthanc-monitor --config {config} look")
    known = json.loads(must(machine, "cat /root/monitor/state.json; rm -r /root/monitor"))["alerts"]
    return str(known["KnownVulnerabilities/"]["detail"])


def test_an_update_of_what_orthanc_runs_is_told_and_the_restart_after_it() -> None:
    machine = testinfra_hosts[0]
    quiet(machine)
    assert "libcivetweb1" in list_known(machine)
    own = must(machine, "dpkg-query -W -f '${Version}' libcivetweb1")
    # what is installed, to come back to: rebuilt by hand apt would take it for another
    must(machine, f"mkdir -p /root/own && cd /root/own && apt-get download -qq libcivetweb1={own}")
    new = rebuild(machine, "libcivetweb1", "+bed1", REPOSITORY)
    try:
        # not of the archive of security updates: Debian brings most fixes of what Orthanc runs with a point release
        with offered(machine, "Debian", "stable"):
            assert look(machine) == {"SecurityUpdates/": f"libcivetweb1 {own} -> {new}"}
            # what an update may end is not called without one
            assert "libcivetweb1" not in list_known(machine)
            must(machine, "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libcivetweb1")
            [(alert, detail)] = look(machine, 3).items()
            assert alert == "RestartDue/orthanc"
            assert "libcivetweb" in detail
            service(machine, "restart")
            healthy(machine)
            assert look(machine, 3) == {}
    finally:
        must(machine, "dpkg --install --force-downgrade /root/own/libcivetweb1_*.deb && rm -r /root/own")
        service(machine, "restart")
        healthy(machine)
    assert look(machine, 3) == {}


def test_an_apt_that_cannot_plan_is_told_in_its_words(machine: str) -> None:
    must(machine, "echo nonsense > /etc/apt/sources.list.d/clinic.list")
    try:
        [(alert, detail)] = look(machine, 3).items()
        assert alert == "MonitorBlind/updates"
        assert "clinic.list" in detail
    finally:
        must(machine, "rm /etc/apt/sources.list.d/clinic.list")
    assert look(machine, 3) == {}


def test_a_restart_that_an_update_asks_for_is_told(machine: str) -> None:
    must(machine, "touch /run/reboot-required && echo linux-image-6.12.58 > /run/reboot-required.pkgs")
    try:
        assert look(machine) == {"RebootDue/": "an update requires it: linux-image-6.12.58"}
    finally:
        must(machine, "rm /run/reboot-required*")
    assert look(machine, 3) == {}


def test_lists_of_a_fortnight_ago_are_told(machine: str) -> None:
    lists = "/var/lib/apt/lists /var/lib/apt/lists/partial $(ls -d /var/lib/apt/periodic/update* 2>&-)"
    must(machine, f"touch -d '-14 days' {lists}")
    try:
        assert look(machine) == {"PackageListsOld/": "14 days"}
    finally:
        must(machine, f"touch {lists}")
    assert look(machine, 3) == {}


def test_lists_that_have_expired_are_told_although_apt_has_just_asked(machine: str) -> None:
    """As where the mirrors are cut off, for more than a week: apt asks, and keeps the lists that it has."""
    release = must(machine, "ls /var/lib/apt/lists/*security*InRelease").strip()
    changes = [
        f'-e "s/^{name}:.*/{name}: $(date -uRd -{days}days)/"' for name, days in (("Date", 9), ("Valid-Until", 2))
    ]
    must(machine, f"cp -p {release} /root/release && sed -i {' '.join(changes)} {release}")
    try:
        cut = "unshare --net apt-get -o Acquire::Retries=0 update"
        assert "Failed to fetch" in must(machine, f"{cut} 2>&1")
        assert look(machine) == {"PackageListsOld/": "9 days"}
    finally:
        must(machine, f"mv /root/release {release}")
    assert look(machine, 3) == {}


@pytest.mark.parametrize("name", [testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)])
def test_the_end_of_the_system_s_support_is_told(name: str) -> None:
    """By the table that Debian's own package brings, on the days before and after."""
    series = "13" if docker(name) else "12"
    row = must(name, f"grep ^{series}, /usr/share/distro-info/debian.csv").strip().split(",")
    last = date.fromisoformat(row[6])  # of LTS
    days, config = (last - datetime.now(UTC).date()).days, quiet_config(name)
    told = {}
    for ahead in (-100, -10, 2):
        sh(name, f"faketime -f +{days + ahead}d /usr/local/sbin/orthanc-monitor --config {config} look")
        alerts = json.loads(must(name, f"orthanc-monitor --config {config} show --json || true"))["alerts"]
        told[ahead] = {
            key: alert["detail"] for key, alert in alerts.items() if key.startswith("System") and alert["firing"]
        }
        must(name, "rm -r /root/monitor/*")
    assert told[-100] == {}
    assert list(told[-10]) == ["SystemEndSoon/"]
    assert "SystemEndOfLife/" in told[2]
    assert f"{last.day} {last:%b %Y}" in told[2]["SystemEndOfLife/"]
