"""Text from outside, at each place where a program lets it out: no line of its own, nothing that a terminal obeys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.core import journal
from server.core.escaping import escape, escape_lines

PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"
HOSTILE = "A\n<0>root: everything is fine\x1b[2J\x9b2J\u2028\u202e\r\x07\x7f\ud800"


def is_harmless(text: str) -> bool:
    """Whether nothing in it acts: neither on a line nor on a terminal nor on the direction of what follows."""
    return not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 or one in "\u2028\u2029\u202e\ud800" for one in text)


def test_what_acts_is_seen_instead() -> None:
    assert escape("A\n<0>b\x1b[2J\x9b\u2028\u202e\U000e0001\ud800") == (
        r"A\x0a<0>b\x1b[2J\x9b\u2028\u202e\U000e0001\ud800"
    )
    assert escape_lines("A\x1b\nB\r") == "A\\x1b\nB\\x0d"


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
