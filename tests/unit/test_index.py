"""The statistics of Orthanc's index, in a file with the tables and indexes that they speak of."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import service
from planned import RELEASES, find_walks, read_release
from record_queries import merge_statements, tidy_statement
from server.backup import ledger, manifest, placing, study
from server.orthanc.index import STATISTICS, has_statistics, write_statistics

AGENT = Path(__file__).resolve().parents[1] / "agents/plans.py"
ROW = "INSERT INTO Resources(resourceType, publicId) VALUES (3, 'x')"
BY_IDENTIFIER = "EXPLAIN QUERY PLAN SELECT internalId FROM Resources WHERE resourceType = 3 AND publicId = 'x'"


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def index(tmp_path: Path, release: str) -> Path:
    path = tmp_path / "index"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(f"PRAGMA journal_mode = WAL; {';'.join(read_release(release)[0])}; {ROW};")
    return path


def read(path: Path) -> Iterator[str]:
    """Every statement that would make the index anew, but for the statistics."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        yield from (line for line in database.iterdump() if "sqlite_stat" not in line and "sqlite_master" not in line)


def test_statistics_come_and_go_and_nothing_else_changes(index: Path) -> None:
    before = list(read(index))
    assert has_statistics(index) is False
    write_statistics(index)
    assert has_statistics(index) is True
    assert list(read(index)) == before
    write_statistics(index)
    assert has_statistics(index) is True
    write_statistics(index, wanted=False)
    assert has_statistics(index) is False
    assert list(read(index)) == before
    assert sorted(path.name for path in index.parent.iterdir()) == ["index"]


def test_a_key_is_found_by_its_own_index(index: Path) -> None:
    write_statistics(index)
    with contextlib.closing(sqlite3.connect(index)) as database:
        assert "PublicIndex" in database.execute(BY_IDENTIFIER).fetchone()[3]


def test_other_statistics_are_replaced(index: Path) -> None:
    with contextlib.closing(sqlite3.connect(index)) as database:
        database.execute("ANALYZE")
    assert has_statistics(index) is False
    write_statistics(index)
    assert has_statistics(index) is True


def test_a_release_that_drops_an_index_takes_nothing_that_is_needed(index: Path) -> None:
    """As 1.13.0 does with an archive of 1.12.7: SQLite removes the statistics of an index with it."""
    write_statistics(index)
    with contextlib.closing(sqlite3.connect(index)) as database:
        database.execute("DROP INDEX ChildrenIndex")
        assert not database.execute("SELECT 1 FROM sqlite_stat1 WHERE idx = 'ChildrenIndex'").fetchall()
    assert has_statistics(index) is True
    # but one that is there needs its own
    with contextlib.closing(sqlite3.connect(index)) as database:
        database.execute("DELETE FROM sqlite_stat1 WHERE idx = 'PublicIndex'")
        database.commit()
    assert has_statistics(index) is False


def test_an_index_that_is_in_use_stays_as_it_is(index: Path) -> None:
    with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as orthanc:
        orthanc.execute("PRAGMA locking_mode = EXCLUSIVE")
        orthanc.execute(ROW)
        with pytest.raises(sqlite3.Error, match="locked"):
            write_statistics(index)
        assert has_statistics(index) is not True


