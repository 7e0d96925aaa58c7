"""What orthanc-status makes of the files that monitor and backup left. Real servers are in the scenario monitor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from server.core import monitor_state
from server.core.limits import LIMITS
from server.monitor import prometheus
from server.monitor.rules import RULES
from server.status import cli, lines
from server.status.lines import GOOD, NOTHING, UNKNOWN, WRONG, Line, Server

ROOT = Path(__file__).resolve().parents[2]
NOW, HOUR, DAY = 1_795_644_000.0, 3600, 86400
SUBJECTS = ["monitor", "backup", "restore", "worklist", "certificates", "disk", "forecast", "orthanc", "patches"]
VALUES = [
    *(["worklist_items", "", "", 3.0], ["quarantined_day", "", "", 0.0], ["worklist_waiting_minutes", "", "", 0.2]),
    *(["certificate_days", "certificate", "proxy", 390.2], ["certificate_days", "certificate", "device", 90.0]),
    *(["fs_free_percent", "fs", "storage", 64.0], ["fs_free_bytes", "fs", "storage", 70e9]),
    *(["process_up", "", "", 1.0], ["index_up", "", "", 1.0], ["dicom_up", "", "", 1.0], ["proxy_up", "", "", 1.0]),
    *(["security_updates", "", "", 0.0], ["known_cves", "", "", 6.0], ["support_days", "", "", 700.0]),
]
LOOK: dict[str, Any] = {
    **{"time": NOW - 20, "began": NOW - 90 * DAY, "values": VALUES, "alerts": {}, "version": "1.12.7"},
    "disk": {"days_until_full": 200.4, "growth_bytes_per_day": 3e8, "note": "from 28 days"},
}
SUCCESS = {"result": "success", "reason": "", "last_success_epoch": NOW - 2 * HOUR, "snapshot": "1359d3ef"}
FILES: dict[str, Any] = {
    "backup": {**SUCCESS, "counts": {"instances": 1234}},
    "restore_check": {**SUCCESS, "last_success_epoch": NOW - 3 * DAY, "verified": 200, "of": 200},
}


def alert(name: str, **more: Any) -> dict[str, Any]:
    """An alert that stands, as the monitor leaves it."""
    rule = next(rule for rule in RULES if rule.name == name)
    told = {"name": name, "object": "", "severity": rule.severity, "summary": rule.summary, "remedy": rule.remedy}
    return {**told, "firing": True, "covered": False, "since": NOW, "detail": "", **more}


def see(look: dict[str, Any] | None = None, **more: Any) -> dict[str, Line]:
    """The lines of a server that is well but for this, by subject."""
    found = {"files": FILES, "deployed": True, "unread": {}, "limits": LIMITS, "now": NOW, **more}
    return {line.subject: line for line in lines.describe_server(Server(LOOK if look is None else look, **found))}


def states(found: dict[str, Line]) -> dict[str, str]:
    """The subjects that are not good."""
    return {name: line.state for name, line in found.items() if line.state != GOOD}


def test_a_server_that_is_well() -> None:
    found = see()
    assert list(found) == SUBJECTS
    assert states(found) == {}
    assert lines.summarise([*found.values()]) == (GOOD, "all is well")
    assert found["monitor"].text == "no problems, 20 seconds ago"
    assert found["backup"].text.endswith(", 2 hours ago, snapshot 1359d3ef, 1234 images")
    assert found["restore"].text.endswith(", 3 days ago, snapshot 1359d3ef, 200 of 200 files restored and compared")
    assert found["worklist"].text == "3 items, 0 rejected within a day"
    assert found["certificates"].text == "proxy: 390 days left, device: 90 days left"
    assert found["disk"].text == "storage: 70.0 GB free (64 %)"
    assert found["forecast"].text == "full in 200 days, from 28 days"
    assert found["orthanc"].text == "1.12.7, answers REST, DICOM, HTTPS"
    assert found["patches"].text == "0 security updates to install, 6 known vulnerabilities without an update"


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("WorklistStuck", "worklist"),
        ("CertificateExpires", "certificates"),
        ("DiskGuard", "disk"),
        ("FullSoon", "forecast"),
        ("IndexSilent", "orthanc"),
        ("SecurityUpdates", "patches"),
        ("RestartDue", "patches"),
        ("FirewallGone", ""),
    ],
)
def test_an_alert_is_told_by_the_monitor_and_by_its_subject(name: str, subject: str) -> None:
    found = see({**LOOK, "alerts": {f"{name}/": alert(name)}})
    assert states(found) == dict.fromkeys(filter(None, ["monitor", subject]), WRONG)
    for line in found.values():
        if line.state == WRONG:
            assert alert(name)["summary"] in line.text
            assert "Remedy: " in line.text
    assert lines.summarise([*found.values()]).state == WRONG


def test_the_worst_alert_is_told_first_and_the_others_are_counted() -> None:
    standing = {name: alert(name) for name in ("SecurityUpdates", "KnownVulnerabilities", "OrthancStopped")}
    standing["covered"] = alert("DicomSilent", covered=True)
    monitor = see({**LOOK, "alerts": standing})["monitor"]
    assert monitor.text.startswith("critical, 20 seconds ago: Orthanc is not running; and 1 more")
    assert [one["name"] for one in monitor.facts["alerts"]] == [
        "OrthancStopped",
        "SecurityUpdates",
        "KnownVulnerabilities",
    ]


def test_what_nobody_can_change_is_not_wrong() -> None:
    assert states(see({**LOOK, "alerts": {"k": alert("KnownVulnerabilities")}})) == {}


@pytest.mark.parametrize(
    ("look", "said"),
    [
        ({**LOOK, "time": NOW - 10 * DAY}, "has not run a check for 10 days"),
        ({**LOOK, "time": NOW + DAY}, "is dated in the future"),
        ({}, "has not run a check yet"),
    ],
)
def test_an_old_look_says_nothing_of_now(look: dict[str, Any], said: str) -> None:
    found = see(look)
    assert said in found["monitor"].text
    assert states(found) == {"monitor": WRONG, **dict.fromkeys(SUBJECTS[3:], UNKNOWN)}
    if look:
        assert all(found[name].text.startswith("seen ") for name in SUBJECTS[3:])
    text = f"something is wrong: monitor; unknown: {', '.join(SUBJECTS[3:])}"
    assert lines.summarise([*found.values()]) == (WRONG, text)


def test_what_the_monitor_could_not_see_is_unknown() -> None:
    found = see({**LOOK, "values": [], "disk": {}})
    assert states(found) == dict.fromkeys(SUBJECTS[3:], UNKNOWN)
    assert "could not check" in found["worklist"].text


def test_there_is_no_forecast_without_history() -> None:
    disk = {"days_until_full": None, "growth_bytes_per_day": None, "note": "not enough history yet: 0 of 3 days"}
    assert states(see({**LOOK, "disk": disk})) == {"forecast": NOTHING}


@pytest.mark.parametrize(
    ("name", "known", "state", "said"),
    [
        ("backup", {**SUCCESS, "last_success_epoch": NOW - 30 * HOUR}, WRONG, "30 hours ago, more than 26 hours"),
        ("backup", {**SUCCESS, "result": "failed", "reason": "no space"}, WRONG, "failed: no space; the last success"),
        ("backup", {**SUCCESS, "result": "running"}, GOOD, "another run is in progress"),
        ("backup", {**SUCCESS, "last_success_epoch": NOW + 2 * DAY}, WRONG, "in the future"),
        ("backup", {"result": "failed", "reason": "why"}, WRONG, "failed: why; it has not succeeded yet"),
        ("backup", {**SUCCESS, "warnings": ["The clock is slow."]}, GOOD, "; warning: The clock is slow."),
        ("backup", None, WRONG, "it has not succeeded yet, more than 26 hours"),
        ("restore", {**SUCCESS, "last_success_epoch": NOW - 8 * DAY}, GOOD, "8 days ago"),
        ("restore", {**SUCCESS, "last_success_epoch": NOW - 10 * DAY}, WRONG, "10 days ago, more than 9 days"),
    ],
)
def test_a_task_of_the_backup(name: str, known: Any, state: str, said: str) -> None:
    file = {"backup": "backup", "restore": "restore_check"}[name]
    found = see(files={**FILES, file: known})
    assert (found[name].state, said in found[name].text) == (state, True), found[name].text
    assert ("Remedy: orthanc-backup " in found[name].text) == (state == WRONG)
    assert states(found) == ({} if state == GOOD else {name: state})


def test_a_new_server_has_time_for_its_first_backup() -> None:
    found = see({**LOOK, "began": NOW - HOUR}, files={"backup": {"result": "running"}, "restore_check": None})
    assert states(found) == {"backup": NOTHING, "restore": NOTHING}
    assert (found["backup"].text, found["restore"].text) == ("the first one is running", "the first one is due")


def test_without_a_backup_it_says_so() -> None:
    found = see(files={}, deployed=False)
    assert states(found) == {"backup": NOTHING, "restore": NOTHING}
    assert "on this server only" in found["backup"].text


def test_the_clinic_s_limits_count() -> None:
    old = {**FILES, "backup": {**SUCCESS, "last_success_epoch": NOW - 30 * HOUR}}
    assert states(see(files=old)) == {"backup": WRONG}
    assert states(see(files=old, limits={**LIMITS, "backup_hours": 50})) == {}


def test_what_cannot_be_read_is_named_and_is_not_good() -> None:
    found = see(unread={"monitor": "a. Remedy: run it as root.", "backup": "b. Remedy: run it as root."})
    assert states(found) == dict.fromkeys(["monitor", "backup", *SUBJECTS[3:]], UNKNOWN)
    assert "run it as root" in found["backup"].text
    assert lines.summarise([*found.values()]).state == UNKNOWN


def test_every_alert_that_a_subject_names_is_one_and_every_metric_too() -> None:
    names = {rule.name for rule in RULES}
    for prefixes in lines.ALERTS.values():
        for prefix in prefixes:
            assert any(name.startswith(prefix) for name in names), prefix
    assert {metric for metric, *_ in VALUES} <= set(prometheus.HELP)


# --- the command ----------------------------------------------------------------------------------
@pytest.fixture(name="server")
def fixture_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a server that is well."""
    monkeypatch.setattr(monitor_state, "DIRECTORY", tmp_path)
    monkeypatch.setattr(monitor_state, "IN_MEMORY", tmp_path / "memory.json")
    monkeypatch.setattr(cli, "BACKUP", tmp_path)
    (tmp_path / "facts.json").write_text('{"limits": {}}')
    (tmp_path / "state.json").write_text(json.dumps({**LOOK, "time": time.time()}))
    for name, content in FILES.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "last_success_epoch": int(time.time())}))
    return tmp_path


