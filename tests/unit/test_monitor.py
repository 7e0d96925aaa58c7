"""What of the monitor's program needs no Orthanc; everything else is in the scenario monitor."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import monitoring
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard
from hypothesis import given
from hypothesis import strategies as st
from server.core import monitor_state, nftables, verdict, words
from server.core.limits import LIMITS
from server.core.process import Finished
from server.monitor import alerts as alerts_of
from server.monitor import cli, history, notify, prometheus, survey
from server.monitor.context import Context, Sample
from server.monitor.probes import disk, firewall, log, orthanc, updates
from server.monitor.rules import RULES, Rule
from server.monitor.settings import Settings
from server.orthanc import index
from server.orthanc import log as orthanc_log
from server.orthanc.api import Account, Answer, Api, Unanswered

ROOT = Path(__file__).resolve().parents[2]
DAY, GB = 86400, 10**9


def settings(home: Path, limits: dict[str, float] | None = None, **more: Any) -> Any:
    content = {
        "clinic": "Clinic", "host": "clinic", "hostname": "pacs.clinic.example", "method": "package",
        "orthanc": "", "storage": str(home),
        "calling_aet": "TEST", "plugins": ["dicom-web"], "mount": "/", "logs": "/var/log",
        "tls_ports": {"proxy": 443}, "own_ca": "",
        "firewall": True, "backup": True, "units": [], "worklist_drop": "/srv", "accepted_cves": [],
        "disk_guard_percent": 5, "index_statistics": True, "mail_to": [], "mail_from": "", "webhook": "",
        "directory": str(home),
        **more,
    }  # fmt: skip
    (home / "monitor.json").write_text(json.dumps(content))
    (home / "shared.json").write_text(json.dumps({"limits": limits or {}}))
    return Settings.read(home / "monitor.json", home / "shared.json")


# --- forecast -----------------------------------------------------------------------------------
def feed(days: int, daily: Any, start: float = 100 * GB) -> list[list[float]]:
    """A sample each hour, `daily(day)` bytes more each day."""
    history, used = [], start
    for hour in range(days * 24 + 1):
        history.append([float(hour * 3600), used])
        used += daily(hour // 24) / 24
    return history


def test_a_steady_feed_gives_its_growth() -> None:
    growth, note = history.estimate_growth(feed(14, lambda _day: 3 * GB))
    assert growth == pytest.approx(3 * GB, rel=0.01)
    assert note == "from 14 days"


def test_weekends_count() -> None:
    growth, _ = history.estimate_growth(feed(28, lambda day: 0 if day % 7 >= 5 else 7 * GB))
    assert growth == pytest.approx(5 * GB, rel=0.01)


@pytest.mark.parametrize("hour", [24 * 5, 24 * 9 + 13, 24 * 13 + 23])
@pytest.mark.parametrize("size", [400 * GB, -60 * GB])
def test_one_big_import_is_no_growth(hour: int, size: float) -> None:
    points = feed(14, lambda _day: 3 * GB)
    growth, note = history.estimate_growth([[at, used + size * (at >= hour * 3600)] for at, used in points])
    assert growth == pytest.approx(3 * GB, rel=0.2)
    assert "left out" in note


def test_an_empty_archive_does_not_grow() -> None:
    assert history.estimate_growth(feed(10, lambda _day: 0))[0] == 0


@pytest.mark.parametrize("days", [0, 1, 2])
def test_there_is_not_enough_history_at_first(days: int) -> None:
    growth, note = history.estimate_growth(feed(days, lambda _day: GB))
    assert growth is None
    assert note == f"not enough history yet: {days} of 3 days"


@given(st.lists(st.floats(min_value=0.5, max_value=1.5), min_size=4, max_size=40))
def test_a_forecast_is_within_what_was_fed(factors: list[float]) -> None:
    growth, _ = history.estimate_growth(feed(len(factors), lambda day: factors[min(day, len(factors) - 1)] * GB))
    assert growth is not None
    assert min(factors) * GB * 0.99 <= growth <= max(factors) * GB * 1.01


# --- what is wrong ------------------------------------------------------------------------------
class Seen:
    """A look that saw these values: metric, object, value."""

    def __init__(self, now: float, *values: tuple[str, str, float]) -> None:
        labels = {rule.metric: rule.label for rule in RULES}
        self.now = now
        self.values = [Sample(name, labels.get(name, ""), of, value) for name, of, value in values]


def play(home: Path, *looks: Sequence[tuple[str, str, float]], every: float = 60, **more: Any) -> list[list[str]]:
    """What is told after each look."""
    alerts: dict[str, Any] = {}
    told = []
    for number, values in enumerate(looks):
        seen = Seen(number * every, *values)
        alerts, events = alerts_of.judge(seen.values, settings(home, **more), alerts, seen.now)
        told.append([f"{event['state']} {event['name']}/{event['object']}" for event in events])
    return told


def free(percent: float, of: str = "storage") -> tuple[str, str, float]:
    return ("fs_free_percent", of, percent)


def test_each_threshold_has_its_alert(tmp_path: Path) -> None:
    told = play(tmp_path, [free(50)], [free(15)], [free(8)], [free(8)], *[[free(50)]] * 3)
    assert told == [[], ["firing DiskFilling/storage"], ["firing DiskAlmostFull/storage"], [], [], [],
                    ["resolved DiskAlmostFull/storage", "resolved DiskFilling/storage"]]  # fmt: skip
    told = play(tmp_path, [free(4), ("disk_guard", "storage", 1), ("days_until_full", "storage", 1)])
    assert told == [["firing DiskGuard/storage"]]


def test_another_disk_s_trouble_hides_nothing(tmp_path: Path) -> None:
    told = play(tmp_path, [free(4), ("disk_guard", "storage", 1), free(8, "log"), free(15, "tmp")])
    assert told == [["firing DiskAlmostFull/log", "firing DiskFilling/tmp", "firing DiskGuard/storage"]]


def test_an_alert_does_not_flicker(tmp_path: Path) -> None:
    assert play(tmp_path, [free(19.9)], *[[free(20.1)], [free(19.9)]] * 5)[1:] == [[]] * 10
    assert play(tmp_path, [free(19)], *[[free(23)]] * 3) == [["firing DiskFilling/storage"], [], [],
                                                           ["resolved DiskFilling/storage"]]  # fmt: skip


def test_one_look_is_not_enough_for_what_may_pass(tmp_path: Path) -> None:
    down, up = [("process_up", "", 0)], [("process_up", "", 1)]
    assert play(tmp_path, down, up, down, up) == [[], [], [], []]
    assert play(tmp_path, down, down) == [[], ["firing OrthancStopped/"]]


def test_it_reminds_each_day_of_a_week_and_then_once_a_week(tmp_path: Path) -> None:
    """What lasts for months, such as a system without updates, must not fill the mailbox."""
    told = play(tmp_path, *[[free(15)]] * 24 * 30, every=3600)
    days = [number / 24 for number, one in enumerate(told) if one]
    assert days == [0, 1, 2, 3, 4, 5, 6, 13, 20, 27]
    assert told[24] == told[13 * 24] == ["reminder DiskFilling/storage"]


def test_what_may_be_over_is_reminded_of_no_more(tmp_path: Path) -> None:
    """It ended since the last check, by which the reminder is due: a night in which the machine was off."""
    assert play(tmp_path, [free(15)], *[[free(50)]] * 3, every=86400)[1:] == [[], [], ["resolved DiskFilling/storage"]]
    told = play(tmp_path, [free(15)], [free(50)], [free(15)], every=86400)
    assert told[1:] == [[], ["reminder DiskFilling/storage"]]


def test_what_is_known_is_told_once(tmp_path: Path) -> None:
    assert [one for one in play(tmp_path, *[[("known_cves", "", 11)]] * 50, every=3600) if one] == [
        ["firing KnownVulnerabilities/"]
    ]
    # what is new is news
    numbers = (11, 11, 12, 12, 9, 9, 10)
    told = play(tmp_path, *[[("known_cves", "", number)] for number in numbers])
    assert [bool(one) for one in told] == [True, False, True, False, False, False, True]


def test_another_configuration_that_was_left_is_told_and_one_that_comes_back(tmp_path: Path) -> None:
    """An update in autumn, while those of summer's are still there."""
    numbers = (1, 1, 2, 2, 0, 0, 0, 1)
    told = play(tmp_path, *[[("conffiles_left", "", number)] for number in numbers])
    name = "ConfigurationLeft/"
    assert told == [[f"firing {name}"], [], [f"firing {name}"], [], [], [], [f"resolved {name}"], [f"firing {name}"]]


