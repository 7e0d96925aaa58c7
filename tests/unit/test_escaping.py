"""Text from outside, at each place where a program lets it out: no line of its own, nothing that a terminal obeys."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import cli as verify
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import report
from hypothesis import given
from hypothesis import strategies as st
from server.backup import run
from server.backup.output import print_result, say_problem
from server.core import journal, monitor_state
from server.core.errors import Refused
from server.core.escaping import escape
from server.monitor import cli as monitor
from server.monitor import describe, notify, prometheus
from server.monitor.context import Sample
from server.worklist import cli, intake, spool
from server.worklist.settings import Settings

PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"
HOSTILE = "A\n<0>root: everything is fine\x1b[2J\x9b2J\u2028\u202e\r\x07\x7f\ud800"


def is_harmless(text: str) -> bool:
    """Whether nothing in it acts: neither on a line nor on a terminal nor on the direction of what follows."""
    return not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 or one in "\u2028\u2029\u202e\ud800" for one in text)


def test_what_acts_is_seen_instead() -> None:
    assert escape("A\n<0>b\x1b[2J\x9b\u2028\u202e\U000e0001\ud800") == (
        r"A\x0a<0>b\x1b[2J\x9b\u2028\u202e\U000e0001\ud800"
    )


@pytest.mark.parametrize("name", ["Müller^Jürgen", "山田^太郎", "علی‌رضا", "Zoë O'Neil", "محمد", "नमस्ते‍", "🙂"])
def test_names_of_this_world_stay(name: str) -> None:
    assert escape(name) == name


@given(st.text(st.characters()))
def test_nothing_acts_and_twice_is_once(text: str) -> None:
    once = escape(text)
    assert is_harmless(once)
    assert escape(once) == once
    once.encode()


def test_a_line_has_its_own_priority(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1")
    journal.say(HOSTILE, journal.WARNING)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("<4>A")
    assert is_harmless(line)


def test_an_error_that_nobody_caught_says_no_more() -> None:
    program = f"from server.core import journal; journal.prepare_output(); raise ValueError({HOSTILE!r})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "INVOCATION_ID": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) > 2
    assert all(line.startswith("<3>") and is_harmless(line) for line in lines)


# --- each program ---------------------------------------------------------------------------------
EVENT = {
    **{"name": "Devices", "object": HOSTILE, "detail": HOSTILE, "severity": "warning", "state": "firing", "since": 0},
    **{"summary": "A device " + HOSTILE, "remedy": "none", "told": 0, "firing": True, "covered": False},
}


@pytest.mark.parametrize("named", [run, monitor, intake], ids=lambda one: one.__name__)
def test_a_line_for_the_journal(
    named: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1")
    named.say(HOSTILE, 4)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("<4>A")
    assert is_harmless(line)


@pytest.mark.parametrize("say", [say_problem, lambda text: journal.say_loudly(text, "orthanc-verify")])
def test_a_loud_line_is_one_entry_of_the_journal(
    say: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, **_more: called.append(command))
    say(HOSTILE)
    assert is_harmless(capsys.readouterr().err.removesuffix("\n"))
    assert [is_harmless(command[-1]) for command in called] == [True]


def shown(capsys: pytest.CaptureFixture[str], count: int) -> None:
    lines = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert len(lines) == count, lines
    assert all(map(is_harmless, lines)), lines
    assert any("\\x0a" in line for line in lines), lines


def test_what_a_backup_shows(capsys: pytest.CaptureFixture[str]) -> None:
    resend = {"aet": HOSTILE, "time": "20260302T100000", "accession": HOSTILE, "study": HOSTILE}
    snapshot = {"id": "1", "time": "2026", "proven": True, "version": HOSTILE, "archive": "0123"}
    snapshot |= {"verified": "", "verified_part": ""}
    print_result({"snapshots": [snapshot], "resend": [resend], "left": [HOSTILE], "warnings": {HOSTILE: HOSTILE}})
    shown(capsys, 5)


def test_what_the_worklist_shows(capsys: pytest.CaptureFixture[str]) -> None:
    step = {"date": "20260302", "time": "0800", "station": "US1", "modality": "US"}
    item = {"accession_number": HOSTILE, "patient_id": HOSTILE, "patient_name": HOSTILE, "steps": [step]}
    cli.show_result({"items": [item]})
    shown(capsys, 1)
    cli.show_result({"waiting": [HOSTILE]})
    shown(capsys, 1)
    cli.show_result({"quarantine": [{"file": HOSTILE, "reason": f"{escape(HOSTILE)}\nsecond\x1b\n"}]})
    shown(capsys, 3)


def test_what_the_monitor_shows_and_measures() -> None:
    state = {"alerts": {"one": EVENT}, "values": [], "time": 0}
    assert all(map(is_harmless, (escape(line) for line in describe.describe_state(state))))
    assert is_harmless(monitor_state.describe_alert(EVENT))
    sample = next(iter(prometheus.HELP))
    text = prometheus.format_metrics([Sample(sample, "device", HOSTILE, 1)])
    assert len(text.splitlines()) == 3
    # Prometheus knows these escapes alone
    assert "\\x" not in text.replace("\\\\", "")


def test_a_mail_is_sent_whatever_a_device_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def send(*_command: Any, **given: Any) -> Any:
        sent.append(given["input"])
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", send)
    settings: Any = types.SimpleNamespace(
        clinic="C", mail_from="a@b.example", mail_to=["c@d.example"], hostname="h", host="h"
    )
    notify.send_mail(settings, [EVENT], 0.0)
    message = email.message_from_bytes(sent[0])
    assert set(message.keys()) >= {"Subject", "To"}
    body: Any = message.get_payload(decode=True)
    assert all(map(is_harmless, body.decode().split("\n")))


def test_what_the_acceptance_test_shows(capsys: pytest.CaptureFixture[str]) -> None:
    check = {"name": "Echo", "expected": "success", "seen": HOSTILE, "passed": False, "waiver": "", "remedy": HOSTILE}
    made = {"checks": [check], "waivers": {"rule": HOSTILE}, "passed": False}
    verify.show(made)
    shown(capsys, 8)
    verify.show({"sentence": HOSTILE})
    shown(capsys, 1)
    page = report.html({**made, "clinic": HOSTILE})
    assert all(map(is_harmless, page.split("\n")))
    assert "\\x0a&lt;0&gt;root" in page


def test_why_a_worklist_item_was_refused(tmp_path: Path) -> None:
    """An application chooses the transfer syntax as well as the name of its file."""
    settings = Settings(tmp_path, tmp_path, "h", [], 1, 10, tmp_path)
    for directory in (settings.incoming, settings.quarantine):
        directory.mkdir(parents=True)
    path = settings.incoming / "A\n<0>b.wl"
    path.write_bytes(b"x")
    assert spool.quarantine_file(settings, path, path.lstat(), Refused(f"The transfer syntax is {HOSTILE}."))
    (reason,) = settings.quarantine.glob("*.reason")
    lines = reason.read_text().removesuffix("\n").split("\n")
    assert len(lines) == 2
    assert all(map(is_harmless, lines))
