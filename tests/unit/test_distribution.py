"""What is made of apt's words before the upgrade of a distribution. Real machines are in the scenario distribution."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.filter.orthanc_neighbour_problems import orthanc_neighbour_problems
from ansible_collections.clinicops.orthanc.plugins.filter.orthanc_systems import orthanc_systems
from ansible_collections.clinicops.orthanc.plugins.module_utils import distribution
from ansible_collections.clinicops.orthanc.plugins.module_utils.distribution import Planned, Release
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.process import Finished

NOW, THEN = Release("Debian", "12", "bookworm"), Release("Debian", "13", "trixie")
SIMULATED = """Inst orthanc [1.10.1+dfsg-2+deb12u1] (1.12.7+dfsg-4 Debian:13.5/stable [amd64])
Remv libdcmtk17 [3.6.7-9~deb12u4]
Inst libdcmtk19 (3.6.9-5 Debian:13.5/stable [amd64])
Conf orthanc (1.12.7+dfsg-4 Debian:13.5/stable [amd64])
"""
ASKED = """The following packages will be REMOVED:
  libdcmtk17
The following packages have been kept back:
  clinic-note clinic-tool
  other
The following packages will be upgraded:
  orthanc
1 upgraded, 1 newly installed, 1 to remove and 3 not upgraded.
Need to get 1,234 kB/345.5 MB of archives.
After this operation, 12.5 MB of additional disk space will be used.
Do you want to continue? [Y/n] N
Abort.
"""
POLICY = """orthanc:
  Installed: 1.12.9-1
  Candidate: 1.12.9-1
  Version table:
 *** 1.12.9-1 500
        500 https://packages.clinic.example/debian bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
     1.10.1+dfsg-2+deb12u1 500
        500 http://deb.example/debian bookworm/main amd64 Packages
restic:
  Installed: 0.14.0-1+b5
  Candidate: 0.14.0-1+b5
  Version table:
 *** 0.14.0-1+b5 500
        500 http://deb.example/debian bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
nginx-light:
  Installed: 1.29
  Candidate: 1.29
  Version table:
 *** 1.29 100
        100 /var/lib/dpkg/status
dcmtk:
  Installed: 3.6.7-9~deb12u3
  Candidate: 3.6.7-9~deb12u4
  Version table:
     3.6.7-9~deb12u4 500
        500 http://deb.example/debian bookworm/main amd64 Packages
 *** 3.6.7-9~deb12u3 100
        100 /var/lib/dpkg/status
msmtp-mta:
  Installed: (none)
  Candidate: 1.8.23-1
  Version table:
     1.8.23-1 500
        500 http://deb.example/debian bookworm/main amd64 Packages