def test_what_is_not_seen_is_no_all_clear(tmp_path: Path) -> None:
    failed, unknown = [("backup_ok", "", 0)], [("backup_age_hours", "", 1)]
    assert play(tmp_path, failed, *[unknown] * 5, failed) == [["firing BackupFailed/"], [], [], [], [], [], []]
    expiring, down = [("certificate_days", "proxy", 9), ("proxy_up", "", 1)], [("proxy_up", "", 0)]
    assert play(tmp_path, expiring, *[down] * 5, expiring)[2:] == [["firing ProxyDown/"], [], [], [], []]
    # a device that is no more
    told = play(tmp_path, [("rejected_hour", "us9", 1)], *[unknown] * 30, every=3600)
    assert [one for one in told if one] == [["firing DeviceRejected/us9"], ["resolved DeviceRejected/us9"]]


def test_a_port_of_the_proxy_that_no_longer_answers_is_told(tmp_path: Path) -> None:
    assert play(tmp_path, *[[("proxy_up", "", 1), ("dicom_tls_up", "", 0)]] * 2)[-1] == ["firing DicomTlsDown/"]
    # nginx as a whole
    assert play(tmp_path, *[[("proxy_up", "", 0), ("dicom_tls_up", "", 0)]] * 3)[1:] == [["firing ProxyDown/"], []]


def test_what_cannot_be_checked_for_days_is_no_all_clear(tmp_path: Path) -> None:
    """Security updates while apt is broken; a forecast of the disk, and slow look-ups, while Orthanc is down."""
    for wrong, hides in (
        (("security_updates", "", 3), ("blind", "updates", 1)),
        (("days_until_full", "storage", 9), ("mount_ok", "", 0)),
        (("errors_hour", "", 99), ("process_up", "", 0)),
        (("certificate_days", "proxy", 9), ("proxy_up", "", 0)),
    ):
        told = play(tmp_path, [wrong], *[[hides]] * 100, [], every=3600)
        name = told[0][0].removeprefix("firing ")
        assert f"resolved {name}" not in [one for many in told[1:-1] for one in many]
        assert f"resolved {name}" in told[-1]  # nothing keeps it from being seen any more


def test_what_is_gone_is_over_although_something_else_cannot_be_checked(tmp_path: Path) -> None:
    """Where the kernel lets nobody compare the firewall, as in LXC, that is so for ever."""
    expired = Sample("client_certificate_days", "file", "old-x.crt", 3, probe="client certificates")
    alerts: dict[str, Any] = {}
    told = []
    for hour in range(40):
        for blind, samples in (("firewall", [expired] if hour < 3 else []),):
            seen = [*samples, Sample("blind", "what", blind, 1, probe=blind)]
            alerts, events = alerts_of.judge(seen, settings(tmp_path), alerts, hour * 3600.0)
            told += [(hour, one["state"]) for one in events if one["name"] == "ClientCertificateExpires"]
    assert told == [(0, "firing"), (26, "resolved")]  # and no reminder
    # but not while its own probe is blind
    for hour in range(40, 90):
        mine = [expired] if hour == 40 else [Sample("blind", "what", "client certificates", 1)]
        alerts, events = alerts_of.judge(mine, settings(tmp_path), alerts, hour * 3600.0)
        told += [(hour, one["state"]) for one in events if one["name"] == "ClientCertificateExpires"]
    assert [one for one in told if one[0] >= 40] == [(40, "firing"), (64, "reminder"), (88, "reminder")]


