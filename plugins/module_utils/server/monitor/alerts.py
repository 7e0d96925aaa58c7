# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From what is seen to what is said: which rules hold, which of them are consequences, and what is news."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .context import DAY, Sample
from .rules import COMPARISONS, RULES, Rule
from .settings import Settings

REMIND_SECONDS = DAY
CLEAR_LOOKS = 3  # good ones in a row, until an alert is over
CLEAR_PERCENT = 2  # so much more must be free until an alert of a disk is over


def find_conditions(
    samples: Iterable[Sample], settings: Settings, firing: set[str]
) -> tuple[dict[str, Sample], set[str]]:
    """What is wrong now, by rule and object, and what of it is the consequence of something else.

    `firing` are the keys of the alerts that stand: a disk's ends a little later than it begins.
    """
    found: dict[str, tuple[Rule, Sample]] = {}
    by_metric: dict[str, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(sample.metric, []).append(sample)
    for rule in RULES:
        for sample in by_metric.get(rule.metric, []):
            limit, key = settings.limit(rule), f"{rule.name}/{sample.object}"
            if key in firing and rule.metric.endswith("_percent"):
                limit += CLEAR_PERCENT
            if COMPARISONS[rule.compares](sample.value, limit):
                found[key] = (rule, sample)

    def is_consequence(rule: Rule, sample: Sample) -> bool:
        others = [(of, seen) for of, seen in found.values() if of.name in rule.unless]
        return any(of.label != rule.label or seen.object == sample.object for of, seen in others)

    wrong = {key: sample for key, (_, sample) in found.items()}
    return wrong, {key for key, (rule, sample) in found.items() if is_consequence(rule, sample)}


def judge(
    samples: list[Sample], settings: Settings, former: dict[str, dict[str, Any]], now: float
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The alerts after a look, by rule and object, and what is news: alerts that begin, last for another day, or end.

    `former` are the alerts before it. What was not seen, or is the consequence of something worse, is neither good nor
    bad: it stays as it was.
    """
    wrong, covered = find_conditions(samples, settings, {key for key, alert in former.items() if alert["firing"]})
    seen = {(sample.metric, sample.object) for sample in samples}
    rules, alerts, events = {rule.name: rule for rule in RULES}, {}, []
    moment = int(now)
    for key in sorted({*wrong, *former}):
        name, _, object_ = key.partition("/")
        if name not in rules:
            continue  # of an earlier release of this program
        rule = rules[name]
        fresh = {"looks": 0, "good": 0, "firing": False, "since": moment, "told": 0, "seen": moment}
        alert = {**fresh, **former.get(key, {})}
        if key in covered or (rule.metric, object_) not in seen:
            alert.update(looks=0)
        elif key in wrong:
            alert.update(looks=alert["looks"] + 1, good=0, seen=moment, value=wrong[key].value)
            alert["detail"] = wrong[key].detail
        else:
            alert.update(looks=0, good=alert["good"] + 1, seen=moment)
        alert["covered"] = key in covered
        alert.update(name=name, object=object_, severity=rule.severity, summary=rule.summary, remedy=rule.remedy)
        alert["nothing_to_do"] = rule.nothing_to_do
        alert["told"] = min(alert["told"], moment)  # a clock that was wrong
        # a device or a disk that is no more
        lost = (rule.metric, object_) not in seen and now - alert["seen"] >= DAY
        if not alert["firing"] and alert["looks"] >= rule.looks:
            alert.update(firing=True, since=moment, told=moment)
            events.append({**alert, "state": "firing"})
        elif alert["firing"] and (alert["good"] >= CLEAR_LOOKS or lost):
            events.append({**alert, "state": "resolved"})
            continue
        elif alert["nothing_to_do"] and alert["firing"] and key in wrong:
            # no reminder; but what is new is news, also when something else has ended
            if alert["value"] > alert.get("known", alert["value"]):
                alert["told"] = moment
                events.append({**alert, "state": "firing"})
            alert["known"] = alert["value"]
        elif (
            alert["firing"]
            and not alert["covered"]
            and rule.severity != "info"
            and now - alert["told"] >= REMIND_SECONDS
        ):
            alert["told"] = moment
            events.append({**alert, "state": "reminder"})
        if alert["firing"] or alert["looks"]:
            alerts[key] = alert
    return alerts, events
