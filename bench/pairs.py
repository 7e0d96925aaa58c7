"""What the programs of bench/ share: measurements in pairs, and results as tools/measurements.py reads them."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# the load of the last minute, up to which a machine counts as quiet
QUIET = 0.5


@dataclass
class Comparison:
    """One row of docs/performance.md: the same thing done by us and by another, run by run, in one unit.

    `at_least` is how many times as fast ours must be, `at_most` how many times as long it may take. A larger value is
    better for a rate (`MB/s`), a smaller one for a duration (`ms`). `size` is the number of images in the archive,
    for rows of one name that are drawn as a line. `why` says, where the target is missed, what the profile shows.
    """

    what: str
    against: str
    unit: str
    rate: bool = False
    at_least: float | None = None
    at_most: float | None = None
    size: int | None = None
    why: str = ""
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def add_pair(self, ours: float, theirs: float) -> None:
        """Adds what one run measured."""
        self.ours.append(ours)
        self.theirs.append(theirs)

    @property
    def ratio(self) -> float:
        """Of medians: how many times as fast ours is; if the target is `at_most`, how many times as long it takes."""
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        more = ours / theirs
        return more if self.rate == (self.at_most is None) else 1 / more

    @property
    def is_reached(self) -> bool:
        """Whether the target is reached; true if there is none."""
        ratio = self.ratio
        return ratio >= (self.at_least or 0) and (self.at_most is None or ratio <= self.at_most)

    def describe(self) -> str:
        """The row as a phrase, for a terminal and docs/measurements.md."""
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        verb = "times as fast as" if self.at_most is None else "times as long as"
        size = "" if self.size is None else f", {self.size:,} images"
        target = ""
        if self.at_least is not None or self.at_most is not None:
            target = f"; {format_target(self.at_least, self.at_most)}: {'reached' if self.is_reached else 'missed'}"
        values = f"{format_number(ours)} and {format_number(theirs)} {self.unit}"
        return f"{self.what}{size}: {format_number(self.ratio)} {verb} {self.against} ({values}{target})"


def format_number(value: float) -> str:
    """Three digits, or all those before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def format_target(at_least: float | None, at_most: float | None) -> str:
    """What is to be reached, as a phrase; empty if nothing is."""
    if at_least is not None:
        return f"at least {at_least:g}"
    return "" if at_most is None else f"at most {at_most:g}"


def measure_pairs(
    comparison: Comparison, runs: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> Comparison:
    """Measures both, one after the other, as often as asked for; each begins every second time."""
    for number in range(runs):
        if number % 2:
            second = theirs()
            comparison.add_pair(ours(), second)
        else:
            first = ours()
            comparison.add_pair(first, theirs())
    print(comparison.describe(), flush=True)
    return comparison


def parse_arguments(
    description: str, options: Callable[[argparse.ArgumentParser], Any] | None = None, *, runs: int = 5
) -> argparse.Namespace:
    """The arguments that every program has, `--json`, `--runs` and `--keep`, and those that `options` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    parser.add_argument("--runs", type=int, default=runs, help=f"runs of each kind, of us and the other; {runs}")
    parser.add_argument("--keep", action="store_true", help="keep the machines, which the next run then uses")
    if options:
        options(parser)
    return parser.parse_args()


def write_result(
    path: Path | None,
    identifier: str,
    what: str,
    command: str,
    versions: Mapping[str, str],
    comparisons: Sequence[Comparison],
    **more: Any,
) -> None:
    """Writes the result of a program, if a file is given: rows for docs/performance.md, a phrase for measurements.md.

    `command` repeats it. `more` is kept in the file.
    """
    if not path:
        return
    first, _five, _fifteen = os.getloadavg()
    result = {
        "id": identifier,
        "section": "measurement",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": dict(versions),
        "command": f"`{command}`",
        "what": what,
        "figure": "; ".join(one.describe() for one in comparisons),
        "promised": "",
        **more,
        "load": {"start": LOAD, "end": round(first, 2), "quiet": LOAD <= QUIET},
        "comparisons": [vars(one) for one in comparisons],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def read_comparisons(result: Mapping[str, Any]) -> list[Comparison]:
    """The rows of a result that `write_result` wrote; none of another."""
    return [Comparison(**one) for one in result.get("comparisons", [])]


# of the machine before this program has done anything
LOAD = round(os.getloadavg()[0], 2)
