"""Which systems a deploy accepts, and what it says of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import systems as tables
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.filter.orthanc_system_problems import orthanc_system_problems
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules, systems

ROOT = Path(__file__).resolve().parents[2]
REASON = {"untested_system": "the workstation of the IT, not a server"}
NEEDED = ["orthanc", "orthanc-dicomweb", "orthanc-python", "restic"]


def machine(**changed: Any) -> dict[str, Any]:
    return {
        **{"name": "Ubuntu", "version": "24.04", "family": "Debian", "python": "3.12.3", "method": "package"},
        **{"needed": NEEDED, "offered": {**dict.fromkeys(NEEDED, "1.0"), "orthanc": "1.12.2+dfsg-1"}},
        **changed,
    }


def ask(waivers: Any = None, **changed: Any) -> dict[str, str]:
    """The problems by rule, each as the sentence that a person reads."""
    found = orthanc_system_problems(machine(**changed), waivers)
    return {
        one["rule"]: f"{one['severity']}: {one['path']} {one['message']}. Remedy: {one['remedy']}." for one in found
    }


@pytest.mark.parametrize("system", systems.SYSTEMS, ids=lambda one: f"{one.name} {one.version}")
def test_a_system_of_the_list_is_accepted(system: systems.System) -> None:
    offered = {**dict.fromkeys(NEEDED, "1.0"), "orthanc": f"{system.orthanc}+dfsg-1"}
    version = f"{system.version}.5" if system.name == "Debian" else system.version
    assert ask(name=system.name, version=version, offered=offered) == {}


@pytest.mark.parametrize(
    ("name", "version"),
    [("Ubuntu", "26.10"), ("Ubuntu", "2"), ("Debian", "14"), ("Debian", "131"), ("Linux Mint", "22.1")],
)
def test_another_derivative_or_release_needs_a_waiver(name: str, version: str) -> None:
    said = ask(name=name, version=version)
    assert list(said) == ["untested_system"]
    assert said["untested_system"].startswith(f"error: {name} {version} is not a system that this collection was test")
    assert "Debian 12 or 13, Ubuntu 22.04, 24.04 or 26.04" in said["untested_system"]
    assert "orthanc_waivers: {untested_system: <your reason>}" in said["untested_system"]
    assert ask(REASON, name=name, version=version)["untested_system"].startswith("waived: ")


def test_a_waiver_does_not_help_where_the_machine_does_not_fit() -> None:
    assert list(ask(REASON, name="Debian", version="11", python="3.9.2")) == ["old_python"]
    assert list(ask(REASON, name="Fedora", version="43", family="RedHat")) == ["other_system"]
    assert list(ask(REASON, name="Mint", offered={**dict.fromkeys(NEEDED, "1.0"), "orthanc": "1.9.7"})) == [
        "untested_system",
        "old_orthanc",
    ]


def test_a_waiver_that_is_not_needed_says_nothing() -> None:
    assert ask({**REASON, "webdav": "another check's"}) == {}


def test_packages_that_apt_does_not_offer() -> None:
    said = ask(offered={"restic": "0.16"})["missing_packages"]
    assert "does not offer orthanc, orthanc-dicomweb, orthanc-python;" in said
    assert "add-apt-repository universe" in said
    assert "universe" not in ask(name="Debian", version="13", offered={})["missing_packages"]


def test_docker_as_a_snap() -> None:
    assert "snap remove docker" in ask(method="docker", has_snap=True)["docker_snap"]
    assert ask(has_snap=True) == {}


def test_what_is_no_machine_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="orthanc_system_problems: "):
        orthanc_system_problems({"name": "Ubuntu"})


def test_every_role_names_the_systems() -> None:
    expected = {
        name: [one.codename for one in systems.SYSTEMS if one.name == name]
        for name in dict.fromkeys(one.name for one in systems.SYSTEMS)
    }
    for path in ROOT.glob("roles/*/meta/main.yml"):
        platforms = yaml.safe_load(path.read_text())["galaxy_info"]["platforms"]
        assert {one["name"]: one["versions"] for one in platforms} == expected, path


def test_the_rules_know_the_plugin_of_each_system() -> None:
    assert {rules.DICOMWEB[one.orthanc] for one in systems.SYSTEMS} == {one.dicomweb for one in systems.SYSTEMS}


# --- what is generated ----------------------------------------------------------------------------
@pytest.mark.parametrize("path", tables.write_all(), ids=lambda path: path.name)
def test_the_tables_of_systems_are_up_to_date(path: Path) -> None:
    assert path.read_text() == tables.write_all()[path], f"{path} is stale. Remedy: make docs"


def test_the_matrix_says_what_the_scenarios_run_on() -> None:
    rows = [row.strip("| ").split(" | ") for row in tables.write_matrix().splitlines()[2:]]
    how = {(row[0], row[1]): row[-1] for row in rows}
    assert len(how) == 2 * len(systems.SYSTEMS)
    assert how["Ubuntu 22.04", "package"] == "by table"
    assert how["Ubuntu 24.04", "container"] == "as Ubuntu as could be had: ubuntu"
    assert how["Ubuntu 26.04", "package"] == "as Ubuntu as could be had, with the Orthanc of Debian 13: ubuntu"
    assert how["Debian 12", "package"].startswith("tested: ")
    assert "default" in how["Debian 13", "package"]
    assert "docker" in how["Debian 13", "container"]
    # a machine that resembles a system is none of it
    assert not [one for one in tables.list_runs() if one.real and one.name == "Ubuntu"]
