# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the settings of the monitor. No message contains a secret."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.limits import LIMITS
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.booleans import is_boolean, is_false
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import network
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, nearest, problem

ADDRESS = re.compile(r"[^@\s,<>]+@[^@\s,<>]+")


def problems(settings: dict[str, Any]) -> list[Problem]:
    """The problems of the settings, whose names come without `orthanc_monitor_`."""
    return [
        *_thresholds(settings["thresholds"]),
        *_disk_guard(settings["disk_guard_percent"]),
        *_mail(settings["mail_to"], settings["mail_from"]),
        *_smtp(settings["smtp"]),
        *_webhook(str(settings["webhook"] or "")),
        *_sources(settings["prometheus_sources"]),
        *_cves(settings["accepted_cves"]),
    ]


def _wrong(name: str, message: str, remedy: str) -> Problem:
    return problem(f"orthanc_monitor_{name}", message, remedy)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _thresholds(thresholds: Any) -> list[Problem]:
    if not isinstance(thresholds, dict):
        return [_wrong("thresholds", "must be a dictionary", "write {days_until_full: 60}")]
    found = []
    for name, value in thresholds.items():
        if name not in LIMITS:
            near = nearest(str(name), LIMITS)
            remedy = f"did you mean {near}?" if near else f"use one of {', '.join(LIMITS)}"
            found.append(_wrong(f"thresholds.{name}", "is not a threshold", remedy))
        elif not _number(value):
            found.append(
                _wrong(f"thresholds.{name}", f"must be a number, not {value!r}", "write a number without quotes")
            )
    return found


def _disk_guard(percent: Any) -> list[Problem]:
    if re.fullmatch(r"[0-9]{1,2}", str(percent)) and int(str(percent)) <= 50:
        return []
    return [
        _wrong("disk_guard_percent", f"must be a whole number from 0 to 50, not {percent!r}", "write one, such as 5")
    ]


def _mail(to: Any, sender: Any) -> list[Problem]:
    if not isinstance(to, list):
        return [_wrong("mail_to", "must be a list", "write [it@clinic.example]")]
    wrong = [
        _wrong("mail_to", f"{one!r} is not an e-mail address", "write name@domain") for one in to if not _address(one)
    ]
    if to and not _address(sender):
        wrong.append(_wrong("mail_from", f"{sender!r} is not an e-mail address", "write name@domain"))
    return wrong


def _address(text: Any) -> bool:
    return isinstance(text, str) and bool(ADDRESS.fullmatch(text))


def _smtp(smtp: Any) -> list[Problem]:
    if not isinstance(smtp, dict):
        return [_wrong("smtp", "must be a dictionary", "write host, port, user and password")]
    if not smtp:
        return []
    found = []
    for name in ("host", "user", "password"):
        # msmtp's configuration has one line for each
        if re.search(r"[\n\r\"\\]", str(smtp.get(name, ""))):
            found.append(_wrong(f"smtp.{name}", "contains a quote, a backslash or a line break", "use another one"))
    if not smtp.get("host"):
        found.append(_wrong("smtp.host", "is missing", "write the name of the mail server"))
    if smtp.get("user") and not smtp.get("password"):
        found.append(_wrong("smtp.password", "is missing", "write it into the vault"))
    if not is_boolean(smtp.get("tls", True)):
        found.append(_wrong("smtp.tls", "must be true or false", "remove it"))
    if smtp.get("password") and is_false(smtp.get("tls", True)):
        found.append(_wrong("smtp.tls", "would send the password unencrypted", "remove it"))
    return found


def _webhook(url: str) -> list[Problem]:
    if not url or re.fullmatch(r"https?://[^\s/]+\S*", url):
        return []
    return [_wrong("webhook", "is not a URL", "write https://host/path")]


def _sources(sources: Any) -> list[Problem]:
    if not isinstance(sources, list):
        return [_wrong("prometheus_sources", "must be a list", "write [192.0.2.10]")]
    found = []
    for source in sources:
        try:
            if network.is_everybody(read := network.read_source(source)):
                message = f"include {read}: any machine that can reach the server may read the metrics"
                found.append(_wrong("prometheus_sources", message, "list the addresses that read them"))
        except ValueError as error:
            found.append(_wrong("prometheus_sources", f"{error}", "write 192.0.2.10 or 192.0.2.0/24"))
    return found


def _cves(names: Any) -> list[Problem]:
    return [
        _wrong("accepted_cves", f"{name!r} is not a CVE", "write CVE-2026-10528")
        for name in (names if isinstance(names, list) else [names])
        if not re.fullmatch(r"CVE-\d{4}-\d{4,}", str(name))
    ]
