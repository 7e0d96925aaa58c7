# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From what the programs left to a line for each subject: its state, a sentence, and the same as facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from ..core import words
from ..core.limits import describe
from ..core.monitor_state import (
    describe_alert,
    describe_disks,
    describe_forecast,
    describe_silence,
    list_standing,
    list_values,
)

# UNKNOWN cannot be seen; NOTHING is not there by the clinic's choice, or not yet due
GOOD, WRONG, UNKNOWN, NOTHING = "good", "wrong", "unknown", "none"
HOUR, DAY = 3600, 86400
State: TypeAlias = "dict[str, Any] | None"  # what a program left in its file
# the alerts of the monitor that tell of a subject, by the beginnings of their names
ALERTS = {
    "worklist": ("Worklist",),
    "certificates": ("Certificate",),
    "disk": ("Disk", "Inodes", "MountGone"),
    "forecast": ("FullSoon",),
    "orthanc": (
        *("OrthancStopped", "IndexSilent", "IndexLocked", "DicomSilent", "PluginMissing", "RestartLoop", "ProxyDown"),
        *("ThreadsExhausted", "JobsFailed", "ErrorsLogged"),
    ),
    "patches": ("SecurityUpdates", "Package", "Reboot", "RestartDue", "SystemEnd"),
}


class Line(NamedTuple):
    """A subject: its state (GOOD, WRONG, UNKNOWN, NOTHING), a sentence for a person, and the facts for a program."""

    subject: str
    state: str
    text: str
    facts: dict[str, Any]


class Verdict(NamedTuple):
    """The state of the whole server, and a sentence."""

    state: str
    text: str


def summarise(lines: list[Line]) -> Verdict:
    """As bad as the worst line; what cannot be seen is not good."""
    wrong, unknown = ([line.subject for line in lines if line.state == state] for state in (WRONG, UNKNOWN))
    said = [f"something is wrong: {', '.join(wrong)}"] if wrong else []
    said += [f"unknown: {', '.join(unknown)}"] if unknown else []
    return Verdict(WRONG if wrong else UNKNOWN if unknown else GOOD, "; ".join(said) or "all is well")


class Server(NamedTuple):
    """What there is to see: the monitor's last look; the backup's state files by name (None: there is none) where one
    is `deployed`; why a file cannot be read, by its name; the limits of all programs; the moment."""

    look: dict[str, Any]
    files: Mapping[str, State]
    deployed: bool
    unread: Mapping[str, str]
    limits: Mapping[str, float]
    now: float

    @property
    def values(self) -> dict[tuple[str, str], float]:
        """What the last look measured, by metric and object."""
        return list_values(self.look)

    @property
    def age(self) -> str:
        """How old the last look is."""
        return f"{words.say_age(max(0, self.now - self.look['time']))} ago"


def describe_server(server: Server) -> list[Line]:
    """The lines of a server, in the order in which a person reads them."""
    hours, days = server.limits["backup_hours"], server.limits["restore_check_days"]
    of_backup = ("orthanc-backup run; see journalctl -t orthanc-backup", hours * HOUR, describe(hours, "hour"))
    of_check = ("orthanc-backup check; see journalctl -u orthanc-restore-check", days * DAY, describe(days, "day"))
    return [
        describe_monitor(server),
        describe_task(server, "backup", Task("backup", *of_backup)),
        describe_task(server, "restore", Task("restore_check", *of_check)),
        describe_worklist(server),
        describe_certificates(server),
        describe_disk(server),
        describe_full(server),
        describe_orthanc(server),
        describe_patches(server),
    ]


# --- the monitor ----------------------------------------------------------------------------------
def describe_monitor(server: Server) -> Line:
    """The worst of what stands, and how old the last look is."""
    standing = list_standing(server.look)
    kept = ("name", "object", "severity", "summary", "detail", "remedy", "since")
    alerts = [{name: alert.get(name, "") for name in kept} for alert in standing]
    facts = {"time": server.look.get("time"), "alerts": alerts}
    if "monitor" in server.unread:
        return Line("monitor", UNKNOWN, server.unread["monitor"], facts)
    silence = describe_silence(server.look, server.now)
    if silence:
        return Line("monitor", WRONG, silence, facts)
    wrong = [alert for alert in standing if alert["severity"] != "info"]
    if not wrong:
        return Line("monitor", GOOD, f"nothing is wrong, {server.age}", facts)
    more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    said = f"{wrong[0]['severity']}, {server.age}: {describe_alert(wrong[0])}{more}"
    return Line("monitor", WRONG, f"{said}. Remedy: orthanc-monitor show says what to do.", facts)


# --- backup and restore check ---------------------------------------------------------------------
class Task(NamedTuple):
    """A regular task of the backup: its state file, what to do about it, and the seconds for which a success is good,
    also in words."""

    name: str
    remedy: str
    seconds: float
    limit: str


