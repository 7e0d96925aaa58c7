#!/usr/bin/python3
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks after an Orthanc every minute: disks, service, backups, certificates, worklist, clock, known defects.

One table of rules, `RULES`, decides what is wrong: it makes the mails and webhooks of this program as well as the alert
rules of Prometheus. When the images' disk is almost full, new images are refused while the others are still read.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import email.message
import fcntl
import http.client
import itertools
import json
import operator
import os
import re
import socket
import ssl
import stat
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, "/usr/local/lib/clinicops-orthanc")
from server.core import clock, journal, nftables, words
from server.core.escaping import escape
from server.core.limits import FILE as SHARED
from server.core.limits import SILENT_MINUTES, read_limits
from server.monitor import packages, support, survey
from server.monitor import vulnerabilities as vulnerability
from server.orthanc import log as orthanc_log

CONFIGURATION = Path("/etc/orthanc-monitor.json")
IN_MEMORY = Path("/run/orthanc-monitor.json")  # the state, while there is no space for it
LOCK = Path("/run/orthanc-monitor.lock")  # root's alone: who can open a file can lock it
REFUSED = "Cannot execute a Lua command"
BRAKE, RESERVE = ".orthanc-brake", ".orthanc-reserve"  # in the images' directory; Orthanc's Lua filter knows the first
MARKER = ".orthanc-storage"  # Orthanc's unit starts only where it is
OF_BACKUP = Path("/var/lib/orthanc-backup")  # the state files of orthanc-backup
DAY, HOUR = 86400, 3600
REMIND_SECONDS = DAY
SETTLE_SECONDS = 5 * 60  # of a new monitor, until which what can wait is gathered for one message
CLEAR_LOOKS = 3  # good ones in a row, until an alert is over
CLEAR_PERCENT = 2  # so much more must be free until an alert of a disk is over
ANSWER_SECONDS = 5  # Orthanc's, and everybody else's
HISTORY_DAYS, FORECAST_DAYS, LEAST_DAYS = 90, 28, 3
IMPORT_FACTOR = 5  # a day with so many times the usual growth is an import, and no forecast
PRIORITIES = {"critical": 3, "warning": 4, "info": 6}


class Rule(NamedTuple):
    """What is wrong when `metric` compares so with `limit` (a number, or one of LIMITS) for `looks` in a row.

    `label` tells several objects of a metric apart. With a condition of one of `unless` true this one is its
    consequence, and not told.
    """

    name: str
    severity: str
    metric: str
    label: str
    compares: str
    limit: float | str
    looks: int
    unless: tuple[str, ...]
    summary: str
    remedy: str


