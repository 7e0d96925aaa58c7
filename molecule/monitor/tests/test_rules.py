"""Prometheus' own tool reads the rules and plays each of them."""

from __future__ import annotations

import json
import os
from typing import Any

from backups import must
from clients import put
from server.core.limits import read_limits
from server.monitor.rules import RULES
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[:1]


def test_promtool_plays_every_rule() -> None:
    machine = testinfra_hosts[0]
    rules = json.loads(must(machine, "orthanc-monitor rules"))["groups"][0]["rules"]
    made = {rule["alert"]: rule for rule in rules}
    table = {rule.name: rule for rule in RULES}

    def series(name: str, wrong: bool) -> dict[str, str]:
        rule = table[name]
        limit = read_limits()[rule.limit] if isinstance(rule.limit, str) else rule.limit
        better = {"<": limit + 1, ">": limit, "==": 1 - limit}[rule.compares]
        worse = {"<": limit - 1, ">": limit + 1, "==": limit}[rule.compares]
        label = f', {rule.label}="it"' if rule.label else ""
        metric = f'orthanc_monitor_{rule.metric}{{instance="clinic"{label}}}'
        return {"series": metric, "values": f"{worse if wrong else better}+0x20"}

    def expected(name: str) -> dict[str, Any]:
        rule, alert = table[name], made[f"Orthanc{name}"]
        labels = {**alert["labels"], "instance": "clinic", **({rule.label: "it"} if rule.label else {})}
        notes = {
            key: text.replace(f"{{{{ $labels.{rule.label} }}}}", "it") for key, text in alert["annotations"].items()
        }
        return {"exp_labels": labels, "exp_annotations": notes}

    def case(wrong: list[str], firing: list[str], right: tuple[str, ...] = ()) -> dict[str, Any]:
        inputs = [series(name, True) for name in wrong] + [series(name, False) for name in right]
        asked = {*wrong, *right}
        return {
            "interval": "1m",
            "input_series": inputs,
            "alert_rule_test": [
                {
                    "eval_time": "15m",
                    "alertname": f"Orthanc{name}",
                    "exp_alerts": [expected(name)] if name in firing else [],
                }
                for name in sorted(asked)
            ],
        }

    cases = [case([name], [name]) for name in table] + [case([], [], (name,)) for name in table]
    # two limits of one metric are one series
    pairs = [(name, cause) for name in table for cause in table[name].unless]
    cases += [case([cause, name], [cause]) for name, cause in pairs if table[name].metric != table[cause].metric]
    silent = made["OrthancMonitorSilent"]
    cases.append(
        {
            "interval": "1m",
            "input_series": [{"series": 'orthanc_monitor_time_seconds{instance="clinic"}', "values": "0+0x20"}],
            "alert_rule_test": [
                {
                    "eval_time": "10m",
                    "alertname": "OrthancMonitorSilent",
                    "exp_alerts": [
                        {
                            "exp_labels": {**silent["labels"], "instance": "clinic"},
                            "exp_annotations": silent["annotations"],
                        }
                    ],
                }
            ],
        }
    )
    put(machine, "/root/played.yml", json.dumps({"rule_files": ["rules.yml"], "tests": cases}).encode())
    must(machine, "orthanc-monitor rules > /root/rules.yml && promtool check rules /root/rules.yml")
    said = must(machine, "promtool test rules /root/played.yml 2>&1")
    assert "SUCCESS" in said
    # it would tell
    cases[0]["alert_rule_test"][0]["exp_alerts"] = []
    put(machine, "/root/played.yml", json.dumps({"rule_files": ["rules.yml"], "tests": cases}).encode())
    assert "FAILED" in must(machine, "promtool test rules /root/played.yml 2>&1 || true")
