"""The gate is killed at random moments while files arrive: each file is in one place afterwards, and none is lost."""

from __future__ import annotations

import io
import json
import os
import random
from dataclasses import dataclass
from typing import Any

import pydicom
import pytest
from clients import name_of, put
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import CONTENT, Item, both, empty, look, plain, seen, settle, told

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


@dataclass
class Seen:
    good: dict[str, Item]
    bad: list[str]
    killed: list[int]
    found: dict[str, Any]


def run(machine: str, kills: int, files: int) -> Seen:
    """Four of five files are good; of the others some are refused at once, and some after a while."""
    good, bad, plans = {}, [], []
    for number in range(files):
        if number % 5:
            token = f"GOOD{number:04}"
            good[token] = Item(token)
            plans.append(plain(token, good[token].file()))
        else:
            token = f"BAD{number:04}"
            bad.append(token)
            wrong = plain(token, CONTENT["no UID"][0](random.Random(number)))
            ways = [wrong, plain(token, b"", "fifo"), plain(token, b"1", "directory"), plain(token, bytes(2 << 20))]
            plans.append(ways[number // 5 % len(ways)])
    empty(machine)
    put(machine, "/tmp/arriving.json", json.dumps({"files": plans}).encode())
    ran = told(
        machine,
        "kill",
        {**{"files": plans, "path": "/tmp/arriving.json", "user": "ris"}, "seed": 1, "kills": kills, "limit": 600},
    )
    assert ran["application"] == 0
    settle(machine)
    return Seen(good, bad, ran["killed"], look(machine))


@pytest.fixture(
    scope="session",
    params=[
        pytest.param((8, 80), id="8-kills"),
        pytest.param((50, 500), id="50-kills", marks=pytest.mark.campaign),
    ],
)
def killed(request: pytest.FixtureRequest) -> tuple[int, dict[str, Seen]]:
    return request.param[0], both(testinfra_hosts, lambda machine: run(machine, *request.param))


def test_each_file_is_in_one_place_after_kill_9(host: Host, killed: tuple[int, dict[str, Seen]]) -> None:
    count, everywhere = killed
    result = everywhere[name_of(host)]
    assert len(set(result.killed)) == count  # a process of its own each time
    found = result.found
    items = [pydicom.dcmread(io.BytesIO(file["data"])) for file in found["served"].values()]
    # no file twice, under whatever name, and none half
    assert sorted(item.PatientID for item in items) == sorted(result.good)
    for item in items:
        assert seen(item) == result.good[item.PatientID].answer()
    held = sorted(name.rpartition("-")[2].partition(".")[0] for name in found["quarantine"])
    assert held == sorted(result.bad)
    for name, entry in found["quarantine"].items():
        assert "Remedy:" in (entry["reason"] or ""), name
    assert sorted(found["reasons"]) == sorted(f"{name}.reason" for name in found["quarantine"])
    assert found["waiting"] == []