DOWN = ("MountGone", "IndexLocked", "RestartLoop", "OrthancStopped")
RULES = (
    Rule(
        *("MountGone", "critical", "mount_ok", "", "==", 0, 1, ()),
        "The images' disk is not mounted, or not the one of the deploy",
        "mount it (findmnt, journalctl -b -u local-fs.target), then systemctl start orthanc",
    ),
    Rule(
        *("DiskBrake", "critical", "brake", "fs", "==", 1, 1, ()),
        "New images are refused: the disk is full but for a rest that Orthanc needs",
        "make space or enlarge the disk; devices can send again as soon as there is space",
    ),
    Rule(
        *("DiskAlmostFull", "critical", "fs_free_percent", "fs", "<", "disk_critical_percent", 1, ("DiskBrake",)),
        "The disk is almost full",
        "make space or enlarge the disk",
    ),
    Rule(
        *("DiskFilling", "warning", "fs_free_percent", "fs", "<", "disk_warning_percent", 1),
        ("DiskBrake", "DiskAlmostFull"),
        "The disk is filling",
        "make space or enlarge the disk",
    ),
    Rule(
        *("InodesFew", "warning", "fs_inodes_free_percent", "fs", "<", "inodes_percent", 1, ()),
        "The disk has room for few more files",
        "remove files that nobody needs (df -i), or make a file system with more inodes",
    ),
    Rule(
        *("FullSoon", "warning", "days_until_full", "fs", "<", "days_until_full", 1),
        ("DiskBrake", "DiskAlmostFull", "DiskFilling"),
        "At this growth the disk is full within weeks",
        "order a larger disk",
    ),
    Rule(
        *("IndexLocked", "critical", "index_locked", "", "==", 1, 1, ("MountGone",)),
        "Another program holds Orthanc's index",
        "end that program (lslocks); never open the index of a running Orthanc",
    ),
    Rule(
        *("RestartLoop", "critical", "restarts_hour", "", ">", "restarts_per_hour", 1, ("MountGone", "IndexLocked")),
        "Orthanc ends again and again",
        "see why in its last lines (journalctl -u orthanc, or docker logs orthanc), and deploy again",
    ),
    Rule(
        *("OrthancStopped", "critical", "process_up", "", "==", 0, 2, ("MountGone", "IndexLocked", "RestartLoop")),
        "Orthanc does not run",
        "systemctl start orthanc, or docker start orthanc; see its log for why",
    ),
    Rule(
        *("IndexSilent", "critical", "index_up", "", "==", 0, 2, DOWN),
        "Orthanc runs and does not answer from its index",
        "see its log; then systemctl restart orthanc, or docker restart orthanc",
    ),
    Rule(
        *("DicomSilent", "critical", "dicom_up", "", "==", 0, 2, (*DOWN, "IndexSilent")),
        "Orthanc does not answer a C-ECHO",
        "see its log, and whether another program has its DICOM port (ss -ltnp)",
    ),
    Rule(
        *("PluginMissing", "critical", "plugin_up", "plugin", "==", 0, 2, (*DOWN, "IndexSilent")),
        "A plugin is not loaded",
        "deploy again",
    ),
    Rule(
        *("ProxyDown", "critical", "proxy_up", "", "==", 0, 2, ()),
        "Nobody answers HTTPS",
        "nginx -t; systemctl restart nginx",
    ),
    Rule(
        *("FirewallGone", "critical", "firewall_ok", "", "==", 0, 1, ()),
        "The firewall's table is not there: everybody reaches Orthanc's ports",
        "systemctl restart orthanc-firewall; where that fails, deploy again",
    ),
    Rule(
        # a deploy writes the file a moment before it loads it
        *("FirewallChanged", "critical", "firewall_changes", "", ">", 0, 2, ("FirewallGone",)),
        "The firewall's table is not the one that was deployed: ports may be open, or closed to devices",
        "systemctl restart orthanc-firewall; where that fails, deploy again",
    ),
    Rule(
        *("FirewallDetour", "critical", "firewall_detours", "", ">", 0, 1, ()),
        "A rule outside the firewall's table leads past it",
        "take it out: nft --handle list ruleset names it, nft delete rule removes it; and see who put it there",
    ),
    Rule(
        *("DeviceRejected", "warning", "rejected_hour", "device", ">", 0, 1, (*DOWN, "IndexSilent")),
        "A listed device was rejected within the last hour",
        "ask the doctor: orthanc-verify doctor and the device's name",
    ),
    Rule(
        *("ImageConflict", "warning", "conflicts_day", "device", ">", 0, 1, ()),
        "A second image came under the identifiers of another; the first was kept",
        "compare both: the second is in .conflicts of the storage directory (docs/devices.md)",
    ),
    Rule(
        *("ErrorsLogged", "warning", "errors_hour", "", ">", "errors_per_hour", 1),
        (*DOWN, "IndexSilent", "DiskBrake", "DiskAlmostFull"),
        "Orthanc logs many errors",
        "read them: journalctl -u orthanc, or docker logs orthanc",
    ),
    Rule(
        *("JobsFailed", "warning", "jobs_failed_day", "", ">", 0, 1, ()),
        "Jobs of Orthanc failed within the last day",
        "see which under /jobs?expand, as a user with the role admin",
    ),
    Rule(
        *("ThreadsExhausted", "warning", "threads_free", "kind", "==", 0, 3, (*DOWN, "IndexSilent")),
        "Every thread of Orthanc is at work",
        "see who keeps them busy; DicomThreadsCount and HttpThreadsCount make more",
    ),
    Rule(
        *("BackupFailed", "critical", "backup_ok", "", "==", 0, 1, ()),
        "The last backup failed",
        "see why: journalctl -t orthanc-backup; then orthanc-backup run",
    ),
    Rule(
        *("BackupOld", "critical", "backup_age_hours", "", ">", "backup_hours", 1, ("BackupFailed",)),
        "The last backup is old",
        "orthanc-backup run; see whether cron runs",
    ),
    Rule(
        *("RestoreCheckFailed", "critical", "restore_check_ok", "", "==", 0, 1, ()),
        "The newest backup could not be restored on trial",
        "see why: journalctl -u orthanc-restore-check; then orthanc-backup check",
    ),
    Rule(
        *("RestoreCheckOld", "warning", "restore_check_age_days", "", ">", "restore_check_days", 1),
        ("RestoreCheckFailed",),
        "No backup was restored on trial for long",
        "systemctl start orthanc-restore-check; see systemctl list-timers",
    ),
    Rule(
        *("LedgerFailed", "critical", "ledger_ok", "", "==", 0, 1, (*DOWN, "IndexSilent")),
        "The ledger of what was received cannot be kept: after a loss nobody could say what to send again",
        "see why: journalctl -u orthanc-ledger; then orthanc-backup ledger",
    ),
    Rule(
        # after a boot it has a while to run first
        *("LedgerOld", "warning", "ledger_age_hours", "", ">", "ledger_hours", 10),
        ("LedgerFailed", *DOWN, "IndexSilent"),
        "The ledger of what was received has not run recently",
        "systemctl enable --now orthanc-ledger.timer; see systemctl list-timers",
    ),
    Rule(
        *("RestoreInterrupted", "critical", "restore_open_minutes", "", ">", 15, 1, ()),
        "A restore was interrupted and has not been ended",
        "end it: orthanc-backup restore; see journalctl -u orthanc-restore",
    ),
    Rule(
        *("UnitFailed", "warning", "unit_failed", "unit", "==", 1, 5, (*DOWN, "IndexSilent")),
        "A service of this collection failed",
        "see why: systemctl status and journalctl -u with its name; then start it again",
    ),
    Rule(
        *("TimerOff", "warning", "unit_on", "unit", "==", 0, 3, ("UnitFailed",)),
        "What starts a regular task is stopped, disabled or missing",
        "systemctl enable --now with its name; where it is missing, deploy again",
    ),
    Rule(
        *("AcceptanceFailed", "critical", "acceptance_ok", "", "==", 0, 1, ()),
        "The last acceptance test failed",
        "see which checks failed: /var/lib/orthanc-verify/report.html; then orthanc-verify run",
    ),
    Rule(
        *("AcceptanceOld", "warning", "acceptance_age_hours", "", ">", "acceptance_hours", 1, ()),
        "No acceptance test has run recently",
        "orthanc-verify run; see whether cron runs (systemctl status cron)",
    ),
    Rule(
        *("CertificateExpires", "critical", "certificate_days", "certificate", "<", "certificate_days", 1),
        ("ProxyDown",),
        "A certificate expires soon",
        "deploy again; with a certificate of your own, set the new one in orthanc_proxy_certificate_chain and _key",
    ),
    Rule(
        *("WorklistQuarantine", "warning", "quarantined_day", "", ">", 0, 1, ()),
        "A worklist item was refused within the last day",
        "see why: orthanc-worklist quarantine; have it handed over anew",
    ),
    Rule(
        *("WorklistStuck", "critical", "worklist_waiting_minutes", "", ">", "worklist_minutes", 2, ()),
        "Worklist items wait, and nobody takes them in",
        "systemctl restart orthanc-worklist.path; journalctl -u orthanc-worklist",
    ),
    Rule(
        *("ClockUnsynchronised", "warning", "clock_ok", "", "==", 0, 3, ()),
        "The system clock is not synchronised",
        "name the clinic's time server (NTP= in /etc/systemd/timesyncd.conf, or a file in /etc/chrony/sources.d); "
        "for a container, on its host",
    ),
    Rule(
        *("SecurityUpdates", "warning", "security_updates", "", ">", 0, 1, ()),
        "Security updates are waiting to be installed",
        "apt update && apt full-upgrade, then orthanc-verify run; unattended-upgrades installs them by itself",
    ),
    Rule(
        # while dpkg is at work a package is half configured
        *("PackageHeldBack", "warning", "packages_held", "", ">", 0, 3, ()),
        "Something keeps updates of packages back",
        "apt-mark unhold and its name; dpkg --configure -a; apt install and its name, which asks about a changed file",
    ),
    Rule(
        *("ConfigurationLeft", "info", "conffiles_left", "", ">", 0, 1, ()),
        "An update brought configuration files that were not taken",
        "compare each with the file beside it, then remove it",
    ),
    Rule(
        *("PackageListsOld", "warning", "package_lists_days", "", ">", "package_lists_days", 1, ()),
        "Nobody has asked for updates for long, so none is known",
        "apt update; apt install unattended-upgrades does it each day",
    ),
    Rule(
        *("RebootDue", "warning", "reboot_due", "", "==", 1, 1, ()),
        "An update takes effect with the next start of the machine",
        "systemctl reboot, when no device is sending",
    ),
    Rule(
        *("RestartDue", "warning", "replaced_files", "service", ">", 0, 3, ("RebootDue",)),
        "A service still runs what an update has replaced",
        "systemctl restart and its name; Orthanc when no device is sending",
    ),
    Rule(
        *("SystemEndOfLife", "critical", "support_days", "", "<", 0, 1, ()),
        "This system gets no security updates any more",
        "move to the next release of the system",
    ),
    Rule(
        *("SystemEndSoon", "warning", "support_days", "", "<", "support_days", 1, ("SystemEndOfLife",)),
        "This system will soon get no security updates any more",
        "plan the move to the next release of the system",
    ),
    Rule(
        *("KnownVulnerabilities", "info", "known_cves", "", ">", 0, 1, ()),
        "Vulnerabilities are known for which this system offers no update yet",
        "orthanc-monitor vulnerabilities tells what each means; orthanc_monitor_accepted_cves lists those to live with",
    ),
    Rule(
        *("MonitorBlind", "warning", "blind", "what", "==", 1, 3, ("MountGone", "RestartLoop", "OrthancStopped")),
        "The monitor cannot see something",
        "see why: journalctl -u orthanc-monitor",
    ),
)
NOTHING_TO_DO = ("KnownVulnerabilities",)  # nobody in the clinic can end it today: told once, and listed
COMPARISONS: dict[str, Callable[[float, float], bool]] = {"==": operator.eq, "<": operator.lt, ">": operator.gt}


class Sample(NamedTuple):
    """A value of one object: the metric's name without prefix, the object by its label, the value."""

    metric: str
    label: str
    object: str
    value: float