def test_a_clock_that_was_a_year_ahead_leaves_no_alert_of_the_future(tmp_path: Path) -> None:
    """What vanishes after the clock was put right is resolved a day later, not a year."""
    alerts: dict[str, Any] = {}
    told, begun = [], time.time()
    for now, value in ((begun + 365 * 86400, 1), *((begun + hour * 3600, None) for hour in range(30))):
        seen = Seen(now, *([("rejected_hour", "us9", value)] if value else [("proxy_up", "", 1)]))
        alerts, events = alerts_of.judge(seen.values, settings(tmp_path), alerts, now)
        told += [(one["state"], round((now - begun) / 3600), one["since"] <= now) for one in events]
    assert told == [("firing", 365 * 24, True), ("resolved", 24, True)]


def test_a_consequence_is_not_told(tmp_path: Path) -> None:
    dead = [("process_up", "", 0), ("index_up", "", 0), ("dicom_up", "", 0), ("plugin_up", "dicom-web", 0)]
    assert play(tmp_path, dead, dead)[1] == ["firing OrthancStopped/"]
    assert play(tmp_path, [*dead, ("index_locked", "", 1), ("restarts_hour", "", 9)]) == [["firing IndexLocked/"]]
    assert play(tmp_path, [*dead, ("mount_ok", "", 0)]) == [["firing MountGone/"]]
    broken = [("restarts_hour", "", 9), ("blind", "configuration", 1)]
    assert play(tmp_path, broken, broken, broken) == [["firing RestartLoop/"], [], []]


def test_a_clinic_may_have_other_limits(tmp_path: Path) -> None:
    assert play(tmp_path, [free(15)], limits={"disk_warning_percent": 12}) == [[]]


def test_every_rule_has_a_metric_that_is_there_and_known_causes() -> None:
    names = {rule.name for rule in RULES}
    for rule in RULES:
        assert rule.metric in prometheus.HELP, f"{rule.name}: Remedy: describe {rule.metric} in HELP of prometheus.py"
        assert set(rule.unless) <= names, rule.name
        assert isinstance(rule.limit, (int, float)) or rule.limit in LIMITS, rule.name


def test_what_the_report_tells_by_its_own_facts_is_a_rule() -> None:
    assert {*verdict.TOLD_BY} <= {rule.name for rule in RULES}


@pytest.mark.parametrize(("compares", "standing", "over"), [("<", 11, 12), (">", 9, 8)])
def test_an_alert_in_percent_ends_two_percent_after_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compares: str, standing: float, over: float
) -> None:
    rule = Rule("Share", "warning", "share_percent", "", compares, 10, 1, (), "It is so", "change it")
    monkeypatch.setattr(alerts_of, "RULES", (rule,))
    home = settings(tmp_path)

    def holds(value: float, *firing: str) -> bool:
        return bool(alerts_of.find_conditions([Sample("share_percent", "", "", value)], home, {*firing})[0])

    assert (holds(10), holds(standing), holds(standing, "Share/"), holds(over, "Share/")) == (False, False, True, False)


def test_every_rule_and_limit_is_documented() -> None:
    text = (ROOT / "docs/monitoring.md").read_text()
    for rule in RULES:
        assert f"| {rule.name} |" in text, f"Remedy: give {rule.name} a row in docs/monitoring.md"
        said = f"| {rule.summary} | {rule.remedy} |"
        assert said in text, f"Remedy: end the row of {rule.name} in docs/monitoring.md with {said}"
    for name, value in LIMITS.items():
        assert f"| {name} | {value:g} |" in text, name


# --- what is seen -------------------------------------------------------------------------------
REJECTED = (
    "W1125 22:52:21.590568     DICOM-SERVER CommandDispatcher.cpp:628] Rejected association for remote AET {} on IP {}"
)
REQUEST = (
    "W1125 main.cpp:353] DICOM authorization rejected for AET {} on IP {}: The DICOM command C-FIND is not allowed"
)


# Orthanc 1.13.0's
INVALID = (
    "E1128 17:40:44.858726 DICOM-SERVER CommandDispatcher.cpp:333] Association Received from an invalid AET "
    "(sanitized: {}) on IP {}, rejecting the association"
)
UNLISTED = 'W1125 22:52:21.590500 DICOM-SERVER a.cpp:1050] Modality "{}" is not listed in the "DicomModalities" option'
FORBIDDEN = (
    'W1125 22:52:21.590500 DICOM-SERVER a.cpp:1061] Forbidding access from AET "{}" given its hostname ({}) does not '
    'match the "DicomModalities" configuration option ({} was expected)'
)


@pytest.mark.parametrize(
    ("line", "device", "reason"),
    [
        (REJECTED.format("US2", "198.51.100.22"), "us2", "Orthanc rejected it as US2 at 198.51.100.22"),
        # its address is another
        (REJECTED.format("US2", "198.51.100.40"), "us2", "from 198.51.100.40, but Orthanc expects it at 198.51.100.22"),
        (
            FORBIDDEN.format("US2", "198.51.100.40", "198.51.100.22") + "\n" + REJECTED.format("US2", "198.51.100.40"),
            *("us2", "connects from 198.51.100.40, but Orthanc expects it at 198.51.100.22"),
        ),
        # its AE title is another's
        (REJECTED.format("US2", "198.51.100.21"), "us1", "itself US2 at 198.51.100.21, but Orthanc knows it as US1"),
        (UNLISTED.format("OTHER") + "\n" + REJECTED.format("OTHER", "198.51.100.22"), "us2", "calls itself OTHER"),
        (REQUEST.format("US1", "198.51.100.21"), "us1", "it requested find, which it is not allowed to use"),
        # it has none: spaces or NULs alone
        (UNLISTED.format("") + "\n" + REJECTED.format("", "198.51.100.21"), "us1", "no AE title of its own (the field"),
        (REQUEST.format("", "198.51.100.21"), "us1", "requested find"),
        (REJECTED.format("", "203.0.113.9"), "", ""),
        (
            INVALID.format("", "198.51.100.21"),
            "us1",
            "(the field is empty), or opens connections and sends nothing, at",
        ),
        (INVALID.format("A/*B", "198.51.100.21"), "us1", "calls itself A/*B (each * is a character that is not"),
        (INVALID.format("", "203.0.113.9"), "", ""),
        (INVALID.format("", "172.18.0.1"), "", ""),
        (REJECTED.format("US2", "127.0.0.1"), "", ""),  # the acceptance test plays it
        (REJECTED.format("US2", "172.17.0.1"), "", ""),
        (REJECTED.format("US22", "198.51.100.221"), "", ""),
        (REJECTED.format("STRANGER", "203.0.113.9"), "", ""),
        # an AE title may be any 16 characters, and blame nobody else
        (REJECTED.format("A on IP 10.1.1.1", "198.51.100.22"), "us2", "calls itself A on IP 10.1.1.1 at 198.51.100.22"),
        (REJECTED.format("A on IP 10.1.1.1", "203.0.113.9"), "", ""),
        (REJECTED.format("A\x0bB", "198.51.100.22"), "us2", "calls itself A\x0bB"),
        ("W1125 main.cpp:1] Orthanc has started", "", ""),
    ],
)
def test_a_rejected_device_is_known_from_the_log_and_told_in_a_sentence(line: str, device: str, reason: str) -> None:
    devices = {"us1": ("US1", "198.51.100.21"), "us2": ("US2", "198.51.100.22"), "us4": ("US4", "10.1.1.1")}
    found = orthanc_log.list_rejections(line, devices)
    assert [name for name, _ in found] == [device] * bool(device)
    assert all(reason in text and "W1125" not in text for _, text in found), found


