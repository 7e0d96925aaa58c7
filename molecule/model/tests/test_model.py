"""Random sequences of work, faults, backups and ways back, on the package and the container: what is owed is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clients import ROOT
from model import FOUND
from testinfra.utils.ansible_runner import AnsibleRunner

MACHINES = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


@pytest.mark.parametrize(
    ("sequences", "seed"),
    [
        pytest.param(8, "1", id="as always"),
        # other ones each time; a violation names its own
        pytest.param(250, os.environ.get("BED_SEED", ""), marks=pytest.mark.campaign, id="campaign"),
    ],
)
def test_what_is_owed_is_there(sequences: int, seed: str, tmp_path: Path) -> None:
    seed = seed or str(int.from_bytes(os.urandom(3)))
    command = [sys.executable, str(ROOT / "tests/support/model.py"), f"--sequences={sequences}", f"--seed={seed}"]
    running = {}
    for machine in MACHINES:  # side by side
        with (tmp_path / machine).open("w") as log:
            running[machine] = subprocess.Popen([*command, machine], stdout=log, stderr=subprocess.STDOUT)
    status = {machine: process.wait() for machine, process in running.items()}
    for machine in MACHINES:
        lines = (tmp_path / machine).read_text().splitlines()
        result = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        print("\n".join(lines if status[machine] else lines[-1:]))
        assert status[machine] == 0, f"{machine}: seed {seed}: {result.get('violations', lines[-20:])}"
        assert result["sequences"] == len(FOUND) + sequences