HELP = {
    "time_seconds": "Unix time of the last look",
    "fs_size_bytes": "Size of the file system",
    "fs_free_bytes": "Bytes that Orthanc may still write",
    "fs_free_percent": "The same in percent of the size",
    "fs_inodes_free_percent": "Files that may still be made, in percent",
    "growth_bytes_per_day": "Growth of what is used, imports left out",
    "days_until_full": "Days until the file system is full at this growth; absent without enough history",
    "brake": "1 while new images are refused",
    "mount_ok": "Whether the images' disk is mounted",
    "process_up": "Whether Orthanc runs",
    "index_up": "Whether Orthanc answers from its index",
    "index_locked": "Whether another program holds the index",
    "dicom_up": "Whether Orthanc answers a C-ECHO",
    "plugin_up": "Whether Orthanc has loaded the plugin",
    "restarts_hour": "Restarts within the last hour",
    "errors_hour": "Errors in Orthanc's log within the last hour",
    "jobs_failed_day": "Jobs that failed within the last day",
    "threads_free": "Threads of Orthanc without work (Orthanc 1.12.9 and later)",
    "rejected_hour": "Times that a listed device was rejected within the last hour",
    "conflicts_day": "Images that came under the identifiers of another within the last day",
    "instances": "Images in the index",
    "proxy_up": "Whether the proxy answers HTTPS",
    "firewall_ok": "Whether the firewall's table is loaded",
    "firewall_changes": "Differences between the firewall's table in the kernel and the deployed one",
    "firewall_detours": "Rules of other tables that lead past the firewall",
    "certificate_days": "Days until the certificate that is served expires",
    "backup_ok": "Whether the last backup succeeded",
    "backup_age_hours": "Hours since the last good backup",
    "restore_check_ok": "Whether the last restore check succeeded",
    "restore_check_age_days": "Days since the last good restore check",
    "ledger_ok": "Whether the last run of the ledger succeeded",
    "ledger_age_hours": "Hours since the last good run of the ledger",
    "restore_open_minutes": "Minutes since the last step of a restore that has not ended; 0 without one",
    "unit_on": "Whether a unit that must be on is loaded, enabled and active",
    "unit_failed": "1 where a unit of this collection failed",
    "acceptance_ok": "Whether the last acceptance test passed",
    "acceptance_age_hours": "Hours since the last acceptance test",
    "quarantined_day": "Worklist items that were refused within the last day",
    "worklist_items": "Worklist items that are served",
    "worklist_waiting_minutes": "Minutes that the oldest item has been waiting for the gate",
    "clock_ok": "Whether the clock is synchronised",
    "clock_offset_seconds": "What chrony says the clock is off by",
    "security_updates": "Security updates, and updates of what Orthanc runs, that somebody must install",
    "packages_held": "Packages whose update is kept back, or that are half installed",
    "conffiles_left": "Configuration files that came with an update and were not taken",
    "package_lists_days": "Days since apt last asked for updates",
    "reboot_due": "1 where an update waits for the machine's next start",
    "replaced_files": "Programs and libraries that a service runs and an update has replaced",
    "support_days": "Days until the system gets no security updates any more",
    "known_cves": "Known vulnerabilities without an update that nobody has accepted",
    "blind": "1 where the monitor could not look",
}


PATHS = ("orthanc", "storage", "mount", "logs", "worklist_drop", "directory")


@dataclass(frozen=True)
class Settings:
    """What the deploy wrote into /etc/orthanc-monitor.json."""

    clinic: str
    host: str
    hostname: str
    method: str
    orthanc: Path  # its configuration, which names ports, users and devices
    storage: Path
    calling_aet: str
    plugins: list[str]
    mount: Path
    logs: Path
    tls_ports: dict[str, int]
    firewall: bool
    backup: bool
    units: list[str]
    worklist_drop: Path
    accepted_cves: list[str]
    brake_percent: int
    thresholds: dict[str, float]
    mail_to: list[str]
    mail_from: str
    webhook: str
    directory: Path

    @classmethod
    def read(cls, path: Path, shared: Path = SHARED) -> Settings:
        try:
            content = json.loads(path.read_text())
            paths = {name: Path(content[name]) for name in PATHS}
            return cls(**{**content, **paths, "thresholds": read_limits(shared)})
        except FileNotFoundError:
            raise SystemExit(f"There is no {path}. Remedy: deploy with the role orthanc_monitor.") from None
        except PermissionError:
            raise SystemExit(f"{path} cannot be read. Remedy: run it as root.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{path} is not this version's ({error}). Remedy: deploy again.") from None

    def limit(self, rule: Rule) -> float:
        return self.thresholds[rule.limit] if isinstance(rule.limit, str) else rule.limit


# --- small things -------------------------------------------------------------------------------
say = journal.say


def written(path: Path, text: str, mode: int = 0o644) -> None:
    """The whole file or the one of before."""
    waiting = path.with_name(f".{path.name}.part")
    with waiting.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    waiting.rename(path)


def read(path: Path) -> dict[str, Any]:
    """A JSON object; what is not there or cut off is empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def latest(settings: Settings) -> dict[str, Any]:
    """What the last look left."""
    return max(read(settings.directory / "state.json"), read(IN_MEMORY), key=lambda state: state.get("time", 0))


def regular(path: Path, mode: int = 0) -> os.stat_result | None:
    """What is known of a regular file of root's with at least this mode."""
    if not os.path.lexists(path):
        return None
    known = path.lstat()
    return (
        known if stat.S_ISREG(known.st_mode) and known.st_uid == os.geteuid() and known.st_mode & mode == mode else None
    )


def gone(path: Path) -> None:
    """Whatever lay there under this name."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}-{time.time_ns()}"))
    else:
        path.unlink(missing_ok=True)


def made(path: Path, mode: int, size: int = 0) -> None:
    """A new file with so many bytes of the disk, or none."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        os.fchmod(handle, mode)  # whatever the umask
        if size:
            os.posix_fallocate(handle, 0, size)
    except OSError:
        gone(path)
        raise
    finally:
        os.close(handle)


