# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a server is: green, amber or red, in one sentence, with the reasons.

The report, the overview, what a deploy says at its end and the mails all ask here, so that none of them says that
everything works beside another's alarm. docs/report.md has the rule in words.
"""

from __future__ import annotations

import datetime
import math
from typing import Any, NamedTuple

from .limits import SILENT_MINUTES, merge_limits
from .words import say_count

Report = dict[str, Any]

GOOD, SOON, BAD = "good", "soon", "bad"  # green, amber, red
NONE = "none"  # there is nothing to do yet, or nothing that can be done: listed, and without a colour
STATE_OF = {"critical": BAD, "warning": SOON, "info": NONE}  # by an alert's severity
# alerts that the report covers better by its own facts, with the part that covers them
TOLD_BY = {
    **dict.fromkeys(("AcceptanceFailed", "AcceptanceOld"), "checks"),
    **dict.fromkeys(("BackupFailed", "BackupOld", "RestoreCheckFailed", "RestoreCheckOld"), "backup"),
    **dict.fromkeys(("LedgerFailed", "LedgerOld"), "backup"),
    "CertificateExpires": "certificates",
    **dict.fromkeys(("DiskGuard", "DiskAlmostFull", "DiskFilling", "FullSoon"), "disk"),
    "ClockUnsynchronised": "clock",
}


class Limits(NamedTuple):
    """From which value on each kind is amber, and from which it is red."""

    certificate_days: tuple[float, float]
    disk_days: tuple[float, float]
    free_percent: tuple[float, float]
    backup_hours: tuple[float, float]
    restore_check_hours: tuple[float, float]
    ledger_hours: tuple[float, float]


class Reason(NamedTuple):
    """Why a server is not green: SOON or BAD, and a clause that begins with a small letter."""

    state: str
    text: str


class Verdict(NamedTuple):
    """GOOD, SOON or BAD; the same in a sentence without a full stop; the reasons, worst first."""

    state: str
    sentence: str
    reasons: list[Reason]


class Run(NamedTuple):
    """How a regular task is, and the same in words: since when it succeeded, or why it never did."""

    state: str
    said: str


def judge(report: Report) -> Verdict:
    """The verdict on an acceptance report: as bad as the worst of all that it holds."""
    checks = report.get("checks") or []
    results = [result_of(check) for check in checks]
    failed, waived, passed = (results.count(each) for each in ("failed", "waived", "passed"))
    aside = f", {waived} waived" if waived else ""
    reasons = find_reasons(report)
    if failed:
        return Verdict(BAD, f"{failed} of {say_count(len(checks), 'check')} failed{aside}", reasons)
    if not checks:
        return Verdict(BAD, "Nothing was checked", reasons)
    if not report.get("passed"):
        what = f"The test did not pass, though none of its {say_count(len(checks), 'check')} failed"
        return Verdict(BAD, f"{what}{aside}", reasons)
    if not reasons:
        return Verdict(GOOD, f"Everything works: {say_count(passed, 'check')} passed{aside}", [])
    state = reasons[0].state
    what = reasons[0].text + (f"; and {len(reasons) - 1} more" if len(reasons) > 1 else "")
    say = "act on" if state == BAD else "look at"
    return Verdict(state, f"{say_count(passed, 'check')} passed{aside}; {say}: {what}", reasons)


def find_reasons(report: Report) -> list[Reason]:
    """What is wrong apart from the checks, worst first."""
    limits, found = limits_of(report), []
    for certificate in report.get("certificates") or []:
        days = int(certificate["days"])
        found.append(
            Reason(
                judge_falling(days, limits.certificate_days),
                f"certificate {certificate['name']}: {say_days_left(days)}",
            )
        )
    if not found:
        found.append(Reason(SOON, "no certificate was found"))
    disk = report.get("disk")
    found.append(Reason(state_of_disk(report), describe_disk(disk)) if disk else Reason(SOON, "no monitor is deployed"))
    runs = runs_of(report)
    found += [Reason(run.state, f"{name}: {run.said}") for name, run in runs.items()]
    for warning in (report.get("backup") or {}).get("warnings") or []:
        found.append(Reason(SOON, uncapitalise(warning.partition(" Remedy: ")[0].removesuffix("."))))
    if not runs:
        found.append(Reason(SOON, "no backup is set up: the images exist only on this server"))
    clock = report.get("clock")
    if clock and not clock["synchronised"]:
        found.append(Reason(SOON, "the clock is not synchronised"))
    if report.get("put_back"):
        found.append(Reason(SOON, f"after the deploy: {report['put_back']}"))
    if report.get("not_sent"):
        found.append(Reason(SOON, f"the report was not sent: {report['not_sent']}"))
    found += [Reason(state_of_alert(alert), uncapitalise(alert["text"])) for alert in alerts_of(report)]
    return sorted((one for one in found if one.state in (SOON, BAD)), key=lambda one: -weigh(one.state))


def result_of(check: dict[str, Any]) -> str:
    """`passed`, `failed`, or `waived` for one that the inventory has a reason for."""
    if check.get("waiver"):
        return "waived"
    return "passed" if check["passed"] else "failed"


def alerts_of(report: Report) -> list[dict[str, Any]]:
    """The monitor's alerts, without those that the report covers by its own facts."""
    own = {"", "storage", *(certificate["name"] for certificate in report.get("certificates") or [])}

    def is_told(alert: dict[str, Any]) -> bool:
        return alert.get("object", "") in own and bool(report.get(TOLD_BY.get(alert["name"], "")))

    return [alert for alert in report.get("alerts") or [] if not is_told(alert)]


