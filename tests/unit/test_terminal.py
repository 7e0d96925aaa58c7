"""No program of ours waits for a terminal: nothing that it starts has its standard input, and nothing asks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("roles/*/files/**/*.py"), *ROOT.glob("plugins/**/*.py")])
STARTERS = {"run", "Popen", "call", "check_call", "check_output"}
# of these standard input is the caller's, whatever the program wishes
ASKERS = {
    *("input", "getpass.getpass", "getpass.unix_getpass", "os.system", "os.popen", "os.spawnv", "os.spawnvp"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"),
}


def find_waiting(source: str) -> Iterator[str]:
    """Line and text of each call that starts a program with the caller's standard input, or asks a person."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module == "subprocess" and names & STARTERS:
                yield f"{node.lineno}: import subprocess itself"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        module, _, name = called.rpartition(".")
        given = {keyword.arg for keyword in node.keywords}
        starts = module == "subprocess" and name in STARTERS
        if called in ASKERS or (starts and not given & {"stdin", "input"}):
            yield f"{node.lineno}: {called}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_has_the_callers_terminal(path: Path) -> None:
    assert [*find_waiting(path.read_text(encoding="utf-8"))] == []


TASKS = sorted([*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("roles/*/handlers/*.yml"), *ROOT.glob("playbooks/*.yml")])
# what asks for a passphrase, a password or a yes; apt is left to its module, which answers for debconf and conffiles
ASKING = re.compile(r"nginx -t|certbot certonly|\b(apt|apt-get|dpkg|ssh|sftp|scp|sudo|su|gpg|git|docker login) [-a-z]")


def find_commands(tasks: Any) -> Iterator[str]:
    """The text of each command and script in tasks, handlers or plays."""
    for task in tasks if isinstance(tasks, list) else []:
        for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
            yield from find_commands(task.get(key))
        for module in ("ansible.builtin.command", "ansible.builtin.shell"):
            told = task.get(module) or {}
            argv = told.get("argv", [])
            yield told.get("cmd", "") + (argv if isinstance(argv, str) else " ".join(map(str, argv)))


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_task_gives_what_asks_a_terminal(path: Path) -> None:
    """Ansible's own connection has a terminal where sudo wants one."""
    for command in find_commands(yaml.safe_load(path.read_text(encoding="utf-8"))):
        plain = re.sub("[',]+", "", command)
        assert not ASKING.search(plain) or ("setsid --wait" in plain and "</dev/null" in plain), command


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run(['ssh'], check=False)",
        "with subprocess.Popen(['ssh'], stdout=x) as process: pass",
        "from subprocess import run",
        "input('Continue? ')",
        "os.system('ssh')",
        "subprocess.getoutput('ssh')",
    ],
)
def test_what_would_wait_is_found(source: str) -> None:
    assert len([*find_waiting(source)]) == 1


def test_what_does_not_wait_is_not_found() -> None:
    source = "subprocess.run(['cat'], input=b''); subprocess.Popen(['cat'], stdin=subprocess.DEVNULL); done.run('x')"
    assert [*find_waiting(source)] == []


def test_there_is_something_to_look_through() -> None:
    assert len(SOURCES) > 50
