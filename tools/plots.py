"""Drawings for docs/performance.md, in SVG that is legible on a light and a dark page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape

from pairs import Comparison, format_number

STYLE = """\
<style>
  svg { color-scheme: light dark; font: 13px system-ui, sans-serif }
  .page { fill: #fff } .text { fill: #1f2328 } .faint { fill: #59636e } .goal { fill: #1a7f37 }
  .line { stroke: #d1d9e0 } .same { stroke: #59636e } .target { stroke: #1a7f37; stroke-width: 2 }
  .ours { fill: #0969da; stroke: #0969da } .theirs { fill: #bc4c00; stroke: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #f0f6fc } .faint { fill: #9198a1 } .goal { fill: #3fb950 }
    .line { stroke: #3d444d } .same { stroke: #9198a1 } .target { stroke: #3fb950 }
    .ours { fill: #4493f8; stroke: #4493f8 } .theirs { fill: #f0883e; stroke: #f0883e }
  }
  path.ours, path.theirs { fill: none; stroke-width: 2 } text { stroke: none !important }
</style>"""
TICKS = [number * 10**power for power in range(-3, 6) for number in (1, 2, 5)]
WIDTH, LABEL, ROW, PANEL = 760, 330, 40, (240, 190)


def write_text(x: float, y: float, text: str, kind: str = "text", anchor: str = "start", size: int = 13) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
    )


def draw_line(kind: str, x: float, y: float, x2: float, y2: float) -> str:
    return f'<path class="{kind}" d="M{x:.1f} {y:.1f}L{x2:.1f} {y2:.1f}"/>'


def draw_dot(kind: str, x: float, y: float) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3" fill-opacity=".5"/>'


def wrap_drawing(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """An SVG of this size, with a page of its own."""
    size = f'width="{width:.0f}" height="{height:.0f}"'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
    page = f'<rect class="page" {size}/>'
    return "\n".join([begin, f"<title>{escape(title)}</title>", STYLE, page, *parts, "</svg>"]) + "\n"


def draw_ratios(title: str, rows: Sequence[Comparison]) -> str:
    """How many times as fast ours is in each run (dots) and for the medians (bar), with the target, on one log axis."""
    runs = [[find_speed(one, *pair) for pair in zip(one.ours, one.theirs, strict=True)] for one in rows]
    targets = [one.at_least or (1 / one.at_most if one.at_most else None) for one in rows]
    values = [1.0, *(value for run in runs for value in run), *(one for one in targets if one)]
    low, high = min(values) / 1.15, max(values) * 1.15
    bottom = 34 + ROW * len(rows)

    def place(value: float) -> float:
        return LABEL + (WIDTH - LABEL - 30) * math.log(value / low) / math.log(high / low)

    parts = [write_text(12, 20, "times as fast as what it is compared with", "faint")]
    for tick in choose_ticks(low, high):
        kind = "same" if tick == 1 else "line"
        parts += [draw_line(kind, place(tick), 30, place(tick), bottom)]
        parts += [write_text(place(tick), bottom + 16, f"{tick:g}", "faint", "middle", 12)]
    for number, (one, run, target) in enumerate(zip(rows, runs, targets, strict=True)):
        y = 34 + ROW * number + ROW / 2
        median = find_speed(one, statistics.median(one.ours), statistics.median(one.theirs))
        parts += [write_text(12, y - 3, one.what), write_text(12, y + 12, f"against {one.against}", "faint", size=11)]
        if target:
            parts.append(draw_line("target", place(target), y - 15, place(target), y + 15))
        parts += [
            f'<circle class="ours" cx="{place(value):.1f}" cy="{y:.1f}" r="3" fill-opacity=".5"/>' for value in run
        ]
        parts.append(f'<rect class="ours" x="{place(median) - 2:.1f}" y="{y - 10:.1f}" width="4" height="20"/>')
    parts.append(write_text(12, bottom + 16, "dots: runs; bar: medians", "faint", size=11))
    parts.append(write_text(160, bottom + 16, "green: to reach", "goal", size=11))
    return wrap_drawing(WIDTH, bottom + 28, title, parts)


def draw_sizes(title: str, rows: Sequence[Comparison]) -> str:
    """The medians over the number of images in the archive, one panel for each name; both axes are logarithmic."""
    names = list(dict.fromkeys(one.what for one in rows))
    width, height = PANEL
    parts = []
    for number, name in enumerate(names):
        shown = sorted((one for one in rows if one.what == name), key=lambda one: one.size or 0)
        left, top = 12 + (width + 8) * (number % 3), 30 + height * (number // 3)
        parts += [write_text(left, top, name, size=12), *draw_panel(left, top, shown)]
    bottom = 40 + height * math.ceil(len(names) / 3)
    parts += [
        write_text(12, bottom, "here", "ours", size=12),
        write_text(52, bottom, "there", "theirs", size=12),
    ]
    return wrap_drawing(WIDTH, bottom + 14, title, parts)


def draw_panel(left: float, top: float, rows: Sequence[Comparison]) -> list[str]:
    """One panel of `draw_sizes`, below its name."""
    sizes = [max(1, one.size or 1) for one in rows]
    ours = [statistics.median(one.ours) for one in rows]
    theirs = [statistics.median(one.theirs) for one in rows]
    low, high = min(*ours, *theirs) / 1.3, max(*ours, *theirs) * 1.3
    x_low, x_high = min(sizes) / 1.3, max(sizes) * 1.3
    right, begin, end = left + PANEL[0] - 24, top + 10, top + PANEL[1] - 44
    start = left + 44

    def place(size: float, value: float) -> tuple[float, float]:
        x = start + (right - start) * math.log(size / x_low) / math.log(x_high / x_low)
        return x, end - (end - begin) * math.log(value / low) / math.log(high / low)

    parts = [write_text(left, top + PANEL[1] - 12, f"{rows[0].unit}; 1,000 images in the archive", "faint", size=10)]
    for tick in choose_ticks(low, high, 4):
        y = place(x_low, tick)[1]
        parts += [draw_line("line", start, y, right, y)]
        parts += [write_text(start - 4, y + 4, f"{tick:,g}", "faint", "end", 10)]
    for size in sizes:
        parts.append(write_text(place(size, low)[0], end + 14, f"{size / 1000:g}", "faint", "middle", 10))
    for kind, values in (("theirs", theirs), ("ours", ours)):
        points = [place(size, value) for size, value in zip(sizes, values, strict=True)]
        parts.append(f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')
        parts += [draw_dot(kind, x, y) for x, y in points]
    return parts


def find_speed(one: Comparison, ours: float, theirs: float) -> float:
    """How many times as fast ours is."""
    return ours / theirs if one.rate else theirs / ours


def choose_ticks(low: float, high: float, number: int = 9) -> list[float]:
    """Round numbers between two, at most so many: powers of ten if there are more."""
    found = [tick for tick in TICKS if low <= tick <= high]
    return found if len(found) <= number else [tick for tick in found if format_number(tick).strip("0.,") == "1"]