def call(server: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["orthanc-status", "--config", str(server / "facts.json"), *arguments])
    return cli.main()


def test_it_says_ten_lines_and_ends_with_0(
    server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(server, monkeypatch) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 10
    assert f"{os.uname().nodename}: all is well" in said[0]
    assert [line.split()[0] for line in said[1:]] == SUBJECTS


def test_something_wrong_ends_with_1_in_both_forms(
    server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look = {**LOOK, "time": time.time(), "alerts": {"DicomSilent/": alert("DicomSilent", detail="A\n\x1b[2J")}}
    (server / "state.json").write_text(json.dumps(look))
    assert call(server, monkeypatch) == 1
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 10
    assert "\x1b" not in said
    assert call(server, monkeypatch, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "wrong"
    assert list(found["subjects"]) == SUBJECTS
    assert found["subjects"]["monitor"]["alerts"][0]["name"] == "DicomSilent"
    left = json.loads((server / "backup.json").read_text())
    assert found["subjects"]["backup"]["last_success"] == left["last_success_epoch"]


def test_a_file_for_root_alone_is_named(
    server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cli, "read_state_file", refuse)
    assert call(server, monkeypatch) == 1
    said = capsys.readouterr().out
    assert f"{server / 'backup.json'} cannot be read. Remedy: run orthanc-status as root." in said
    assert "unknown: monitor, backup, restore" in said


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"limits": []}'])
def test_settings_that_are_not_ours_end_with_2(
    server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    (server / "facts.json").unlink() if content is None else (server / "facts.json").write_text(content)
    assert call(server, monkeypatch) == 2
    assert "Remedy: deploy" in capsys.readouterr().err


def test_the_launcher_starts_it(tmp_path: Path) -> None:
    program = ROOT / "roles/orthanc_monitor/files/orthanc_status.py"
    found = {**os.environ, "PYTHONPATH": str(ROOT / "plugins/module_utils")}

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(program), *arguments]
        return subprocess.run(command, env=found, capture_output=True, text=True, check=False)

    assert "in ten lines" in start("--help").stdout
    assert start("--nonsense").returncode == 2
    assert start("--config", str(tmp_path / "none")).returncode == 2
