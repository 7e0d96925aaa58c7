# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Prometheus reads: the metrics of the last check, and the table of rules as alert rules."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ..core.escaping import escape
from ..core.limits import SILENT_MINUTES
from .alerts import CLEAR_CHECKS
from .context import Sample
from .rules import RULES, Rule
from .settings import Settings

HELP = {
    "time_seconds": "Unix time of the last check",
    "fs_size_bytes": "Size of the file system",
    "fs_free_bytes": "Bytes that Orthanc may still write",
    "fs_free_percent": "The same in percent of the size",
    "fs_inodes_free_percent": "Files that may still be created, in percent",
    "growth_bytes_per_day": "Growth of what is used, imports left out",
    "days_until_full": "Days until the file system is full at this growth; absent without enough history",
    "disk_guard": "1 while new images are refused",
    "mount_ok": "Whether the images' disk is mounted",
    "storage_read_only": "Whether the images' disk lets nobody write to it",
    "process_up": "Whether Orthanc runs",
    "index_up": "Whether Orthanc answers from its index",
    "index_statistics": "Whether the index has the statistics for its query plans",
    "lookup_seconds": "Time in which Orthanc finds one image by its identifier, the fastest of three times",
    "index_locked": "Whether another program holds the index",
    "dicom_up": "Whether Orthanc answers a C-ECHO",
    "plugin_up": "Whether Orthanc has loaded the plugin",
    "restarts_hour": "Restarts within the last hour",
    "errors_hour": "Errors in Orthanc's log within the last hour",
    "jobs_failed_day": "Jobs that failed within the last day",
    "threads_free": "Idle threads of Orthanc (Orthanc 1.12.9 and later)",
    "rejected_hour": "Rejections of a listed device within the last hour",
    "conflicts_day": "Images received under the identifiers of another within the last day",
    "instances": "Images in the index",
    "proxy_up": "Whether the proxy answers HTTPS",
    "dicom_tls_up": "Whether the proxy answers DICOM over TLS, where a device uses it",
    "firewall_ok": "Whether the firewall table is loaded",
    "firewall_changes": "Differences between the firewall table in the kernel and the deployed one",
    "firewall_detours": "Rules of other tables that bypass the firewall",
    "certificate_days": "Days until the certificate in use expires",
    "own_ca_days": "Days until the server's own CA expires",
    "client_certificate_days": "Days until a certificate expires that a device or user shows",
    "backup_ok": "Whether the last backup succeeded",
    "backup_age_hours": "Hours since the last good backup",
    "restore_check_ok": "Whether the last restore check succeeded",
    "restore_check_age_days": "Days since the last good restore check",
    "ledger_ok": "Whether the last run of the ledger succeeded",
    "ledger_age_hours": "Hours since the last good run of the ledger",
    "restore_open_minutes": "Minutes since the last step of a restore that is not complete; 0 without one",
    "unit_on": "Whether a unit that must be on is loaded, enabled and active",
    "unit_failed": "1 where a unit of this collection failed",
    "acceptance_ok": "Whether the last acceptance test passed",
    "acceptance_age_hours": "Hours since the last acceptance test",
    "quarantined_day": "Worklist items that were refused within the last day",
    "worklist_items": "Worklist items that are served",
    "worklist_waiting_minutes": "Minutes that the oldest worklist item has been waiting for the intake",
    "clock_ok": "Whether the clock is synchronised",
    "clock_offset_seconds": "Offset of the clock according to chrony",
    "security_updates": "Security updates, and updates of what Orthanc runs, to be installed by hand",
    "packages_held": "Packages whose update is held back, or that are half installed",
    "conffiles_left": "Configuration files that came with an update and were not installed",
    "package_lists_days": "Days since apt last asked for updates, or since expired lists were signed",
    "reboot_due": "1 where an update needs a restart of the machine",
    "replaced_files": "Programs and libraries that a service runs and an update has replaced",
    "support_days": "Days until the system no longer receives security updates",
    "known_cves": "Known vulnerabilities without an update that are not accepted",
    "unsent_minutes": "Minutes since a message could not be sent for the first time; 0 where none waits",
    "blind": "1 where the monitor could not check",
}


def format_metrics(samples: Iterable[Sample]) -> str:
    """The samples in Prometheus' text format, in the order of HELP."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.metric, []).append(sample)
    lines = []
    for name, text in HELP.items():
        if name in by_name:
            lines += [f"# HELP orthanc_monitor_{name} {text}", f"# TYPE orthanc_monitor_{name} gauge"]
        for sample in by_name.get(name, []):
            label = (
                f"{{{sample.label}={json.dumps(escape(sample.object), ensure_ascii=False)}}}" if sample.label else ""
            )
            lines.append(f"orthanc_monitor_{name}{label} {sample.value:.12g}")
    return "\n".join([*lines, ""])


def format_expression(rule: Rule, settings: Settings) -> str:
    """When the rule holds, without what it is a consequence of."""
    return f"orthanc_monitor_{rule.metric} {rule.compares} {settings.limit(rule):g}"


def format_rules(settings: Settings) -> str:
    """The table as alert rules of Prometheus, 2.42 or later. JSON is YAML."""
    known, alerts = {rule.name: rule for rule in RULES}, []
    for rule in RULES:
        expr = format_expression(rule, settings)
        for name in rule.unless:
            other = known[name]
            on = f"instance, {rule.label}" if rule.label and rule.label == other.label else "instance"
            expr += f" unless on ({on}) {format_expression(other, settings)}"
        about = f" ({{{{ $labels.{rule.label} }}}})" if rule.label else ""
        alerts.append(
            {
                "alert": f"Orthanc{rule.name}",
                "expr": expr,
                "for": f"{rule.checks - 1}m",
                "keep_firing_for": f"{CLEAR_CHECKS}m",
                "labels": {"severity": rule.severity},
                "annotations": {"summary": f"{rule.summary}{about}", "remedy": rule.remedy},
            }
        )
    # also when the metrics are no longer there
    silent = f"time() - last_over_time(orthanc_monitor_time_seconds[7d]) > {60 * SILENT_MINUTES}"
    alerts.append(
        {
            "alert": "OrthancMonitorSilent",
            "expr": silent,
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": f"The monitor has not run a check for {SILENT_MINUTES} minutes",
                "remedy": "systemctl status orthanc-monitor.timer; journalctl -u orthanc-monitor",
            },
        }
    )
    return json.dumps({"groups": [{"name": "orthanc", "rules": alerts}]}, indent=2) + "\n"
