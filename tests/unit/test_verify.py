"""What orthanc-verify makes of what tools, logs and state files say. With real machines: the scenario `verify`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.dicom import scu, web
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import (
    acceptance,
    doctor,
    exposure,
    sending,
)
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import cli as verify

ROOT = Path(__file__).resolve().parents[2]
US1 = {"name": "us1", "aet": "US1", "host": "198.51.100.21", "port": 104, "may": ["echo", "store"], "tls": False}
OWN = ["127.0.0.1", "198.51.100.10", "172.18.0.1"]
SETTINGS: dict[str, Any] = {
    **{"clinic": "Clinic", "host": "pacs", "hostname": "pacs.clinic.example", "ca_file": "/etc/ssl/certs/ca.crt"},
    **{"aet": "ORTHANC", "calling_aet": "ACCEPTANCE_TEST", "dicom_port": 4242, "dicom_tls_port": 2762, "http_port": 1},
    "https_port": 443,
    "users": [{"name": "it", "role": "admin", "password": "hidden-password"}],
    "devices": [US1, {**US1, "name": "us2", "aet": "US2"}],
    **{"certificates": {"device": {"us2": "/etc/nginx/orthanc/device-us2"}}, "storage": "/var/lib/orthanc/db"},
    **{"worklist_served": "/var/lib/orthanc/worklists", "worklist_drop": "/srv/worklists/incoming"},
    **{"waivers": {}, "ports": [], "backup": True, "monitor": False, "collection": "1.0.0"},
    "largest_object": 1_310_000_000,
}

# as the role writes them, with `echo -n it:hidden-password | sha256sum`
USERS = {
    "users": {"it": "admin"},
    "password_digests": {"it": "755e50ef3dc55dccf033430d8279176904aeeaaa20abf78a0c3b366edcbe63fc"},
}


# --- DCMTK ----------------------------------------------------------------------------------------
# as echoscu, storescu and findscu of DCMTK 3.6.9 said it to Orthanc 1.13.0
SAID = {
    "accepted": "I: Association Accepted (Max Send PDV: 16372)\nI: Received Echo Response (Success)\n",
    "rejected: Calling AE Title Not Recognized": (
        "I: Requesting Association\nF: Association Rejected:\nF: Result: Rejected Permanent, Source: Service User\n"
        "F: Reason: Calling AE Title Not Recognized\n"
    ),
    # echoscu's exit code is 0
    "aborted: the peer ended the association": (
        "I: Association Accepted (Max Send PDV: 16372)\nI: Sending Echo Request (MsgID 1)\n"
        "E: Echo Failed: 0006:0317 Peer aborted Association (or never connected)\nI: Peer Aborted Association\n"
    ),
    "rejected: No Acceptable Presentation Contexts": "E: No Acceptable Presentation Contexts\n",
    "failed: status A700 (Refused: OutOfResources)": "I: Received Store Response (Refused: OutOfResources)\n",
    "unreachable: Connection refused": (
        "F: Association Request Failed: 0006:031c TCP Initialization Error: Connection refused\n"
    ),
    # Orthanc 1.13.0 that may not look into its storage directory
    "failed: no answer in time": (
        "I: Sending Store Request (MsgID 1, US)\nE: Store Failed, file: a.dcm:\n"
        "E: 0006:0207 DIMSE No data available (timeout in non-blocking mode)\nI: Aborting Association\n"
    ),
    "failed: the tool said nothing": "",
}


@pytest.mark.parametrize("outcome", SAID)
def test_the_answer_is_what_the_peer_said(outcome: str) -> None:
    assert str(scu.parse_answer(SAID[outcome])) == outcome


def test_a_find_with_answers_is_judged_by_its_final_one() -> None:
    pending = "I: Find Response: 1 (Pending)\nI: # Dicom-Data-Set\n"
    assert scu.parse_answer(f"{pending}I: Received Final Find Response (Success)\n").outcome == "accepted"
    failed = scu.parse_answer(f"{pending}I: Received Final Find Response (Failed: UnableToProcess)\n")
    assert str(failed) == "failed: status Failed: UnableToProcess"


# --- the doctor -----------------------------------------------------------------------------------
# Orthanc 1.13.0's own lines, the addresses apart
UNKNOWN = """\
W1125 22:49:40.138979     DICOM-SERVER OrthancConfiguration.cpp:1050] Modality "US9" is not listed in the \
"DicomModalities" configuration option
W1125 22:49:40.139031     DICOM-SERVER CommandDispatcher.cpp:634] Rejected association for remote AET US9 on IP \
198.51.100.21
"""
CALLED = """\
W1125 22:49:41.247185     DICOM-SERVER CommandDispatcher.cpp:619] Rejected association, because of a bad called \
AET in the request (WRONG)
"""
ELSEWHERE = """\
W1125 22:49:42.358859     DICOM-SERVER OrthancConfiguration.cpp:1061] Forbidding access from AET "US1" given its \
hostname (198.51.100.22) does not match the "DicomModalities" configuration option (198.51.100.21 was expected)
W1125 22:49:42.358910     DICOM-SERVER CommandDispatcher.cpp:634] Rejected association for remote AET US1 on IP \
198.51.100.22
"""
INVALID = """\
E1128 17:40:41.553896     DICOM-SERVER CommandDispatcher.cpp:333] Association Received from an invalid AET \
(sanitized: ) on IP 198.51.100.21, rejecting the association
"""
RIGHT = """\
W1125 22:49:43.513212          DICOM-3 main.cpp:365] DICOM authorization rejected for AET US1 on IP 198.51.100.21: \
The DICOM command Find is not allowed for this modality according to configuration option "DicomModalities"
W1125 22:49:43.513472          DICOM-3 CommandDispatcher.cpp:845] Rejected Find request from remote DICOM modality \
with AET "US1" and hostname "198.51.100.21"
"""
# and 1.10.1's
OLDER = """\
W1125 23:32:41.449776 main.cpp:340] DICOM authorization rejected for AET US1 on IP 198.51.100.21: The DICOM \
command FindWorklist is not allowed for this modality according to configuration option "DicomModalities"
W1125 23:32:41.451273 CommandDispatcher.cpp:828] Rejected FindWorklist request from remote DICOM modality with AET \
"US1" and hostname "198.51.100.21"
"""
# what the acceptance test leaves there each day
OURS = """\
W1125 22:49:50.247185     DICOM-SERVER CommandDispatcher.cpp:619] Rejected association, because of a bad called \
AET in the request (ACCEPTANCE_WRONG)
W1125 22:49:50.358859     DICOM-SERVER OrthancConfiguration.cpp:1061] Forbidding access from AET "US1" given its \
hostname (172.18.0.1) does not match the "DicomModalities" configuration option (198.51.100.21 was expected)
W1125 22:49:50.358910     DICOM-SERVER CommandDispatcher.cpp:634] Rejected association for remote AET US1 on IP \
172.18.0.1
W1125 22:49:50.850255     DICOM-SERVER OrthancConfiguration.cpp:1050] Modality "STRANGER" is not listed in the \
"DicomModalities" configuration option
W1125 22:49:50.850307     DICOM-SERVER CommandDispatcher.cpp:634] Rejected association for remote AET STRANGER on \
IP 127.0.0.1
"""


def known(log: str = "", **more: Any) -> doctor.Evidence:
    found = doctor.Evidence(US1, "ORTHANC", "ACCEPTANCE_TEST", 4242, OWN, place="198.51.100.21", tcp="open")
    found.refusals = doctor.find_events(log)
    for name, value in more.items():
        setattr(found, name, value)
    return found


DECISIONS = [
    (known(), "fine", "us1 answers at 198.51.100.21:104"),
    (known(OURS), "fine", "none of its requests was refused"),
    (known(orthanc="Orthanc does not listen on port 8042"), "orthanc", "systemctl start orthanc"),
    (known(listed="address 198.51.100.9 instead of 198.51.100.21"), "not_deployed", "deploy again"),
    (
        known(UNKNOWN, firewall="the table inet orthanc does not exist"),
        "firewall",
        "does not let us1 (198.51.100.21) in",
    ),
    (known(UNKNOWN), "calling_aet", "calls itself US9 at 22:49:40, but Orthanc knows it as US1"),
    (known(UNKNOWN.replace("US9", "")), "calling_aet", "us1 (198.51.100.21) sends no AE title of its own"),
    (known(UNKNOWN.replace("US9", "")), "calling_aet", "Remedy: set the AE title on the device to US1."),
    (
        known(INVALID),
        "calling_aet",
        "sends no AE title of its own (the field is empty), or opens connections and sends",
    ),
    (known(INVALID.replace("d: )", "d: A/*B)")), "calling_aet", "Remedy: set the AE title on the device to US1."),
    (known(RIGHT.replace("US1", "")), "right", "add find to may of us1"),
    (known(CALLED), "called_aet", "A device called AE title WRONG at 22:49:41, but Orthanc's AE title is ORTHANC"),
    (known(ELSEWHERE), "address", "came from 198.51.100.22 at 22:49:42, but us1 is listed at 198.51.100.21"),
    # the AE title of another device's
    (
        known(ELSEWHERE.replace("US1", "US2").replace("100.21", "100.24").replace("100.22", "100.21")),
        *("calling_aet", "us1 (198.51.100.21) calls itself US2 at 22:49:42"),
    ),
    (known(RIGHT), "right", "add find to may of us1"),
    (known(OLDER), "right", "add find_worklist to may of us1"),
    (known(UNKNOWN + CALLED + RIGHT + OURS), "right", "at 22:49:43"),
    # the newest, though it is in the same second
    (known(UNKNOWN + CALLED.replace("41.247185", "40.239031")), "called_aet", "at 22:49:40"),
    (known(UNKNOWN.replace("US9", "ACCEPTANCE_TEST")), "fine", "none of its requests was refused"),
    (known(tcp="refused"), "closed_port", "nothing listens on its port 104"),
    (known(tcp="unreachable"), "wrong_address", "no machine has this address"),
    (known(tcp="silent", packets=7), "wrong_address", "refused 7 packets from machines that are not listed"),
    (known(tcp="unreachable", blocked=["198.51.100.33"]), "wrong_address", "if it has 198.51.100.33, set its host"),
    (known(echo="DUL Association Rejected"), "device_refuses", "refuses Orthanc's AE title ORTHANC"),
    (known(echo="Timeout"), "device_fails", "does not answer C-ECHO (Timeout)"),
]


@pytest.mark.parametrize(("evidence", "kind", "part"), DECISIONS)
def test_one_sentence_names_the_cause_and_the_remedy(evidence: doctor.Evidence, kind: str, part: str) -> None:
    found = doctor.decide(evidence)
    assert (found.kind, part in found.sentence) == (kind, True), found.sentence
    assert found.sentence.count("Remedy: ") == (kind != "fine"), found.sentence
    assert found.sentence.endswith(".")


def test_another_device_s_refusals_are_not_this_one_s() -> None:
    assert doctor.decide(known(UNKNOWN.replace("100.21", "100.24"))).kind == "fine"
    assert doctor.decide(known(RIGHT.replace("US1", "US2").replace("100.21", "100.22"))).kind == "fine"


def test_of_two_devices_at_one_address_the_ae_title_decides() -> None:
    others = [("US2", "198.51.100.21")]
    assert doctor.decide(known(RIGHT.replace("US1", "US2"), others=others)).kind == "fine"
    assert doctor.decide(known(RIGHT, others=others)).kind == "right"
    assert doctor.decide(known(UNKNOWN, others=others)).kind == "calling_aet"  # anybody's at this address


def test_a_right_that_only_the_inventory_has_wants_a_deploy() -> None:
    stored = RIGHT.replace("command Find", "command Store")
    assert "which Orthanc does not allow it yet" in doctor.decide(known(stored)).sentence


@pytest.mark.parametrize(
    ("what", "part"),
    [
        ("client sent no required SSL certificate", "sent no certificate"),
        (
            "SSL_do_handshake() failed (SSL: error:0A0000C7:SSL routines::peer did not return a certificate)",
            "sent no",
        ),
        ("SSL_do_handshake() failed (SSL: error:0A00010B:SSL routines::wrong version number)", "without TLS"),
        (
            "SSL_do_handshake() failed (SSL: error:0A000418:SSL routines::tlsv1 alert unknown ca)",
            "import the CA's root",
        ),
        (
            "client SSL certificate verify error: (18:self-signed certificate) while handshaking",
            "was not issued by the server's CA",
        ),
    ],
)
def test_what_nginx_says_of_tls(what: str, part: str) -> None:
    now = time.strftime("%Y/%m/%d %H:%M:%S")
    log = f"{now} [info] 812#812: *5 {what} while SSL handshaking, client: 198.51.100.21, server: 0.0.0.0:2762\n"
    other = log.replace("198.51.100.21", "198.51.100.99")
    log += log.replace(what, "SSL_shutdown() failed (SSL: error:0A000123:SSL routines::application data after close)")
    refusals = doctor.find_handshakes(other + log, 2762, time.time() - 60)
    assert len(refusals) == 2
    device = {**US1, "tls": True}
    found = doctor.decide(
        doctor.Evidence(device, "ORTHANC", "ACCEPTANCE_TEST", 2762, OWN, refusals=refusals, tcp="open")
    )
    assert found.kind == "tls"
    assert part in found.sentence
    assert doctor.find_handshakes(log, 2762, time.time() + 60) == []
    assert "is not in orthanc_dicom_tls" in doctor.decide(known(refusals=refusals)).sentence


# --- the firewall ---------------------------------------------------------------------------------
def table(*elements: Any) -> str:
    def match(protocol: str, name: str, right: Any) -> dict[str, Any]:
        left = {"payload": {"protocol": protocol, "field": name}}
        return {"match": {"op": "==", "left": left, "right": right}}

    rule = [
        match("tcp", "dport", 4242),
        match("ip", "saddr", "@dicom_4"),
        {"counter": {"packets": 3}},
        {"accept": None},
    ]
    refused = [{"counter": {"packets": 9, "bytes": 9}}, {"drop": None}]
    objects = [
        {"table": {"family": "inet", "name": "orthanc"}},
        {"chain": {"name": "prerouting", "hook": "prerouting"}},
        {"set": {"name": "dicom_4", "elem": list(elements)}},
        {"rule": {"chain": "prerouting", "expr": rule}},
        {"rule": {"chain": "refuse", "expr": refused}},
    ]
    return json.dumps({"nftables": objects})


@pytest.mark.parametrize(
    ("elements", "source", "let_in"),
    [
        (["198.51.100.21"], "198.51.100.21", True),
        (["198.51.100.20"], "198.51.100.21", False),
        ([{"prefix": {"addr": "198.51.100.0", "len": 26}}], "198.51.100.0/27", True),
        ([{"prefix": {"addr": "198.51.100.0", "len": 26}}], "198.51.100.0/25", False),
        ([{"range": ["198.51.100.21", "198.51.100.23"]}], "198.51.100.23", True),
        ([], "198.51.100.21", False),
        (["198.51.100.21"], "2001:db8::1", False),
    ],
)
def test_whom_the_kernel_lets_in(elements: list[Any], source: str, let_in: bool) -> None:
    port = {"name": "dicom", "port": 4242, "sources": [source]}
    assert exposure.is_let_in(table(*elements), port, source) is let_in
    check = exposure.check_server(table(*elements), [], [port], {})[1]
    assert (check["passed"], check["seen"]) == (let_in, "yes" if let_in else f"{source} at 4242")
    assert exposure.count_refused_packets(table(*elements)) == 9


LO = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}
NOT_OURS = {"match": {"op": "!=", "left": {"fib": {"result": "type", "flags": "daddr"}}, "right": "local"}}
DICOM = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 4242}}
ALIEN = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "192.0.2.9"}}


@pytest.mark.parametrize(
    ("elements", "rules", "seen"),
    [
        (["198.51.100.21"], [], "yes"),
        ([], [[LO], [NOT_OURS]], "yes"),
        # what auto-merge makes of two neighbours
        ([{"range": ["198.51.100.21", "198.51.100.23"]}], [], "yes"),
        (["198.51.100.21", "198.51.100.24"], [], "198.51.100.24 at 4242"),
        ([{"prefix": {"addr": "0.0.0.0", "len": 1}}], [], "0.0.0.0/1 at 4242"),
        ([], [[DICOM]], "0.0.0.0/0 at 4242; ::/0 at 4242"),
        ([], [[DICOM, ALIEN]], "192.0.2.9 at 4242"),
        ([], [[ALIEN]], "192.0.2.9 at 4242"),
        ([], [[{**DICOM, "match": {**DICOM["match"], "right": {"set": [22, 443]}}}]], "yes"),
    ],
)
def test_whom_the_kernel_lets_in_although_nobody_listed_him(
    elements: list[Any], rules: list[list[dict[str, Any]]], seen: str
) -> None:
    """The file of the firewall was edited and loaded: the kernel agrees with it."""
    objects = json.loads(table(*elements))["nftables"]
    objects += [{"rule": {"chain": "prerouting", "expr": [*rule, {"accept": None}]}} for rule in rules]
    edited = json.dumps({"nftables": objects})
    sources = ["198.51.100.21", "198.51.100.22/31", "2001:db8::/64"]
    port = {"name": "dicom", "port": 4242, "sources": sources}
    check = exposure.check_server(edited, [], [port], {})[2]
    assert (check["name"], check["seen"]) == ("the kernel lets in nobody else", seen)
    assert check["passed"] == (seen == "yes")
    assert check["passed"] or "deploy again" in check["remedy"]
    assert exposure.check_server(edited, [], [port], {"no_firewall": "a firewall in front"})[2]["passed"]


# --- the report -----------------------------------------------------------------------------------
@pytest.fixture(name="day")
def fixture_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> acceptance.Day:
    for one in (acceptance, verify.files):
        monkeypatch.setattr(one, "BACKUP", tmp_path)
    schedule(tmp_path, monkeypatch)
    return acceptance.Day(SETTINGS, tmp_path)


def schedule(
    home: Path, monkeypatch: pytest.MonkeyPatch, planned: float | None = None, stopped: str = "", said: str = ""
) -> None:
    """An orthanc-backup whose tasks were planned so many seconds ago, and are started by units that run but for \
