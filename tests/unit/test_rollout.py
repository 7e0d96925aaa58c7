"""A deploy of many clinics in batches: which of them are changed if one fails, does not answer, or is set wrongly.

The plays of playbooks/deploy.yml as they are, with their keywords, their first contact, their gate, and what follows an
acceptance test that failed. Only what works on a machine is replaced: a task that notes that the clinic was changed,
and one that fails instead of the acceptance test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from terminal import ROOT, run_in_terminal

CLINICS = ("castle", "harbour", "meadow", "mill", "quay", "wharf")
GATE = "End the roll-out if a clinic has failed"
WORK: list[dict[str, Any]] = [
    {
        "name": "Change the clinic",
        "ansible.builtin.copy": {"content": "changed", "dest": "{{ done }}/{{ inventory_hostname }}"},
    },
    {
        "name": "Run the acceptance test",
        "ansible.builtin.assert": {"that": "not broken", "fail_msg": "2 of 81 checks failed. Remedy: see above."},
    },
]


def write_playbook(directory: Path) -> Path:
    """The deploy's plays up to the gate, then WORK, and what the deploy does where that fails."""
    checks, deploy = yaml.safe_load((ROOT / "playbooks/deploy.yml").read_text())
    names = [task["name"] for task in deploy["pre_tasks"]]
    deploy["pre_tasks"] = deploy["pre_tasks"][: names.index(GATE) + 1]
    [tested] = [task for task in deploy["post_tasks"] if "rescue" in task]
    deploy["post_tasks"] = [{**tested, "block": WORK}]
    deploy["vars"] = {
        **{"orthanc_verify_rollout_back": "{{ orthanc_rollout_back }}", "orthanc_verify_report_directory": ""},
        **{"orthanc_config_loaded": ["dicom-web"], "orthanc_install_address": "127.0.0.1"},
    }
    deploy["roles"] = ["clinicops.orthanc.orthanc"]  # the defaults, which have no task
    for play in (checks, deploy):
        play["vars_files"] = [str(ROOT / "playbooks" / name) for name in play["vars_files"]]
    (directory / "tasks").symlink_to(ROOT / "playbooks/tasks")  # what the plays include
    (directory / "deploy.yml").write_text(json.dumps([checks, deploy]))
    return directory / "deploy.yml"


def roll_out(directory: Path, *options: str, **clinics: dict[str, Any]) -> tuple[int, list[str], set[str]]:
    """Exit code, the lines in the terminal, and the clinics that were changed."""
    done = directory / "done"
    done.mkdir()
    shared = {
        **{"ansible_connection": "local", "ansible_become": False, "broken": False, "done": str(done)},
        "orthanc_hostname": "pacs.{{ inventory_hostname }}.example",
        "orthanc_users": [{"name": "it", "role": "admin", "password": "a-password-of-this-test"}],
        "orthanc_rollout": [1, 2, "100%"],
    }
    hosts = {name: clinics.get(name, {}) for name in CLINICS}
    (directory / "hosts.yml").write_text(yaml.safe_dump({"orthanc": {"hosts": hosts, "vars": shared}}))
    command = ["ansible-playbook", "-i", str(directory / "hosts.yml"), *options, str(write_playbook(directory))]
    status, lines = run_in_terminal(command)
    return status, lines, {path.name for path in done.iterdir()}


GONE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
BROKEN = {"broken": True}


def test_a_clinic_that_does_not_answer_holds_nobody_up_and_is_on_the_list(tmp_path: Path) -> None:
    """Even the first: the canary is the first that answers."""
    status, lines, changed = roll_out(tmp_path, castle=GONE, quay={**GONE, "ansible_host": "127.0.0.2"})
    assert changed == {"harbour", "meadow", "mill", "wharf"}
    assert status == 4
    assert [line for line in lines if line.startswith("Batch ")] == [
        "Batch 1: harbour (1 of 4)",
        "Batch 2: meadow, mill (3 of 4)",
        "Batch 3: wharf (4 of 4)",
    ]
    assert "  done           4  harbour, meadow, mill, wharf" in lines
    assert "  NOT REACHED    2  castle, quay" in lines
    assert not [line for line in lines if line.startswith("  not begun")]