@pytest.mark.parametrize("content", [None, b"", b"no index", b"SQLite format 3\0" + bytes(4096)])
def test_what_is_no_index_is_not_judged(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "index"
    if content is not None:
        path.write_bytes(content)
    assert has_statistics(path) is None
    assert path.exists() is (content is not None)


def test_each_row_speaks_of_an_index_of_its_table() -> None:
    found = set()
    for release in RELEASES:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.executescript(";".join(read_release(release)[0]))
            found |= {
                tuple(row) for row in database.execute("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index'")
            }
    assert {*STATISTICS} <= found


def find_unexpected(index: Path, release: str) -> list[str]:
    """What this machine's SQLite would walk through the archive for, though no statement there need be slow."""
    _schema, statements = read_release(release)
    command = [sys.executable, str(AGENT), str(index)]
    done = subprocess.run(command, input=json.dumps([*statements]).encode(), stdout=subprocess.PIPE, check=True)
    plans = json.loads(done.stdout)
    found = [
        about["asked"]
        for one, about in statements.items()
        if not {*find_walks(one, plans["plans"][one])} <= {*about.get("walks", [])}
    ]
    return found + [one for one, plan in plans["hidden"].items() if find_walks(one, plan)]


def test_no_statement_walks_through_the_archive_that_need_not(index: Path, release: str) -> None:
    assert len(find_unexpected(index, release)) > 10
    write_statistics(index)
    assert find_unexpected(index, release) == []


def test_a_statement_that_walks_says_why(release: str) -> None:
    _schema, statements = read_release(release)
    assert sum("walks" in about for about in statements.values()) > 20
    assert [one for one, about in statements.items() if bool(about.get("walks")) != bool(about.get("because"))] == []


def test_a_new_recording_keeps_what_is_known_and_its_reasons() -> None:
    listed, tagged = "SELECT * FROM Changes LIMIT 2", "SELECT value FROM Metadata WHERE id=?"
    known = {listed: {"asked": "list", "walks": ["SCAN Changes"], "because": "in the order of its key"}}
    paged, counted = "SELECT * FROM Changes LIMIT 7", "SELECT COUNT(*) FROM Resources"
    asked = {tagged: "tags", paged: "page", counted: "count"}
    walks = {listed: ["SCAN Changes"], paged: ["SCAN Changes"], tagged: [], counted: ["SCAN Resources"]}
    merged = merge_statements(known, asked, walks, {})
    assert merged == {**known, tagged: {"asked": "tags"}, counted: {"asked": "count", "walks": ["SCAN Resources"]}}
    explained = merge_statements({}, asked, walks, {(counted, "SCAN Resources"): "counts all"})
    assert explained[counted]["because"] == "counts all"
    assert "because" not in explained[paged]


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("SELECT a\n  FROM b WHERE c IN (1 , 2 );", "SELECT a FROM b WHERE c IN (1, 2)"),
        ("CREATE TEMPORARY TABLE Lookup AS SELECT a FROM b", "SELECT a FROM b"),
        ("PRAGMA FOREIGN_KEYS=ON;", ""),
        ("INSERT INTO a VALUES (6, 1); CREATE TABLE b (c)", ""),
        ("SELECT * FROM sqlite_master", ""),
    ],
)
def test_what_is_recorded_is_what_asks_the_index(text: str, statement: str) -> None:
    assert tidy_statement(text) == statement


def test_the_backup_reads_a_table_once_where_it_asks_for_everything(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated: list[str] = []

    @contextlib.contextmanager
    def open_traced(path: Path) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.set_trace_callback(stated.append)
            yield database
            database.set_trace_callback(None)

    for module in (ledger, manifest, placing, study):
        monkeypatch.setattr(module, "open_index", open_traced)
    with contextlib.closing(sqlite3.connect(index)) as database:
        rows = "INSERT INTO Resources VALUES (11, 2, 'a', NULL), (12, 3, 'b', 11), (13, 4, 'c', 12);"
        database.executescript(f"{rows} INSERT INTO MainDicomTags VALUES (11, 32, 13, '1.2');")
    write_statistics(index)

    def find_steps() -> list[list[str]]:
        with contextlib.closing(sqlite3.connect(index)) as database:
            plans = [(one, database.execute(f"EXPLAIN QUERY PLAN {one}").fetchall()) for one in stated]
        stated.clear()
        return [find_walks(one, [step[3] for step in plan]) for one, plan in plans]

    assert placing.list_studies_with(index, ["c"])
    assert find_steps() == [[]]
    assert study.find_studies(index, "1.2")
    assert find_steps() == [["SCAN MainDicomTags"], []]  # as a person wrote it, or with another space at its end
    ledger.query_studies(index, 0, "")
    manifest.list_attachments(index)
    manifest.count_resources(index)
    placing.list_studies(index)
    assert [len(steps) for steps in find_steps()] == [1, 1, 1, 1, 0, 1]


def test_a_new_index_whose_tables_are_in_its_log_lacks_them(tmp_path: Path) -> None:
    path, schema = tmp_path / "index", ";".join(read_release(RELEASES[0])[0])
    assert not service.lacks_statistics(path, wanted=True)
    with contextlib.closing(sqlite3.connect(path)) as orthanc:
        orthanc.executescript(f"PRAGMA journal_mode = WAL; PRAGMA locking_mode = EXCLUSIVE; BEGIN; {schema}; COMMIT;")
        assert service.lacks_statistics(path, wanted=True)
        assert not service.lacks_statistics(path, wanted=False)
    assert service.lacks_statistics(path, wanted=True)
    write_statistics(path)
    assert not service.lacks_statistics(path, wanted=True)
    assert service.lacks_statistics(path, wanted=False)