def test_a_connection_over_which_nobody_speaks_is_no_error_of_orthanc_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [INVALID.format("", "203.0.113.9")] * 60 + [
        "E1128 main.cpp:1] The disk is broken",
        "W1128 main.cpp:1] Fine",
    ]
    (tmp_path / "orthanc.json").write_text("{}")
    look = Context(settings(tmp_path, orthanc=str(tmp_path / "orthanc.json")), {}, 0.0)
    monkeypatch.setattr(log, "read_journal", lambda _context: lines)
    assert len([*log.probe_log(look)]) == 2
    assert look.state["counted"]["errors"] == 1


def play_journal(monkeypatch: pytest.MonkeyPatch, *answers: Finished) -> list[str]:
    """What journalctl is asked; it answers so, one after the other."""
    asked, waiting = [], iter(answers)

    def ask(*command: str) -> Finished:
        asked.append(command[-1])
        return next(waiting)

    monkeypatch.setattr(log, "ask_program", ask)
    return asked


def test_what_journalctl_says_of_a_damaged_file_is_no_line_of_orthanc_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the cursor stays, and each check counts the same lines again."""
    damaged = Finished(
        0, "E1128 x\n-- cursor: s=new\n", "Journal file /var/log/journal/x is truncated, ignoring file.\n"
    )
    play_journal(monkeypatch, damaged)
    (tmp_path / "orthanc.json").write_text("{}")
    look = Context(settings(tmp_path, orthanc=str(tmp_path / "orthanc.json")), {"cursor": "s=old"}, 1000.0)
    assert log.read_journal(look) == ["E1128 x"]
    assert look.state["cursor"] == "s=new"


def test_a_cursor_that_was_rotated_away_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, there = Finished(1, "", "Failed to seek to cursor"), Finished(0, "E1128 x\n-- cursor: s=new\n", "")
    asked = play_journal(monkeypatch, gone, there, gone, gone, gone, Finished(1, "", ""))
    (tmp_path / "orthanc.json").write_text("{}")
    look = Context(settings(tmp_path, orthanc=str(tmp_path / "orthanc.json")), {"cursor": "s=old", "time": 940}, 1000.0)
    assert log.read_journal(look) == ["E1128 x"]
    assert asked == ["--after-cursor=s=old", "--since=@941"]
    with pytest.raises(OSError, match="Failed to seek"):  # and MonitorBlind
        log.read_journal(look)
    assert log.read_journal(look) == []  # there is no journal at all, which journalctl does not say with --quiet


def test_a_disk_that_the_kernel_has_made_read_only_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".orthanc-storage").touch()
    context: Any = SimpleNamespace(settings=SimpleNamespace(storage=tmp_path, mount="/"))
    assert [(one.metric, one.value) for one in disk.probe_mount(context)] == [("mount_ok", 1), ("storage_read_only", 0)]
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_RDONLY))
    told = play(tmp_path, [(one.metric, one.object, one.value) for one in disk.probe_mount(context)])
    assert told == [["firing StorageReadOnly/"]]


def test_a_reboot_ends_what_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boot_id").write_text("1\n")
    monkeypatch.setattr(updates, "BOOT", tmp_path / "boot_id")
    monkeypatch.setattr(survey, "stamp", lambda *_: [1.0, 0])
    (tmp_path / "orthanc.json").write_text("{}")
    look = Context(settings(tmp_path, orthanc=str(tmp_path / "orthanc.json")), {}, 1000.0)

    def is_due(reason: str) -> float:
        monkeypatch.setattr(survey, "find_reboot", lambda: reason)
        return next(one.value for one in updates.probe_restarts(look) if one.metric == "reboot_due")

    assert (is_due("a kernel"), is_due("")) == (1, 1)  # asked once
    (tmp_path / "boot_id").write_text("2\n")
    assert is_due("") == 0


def test_a_device_over_tls_has_an_address_of_this_machine() -> None:
    over_tls = {"us3": ("US3", "127.70.3.9")}
    [(device, _)] = orthanc_log.list_rejections(REJECTED.format("US3", "127.70.3.9"), over_tls)
    assert device == "us3"
    # under its certificate the acceptance test has itself rejected
    line = REJECTED.format("ACCEPTANCE_TEST", "127.70.3.9")
    assert orthanc_log.list_rejections(line, over_tls, "ACCEPTANCE_TEST") == []
    assert len(orthanc_log.list_rejections(line, over_tls)) == 1
    [(device, _)] = orthanc_log.list_rejections(REJECTED.format("", "127.70.3.9"), over_tls, "ACCEPTANCE_TEST")
    assert device == "us3"


def test_of_two_devices_at_one_address_the_ae_title_decides() -> None:
    both = {"us1": ("US1", "198.51.100.21"), "us2": ("US2", "198.51.100.21"), "us3": ("US3", "198.51.100.23")}
    line = REQUEST.format("US2", "198.51.100.21")
    [(device, reason)] = orthanc_log.list_rejections(line, both)
    assert (device, "requested find" in reason) == ("us2", True)
    [(device, _)] = orthanc_log.list_rejections(REJECTED.format("US3", "198.51.100.21"), both)
    assert device == "us1"


# --- the firewall -------------------------------------------------------------------------------
def look_at_firewall(home: Path, monkeypatch: pytest.MonkeyPatch, deployed: Any, detours: Any) -> dict[str, float]:
    """What is seen of it, and whether it is blind; what is an error is raised."""

    def give(what: Any) -> Any:
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(nftables, "read_held", lambda: "held")
    monkeypatch.setattr(nftables, "read_deployed", lambda: give(deployed))
    monkeypatch.setattr(nftables, "find_detours", lambda: give(detours))
    seen: list[Sample] = []
    try:
        seen.extend(firewall.probe_firewall(Context(settings(home), {}, 0.0)))
        blind = 0.0
    except (OSError, ValueError):
        blind = 1.0
    return {sample.metric: sample.value for sample in seen} | {"blind": blind}


@pytest.mark.parametrize("error", [OSError("nft cannot list its rules"), ValueError("no address")])
def test_the_firewall_s_comparison_and_its_detours_do_not_hide_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    seen = look_at_firewall(tmp_path, monkeypatch, "deployed", error)
    assert seen == {"firewall_ok": 1, "firewall_changes": 2, "blind": 1}
    unseen = look_at_firewall(tmp_path, monkeypatch, ValueError("no table"), ["one"])
    assert unseen == {"firewall_ok": 1, "firewall_detours": 1, "blind": 1}


def test_a_table_that_cannot_be_compared_is_not_called_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unseen = look_at_firewall(tmp_path, monkeypatch, nftables.Unseen("unshare failed"), [])
    assert unseen == {"firewall_ok": 1, "firewall_detours": 0, "blind": 1}
    broken = look_at_firewall(tmp_path, monkeypatch, OSError("nft cannot load it"), [])
    assert broken == {"firewall_ok": 1, "firewall_changes": 1, "firewall_detours": 0, "blind": 0}


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("orthanc_jobs_failed 2 1764110000000\northanc_count_instances 7 1764110000000\n", 2),
        ('# TYPE x gauge\northanc_jobs_total_failed 3 1764110000000\northanc_x{a="b"} 1\nnonsense\n', 3),
    ],
)
def test_the_names_of_every_release_are_read(text: str, failed: float) -> None:
    found = orthanc.parse_metrics(text)
    assert found.get("orthanc_jobs_total_failed", found.get("orthanc_jobs_failed")) == failed


def test_who_holds_a_file_is_known(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_text("")
    assert orthanc.find_lock_holders(path) == set()
    with path.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert orthanc.find_lock_holders(path) == {os.getpid()}
    assert orthanc.find_lock_holders(tmp_path / "none") == set()


def test_a_counter_s_increase(tmp_path: Path) -> None:
    series: dict[str, Any] = {}
    found = []
    for minute, value in enumerate([5, 5, 6, 9, 1, *[1] * 70]):
        look = Context(settings(tmp_path), {"series": series}, minute * 60.0)
        found.append(look.measure_increase("restarts", value, 3600))
        series = look.series
    assert found[:5] == [0, 0, 1, 4, 5]
    assert found[-1] == 0
    assert len(series["restarts"]) < 65
    # what Orthanc forgets is no new failure
    look = Context(settings(tmp_path), {}, 0.0)
    assert [look.measure_increase("jobs", value, 86400, True) for value in (3, 2, 2)] == [0, 0, 0]


# --- the disk guard -----------------------------------------------------------------------------
SIZE = 10_000_000


def guarded(home: Path, free: float, percent: int = 5) -> bool:
    """Whether the disk guard is on after a look with so much percent free."""
    (home / ".orthanc-storage").touch()
    look = Context(settings(home, disk_guard_percent=percent), {}, 0.0)
    [*_, last] = disk.guard_disk(look, int(SIZE * free / 100), SIZE)
    on = last.value == 1
    assert on == os.path.lexists(home / ".orthanc-disk-guard")
    return bool(on)


def test_the_disk_guard_comes_and_goes(tmp_path: Path) -> None:
    guard, reserve = tmp_path / ".orthanc-disk-guard", tmp_path / ".orthanc-reserve"
    assert not guarded(tmp_path, 50)
    assert reserve.stat().st_size == SIZE // 100
    assert guarded(tmp_path, 4)
    assert guard.stat().st_mode & 0o777 == 0o644
    assert not reserve.exists()
    assert guarded(tmp_path, 6)  # not yet enough
    assert not guarded(tmp_path, 9)
    assert reserve.exists()
    assert guarded(tmp_path, 4)
    assert not guarded(tmp_path, 4, percent=0)  # switched off
    assert not reserve.exists()


@pytest.mark.parametrize("name", [".orthanc-disk-guard", ".orthanc-reserve"])
@pytest.mark.parametrize("what", ["directory", "link", "dangling", "empty", "unreadable"])
def test_whatever_lies_there_the_disk_guard_works(tmp_path: Path, name: str, what: str) -> None:
    victim, trap = tmp_path / "victim", tmp_path / name
    victim.write_text("as it was")
    victim.chmod(0o600)

    def lay() -> None:
        if what == "directory":
            (trap / "in it").mkdir(parents=True)
        elif what in ("link", "dangling"):
            trap.symlink_to(victim if what == "link" else tmp_path / "nowhere")
        else:
            trap.touch()
            trap.chmod(0o644 if what == "empty" else 0)

    lay()
    assert guarded(tmp_path, 4)
    assert (tmp_path / ".orthanc-disk-guard").lstat().st_mode & 0o170444 == 0o100444
    assert not guarded(tmp_path, 50)
    lay() if not os.path.lexists(trap) else None
    assert not guarded(tmp_path, 50)
    assert (tmp_path / ".orthanc-reserve").lstat().st_size == SIZE // 100
    assert victim.read_text() == "as it was"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_of_orthanc_s_is_not_told_for_another(tmp_path: Path) -> None:
    path = tmp_path / ".orthanc-version"
    path.write_text("1.12.7\n")
    assert updates.read_version(path) == "1.12.7"
    path.write_text("root:secret-hash:1\n")
    with pytest.raises(ValueError, match=r"^the recorded release is not a version$"):
        updates.read_version(path)
    path.unlink()
    path.symlink_to(tmp_path / "monitor.json")
    with pytest.raises(OSError, match="symbolic"):
        updates.read_version(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises((OSError, ValueError)):
        updates.read_version(path)  # and it does not wait


# --- what others read ---------------------------------------------------------------------------
NOW = 1_795_644_000.0


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "has not run a check yet"),
        ({"time": NOW - 60}, ""),
        ({"time": NOW - 299}, ""),
        ({"time": NOW - 400}, "has not run a check for 6 minutes"),
        ({"time": NOW - 10 * DAY}, "has not run a check for 10 days"),
        ({"time": NOW + 7200}, f"dated in the future ({words.say_moment(NOW + 7200)})"),
    ],
)
def test_a_monitor_that_does_not_look_any_more_is_told(state: dict[str, Any], said: str) -> None:
    sentence = monitor_state.describe_silence(state, NOW)
    assert said in sentence
    assert bool(said) == bool(sentence) == ("Remedy: systemctl enable --now orthanc-monitor.timer" in sentence)


@pytest.mark.parametrize(("age", "status"), [(30, 0), (10 * DAY, 1)])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_show_ends_with_the_exit_code_of_what_it_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    age: int,
    status: int,
    form: list[str],
) -> None:
    settings(tmp_path)
    state = {"time": int(time.time() - age), "alerts": {}, "values": []}
    (tmp_path / "state.json").write_text(json.dumps(state))
    monkeypatch.setattr(monitor_state, "IN_MEMORY", tmp_path / "nowhere")
    monkeypatch.setattr(sys, "argv", ["orthanc-monitor", "--config", str(tmp_path / "monitor.json"), "show", *form])
    assert cli.main() == status
    said = capsys.readouterr().out
    assert ("The monitor has not run a check for 10 days" in said) == bool(status)
    assert ("Nothing is wrong." in said) == (not status and not form)


def test_the_rules_of_prometheus_are_the_table(tmp_path: Path) -> None:
    [group] = json.loads(prometheus.format_rules(settings(tmp_path, limits={"disk_warning_percent": 33})))["groups"]
    by_name = {rule["alert"]: rule for rule in group["rules"]}
    assert len(by_name) == len(RULES) + 1
    assert by_name["OrthancDiskFilling"]["expr"] == (
        "orthanc_monitor_fs_free_percent < 33 unless on (instance, fs) orthanc_monitor_disk_guard == 1"
        " unless on (instance, fs) orthanc_monitor_fs_free_percent < 10"
    )
    assert by_name["OrthancProxyDown"]["for"] == "1m"


def test_grafana_s_own_library_reads_the_dashboard() -> None:
    """And gives it back: a key that it does not know would be lost."""
    plugins.register_default_plugins()
    board = json.loads((ROOT / "roles/orthanc_monitor/files/dashboard.json").read_text())
    again = json.loads(JSONEncoder().encode(dashboard.Dashboard.from_json(board)))
    assert known(board, again) == []
    assert known({**board, "panles": 1}, again) == [".panles"]


def known(there: Any, again: Any, place: str = "") -> list[str]:
    """Where a value is another one, or gone."""
    if isinstance(there, dict):
        pairs = [(value, (again or {}).get(key), f"{place}.{key}") for key, value in there.items()]
    elif isinstance(there, list):
        both = itertools.zip_longest(there, again or [])
        pairs = [(one, other, f"{place}[{number}]") for number, (one, other) in enumerate(both)]
    else:
        return [] if there == again else [place]
    return [wrong for pair in pairs for wrong in known(*pair)]


def test_metrics_name_their_objects() -> None:
    text = prometheus.format_metrics(
        [Sample("fs_free_percent", "fs", "storage", 12.5), Sample("disk_guard", "fs", "storage", 0)]
    )
    assert 'orthanc_monitor_fs_free_percent{fs="storage"} 12.5\n' in text
    assert "# HELP orthanc_monitor_disk_guard 1 while new images are refused\n" in text


def test_what_cannot_be_sent_is_sent_later(tmp_path: Path) -> None:
    event = {"name": "DiskFilling", "object": "storage", "state": "firing", "severity": "warning", "since": 0,
             "summary": "The disk is filling", "remedy": "make space"}  # fmt: skip
    state: dict[str, Any] = {}
    told = settings(tmp_path, webhook="http://127.0.0.1:9/secret-token")
    notify.notify(told, state, [event], 0)
    notify.notify(told, state, [{**event, "state": "resolved"}], 60)
    assert [one["state"] for one in state["pending"]["webhook"]] == ["firing", "resolved"]
    assert state["pending"]["mail"] == []


def test_a_way_that_takes_no_message_is_told_by_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = {"name": "DiskFilling", "object": "storage", "state": "firing", "severity": "warning", "since": 0,
             "summary": "The disk is filling", "remedy": "make space"}  # fmt: skip
    told = settings(tmp_path, webhook="http://127.0.0.1:9/secret-token", mail_to=["it@clinic.example"])
    state: dict[str, Any] = {}
    monkeypatch.setattr(notify, "send_mail", lambda *_: None)
    for minute in (0, 30, 62):
        notify.notify(told, state, [event] if not minute else [], 60 * minute)
    waited = [*notify.measure_unsent(told, state, 3720)]
    assert [(one.object, one.value) for one in waited] == [("mail", 0), ("webhook", 62)]
    wrong, _covered = alerts_of.find_conditions(waited, told, set())
    assert list(wrong) == ["AlertsNotSent/webhook"]
    monkeypatch.setattr(notify, "post_webhook", lambda *_: None)
    notify.notify(told, state, [], 3780)
    assert [one.value for one in notify.measure_unsent(told, state, 3780)] == [0, 0]


def test_what_has_waited_is_posted_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat service refuses a long message each time."""
    taken: list[int] = []

    def post(_settings: Any, events: list[Any], _now: float) -> None:
        if len(events) > 28 or len(taken) == 2:
            taken.append(0)
            raise OSError("413")
        taken.append(len(events))

    monkeypatch.setattr(notify, "post_webhook", post)
    event = {"name": "DiskFilling", "object": "storage", "state": "firing", "severity": "warning", "since": 0,
             "summary": "The disk is filling", "remedy": "make space"}  # fmt: skip
    told = settings(tmp_path, webhook="http://127.0.0.1:9/")
    state: dict[str, Any] = {"pending": {"webhook": [event] * 40}}
    notify.notify(told, state, [event], 0)
    assert (taken, len(state["pending"]["webhook"])) == ([10, 10, 0], 21)  # what was taken is not sent again
    notify.notify(told, state, [], 60)
    assert (taken[3:], state["pending"]["webhook"]) == ([10, 10, 1], [])


