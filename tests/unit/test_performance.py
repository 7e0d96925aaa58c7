"""docs/performance.md shows what bench/results/*.json say; the programs of bench/ tell how to call them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import measurements
import pairs
import performance
import pytest

ROOT = Path(__file__).resolve().parents[2]


def compare(*, ours: float, theirs: float, **more: Any) -> pairs.Comparison:
    values = {"ours": [ours, ours * 9, ours / 9], "theirs": [theirs * 9, theirs, theirs / 9]}
    return pairs.Comparison(what="reading", against="another", **{"unit": "ms", **values, **more})


def make_result(tmp_path: Path, *rows: pairs.Comparison) -> dict[str, Any]:
    file = tmp_path / "speed.json"
    pairs.write_result(file, "speed", "speed of reading", "make bench", {"Orthanc": "1.12.7"}, rows)
    [result] = measurements.read_results(tmp_path)
    return result


def test_the_page_and_its_drawings_are_up_to_date() -> None:
    files = performance.write_files(measurements.read_results(), performance.PAGE.read_text())
    assert performance.find_stale(files) == [], "Remedy: make docs"


@pytest.mark.parametrize(
    ("row", "ratio", "miss"),
    [
        (compare(ours=2, theirs=40, at_least=20), 20, ""),
        (compare(ours=2, theirs=30, at_least=20), 15, "25 %"),
        (compare(ours=45, theirs=50, rate=True, at_least=0.9), 0.9, ""),
        (compare(ours=30, theirs=50, rate=True, at_least=0.9), 0.6, "33 %"),
        (compare(ours=1.25, theirs=1, at_most=1.25), 1.25, ""),
        (compare(ours=1.5, theirs=1, at_most=1.25), 1.5, "20 %"),
        (compare(ours=48, theirs=1, at_most=10), 48, "4.8 times"),
        (compare(ours=3, theirs=6), 2, ""),
    ],
)
def test_a_ratio_is_that_of_the_medians_and_a_miss_says_by_how_much(
    row: pairs.Comparison, ratio: float, miss: str
) -> None:
    assert row.ratio == pytest.approx(ratio)
    assert performance.format_miss(row) == miss
    assert row.is_reached == (not miss)


def test_both_are_measured_in_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    row = pairs.Comparison("reading", "another", "ms")
    pairs.measure_pairs(row, 3, lambda: measure("ours"), lambda: measure("theirs"))
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (row.ours, row.theirs) == ([1, 4, 5], [2, 3, 6])


def test_only_what_stands_between_the_markers_is_written(tmp_path: Path) -> None:
    missed = compare(ours=3, theirs=2, at_most=1, why="the disk waits")
    lines = [compare(ours=1, theirs=size / 100, size=size) for size in (1000, 50_000)]
    result = make_result(tmp_path, missed, *lines)
    page = f"# Before\n{performance.BEGIN}\nold\n{performance.END}\nafter\n"
    files = performance.write_files([result], page)
    text = files.pop(performance.PAGE)
    assert text.startswith(f"# Before\n{performance.BEGIN}\n")
    assert text.endswith(f"\n{performance.END}\nafter\n")
    assert "old" not in text
    assert "| reading | 3.00 ms | another | 2.00 ms | 1.50 | at most 1 | 50 % |" in text
    assert "| reading, 50,000 images | 1.00 ms | another | 500 ms | 500 | | |" in text
    assert "the disk waits" in text
    assert {path.name for path in files} == {"speed.svg", "speed_sizes.svg"}
    assert performance.write_files([result], text)[performance.PAGE] == text
    with pytest.raises(ValueError, match="lacks"):
        performance.write_files([result], "# Before\n")


def test_a_drawing_that_belongs_to_no_result_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "DRAWINGS", tmp_path)
    (tmp_path / "gone.svg").write_text("")
    (tmp_path / "kept.svg").write_text("kept")
    assert performance.find_stale({tmp_path / "kept.svg": "kept", tmp_path / "new.svg": ""}) == ["new.svg", "gone.svg"]


def list_programs() -> list[str]:
    [names] = re.findall(r"^BENCHES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return str(names).split()


@pytest.mark.parametrize("name", list_programs())
def test_a_program_says_how_to_call_it(name: str) -> None:
    command = [sys.executable, str(ROOT / "bench" / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--json FILE" in done.stdout
