"""Asks the index beside a running Orthanc how SQLite would answer: argument 1 is its file.

Standard input is a JSON list of statements. Prints a JSON object: the version of SQLite, the rows of sqlite_stat1, the
plan of each statement, and those of what no statement names: the triggers' statements and cascading deletions.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import sys

# Orthanc 1.10.1 keeps the resources of a search in a table of its own
LOOKUP = "CREATE TEMPORARY TABLE Lookup AS SELECT publicId, internalId FROM Resources WHERE 0"
FUNCTIONS = {"SignalResourceDeleted": 2, "SignalRemainingAncestor": 2, "SignalFileDeleted": 7}


def list_hidden(index: sqlite3.Connection) -> list[str]:
    """What SQLite does by itself when a row comes or goes. EXPLAIN does not tell."""
    found = []
    for kind, name, text in index.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        if kind == "table":
            keys = index.execute(f"PRAGMA foreign_key_list({name})").fetchall()
            found += [f"DELETE FROM {name} WHERE {key[3]} = ?" for key in keys]
        if kind == "trigger":
            text = re.sub(r"\b(old|new)\.\w+", "?", re.sub(r"--.*", "", text))
            _head, begin, body = re.split(r"(\bBEGIN\b)", text, maxsplit=1)
            condition = re.search(r"\bWHEN\b(.*)BEGIN", text, re.DOTALL)
            found += [f"SELECT {condition.group(1).strip()}"] if condition else []
            found += [one.strip() for one in re.sub(r"\bEND\W*$", "", body).split(";") if begin and one.strip()]
    return found


def explain(index: sqlite3.Connection, statement: str) -> list[str]:
    """The steps of its plan, for texts that begin with a letter."""
    values = ["N%"] * len(re.findall(r"\?", statement))
    return [step[3] for step in index.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


def main() -> None:
    with contextlib.closing(sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)) as index:
        index.execute("PRAGMA case_sensitive_like = true")  # as Orthanc does
        index.execute(LOOKUP)
        for name, arguments in FUNCTIONS.items():
            index.create_function(name, arguments, lambda *_values: None)
        tables = [name for (name,) in index.execute("SELECT name FROM sqlite_master")]
        rows = index.execute("SELECT idx, stat FROM sqlite_stat1").fetchall() if "sqlite_stat1" in tables else []
        plans = {one: explain(index, one) for one in json.load(sys.stdin)}
        hidden = {one: explain(index, one) for one in list_hidden(index)}
    print(json.dumps({"sqlite": sqlite3.sqlite_version, "rows": dict(rows), "plans": plans, "hidden": hidden}))


if __name__ == "__main__":
    main()
