"""No test of `make test` judges how long something takes: a busy machine is no defect.

Durations and ratios of durations are judged by the campaign and by bench/. Waiting for a condition with a limit is
something else (a guard against what hangs), and so is an order of moments.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted([*ROOT.glob("molecule/*/tests/*.py"), *ROOT.glob("tests/*/*.py")])
CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "time_ns", "monotonic_ns", "now", "utcnow"}
# what devices, programs and tools call the time that something took
DURATIONS = {
    *("seconds", "duration", "elapsed", "took", "spent", "pause", "pauses", "slowest", "longest", "longest_gap"),
    *("time_total", "latency", "median", "timeit"),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_clock(node: ast.AST) -> bool:
    """A call such as time.monotonic() or datetime.now()."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS


def is_written(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


class Durations:
    """Which expressions of a function are durations: the names that it gives them are followed in their order."""

    def __init__(self) -> None:
        self.moments: set[str] = set()
        self.names: set[str] = set()

    def is_moment(self, node: ast.AST) -> bool:
        return any(is_clock(one) or (isinstance(one, ast.Name) and one.id in self.moments) for one in ast.walk(node))

    def found(self, node: ast.AST) -> bool:
        """Whether a difference of moments, or a value that is called a duration, is part of it."""
        for one in ast.walk(node):
            if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Sub) and self.is_moment(one):
                return True
            if isinstance(one, ast.Name) and (one.id in self.names or one.id in DURATIONS):
                return True
            if isinstance(one, ast.Attribute) and one.attr in DURATIONS:
                return True
            if isinstance(one, ast.Subscript) and isinstance(one.slice, ast.Constant) and one.slice.value in DURATIONS:
                return True
        return False

    def follow(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign) and statement.value:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = {one.id for target in targets for one in ast.walk(target) if is_written(one)}
            if self.found(statement.value):
                self.names |= names
            elif is_clock(statement.value):
                self.moments |= names


def is_campaign(function: Function) -> bool:
    """Marked as a whole; a mark of one parameter leaves the others in make test."""
    return any(ast.unparse(mark) == "pytest.mark.campaign" for mark in function.decorator_list)


def judged(function: Function) -> Iterator[ast.Assert]:
    """The assertions that compare a duration with something."""
    durations = Durations()
    statements = [one for one in ast.walk(function) if isinstance(one, ast.stmt)]
    for statement in sorted(statements, key=lambda one: one.lineno):
        durations.follow(statement)
        if isinstance(statement, ast.Assert):
            compares = [one for one in ast.walk(statement.test) if isinstance(one, ast.Compare)]
            ordered = [
                one for one in compares if any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in one.ops)
            ]
            nearly = [one for one in compares if "approx" in ast.unparse(one)]
            if any(durations.found(one) for one in [*ordered, *nearly]):
                yield statement


def timed(source: str) -> list[str]:
    """Each assertion about a duration that is no campaign's, with its line."""
    tree = ast.parse(source)
    if any(
        isinstance(one, ast.Assign) and ast.unparse(one) == "pytestmark = pytest.mark.campaign" for one in tree.body
    ):
        return []
    functions = [one for one in ast.walk(tree) if isinstance(one, Function) and not is_campaign(one)]
    return [f"line {one.lineno}: {ast.unparse(one)}" for function in functions for one in judged(function)]


@pytest.mark.parametrize("path", TESTS, ids=[str(path.relative_to(ROOT)) for path in TESTS])
def test_no_test_judges_a_duration(path: Path) -> None:
    assert timed(path.read_text()) == []


JUDGES = [
    "assert time.time() - state['last_success_epoch'] < 60",
    "begin = time.monotonic(); work(); assert 1.9 < time.monotonic() - begin < 20",
    "begin = time.monotonic(); work(); took = time.monotonic() - begin; ratio = took / 2; assert ratio <= 1.5, took",
    "longest = 0.0; begin = time.time(); longest = max(longest, time.time() - begin); assert longest < 1",
    "begin = datetime.now(); work(); assert (datetime.now() - begin).total_seconds() < 5",
    "assert said['pause'] <= allowed(1000)",
    "assert slowest(during) <= quiet + max(pauses) + 2",
    "gated = min(seconds(machine)); ratio = gated / 3; assert ratio <= 1.5",
    "spent = times(); assert 0.01 < spent / 10 < 0.6",
    "assert one['longest_gap'] < 1, door",
    "assert all(image.seconds < 2 for image in images)",
    "assert said['seconds'] == pytest.approx(3, rel=0.1)",
]
JUDGES_NOT = [
    "end = time.monotonic() + 60\nwhile not true():\n    assert time.monotonic() < end",
    "began = time.time(); work(); assert state['last_success_epoch'] >= began",
    "begin = time.monotonic(); work(); print(time.monotonic() - begin)",
    "state = {'last_success_epoch': int(time.time()) - 3600}; assert due(state) == 'not due'",
    "assert said['pause_seconds'] == 5",
    "assert growth <= 1.2 * size",
]


@pytest.mark.parametrize("body", JUDGES)
def test_a_judgement_is_found(body: str) -> None:
    lines = "\n    ".join(body.replace("; ", "\n").splitlines())
    assert len(timed(f"def test_it() -> None:\n    {lines}")) == 1
    assert timed(f"@pytest.mark.campaign\ndef test_it() -> None:\n    {lines}") == []
    marked = (
        f"@pytest.mark.parametrize('n', [1, pytest.param(2, marks=pytest.mark.campaign)])\ndef test_it(n):\n    {lines}"
    )
    assert len(timed(marked)) == 1


@pytest.mark.parametrize("body", JUDGES_NOT)
def test_guards_and_orders_are_no_judgement(body: str) -> None:
    lines = "\n    ".join(body.replace("; ", "\n").splitlines())
    assert timed(f"def test_it() -> None:\n    {lines}") == []