def run(*command: str) -> tuple[int, str]:
    """Exit code and output; a program that hangs or is not there is an error of the look."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=4 * ANSWER_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


# --- what is seen -------------------------------------------------------------------------------
class Look:
    """One look at everything. `state` is what the last one left; `values` is what this one saw."""

    def __init__(self, settings: Settings, state: dict[str, Any], now: float) -> None:
        self.settings, self.state, self.now = settings, state, now
        self.values: list[Sample] = []
        self.details: dict[str, str] = {}  # more of an alert, by name and object
        self.options = read(settings.orthanc)
        self.storage = settings.storage
        self.pid = 0  # Orthanc's, while it runs
        # series over time: [[epoch, value], ...] by name
        self.series: dict[str, list[list[float]]] = dict(state.get("series", {}))
        self.connection = http.client.HTTPConnection("127.0.0.1", self.options.get("HttpPort", 8042), ANSWER_SECONDS)

    def saw(self, metric: str, value: float | bool, label: str = "", object_: str = "") -> None:
        self.values.append(Sample(metric, label, object_, float(value)))

    def look(self) -> None:
        """Each part on its own: what cannot be seen does not hide the rest."""
        self.saw("time_seconds", int(self.now))
        for part in (
            self.configuration,
            self.mount,
            self.disks,
            self.process,
            self.log,
            self.service,
            self.dicom,
            self.proxy,
            self.firewall,
            self.backup,
            self.units,
            self.acceptance,
            self.worklist,
            self.clock,
            self.vulnerabilities,
            self.updates,
            self.lists,
            self.restarts,
            self.support,
        ):
            try:
                part()
                blind = 0
            except Exception as error:  # whatever it is, and above all in what others wrote
                blind = 1
                self.details[f"MonitorBlind/{part.__name__}"] = f"{type(error).__name__}: {error}"
                say(f"cannot see {part.__name__}: {type(error).__name__}: {error}", 4)
            self.saw("blind", blind, "what", part.__name__)

    def configuration(self) -> None:
        """Orthanc reads more than JSON, such as comments; what a person wrote so, this program does not."""
        json.loads(self.settings.orthanc.read_text(encoding="utf-8"))

    # --- disks -----------------------------------------------------------------------------------
    def mount(self) -> None:
        there = os.path.ismount(self.settings.mount) and (self.storage / MARKER).exists()
        self.saw("mount_ok", there)

    def disks(self) -> None:
        seen: set[int] = set()
        temporary = Path(self.options.get("TemporaryDirectory", self.storage))
        for name, path in (("storage", self.storage), ("tmp", temporary), ("log", self.settings.logs)):
            if name == "storage" and not (self.storage / MARKER).exists():
                continue  # another disk's numbers; the mount is told
            device = path.stat().st_dev
            if device in seen:
                continue  # one disk is told once, by the most important of what is on it
            seen.add(device)
            known = os.statvfs(path)
            free, used = known.f_bavail * known.f_frsize, (known.f_blocks - known.f_bfree) * known.f_frsize
            self.saw("fs_size_bytes", used + free, "fs", name)
            self.saw("fs_free_bytes", free, "fs", name)
            self.saw("fs_free_percent", 100 * free / max(used + free, 1), "fs", name)
            if known.f_files:
                self.saw("fs_inodes_free_percent", 100 * known.f_favail / known.f_files, "fs", name)
            self.details[f"DiskFilling/{name}"] = (
                f"{path}: {free / 1e9:.1f} GB of {(used + free) / 1e9:.1f} GB are free"
            )
            self.details[f"DiskAlmostFull/{name}"] = self.details[f"DiskFilling/{name}"]
            if name == "storage":
                self.forecast(used, free)
                self.brake(free, used + free)

    def forecast(self, used: int, free: int) -> None:
        """A sample an hour is kept, and the last point is now."""
        history = self.state.get("disk", {}).get("history", [])
        if not history or self.now - history[-1][0] >= HOUR or self.now < history[-1][0]:
            since = self.now - HISTORY_DAYS * DAY
            history = [*[one for one in history if since < one[0] < self.now], [int(self.now), used]]
        growth, note = grown([*history, [self.now, used]])
        self.state["disk"] = {
            **{"path": str(self.storage), "total_bytes": used + free, "free_bytes": free, "history": history},
            **{"growth_bytes_per_day": growth, "days_until_full": None, "note": note},
        }
        if growth is not None:
            self.saw("growth_bytes_per_day", growth, "fs", "storage")
            if growth > 0:
                # until images are refused
                days = max(free - self.settings.brake_percent * (used + free) / 100, 0) / growth
                self.state["disk"]["days_until_full"] = round(days, 1)
                self.saw("days_until_full", days, "fs", "storage")
                self.details["FullSoon/storage"] = f"{days:.0f} days at {growth / 1e6:.0f} MB a day"

    def brake(self, free: int, size: int) -> None:
        """Orthanc on a full disk cannot even start: a reserve goes, and new images are refused, before that.

        The directory is Orthanc's, so whatever lies there under the two names: no link is followed.
        """
        brake, reserve, percent = self.storage / BRAKE, self.storage / RESERVE, self.settings.brake_percent
        limit, kept = percent * size / 100, max(min(size // 100, 1 << 30), 1)
        held = regular(reserve)
        if percent and free < limit:
            with contextlib.suppress(OSError):
                gone(reserve)  # first: the brake is a file as well
            if not os.path.lexists(brake):
                say("new images are refused: the disk is almost full", 3)
            if not regular(brake, 0o444):
                gone(brake)
                made(brake, 0o644)
        elif not percent or free >= limit + CLEAR_PERCENT * size / 100 + kept - (held.st_size if held else 0):
            if os.path.lexists(brake):
                gone(brake)
                say("new images are taken again", 5)
            if not percent:
                gone(reserve)
            elif not held or not held.st_size:
                gone(reserve)
                made(reserve, 0o600, kept)
        self.saw("brake", os.path.lexists(brake), "fs", "storage")

    # --- Orthanc ---------------------------------------------------------------------------------
    def process(self) -> None:
        if self.settings.method == "docker":
            status, said = run(
                "docker", "inspect", "--format={{.State.Running}} {{.State.Pid}} {{.RestartCount}}", "orthanc"
            )
            if status and "No such" not in said:
                raise OSError(said.strip())  # Docker itself does not answer
            running, pid, restarts = ("false", "0", "") if status else tuple(said.split())
            up = running == "true" and pid != "0"
        else:
            shown = run("systemctl", "show", "--property=ActiveState,MainPID,NRestarts", "orthanc")[1]
            found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
            pid, restarts, up = found["MainPID"], found["NRestarts"], found["ActiveState"] == "active"
        self.pid = int(pid) if up else 0
        self.saw("process_up", up)
        if restarts:
            self.saw("restarts_hour", self.increase("restarts", float(restarts), HOUR))
        holders = holding(self.storage / "index") - {int(pid)}
        self.saw("index_locked", bool(holders))
        if holders:
            names = [f"{Path(f'/proc/{pid}/comm').read_text().strip()} ({pid})" for pid in sorted(holders)]
            self.details["IndexLocked/"] = ", ".join(names)

    def increase(self, name: str, value: float, window: float, forgets: bool = False) -> float:
        """By how much a counter has grown within the last seconds.

        One that is less than before has begun anew, and grown by what it is; or it forgets what is old.
        """
        # a clock that was wrong may have left points of the future
        points = [*[one for one in self.series.get(name, []) if one[0] < self.now], [self.now, value]]
        # the last one before the window is where it began
        first = max((number for number, one in enumerate(points) if one[0] < self.now - window), default=0)
        self.series[name] = points = points[first:]
        return sum(
            later[1] - earlier[1] if later[1] >= earlier[1] else 0 if forgets else later[1]
            for earlier, later in itertools.pairwise(points)
        )

    def log(self) -> None:
        """Errors and rejected devices since the last look."""
        lines = self.docker_log() if self.settings.method == "docker" else self.journal()
        # none to count: Orthanc's Lua at an image that the brake refuses; who opens a connection and says nothing
        known = (REFUSED, orthanc_log.NAMELESS)
        errors = sum(line.startswith("E") and not any(text in line for text in known) for line in lines)
        total = self.state.setdefault("counted", {})
        total["errors"] = total.get("errors", 0) + errors
        self.saw("errors_hour", self.increase("errors", total["errors"], HOUR))
        # a person may have written [AET, address, port]
        pairs = {
            name: (str(of["AET"]), str(of["Host"])) if isinstance(of, dict) else (str(of[0]), str(of[1]))
            for name, of in self.options.get("DicomModalities", {}).items()
        }
        # the acceptance test's own is rejected on purpose
        devices = {name: pair for name, pair in pairs.items() if pair[0] != self.settings.calling_aet}
        reasons = orthanc_log.list_rejections("\n".join(lines), devices, self.settings.calling_aet)
        for name in devices:
            own, counter = [reason for of, reason in reasons if of == name], f"rejected {name}"
            total[counter] = total.get(counter, 0) + len(own)
            self.saw("rejected_hour", self.increase(counter, total[counter], HOUR), "device", name)
            if own:
                self.state.setdefault("rejections", {})[name] = own[-1]
            self.details[f"DeviceRejected/{name}"] = self.state.get("rejections", {}).get(name, "")
        self.conflicts(lines, {aet: name for name, (aet, _) in pairs.items()})

    def conflicts(self, lines: list[str], names: dict[str, str]) -> None:
        """Images that came under the UIDs of another image; `names` are the devices by their AE titles."""
        total, details = self.state.setdefault("counted", {}), self.state.setdefault("conflicts", {})
        for found in filter(None, map(orthanc_log.received, lines)):
            if found.kind == "conflict":
                senders = [names[aet] for aet in found.sender.split(" or ") if aet in names]
                for name in senders or ["applications"]:
                    total[f"conflicts {name}"] = total.get(f"conflicts {name}", 0) + 1
                    details[name] = escape(f"study {found.study}, accession {found.accession}: image {found.what}")
        for name in (*names.values(), "applications"):
            counter = f"conflicts {name}"
            self.saw("conflicts_day", self.increase(counter, total.get(counter, 0), DAY), "device", name)
            self.details[f"ImageConflict/{name}"] = details.get(name, "")

    def journal(self) -> list[str]:
        after = self.state.get("cursor", "")
        # without the cursor's place in it, since the last look: what was counted is not counted again
        since = [f"--after-cursor={after}"] if after else [f"--since=@{int(self.state.get('time', self.now - 60)) + 1}"]
        status, said = run("journalctl", "--unit=orthanc", "--output=cat", "--show-cursor", "--quiet", *since)
        if status and after:  # the journal has been rotated away
            del self.state["cursor"]
            return []
        lines = said.removesuffix("\n").split("\n")
        if lines[-1].startswith("-- cursor: "):
            self.state["cursor"] = lines.pop().removeprefix("-- cursor: ")
        return lines

    def docker_log(self) -> list[str]:
        since = self.state.get("docker_since", self.now - 60)
        status, said = run("docker", "logs", f"--since={since:.3f}", f"--until={self.now:.3f}", "orthanc")
        if status:  # what it says then is not Orthanc's
            return []
        self.state["docker_since"] = self.now
        return said.split("\n")

    def get(self, path: str) -> tuple[int, bytes]:
        """What Orthanc answers to a user with the role `admin`, all on one connection."""
        roles, users = self.options.get("ClinicopsRoles", {}), self.options.get("RegisteredUsers", {})
        user = next((name for name in users if roles.get(name) == "admin"), "")
        token = base64.b64encode(f"{user}:{users.get(user, '')}".encode()).decode()
        self.connection.request("GET", path, headers={"Authorization": f"Basic {token}"})
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def service(self) -> None:
        try:
            # /system answers from memory; this one reads the index
            up = self.get("/changes?last")[0] == 200
            loaded = set(json.loads(self.get("/plugins")[1])) if up else set()
            metrics = exposition(self.get("/tools/metrics-prometheus")[1].decode()) if up else {}
        except (OSError, http.client.HTTPException, ValueError):
            up, loaded, metrics = False, set(), {}
        finally:
            self.connection.close()
        self.saw("index_up", up)
        for plugin in self.settings.plugins:
            self.saw("plugin_up", plugin in loaded, "plugin", plugin)
        if not up:
            return
        # 1.13 counts for ever (jobs_total_), earlier releases those that they remember
        forgets = "orthanc_jobs_total_failed" not in metrics
        failed = metrics.get("orthanc_jobs_failed" if forgets else "orthanc_jobs_total_failed", 0)
        self.saw("jobs_failed_day", self.increase("jobs_failed", failed, DAY, forgets))
        for kind, name in (("dicom", "dicom_threads"), ("http", "http_threads_count")):
            if f"orthanc_available_{name}" in metrics:
                self.saw("threads_free", metrics[f"orthanc_available_{name}"], "kind", kind)
        if "orthanc_count_instances" in metrics:
            self.saw("instances", metrics["orthanc_count_instances"])

    def dicom(self) -> None:
        peer = ["127.0.0.1", str(self.options.get("DicomPort", 4242))]
        names = ["-aet", self.settings.calling_aet, "-aec", str(self.options.get("DicomAet", "ORTHANC"))]
        limits = ["-to", str(ANSWER_SECONDS), "-ta", str(ANSWER_SECONDS), "-td", str(ANSWER_SECONDS)]
        self.saw("dicom_up", run("/usr/bin/echoscu", *limits, *names, *peer)[0] == 0)

    # --- what is around it -------------------------------------------------------------------------
    def proxy(self) -> None:
        for name, port in self.settings.tls_ports.items():
            certificate = served(self.settings.hostname, port)
            if name == "proxy":
                self.saw("proxy_up", certificate is not None)
            if certificate is not None:
                days = (expiry(certificate) - self.now) / DAY
                self.saw("certificate_days", days, "certificate", name)
                self.details[f"CertificateExpires/{name}"] = f"{name}: {days:.0f} days left"

    def firewall(self) -> None:
        if not self.settings.firewall:
            return
        held = nftables.read_held()
        self.saw("firewall_ok", bool(held))
        try:
            self.compare_firewall(held)
        finally:  # an error of either does not hide the other
            self.find_detours()

    def compare_firewall(self, held: str) -> None:
        try:
            changes = nftables.list_differences(nftables.read_deployed(), held)
        except nftables.Unseen:
            raise
        except OSError as error:  # its file is gone or broken: the next boot leaves the ports open
            changes = [str(error)]
        self.saw("firewall_changes", len(changes))
        self.details["FirewallChanged/"] = nftables.tell_some(changes)

    def find_detours(self) -> None:
        detours = nftables.find_detours()
        self.saw("firewall_detours", len(detours))
        self.details["FirewallDetour/"] = nftables.tell_some(detours)

    def backup(self) -> None:
        if not self.settings.backup:
            return
        for name, alert, metric, seconds, unit in (
            ("backup", "Backup", "backup_age_hours", HOUR, "hours"),
            ("restore_check", "RestoreCheck", "restore_check_age_days", DAY, "days"),
            ("ledger", "Ledger", "ledger_age_hours", HOUR, "hours"),
        ):
            known = read(OF_BACKUP / f"{name}.json")
            age = self.age(known.get("last_success_epoch")) / seconds
            self.saw(metric, age)
            self.details[f"{alert}Old/"] = f"{age:.0f} {unit}"
            results = self.state.setdefault("results", {})
            if known.get("result") in ("success", "failed"):  # one that runs says nothing yet
                results[name] = known["result"]
            if name in results:
                self.saw(f"{name}_ok", results[name] == "success")
                self.details[f"{alert}Failed/"] = str(known.get("reason", ""))[:300]
        # each step of a restore writes it, and the last one removes it
        under_way = regular(OF_BACKUP / "restore.json")
        self.saw("restore_open_minutes", abs(self.now - under_way.st_mtime) / 60 if under_way else 0)

    def age(self, moment: float | None) -> float:
        """Seconds since then; a machine that has never had it counts from the first look."""
        since = self.state["began"] if moment is None else moment
        return self.now - (0 if since > self.now + HOUR else since)  # a clock that was wrong proves nothing

    def units(self) -> None:
        """What starts the regular tasks, and how these ended."""
        names = "Id,Type,LoadState,UnitFileState,ActiveState,Result"
        said = run("systemctl", "show", f"--property={names}", *self.settings.units)[1] if self.settings.units else ""
        for text in said.strip().split("\n\n") if said else ():
            known = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
            failed = known["ActiveState"] == "failed"
            self.saw("unit_failed", failed, "unit", known["Id"])
            self.details[f"UnitFailed/{known['Id']}"] = known.get("Result", "")
            # a service that ends by itself is not active between its runs
            there = known["LoadState"] == "loaded" and known.get("UnitFileState") not in ("disabled", "masked")
            waits = known["ActiveState"] in ("active", "activating", "reloading") or known.get("Type") == "oneshot"
            self.saw("unit_on", there and (waits or failed), "unit", known["Id"])
            state = ", ".join(known.get(name, "") for name in ("LoadState", "UnitFileState", "ActiveState"))
            self.details[f"TimerOff/{known['Id']}"] = state

    def acceptance(self) -> None:
        if not Path("/etc/cron.d/orthanc-verify").exists():
            return
        known = read(Path("/var/lib/orthanc-verify/report.json"))
        moment = datetime.fromisoformat(known["time"]).timestamp() if "time" in known else None
        age = self.age(moment) / HOUR
        self.saw("acceptance_age_hours", age)
        self.details["AcceptanceOld/"] = f"{age:.0f} hours"
        if moment is not None:
            self.saw("acceptance_ok", known["passed"])
            wrong = [check["name"] for check in known["checks"] if not check["passed"]]
            self.details["AcceptanceFailed/"] = ", ".join(wrong)[:300]

    def worklist(self) -> None:
        section = self.options.get("Worklists", {})
        served_dir = Path(section.get("Directory") or section.get("Database") or "/var/lib/orthanc/worklists")
        self.saw("worklist_items", len([*served_dir.glob("*.wl")]))
        refused = [path.stat().st_ctime for path in served_dir.glob(".spool/quarantine/*.reason")]
        self.saw("quarantined_day", sum(self.now - then < DAY for then in refused))
        waiting = [path.lstat().st_ctime for path in self.settings.worklist_drop.glob("[!.]*")]
        self.saw("worklist_waiting_minutes", (self.now - min(waiting, default=self.now)) / 60)

    def clock(self) -> None:
        seen = clock.read_clock()
        if seen.offset is not None:
            self.saw("clock_offset_seconds", seen.offset)
        self.saw("clock_ok", seen.synchronised)
        self.details["ClockUnsynchronised/"] = seen.said

    # --- packages --------------------------------------------------------------------------------
    def keep(self, name: str, key: list[Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was found under this key, found anew when the key is another; each day and release in any case."""
        key = [int(self.now // DAY), *survey.stamp(Path(survey.__file__)), *key]
        known = self.state.setdefault("packages", {}).get(name, {})
        if known.get("key") != key:
            known = self.state["packages"][name] = {"key": key, **find()}
        return known

    def vulnerabilities(self) -> None:
        if not self.pid:
            return  # what it runs is not seen
        version, container = noted(self.storage / ".orthanc-version"), self.settings.method == "docker"
        key = [*survey.stamp(packages.MACHINE / packages.STATUS, survey.KNOWN), self.pid, survey.read_pid(survey.NGINX)]
        known = json.loads(survey.KNOWN.read_text(encoding="utf-8"))
        found = self.keep("vulnerabilities", key, lambda: survey.survey_packages(known, self.pid, version, container))
        self.state["version"], self.state["cves"] = version, sorted({one["id"] for one in found["open"]})
        lasting = survey.list_lasting(found["open"], self.find_updates()["offered"])
        left = [vulnerability.Open(**one) for one in lasting if one["id"] not in self.settings.accepted_cves]
        self.saw("known_cves", len({one.id for one in left}))
        self.details["KnownVulnerabilities/"] = vulnerability.summarise(left)

    def find_updates(self) -> dict[str, Any]:
        watched = [name for name, _ in self.state.get("packages", {}).get("vulnerabilities", {}).get("watched", [])]
        return self.keep("updates", [*survey.stamp_updates(), watched], lambda: survey.survey_updates(watched))

    def updates(self) -> None:
        found = self.find_updates()
        self.saw("packages_held", len(found["held"]))
        self.details["PackageHeldBack/"] = told(found["held"])
        left = [path for path in found["left"] if os.path.lexists(path)]
        self.saw("conffiles_left", len(left))
        self.details["ConfigurationLeft/"] = told(left)
        if found["error"]:
            raise OSError(found["error"])
        seen = self.state["packages"].get("seen", {})
        due, self.state["packages"]["seen"] = survey.list_due(found, seen, self.now)
        self.saw("security_updates", len(due))
        self.details["SecurityUpdates/"] = told(due)

    def lists(self) -> None:
        age = packages.read_lists_age(self.now)
        days = self.age(None if age is None else self.now - age) / DAY
        self.saw("package_lists_days", days)
        self.details["PackageListsOld/"] = f"{days:.0f} days"

    def restarts(self) -> None:
        key = survey.stamp(packages.MACHINE / packages.STATUS, survey.REBOOT)
        reason = self.keep("reboot", key, lambda: {"reason": survey.find_reboot()})["reason"]
        self.saw("reboot_due", bool(reason))
        self.details["RebootDue/"] = reason
        services = {"nginx": survey.read_pid(survey.NGINX)}
        if self.settings.method != "docker":
            services["orthanc"] = self.pid
        for name, pid in services.items():
            if pid:
                replaced = packages.list_replaced(survey.read_maps(pid))
                self.saw("replaced_files", len(replaced), "service", name)
                self.details[f"RestartDue/{name}"] = told(replaced)

    def support(self) -> None:
        release = support.read_release()
        last = support.find_support_end(release)
        if last is not None:
            self.saw("support_days", (last - datetime.fromtimestamp(self.now, UTC).date()).days)
            name = release.get("PRETTY_NAME", release.get("ID", ""))
            for alert in ("SystemEndOfLife/", "SystemEndSoon/"):
                self.details[alert] = f"{name}: until {words.say_day(f'{last:%Y%m%d}')}"


# --- pure functions -----------------------------------------------------------------------------
def grown(history: list[list[float]]) -> tuple[float | None, str]:
    """Bytes a day by which what is used grows, and how sure that is. None: not enough history yet.

    The mean of the last days, without the days of an import or of a large deletion: many times the usual growth.
    """
    last = history[-1][0]
    days = int((last - history[0][0]) / DAY)
    if days < LEAST_DAYS:
        return None, f"not enough history yet: {days} of {LEAST_DAYS} days"

    def used(moment: float) -> float:
        """At a moment between two samples, by the straight line between them."""
        after = next(number for number, one in enumerate(history) if one[0] >= moment)
        (begin, low), (end, high) = history[max(after - 1, 0)], history[after]
        return high if end == begin else low + (high - low) * (moment - begin) / (end - begin)

    marks = [used(last - DAY * number) for number in range(min(days, FORECAST_DAYS) + 1)]
    steps = [newer - older for newer, older in itertools.pairwise(marks)]
    usual = statistics.median([abs(step) for step in steps if step] or [0])
    common = [step for step in steps if abs(step) <= IMPORT_FACTOR * usual]
    apart = f", {len(steps) - len(common)} with an import or a deletion left out" if len(common) < len(steps) else ""
    growth = statistics.fmean(common) if common else 0.0
    return growth, f"from {len(steps)} days{apart}"


def exposition(text: str) -> dict[str, float]:
    """Values of Prometheus' text format without labels; Orthanc writes a time stamp behind them."""
    found = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) >= 2 and not line.startswith("#") and "{" not in parts[0]:
            with contextlib.suppress(ValueError):
                found[parts[0]] = float(parts[1])
    return found


def noted(path: Path) -> str:
    """The release that a file in Orthanc's directory names; whatever else it is, its text is not told."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, encoding="ascii", errors="replace") as file:
        text = file.read(64).strip()
    if not re.fullmatch(r"\d+(\.\d+)+[\w.+~-]*|mainline", text):
        raise ValueError("the noted release is none")
    return text


def told(lines: list[str]) -> str:
    """Some of them, and how many more there are."""
    return ", ".join(lines[:5]) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")


def holding(path: Path) -> set[int]:
    """Processes with a lock on the file (proc(5), /proc/locks)."""
    try:
        known = path.stat()
    except FileNotFoundError:
        return set()
    wanted = f"{os.major(known.st_dev):02x}:{os.minor(known.st_dev):02x}:{known.st_ino}"
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {int(parts[4]) for parts in lines if len(parts) > 5 and parts[5] == wanted and int(parts[4]) > 0}


def served(hostname: str, port: int) -> bytes | None:
    """The certificate (DER) that a client gets on this machine; whether a client trusts it is not asked here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=hostname) as secure,
        ):
            return secure.getpeercert(binary_form=True)
    except OSError:
        return None