def test_a_first_deploy_is_one_message_unless_something_is_critical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def event(name: str, severity: str, state: str = "firing") -> dict[str, Any]:
        told = {"summary": name, "remedy": "look", "since": 0}
        return {"name": name, "object": "", "state": state, "severity": severity, **told}

    sent: list[list[str]] = []
    monkeypatch.setattr(
        notify,
        "post_webhook",
        lambda _settings, events, _now: sent.append([f"{one['name']} {one['state']}" for one in events]),
    )
    told, state = settings(tmp_path, webhook="http://127.0.0.1:9/"), {"began": 1000}
    for moment, events in (
        (1000, [event("Vulnerable", "info"), event("Brief", "warning")]),
        (1060, []),
        (1120, [event("Clock", "warning"), event("Brief", "warning", "resolved")]),
        (1299, []),
    ):
        notify.notify(told, state, events, moment)
        assert sent == []
    notify.notify(told, state, [], 1300)
    assert sent == [["Vulnerable firing", "Clock firing"]]
    notify.notify(told, state, [event("Later", "warning")], 1360)
    assert sent[1:] == [["Later firing"]]
    # what cannot wait takes the others along, and its end is told
    sent.clear()
    state = {"began": 1000}
    notify.notify(told, state, [event("Vulnerable", "info")], 1000)
    notify.notify(told, state, [event("Down", "critical")], 1060)
    notify.notify(told, state, [event("Down", "critical", "resolved")], 1120)
    assert sent == [["Vulnerable firing", "Down firing"], ["Down resolved"]]


