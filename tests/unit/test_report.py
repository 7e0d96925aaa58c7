"""The acceptance report: what its pages say, and how a browser and a printer show them."""

from __future__ import annotations

import copy
import datetime
import html.parser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page
import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import report
from clinics_inventory import write_inventory
from server.verify import lines

ROOT = Path(__file__).resolve().parents[2]

DAY = 86400
TIME = 1795644000  # 2026-11-25T22:00:00Z
NASTY = "<script>alert('x')</script> & \"Müller\" 超音波 {{ 7*7 }}"


TRIED = {
    "C-ECHO as US1": "echoscu from the server's own address, calling AE title US1",
    "C-ECHO under an unknown AE title": "the same as INTRUDER",
    "the worklist as US1 holds the synthetic patient": "an item handed over, then C-FIND with its accession number",
    "WADO-RS gives the image back": "GET through the proxy as viewer, compared with the file that was sent",
    "viewer at /patients": "GET with the right password",
}


def check(name: str, group: str = "DICOM", **more: Any) -> dict[str, Any]:
    tried = TRIED.get(name, "")
    seen = {"expected": "accepted", "seen": "accepted", "passed": True, "waiver": "", "remedy": ""}
    return {"group": group, "name": name, "tried": tried, **seen, **more}


CHECKS = [
    check("C-ECHO as US1"),
    check("C-STORE of an ultrasound image as US1"),
    check("C-ECHO under an unknown AE title", expected="refused", seen="refused"),
    check("a called AE title that is not Orthanc's", expected="refused", seen="refused"),
    check("the worklist as US1 holds the synthetic patient", "Worklist", expected="1 item", seen="1 item"),
    check("WADO-RS gives the image back", "DICOMweb", expected="bit-identical", seen="bit-identical"),
    check("RetrieveURL begins with the server's name", "DICOMweb", expected="yes", seen="yes"),
    check("viewer at /patients", "Access", expected="403", seen="403"),
    check("HTTPS without a password", "Access", expected="401", seen="401"),
    check("port 4242 (dicom) from guest-wifi (192.0.2.40)", "Access", expected="closed", seen="closed"),
    check("the plugins are loaded", "Service", expected="dicom-web, worklists", seen="dicom-web, worklists"),
    check("the synthetic patient is gone again", "Safety", expected="yes", seen="yes"),
]
FAILED = [
    check(
        "us2 may query the worklist",
        "Worklist",
        tried="C-FIND of the modality worklist under the AE title US2",
        expected="1 item",
        seen="refused: AE title US2 is not known",
        passed=False,
        remedy="Write find_worklist into the device's list of rights, and deploy again.",
    ),
    check("RetrieveURL", "DICOMweb", expected="https://…", seen="http://localhost:8042/…", passed=False),
]
WAIVED = check(
    "port 443 (https) from guest-wifi (192.0.2.40)",
    "Access",
    expected="closed",
    seen="open at 198.51.100.10",
    waiver="a firewall of the clinic's stands in front",
)


def sample() -> dict[str, Any]:
    """A sound server, after three months of images."""
    used = [(TIME - DAY * (90 - day), 120e9 + day * 1.6e9 + (day % 7 > 4) * 0.7e9) for day in range(91)]
    devices = [("us1", "US1", 21, False), ("us2", "US2", 22, False), ("ct", "CT_SIEMENS", 23, True)]
    return {
        "clinic": "Praxis Dr. Müller & Söhne",
        "host": "pacs",
        "hostname": "pacs.clinic.example",
        "time": "2026-11-25T22:00:00Z",
        "passed": True,
        "collection": "1.0.0",
        "versions": {
            "Orthanc": "1.12.7",
            "DICOMweb": "1.20",
            "Worklists": "legacy",
            "System": "Debian 13",
            "Image": None,
        },
        "checks": [*copy.deepcopy(CHECKS), WAIVED],
        "waivers": {"no_firewall": "a firewall of the clinic's stands in front"},
        "certificates": [
            {"name": "proxy", "not_after": "2027-11-27T10:00:00Z", "days": 366},
            {"name": "ct (DICOM TLS)", "not_after": "2027-12-08T10:00:00Z", "days": 377},
        ],
        "disk": {
            "path": "/var/lib/orthanc/db",
            "total_bytes": 500_000_000_000,
            "free_bytes": 236_000_000_000,
            "history": [list(point) for point in used],
            "days_until_full": 147.5,
            "note": "",
        },
        "backup": {
            "result": "success",
            "last_success": "2026-11-25T01:12:00Z",
            "proven": "2026-11-25T01:10:00Z",
            "restore_check": {
                **{"result": "success", "last_success": "2026-11-22T03:00:00Z"},
                "verified": {
                    **{"snapshot": "1f2e3d4c", "day": "20261122", "moment": "2026-11-22T01:10:00Z"},
                    **{"verified": 130, "of": 1300},
                },
            },
            "ledger": {"result": "success", "last_success": "2026-11-25T21:50:00Z"},
        },
        "server": {"aet": "ORTHANC", "dicom_port": 4242, "dicom_tls_port": 2762},
        "devices": [
            {
                "name": name,
                "aet": aet,
                "host": f"198.51.100.{number}",
                "port": 104,
                "may": ["echo", "store", "find_worklist", *(["move"] if tls else ["storage_commitment"])],
                "tls": tls,
                **{"server_address": "198.51.100.10", "server_problem": ""},
            }
            for name, aet, number, tls in devices
        ],
    }