one."""
    units = {"backup": "cron.service", "restore_check": "orthanc-restore-check.timer", "ledger": "orthanc-ledger.timer"}
    since = None if planned is None else time.time() - planned
    found = {name: {"planned": since, "unit": unit, "active": unit != stopped} for name, unit in units.items()}
    program = home / "orthanc-backup"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{said or json.dumps({'schedules': found})}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setattr(acceptance, "BACKUP_PROGRAM", str(program))


def noted(day: acceptance.Day, name: str, result: str, age: float | None) -> None:
    content = {"result": result, **({} if age is None else {"last_success_epoch": int(time.time() - age)})}
    (day.scratch / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("result", "age", "planned", "passed"),
    [
        ("success", 3600, 99 * 3600, True),
        ("success", 27 * 3600, 99 * 3600, False),
        ("running", 25 * 3600, 99 * 3600, True),
        ("failed", 3600, 99 * 3600, False),
        ("", None, 3600, True),  # a new machine: the first is still to come
        ("failed", None, 3600, False),
        ("", None, 27 * 3600, False),
        ("success", 3600, None, False),  # nobody planned the next one
        ("success", -365 * 86400, 99 * 3600, False),  # made while the clock was a year ahead
    ],
)
def test_a_backup_is_recent_or_not_due_yet(
    day: acceptance.Day,
    monkeypatch: pytest.MonkeyPatch,
    result: str,
    age: float | None,
    planned: float | None,
    passed: bool,
) -> None:
    noted(day, "backup", result, age)
    schedule(day.scratch, monkeypatch, planned)
    day.recent("last backup", "backup", "26 hours", 26 * 3600, "orthanc-backup run")
    (check,) = day.checks
    assert check["passed"] is passed, check
    assert bool(check["remedy"]) is not passed


def test_a_backup_that_nobody_starts_again_is_told(day: acceptance.Day, monkeypatch: pytest.MonkeyPatch) -> None:
    noted(day, "ledger", "success", 60)
    schedule(day.scratch, monkeypatch, 60, stopped="orthanc-ledger.timer")
    day.recent("last ledger", "ledger", "2 hours", 7200, "orthanc-backup ledger")
    (check,) = day.checks
    assert check["passed"] is False
    assert "orthanc-ledger.timer is stopped" in check["seen"]
    assert check["remedy"] == "start it: systemctl enable --now orthanc-ledger.timer"


def test_a_backup_program_that_does_not_answer_is_told_with_its_reason(
    day: acceptance.Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted(day, "backup", "success", 3600)
    schedule(day.scratch, monkeypatch, said="{}")
    for name in ("gone", "orthanc-backup"):
        monkeypatch.setattr(acceptance, "BACKUP_PROGRAM", str(day.scratch / name))
        another = acceptance.Day(SETTINGS, day.scratch)
        another.recent("last backup", "backup", "26 hours", 26 * 3600, "orthanc-backup run")
        (check,) = another.checks
        assert check["passed"] is False
        assert str(day.scratch / name) in check["seen"]
        assert check["remedy"].startswith("schedule it: deploy again")


def test_the_report_says_everything_but_passwords(day: acceptance.Day) -> None:
    noted(day, "backup", "success", 3600)
    day.check("DICOM", "one", "C-ECHO", "accepted", "refused", "deploy again")
    day.check("DICOM", "two", "C-ECHO", "refused", "accepted", "deploy again", "any_device")
    day.settings = {**SETTINGS, "waivers": {"any_device": "the clinic lends machines"}}
    day.check("DICOM", "three", "C-ECHO", "refused", "accepted", "deploy again", "any_device")
    found = verify.report(SETTINGS, day)
    assert set(found) == {
        *("clinic", "host", "hostname", "time", "passed", "collection", "versions", "checks", "waivers"),
        *("certificates", "limits", "disk", "backup", "server", "devices", "reached"),
    }
    assert set(found["checks"][0]) == {
        *("group", "name", "tried", "expected", "seen", "passed", "waiver", "remedy"),
    }
    assert [check["passed"] for check in found["checks"]] == [False, False, True]
    assert [check["remedy"] for check in found["checks"]] == ["deploy again", "deploy again", ""]
    assert found["passed"] is False
    assert found["server"]["largest_object"] == 1_310_000_000
    assert [device["tls"] for device in found["devices"]] == [False, True]
    assert found["backup"]["result"] == "success"
    none = {"result": "none yet", "last_success": None, "planned": None}
    assert found["backup"]["restore_check"] == {**none, "verified": None}
    assert (found["backup"]["ledger"], found["backup"]["proven"]) == (none, None)
    assert "hidden-password" not in json.dumps(found)


@pytest.mark.parametrize("rule", ["any_address", "any_device"])
def test_one_of_several_rules_is_enough(day: acceptance.Day, rule: str) -> None:
    day.settings = {**SETTINGS, "waivers": {rule: "the clinic lends machines"}}
    day.check("DICOM", "an echo", "C-ECHO", "refused", "accepted", "close it", "any_address", "any_device")
    assert (day.checks[-1]["passed"], day.checks[-1]["waiver"]) == (True, "the clinic lends machines")
    day.check("DICOM", "an echo", "C-ECHO", "refused", "accepted", "close it", "remote_access")
    assert (day.checks[-1]["passed"], day.checks[-1]["waiver"]) == (False, "")


def test_what_a_stranger_stores_is_not_the_device_s_study(day: acceptance.Day) -> None:
    """With DicomAlwaysAllowStore Orthanc has both."""
    mine, strange = (scu.data_set(day.image(name, **own)[0]) for name, own in (("a", {}), ("b", day.elsewhere())))
    for tag in ("0020000D", "0020000E", "00080050"):
        assert scu.value(mine, tag) != scu.value(strange, tag)
    # as the search by a part of the description finds it
    assert not scu.value(strange, "00081030").startswith(scu.value(mine, "00081030")[:-1])
    # one patient, so that clean finds it
    assert scu.value(mine, "00100020") == scu.value(strange, "00100020")


def test_a_syntax_in_between_leaves_no_difference_and_another_pixel_does(day: acceptance.Day) -> None:
    """What Orthanc 1.12 and 1.13 give back of an image that IngestTranscoding had made a JPEG, decoded."""
    sent = scu.data_set(day.image("sent.dcm")[0])
    pixels = sent["7FE00010"]
    decoded = {**sent, "00082111": {"vr": "ST", "Value": ["Lossless JPEG compression"]}}
    decoded["7FE00010"] = {**pixels, "vr": "OW"}
    assert scu.forget_syntax(decoded) == scu.forget_syntax(sent)
    decoded["7FE00010"] = {"vr": "OW", "InlineBinary": pixels["InlineBinary"][::-1]}
    assert scu.forget_syntax(decoded) != scu.forget_syntax(sent)
    assert scu.forget_syntax({**sent, "00100010": {"vr": "PN"}}) != scu.forget_syntax(sent)


# --- where the report is sent ---------------------------------------------------------------------
@pytest.mark.parametrize("place", ["h:abc/", "h:99999/", "a..b/", "[2001:db8::9/"])
@pytest.mark.parametrize("scheme", ["https", "sftp"])
def test_a_url_that_no_client_takes_is_a_reason_and_not_the_end_of_the_test(
    scheme: str, place: str, tmp_path: Path
) -> None:
    """The settings of an earlier deploy, or of somebody's hand."""
    (tmp_path / "report.html").write_text("a report")
    why = sending.send_report(f"{scheme}://clinic:hidden-password@{place}", "pacs", tmp_path)
    assert why
    assert "hidden-password" not in why


