# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The acceptance report as an HTML page, and an overview page of many reports. Without Ansible.

The pages are self-contained and without scripts. They name what a report lacks instead of leaving it out.
This module needs the directory `pages` beside it, and Jinja2 3.1 (Debian's python3-jinja2 on a server).
"""

from __future__ import annotations

import datetime
import json
import math
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core import verdict as verdicts
from ..core import words
from ..core.escaping import escape
from ..core.limits import SILENT_MINUTES
from ..core.verdict import BAD, GOOD, SOON, Limits, Report, limits_of

GROUPS = ("DICOM", "Worklist", "DICOMweb", "Access", "Service", "Safety")
RIGHTS_IN_WORDS = {
    "echo": "test the connection (C-ECHO)",
    "store": "store images (C-STORE)",
    "find_worklist": "query the worklist (C-FIND MWL)",
    "find": "search for studies (C-FIND)",
    "move": "request that studies be sent to it (C-MOVE)",
    "get": "retrieve studies (C-GET)",
    "storage_commitment": "request storage commitment (N-ACTION)",
}
STALE_HOURS = 26
AHEAD_HOURS = 1  # a report that is further in the future is of a server whose clock is wrong
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
UNTESTED = "Not tested: not reached, or failed before the test"
POINTS = 240  # of a history in the plot


# --- pages --------------------------------------------------------------------------------------
def html(report: Report) -> str:
    """One report as a page, with a connection sheet for each device."""
    checks = [
        {"group": "", "tried": "", "remedy": "", "waiver": "", **check, "result": verdicts.result_of(check)}
        for check in report.get("checks") or []
    ]
    names = [*GROUPS, *(check.get("group") or "Other" for check in checks)]
    groups = []
    for name in dict.fromkeys(names):
        members = [check for check in checks if (check.get("group") or "Other") == name]
        if members:
            failed = sum(check["result"] == "failed" for check in members)
            waived = sum(check["result"] == "waived" for check in members)
            counts = {"failed": failed, "waived": waived, "passed": len(members) - failed - waived}
            groups.append({"name": name, "checks": members, **counts})
    server = {
        "aet": "",
        "largest_object": 0,
        "dicom_port": None,
        "dicom_tls_port": None,
        **(report.get("server") or {}),
    }
    return _render(
        "report.html.j2",
        report={"clinic": "", "host": "", "hostname": "", "collection": "", **report},
        title=report.get("clinic") or report.get("host") or "A server without a name",
        verdict=verdicts.judge(report),
        time_of=_moment(report.get("time")),
        failed=[check for check in checks if check["result"] == "failed"],
        waived=[check for check in checks if check["result"] == "waived"],
        waivers=report.get("waivers") or {},
        versions={name: version for name, version in (report.get("versions") or {}).items() if version},
        certificates=[_certificate(each, limits_of(report)) for each in report.get("certificates") or []],
        disk=_disk(report),
        backup=_backup(report),
        alerts=None if report.get("alerts") is None else [_alert(alert) for alert in verdicts.alerts_of(report)],
        clock=report.get("clock"),
        groups=groups,
        server=server,
        devices=[_device(device, server) for device in report.get("devices") or []],
    )


def read_reports(texts: Mapping[str, str]) -> list[Report]:
    """The reports in the texts of files, by the host whose file it is.

    A file may come from a server that lies: it is only about its own host, and one that is not a report is replaced by
    a report without checks.
    """
    found = []
    for host, text in texts.items():
        try:
            report = {**json.loads(text), "host": host}
        except UNREADABLE:
            report = {"host": host, "clinic": host}
        found.append(report)
    return found


def overview(
    reports: list[Report],
    clinics: Iterable[str] = (),
    untested: Iterable[str] = (),
    now: datetime.datetime | None = None,
) -> str:
    """A page with a row for each report, worst first, that links to <host>.html.

    `clinics` are the hosts of the inventory: one without a report has a row too. `untested` are those that the newest
    run did not test, since it did not reach them, or failed before. `now` is the time of this machine: the others are
    not behind a server whose clock is ahead.
    """
    missing = set(untested)
    known = {str(report.get("host")) for report in reports}
    limit = (now or datetime.datetime.now(datetime.timezone.utc)) + datetime.timedelta(hours=AHEAD_HOURS)
    moments = [moment for report in reports if (moment := verdicts.parse_time(report.get("time")))]
    newest = max((moment for moment in moments if moment <= limit), default=None)
    span = Span(newest, limit)
    rows = [_row_of_any(report, span, str(report.get("host")) in missing) for report in reports]
    rows += [_row_without_report(host, host in missing) for host in dict.fromkeys(clinics) if host not in known]
    rows.sort(key=lambda row: row["order"])
    return _render(
        "overview.html.j2",
        rows=rows,
        said=_summary(rows),
        worst=max((row["state"] for row in rows), default=SOON, key=verdicts.weigh),
        newest=_moment(newest.isoformat()) if newest else None,
    )


def verdict(report: Report) -> str:
    """The report in one sentence."""
    return verdicts.judge(report).sentence


def _render(template: str, **values: Any) -> str:
    import jinja2  # what makes no page does not need it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("pages")),
        autoescape=True,
        finalize=lambda value: escape(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


# --- the parts of a report ------------------------------------------------------------------------
def _certificate(certificate: dict[str, Any], limits: Limits) -> dict[str, Any]:
    days = int(certificate["days"])
    state = verdicts.judge_falling(days, limits.certificate_days)
    until = _moment(certificate.get("not_after"))
    return {"name": certificate["name"], "said": verdicts.say_days_left(days), "until": until, "state": state}


def _disk(report: Report) -> dict[str, Any] | None:
    disk = report.get("disk")
    if not disk:
        return None
    total, free = float(disk["total_bytes"]), float(disk["free_bytes"])
    history = sorted((float(moment), float(used)) for moment, used in disk.get("history") or [])
    days = disk.get("days_until_full")
    now, before = verdicts.parse_time(report.get("time")), verdicts.measured_before(report)
    begin = history[-1][0] if history else now.timestamp() if now else None
    return {
        "path": disk["path"],
        "total": words.say_size(total),
        "used": words.say_size(total - free),
        "free": words.say_size(free),
        "used_percent": round(100 - verdicts.free_percent(disk)),
        "said": "full now" if days is not None and days <= 0 else f"full in {_days(days)}" if days is not None else "",
        "full": _day(begin + 86400 * days) if begin and days is not None else "",
        "note": disk.get("note") or ("" if days is not None else "not enough history yet"),
        "plot": _plot(history, total, days),
        # a monitor that has stopped does not notice that the disk fills
        "old": f"measured {verdicts.say_age(before / 3600)} before this report" if before > 60 * SILENT_MINUTES else "",
        "state": verdicts.state_of_disk(report),
    }


def _plot(history: list[tuple[float, float]], total: float, days: float | None) -> dict[str, Any] | None:
    """Lines in a box of 1000 by 1000, from the first measurement to the day on which the disk is full.

    A day in the distant future stays outside, so that the measurements keep a third of the width.
    """
    if len(history) < 2 or history[-1][0] <= history[0][0] or total <= 0:
        return None
    first, last, used = history[0][0], history[-1][0], history[-1][1]
    ahead = 86400 * days if days is not None and days > 0 else 0.0
    shown = min(ahead, 2 * (last - first))
    span = last - first + shown

    def point(moment: float, value: float) -> str:
        return f"{1000 * (moment - first) / span:.1f},{1000 - 1000 * min(value / total, 1):.1f}"

    step = math.ceil(len(history) / POINTS)
    picked = [*history[:-1:step], history[-1]]
    reached = used + (total - used) * (shown / ahead) if ahead else used
    line = " ".join(point(*each) for each in picked)
    return {
        "line": line,
        "area": f"0,1000 {line} {point(last, 0)}",
        "forecast": f"{point(last, used)} {point(last + shown, reached)}" if ahead else "",
        "now": point(last, used).partition(",")[0],
        "from": _day(first),
        "last": _day(last),
        "to": _day(last + shown),
        "beyond": shown < ahead,
    }


def _backup(report: Report) -> list[dict[str, Any]] | None:
    backup = report.get("backup")
    if not backup:
        return None
    check = backup.get("restore_check")
    known = {"last backup": (backup, _proven(backup)), "last restore check": (check, _describe_verified(check))}
    found = []
    for name, run in verdicts.runs_of(report).items():
        noted, more = known.get(name, (backup.get("ledger"), ""))
        last = verdicts.parse_time((noted or {}).get("last_success"))
        found.append(
            {
                **{"name": name.capitalize(), "said": run.said, "state": run.state, "more": more},
                **{"moment": _moment(last.isoformat()) if last else None, "result": _newest(noted)},
                "warnings": (backup.get("warnings") or []) if name == "last backup" else [],
                "age": run.said.removesuffix(" before this report"),
            }
        )
    return found


def _newest(run: dict[str, Any] | None) -> str:
    """The result of the newest run; empty before the first one."""
    result = str((run or {}).get("result") or "")
    return "" if result == "none yet" else result


def _proven(backup: dict[str, Any]) -> str:
    moment = _moment(backup.get("proven"))
    return f"newest proven snapshot: {moment['said']}" if moment else "no proven snapshot is known"


def _describe_verified(check: dict[str, Any] | None) -> str:
    """Which snapshot was test-restored last, on which day, and how much of it."""
    seen = (check or {}).get("verified")
    if not seen:
        return "no snapshot has been verified"
    day, moment = str(seen["day"]), _moment(seen["moment"])
    of_when = f" of {moment['said']}" if moment else ""
    counts = f"{seen['verified']} of {seen['of']} attachments"
    return f"verified {words.say_day(day)}: snapshot {seen['snapshot']}{of_when}, {counts}"


def _alert(alert: dict[str, Any]) -> dict[str, Any]:
    """An alert of the monitor, with its state in words."""
    state = verdicts.state_of_alert(alert)
    word = {BAD: "problem", SOON: "to check"}.get(state, "for information")
    return {**alert, "state": state, "word": word, "since": _moment(alert.get("since"))}


def _device(device: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
    may = list(device.get("may") or [])
    tls = bool(device.get("tls"))
    return {
        **device,
        "rights": may,
        "tls": tls,
        "server_port": server["dicom_tls_port"] if tls else server["dicom_port"],
        "server_address": device.get("server_address") or "",
        "server_problem": device.get("server_problem") or "",
        "may": [RIGHTS_IN_WORDS.get(right, right) for right in dict.fromkeys([*RIGHTS_IN_WORDS, *may]) if right in may],
        "may_not": [words for right, words in RIGHTS_IN_WORDS.items() if right not in may],
        "moves": "move" in may,
        "largest": words.say_size(server["largest_object"]) if server["largest_object"] and "store" in may else "",
    }


def _summary(rows: list[dict[str, Any]]) -> str:
    bad, soon = (sum(row["state"] == state for row in rows) for state in (BAD, SOON))
    if not rows:
        return "There is no report yet"
    if bad:
        more = f", {soon} more should be checked" if soon else ""
        return f"{bad} of {words.say_count(len(rows), 'clinic')} need action{more}"
    if soon:
        return f"{soon} of {words.say_count(len(rows), 'clinic')} should be checked"
    return f"Everything works in {'the one clinic' if len(rows) == 1 else f'all {len(rows)} clinics'}"


class Span(NamedTuple):
    """The time of the newest report, and the moment after which one is of a clock that is ahead."""

    newest: datetime.datetime | None
    limit: datetime.datetime


def _row_of_any(report: Report, span: Span, untested: bool) -> dict[str, Any]:
    """Its row, or that of a report without checks where no page can be made of it."""
    try:
        return _row(report, span, untested)
    except UNREADABLE:
        return _row({"host": report.get("host"), "clinic": report.get("host")}, span, untested)


def _judge_time(moment: datetime.datetime | None, span: Span) -> tuple[str, str]:
    """What is to be said of a report's time, and its state."""
    if not moment:
        return "not known", SOON
    if moment > span.limit:
        ahead = (moment - span.limit).total_seconds() / 3600 + AHEAD_HOURS
        return f"its clock is ahead by {verdicts.say_age(ahead)}", SOON
    behind = (span.newest - moment).total_seconds() / 3600 if span.newest else 0.0
    return (f"{verdicts.say_age(behind)} behind the newest", SOON) if behind > STALE_HOURS else ("", GOOD)


def _row(report: Report, span: Span, untested: bool) -> dict[str, Any]:
    checks = report.get("checks") or []
    failed = sum(verdicts.result_of(check) == "failed" for check in checks)
    certificates = [
        _certificate(each, limits_of(report)) | {"days": int(each["days"])} for each in report.get("certificates") or []
    ]
    certificate = min(certificates, key=lambda each: each["days"], default=None)
    disk = _disk(report)
    backup = _backup(report)
    judged = verdicts.judge(report)
    cells = {
        "certificate": (certificate["said"], certificate["state"]) if certificate else ("none", SOON),
        "disk": (disk["old"] or disk["said"] or f"{disk['free']} free", disk["state"])
        if disk
        else ("not measured", SOON),
        "backup": (backup[0]["age"], backup[0]["state"]) if backup else ("not deployed", SOON),
        "time": _judge_time(verdicts.parse_time(report.get("time")), span),
    }
    states = [state for _unused, state in cells.values()]
    put_back = f"; {report['put_back']}" if report.get("put_back") else ""
    said, judged_state = (
        (f"{UNTESTED}; before: {judged.sentence}", BAD) if untested else (f"{judged.sentence}{put_back}", judged.state)
    )
    state = max([judged_state, cells["time"][1]], key=verdicts.weigh)
    host, clinic = str(report.get("host") or ""), str(report.get("clinic") or report.get("host") or "")
    return {
        "clinic": clinic or "A server without a name",
        "hostname": _place(str(report.get("hostname") or ""), host),
        "link": f"{urllib.parse.quote(host, safe='')}.html" if host else "",
        "verdict": said,
        "judged": judged_state,
        "failed": failed,
        "checks": len(checks),
        "version": (report.get("versions") or {}).get("Orthanc") or "not known",
        "time": _moment(report.get("time")),
        "cells": cells,
        "state": state,
        "order": (-verdicts.weigh(state), -failed, -states.count(BAD), -states.count(SOON), clinic.casefold(), host),
    }


def _row_without_report(host: str, untested: bool) -> dict[str, Any]:
    """The row of a clinic that was never tested."""
    unknown = ("not known", GOOD)
    return {
        **{"clinic": host, "hostname": "", "link": "", "judged": BAD, "state": BAD, "failed": 0, "checks": 0},
        "verdict": f"{UNTESTED}; there is no report" if untested else "There is no report: it was never tested",
        **{"version": "not known", "time": None},
        "cells": {"certificate": unknown, "disk": unknown, "backup": unknown, "time": unknown},
        "order": (-verdicts.weigh(BAD), 0, 0, 0, host.casefold(), host),
    }


def _place(hostname: str, host: str) -> str:
    """Both names of a server if they differ: clinics may give their servers the same name."""
    return f"{hostname} ({host})" if hostname and host and host != hostname else hostname or host


# --- words --------------------------------------------------------------------------------------
def _days(days: float) -> str:
    if days < 1:
        return "less than a day"
    return f"{days / 365.25:.0f} years" if days > 5 * 365.25 else words.say_count(int(days), "day")


def _moment(text: Any) -> dict[str, str] | None:
    """A moment for <time> and as text, in UTC, since a page may be read in another time zone."""
    moment = verdicts.parse_time(text)
    if not moment:
        return None
    return {
        "iso": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "said": f"{words.say_moment(moment, datetime.timezone.utc)} UTC",
        "day": words.say_day(f"{moment:%Y%m%d}"),
    }


def _day(epoch: float) -> str:
    # a forecast may be beyond the year 9999, which Python cannot format
    day = datetime.datetime.fromtimestamp(min(epoch, 4e9), datetime.timezone.utc)
    return words.say_day(f"{day:%Y%m%d}") if epoch < 4e9 else ""