def expiry(certificate: bytes) -> float:
    done = subprocess.run(
        ["/usr/bin/openssl", "x509", "-inform", "DER", "-noout", "-enddate"],
        input=certificate,
        capture_output=True,
        check=True,
        timeout=ANSWER_SECONDS,
    )
    return float(ssl.cert_time_to_seconds(done.stdout.decode().strip().removeprefix("notAfter=")))


# --- what is wrong ------------------------------------------------------------------------------
def conditions(values: list[Sample], settings: Settings, firing: set[str]) -> tuple[dict[str, Sample], set[str]]:
    """What is wrong now, by rule and object, and what of it is the consequence of something else."""
    found: dict[str, tuple[Rule, Sample]] = {}
    for rule in RULES:
        for sample in values:
            if sample.metric != rule.metric:
                continue
            limit, key = settings.limit(rule), f"{rule.name}/{sample.object}"
            if key in firing and rule.metric.endswith("_percent"):
                limit += CLEAR_PERCENT
            if COMPARISONS[rule.compares](sample.value, limit):
                found[key] = (rule, sample)

    def consequence(rule: Rule, sample: Sample) -> bool:
        others = [(of, seen) for of, seen in found.values() if of.name in rule.unless]
        return any(of.label != rule.label or seen.object == sample.object for of, seen in others)

    wrong = {key: sample for key, (_, sample) in found.items()}
    return wrong, {key for key, (rule, sample) in found.items() if consequence(rule, sample)}


