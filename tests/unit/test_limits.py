"""Monitor, acceptance test and report agree on what is too old, whatever the inventory says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core import limits
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import acceptance, report
from server.monitor import alerts
from server.monitor.rules import RULES
from test_monitor import Seen, settings
from test_verify import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3600
# the limit, what an inventory says instead, an age that is too old without it and not with it, as the monitor sees it
CASES = [
    ("backup_hours", 50, "backup", 30 * HOUR, "backup_age_hours", 30.0),
    ("restore_check_days", 20, "restore_check", 15 * 24 * HOUR, "restore_check_age_days", 15.0),
    ("ledger_hours", 8, "ledger", 5 * HOUR, "ledger_age_hours", 5.0),
]


def test_what_the_deploy_left_counts_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "shared.json"
    assert limits.read_limits(path) == limits.LIMITS
    path.write_text('{"limits": {"backup_hours": 50, "of_another_release": 1}}')
    assert limits.read_limits(path) == {**limits.LIMITS, "backup_hours": 50}
    for broken in ("", "[]", "{}", '{"limits": []}'):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"shared\.json"):
            limits.read_limits(path)


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize(("limit", "value", "name", "age", "metric", "seen"), CASES)
def test_all_three_say_the_same_of_an_age(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: int,
    name: str,
    age: int,
    metric: str,
    seen: float,
    changed: bool,
) -> None:
    wanted: dict[str, float] = {limit: value} if changed else {}
    told, _ = alerts.find_conditions(Seen(0, (metric, "", seen)).values, settings(tmp_path, wanted), set())
    day = safe(tmp_path, monkeypatch, wanted)
    last = {"result": "success", "last_success_epoch": int(time.time() - age)}
    (tmp_path / f"{name}.json").write_text(json.dumps(last))
    day.safety()
    words = {
        "backup": "last backup",
        "restore_check": "last restore check",
        "ledger": "last ledger of what was received",
    }
    [check] = [check for check in day.checks if check["name"] == words[name]]
    run = {"result": "success", "last_success": acceptance.format_time(time.time() - age)}
    page = {
        "time": acceptance.format_time(time.time()),
        "limits": day.limits,
        "backup": {**run, "restore_check": run, "ledger": run},
    }
    [row] = [
        row
        for row in report._backup(page) or []
        if row["name"] == words[name].removesuffix(" of what was received").capitalize()
    ]
    assert (not told, check["passed"], row["state"] == report.GOOD) == (changed, changed, changed), (told, check, row)


def safe(home: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]) -> acceptance.Day:
    """A day on a machine whose schedules are in place."""
    monkeypatch.setattr(acceptance, "BACKUP", home)
    monkeypatch.setattr(acceptance, "read_limits", lambda: limits.merge_limits(wanted))
    schedules = {name: {"planned": 1, "unit": name, "active": True} for name in ("backup", "restore_check", "ledger")}
    monkeypatch.setattr(acceptance, "ask_schedules", lambda: acceptance.Schedules(schedules, ""))
    return acceptance.Day(SETTINGS, home)


@pytest.mark.parametrize(
    ("days", "changed", "good"), [(20, {}, True), (10, {}, False), (10, {"certificate_days": 7}, True)]
)
def test_all_three_say_the_same_of_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, changed: dict[str, float], good: bool
) -> None:
    values = Seen(0, ("certificate_days", "proxy", days + 0.5)).values
    told, _ = alerts.find_conditions(values, settings(tmp_path, changed), set())
    day = safe(tmp_path, monkeypatch, changed)
    monkeypatch.setattr(type(day.proxy), "expiry", lambda _self: int(time.time() + (days + 0.5) * 86400))
    day.settings = {**SETTINGS, "http_port": 1}
    day.service()
    [check] = [check for check in day.checks if check["name"] == "certificate of the proxy"]
    row = report._certificate({"name": "proxy", "days": days}, report.limits_of({"limits": day.limits}))
    assert (not told, check["passed"], row["state"] == report.GOOD) == (good, good, good), (told, check, row)


def test_the_dashboard_s_colours_are_the_limits() -> None:
    board = json.loads((ROOT / "roles/orthanc_monitor/files/dashboard.json").read_text())
    colours = {
        panel["targets"][0]["expr"].partition("{")[0].removeprefix("orthanc_monitor_"): steps[-1]["value"]
        for panel in board["panels"]
        if (steps := panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps"))
    }
    by_metric = {rule.metric: rule.limit for rule in RULES if isinstance(rule.limit, str)}
    found = {metric: (colours[metric], limits.LIMITS[by_metric[metric]]) for metric in colours if metric in by_metric}
    assert len(found) == 4
    assert all(shown == limit for shown, limit in found.values()), found


def test_an_acceptance_test_alone_replaces_no_programs() -> None:
    """Newer ones may not read the settings that an older deploy wrote."""
    tasks = yaml.safe_load((ROOT / "roles/orthanc_tools/tasks/limits.yml").read_text())
    assert [task for task in tasks if "ansible.builtin.import_tasks" in task] == []
    installs = [task for task in tasks if "clinicops.orthanc.orthanc_tools" in task]
    assert [task.get("check_mode") for task in installs] == [True]
    writes = [number for number, task in enumerate(tasks) if "clinicops.orthanc.orthanc_files" in task]
    requires = [number for number, task in enumerate(tasks) if "ansible.builtin.assert" in task]
    assert max(requires) < min(writes)
