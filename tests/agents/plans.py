"""Asks the index beside a running Orthanc how SQLite would answer: argument 1 is its file, each further one a query.

Prints a JSON object: the version of SQLite, the rows of sqlite_stat1, and the plan of each query as text.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys

with contextlib.closing(sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)) as index:
    tables = [name for (name,) in index.execute("SELECT name FROM sqlite_master")]
    rows = index.execute("SELECT idx, stat FROM sqlite_stat1").fetchall() if "sqlite_stat1" in tables else []
    plans = {
        query: "\n".join(step[3] for step in index.execute(f"EXPLAIN QUERY PLAN {query}")) for query in sys.argv[2:]
    }
print(json.dumps({"sqlite": sqlite3.sqlite_version, "rows": dict(rows), "plans": plans}))
