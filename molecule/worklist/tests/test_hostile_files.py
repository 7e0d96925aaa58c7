"""Hostile files by the hundred: none is ever served, each has its reason, and every good item stays on the list."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import pydicom
import pytest
from clients import name_of
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import (
    CONTENT,
    SERVED,
    Asking,
    Hostile,
    Item,
    both,
    command,
    csv,
    drop,
    empty,
    hostile,
    keys,
    look,
    names,
    seen,
    settle,
    sh,
    watching,
)

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
STANDING = [Item(f"STANDING{number:02}", name="STEHT^IMMER") for number in range(20)]
MARK = "moment.wl"


@dataclass
class Seen:
    plan: Hostile
    events: list[tuple[str, str]]  # of the served directory
    asked: list[dict[str, Any]]
    found: dict[str, Any]
    orthanc: tuple[str, str]  # its process before and after


def orthanc(machine: str) -> str:
    return sh(machine, "systemctl show --property MainPID,NRestarts orthanc")[1]


def run(machine: str, seed: int, count: int, gigabytes: bool) -> Seen:
    plan = hostile(seed, count, gigabytes)
    empty(machine)
    status, said = command(machine, "create", "-", stdin=csv(STANDING))
    assert status == 0, said
    before = orthanc(machine)
    with watching(machine) as events:
        asking = Asking(machine, keys())
        drop(machine, plan.files, seconds=10)
        settle(machine)
        asked = asking.stop()
        # the watch notices what is there for a moment
        sh(machine, f"touch {SERVED}/{MARK}; rm {SERVED}/{MARK}")
    # who writes on in quarantine is cut again
    sh(machine, "systemctl start orthanc-worklist-tidy.service")
    return Seen(plan, events, asked, look(machine), (before, orthanc(machine)))


# the number is the seed; in the campaign 320 files that are not right, and two real gigabytes
@pytest.fixture(
    scope="session",
    params=[
        pytest.param((1, len(CONTENT), False), id="some"),
        *(pytest.param((seed, 320, True), id=f"many-{seed}", marks=pytest.mark.campaign) for seed in (2, 3)),
    ],
)
def campaign(request: pytest.FixtureRequest) -> dict[str, Seen]:
    """On all machines at once."""
    return both(testinfra_hosts, lambda machine: run(machine, *request.param))


@pytest.fixture
def result(host: Host, campaign: dict[str, Seen]) -> Seen:
    return campaign[name_of(host)]


def served_name(item: Item) -> str:
    return f"{item.study}_1.wl"


def test_every_good_item_is_served_as_it_was_written(result: Seen) -> None:
    items = {item.patient: item for item in [*STANDING, *result.plan.good.values()]}
    served = result.found["served"]
    assert set(served) == {served_name(item) for item in items.values()}
    for file in served.values():
        assert (file["kind"], file["mode"], file["owner"], file["links"]) == ("file", 0o640, 0, 1)
        found = pydicom.dcmread(io.BytesIO(file["data"]))
        assert seen(found) == items[found.PatientID].answer()


def test_no_other_name_was_ever_served(result: Seen) -> None:
    good = {served_name(item) for item in result.plan.good.values()}
    standing = {served_name(item) for item in STANDING}
    happened = [(what, name) for what, name in result.events if name != ".watched"]
    assert {("CREATE", MARK), ("DELETE", MARK)} <= set(happened)
    # whole or not at all: a rename is the only thing that happens, to a good name alone
    assert {what for what in happened if what[1] != MARK} == {("MOVED_TO", name) for name in good}
    assert not standing & {name for _, name in happened}


def test_each_bad_one_is_in_quarantine_with_its_reason(result: Seen) -> None:
    held = result.found["quarantine"]
    assert len(held) == len(result.plan.bad)
    for token, reason in result.plan.bad.items():
        [name] = [name for name in held if token in name]
        said = held[name]["reason"]
        assert said is not None, name
        assert "Remedy:" in said
        assert " of ris, " in said
        assert reason in said, (token, said)
        assert held[name]["size"] <= 1 << 20
    assert len(result.found["reasons"]) == len(held)
    [directory] = [entry for entry in held.values() if entry["kind"] == "directory"]
    assert directory["inside"] == 0  # what it held could be any amount


def test_nothing_waits_but_the_second_name_of_a_hard_link(result: Seen) -> None:
    assert result.found["waiting"] == [".linked.part"]


def test_the_scanner_got_every_item_all_the_time(host: Host, result: Seen) -> None:
    standing = {item.patient for item in STANDING}
    later = {item.patient for item in result.plan.good.values() if item.station == "US1"}
    assert len(result.asked) >= 20
    before: set[str] = set()
    for answer in result.asked:
        assert answer["success"], answer
        patients = set(answer["patients"])
        assert standing | before <= patients <= standing | later
        before = patients
    assert before == standing | later
    # Orthanc itself ran through
    assert result.orthanc[0] == result.orthanc[1]


def test_the_other_scanner_got_its_own(host: Host, result: Seen) -> None:
    others = sorted(item.patient for item in result.plan.good.values() if item.station == "US4")
    assert names(name_of(host), scanner="orthanc-us4", aet="US4") == others
