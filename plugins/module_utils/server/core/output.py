# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a command writes for a person or as JSON on standard output, and a progress bar on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from .escaping import escape


def write_line(text: object = "") -> None:
    """One line, every character that would act on a terminal escaped."""
    sys.stdout.write(escape(text) + "\n")


def write_json(value: Any) -> None:
    """The value as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def draw_bar(what: str, share: float, amount: str) -> None:
    """A progress bar over the previous one: its label, 0 to 1, and the amount in words. Only for a terminal."""
    end = "\n" if share >= 1 else ""
    sys.stderr.write(f"\r{what:17} [{'#' * int(30 * share):30}] {amount}{end}")
    sys.stderr.flush()
