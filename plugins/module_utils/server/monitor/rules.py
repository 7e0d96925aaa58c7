# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong, when, and what to do: one table for mails, webhooks, the report and the alert rules of Prometheus."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple


class Rule(NamedTuple):
    """What is wrong when `metric` compares so with `limit` (a number, or one of LIMITS) for so many `checks` in a row.

    `label` tells several objects of a metric apart. While one of `unless` is true this one is its
    consequence, and is not reported.
    """

    name: str
    severity: str
    metric: str
    label: str
    compares: str
    limit: float | str
    checks: int
    unless: tuple[str, ...]
    summary: str
    remedy: str
    nothing_to_do: bool = False  # the clinic cannot resolve it today: reported once, and listed


DOWN = ("MountGone", "IndexLocked", "RestartLoop", "OrthancStopped")
RULES = (
    Rule(
        *("MountGone", "critical", "mount_ok", "", "==", 0, 1, ()),
        "The images' disk is not mounted, or not the one of the deploy",
        "mount it (findmnt, journalctl -b -u local-fs.target), then systemctl start orthanc",
    ),
    Rule(
        *("StorageReadOnly", "critical", "storage_read_only", "", "==", 1, 1, ()),
        "The images' disk is read-only, as after an error of the disk: new images are refused",
        "see dmesg; make sure that a backup is current, check the file system (fsck) or replace the disk, and mount it "
        "again",
    ),
    Rule(
        *("DiskGuard", "critical", "disk_guard", "fs", "==", 1, 1, ()),
        "New images are refused: the disk is full except for the reserve that Orthanc needs",
        "make space or enlarge the disk; devices can send again as soon as there is space",
    ),
    Rule(
        *("DiskAlmostFull", "critical", "fs_free_percent", "fs", "<", "disk_critical_percent", 1, ("DiskGuard",)),
        "The disk is almost full",
        "make space or enlarge the disk",
    ),
    Rule(
        *("DiskFilling", "warning", "fs_free_percent", "fs", "<", "disk_warning_percent", 1),
        ("DiskGuard", "DiskAlmostFull"),
        "The disk is filling",
        "make space or enlarge the disk",
    ),
    Rule(
        *("InodesFew", "warning", "fs_inodes_free_percent", "fs", "<", "inodes_percent", 1, ()),
        "The disk has room for few more files",
        "remove files that are not needed (df -i), or create a file system with more inodes",
    ),
    Rule(
        *("FullSoon", "warning", "days_until_full", "fs", "<", "days_until_full", 1),
        ("DiskGuard", "DiskAlmostFull", "DiskFilling"),
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
        "Orthanc keeps restarting",
        "see the last lines of its log (journalctl -u orthanc, or docker logs orthanc), and deploy again",
    ),
    Rule(
        *("OrthancStopped", "critical", "process_up", "", "==", 0, 2, ("MountGone", "IndexLocked", "RestartLoop")),
        "Orthanc is not running",
        "systemctl start orthanc, or docker start orthanc; see its log for why",
    ),
    Rule(
        *("IndexSilent", "critical", "index_up", "", "==", 0, 2, DOWN),
        "Orthanc runs but does not answer from its index",
        "see its log; then systemctl restart orthanc, or docker restart orthanc",
    ),
    Rule(
        *("IndexWithoutStatistics", "warning", "index_statistics", "", "==", 0, 3, DOWN),
        "The index has no statistics, without which a large archive is slow",
        "deploy again, which stops Orthanc for a moment",
    ),
    Rule(
        # an import, a large search or a backup may slow it for some minutes
        *("IndexSlow", "warning", "lookup_seconds", "", ">", "lookup_seconds", 15),
        (*DOWN, "IndexSilent", "IndexWithoutStatistics", "ThreadsExhausted"),
        "Orthanc takes long to find an image: devices wait, and the viewer is slow",
        "set orthanc_config_index_statistics to true and deploy; where it is true, find what keeps the disk or the "
        "processor busy (vmstat 1)",
    ),
    Rule(
        *("DicomSilent", "critical", "dicom_up", "", "==", 0, 2, (*DOWN, "IndexSilent")),
        "Orthanc does not answer a C-ECHO",
        "see its log, and whether another program uses its DICOM port (ss -ltnp)",
    ),
    Rule(
        *("PluginMissing", "critical", "plugin_up", "plugin", "==", 0, 2, (*DOWN, "IndexSilent")),
        "A plugin is not loaded",
        "deploy again",
    ),
    Rule(
        *("ProxyDown", "critical", "proxy_up", "", "==", 0, 2, ()),
        "The proxy does not answer on HTTPS",
        "nginx -t; systemctl restart nginx",
    ),
    Rule(
        *("DicomTlsDown", "critical", "dicom_tls_up", "", "==", 0, 2, ("ProxyDown",)),
        "The proxy does not answer on DICOM over TLS: the devices that use it cannot send",
        "nginx -t; see /var/log/nginx/error.log; systemctl reload nginx, or deploy again",
    ),
    Rule(
        *("FirewallGone", "critical", "firewall_ok", "", "==", 0, 1, ()),
        "The firewall table is missing: Orthanc's ports are open to everybody",
        "systemctl restart orthanc-firewall; where that fails, deploy again",
    ),
    Rule(
        # a deploy writes the file a moment before it loads it
        *("FirewallChanged", "critical", "firewall_changes", "", ">", 0, 2, ("FirewallGone",)),
        "The firewall table differs from the deployed one: ports may be open, or closed to devices",
        "systemctl restart orthanc-firewall; where that fails, deploy again",
    ),
    Rule(
        *("FirewallDetour", "critical", "firewall_detours", "", ">", 0, 1, ()),
        "A rule outside the firewall table bypasses it",
        "remove it: nft --handle list ruleset shows its handle, nft delete rule removes it; find out who added it",
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
        (*DOWN, "IndexSilent", "DiskGuard", "DiskAlmostFull"),
        "Orthanc logs many errors",
        "read them: journalctl -u orthanc, or docker logs orthanc",
    ),
    Rule(
        *("JobsFailed", "warning", "jobs_failed_day", "", ">", 0, 1, ()),
        "Orthanc jobs failed within the last day",
        "see which under /jobs?expand, as a user with the role admin",
    ),
    Rule(
        *("ThreadsExhausted", "warning", "threads_free", "kind", "==", 0, 3, (*DOWN, "IndexSilent")),
        "All of Orthanc's threads are busy",
        "see what keeps them busy; DicomThreadsCount and HttpThreadsCount raise their number",
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
        "The test restore of the newest backup failed",
        "see why: journalctl -u orthanc-restore-check; then orthanc-backup check",
    ),
    Rule(
        *("RestoreCheckOld", "warning", "restore_check_age_days", "", ">", "restore_check_days", 1),
        ("RestoreCheckFailed",),
        "No test restore has succeeded recently",
        "systemctl start orthanc-restore-check; see systemctl list-timers",
    ),
    Rule(
        *("LedgerFailed", "critical", "ledger_ok", "", "==", 0, 1, (*DOWN, "IndexSilent")),
        "The ledger of received studies cannot be kept: after a loss it would be unknown which studies to send again",
        "see why: journalctl -u orthanc-ledger; then orthanc-backup ledger",
    ),
    Rule(
        # after a boot it has a while to run first
        *("LedgerOld", "warning", "ledger_age_hours", "", ">", "ledger_hours", 10),
        ("LedgerFailed", *DOWN, "IndexSilent"),
        "The ledger of received studies has not run recently",
        "systemctl enable --now orthanc-ledger.timer; see systemctl list-timers",
    ),
    Rule(
        *("RestoreInterrupted", "critical", "restore_open_minutes", "", ">", 15, 1, ()),
        "A restore was interrupted and has not been completed",
        "complete it: orthanc-backup restore; see journalctl -u orthanc-restore",
    ),
    Rule(
        *("UnitFailed", "warning", "unit_failed", "unit", "==", 1, 5, (*DOWN, "IndexSilent")),
        "A service of this collection failed",
        "see why: systemctl status and journalctl -u with its name; then start it again",
    ),
    Rule(
        *("TimerOff", "warning", "unit_on", "unit", "==", 0, 3, ("UnitFailed",)),
        "A unit that starts a regular task is stopped, disabled or missing",
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
        *("CertificateAuthorityExpires", "warning", "own_ca_days", "", "<", "own_ca_days", 1, ()),
        "The server's own CA expires: from then on no client and no device trusts the server",
        "deploy again, which renews it, and import its new root on each client and device before that day",
    ),
    Rule(
        *("ClientCertificateExpires", "warning", "client_certificate_days", "file", "<", "client_certificate_days", 1),
        (),
        "A certificate that a device or user shows to the server expires: from then on the server refuses them",
        "deploy again, which renews it; install the new one on the device, and then remove the file old-* of "
        "/etc/nginx/orthanc that is named; remove also what belongs to a device that is gone",
    ),
    Rule(
        *("WorklistQuarantine", "warning", "quarantined_day", "", ">", 0, 1, ()),
        "A worklist item was refused within the last day",
        "see why: orthanc-worklist list --quarantine; then have it submitted again",
    ),
    Rule(
        *("WorklistStuck", "critical", "worklist_waiting_minutes", "", ">", "worklist_minutes", 2, ()),
        "Worklist items are waiting and are not picked up",
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
        "Package updates are held back",
        "apt-mark unhold and its name; dpkg --configure -a; apt install and its name, which asks about a changed file",
    ),
    Rule(
        *("ConfigurationLeft", "info", "conffiles_left", "", ">", 0, 1, ()),
        "An update brought configuration files that were not installed",
        "compare each with the file beside it, then remove it",
    ),
    Rule(
        *("PackageListsOld", "warning", "package_lists_days", "", ">", "package_lists_days", 1, ()),
        "The package lists are old, so new updates are not known",
        "apt update, and correct what it complains of: mirror, proxy or network; apt install unattended-upgrades does "
        "it each day",
    ),
    Rule(
        *("RebootDue", "warning", "reboot_due", "", "==", 1, 1, ()),
        "The machine must be restarted for an update to take effect",
        "systemctl reboot, when no device is sending",
    ),
    Rule(
        *("RestartDue", "warning", "replaced_files", "service", ">", 0, 3, ("RebootDue",)),
        "A service still runs files that an update has replaced",
        "systemctl restart and its name; Orthanc when no device is sending",
    ),
    Rule(
        *("SystemEndOfLife", "critical", "support_days", "", "<", 0, 1, ()),
        "This system no longer receives security updates",
        "move to the next release of the system",
    ),
    Rule(
        *("SystemEndSoon", "warning", "support_days", "", "<", "support_days", 1, ("SystemEndOfLife",)),
        "This system will soon stop receiving security updates",
        "plan the move to the next release of the system",
    ),
    Rule(
        *("KnownVulnerabilities", "info", "known_cves", "", ">", 0, 1, ()),
        "There are known vulnerabilities for which this system offers no update yet",
        "orthanc-monitor vulnerabilities says what each means; list accepted ones in orthanc_monitor_accepted_cves",
        nothing_to_do=True,
    ),
    Rule(
        *("AlertsNotSent", "warning", "unsent_minutes", "way", ">", 60, 1, ()),
        "Alerts have not been sent for an hour",
        "see why: journalctl -t orthanc-monitor; correct mail server, password or URL in the inventory, deploy, and run"
        " orthanc-monitor test",
    ),
    Rule(
        *("MonitorBlind", "warning", "blind", "what", "==", 1, 3, ("MountGone", "RestartLoop", "OrthancStopped")),
        "The monitor cannot check something",
        "see why: journalctl -u orthanc-monitor",
    ),
)
COMPARISONS: dict[str, Callable[[float, float], bool]] = {"==": operator.eq, "<": operator.lt, ">": operator.gt}