"""


def test_apt_s_plan_is_read() -> None:
    planned = distribution.parse_plan(SIMULATED, ASKED)
    assert {name: one.candidate for name, one in planned.upgrades.items()} == {"orthanc": "1.12.7+dfsg-4"}
    assert planned.removed == ["libdcmtk17"]
    assert planned.kept_back == ["clinic-note", "clinic-tool", "other"]
    assert (planned.download, planned.more) == (345_500_000, 12_500_000)
    less = ASKED.replace("12.5 MB of additional disk space will be used", "3,210 kB disk space will be freed")
    assert distribution.parse_plan(SIMULATED, less).more == -3_210_000
    nothing = distribution.parse_plan("", "0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n")
    assert nothing == Planned({}, [], [])


def test_a_package_of_another_archive_is_found() -> None:
    found = distribution.parse_policy(POLICY, ["https://packages.clinic.example/debian/"])
    # an older version of the distribution's own is in no archive either
    assert found == {"orthanc": "https://packages.clinic.example/debian", "nginx-light": "no archive"}


def test_the_lines_of_the_release_are_found(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in {
        "sources.list": "deb http://deb.example/debian bookworm main\n",
        "sources.list.d/clinic.list": "deb https://packages.clinic.example/debian bookworm main\n",
        "sources.list.d/debian.sources": "Types: deb\nURIs: http://deb.example/debian\nSuites: bookworm-updates\n",
        "sources.list.d/off.list": "# deb http://deb.example/debian bookworm main\n",
        "sources.list.d/stable.list": "deb http://deb.example/debian stable main\n",
        "sources.list.d/old.list.save": "deb http://deb.example/debian bookworm main\n",
    }.items():
        (tmp_path / name).write_text(text)
    found = distribution.list_sources("bookworm", ["https://packages.clinic.example/debian/"], tmp_path)
    assert {one.path.name: one.ours for one in found} == {
        "sources.list": True,
        "clinic.list": False,
        "debian.sources": True,
        "stable.list": False,
    }
    commands = distribution.list_commands(NOW, THEN, found)
    directory = tmp_path / "sources.list.d"
    assert f"mv {directory}/clinic.list {directory}/clinic.list.disabled" in commands
    assert f"sed -i 's/\\bbookworm\\b/trixie/g' {tmp_path}/sources.list {directory}/debian.sources" in commands
    assert commands[-1] == "systemctl reboot"
    ubuntu = distribution.list_commands(Release("Ubuntu", "22.04", "jammy"), Release("Ubuntu", "24.04", "noble"), found)
    assert "do-release-upgrade" in ubuntu
    assert not [one for one in ubuntu if one.startswith("sed")]


def test_apt_s_own_configuration_is_kept_without_what_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dumped = 'Acquire::http::Proxy "http://proxy.example:3128";\nAPT::Update::Post-Invoke:: "rm -rf /";\n'
    dumped += 'DPkg::Pre-Install-Pkgs:: "apt-listchanges";\nDir::Etc::trustedparts "trusted.gpg.d";\n'
    monkeypatch.setattr(distribution, "read_apt", lambda *_command, **_more: dumped)
    of_debian = Path("/etc/apt/sources.list.d/debian.sources")
    source = distribution.Source(of_debian, "Suites: bookworm bookworm-updates", True)
    path = distribution.write_configuration([source], NOW, THEN, tmp_path)
    text = path.read_text()
    assert "http://proxy.example:3128" in text
    assert "trusted.gpg.d" in text
    assert "Invoke" not in text
    assert "DPkg" not in text
    assert f'Dir::State::Lists "{tmp_path}/lists";' in text
    assert (tmp_path / "sources/debian.sources").read_text() == "Suites: trixie trixie-updates"


def test_a_disk_that_is_too_small_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1 << 30})
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert not list(distribution.find_space(Planned({}, [], [], 300 << 20, 300 << 20)))
    (found,) = distribution.find_space(Planned({}, [], [], 600 << 20, 600 << 20))
    assert "1.1 GB free, and apt needs 1.3 GB" in found.message


def test_what_apt_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Finished(100, "", "N: a notice\nE: The repository has no Release file.\n")
    monkeypatch.setattr(distribution, "run_program", lambda *_command, **_more: refused)
    with pytest.raises(distribution.Refused, match="apt-get cannot tell what would come: E: The repository has no"):
        distribution.read_apt("apt-get", "update")


def test_the_proof_of_a_backup_lasts_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "BACKUP", tmp_path)
    assert not distribution.is_proven(1_000_000)
    (tmp_path / "restore_check.json").write_text(json.dumps({"last_success_epoch": 1_000_000, "moment": "now"}))
    assert distribution.is_proven(1_000_060)
    assert not distribution.is_proven(1_090_000)
    assert not distribution.is_proven(999_000)  # a clock that was set back proves nothing


def test_no_way_back_is_asked_for_by_a_waiver() -> None:
    problem = distribution.describe_way_back(NOW, THEN, "1.10.1", "1.12.7")._asdict()
    (found,) = orthanc_neighbour_problems([problem])
    assert found["severity"] == "error"
    assert "Orthanc 1.10.1 must not open an index that 1.12.7 has opened" in found["message"]
    assert "orthanc_waivers: {no_way_back: <your reason>}" in found["remedy"]
    (waived,) = orthanc_neighbour_problems([problem], {"no_way_back": "the backup was proven today"})
    assert waived["severity"] == "waived"


@pytest.mark.parametrize(
    ("name", "version", "now", "then"),
    [
        ("Debian", "12.12", "bookworm", "trixie"),
        ("Debian", "13.2", "trixie", None),
        ("Ubuntu", "22.04", "jammy", "noble"),
        ("Ubuntu", "24.04", "noble", "resolute"),
        ("Ubuntu", "26.04", "resolute", None),
        ("Linux Mint", "22.1", None, None),
    ],
)
def test_the_next_release_is_named(name: str, version: str, now: str | None, then: str | None) -> None:
    found = orthanc_systems({"name": name, "version": version})
    assert (found["now"].get("codename"), found["next"].get("codename")) == (now, then)


@pytest.mark.parametrize("value", [{"name": "Debian"}, "Debian", None])
def test_a_system_needs_a_name_and_a_version(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="orthanc_systems"):
        orthanc_systems(value)
