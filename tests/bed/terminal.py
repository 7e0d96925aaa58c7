"""A terminal of a given width: what a person at the controller sees of a command."""

from __future__ import annotations

import fcntl
import html
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 100
NO_BREAK = "\N{NO-BREAK SPACE}"  # SVG makes one of many spaces
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def run_in_terminal(
    command: Sequence[str], environment: Mapping[str, str] | None = None, columns: int = COLUMNS
) -> tuple[int, list[str]]:
    """Exit code and the lines that stood in the terminal, without colours. Nothing is typed into it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    chosen = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "clinicops.orthanc.deploy", **(environment or {})}
    with subprocess.Popen(
        command, cwd=ROOT, env=chosen, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True
    ) as running:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:  # how Linux ends a terminal that the last writer closed
            pass
        finally:
            os.close(ours)
    return running.returncode, COLOURS.sub("", written.decode(errors="replace")).replace("\r", "").splitlines()


def draw(lines: Sequence[str]) -> str:
    """The lines as a picture (SVG) of a terminal."""
    height, width = 18 * len(lines) + 24, round(8.43 * COLUMNS) + 24
    texts = [
        f'<text x="12" y="{18 * number + 26}" fill="{colour_of(line)}">{html.escape(line).replace(" ", NO_BREAK)}'
        for number, line in enumerate(lines)
        if line
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="14"',
            '  font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">',
            f'<rect width="{width}" height="{height}" rx="6" fill="#1d1f21"/>',
            *(f"{text}</text>" for text in texts),
            "</svg>",
            "",
        ]
    )


def colour_of(line: str) -> str:
    words = line.split()
    first = words[0] if words else ""
    known = {"Step": "#ffffff", "changed": "#f0c674", "passed": "#b5bd68", "FAILED": "#ff6e67", "[WARNING]:": "#d7a0e0"}
    return known.get(first, "#c5c8c6")
