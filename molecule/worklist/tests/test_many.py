"""A thousand items: what the gate costs, against a thousand files that an application puts there itself."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter

import bed
import pytest
from clients import wait_for
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import (
    SERVED,
    Item,
    command,
    csv,
    drop,
    empty,
    files_read,
    keys,
    names,
    patients,
    plain,
    seconds,
    settle,
    sh,
    watching,
)

OLDER, NEWER = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
COUNT, TIMES = 1000, 9
ITEMS = [Item(f"P{number:04}", station="US1" if number % 2 else "US4") for number in range(COUNT)]
MINE = sorted(item.patient for item in ITEMS if item.station == "US1")
QUERY = keys(ScheduledStationAETitle="US1", ScheduledProcedureStepStartDate=ITEMS[0].date)


def fill_without_the_gate(machine: str, items: list[Item]) -> None:
    """The same items as an application without the gate puts them there."""
    sh(machine, f"find {SERVED} -maxdepth 1 -name '*.wl' -delete")
    status, said = sh(
        machine,
        f"tar -C {SERVED} -x --owner=root && chown root:orthanc {SERVED}/*.wl && chmod 640 {SERVED}/*.wl",
        stdin=bed.pack({f"{item.patient}.wl": item.file() for item in items}),
    )
    assert status == 0, said


# one machine is enough for make test
@pytest.mark.parametrize("machine", [pytest.param(OLDER, marks=pytest.mark.campaign), NEWER])
def test_each_of_a_thousand_rows_is_served_once_and_a_query_reads_no_more_than_without_the_gate(machine: str) -> None:
    empty(machine)
    with watching(machine) as events:
        status, said = command(machine, "create", "-", stdin=csv(ITEMS))
    assert status == 0, said
    came = Counter(name for what, name in events if what == "MOVED_TO")
    assert (len(came), set(came.values())) == (COUNT, {1})
    assert names(machine, QUERY) == MINE
    gated = files_read(machine, QUERY)
    fill_without_the_gate(machine, ITEMS)
    assert names(machine, QUERY) == MINE
    without = files_read(machine, QUERY)
    empty(machine)
    print(machine, f"{gated.total()} files opened by a query, {without.total()} without the gate")
    assert set(gated) == set(came)
    assert sorted(gated.values()) == sorted(without.values())


@pytest.mark.campaign
@pytest.mark.parametrize("machine", [OLDER, NEWER])
def test_a_thousand_rows_take_seconds_and_a_query_no_longer_than_without_the_gate(machine: str) -> None:
    empty(machine)
    begin = time.monotonic()
    status, said = command(machine, "create", "-", stdin=csv(ITEMS))
    took = time.monotonic() - begin
    assert status == 0, said
    assert names(machine, QUERY) == MINE
    gated = seconds(machine, QUERY, TIMES)
    fill_without_the_gate(machine, ITEMS)
    assert names(machine, QUERY) == MINE
    without = seconds(machine, QUERY, TIMES)
    empty(machine)
    # the fastest of each are compared: the engine has other work as well
    ratio = min(gated) / min(without)
    figures = {
        "import": f"{took:.1f} s",
        "query": f"{statistics.median(gated):.3f} s",
        "query without the gate": f"{statistics.median(without):.3f} s",
        "ratio": f"{ratio:.2f}",
    }
    print(machine, figures)
    assert ratio <= 1.5, figures
    assert took < 60, figures


@pytest.mark.campaign
def test_one_who_floods_makes_nobody_else_wait() -> None:
    flood = [Item(f"F{number:04}") for number in range(2300)]
    empty(NEWER)
    drop(NEWER, [plain(item.patient, item.file()) for item in flood])
    drop(NEWER, [plain("other", Item("OTHER").file())], user="his")
    begin = time.monotonic()
    wait_for(lambda: names(NEWER, keys(PatientID="OTHER")) == ["OTHER"], "the other writer's item")
    took = time.monotonic() - begin
    waiting = len(json.loads(command(NEWER, "list", "--waiting", "--json")[1])["waiting"])
    settle(NEWER)
    print(NEWER, f"{took:.1f} s, {waiting} of the flood still waiting; all through in {time.monotonic() - begin:.0f} s")
    assert waiting > 100
    assert time.monotonic() - begin > 10  # 300 above the first 2,000, 20 a second
    assert len(patients(NEWER)) == len(flood) + 1