def test_a_mail_s_subject_is_the_worst_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def sendmail(*_command: Any, **options: Any) -> Any:
        said.append(options["input"].decode())
        return subprocess.CompletedProcess([], 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", sendmail)
    told = {"object": "", "state": "firing", "remedy": "look", "since": 0}
    known = {**told, "name": "Known", "severity": "info", "summary": "A vulnerability is known"}
    down = {**told, "name": "Down", "severity": "critical", "summary": "Orthanc does not run"}
    notify.send_mail(settings(tmp_path, mail_to=["it@clinic.example"]), [known, down], 0)
    notify.send_mail(settings(tmp_path, mail_to=["it@clinic.example"]), [known], 0)
    assert "] Trouble: Orthanc does not run and 1 more\n" in said[0]
    assert "\nFor information: A vulnerability is known.\n" in said[0]
    assert "] For information: A vulnerability is known\n" in said[1]


def test_a_token_is_not_in_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = {
        "name": "Test",
        "object": "",
        "state": "firing",
        "severity": "info",
        "since": 0,
        "summary": "x",
        "remedy": "y",
    }
    notify.notify(settings(tmp_path, webhook="bad-scheme://127.0.0.1/secret-token"), {}, [event], 0)
    said = capsys.readouterr().err
    assert "webhook cannot be sent" in said
    assert "secret-token" not in said


def test_what_an_older_look_left_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(monitor_state, "IN_MEMORY", tmp_path / "memory.json")
    # apt plans for a machine without packages: for this one it takes seconds
    (tmp_path / "apt.conf").write_text(f'Dir "{tmp_path}"; Dir::State::status "/dev/null";')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    own = settings(tmp_path)
    for text in (
        '{"time": 1, "alerts": {"DiskFilling/storage": []}, "series": 7}',
        "[1]",
        "",
        '{"time": 1, "disk": 3}',
    ):
        (tmp_path / "state.json").write_text(text)
        state = cli.run_check(own)
        assert state["time"] > 1
        assert json.loads((tmp_path / "state.json").read_text())["time"] == state["time"]
    capsys.readouterr()


# --- the program --------------------------------------------------------------------------------
def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = ROOT / "roles/orthanc_monitor/files/orthanc_monitor.py"
    found = {**os.environ, "PYTHONPATH": str(ROOT / "plugins/module_utils")}
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, env=found, capture_output=True, text=True, check=False)


