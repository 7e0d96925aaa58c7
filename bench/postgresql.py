#!/usr/bin/env python3
"""One Orthanc (1.12.7) with its index in SQLite, with the statistics, and one with it in PostgreSQL 17.

python3 bench/postgresql.py [--sizes 1000 50000] [--runs 5] [--json FILE]

Debian 13's packages, as they are installed; both in turns on one machine. Archives as in bench/index.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "bed"))

import bed
import index
from copies import FIRST, STORED, STUDIES
from index import HOME, Orthanc
from pairs import Comparison, parse_arguments, write_result

RELEASE, IMAGE = "1.12.7", "orthanc-postgresql"
AGAINST = "the same Orthanc with PostgreSQL 17"
CONFIGURATION = {
    **index.CONFIGURATION,
    "Plugins": [*index.CONFIGURATION["Plugins"], f"{index.PLUGINS}/libOrthancPostgreSQLIndex.so"],
    "PostgreSQL": {
        **{"EnableIndex": True, "EnableStorage": False, "EnableSsl": False, "Host": "127.0.0.1", "Port": 5432},
        **{"Database": "orthanc", "Username": "orthanc", "Password": "orthanc"},
    },
}
# the cluster's files are on the disk of the images, as those of SQLite are
START = """
pg_dropcluster 17 main 2>/dev/null || true
install -d -o postgres /bench/pg
pg_createcluster --datadir /bench/pg/main 17 main >/dev/null
pg_ctlcluster 17 main start
su postgres -c 'psql -q' <<END
CREATE ROLE orthanc SUPERUSER LOGIN PASSWORD 'orthanc';
CREATE DATABASE orthanc OWNER orthanc;
END
"""
STOP = "kill $(pidof Orthanc); while pidof Orthanc >/dev/null; do sleep 0.1; done"
DIGEST = "regexp_replace(md5(publicid || k) || substr(md5(k || publicid), 1, 8), '(.{8})(?=.)', '\\1-', 'g')"
DAY = f"to_char(to_date(value, 'YYYYMMDD') + k * {STUDIES}, 'YYYYMMDD')"
TABLES = ("resources", "maindicomtags", "dicomidentifiers", "metadata", "attachedfiles", "changes")


def run_in(orthanc: Orthanc, script: str, *options: str) -> str:
    """What a shell script prints in the container."""
    return bed.docker("exec", *options, orthanc.name, "sh", "-ec", script).stdout


def ask_database(orthanc: Orthanc, *statements: str) -> str:
    """The rows of statements, in one transaction."""
    command = ["exec", "--env=PGPASSWORD=orthanc", orthanc.name, "psql", "-qtA", "-1", "-h", "127.0.0.1"]
    asked = [part for one in statements for part in ("-c", one)]
    return bed.docker(*command, "-U", "orthanc", "orthanc", *asked).stdout.strip()


def copy_rows(orthanc: Orthanc, images: int) -> None:
    """As copies.copy_rows, with PostgreSQL's functions."""
    step = int(ask_database(orthanc, "SELECT max(internalid) FROM resources"))
    text = f"replace(value, '{FIRST}', ({FIRST} + k)::text)"
    changed = {
        ("resources", "internalid"): f"internalid + k * {step}",
        ("resources", "publicid"): DIGEST,
        ("resources", "parentid"): f"parentid + k * {step}",
        ("changes", "seq"): "nextval(pg_get_serial_sequence('changes', 'seq'))",
        ("changes", "internalid"): f"internalid + k * {step}",
    }
    for table in ("maindicomtags", "dicomidentifiers"):
        changed[table, "value"] = f"CASE WHEN taggroup = 8 AND tagelement = 32 THEN {DAY} ELSE {text} END"
    statements = []
    for table in TABLES:
        query = (
            f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}' ORDER BY ordinal_position"
        )
        columns = ask_database(orthanc, query).split()
        changed[table, "id"] = f"id + k * {step}"
        values = ", ".join(changed.get((table, column), column) for column in columns)
        copies = f"generate_series(1, {images // STORED - 1}) AS k"
        names = ", ".join(columns)
        statements.append(f"INSERT INTO {table} ({names}) SELECT {values} FROM {copies} CROSS JOIN {table}")
    last = "SELECT setval(pg_get_serial_sequence('resources', 'internalid'), max(internalid)) FROM resources"
    ask_database(orthanc, *statements, last)
    ask_database(orthanc, "ANALYZE")


@contextlib.contextmanager
def run_postgresql(images: int) -> Iterator[Orthanc]:
    """Orthanc on an archive of so many images, whose index is in PostgreSQL."""
    directory = HOME / RELEASE / "postgresql"
    index.write_directory(directory)
    (directory / "orthanc.json").write_text(json.dumps(CONFIGURATION))
    with index.run_container("postgresql", IMAGE, directory, ["--entrypoint=sleep"], "infinity") as orthanc:
        run_in(orthanc, START)
        start = "exec Orthanc /bench/orthanc.json >/bench/log 2>&1"
        run_in(orthanc, start, "--detach")
        index.await_answer(orthanc)
        index.store_images(orthanc)
        if images > STORED:
            run_in(orthanc, STOP)
            copy_rows(orthanc, images)
            run_in(orthanc, start, "--detach")
            index.await_answer(orthanc)
        found = json.loads(orthanc.ask("/statistics"))["CountInstances"]
        if int(found) != images:
            raise SystemExit(f"{orthanc.name} has {found} of {images} images")
        yield orthanc
        run_in(orthanc, STOP)
        run_in(orthanc, "pg_ctlcluster 17 main stop; rm -rf /bench/pg")
    shutil.rmtree(directory)


def measure_size(images: int, runs: int) -> list[Comparison]:
    with index.run_copy(RELEASE, images, wanted=True) as ours, run_postgresql(images) as theirs:
        return index.measure_both(ours, theirs, AGAINST, images, runs)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[STORED, 50_000], help="of archives; 1000 50000")


def main() -> None:
    chosen = parse_arguments(__doc__, add_options)
    index.prepare_host()
    rows = [row for images in chosen.sizes for row in measure_size(images, chosen.runs)]
    query = "dpkg-query -W -f '${Package} ${Version}\\n' orthanc orthanc-dicomweb orthanc-postgresql postgresql-17"
    shown = bed.docker("run", "--rm", "--entrypoint=sh", bed.image(IMAGE), "-c", query).stdout
    versions = dict(line.split() for line in shown.splitlines())
    what = f"Orthanc {RELEASE}, the index in SQLite with the statistics, and in PostgreSQL"
    write_result(chosen.json, "postgresql", what, "make bench ONLY=postgresql", versions, rows)


if __name__ == "__main__":
    main()