def describe_task(server: Server, subject: str, task: Task) -> Line:
    """How the task last ended, and how old its last success is; a server that is new has time for the first one."""
    known, now = server.files.get(task.name) or {}, server.now
    last, result = float(known.get("last_success_epoch") or 0), str(known.get("result", ""))
    reason, snapshot = str(known.get("reason", "")), str(known.get("snapshot", "")) if result == "success" else ""
    facts = {"result": result, "last_success": last or None, "reason": reason, "snapshot": snapshot}
    if not server.deployed:
        return Line(subject, NOTHING, "no backup is deployed, the images are on this server alone", facts)
    if task.name in server.unread:
        return Line(subject, UNKNOWN, server.unread[task.name], facts)
    age = words.say_age(max(0, now - last))
    success = f"the last success was {age} ago" if last else "there was no success yet"
    if result == "failed":
        return Line(subject, WRONG, f"failed: {reason[:200]}; {success}. Remedy: {task.remedy}.", facts)
    if last > now + HOUR:
        return Line(subject, WRONG, f"the last success is dated in the future. Remedy: {task.remedy}.", facts)
    if now - (last or server.look.get("began", now)) > task.seconds:
        return Line(subject, WRONG, f"{success}, more than {task.limit}. Remedy: {task.remedy}.", facts)
    if not last:
        return Line(subject, NOTHING, "the first one is " + ("running" if result == "running" else "due"), facts)
    return Line(subject, GOOD, f"{words.say_moment(last)}, {age} ago{describe_success(known, snapshot)}", facts)


def describe_success(known: dict[str, Any], snapshot: str) -> str:
    """What a state file tells of a success besides its time."""
    text = f", snapshot {snapshot}" if snapshot else ""
    if snapshot and "verified" in known:
        text += f", {known['verified']} of {known.get('of', 0)} files restored and compared"
    elif snapshot and "counts" in known:
        text += f", {words.say_count(known['counts'].get('instances', 0), 'image')}"
    text += ", another one is running" if known.get("result") == "running" else ""
    warnings = known.get("warnings") or []
    return text + (f"; warning: {warnings[0]}" if warnings else "")


# --- what the monitor saw -------------------------------------------------------------------------
def build_line(server: Server, subject: str, text: str, facts: dict[str, Any], good: str = GOOD) -> Line:
    """The line of a subject that the monitor looks at: its alerts, then what was measured; an old look says so."""
    if "monitor" in server.unread or "time" not in server.look:
        return Line(subject, UNKNOWN, "the last look of the monitor is not there", facts)
    alerts = [alert for alert in list_standing(server.look) if alert["name"].startswith(ALERTS[subject])]
    wrong = [alert for alert in alerts if alert["severity"] != "info"]
    old = bool(describe_silence(server.look, server.now))
    said = [f"seen {words.say_moment(server.look['time'])}"] * old
    said += [text or "the monitor could not see it"]
    said += [f"{describe_alert(alert)}. Remedy: {alert['remedy']}" for alert in wrong[:1]]
    return Line(subject, WRONG if wrong else UNKNOWN if old or not text else good, "; ".join(said), facts)


def describe_worklist(server: Server) -> Line:
    """Items that are served, that were refused, and how long the oldest has been waiting."""
    names = {"items": "worklist_items", "refused_day": "quarantined_day", "waiting_minutes": "worklist_waiting_minutes"}
    facts = {name: server.values[metric, ""] for name, metric in names.items() if (metric, "") in server.values}
    text = ""
    if len(facts) == len(names):
        text = f"{words.say_count(int(facts['items']), 'item')}, {facts['refused_day']:.0f} refused within a day"
        minutes = facts["waiting_minutes"]
        text += f", one has been waiting for {minutes:.0f} minutes" if minutes >= 1 else ""
    return build_line(server, "worklist", text, facts)


def describe_certificates(server: Server) -> Line:
    """Days until each certificate that clients and devices get expires."""
    days = {name: value for (metric, name), value in server.values.items() if metric == "certificate_days"}
    text = ", ".join(f"{name}: {value:.0f} days left" for name, value in days.items())
    return build_line(server, "certificates", text, {"days": days})


def describe_disk(server: Server) -> Line:
    """What is free of each disk."""
    text = ", ".join(f"{name}: {said}" for name, said in describe_disks(server.look).items())
    percent = {name: value for (metric, name), value in server.values.items() if metric == "fs_free_percent"}
    return build_line(server, "disk", text, {"free_percent": percent})


def describe_full(server: Server) -> Line:
    """When the images' disk is full."""
    disk = server.look.get("disk", {})
    facts = {name: disk.get(name) for name in ("days_until_full", "growth_bytes_per_day")}
    text = describe_forecast(server.look) if disk else ""
    return build_line(server, "forecast", text, facts, NOTHING if facts["growth_bytes_per_day"] is None else GOOD)


def describe_orthanc(server: Server) -> Line:
    """The release, and what it answers."""
    names = {"index_up": "REST", "dicom_up": "DICOM", "proxy_up": "HTTPS"}
    version = str(server.look.get("version", ""))
    up = {said: bool(server.values[name, ""]) for name, said in names.items() if (name, "") in server.values}
    answers, silent = ([said for said, good in up.items() if good == wanted] for wanted in (True, False))
    text = f"{version or 'of unknown version'}, answers {', '.join(answers) or 'nothing'}"
    text += f", does not answer {', '.join(silent)}" if silent else ""
    return build_line(server, "orthanc", text if up else "", {"version": version, "answers": up})


def describe_patches(server: Server) -> Line:
    """Security updates that wait, and known vulnerabilities for which there is none."""
    names = {
        "security_updates": "security_updates",
        "known_vulnerabilities": "known_cves",
        "support_days": "support_days",
    }
    facts = {name: server.values[metric, ""] for name, metric in names.items() if (metric, "") in server.values}
    text = ""
    if "security_updates" in facts:
        text = f"{words.say_count(int(facts['security_updates']), 'security update')} to install"
    if text and "known_vulnerabilities" in facts:
        number = facts["known_vulnerabilities"]
        text += f", {number:.0f} known {'vulnerability' if number == 1 else 'vulnerabilities'} without an update"
    return build_line(server, "patches", text, facts)
