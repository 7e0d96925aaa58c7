# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From measurements to alerts: which rules apply, which of them are consequences of others, and what is new."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .context import DAY, Sample
from .rules import COMPARISONS, DOWN, RULES, Rule
from .settings import Settings

WEEK = 7 * DAY
CLEAR_CHECKS = 3  # good ones in a row until an alert is over
BASES = ("configuration", "process")  # probes on whose results others depend
CLEAR_PERCENT = 2  # so much more must be free until an alert of a disk is over


def find_conditions(
    samples: Iterable[Sample], settings: Settings, firing: set[str]
) -> tuple[dict[str, Sample], set[str]]:
    """What is wrong now, by rule and object, and what of it is the consequence of something else.

    `firing` are the keys of the active alerts: a disk's alert ends at a higher limit than it begins.
    """
    found: dict[str, tuple[Rule, Sample]] = {}
    by_metric: dict[str, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(sample.metric, []).append(sample)
    for rule in RULES:
        for sample in by_metric.get(rule.metric, []):
            limit, key = settings.limit(rule), f"{rule.name}/{sample.object}"
            if key in firing and rule.metric.endswith("_percent"):
                limit += CLEAR_PERCENT if rule.compares == "<" else -CLEAR_PERCENT
            if COMPARISONS[rule.compares](sample.value, limit):
                found[key] = (rule, sample)

    def is_consequence(rule: Rule, sample: Sample) -> bool:
        others = [(of, seen) for of, seen in found.values() if of.name in rule.unless]
        return any(of.label != rule.label or seen.object == sample.object for of, seen in others)

    wrong = {key: sample for key, (_unused, sample) in found.items()}
    return wrong, {key for key, (rule, sample) in found.items() if is_consequence(rule, sample)}


def judge(
    samples: list[Sample], settings: Settings, former: dict[str, dict[str, Any]], now: float
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The alerts after a check, by rule and object, and what is new: alerts that begin, are due for a reminder, or end.

    `former` are the alerts before it. What was not measured, or is the consequence of something worse, is neither good
    nor bad: it stays as it was.
    """
    wrong, covered = find_conditions(samples, settings, {key for key, alert in former.items() if alert["firing"]})
    probes = {(sample.metric, sample.object): sample.probe for sample in samples}
    blind = {sample.object for sample in samples if sample.metric == "blind" and sample.value}
    names = {key.partition("/")[0] for key in wrong}
    rules, alerts, events = {rule.name: rule for rule in RULES}, {}, []
    for key in sorted({*wrong, *former}):
        name, _unused, object_ = key.partition("/")
        if name not in rules:
            continue  # of an earlier release of this program
        rule = rules[name]
        is_seen = (rule.metric, object_) in probes
        probe = probes.get((rule.metric, object_)) or former.get(key, {}).get("probe", "")
        # an older release did not note the probe
        in_the_dark = not blind.isdisjoint({probe, *BASES}) if probe else bool(blind)
        hidden = in_the_dark or not names.isdisjoint({*rule.unless, *DOWN})
        condition = Condition(rule, object_, wrong.get(key), key in covered, is_seen, hidden)
        alert = {**update_alert(former.get(key, {}), condition, int(now)), "probe": probe}
        news = advance_alert(alert, condition, now)
        if news:
            events.append({**alert, "state": news})
        if news != "resolved" and (alert["firing"] or alert["looks"]):
            alerts[key] = alert
    return alerts, events


class Condition(NamedTuple):
    """What a check found for a rule and an object: the sample for which it holds, if it does, whether it is the
    consequence of something else, whether it was measured at all, and whether something may keep it from that."""

    rule: Rule
    object: str
    sample: Sample | None
    covered: bool
    seen: bool
    hidden: bool


def update_alert(former: dict[str, Any], condition: Condition, now: int) -> dict[str, Any]:
    """The alert with what this check found; `former` is the alert after the last check, empty for a new one."""
    rule, sample = condition.rule, condition.sample
    alert = {"looks": 0, "good": 0, "firing": False, "since": now, "told": 0, "seen": now, **former}
    if condition.covered or not condition.seen:
        alert.update(looks=0)
    elif sample:
        alert.update(looks=alert["looks"] + 1, good=0, seen=now, value=sample.value, detail=sample.detail)
    else:
        alert.update(looks=0, good=alert["good"] + 1, seen=now)
    alert.update(name=rule.name, object=condition.object, severity=rule.severity)
    alert.update(summary=rule.summary, remedy=rule.remedy, nothing_to_do=rule.nothing_to_do)
    # a clock that was ahead: what it noted would not come for as long
    alert.update(covered=condition.covered, **{name: min(alert[name], now) for name in ("told", "since", "seen")})
    return alert


def advance_alert(alert: dict[str, Any], condition: Condition, now: float) -> str:
    """What is new about an alert: firing, reminder or resolved; empty for nothing. Notes when it was reported."""
    # a device or a disk that no longer exists
    lost = not (condition.seen or condition.hidden) and now - alert["seen"] >= DAY
    news = ""
    if not alert["firing"]:
        if alert["looks"] >= condition.rule.checks:
            alert.update(firing=True, since=int(now))
            news = "firing"
    elif alert["good"] >= CLEAR_CHECKS or lost:
        return "resolved"
    elif condition.rule.severity == "info":
        # no reminder; but a higher value is reported, also when something else has ended
        if condition.sample:
            news = "firing" if alert["value"] > alert.get("known", alert["value"]) else ""
            alert["known"] = alert["value"]
    elif (condition.seen or condition.hidden) and not (alert["covered"] or alert["good"]):
        # a mail that comes each day for months is read no more
        pause = DAY if now - alert["since"] < WEEK else WEEK
        news = "reminder" if now - alert["told"] >= pause else ""
    if news:
        alert["told"] = int(now)
    return news