def test_a_clinic_that_fails_stops_the_roll_out_after_its_batch(tmp_path: Path) -> None:
    status, lines, changed = roll_out(tmp_path, harbour=BROKEN, mill=GONE)
    assert changed == {"castle", "harbour", "meadow"}, "its batch is finished, and no other is begun"
    assert status != 0
    end = lines[next(number for number, line in enumerate(lines) if line.startswith("It took ")) :]
    for row in (
        "  done           2  castle, meadow",
        "  FAILED         1  harbour",
        "  NOT REACHED    1  mill",
        "  not begun      2  quay, wharf",
    ):
        assert row in end
    assert "The roll-out stops here: harbour failed." in " ".join(" ".join(lines).split())
    assert end[-3].startswith("FAILED on harbour: Run the acceptance test (step ")
    assert end[-2] == "  2 of 81 checks failed. Remedy: see above."
    assert end[-1] == "  Nothing was put back: this was its first deploy, or nothing was kept before it."


def test_whoever_wants_to_mend_a_clinic_as_it_was_deployed_says_so(tmp_path: Path) -> None:
    _status, lines, _changed = roll_out(tmp_path, "-e", "orthanc_rollout_back=false", harbour=BROKEN)
    assert lines[-1] == "  2 of 81 checks failed. Remedy: see above."


def test_nothing_follows_a_canary_that_fails(tmp_path: Path) -> None:
    status, lines, changed = roll_out(tmp_path, castle=BROKEN)
    assert (status, changed) == (2, {"castle"})
    assert "  not begun      5  harbour, meadow, mill, quay, wharf" in lines


def test_nobody_is_changed_if_one_clinic_is_set_wrongly(tmp_path: Path) -> None:
    status, lines, changed = roll_out(tmp_path, wharf={"orthanc_aet": "MORE_THAN_SIXTEEN"}, mill=GONE)
    assert (status, changed) == (2, set())
    said = " ".join(" ".join(lines).split())
    assert "1 problem to correct, in 1 clinic" in said
    assert "FAILED on all hosts: Check all settings before anything changes" in said
    assert said.count("wharf orthanc_aet 'MORE_THAN_SIXTEEN' is not an AE title") == 1
    assert "NOT REACHED" not in said, "no machine was asked"


def test_a_limit_is_a_roll_out_of_those(tmp_path: Path) -> None:
    status, lines, changed = roll_out(tmp_path, "--limit", "quay,wharf,mill", mill=BROKEN, castle=BROKEN)
    assert (status, changed) == (2, {"mill"})
    assert "  not begun      2  quay, wharf" in lines


def test_the_batches_are_those_of_the_inventory_and_its_default_a_canary(tmp_path: Path) -> None:
    status, lines, changed = roll_out(tmp_path, "-e", json.dumps({"orthanc_rollout": "100%"}), castle=BROKEN)
    assert (status, changed) == (2, set(CLINICS))
    assert not [line for line in lines if line.startswith("Batch ")]
    defaults = yaml.safe_load((ROOT / "roles/orthanc/defaults/main.yml").read_text())
    assert defaults["orthanc_rollout"] == [1, "10%", "100%"]


def test_the_tasks_can_be_listed_where_no_clinic_is_known_to_answer() -> None:
    command = ["ansible-playbook", "-i", "inventories/many_clinics", "--list-tasks", "clinicops.orthanc.deploy"]
    status, lines = run_in_terminal(command)
    assert status == 0, lines


@pytest.mark.parametrize("play", [0, 1])
def test_no_failure_is_ignored(play: int) -> None:
    """Neither is a batch left half done: max_fail_percentage would end it in the middle of a task."""
    content = yaml.safe_load((ROOT / "playbooks/deploy.yml").read_text())[play]
    ignoring = {"ignore_errors", "ignore_unreachable", "max_fail_percentage", "any_errors_fatal", "strategy"}
    assert not ignoring & content.keys()