def judge(
    look: Look, settings: Settings, former: dict[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The alerts after this look, and what is to be told: alerts that begin, last for another day, or end.

    What was not seen, or is the consequence of something worse, is neither good nor bad: it stays as it was.
    """
    wrong, covered = conditions(look.values, settings, {key for key, alert in former.items() if alert["firing"]})
    seen = {(sample.metric, sample.object) for sample in look.values}
    rules, alerts, events = {rule.name: rule for rule in RULES}, {}, []
    for key in sorted({*wrong, *former}):
        name, _, object_ = key.partition("/")
        if name not in rules:
            continue  # of an earlier release of this program
        rule = rules[name]
        fresh = {"looks": 0, "good": 0, "firing": False, "since": int(look.now), "told": 0, "seen": int(look.now)}
        alert = {**fresh, **former.get(key, {})}
        if key in covered or (rule.metric, object_) not in seen:
            alert.update(looks=0)
        elif key in wrong:
            alert.update(looks=alert["looks"] + 1, good=0, seen=int(look.now), value=wrong[key].value)
            alert["detail"] = look.details.get(key, "")
        else:
            alert.update(looks=0, good=alert["good"] + 1, seen=int(look.now))
        alert["covered"] = key in covered
        alert.update(name=name, object=object_, severity=rule.severity, summary=rule.summary, remedy=rule.remedy)
        alert["nothing_to_do"] = name in NOTHING_TO_DO
        alert["told"] = min(alert["told"], int(look.now))  # a clock that was wrong
        # a device or a disk that is no more
        lost = (rule.metric, object_) not in seen and look.now - alert["seen"] >= DAY
        if not alert["firing"] and alert["looks"] >= rule.looks:
            alert.update(firing=True, since=int(look.now), told=int(look.now))
            events.append({**alert, "state": "firing"})
        elif alert["firing"] and (alert["good"] >= CLEAR_LOOKS or lost):
            events.append({**alert, "state": "resolved"})
            continue
        elif alert["nothing_to_do"] and alert["firing"] and key in wrong:
            # no reminder; but what is new is news, also when something else has ended
            if alert["value"] > alert.get("known", alert["value"]):
                alert["told"] = int(look.now)
                events.append({**alert, "state": "firing"})
            alert["known"] = alert["value"]
        elif (
            alert["firing"]
            and not alert["covered"]
            and rule.severity != "info"
            and look.now - alert["told"] >= REMIND_SECONDS
        ):
            alert["told"] = int(look.now)
            events.append({**alert, "state": "reminder"})
        if alert["firing"] or alert["looks"]:
            alerts[key] = alert
    return alerts, events


# --- telling ------------------------------------------------------------------------------------
WORDS = {"firing": "Trouble", "reminder": "Still", "resolved": "All clear"}


def word(event: dict[str, Any]) -> str:
    """What kind of news it is; what nobody can change is none that anybody must act on."""
    if event["state"] == "firing" and event["severity"] == "info":
        return "For information"
    return WORDS[event["state"]]


def sentence(event: dict[str, Any]) -> str:
    about = ": ".join(text for text in (event["object"], event.get("detail", "")) if text)
    return escape(f"{event['summary']}{f' ({about})' if about else ''}")


def mail(settings: Settings, events: list[dict[str, Any]], now: float) -> None:
    """One mail for everything of one look, through the machine's sendmail."""
    message = email.message.EmailMessage()
    first = min(events, key=lambda one: PRIORITIES[one["severity"]])
    more = f" and {len(events) - 1} more" if len(events) > 1 else ""
    message["Subject"] = escape(f"[{settings.clinic}] {word(first)}: {first['summary']}{more}")
    message["From"], message["To"] = settings.mail_from, ", ".join(settings.mail_to)
    message["Date"], message["Message-ID"] = formatdate(now), make_msgid(domain=settings.hostname or "localhost")
    lines = []
    for event in events:
        since = words.say_moment(event["since"])
        lines += [
            f"{word(event)}{'' if event['severity'] == 'info' else ', ' + event['severity']}: {sentence(event)}.",
            f"  {event['name']} since {since}",
        ]
        lines += [f"  Remedy: {event['remedy']}."] * (event["state"] != "resolved") + [""]
    lines.append(f"{settings.host} ({settings.hostname}). More on the machine: orthanc-monitor show")
    message.set_content("\n".join(lines))
    done = subprocess.run(
        ["/usr/sbin/sendmail", "-oi", "-t"],
        input=message.as_bytes(),
        capture_output=True,
        timeout=60,
        check=False,
        start_new_session=True,  # msmtp would ask a terminal for a password
    )
    if done.returncode:
        raise OSError(f"sendmail: {done.stderr.decode(errors='replace').strip()}")


def post(settings: Settings, events: list[dict[str, Any]], now: float) -> None:
    told = [{"text": f"{word(event)}: {sentence(event)}", **event} for event in events]
    content = {"clinic": settings.clinic, "host": settings.host, "time": int(now), "alerts": told}
    content["text"] = "\n".join(f"{settings.clinic}: {event['text']}" for event in told)  # what chat services show
    request = urllib.request.Request(
        settings.webhook, json.dumps(content).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=2 * ANSWER_SECONDS):
        pass


def is_settling(state: dict[str, Any], waiting: list[dict[str, Any]], now: float) -> bool:
    """Whether a new monitor still gathers: a first deploy is one message, unless something is critical."""
    return now - state.get("began", now - SETTLE_SECONDS) < SETTLE_SECONDS and all(
        one["severity"] != "critical" for one in waiting
    )


def leave_out_resolved(waiting: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What came and went before anybody was told is not told."""
    keys = {each: {(one["name"], one["object"]) for one in waiting if one["state"] == each} for each in WORDS}
    over = keys["firing"] & keys["resolved"]
    return [one for one in waiting if (one["name"], one["object"]) not in over]


def tell(settings: Settings, state: dict[str, Any], events: list[dict[str, Any]], now: float) -> None:
    """What could not be delivered is kept, and tried again with the next look."""
    for event in events:
        say(f"{word(event)}: {event['name']}: {sentence(event)}", PRIORITIES[event["severity"]])
    pending = state.setdefault("pending", {})
    for name, wanted, send in (("mail", settings.mail_to, mail), ("webhook", settings.webhook, post)):
        waiting = [*pending.get(name, []), *events] if wanted else []
        if is_settling(state, waiting, now):
            waiting = leave_out_resolved(waiting)
        elif waiting:
            try:
                send(settings, waiting, now)
                waiting = []
            except Exception as error:  # whatever the other side does; its text may hold the URL, and that a token
                text = str(error) if name == "mail" else getattr(error, "code", type(error).__name__)
                say(f"{name} cannot be sent, and is tried again: {text}", 3)
        pending[name] = waiting[-100:]


# --- what others read ---------------------------------------------------------------------------
def metrics(values: list[Sample]) -> str:
    lines = []
    for name, text in HELP.items():
        samples = [sample for sample in values if sample.metric == name]
        if samples:
            lines += [f"# HELP orthanc_monitor_{name} {text}", f"# TYPE orthanc_monitor_{name} gauge"]
        for sample in samples:
            label = (
                f"{{{sample.label}={json.dumps(escape(sample.object), ensure_ascii=False)}}}" if sample.label else ""
            )
            lines.append(f"orthanc_monitor_{name}{label} {sample.value:.12g}")
    return "\n".join([*lines, ""])


def expression(rule: Rule, settings: Settings) -> str:
    return f"orthanc_monitor_{rule.metric} {rule.compares} {settings.limit(rule):g}"


def prometheus(settings: Settings) -> str:
    """The table as alert rules of Prometheus, 2.42 or later. JSON is YAML."""
    known, made = {rule.name: rule for rule in RULES}, []
    for rule in RULES:
        expr = expression(rule, settings)
        for name in rule.unless:
            other = known[name]
            on = f"instance, {rule.label}" if rule.label and rule.label == other.label else "instance"
            expr += f" unless on ({on}) {expression(other, settings)}"
        about = f" ({{{{ $labels.{rule.label} }}}})" if rule.label else ""
        made.append(
            {
                "alert": f"Orthanc{rule.name}",
                "expr": expr,
                "for": f"{rule.looks - 1}m",
                "keep_firing_for": f"{CLEAR_LOOKS}m",
                "labels": {"severity": rule.severity},
                "annotations": {"summary": f"{rule.summary}{about}", "remedy": rule.remedy},
            }
        )
    # also when nobody offers the metrics any more
    silent = f"time() - last_over_time(orthanc_monitor_time_seconds[7d]) > {60 * SILENT_MINUTES}"
    made.append(
        {
            "alert": "OrthancMonitorSilent",
            "expr": silent,
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": f"The monitor has not looked for {SILENT_MINUTES} minutes",
                "remedy": "systemctl status orthanc-monitor.timer; journalctl -u orthanc-monitor",
            },
        }
    )
    return json.dumps({"groups": [{"name": "orthanc", "rules": made}]}, indent=2) + "\n"


# --- commands -----------------------------------------------------------------------------------
@contextlib.contextmanager
def alone() -> Iterator[None]:
    handle = os.open(LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def look(settings: Settings) -> dict[str, Any]:
    with alone():
        state, now = latest(settings), time.time()
        try:
            seen = looked(settings, state, now)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            # of another release, or of a clock or a disk that was wrong: it must not end the monitor for ever
            say(f"what the last look left is of no use, and begun anew: {type(error).__name__}: {error}", 3)
            state = {}
            seen = looked(settings, state, now)
        text = json.dumps(state) + "\n"
        try:
            written(settings.directory / "state.json", text)
            IN_MEMORY.unlink(missing_ok=True)
        except OSError as error:
            # a disk that is full or read-only: without what was told, it would be told each minute
            say(f"the monitor keeps what it saw in memory alone: {error}", 3)
            written(IN_MEMORY, text, 0o600)
        try:
            written(settings.directory / "orthanc.prom", metrics(seen.values))
        except OSError as error:
            say(f"the metrics cannot be written: {error}", 3)
        return state


def looked(settings: Settings, state: dict[str, Any], now: float) -> Look:
    """One look, and all that follows of it; `state` becomes what it leaves."""
    state["began"] = min(state.get("began", int(now)), int(now))
    seen = Look(settings, state, now)
    seen.look()
    alerts, events = judge(seen, settings, state.get("alerts", {}))
    tell(settings, state, events, now)
    state.update(time=int(now), alerts=alerts, values=[list(sample) for sample in seen.values], series=seen.series)
    return seen


def describe_silence(state: dict[str, Any], now: float) -> str:
    """Why what the last look left says nothing of now; empty where it does."""
    if "time" not in state:
        return "The monitor has not looked yet. Remedy: systemctl enable --now orthanc-monitor.timer"
    remedy = "Remedy: systemctl enable --now orthanc-monitor.timer; see journalctl -u orthanc-monitor"
    minutes = (now - state["time"]) / 60
    if minutes > SILENT_MINUTES:
        return f"The monitor has not looked for {describe_age(60 * minutes)}, and what it saw is of then. {remedy}"
    if minutes < -1:
        when = words.say_moment(state["time"])
        return f"The monitor's last look is dated in the future ({when}): a clock is or was wrong. {remedy}"
    return ""


def describe_age(seconds: float) -> str:
    """In the largest unit of which there are two: `90 seconds`, `3 hours`, `10 days`."""
    units = ((DAY, "days"), (HOUR, "hours"), (60, "minutes"))
    size, name = next(((size, name) for size, name in units if seconds >= 2 * size), (1, "seconds"))
    return f"{int(seconds / size)} {name}"


def shown(settings: Settings, state: dict[str, Any]) -> list[str]:
    """For a person."""
    silence = describe_silence(state, time.time())
    if "time" not in state:
        return [silence]
    firing = [alert for alert in state["alerts"].values() if alert["firing"] and not alert["covered"]]
    order = ["critical", "warning", "info"]
    lines = []
    for alert in sorted(firing, key=lambda one: order.index(one["severity"])):
        lines += [f"{alert['severity']:9} {alert['name']}: {sentence(alert)}", f"{'':9} Remedy: {alert['remedy']}"]
    lines = [silence, *lines] if silence else lines or ["Nothing is wrong."]
    values = {(metric, object_): value for metric, _, object_, value in state["values"]}
    for metric, object_ in values:
        if metric == "fs_free_percent":
            free, percent = words.say_size(values["fs_free_bytes", object_]), values[metric, object_]
            lines.append(f"{'disk':9} {object_}: {free} free ({percent:.0f} %)")
    disk = state.get("disk", {})
    days = disk.get("days_until_full")
    lines.append(f"{'forecast':9} " + (f"full in {days:.0f} days, " if days else "") + disk.get("note", "none"))
    age = time.time() - state["time"]
    lines.append(f"{'look':9} {describe_age(age)} ago" if age >= 0 else f"{'look':9} in the future")
    return lines


def list_vulnerabilities(known: dict[str, Any], settings: Settings) -> list[str]:
    """For a person: each vulnerability that is open, in what, what it means, what to do, where to read more."""
    if not known:
        return ["The monitor has not looked at the packages yet. Remedy: systemctl start orthanc-monitor"]
    lines = []
    for one in known["open"]:
        accepted = " (accepted)" if one["id"] in settings.accepted_cves else ""
        lines += [escape(f"{one['id']}{accepted} in {one['package']} {one['version']}: {one['summary']}.")]
        lines += [escape(f"  {text}") for text in (f"Remedy: {one['remedy']}.", one["url"])]
    return lines or ["No vulnerability is known without an update."]


def main() -> int:
    parser = argparse.ArgumentParser(prog="orthanc-monitor", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help=f"default: {CONFIGURATION}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("look", "look at everything, tell what changed, brake or release; what the timer starts"),
        ("show", "what the last look saw; exit code 1 while something is wrong, or nobody looks"),
        ("vulnerabilities", "what is known of the packages that run, what it means, and what to do"),
        ("rules", "the table as alert rules of Prometheus"),
        ("test", "send a test message by mail and webhook"),
    ):
        commands.add_parser(name, help=text, description=text).add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    journal.prepare_output()
    settings = Settings.read(arguments.config)
    if arguments.command == "rules":
        print(prometheus(settings), end="")
        return 0
    if arguments.command == "test":
        return test(settings)
    state = look(settings) if arguments.command == "look" else latest(settings)
    if arguments.command == "vulnerabilities":
        known = state.get("packages", {}).get("vulnerabilities", {})
        lines = [json.dumps(known, indent=2)] if arguments.json else list_vulnerabilities(known, settings)
        print("\n".join(lines))
        return 0
    silence = describe_silence(state, time.time()) if arguments.command == "show" else ""
    if arguments.json and arguments.command == "show":
        state["silence"] = silence
    if arguments.json:
        print(json.dumps(state, indent=2))
    elif arguments.command == "show":
        print("\n".join(map(escape, shown(settings, state))))
    firing = [alert for alert in state.get("alerts", {}).values() if alert["firing"] and alert["severity"] != "info"]
    return 1 if arguments.command == "show" and (firing or silence) else 0


def test(settings: Settings) -> int:
    """Whether messages arrive is what nobody wants to find out on the night of the fire."""
    event = {
        **{"name": "Test", "object": "", "severity": "info", "state": "firing", "since": int(time.time())},
        **{"summary": "This is a test of the monitor", "remedy": "none is needed"},
    }
    if not settings.mail_to and not settings.webhook:
        print("Nobody is told. Remedy: set orthanc_monitor_mail_to or orthanc_monitor_webhook.", file=sys.stderr)
        return 1
    state: dict[str, Any] = {}
    tell(settings, state, [event], time.time())
    return 1 if any(state["pending"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
