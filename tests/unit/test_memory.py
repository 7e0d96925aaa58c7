"""How Orthanc uses a machine's memory, and the largest object that it can take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.clinicops.orthanc.plugins.filter.orthanc_memory import orthanc_memory
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core import words
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration, memory, rules

MIB = 1 << 20
CONTAINER = Path(__file__).resolve().parents[2] / "roles/orthanc_install/tasks/container.yml"
RELEASES = ("1.10.0", "1.10.1", "1.12.2", "1.12.7", "1.12.10", "1.13.0")


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("machine", [512, 1024, 1987, 3928, 7942, 15990, 64000])
def test_the_rest_of_the_machine_keeps_its_share(machine: int, version: str) -> None:
    sizes = memory.size(machine * MIB, "", version)
    assert sizes["limit"] == 512 * MIB or machine * MIB - sizes["limit"] >= max(512 * MIB, machine * MIB // 4)
    held = sum(memory.size_caches(sizes["limit"], version).values()) * MIB
    assert sizes["largest"] * memory.COPIES + memory.IDLE + held <= max(sizes["limit"], memory.IDLE + held)
    assert held <= sizes["limit"] // 4 + 6 * 16 * MIB


def test_a_larger_machine_takes_a_larger_object() -> None:
    found = [memory.size(machine * MIB, "", "1.12.7")["largest"] for machine in range(256, 20000, 256)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (40_000_000, memory.MOST)


def test_an_update_of_the_kernel_changes_nothing() -> None:
    assert memory.size(7942 * MIB, "", "1.12.7") == memory.size(7939 * MIB, "", "1.12.7")


def test_what_a_clinic_sets_stays() -> None:
    sizes = memory.size(7942 * MIB, "4g", "1.12.7")
    assert (sizes["limit"], sizes["caches"]) == (4096 * MIB, {})
    assert sizes["largest"] < memory.size(7942 * MIB, "", "1.12.7")["largest"]
    # a limit does not give a machine more memory than it has
    assert memory.size(3928 * MIB, "64g", "1.12.7")["largest"] == memory.size(3928 * MIB, "", "1.12.7")["largest"]
    assert memory.size(3928 * MIB, "64g", "1.12.7")["limit"] == 64 << 30


def test_a_machine_of_unknown_memory_is_not_limited() -> None:
    assert memory.size(0, "", "1.12.7") == {"limit": 0, "largest": 0, "caches": {}}
    assert "is not known" in orthanc_memory("", 0, "1.12.7")["message"]


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("machine", [1024, 3928, 7942, 64000])
def test_caches_are_options_of_this_release_and_a_clinic_s_own_stay(machine: int, version: str) -> None:
    caches = memory.size(machine * MIB, "", version)["caches"]
    properties = rules.SCHEMA["properties"]
    assert all(rules.release(properties[name]["x-since"]) <= rules.release(version) for name in caches)
    assert all(value < properties[name]["default"] for name, value in caches.items())
    if machine == 64000:
        assert caches == {}
    built = configuration.build({"caches": caches, "settings": {"MaximumStorageCacheSize": 77}})
    assert {name: built[name] for name in caches} == {
        **caches,
        **dict.fromkeys(caches.keys() & {"MaximumStorageCacheSize"}, 77),
    }


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 512 * MIB), ("4G", 4 << 30), ("6gb", 6 << 30), ("600000k", 614400000)]
)
def test_sizes_are_read_as_docker_reads_them(text: str, size: int) -> None:
    assert memory.parse_size(text) == size
    assert memory.find_problems(text) == []


@pytest.mark.parametrize("wrong", ["4 GB", "-1", "0", "4t", "1.5g", "511m", 4, None, ["4g"]])
def test_any_other_setting_is_refused(wrong: Any) -> None:
    (found,) = memory.find_problems(wrong)
    assert found["path"] == "orthanc_install_memory"
    assert "the machine's memory then decides" in found["remedy"]


def test_a_deploy_says_what_the_machine_can_take() -> None:
    found = orthanc_memory("", 7942, "1.12.7")
    assert found["message"] == (
        "The largest object that this machine can take: 1.4 GB (8.3 GB memory, 6.2 GB of it for Orthanc)."
    )
    assert found["warnings"] == []


def test_too_little_memory_is_a_warning_with_its_remedy() -> None:
    (small,) = orthanc_memory("", 1024, "1.12.7")["warnings"]
    assert "can take: 40.0 MB" in small
    assert "Remedy: give this machine more memory" in small
    (large,) = orthanc_memory("64g", 7942, "1.12.7")["warnings"]
    assert "gives Orthanc 68.7 GB, and this machine has 8.3 GB" in large


@pytest.mark.parametrize(
    ("gigabytes", "package", "image"),
    [
        (1, "40.0 MB", "40.0 MB"),
        (2, "300 MB", "230 MB"),
        (4, "670 MB", "520 MB"),
        (8, "1.4 GB", "1.1 GB"),
        (16, "2.0 GB", "2.0 GB"),
    ],
)
def test_the_documentation_has_these_figures(gigabytes: int, package: str, image: str) -> None:
    limit = memory.size(gigabytes << 30, "", "1.12.7")["limit"]
    found = [words.say_size(memory.size(gigabytes << 30, "", version)["largest"]) for version in ("1.12.7", "1.13.0")]
    assert found == [package, image]
    row = f"| {gigabytes} GiB | {words.say_size(limit)} | {package} | {image} |"
    assert row in (Path(__file__).parents[2] / "docs/performance.md").read_text(encoding="utf-8")


def read_limits(limit: int, swap: bool) -> tuple[Any, Any]:
    """The container's limits of memory, and of memory and swap together, as the role asks Docker for them."""
    [task] = [one for one in yaml.safe_load(CONTAINER.read_text()) if "community.docker.docker_container" in one]
    asked = task["community.docker.docker_container"]
    known = {"limits_memory": True, "limits_swap": swap}
    sizes = {"__orthanc_install_memory": {"limit": limit}, "__orthanc_install_orthanc": known, "omit": None}
    templar = Templar(DataLoader(), variables=sizes)
    rendered = [templar.template(trust_as_template(asked.get(name, ""))) for name in ("memory", "memory_swap")]
    return rendered[0], rendered[1]


@pytest.mark.parametrize("machine", [1967, 3915, 7942, 15990])
def test_a_container_grows_with_the_machine(machine: int) -> None:
    """Docker refuses a limit above the container's present limit of memory and swap, unless both come together; at its
    creation it makes the second one twice the first."""
    first, second = (memory.size(one * MIB, "", "1.12.7")["limit"] for one in (machine, 2 * machine))
    assert read_limits(second, True) == (second, 2 * second)
    assert read_limits(first, True) == (first, 2 * first), "as Docker made it: nothing changes"


def test_where_docker_cannot_limit_swap_it_is_not_asked() -> None:
    """It would keep -1, and each deploy would report a change."""
    assert read_limits(MIB, False) == (MIB, None)