def state_of_alert(alert: dict[str, Any]) -> str:
    """Of an alert of the monitor; NONE for what a clinic cannot change."""
    return NONE if alert.get("standing") else STATE_OF.get(alert["severity"], SOON)


# --- the parts of a report ------------------------------------------------------------------------
def limits_of(report: Report) -> Limits:
    """The monitor's, as the server has them: what is worse by a further step is a failure."""
    found = merge_limits(report.get("limits") or {})
    days, check = found["days_until_full"], found["restore_check_days"]
    return Limits(
        certificate_days=(found["certificate_days"], 0),
        disk_days=(days, min(days, 7)),
        free_percent=(found["disk_warning_percent"], found["disk_critical_percent"]),
        backup_hours=(found["backup_hours"], found["backup_hours"] + 24),
        restore_check_hours=(check * 24, (check + 6) * 24),
        ledger_hours=(found["ledger_hours"], found["ledger_hours"] + 24),
    )


def state_of_disk(report: Report) -> str:
    """Of what is free, of the days until it is full, and of how long ago the monitor measured it."""
    disk, limits = report["disk"], limits_of(report)
    days = disk.get("days_until_full")
    return max(
        judge_falling(free_percent(disk), limits.free_percent),
        judge_falling(days, limits.disk_days) if days is not None else GOOD,
        SOON if measured_before(report) > 60 * SILENT_MINUTES else GOOD,
        key=weigh,
    )


def free_percent(disk: dict[str, Any]) -> float:
    """What is free of a disk's size; of a disk without a size nothing is."""
    total = float(disk["total_bytes"])
    return 100 * float(disk["free_bytes"]) / total if total else 0


def measured_before(report: Report) -> float:
    """Seconds from the monitor's measurement of the disk to the report; 0 where either is unknown."""
    now, measured = parse_time(report.get("time")), parse_time(report["disk"].get("time"))
    return (now - measured).total_seconds() if now and measured else 0.0


def describe_disk(disk: dict[str, Any]) -> str:
    """`the disk: 9 % free, full in 9 days`."""
    days = disk.get("days_until_full")
    full = f", full in {say_count(int(days), 'day')}" if days is not None and days < 5 * 365 else ""
    return f"the disk: {free_percent(disk):.0f} % free{full}"


def runs_of(report: Report) -> dict[str, Run]:
    """Each regular task of the backup by its name; empty where no backup is deployed."""
    backup = report.get("backup")
    if not backup:
        return {}
    time, limits = report.get("time"), limits_of(report)
    found = {"last backup": assess_run(backup, time, limits.backup_hours, SOON)}
    found["last restore check"] = assess_run(backup.get("restore_check"), time, limits.restore_check_hours, NONE)
    if "ledger" in backup:
        found["last ledger"] = assess_run(backup["ledger"], time, limits.ledger_hours, NONE)
    return found


def assess_run(run: dict[str, Any] | None, time: Any, limits: tuple[float, float], first: str) -> Run:
    """By the report's own clock. `first` is the state while the first one runs or is still to come."""
    known = run or {}
    result, last, now = known.get("result") or "", parse_time(known.get("last_success")), parse_time(time)
    if not last:
        planned = parse_time(known.get("planned"))
        # one that was killed is noted as running for ever
        if result != "failed" and planned and now and (now - planned).total_seconds() < 3600 * limits[0]:
            return Run(first, "the first one is " + ("running" if result == "running" else "due"))
        return Run(BAD, "has not succeeded yet" if result else "has not run yet")
    hours = (now - last).total_seconds() / 3600 if now else math.inf
    state = BAD if result == "failed" else judge_rising(hours, limits)
    why = "failed; the last success was " if result == "failed" else ""
    return Run(state, why + (f"{say_age(hours)} before this report" if now else "at an unknown age"))


# --- words --------------------------------------------------------------------------------------
def weigh(state: str) -> int:
    """For comparing: the higher the worse."""
    return (NONE, GOOD, SOON, BAD).index(state)


def judge_falling(value: float, limits: tuple[float, float]) -> str:
    """The state of a value that is worse the smaller it is."""
    return BAD if value < limits[1] else SOON if value < limits[0] else GOOD


def judge_rising(value: float, limits: tuple[float, float]) -> str:
    """The state of a value that is worse the larger it is."""
    return BAD if value > limits[1] else SOON if value > limits[0] else GOOD


def say_days_left(days: int) -> str:
    """`12 days left`, `expired 3 days ago`."""
    return f"{say_count(days, 'day')} left" if days >= 0 else f"expired {say_count(-days, 'day')} ago"


def say_age(hours: float) -> str:
    """`less than an hour`, `30 hours`, `5 days`."""
    if hours < 1:
        return "less than an hour"
    return say_count(int(hours), "hour") if hours < 48 else say_count(int(hours / 24), "day")


def parse_time(text: Any) -> datetime.datetime | None:
    """A moment in UTC; None for what is none."""
    try:
        moment = datetime.datetime.fromisoformat(str(text).replace("Z", "+00:00"))  # as Python 3.10 reads it
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).astimezone(datetime.timezone.utc)


def uncapitalise(text: str) -> str:
    """For the middle of a sentence; a name in capitals stays."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
