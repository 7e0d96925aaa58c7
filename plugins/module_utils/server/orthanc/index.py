# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc's index (SQLite; the tables are in Orthanc's PrepareDatabase.sql): a copy that is only read, and the
statistics with which SQLite plans Orthanc's queries (docs/performance.md)."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

# How many rows a table has, and how many share a value of the index's first column, of its first two, ...
# (https://www.sqlite.org/fileformat2.html#stat1tab). Not counted, but the same for every archive. What matters is which
# way is the shorter one: a key before a text's beginning, that before a tag, that before all resources of a level, that
# before a whole table. tests/support/queries has the statements that are planned with them.
STATISTICS = {
    ("Resources", "PublicIndex"): "100000000000 1",
    ("Resources", "ResourceTypeIndex"): "100000000000 10000000",
    ("Resources", "ChildrenIndex"): "100000000000 10",
    ("AttachedFiles", "sqlite_autoindex_AttachedFiles_1"): "1000000000000 1 1",
    ("Metadata", "sqlite_autoindex_Metadata_1"): "1000000000000 8 1",
    ("MainDicomTags", "sqlite_autoindex_MainDicomTags_1"): "1000000000000 8 8 1",
    ("MainDicomTags", "MainDicomTagsIndex1"): "1000000000000 8",
    ("DicomIdentifiers", "sqlite_autoindex_DicomIdentifiers_1"): "10000000 3 3 1",
    ("DicomIdentifiers", "DicomIdentifiersIndex1"): "10000000 3",
    # up to Orthanc 1.12.7 at least
    ("DicomIdentifiers", "DicomIdentifiersIndex2"): "10000000 3000000 1000000",
    ("DicomIdentifiers", "DicomIdentifiersIndexValues"): "10000000 3",
    # instead of these two, by 1.13.0 at the latest
    ("DicomIdentifiers", "DicomIdentifiersIndex3"): "10000000 3000000 1000000 3",
    # from Orthanc 1.12.0 on
    ("Labels", "LabelsIndex1"): "900000000 1",
    ("Labels", "sqlite_autoindex_Labels_1"): "900000000 1 1",
}


@contextlib.contextmanager
def open_index(path: Path) -> Iterator[sqlite3.Connection]:
    """The index in this file, closed afterwards. sqlite3.Error where it is none. Never of an Orthanc that runs."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        yield database


def has_statistics(path: Path) -> bool | None:
    """Whether the index has these statistics; None where there is no index, or none that can be read yet.

    It asks for no lock, since an Orthanc that runs holds the only one, and does not see what is in the write-ahead log;
    write_statistics leaves nothing there."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if "Resources" not in names:
                return None
            rows = database.execute("SELECT tbl, idx, stat FROM sqlite_stat1") if "sqlite_stat1" in names else ()
            found = {(table, name): numbers for table, name, numbers in rows}
            # those of an index that this release of Orthanc does not have may be there, or have gone with it
            needed = {key: numbers for key, numbers in STATISTICS.items() if key[1] in names}
            return found.items() <= STATISTICS.items() and needed.items() <= found.items()
    except sqlite3.Error:
        return None


def write_statistics(path: Path, wanted: bool = True) -> None:
    """Gives the index its statistics, or takes them away, and changes nothing else of it.

    sqlite3.Error where Orthanc runs, or where the index cannot be written."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=0)) as database:
        database.execute("BEGIN EXCLUSIVE")
        database.execute("ANALYZE sqlite_master")  # makes the table, and reads no other
        database.execute("DELETE FROM sqlite_stat1")
        # all of them, also of tables that a later release of Orthanc adds
        rows = [(table, name, numbers) for (table, name), numbers in STATISTICS.items() if wanted]
        database.executemany("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", rows)
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
