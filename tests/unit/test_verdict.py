"""One verdict for the report, the overview and the end of a deploy, as bad as the worst that the report holds."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core import clock, verdict
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import report

TIME, PLANNED = "2026-11-28T21:00:00Z", "2026-11-28T20:50:00Z"
DUE = {"result": "none yet", "last_success": None, "planned": PLANNED}
CHECK = {"group": "DICOM", "name": "C-ECHO", "tried": "", "expected": "accepted", "seen": "accepted"}
PASSED = {**CHECK, "passed": True, "waiver": "", "remedy": ""}
FAILED = {**PASSED, "seen": "refused", "passed": False, "remedy": "deploy again"}
GIB = 1 << 30


def first_day(**more: Any) -> dict[str, Any]:
    """A server that was deployed ten minutes ago, its first backup made; restore check and ledger are to come."""
    done = {"result": "success", "last_success": "2026-11-28T20:59:00Z", "planned": PLANNED}
    disk = {"path": "/var/lib/orthanc/db", "total_bytes": 100 * GIB, "free_bytes": 90 * GIB, "history": []}
    return {
        **{"clinic": "Praxis", "host": "pacs", "hostname": "pacs.clinic.example", "time": TIME, "passed": True},
        **{"versions": {"Orthanc": "1.12.7"}, "checks": [PASSED] * 81, "waivers": {}},
        "certificates": [{"name": "proxy", "not_after": "2027-11-28T20:50:00Z", "days": 365}],
        "disk": {**disk, "days_until_full": None, "note": "not enough history yet: 0 of 3 days", "time": TIME},
        "backup": {**done, "proven": "2026-11-28T20:59:00Z", "restore_check": {**DUE, "verified": None}, "ledger": DUE},
        **{"alerts": [], "clock": {"synchronised": True, "said": ""}, "devices": [], "limits": {}},
        **more,
    }


def alert(severity: str, **more: Any) -> dict[str, Any]:
    told = {"object": "", "severity": severity, "standing": severity == "info", "since": TIME, "remedy": "look"}
    return {"name": "Some", "text": "Something is wrong", **told, **more}


def backed(**more: Any) -> dict[str, Any]:
    found: dict[str, Any] = first_day()["backup"]
    return found | {"proven": None, **more}


CVES = alert("info", name="KnownVulnerabilities", text="Known vulnerabilities (CVE-2025-0896)")
CASES = [
    ({}, "good", "Everything works: 81 checks passed"),
    ({"backup": backed(**DUE)}, "soon", "81 checks passed; look at: last backup: the first one is due"),
    (
        {"backup": backed(**DUE | {"result": "running"})},
        "soon",
        "81 checks passed; look at: last backup: the first one is running",
    ),
    (
        {"backup": backed(**DUE | {"result": "failed"})},
        "bad",
        "81 checks passed; act on: last backup: has not succeeded yet",
    ),
    (
        {"backup": None},
        "soon",
        "81 checks passed; look at: no backup is set up: the images exist only on this server",
    ),
    (
        {"backup": backed(warnings=["The only repository is on the images' disk. Remedy: set another."])},
        "soon",
        "81 checks passed; look at: the only repository is on the images' disk",
    ),
    # what nobody can change is told and listed, and changes nothing
    ({"alerts": [CVES]}, "good", "Everything works: 81 checks passed"),
    ({"alerts": [alert("warning")]}, "soon", "81 checks passed; look at: something is wrong"),
    (
        {"alerts": [alert("warning"), alert("critical")]},
        "bad",
        "81 checks passed; act on: something is wrong; and 1 more",
    ),
    ({"alerts": [alert("warning", standing=True)]}, "good", "Everything works: 81 checks passed"),
    # the report knows better than a look of a minute ago
    ({"alerts": [alert("critical", name="BackupOld")]}, "good", "Everything works: 81 checks passed"),
    # but not of an alert that nobody thought of here
    ({"alerts": [alert("warning", name="BackupSlow")]}, "soon", "81 checks passed; look at: something is wrong"),
    ({"alerts": [alert("critical", name="AcceptanceFailed")]}, "good", "Everything works: 81 checks passed"),
    # but not of another disk, nor of another certificate
    (
        {"alerts": [alert("critical", name="DiskAlmostFull", object="log")]},
        "bad",
        "81 checks passed; act on: something is wrong",
    ),
    (
        {"alerts": [alert("critical", name="CertificateExpires", object="dicom_tls")]},
        "bad",
        "81 checks passed; act on: something is wrong",
    ),
    (
        {"clock": {"synchronised": False, "said": "no time service runs"}},
        "soon",
        "81 checks passed; look at: the clock is not synchronised",
    ),
    ({"disk": None}, "soon", "81 checks passed; look at: no monitor is deployed"),
    (
        {"certificates": [{"name": "proxy", "not_after": "2026-12-03", "days": 5}]},
        "soon",
        "81 checks passed; look at: certificate proxy: 5 days left",
    ),
    ({"checks": [PASSED, FAILED], "passed": False}, "bad", "1 of 2 checks failed"),
    ({"checks": []}, "bad", "Nothing was checked"),
]


@pytest.mark.parametrize(("change", "state", "sentence"), CASES)
def test_the_pages_say_what_the_verdict_says(change: dict[str, Any], state: str, sentence: str) -> None:
    value = first_day(**change)
    judged = verdict.judge(value)
    assert (judged.state, judged.sentence) == (state, sentence)
    page, over = report.html(value), report.overview([value])
    assert f'<p class="verdict {state}">' in page
    assert f'<p class="verdict {state}">' in over
    assert sentence.replace("'", "&#39;") in page
    assert sentence.replace("'", "&#39;") in over
    # no sign of either page is worse than its verdict
    worst = ("good", "soon", "bad")[: ("good", "soon", "bad").index(state) + 1]
    shown = {*re.findall(r'class="(?:icon|state|verdict) (good|soon|bad)"', page + over)}
    assert shown <= {*worst}
    assert ("Everything works" in page + over) == (state == "good")


def test_what_is_to_come_has_no_colour() -> None:
    page = report.html(first_day(alerts=[CVES]))
    assert page.count("the first one is due") == 2
    assert '<dt>Last restore check</dt><dd><span class="state none">' in page
    assert "for information" in page
    assert "CVE-2025-0896" in page


def test_several_reasons_are_listed_worst_first() -> None:
    value = first_day(backup=None, alerts=[alert("critical")])
    assert [one.state for one in verdict.judge(value).reasons] == ["bad", "soon"]
    page = report.html(value)
    assert page.index("something is wrong</span></li>") < page.index("exist only on this server</span></li>")


# --- the clock ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "said", "synchronised", "offset"),
    [
        (0, "C0000201,192.0.2.1,3,1.0,0.25,0,0,0,0,0,0,0,0,Normal", True, 0.25),
        (0, "C0000201,192.0.2.1,3,1.0,-7.5,0,0,0,0,0,0,0,0,Normal", False, -7.5),
        (0, "00000000,,0,0.0,0.0,0,0,0,0,0,0,0,0,Not synchronised", False, None),
        (1, "506 Cannot talk to daemon", False, None),
    ],
)
def test_what_chrony_says(status: int, said: str, synchronised: bool, offset: float | None) -> None:
    assert clock.parse_tracking(status, said) == (synchronised, offset)


@pytest.mark.parametrize(
    ("synchronised", "keeper", "container", "said"),
    [
        (True, "", True, ""),
        (False, "systemd-timesyncd", True, "systemd-timesyncd runs but has not reached a time server"),
        (False, "", True, "this machine is a container, and its host's clock is not synchronised"),
        (False, "", False, "no time service runs"),
    ],
)
def test_why_a_clock_is_not_synchronised(synchronised: bool, keeper: str, container: bool, said: str) -> None:
    assert clock.describe(synchronised, keeper, container) == said