def broken() -> dict[str, Any]:
    """Checks failed, the disk is nearly full, and nothing is backed up."""
    history = [[moment, used * 479 / 264] for moment, used in sample()["disk"]["history"]]
    disk = {**sample()["disk"], "free_bytes": 21_000_000_000, "days_until_full": 9.2, "history": history}
    return sample() | {"passed": False, "checks": [*CHECKS, *FAILED, WAIVED], "disk": disk, "backup": None}


def bare() -> dict[str, Any]:
    """A server of which nearly nothing is known."""
    nothing: dict[str, Any] = {
        "disk": None,
        "backup": None,
        "certificates": [],
        "devices": [],
        "waivers": {},
        "versions": {},
        "checks": [],
    }
    return sample() | nothing | {"passed": False, "server": {"aet": "", "dicom_port": None}}


def huge() -> dict[str, Any]:
    checks = [check(f"check number {number} of many", report.GROUPS[number % 6]) for number in range(500)]
    return sample() | {"checks": checks, "waivers": {}}


class Text(html.parser.HTMLParser):
    """What a page says, and which elements say it."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(source.partition("</style>")[2])
        self.text = re.sub(r"\s+", " ", " ".join(self.said))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def text_of(value: dict[str, Any]) -> str:
    return Text(report.html(value)).text


# --- what it says -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("checks", "passed", "said"),
    [
        ([check("a"), check("b"), WAIVED], True, "Everything works: 2 checks passed, 1 waived"),
        ([check("a")], True, "Everything works: 1 check passed"),
        ([check("a"), *FAILED, WAIVED], False, "2 of 4 checks failed, 1 waived"),
        ([check("a"), *FAILED], True, "2 of 3 checks failed"),
        ([check("a")], False, "The test did not pass, though none of its 1 check failed"),
        ([], True, "Nothing was checked"),
    ],
)
def test_the_verdict(checks: list[dict[str, Any]], passed: bool, said: str) -> None:
    value = sample() | {"checks": checks, "passed": passed}
    assert report.verdict(value) == said
    source = report.html(value)
    assert f"<span>{said}</span></p>" in source
    assert ('class="verdict good"' in source) == said.startswith("Everything works")


def test_lines_name_the_remedy() -> None:
    said = lines.list_lines({"checks": [FAILED[0], check("a")], "waivers": {}})
    assert said[0].startswith("passed  a")
    assert said[1:4] == ["1 passed, 1 failed", "", "FAILED  us2 may query the worklist"]
    told = " ".join(" ".join(said[4:]).split())
    assert told.startswith("expected: 1 item; actual: refused")
    assert told.endswith(f" Remedy: {FAILED[0]['remedy']}")


def test_no_line_is_wider_than_a_terminal_leaves_and_no_failure_is_cut() -> None:
    wide = {"name": "name " * 30, "expected": "this " * 40, "seen": "that " * 40, "remedy": "do it " * 40}
    checks = [check("a") | wide, check("b") | wide | {"waiver": "r"}, check("c") | wide | {"passed": False}]
    said = lines.list_lines({"checks": checks, "waivers": {"rule": "reason " * 40}})
    assert max(map(len, said)) <= 90
    assert [line.split()[0] for line in said[:3]] == ["passed", "waived", "waived"]
    told = " ".join(" ".join(said[4:]).split())
    assert all(" ".join(text.split()) in told for text in wide.values())


def test_a_failed_check_comes_first_with_all_that_is_known() -> None:
    source = report.html(broken())
    said = Text(source).text
    first = said.index("What failed")
    assert first < said.index("Waivers in force") < said.index("Versions") < said.index("Certificates")
    for value in ("tried", "expected", "seen", "remedy"):
        assert first < said.index(FAILED[0][value]) < said.index("Waivers in force")
    assert "No remedy is known" in said
    assert re.findall(r"<details open>\s*<summary><h3>(\w+)", source) == ["Worklist", "DICOMweb"]
    assert "What failed" not in text_of(sample())


def test_groups_stand_in_their_order_and_an_unknown_one_last() -> None:
    value = sample() | {"checks": [check("z", "Weather"), check("y", ""), *reversed(CHECKS)]}
    heads = re.findall(r"<summary><h3>(\w+)", report.html(value))
    assert heads == [*report.GROUPS, "Weather", "Other"]


def test_what_is_there() -> None:
    said = text_of(sample())
    for value in (
        *(
            "Praxis Dr. Müller & Söhne",
            "pacs.clinic.example (pacs)",
            "25 Nov 2026 22:00 UTC",
            "clinicops.orthanc 1.0.0",
        ),
        *("no_firewall a firewall of the clinic's", "Orthanc 1.12.7", "DICOMweb 1.20", "System Debian 13"),
        *("366 days left", "valid until 27 Nov 2027", "377 days left"),
        *("236 GB free, full in 147 days", "264 GB of 500 GB used (53 %)", "forecast : full on 22 Apr 2027"),
        *("20 hours before this report", "3 days before this report", "succeeded 22 Nov 2026 03:00 UTC"),
        *("calling AE title US1 , called AE title ORTHANC", "calling AE title ORTHANC , called AE title US1"),
        *("store images (C-STORE)", "query the worklist (C-FIND MWL)", "request that studies be sent to it (C-MOVE)"),
    ):
        assert value.replace(" :", ":") in said.replace(" :", ":"), value
    assert "Image" not in said.partition("Versions")[2].partition("Certificates")[0]


def test_what_is_not_there_is_said() -> None:
    said = text_of(bare())
    for value in (
        *("Nothing was checked", "No checks were run", "None: the clinic waives no rule", "No certificate was checked"),
        *("Backup Not deployed", "Disk Not measured", "Not known", "No device is listed"),
    ):
        assert value in said, value
    assert text_of({"passed": False, "checks": []})
    assert "A server without a name" in text_of({})


def test_a_sheet_is_the_device_s_own() -> None:
    _head, sheet, _us2, ct = text_of(sample()).split("As of")
    assert "198.51.100.23" in ct
    assert "Port (TLS) 2762" in ct
    assert "ct.crt" in ct
    assert "retrieve studies with C-GET, not with C-MOVE" in ct
    assert "4242" not in ct
    assert "Port 4242" in sheet
    assert "2762" not in sheet
    assert "plain DICOM" in sheet
    may, refused = sheet.split("The device may not")
    assert "store images (C-STORE)" in may
    assert "C-MOVE" not in may
    assert "request that studies be sent to it (C-MOVE)" in refused.partition("TLS")[0]


def test_a_sheet_of_a_device_that_stores_says_how_large_an_object_may_be() -> None:
    value = sample()
    assert "Largest object" not in text_of(value)  # of a report of an older release, or not known
    value["server"]["largest_object"] = 1_310_000_000
    value["devices"][2]["may"] = ["echo"]
    _head, us1, us2, ct = (part.partition("The server (remote)")[2] for part in text_of(value).split("As of"))
    assert "Port 4242 Largest object 1.3 GB" in us1
    assert "Port 4242 Largest object 1.3 GB" in us2
    assert "Largest object" not in ct


def test_a_sheet_names_one_address_or_says_why_there_is_none() -> None:
    value = sample()
    value["devices"][1] |= {"server_address": "198.51.100.74"}
    value["devices"][2] |= {"server_address": "", "server_problem": "The server has no route to it"}
    _head, us1, us2, ct = (part.partition("The server (remote)")[2] for part in text_of(value).split("As of"))
    assert "Address 198.51.100.10 Port" in us1
    assert "Address 198.51.100.74 Port" in us2
    assert "Address none The server has no route to it Port" in ct
    # of a report of an older release
    del value["devices"][0]["server_address"], value["devices"][0]["server_problem"]
    assert "Address not known Port" in text_of(value)


@pytest.mark.parametrize(
    ("change", "said", "state"),
    [
        ({"days_until_full": None, "history": []}, "No forecast: not enough history yet", "good"),
        ({"days_until_full": None, "note": "it shrinks"}, "No forecast: it shrinks", "good"),
        ({"days_until_full": 0}, "full now", "bad"),
        ({"days_until_full": 0.4}, "full in less than a day, on", "bad"),
        ({"days_until_full": 1.5}, "full in 1 day", "bad"),
        ({"days_until_full": 25.0}, "full in 25 days", "soon"),
        ({"days_until_full": 9e6}, "full in 24641 years", "good"),
        ({"free_bytes": 20e9}, "20.0 GB free", "bad"),
        ({"total_bytes": 0, "free_bytes": 0}, "0 B free", "bad"),
    ],
)
def test_the_disk(change: dict[str, Any], said: str, state: str) -> None:
    source = report.html(sample() | {"disk": sample()["disk"] | change})
    assert said in Text(source).text
    assert f'<p class="figure"><svg class="icon {state}"' in source


def test_the_plot_holds_its_numbers() -> None:
    def points(name: str, source: str) -> list[list[float]]:
        found = re.search(rf'<polyline class="{name}" points="([^"]*)"', source)
        assert found, name
        return [[float(number) for number in point.split(",")] for point in found[1].split()]

    source = report.html(sample())
    used, ahead = points("used", source), points("ahead", source)
    assert len(used) == 91
    # 120 and then 264.7 of 500 GB; the forecast begins where the measurements end
    assert used[0] == [0, 760]
    assert used[-1] == ahead[0] == [378.9, 470.6]
    assert ahead[-1] == [1000, 0]
    # far away: the measurements keep a third of the width, and the line ends below the top
    far = report.html(sample() | {"disk": sample()["disk"] | {"days_until_full": 1800.0}})
    assert points("ahead", far) == [[333.3, 470.6], [1000, 423.5]]
    assert "outside the plot" in Text(far).text
    # a year of hours is drawn with a few hundred points
    hours = [[TIME - 3600 * (8760 - hour), 1e9 * (100 + hour / 100)] for hour in range(8761)]
    assert len(points("used", report.html(sample() | {"disk": sample()["disk"] | {"history": hours}}))) <= 241
    none = report.html(sample() | {"disk": sample()["disk"] | {"history": [[TIME, 1]], "days_until_full": None}})
    assert '<figure class="plot">' not in none


@pytest.mark.parametrize(
    ("change", "said", "state"),
    [
        ({}, "20 hours before this report", "good"),
        ({"last_success": "2026-11-24T16:00:00Z"}, "30 hours before this report", "soon"),
        ({"last_success": "2026-11-20T16:00:00Z"}, "5 days before this report", "bad"),
        ({"result": "failed"}, "failed; the last success was 20 hours before this report", "bad"),
        ({"result": "failed", "last_success": None}, "has not succeeded yet", "bad"),
        ({"result": None, "last_success": None}, "has not run yet", "bad"),
        ({"result": "none yet", "last_success": None, "planned": "2026-11-25T21:50:00Z"}, "first one is due", "soon"),
        ({"result": "running", "last_success": None, "planned": "2026-11-25T21:50:00Z"}, "is running", "soon"),
        (
            {"result": "none yet", "last_success": None, "planned": "2026-11-23T21:50:00Z"},
            "has not succeeded yet",
            "bad",
        ),
        (
            {"result": "running", "last_success": None, "planned": "2026-11-23T21:50:00Z"},
            "has not succeeded yet",
            "bad",
        ),
        ({"result": "failed", "last_success": None, "planned": "2026-11-25T21:50:00Z"}, "has not succeeded yet", "bad"),
    ],
)
def test_the_backup(change: dict[str, Any], said: str, state: str) -> None:
    source = report.html(sample() | {"backup": sample()["backup"] | change})
    assert said in Text(source).text
    assert f'<dt>Last backup</dt><dd><span class="state {state}">' in source


def test_what_is_proven_and_what_was_verified() -> None:
    text = Text(report.html(sample())).text
    assert "newest proven snapshot: 25 Nov 2026 01:10 UTC" in text
    seen = "verified 22 Nov 2026: snapshot 1f2e3d4c of 22 Nov 2026 01:10 UTC, 130 of 1300 attachments"
    assert seen in text
    assert "Last ledger" in text
    old = {"result": "success", "last_success": "2026-11-25T01:12:00Z", "restore_check": None}
    text = Text(report.html(sample() | {"backup": old})).text
    assert "no snapshot has been verified" in text
    assert "no proven snapshot is known" in text
    assert "Last ledger" not in text


@pytest.mark.parametrize(
    ("days", "said", "state"),
    [
        (366, "366 days left", "good"),
        (10, "10 days left", "soon"),
        (1, "1 day left", "soon"),
        (-3, "expired 3 days ago", "bad"),
    ],
)
def test_certificates(days: int, said: str, state: str) -> None:
    source = report.html(sample() | {"certificates": [{"name": "proxy", "not_after": "2027-01-01", "days": days}]})
    assert said in Text(source).text
    assert (
        f'<span class="state {state}"><svg class="icon {state}" aria-hidden="true"><use href="#{state}"/></svg> {said}'
        in source
    )


@pytest.mark.parametrize(
    ("measured", "said", "state"),
    [
        ("2026-11-25T21:59:00Z", "", "good"),
        ("2026-11-15T22:00:00Z", "measured 10 days before this report", "soon"),
    ],
)
def test_a_disk_that_nobody_measures_any_more_is_told(measured: str, said: str, state: str) -> None:
    old = sample() | {"disk": {**sample()["disk"], "time": measured}}
    assert said in Text(report.html(old)).text
    disk = report._disk(old)
    assert disk
    assert (disk["old"], disk["state"]) == (said, state)
    assert (said in Text(report.overview([old])).text) is True


def test_the_documented_limits_are_the_real_ones() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "report.md").read_text()
    limits = report.limits_of({})
    (days, none), disk, free = limits.certificate_days, limits.disk_days, limits.free_percent
    backup, restore = limits.backup_hours, [hours // 24 for hours in limits.restore_check_hours]
    ledger = limits.ledger_hours
    assert none == 0
    for row in (
        f"| certificate | {days} days or more | less than {days} | expired |",
        f"| disk, days until full | {disk[0]} or more | less than {disk[0]} | less than {disk[1]} |",
        f"| disk, free | {free[0]} % or more | less than {free[0]} % | less than {free[1]} % |",
        f"| last backup | up to {backup[0]} hours old | older | older than {backup[1]} hours,",
        f"| last restore check | up to {restore[0]} days old | older | older than {restore[1]} days,",
        f"| last ledger | up to {ledger[0]} hours old | older | older than {ledger[1]} hours,",
        f"more than {report.STALE_HOURS} hours older than the newest",
    ):
        assert row in text, row


# --- reports that servers send ------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", '{"checks": 5}', '{"checks": [1]}', '{"disk": {"total_bytes": NaN, "free_bytes": 1}}',
     '{"certificates": [{"name": "proxy"}]}', '{"backup": []}' * 2, "[" * 5000],
)  # fmt: skip
def test_a_file_that_is_no_report_spoils_no_other_row(text: str) -> None:
    texts = {"harbour": json.dumps({**sample(), "host": "harbour", "clinic": "Harbour"}), "mill": text}
    page = Text(report.overview(report.read_reports(texts))).text
    assert "Harbour" in page
    assert "mill" in page
    assert "Nothing was checked" in page


def at(host: str, moment: str) -> dict[str, Any]:
    return {**sample(), "host": host, "clinic": host.capitalize(), "time": moment}


def test_only_the_clinic_whose_clock_is_ahead_is_marked() -> None:
    """A year ahead; three others of the night, of which one has stopped, are compared with each other."""
    reports = [
        at("harbour", "2026-11-25T22:00:00Z"),
        at("meadow", "2026-11-25T22:40:00Z"),
        at("mill", "2027-11-25T22:00:00Z"),
        at("quay", "2026-11-20T22:00:00Z"),
    ]
    now = datetime.datetime(2026, 11, 25, 22, 0, tzinfo=datetime.timezone.utc)
    source = report.overview(reports, now=now)
    names = ("harbour", "meadow", "mill", "quay")
    rows = {name: source.partition(f'href="{name}.html"')[2].partition("</tr>")[0] for name in names}
    marked = {name for name, row in rows.items() if 'class="soon"' in row.partition("Report</span>")[2]}
    assert marked == {"mill", "quay"}
    assert "its clock is ahead by 365 days" in rows["mill"]
    assert "5 days behind the newest" in rows["quay"]
    assert "Newest report 25 Nov 2026 22:40 UTC" in Text(source).text


def test_where_every_clock_is_ahead_none_is_behind() -> None:
    now = datetime.datetime(2026, 11, 25, 12, 0, tzinfo=datetime.timezone.utc)
    source = report.overview([at("mill", "2026-11-25T22:00:00Z"), at("quay", "2026-11-01T22:00:00Z")], now=now)
    assert source.count("its clock is ahead by 10 hours") == 1
    assert "behind" not in source


def test_each_row_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    judge = report.verdicts.judge

    def note(value: dict[str, Any]) -> Any:
        made.append(value["host"])
        return judge(value)

    monkeypatch.setattr(report.verdicts, "judge", note)
    texts = {name: json.dumps(at(name, "2026-11-25T22:00:00Z")) for name in ("harbour", "mill")}
    report.overview(report.read_reports(texts))
    assert made == ["harbour", "mill"]


@pytest.mark.parametrize("said", ["put back", "not put back: this was its first deploy"])
def test_a_clinic_that_was_put_back_says_so(said: str) -> None:
    failed = {**broken(), "put_back": said}
    count = report.verdict(failed)
    assert f"{count}; {said}" in Text(report.overview([failed])).text
    assert f"after the deploy: {said}" in Text(report.html(failed)).text


def test_a_server_reports_about_itself_alone() -> None:
    texts = {"mill": json.dumps({**sample(), "host": "harbour"})}
    assert [one["host"] for one in report.read_reports(texts)] == ["mill"]


# --- escaping -----------------------------------------------------------------------------------
def poisoned(value: Any) -> Any:
    """The same report with a nasty text in place of every text that a person writes."""
    if isinstance(value, dict):
        keys = ("result", "last_success", "time", "not_after", "may")
        return {key: each if key in keys else poisoned(each) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return NASTY if isinstance(value, str) else value


def test_no_text_becomes_markup() -> None:
    value = broken()
    nasty = poisoned(value) | {"waivers": {NASTY: NASTY}, "versions": {NASTY: NASTY}}
    clean, source = Text(report.html(value)), Text(report.html(nasty))
    assert {*source.tags} <= {*clean.tags}
    assert "script" not in source.tags
    assert {name for name, _ in source.attributes} <= {name for name, _ in clean.attributes}
    assert source.text.count(NASTY) > 60
    over = Text(report.overview([nasty]))
    assert "script" not in over.tags
    assert over.text.count(NASTY) >= 2
    (link,) = (target for name, target in over.attributes if name == "href" and target and target.endswith(".html"))
    assert re.fullmatch(r"[\w%.~-]+\.html", link)


def test_a_page_is_one_file() -> None:
    for source in (report.html(sample()), report.overview([sample()])):
        assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", source)
        assert "<script" not in source
        assert "<link" not in source
        assert "@import" not in source
        assert source.isascii() or '<meta charset="utf-8">' in source


def test_it_runs_on_a_server_without_ansible(tmp_path: Path) -> None:
    """As it is copied there: the package of the server, and neither Ansible nor the collection."""
    shutil.copytree(Path(report.__file__).parents[1], tmp_path / "server")
    (tmp_path / "report.json").write_text(json.dumps(sample()))
    program = (
        "import json, sys; sys.modules.update({'ansible': None, 'ansible_collections': None}); "
        f"sys.path.insert(0, {str(tmp_path)!r}); from server.verify import report; "
        f"sys.stdout.buffer.write(report.html(json.load(open({str(tmp_path / 'report.json')!r}))).encode())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=tmp_path)
    assert done.stdout.decode() == report.html(sample())


# --- many clinics ---------------------------------------------------------------------------------
def clinics() -> list[dict[str, Any]]:
    checked = {"result": "success", "last_success": "2026-11-15T03:00:00Z"}
    backup = {"result": "success", "last_success": "2026-11-20T01:12:00Z", "restore_check": checked}
    stale = sample() | {"clinic": "Ostpark", "host": "ostpark", "time": "2026-11-20T22:00:00Z", "backup": backup}
    soon = [{"name": "proxy", "not_after": "2026-12-01T00:00:00Z", "days": 5}]
    good = [{"name": "proxy", "not_after": "2027-12-01T00:00:00Z", "days": 370}]
    return [
        sample()
        | {"clinic": "Zahnarzt am Markt", "host": "markt", "hostname": "pacs.markt.example", "certificates": good},
        sample() | {"clinic": "Südstadt", "host": "suedstadt", "certificates": soon},
        broken() | {"clinic": "Hafen", "host": "hafen/1", "certificates": good},
        bare() | {"clinic": "新宿クリニック", "host": "shinjuku"},
        stale | {"certificates": good},
        broken() | {"clinic": "Altstadt", "host": "altstadt", "checks": [*CHECKS, FAILED[0]], "certificates": good},
    ]


def test_the_overview_is_sorted_worst_first_and_links() -> None:
    source = report.overview(clinics())
    links = re.findall(r'<th scope="row" role="rowheader"><a href="([^"]*)">([^<]*)</a>', source)
    assert links == [
        ("hafen%2F1.html", "Hafen"),
        ("altstadt.html", "Altstadt"),
        ("shinjuku.html", "新宿クリニック"),
        ("ostpark.html", "Ostpark"),
        ("suedstadt.html", "Südstadt"),
        ("markt.html", "Zahnarzt am Markt"),
    ]
    said = Text(source).text
    assert "3 of 6 clinics need action, 2 more should be checked" in said
    rows = said.partition("Report Hafen")[2].partition("Altstadt")[0]
    for value in (
        "2 of 15 checks failed, 1 waived",
        "Failed 2",
        "1.12.7",
        "370 days left",
        "full in 9 days",
        "not deployed",
    ):
        assert value in rows, value
    assert "Backup 20 hours Report 25 Nov 2026 22:00 UTC" in said.partition("Markt")[2] or "20 hours" in said
    assert "5 days behind the newest" in said
    assert "5 days left" in said


@pytest.mark.parametrize(
    ("reports", "said"),
    [
        ([], "There is no report yet"),
        ([clinics()[0]], "Everything works in the one clinic"),
        ([clinics()[0]] * 3, "Everything works in all 3 clinics"),
        ([clinics()[0], clinics()[1]], "1 of 2 clinics should be checked"),
    ],
)
def test_the_overview_in_one_sentence(reports: list[dict[str, Any]], said: str) -> None:
    assert said in Text(report.overview(reports)).text


def test_the_overview_has_a_row_for_every_clinic_of_the_inventory() -> None:
    """Also for one that was never tested, and for one that this run did not reach though it was well before."""
    good, soon = clinics()[0], clinics()[1]
    inventory = ["suedstadt", "new", "markt", "far"]
    source = report.overview([good, soon], inventory, untested=["markt", "far"])
    rows = re.findall(r'<th scope="row" role="rowheader">(?:<a href="([^"]*)">)?([^<]*)', source)
    assert rows == [("", "far"), ("", "new"), ("markt.html", "Zahnarzt am Markt"), ("suedstadt.html", "Südstadt")]
    said = Text(source).text
    assert "3 of 4 clinics need action, 1 more should be checked" in said
    far, new, markt = (said.partition(f"Report {name}")[2] or said for name in ("far", "new", "Zahnarzt"))
    assert "Not tested: not reached, or failed before the test; there is no report" in far
    assert "There is no report: it was never tested" in new
    assert "Not tested: not reached, or failed before the test; before: Everything works" in markt
    assert "Not tested" not in Text(report.overview([good, soon], inventory)).text
    # what was tested now is said of the clinic that was found, whether the inventory has it or not
    assert "Everything works in the one clinic" in Text(report.overview([good])).text


# --- in a browser and on paper --------------------------------------------------------------------
@pytest.fixture(scope="module")
def chromium() -> Iterator[page.Browser]:
    with page.browser() as one:
        yield one


def written(path: Path, source: str) -> Path:
    path.write_text(source, encoding="utf-8")
    return path


SHOWN = [
    *("Praxis Dr. Müller & Söhne", "Everything works: 12 checks passed, 1 waived", "no_firewall", "1.12.7"),
    *("366 days left", "full in 147 days", "20 hours before this report", "query the worklist (C-FIND MWL)"),
    *("request storage commitment (N-ACTION)", "It sends its report (N-EVENT-REPORT)"),
    *(each["name"] for each in CHECKS),
]


def test_a_report_in_a_browser_and_on_paper(chromium: page.Browser, tmp_path: Path) -> None:
    file = written(tmp_path / "pacs.html", report.html(sample()))
    assert page.problems(chromium, file, SHOWN, ["us1", "us2", "ct"]) == []


def test_a_failed_report_in_a_browser_and_on_paper(chromium: page.Browser, tmp_path: Path) -> None:
    file = written(tmp_path / "pacs.html", report.html(broken()))
    shown = [
        "2 of 15 checks failed, 1 waived",
        FAILED[0]["remedy"],
        FAILED[0]["tried"],
        "Not deployed",
        "full in 9 days",
    ]
    assert page.problems(chromium, file, shown, ["us1", "us2", "ct"]) == []


def test_a_bare_and_a_nasty_report_in_a_browser(chromium: page.Browser, tmp_path: Path) -> None:
    file = written(tmp_path / "bare.html", report.html(bare()))
    assert page.problems(chromium, file, ["Nothing was checked", "Not deployed"], []) == []
    # printed small, the sheets would have room on one page
    written(file, report.html(sample()).replace("</style>", "main { zoom: .4 }</style>"))
    assert page.paper_problems(chromium, file, ["US1"], ["us1", "us2", "ct"]) == []
    long = poisoned(broken()) | {"clinic": "W" * 200, "waivers": {"w" * 200: "x" * 400}}
    assert page.problems(chromium, written(tmp_path / "nasty.html", report.html(long)), [NASTY, "W" * 200]) == []


def test_a_huge_report_in_a_browser_and_on_paper(chromium: page.Browser, tmp_path: Path) -> None:
    source = report.html(huge())
    assert len(source) < 600_000
    shown = ["Everything works: 500 checks passed", *(f"check number {number} of many" for number in range(500))]
    file = written(tmp_path / "huge.html", source)
    assert page.problems(chromium, file, shown, ["us1", "us2", "ct"], widths=(320,)) == []


def test_the_overview_in_a_browser_and_on_paper(chromium: page.Browser, tmp_path: Path) -> None:
    file = written(tmp_path / "index.html", report.overview(clinics(), ["never"], ["markt"]))
    shown = [
        "5 of 7 clinics need action, 2 more should be checked",
        "There is no report: it was never tested",
        "新宿クリニック",
        "370 days left",
        "5 days behind the newest",
    ]
    assert page.problems(chromium, file, shown) == []


# what `page.problems` must see: a test that finds nothing on the pages above could be blind
ON_SCREEN = {
    "<p style='width: 2000px'>wide</p>": "px wide",
    "<p style='color: #999'>pale</p>": "contrast 2.",
    "<p style='opacity: .3'>faint</p>": "<p> faint",
    "<p style='font-size: 9px'>small</p>": "text of 9px",
    "<p class='card' style='width: 5em; white-space: nowrap'>it goes over its edge</p>": "over the edge",
    "<h6>too deep</h6>": "a heading of level 6 after one of level 4",
    "<h1>another</h1>": "not one <h1>",
    "<table><caption>a</caption><thead><tr><th>b</th></tr></thead></table>": "a table header without scope",
    "<table><tr><td>c</td></tr></table>": "a table without caption or head",
    "<section>unnamed</section>": "a section without a name",
    "<svg><path/></svg>": "a picture without a name",
    "<script>console.error('no')</script>": "console: error",
    "<script>nothing.here()</script>": "exception: ",
    "<img alt='' src='http://192.0.2.1/logo.png'>": "asks for http://192.0.2.1/logo.png",
    "<a href='#nowhere'>there</a>": "a link to nowhere",
    "<p id='content'>twice</p>": "the id content twice",
    "<style>body { background: #fff !important }</style>": "the themes do not differ",
}
ON_PAPER = {
    "@page { size: letter }": "not A4",
    "@media print { .sheet { break-before: auto; break-inside: auto } }": "not one page for each",
    "@media print { .sheet { min-height: 400mm } }": "a sheet goes on over its page",
    "@media print { h2 { color: #aaa } }": "contrast 2.",
    "details::details-content { display: none !important }": "does not show 'C-ECHO as US1'",
}


def test_the_browser_test_is_not_blind(chromium: page.Browser, tmp_path: Path) -> None:
    source = report.html(sample())
    at = source.rindex("</section>\n</section>\n</main>")
    file = written(tmp_path / "faults.html", source[:at] + "".join(ON_SCREEN) + source[at:])
    found = page.problems(chromium, file, ["not there"])
    assert [said for said in ON_SCREEN.values() if not any(said in problem for problem in found)] == []
    for theme in ("light", "dark"):
        for width in (320, 768, 1280):
            assert f"{width} px, {theme}: does not show 'not there'" in found
    for fault, said in ON_PAPER.items():
        file = written(tmp_path / "fault.html", source.replace("</style>", f"{fault}</style>"))
        found = page.paper_problems(chromium, file, SHOWN, ["us1", "us2", "ct"])
        assert any(said in problem for problem in found), fault


# --- the playbook overview ----------------------------------------------------------------------
def test_the_overview_of_what_servers_sent_needs_neither_a_machine_nor_the_vault(tmp_path: Path) -> None:
    write_inventory(tmp_path / "inventory", 3, {}, {})
    sealed = "$ANSIBLE_VAULT;1.1;AES256\n3330\n"
    for vault in (tmp_path / "inventory").glob("host_vars/*/vault.yml"):
        vault.write_text(sealed)
    sent = tmp_path / "sent"
    sent.mkdir()
    (sent / "clinic-000.json").write_text(json.dumps({**sample(), "host": "clinic-000", "clinic": "Harbour"}))
    (sent / "clinic-001.json").write_text("<html>no report</html>")
    done = subprocess.run(
        ["ansible-playbook", "-i", str(tmp_path / "inventory"), "clinicops.orthanc.overview",
         "-e", f"orthanc_verify_report_directory={sent}"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    said = Text((sent / "index.html").read_text()).text
    assert "Harbour" in said
    assert "Nothing was checked" in said
    assert "There is no report: it was never tested" in said
