"""One check of a whole inventory: every clinic's settings, and what two clinics may not share, in one table."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import clinics
from clinics_inventory import SECRET, write_inventory

ROOT = Path(__file__).resolve().parents[2]


def check(inventory: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and result of the playbook."""
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), "clinicops.orthanc.check_inventory", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            **{"ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"},
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        },
    )
    assert SECRET not in done.stdout + done.stderr
    start = done.stdout.index(" => {") + len(" => ")
    result, _end = json.JSONDecoder().raw_decode(done.stdout[start:])
    return done.returncode, result


def test_all_problems_of_many_clinics_are_one_table_and_no_machine_is_asked(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {asked}\nexit 255\n")
    ssh.chmod(0o755)
    faults: dict[str, dict[str, Any]] = {
        "clinic-007": {"orthanc_aet": "MORE_THAN_SIXTEEN"},
        "clinic-011": {"orthanc_users": [{"name": "it", "role": "admin", "password": "{{ vault_of_nobody }}"}]},
        # the file of another clinic was copied, and not all of it changed
        "clinic-014": {"orthanc_hostname": "pacs.clinic-013.example", "ansible_host": "192.0.2.13"},
        "clinic-019": {"orthanc_backup_host": "clinic-018"},
    }
    shared = {"orthanc_backup_repository": "sftp:backup@192.0.2.250:/orthanc", "ansible_ssh_executable": str(ssh)}
    write_inventory(tmp_path / "inventory", 24, faults, shared, region={"orthanc_worklist_keep_days": -1})
    status, result = check(tmp_path / "inventory")
    assert status == 2
    assert {one["path"]: one["clinics"] for one in result["problems"] if one["severity"] == "error"} == {
        "orthanc_aet": ["clinic-007"],
        "orthanc_users": ["clinic-011"],
        "orthanc_hostname": ["clinic-013", "clinic-014"],
        "ansible_host": ["clinic-013", "clinic-014"],
        "orthanc_backup_host": ["clinic-018", "clinic-019"],
        "orthanc_worklist_keep_days": [f"clinic-{number:03}" for number in range(12, 24)],
    }
    lines = result["msg"].splitlines()
    assert lines[0] == "24 clinics checked; nothing was changed. 6 problems to correct, in 14 clinics:"
    said = " ".join(result["msg"].split())
    assert said.count("clinic-007 orthanc_aet 'MORE_THAN_SIXTEEN' is not an AE title") == 1
    assert said.count("orthanc_worklist_keep_days must be a whole number") == 1
    assert not asked.exists()


def test_a_clinic_is_compared_with_those_that_the_limit_leaves_out(tmp_path: Path) -> None:
    faults: dict[str, dict[str, Any]] = {
        "clinic-001": {"orthanc_backup_host": "pacs"},
        "clinic-002": {"orthanc_backup_host": "pacs", "orthanc_aet": "MORE_THAN_SIXTEEN"},
        "clinic-003": {"orthanc_hostname": "pacs.clinic-004.example", "orthanc_rollout": [5]},
        # an address without a name, and a name that is one
        "clinic-005": {"ansible_host": "clinic-001"},
        "clinic-006": {"orthanc_name": "{{ clinic_of_nobody }}", "orthanc_backup_host": "{{ clinic_of_nobody }}"},
        "clinic-007": {"orthanc_backup_host": "{{ clinic_of_nobody }}"},
    }
    shared = {"orthanc_backup_repository": "sftp:backup@192.0.2.250:/orthanc"}
    write_inventory(tmp_path / "inventory", 9, faults, shared)
    (tmp_path / "inventory/host_vars/clinic-008/main.yml").write_text("not: [YAML")
    nameless = tmp_path / "inventory/host_vars/clinic-001/main.yml"
    nameless.write_text("\n".join(line for line in nameless.read_text().splitlines() if "ansible_host" not in line))
    status, result = check(tmp_path / "inventory", "--limit", "clinic-001")
    assert status == 2
    assert {one["path"]: (one["severity"], one["clinics"]) for one in result["problems"]} == {
        "orthanc_backup_host": ("error", ["clinic-001", "clinic-002"]),
        # which may be two machines, behind a VPN each
        "ansible_host": ("warning", ["clinic-001", "clinic-005"]),
    }
    assert result["msg"].startswith("1 clinic checked; nothing was changed. 1 problem to correct, in 2 clinics:")
    # what the command line sets is meant for the clinics of the play
    own = json.dumps({"orthanc_hostname": "pacs.clinic.example", "orthanc_backup_host": "clinic-of-before"})
    for more in ([], ["--extra-vars", own]):
        status, result = check(tmp_path / "inventory", "--limit", "clinic-000", *more)
        assert (status, result["problems"]) == (0, [])


def test_a_warning_among_the_problems_of_one_clinic_is_marked_and_comes_last(tmp_path: Path) -> None:
    write_inventory(tmp_path / "inventory", 1, {"clinic-000": {"orthanc_aet": "MORE_THAN_SIXTEEN"}}, {})
    status, result = check(tmp_path / "inventory")
    assert status == 2
    title, wrong, *warnings = result["msg"].splitlines()
    assert title == "1 setting(s) to correct; nothing was changed."
    assert wrong.startswith("orthanc_aet 'MORE_THAN_SIXTEEN' is not an AE title")
    assert warnings
    assert all(line.startswith("Warning: orthanc_") for line in warnings), warnings


# --- what two clinics may not share -------------------------------------------------------------
def settings(name: str, **changed: Any) -> dict[str, Any]:
    """What is compared of a clinic that shares nothing."""
    return {
        "orthanc_proxy_hostname": f"pacs.{name}.example",
        "orthanc_proxy_ca_directory": "~/orthanc-ca",
        "orthanc_proxy_users": [{"name": "it", "role": "admin", "password": f"{SECRET}-{name}"}],
        "orthanc_config_name": name,
        "orthanc_backup_repository": "rest:https://backup.example/orthanc",
        "orthanc_backup_host": name,
        "orthanc_backup_password": f"{SECRET}-backup-{name}",
        "orthanc_verify_rollout": [1, "10%", "100%"],
        "ansible_host": f"{name}.example",
        **changed,
    }


SAME_NAME = {"orthanc_proxy_hostname": "PACS.a.example."}
SHARED: list[tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = [
    ({}, {}, []),
    ({}, SAME_NAME, [("error", "orthanc_hostname")]),
    # each with a DNS of its own
    ({}, {**SAME_NAME, "orthanc_proxy_ca_directory": "~/orthanc-ca/b"}, [("warning", "orthanc_hostname")]),
    ({}, {"orthanc_backup_host": "a"}, [("error", "orthanc_backup_host")]),
    (
        {},
        {"orthanc_backup_host": "a", "orthanc_backup_repository": "rest:https://backup.example/orthanc/"},
        [("error", "orthanc_backup_host")],
    ),
    ({}, {"orthanc_backup_host": "a", "orthanc_backup_repository": "rest:https://other.example/orthanc"}, []),
    # one place in two spellings
    (
        {"orthanc_backup_repository": "rest:https://a:token-of-a@backup.example/orthanc"},
        {"orthanc_backup_host": "a", "orthanc_backup_repository": "rest:https://b:token-of-b@backup.example/orthanc/"},
        [("error", "orthanc_backup_host")],
    ),
    *(
        ({"orthanc_backup_repository": left}, {"orthanc_backup_host": "a", "orthanc_backup_repository": right}, said)
        for left, right, said in (
            ("sftp:backup@192.0.2.9:/orthanc", "sftp://other@192.0.2.9//orthanc/", [("error", "orthanc_backup_host")]),
            ("sftp:backup@192.0.2.9:orthanc", "sftp://backup@192.0.2.9/orthanc", [("error", "orthanc_backup_host")]),
            ("sftp:192.0.2.9:/orthanc", "sftp://192.0.2.9//orthanc", [("error", "orthanc_backup_host")]),
            ("sftp:backup@192.0.2.9:orthanc", "sftp:other@192.0.2.9:orthanc", []),
            ("sftp://backup@192.0.2.9:2222//orthanc", "sftp:backup@192.0.2.9:/orthanc", []),
        )
    ),
    ({}, {"ansible_host": "a.example"}, [("error", "ansible_host")]),
    ({}, {"ansible_host": "a.example", "ansible_port": 2222}, []),
    # the same private address behind another bastion
    ({}, {"ansible_host": "a.example", "ansible_ssh_common_args": "-J bastion.b.example"}, []),
    ({}, {"ansible_host": "a.example", "ansible_ssh_extra_args": "-J bastion.b.example"}, []),
    # the defaults, written down
    ({}, {"ansible_host": "a.example", "ansible_port": 22, "ansible_connection": "ssh"}, [("error", "ansible_host")]),
    # not known yet: from a fact
    ({"orthanc_backup_host": None}, {"orthanc_backup_host": None}, []),
    ({}, {"orthanc_config_name": "a"}, [("warning", "orthanc_name")]),
    (
        {},
        {"orthanc_proxy_users": [{"name": "it", "password": f"{SECRET}-a"}]},
        [("warning", "orthanc_users")],
    ),
    ({}, {"orthanc_proxy_users": [{"name": "other", "password": f"{SECRET}-a"}]}, []),
    ({}, {"orthanc_backup_password": f"{SECRET}-backup-a"}, [("warning", "orthanc_backup_password")]),
    (
        {"orthanc_verify_report_key": f"{SECRET}-key"},
        {"orthanc_verify_report_key": f"{SECRET}-key"},
        [("warning", "orthanc_verify_report_key")],
    ),
    ({}, {"orthanc_verify_rollout": ["100%"]}, [("error", "orthanc_rollout")]),
]


@pytest.mark.parametrize(("one", "other", "expected"), SHARED)
def test_what_two_clinics_share(one: dict[str, Any], other: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = clinics.find_shared({"a": settings("a", **one), "b": settings("b", **other), "c": settings("c")})
    assert [(each.problem["severity"], each.problem["path"]) for each in found] == expected
    assert all(set(each.clinics) <= {"a", "b"} for each in found)
    assert SECRET not in str(found)


@pytest.mark.parametrize("path", ["/mnt/disk", "local:/mnt/disk", ""])
def test_a_path_is_a_disk_of_each_machine(path: str) -> None:
    own = {"orthanc_backup_repository": path, "orthanc_backup_host": "pacs"}
    assert clinics.find_shared({name: settings(name, **own) for name in "ab"}) == []


@pytest.mark.parametrize("value", [None, "", 0, [], {}, [[]], [None], ["x"], [{"name": None}]])
def test_any_kind_of_value_is_compared_without_a_traceback(value: Any) -> None:
    for name in [*settings("a"), *clinics.CONNECTION]:
        clinics.find_shared({"a": settings("a", **{name: value}), "b": settings("b"), "c": {}})


@pytest.mark.parametrize("rollout", [[1], [1, "10%", "100%"], ["1", "99%"], 5, "100%", [100000]])
def test_a_size_of_batches(rollout: Any) -> None:
    assert clinics.find_rollout_problems(rollout) == []


@pytest.mark.parametrize("rollout", [[], [0], ["0%"], ["101%"], ["10 %"], ["all"], [-1], [1.5], [True], [None], "", {}])
def test_what_is_not_a_size_of_batches(rollout: Any) -> None:
    [found] = clinics.find_rollout_problems(rollout)
    assert found["path"] == "orthanc_rollout"
    assert "such as [1, 10%, 100%]" in found["remedy"]


def test_equal_problems_are_one_row_and_errors_come_first() -> None:
    error = {"rule": "r", "severity": "error", "path": "orthanc_aet", "message": "is wrong", "remedy": "correct it"}
    warning = {**error, "severity": "warning", "path": "orthanc_name", "message": "is odd"}
    found = clinics.merge({"a": [warning], "b": [warning, error], "c": [warning]})
    assert [(each.problem["path"], each.clinics) for each in found] == [
        ("orthanc_aet", ["b"]),
        ("orthanc_name", ["a", "b", "c"]),
    ]
    assert clinics.count_clinics(found) == 3
    lines = clinics.write_table(found, ["a", "b", "c"], 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert [line.split("  ")[0] for line in lines if not line.startswith(" ")] == ["b", "all 3 clinics"]


@pytest.mark.parametrize(
    "url", ["", "https://a:b@reports.example.org/clinics/", "https://192.0.2.9:8443/", "https://a.example/Röntgen/"]
)
def test_a_directory_for_reports(url: str) -> None:
    assert clinics.find_report_url_problems(url) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://a:token@reports.example.org/clinics/",  # the password would be readable on the way
        "https://a:token@reports.example.org/clinics",  # a file would be written beside the directory
        "https://a:token@reports.example.org/clinics/?x=/",
        "https://a:token@reports.example.org/two words/",
        "https://a:token@reports.example.org:99999/",
        "https://a:token@reports.example.org:https/",
        "https://a:token@reports..example.org/",
        "https://a:token@[2001:db8::9/",
        "token@reports.example.org:clinics/",
    ],
)
def test_what_is_not_a_directory_for_reports(url: str) -> None:
    [found] = clinics.find_report_url_problems(url)
    assert found["path"] == "orthanc_verify_report_url"
    assert "token" not in json.dumps(found)


@pytest.mark.parametrize("url", ["sftp://clinic@reports.example.org/clinics/", "sftp://a@[2001:db8::9]:2222/"])
def test_a_directory_for_reports_over_sftp(url: str) -> None:
    assert clinics.find_report_url_problems(url, "a key", "a host") == []
    missing = clinics.find_report_url_problems(url)
    assert [one["path"] for one in missing] == ["orthanc_verify_report_key", "orthanc_verify_report_known_hosts"]


@pytest.mark.parametrize(
    "url",
    [
        "sftp://clinic:token@reports.example.org/clinics/",  # a key lets it in, not a password
        "sftp://reports.example.org/clinics/",
        "sftp://clinic@reports.example.org/clinics",
        "sftp://-oProxyCommand=x@reports.example.org/clinics/",
        'sftp://clinic@reports.example.org/"clinics/',
        "sftp://clinic@reports.example.org:99999/clinics/",
        "sftp:clinic@reports.example.org:clinics/",
    ],
)
def test_what_is_not_a_directory_for_reports_over_sftp(url: str) -> None:
    [found] = clinics.find_report_url_problems(url, "a key", "a host")
    assert found["path"] == "orthanc_verify_report_url"
    assert "token" not in json.dumps(found)
