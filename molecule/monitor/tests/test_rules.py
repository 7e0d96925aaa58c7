"""Prometheus' own tool reads the rules and plays each of them."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from backups import must
from clients import put
from server.core.limits import read_limits
from server.monitor.rules import RULES
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[:1]


class Case(NamedTuple):
    """The rules whose metrics are wrong and right, and which of them must fire."""

    wrong: tuple[str, ...]
    right: tuple[str, ...]
    firing: tuple[str, ...]

    @property
    def metrics(self) -> set[str]:
        return {TABLE[name].metric for name in (*self.wrong, *self.right)}


TABLE = {rule.name: rule for rule in RULES}


def list_cases() -> list[Case]:
    cases = [Case((name,), (), (name,)) for name in TABLE] + [Case((), (name,), ()) for name in TABLE]
    # two limits of one metric are one series
    pairs = [(name, cause) for name in TABLE for cause in TABLE[name].unless]
    different = [(name, cause) for name, cause in pairs if TABLE[name].metric != TABLE[cause].metric]
    return cases + [Case((cause, name), (), (cause,)) for name, cause in different]


def pack(cases: list[Case]) -> list[list[Case]]:
    """Those without a common metric are played together: each play costs promtool a database."""
    packed: list[list[Case]] = []
    for case in cases:
        fitting = (group for group in packed if not any(case.metrics & other.metrics for other in group))
        group = next(fitting, None)
        if group is None:
            packed.append([case])
        else:
            group.append(case)
    return packed


def test_promtool_plays_every_rule() -> None:
    machine = testinfra_hosts[0]
    rules = json.loads(must(machine, "orthanc-monitor rules"))["groups"][0]["rules"]
    made = {rule["alert"]: rule for rule in rules}

    def series(name: str, wrong: bool, instance: str) -> dict[str, str]:
        rule = TABLE[name]
        limit = read_limits()[rule.limit] if isinstance(rule.limit, str) else rule.limit
        better = {"<": limit + 1, ">": limit, "==": 1 - limit}[rule.compares]
        worse = {"<": limit - 1, ">": limit + 1, "==": limit}[rule.compares]
        label = f', {rule.label}="it"' if rule.label else ""
        metric = f'orthanc_monitor_{rule.metric}{{instance="{instance}"{label}}}'
        return {"series": metric, "values": f"{worse if wrong else better}+0x20"}

    def expected(name: str, instance: str) -> dict[str, Any]:
        rule, alert = TABLE[name], made[f"Orthanc{name}"]
        labels = {**alert["labels"], "instance": instance, **({rule.label: "it"} if rule.label else {})}
        notes = {
            key: text.replace(f"{{{{ $labels.{rule.label} }}}}", "it") for key, text in alert["annotations"].items()
        }
        return {"exp_labels": labels, "exp_annotations": notes}

    def play(group: list[Case]) -> dict[str, Any]:
        """Each case is a clinic of its own."""
        clinics = {f"clinic{number}": case for number, case in enumerate(group)}
        inputs = [series(name, True, clinic) for clinic, case in clinics.items() for name in case.wrong]
        inputs += [series(name, False, clinic) for clinic, case in clinics.items() for name in case.right]
        tests = [
            {
                "eval_time": "15m",
                "alertname": f"Orthanc{name}",
                "exp_alerts": [expected(name, clinic)] if name in case.firing else [],
            }
            for clinic, case in clinics.items()
            for name in sorted({*case.wrong, *case.right})
        ]
        return {"interval": "1m", "input_series": inputs, "alert_rule_test": tests}

    cases = list_cases()
    plays = [play(group) for group in pack(cases)]
    asked = sum(len({*case.wrong, *case.right}) for case in cases)
    assert sum(len(one["alert_rule_test"]) for one in plays) == asked
    silent = made["OrthancMonitorSilent"]
    plays.append(
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
    put(machine, "/root/played.yml", json.dumps({"rule_files": ["rules.yml"], "tests": plays}).encode())
    must(machine, "orthanc-monitor rules > /root/rules.yml && promtool check rules /root/rules.yml")
    said = must(machine, "promtool test rules /root/played.yml 2>&1")
    assert "SUCCESS" in said
    # it would tell
    plays[0]["alert_rule_test"][0]["exp_alerts"] = []
    put(machine, "/root/played.yml", json.dumps({"rule_files": ["rules.yml"], "tests": plays[:1]}).encode())
    assert "FAILED" in must(machine, "promtool test rules /root/played.yml 2>&1 || true")
