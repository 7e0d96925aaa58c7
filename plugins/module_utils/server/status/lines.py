# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A line for each subject, from the programs' state files: its state, a sentence, and the same as facts."""

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

# UNKNOWN: it cannot be determined. NOTHING: the clinic does not use it, or it is not due yet.
GOOD, WRONG, UNKNOWN, NOTHING = "good", "wrong", "unknown", "none"
HOUR, DAY = 3600, 86400
State: TypeAlias = "dict[str, Any] | None"  # the contents of a program's state file
# the monitor's alerts about a subject, by the beginnings of their names
ALERTS = {
    "worklist": ("Worklist",),
    "certificates": ("Certificate",),
    "disk": ("Disk", "Inodes", "MountGone", "StorageReadOnly"),
    "forecast": ("FullSoon",),
    "orthanc": (
        *("OrthancStopped", "IndexSilent", "IndexLocked", "DicomSilent", "PluginMissing", "RestartLoop", "ProxyDown"),
        *("DicomTlsDown", "ThreadsExhausted", "JobsFailed", "ErrorsLogged"),
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
    """The state of the worst line. An unknown state is not good."""
    wrong, unknown = ([line.subject for line in lines if line.state == state] for state in (WRONG, UNKNOWN))
    said = [f"something is wrong: {', '.join(wrong)}"] if wrong else []
    said += [f"unknown: {', '.join(unknown)}"] if unknown else []
    return Verdict(WRONG if wrong else UNKNOWN if unknown else GOOD, "; ".join(said) or "all is well")


class Server(NamedTuple):
    """The evidence: the monitor's last check; the backup's state files by name (None: missing) if a backup is
    `deployed`; why a file cannot be read, by its name; the limits of all programs; the present moment."""

    last_check: dict[str, Any]
    files: Mapping[str, State]
    deployed: bool
    unread: Mapping[str, str]
    limits: Mapping[str, float]
    now: float

    @property
    def values(self) -> dict[tuple[str, str], float]:
        """The measurements of the last check, by metric and object."""
        return list_values(self.last_check)

    @property
    def age(self) -> str:
        """How old the last check is."""
        return f"{words.say_age(max(0, self.now - self.last_check['time']))} ago"


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
    """The worst active alert, and how old the last check is."""
    standing = list_standing(server.last_check)
    kept = ("name", "object", "severity", "summary", "detail", "remedy", "since")
    alerts = [{name: alert.get(name, "") for name in kept} for alert in standing]
    facts = {"time": server.last_check.get("time"), "alerts": alerts}
    if "monitor" in server.unread:
        return Line("monitor", UNKNOWN, server.unread["monitor"], facts)
    silence = describe_silence(server.last_check, server.now)
    if silence:
        return Line("monitor", WRONG, silence, facts)
    wrong = [alert for alert in standing if alert["severity"] != "info"]
    if not wrong:
        return Line("monitor", GOOD, f"no problems, {server.age}", facts)
    more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    said = f"{wrong[0]['severity']}, {server.age}: {describe_alert(wrong[0])}{more}"
    return Line("monitor", WRONG, f"{said}. Remedy: see orthanc-monitor show.", facts)


# --- backup and restore check ---------------------------------------------------------------------
class Task(NamedTuple):
    """A scheduled task of the backup: its state file, the remedy, and how long a success counts, in seconds and in
    words."""

    name: str
    remedy: str
    seconds: float
    limit: str


def describe_task(server: Server, subject: str, task: Task) -> Line:
    """How the task last ended, and how old its last success is. A new server has time for the first one."""
    known, now = server.files.get(task.name) or {}, server.now
    last, result = float(known.get("last_success_epoch") or 0), str(known.get("result", ""))
    reason, snapshot = str(known.get("reason", "")), str(known.get("snapshot", "")) if result == "success" else ""
    facts = {"result": result, "last_success": last or None, "reason": reason, "snapshot": snapshot}
    if not server.deployed:
        return Line(subject, NOTHING, "no backup is deployed, the images exist on this server only", facts)
    if task.name in server.unread:
        return Line(subject, UNKNOWN, server.unread[task.name], facts)
    age = words.say_age(max(0, now - last))
    success = f"the last success was {age} ago" if last else "it has not succeeded yet"
    if result == "failed":
        return Line(subject, WRONG, f"failed: {reason[:200]}; {success}. Remedy: {task.remedy}.", facts)
    if last > now + HOUR:
        return Line(subject, WRONG, f"the last success is dated in the future. Remedy: {task.remedy}.", facts)
    if now - (last or server.last_check.get("began", now)) > task.seconds:
        return Line(subject, WRONG, f"{success}, more than {task.limit}. Remedy: {task.remedy}.", facts)
    if not last:
        return Line(subject, NOTHING, "the first one is " + ("running" if result == "running" else "due"), facts)
    return Line(subject, GOOD, f"{words.say_moment(last)}, {age} ago{describe_success(known, snapshot)}", facts)


def describe_success(known: dict[str, Any], snapshot: str) -> str:
    """The details of a success in a state file, besides its time."""
    text = f", snapshot {snapshot}" if snapshot else ""
    if snapshot and "verified" in known:
        text += f", {known['verified']} of {known.get('of', 0)} files restored and compared"
    elif snapshot and "counts" in known:
        text += f", {words.say_count(known['counts'].get('instances', 0), 'image')}"
    text += ", another run is in progress" if known.get("result") == "running" else ""
    warnings = known.get("warnings") or []
    return text + (f"; warning: {warnings[0]}" if warnings else "")


# --- the monitor's measurements -------------------------------------------------------------------
def build_line(server: Server, subject: str, text: str, facts: dict[str, Any], good: str = GOOD) -> Line:
    """The line of a subject that the monitor checks: the measurements, then the first alert. An old check is dated."""
    if "monitor" in server.unread or "time" not in server.last_check:
        return Line(subject, UNKNOWN, "no check by the monitor is available", facts)
    alerts = [alert for alert in list_standing(server.last_check) if alert["name"].startswith(ALERTS[subject])]
    wrong = [alert for alert in alerts if alert["severity"] != "info"]
    old = bool(describe_silence(server.last_check, server.now))
    said = [f"seen {words.say_moment(server.last_check['time'])}"] * old
    said += [text or "the monitor could not check it"]
    said += [f"{describe_alert(alert)}. Remedy: {alert['remedy']}" for alert in wrong[:1]]
    return Line(subject, WRONG if wrong else UNKNOWN if old or not text else good, "; ".join(said), facts)


def describe_worklist(server: Server) -> Line:
    """How many items are served and were rejected, and how long the oldest has been waiting."""
    names = {"items": "worklist_items", "refused_day": "quarantined_day", "waiting_minutes": "worklist_waiting_minutes"}
    facts = {name: server.values[metric, ""] for name, metric in names.items() if (metric, "") in server.values}
    text = ""
    if len(facts) == len(names):
        text = f"{words.say_count(int(facts['items']), 'item')}, {facts['refused_day']:.0f} rejected within a day"
        minutes = facts["waiting_minutes"]
        text += f", one has been waiting for {minutes:.0f} minutes" if minutes >= 1 else ""
    return build_line(server, "worklist", text, facts)


def describe_certificates(server: Server) -> Line:
    """Days until expiry of each certificate for clients and devices."""
    days = {name: value for (metric, name), value in server.values.items() if metric == "certificate_days"}
    text = ", ".join(f"{name}: {value:.0f} days left" for name, value in days.items())
    return build_line(server, "certificates", text, {"days": days})


def describe_disk(server: Server) -> Line:
    """The free space of each disk."""
    text = ", ".join(f"{name}: {said}" for name, said in describe_disks(server.last_check).items())
    percent = {name: value for (metric, name), value in server.values.items() if metric == "fs_free_percent"}
    return build_line(server, "disk", text, {"free_percent": percent})


def describe_full(server: Server) -> Line:
    """When the disk of the images will be full."""
    disk = server.last_check.get("disk", {})
    facts = {name: disk.get(name) for name in ("days_until_full", "growth_bytes_per_day")}
    text = describe_forecast(server.last_check) if disk else ""
    return build_line(server, "forecast", text, facts, NOTHING if facts["growth_bytes_per_day"] is None else GOOD)


def describe_orthanc(server: Server) -> Line:
    """The release, and the protocols on which it answers."""
    names = {"index_up": "REST", "dicom_up": "DICOM", "proxy_up": "HTTPS", "dicom_tls_up": "DICOM over TLS"}
    version = str(server.last_check.get("version", ""))
    up = {said: bool(server.values[name, ""]) for name, said in names.items() if (name, "") in server.values}
    answers, silent = ([said for said, good in up.items() if good == wanted] for wanted in (True, False))
    text = f"{version or 'unknown version'}, answers {', '.join(answers) or 'nothing'}"
    text += f", does not answer {', '.join(silent)}" if silent else ""
    return build_line(server, "orthanc", text if up else "", {"version": version, "answers": up})


def describe_patches(server: Server) -> Line:
    """Pending security updates, and known vulnerabilities without an update."""
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