def test_a_path_may_have_any_letters(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("a report")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert "refused" in sending.send_report(f"https://127.0.0.1:{port}/Röntgen/", "pacs", tmp_path)


# --- the program ----------------------------------------------------------------------------------
def test_a_part_that_breaks_is_a_failed_check_and_the_others_go_on(day: acceptance.Day) -> None:
    day.play()  # nothing answers here
    names = {check["name"] for check in day.checks if not check["passed"]}
    assert {"Orthanc answers on this machine", "certificate of the proxy"} <= names
    assert "the synthetic patient is gone again" in names
    assert all(check["remedy"] for check in day.checks if not check["passed"])
    assert {check["group"] for check in day.checks} == {"Service", "DICOM", "Worklist", "DICOMweb", "Access", "Safety"}


def test_an_orthanc_that_hangs_does_not_hold_the_test_up(day: acceptance.Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.Patience, "seconds", 1.0)
    monkeypatch.setattr(web.Patience, "hung", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # the kernel accepts connections
        port = hanging.getsockname()[1]
        day.settings = {**SETTINGS, "http_port": port, "dicom_port": port}
        day.proxy = day.proxy._replace(port=port)
        day.play()
        assert web.Patience.seconds == 0.1
        verify.versions(day.settings)
    wrong = {check["name"]: check for check in day.checks if not check["passed"]}
    assert wrong["Orthanc answers on this machine"]["seen"] == "timed out"
    assert "systemctl restart orthanc" in wrong["Orthanc answers on this machine"]["remedy"]
    assert wrong["the other parts of the test"]["seen"] == "not tried: Orthanc hangs"
    assert not [name for name in wrong if "C-ECHO" in name or "QIDO" in name]
    assert "the synthetic patient is gone again" in wrong


def configured(home: Path) -> dict[str, Any]:
    """The settings as the roles write them, with Orthanc's configuration in this directory."""
    return {**SETTINGS, **USERS, "orthanc": str(home / "orthanc.json")}


@pytest.fixture(name="program")
def fixture_program(tmp_path: Path) -> list[str]:
    """The package as the role orthanc_tools copies it, without the collection."""
    (tmp_path / "server").symlink_to(ROOT / "plugins/module_utils/server")
    (tmp_path / "settings.json").write_text(json.dumps(configured(tmp_path)))
    (tmp_path / "orthanc.json").write_text(json.dumps({"RegisteredUsers": {"it": "hidden-password"}}))
    start = "import sys; from server.verify import cli as verify; from pathlib import Path;"
    where = f"verify.DIRECTORY = Path({str(tmp_path)!r});"
    where += "verify.shutil.which = lambda name: None;"
    return [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {start} {where} sys.exit(verify.main())",
    ]


def called(program: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)


def test_the_program_explains_itself_without_ansible(program: list[str]) -> None:
    done = called(program, "--help")
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("run", "doctor", "clean"))


def test_an_unknown_device_gets_the_names_of_the_known(program: list[str], tmp_path: Path) -> None:
    done = called(program, "--config", str(tmp_path / "settings.json"), "doctor", "us9")
    assert done.returncode == 2
    assert "us9 is not a device in orthanc_modalities. Remedy: use one of: us1, us2." in done.stderr


def test_without_a_configuration_it_could_not_run(program: list[str], tmp_path: Path) -> None:
    done = called(program, "--config", str(tmp_path / "none.json"), "run")
    assert done.returncode == 2
    assert "Remedy: deploy with the role orthanc_verify." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_whom_orthanc_does_not_know_is_told_and_the_checks_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1")
    (tmp_path / "settings.json").write_text(json.dumps(configured(tmp_path)))
    unknown = [{"name": "it", "role": "admin", "password": ""}]
    for content, why in (
        ('{"RegisteredUsers": {"other": "x"}}', "does not hold the deployed password of it"),
        ('{"RegisteredUsers": {"it": "changed-by-somebody"}}', "does not hold the deployed password of it"),
        ("{", "cannot be read"),
    ):
        (tmp_path / "orthanc.json").write_text(content)
        assert verify.read_settings(tmp_path / "settings.json")["users"] == unknown
        said = capsys.readouterr().err
        assert why in said
        assert "Remedy: deploy again." in said
    (tmp_path / "orthanc.json").write_text('{"RegisteredUsers": {"it": "hidden-password"}}')
    assert verify.read_settings(tmp_path / "settings.json")["users"][0]["password"] == "hidden-password"
    assert capsys.readouterr().err == ""
