# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A copy of Orthanc's index (SQLite; the tables are in Orthanc's PrepareDatabase.sql), which is only read."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def open_index(path: Path) -> Iterator[sqlite3.Connection]:
    """The index in this file, closed afterwards. sqlite3.Error where it is none. Never of an Orthanc that runs."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        yield database