def test_it_helps_and_refuses(tmp_path: Path) -> None:
    assert "check everything" in called("--help").stdout
    none = called("--config", str(tmp_path / "none.json"), "show")
    assert (none.returncode, "Remedy: deploy" in none.stderr) == (2, True)
    (tmp_path / "old.json").write_text('{"clinic": "x"}')
    old = called("--config", str(tmp_path / "old.json"), "show")
    assert (old.returncode, "belongs to another version" in old.stderr) == (2, True)


def test_nobody_to_tell_is_said(tmp_path: Path) -> None:
    settings(tmp_path)
    done = called("--config", str(tmp_path / "monitor.json"), "test")
    assert (done.returncode, "orthanc_monitor_mail_to" in done.stderr) == (1, True)


# --- settings -----------------------------------------------------------------------------------
GOOD: dict[str, Any] = {
    "thresholds": {"days_until_full": 60},
    "disk_guard_percent": 5,
    "mail_to": ["it@clinic.example"],
    "mail_from": "orthanc@clinic.example",
    "smtp": {"host": "mail.clinic.example", "port": 587, "user": "orthanc", "password": "a secret"},
    "webhook": "https://hooks.clinic.example/T0/B0",
    "prometheus_sources": ["192.0.2.10", "2001:db8::/64"],
    "accepted_cves": ["CVE-2026-10528"],
}


def wrong(**change: Any) -> list[str]:
    return [f"{item['path']} {item['message']} {item['remedy']}" for item in monitoring.problems({**GOOD, **change})]


@pytest.mark.parametrize(
    "change", [{}, {"smtp": {}, "mail_to": [], "mail_from": "", "webhook": ""}, {"disk_guard_percent": 0}]
)
def test_good_settings(change: dict[str, Any]) -> None:
    assert wrong(**change) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"thresholds": {"days_until_ful": 60}}, "did you mean days_until_full?"),
        ({"thresholds": {"days_until_full": "60"}}, "must be a number, not"),
        ({"thresholds": {"days_until_full": True}}, "must be a number, not"),
        ({"thresholds": []}, "must be a dictionary"),
        ({"disk_guard_percent": 60}, "from 0 to 50"),
        ({"disk_guard_percent": "five"}, "from 0 to 50"),
        ({"mail_to": "it@clinic.example"}, "must be a list"),
        ({"mail_to": ["clinic.example"]}, "is not an e-mail address"),
        ({"mail_to": ["a@b\nBcc: c@d"]}, "is not an e-mail address"),
        ({"mail_from": ""}, "mail_from"),
        ({"smtp": {"port": 25}}, "smtp.host is missing"),
        ({"smtp": {"host": "m", "user": "u"}}, "smtp.password is missing"),
        ({"smtp": {"host": "m", "user": "u", "password": "p", "tls": False}}, "would send the password unencrypted"),
        ({"smtp": {"host": "m", "user": "u", "password": "p", "tls": "off"}}, "would send the password unencrypted"),
        ({"smtp": {"host": "m", "tls": "f"}}, "smtp.tls must be true or false"),
        ({"smtp": {"host": "m", "user": "u", "password": 'a"b'}}, "contains a quote"),
        ({"webhook": "hooks.clinic.example"}, "is not a URL"),
        ({"prometheus_sources": ["everybody"]}, "prometheus_sources"),
        ({"prometheus_sources": ["192.0.2.10/24"]}, "prometheus_sources"),
        ({"prometheus_sources": "192.0.2.10"}, "must be a list"),
        ({"prometheus_sources": None}, "must be a list"),
        ({"prometheus_sources": [10]}, "prometheus_sources"),
        ({"prometheus_sources": ["192.0.2.0/255.255.255.0"]}, "should be 192.0.2.0/24"),
        ({"prometheus_sources": ["0.0.0.0/0"]}, "include 0.0.0.0/0: any machine"),
        ({"accepted_cves": ["2026-10528"]}, "is not a CVE"),
    ],
)
def test_wrong_settings(change: dict[str, Any], said: str) -> None:
    [problem] = wrong(**change)
    assert said in problem


def test_no_secret_is_shown() -> None:
    text = "".join(
        wrong(smtp={"host": "m", "user": "u", "password": 'a"b-secret', "tls": False}, webhook="ftp://t0ken")
    )
    assert "secret" not in text
    assert "t0ken" not in text


# --- the speed of the index ------------------------------------------------------------------------
IMAGE = "6dff1e9c-b1d01a3f-d2b4d6a5-4b0ee9d5-ff0f0a4b"


class Recorded(Api):
    """What Orthanc answered, with the seconds that each answer took on the clock of the probe."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, float, int, str]) -> None:
        super().__init__(Account(1, "it", "secret"))
        self.answers, self.clock = [*answers], 0.0
        monkeypatch.setattr(orthanc, "time", SimpleNamespace(monotonic=lambda: self.clock))

    def ask(self, method: str, path: str, body: bytes = b"", accept: str = "*/*") -> Answer:
        expected, seconds, status, text = self.answers.pop(0)
        assert f"{method} {path}" == f"GET {expected}"
        self.clock += seconds
        if not status:
            raise Unanswered("Orthanc does not answer (timed out)")
        return Answer(status, text.encode(), "application/json")


def test_the_fastest_look_up_of_always_the_same_image_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = {}
    some, path = f'[ "{IMAGE}" ]', f"/instances/{IMAGE}"
    one = f'{{ "ID" : "{IMAGE}", "Type" : "Instance" }}'

    def measure(*answers: tuple[str, float, int, str]) -> float | None:
        api = Recorded(monkeypatch, *answers)
        found = orthanc.measure_lookup(api, state)
        assert api.answers == []
        return found

    any_image = "/instances?since=0&limit=1"
    assert measure((any_image, 7, 200, "[]")) is None  # an empty archive
    assert measure((any_image, 7, 200, some), *((path, seconds, 200, one) for seconds in (3, 0.25, 1))) == 0.25
    assert measure(*((path, seconds, 200, one) for seconds in (0.5, 2, 1))) == 0.5
    # what Orthanc does not answer is no measurement; after a deletion it is another image
    with pytest.raises(Unanswered):
        measure((path, 0.5, 200, one), (path, 5, 0, ""))
    assert measure((path, 0.5, 200, one), (path, 0.5, 404, "{}")) is None
    assert measure((any_image, 7, 200, some), *[(path, 0.5, 200, one)] * 3) == 0.5


def test_a_slow_index_is_told_when_it_stays_slow_and_nothing_explains_it(tmp_path: Path) -> None:
    slow, quick, silent = ("lookup_seconds", "", 0.2), ("lookup_seconds", "", 0.02), ("index_up", "", 0)
    told = play(tmp_path, *[[slow]] * 14, [quick], *[[slow]] * 14, [silent], *[[slow]] * 15, *[[quick]] * 3)
    assert {number: events for number, events in enumerate(told) if events} == {
        44: ["firing IndexSlow/"],
        47: ["resolved IndexSlow/"],
    }
    for cause in (("index_statistics", "", 0), ("threads_free", "http", 0)):
        told = play(tmp_path, *[[slow, cause]] * 20)
        assert [event for events in told for event in events if "IndexSlow" in event] == [], cause
    assert not any(play(tmp_path, *[[slow]] * 20, limits={"lookup_seconds": 1}))


# --- the index's statistics -----------------------------------------------------------------------
def test_statistics_are_read_until_they_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = {}
    answers: list[bool | None] = []
    monkeypatch.setattr(index, "has_statistics", lambda _path: answers.pop(0))

    def probe(pid: int, **more: Any) -> list[float]:
        check = Context(settings(tmp_path, **more), state, 0.0)
        check.pid = pid
        return [sample.value for sample in orthanc.probe_statistics(check)]

    answers[:] = [None, False, False, True]
    assert [probe(7), probe(7), probe(7), probe(7)] == [[], [0], [0], [1]]
    assert probe(7) == [1]  # of this process nothing is read any more
    answers[:] = [False, True, True]
    assert [probe(8), probe(0), probe(0)] == [[0], [1], [1]]
    assert probe(9, index_statistics=False) == []
    assert answers == []
