#!/usr/bin/env python3
"""Records what a release of Orthanc asks its index, in tests/support/queries/<release>.json (planned.py).

python3 tests/support/record_queries.py 1.13.0

Orthanc runs in its image of the test bed (RELEASES in bench/index.py), with record_queries.c between it and SQLite; the
host's gcc compiles that. What record_clients.py lists is asked of it. Statements of an existing file stay, with their
reasons; of the others, those that walk through the archive take their reason from one of another release that has the
same first part and walks in the same way. The exit code is 1 if one has none: either the statistics should be better,
or a person writes its `because`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import bed
from index import CONFIGURATION, HOME, RELEASES, await_answer, run_container, write_directory
from planned import QUERIES, find_walks, read_release
from planned import RELEASES as RECORDED
from record_clients import Client, Request, list_recycled, list_requests
from server.orthanc.index import write_statistics

AGENT = Path(__file__).resolve().parents[1] / "agents" / "plans.py"
SOURCE = Path(__file__).with_suffix(".c")
ASKED: dict[str, Any] = {
    **CONFIGURATION,
    "DicomAlwaysAllowStore": True,
    "DicomAlwaysAllowGet": True,
    "DicomAlwaysAllowMove": True,
    "DicomModalitiesInDatabase": True,
    "OrthancPeersInDatabase": True,
    "LogExportedResources": True,
    "OverwriteInstances": True,
    "ExecuteLuaEnabled": True,
    "UserMetadata": {"recorded": 1100},
    "StableAge": 2,
    "DicomWeb": {"Enable": True, "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
}
RECYCLING = {**ASKED, "MaximumPatientCount": 3}


# --- statements ---------------------------------------------------------------------------------
def tidy_statement(text: str) -> str:
    """A statement in one line, as SQLite explains it; nothing of a pragma, or of the scripts that make the tables."""
    line = re.sub(r" ([,)])", r"\1", " ".join(text.split())).rstrip(";")
    line = re.sub(r"^CREATE TEMPORARY TABLE \w+ AS ", "", line)
    asks = re.match(r"WITH|SELECT|INSERT|UPDATE|DELETE", line) and "sqlite_master" not in line and ";" not in line
    return line if asks else ""


def ignore_limits(statement: str) -> str:
    """What two statements have in common that differ in their limits alone."""
    return re.sub(r"(LIMIT|OFFSET) \d+", r"\1 n", statement)


def split_statement(statement: str) -> list[str]:
    """The parts that other statements may have as well; a space joins them."""
    return re.split(r" (?=UNION )|(?<=\)) (?=SELECT 1 AS c0_)", statement)


def find_origin(statement: str, walks: Iterable[str]) -> tuple[str, ...]:
    """What statements of two releases have in common that walk for the same reason."""
    return (split_statement(ignore_limits(statement))[0], *walks)


@dataclass
class Recorder:
    """The statements that Orthanc prepared, each with the first request that needed it; and what it refused.

    What Orthanc does by itself counts for the request of that moment."""

    log: Path
    position: int = 0
    asked: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def record(self, request: str, act: Callable[[], object] = bool) -> None:
        """Acts, and keeps what Orthanc prepared since the last request."""
        try:
            act()
        except urllib.error.HTTPError as error:
            self.refused.append(f"{request} ({error.code})")
        with self.log.open("rb") as log:
            log.seek(self.position)
            *texts, rest = log.read().split(b"\0")
            self.position = log.tell() - len(rest)
        for statement in filter(None, (tidy_statement(text.decode()) for text in texts)):
            self.asked.setdefault(statement, request)


def merge_statements(
    known: Mapping[str, Mapping[str, Any]],
    asked: Mapping[str, str],
    walks: Mapping[str, list[str]],
    reasons: Mapping[tuple[str, ...], str],
) -> dict[str, dict[str, Any]]:
    """The known statements and, after them, the new ones; one of those that differ in their limits alone."""
    merged: dict[str, dict[str, Any]] = {}
    seen = set()
    for statement, request in [*((one, about["asked"]) for one, about in known.items()), *asked.items()]:
        if ignore_limits(statement) in seen:
            continue
        seen.add(ignore_limits(statement))
        about: dict[str, Any] = {"asked": request}
        if walks[statement]:
            about["walks"] = walks[statement]
            because = known.get(statement, {}).get("because") or reasons.get(find_origin(statement, walks[statement]))
            about |= {"because": because} if because else {}
        merged[statement] = about
    return merged


# --- Orthanc ------------------------------------------------------------------------------------
def compile_recorder(directory: Path) -> None:
    """Puts record_queries.c beside the archive, where the container finds it; SystemExit without gcc."""
    if not shutil.which("gcc"):
        raise SystemExit("gcc is missing. Remedy: install the packages gcc and libc6-dev")
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror"]
    subprocess.run(["gcc", *options, "-o", str(directory / "record.so"), str(SOURCE), "-ldl"], check=True)


@contextlib.contextmanager
def run_recorded(release: str, directory: Path, configuration: dict[str, Any]) -> Iterator[Client]:
    """Orthanc on the archive of this directory; SystemExit if it is another release."""
    (directory / "orthanc.json").write_text(json.dumps(configuration))
    given = ["--env=LD_PRELOAD=/bench/record.so", "--env=RECORD=/bench/record.log"]
    options = [f"--user={os.getuid()}", *given, "--entrypoint=Orthanc"]
    with run_container("record", RELEASES[release], directory, options, "/bench/orthanc.json") as orthanc:
        await_answer(orthanc)
        version = json.loads(orthanc.ask("/system"))["Version"]
        if version.partition("+")[0] != release:
            raise SystemExit(
                f"The image {RELEASES[release]} has Orthanc {version}. Remedy: correct RELEASES in bench/index.py, or "
                "remove the image, which is then built with the Orthanc of today"
            )
        yield Client(orthanc.address)


def record_release(release: str, directory: Path) -> Recorder:
    """What it asked its index, which stays in the directory."""
    write_directory(directory)
    compile_recorder(directory)
    recorder = Recorder(directory / "record.log")
    recorder.log.touch()
    runs: list[tuple[dict[str, Any], Callable[[Client], Iterable[Request]]]]
    runs = [(ASKED, list_requests), (RECYCLING, list_recycled)]
    for configuration, list_all in runs:
        with run_recorded(release, directory, configuration) as client:
            recorder.record("start")
            for request, act in list_all(client):
                recorder.record(request, act)
        recorder.record("stop")
    if not recorder.asked:
        raise SystemExit(f"Orthanc {release} does not call a shared libsqlite3, so that nothing was recorded")
    return recorder


def explain_statements(release: str, index: Path, statements: Iterable[str]) -> dict[str, Any]:
    """What agents/plans.py finds out with the SQLite of the release's image, on this index with the statistics."""
    write_statistics(index)
    volumes = [f"--volume={index}:/index:ro", f"--volume={AGENT}:/agent.py:ro"]
    options = ["--rm", "--interactive", *volumes, "--entrypoint=python3", bed.image(RELEASES[release])]
    done = bed.run("docker", "run", *options, "/agent.py", "/index", input=json.dumps([*statements]))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def read_schema(index: Path) -> list[str]:
    """The statements that make the tables, indexes and triggers of this index, each in one line."""
    with contextlib.closing(sqlite3.connect(index)) as database:
        rows = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
        return [" ".join(re.sub(r"--.*", "", text).split()) for (text,) in rows]


# --- the file -----------------------------------------------------------------------------------
def read_known(release: str) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, ...], str]]:
    """The statements of this release's file, and the reasons in all files by find_origin."""
    files = {one: read_release(one)[1] for one in RECORDED}
    reasons = {
        find_origin(statement, about["walks"]): about["because"]
        for statements in files.values()
        for statement, about in statements.items()
        if "because" in about
    }
    return files.get(release, {}), reasons


def write_file(release: str, sqlite: str, schema: list[str], statements: dict[str, dict[str, Any]]) -> None:
    """What planned.py reads, a line for each statement."""
    parts: dict[str, int] = {}
    rows = []
    for statement, about in statements.items():
        numbers = [parts.setdefault(part, len(parts)) for part in split_statement(statement)]
        rows.append({"asked": about["asked"], "parts": numbers, **about})
    head = json.dumps({"orthanc": release, "sqlite": sqlite, "schema": schema, "parts": [*parts]}, indent=1)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path = QUERIES / f"{release}.json"
    path.write_text(head.removesuffix("\n}") + f',\n "statements": [\n{lines}\n ]\n}}\n')
    print(f"{path}: {len(rows)} statements")


def find_unexplained(statements: Mapping[str, Mapping[str, Any]], hidden: Mapping[str, list[str]]) -> Iterator[str]:
    """Those that walk through the archive and do not say why, each with what it does."""
    for statement, about in statements.items():
        if "walks" in about and "because" not in about:
            yield f"{about['asked']}: {', '.join(about['walks'])}\n  {statement}"
    for statement, plan in hidden.items():
        if walks := find_walks(statement, plan):
            yield f"a trigger or a cascading deletion: {', '.join(walks)}\n  {statement}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", choices=RELEASES, help="of Orthanc")
    release = parser.parse_args().release
    directory = HOME / release / "record"
    with bed.alone():
        bed.engine_up()
    recorder = record_release(release, directory)
    known, reasons = read_known(release)
    index = directory / "db" / "index"
    found = explain_statements(release, index, {**known, **recorder.asked})
    walks = {one: find_walks(one, plan) for one, plan in found["plans"].items()}
    statements = merge_statements(known, recorder.asked, walks, reasons)
    write_file(release, found["sqlite"], read_schema(index), statements)
    shutil.rmtree(directory)
    prepared = {ignore_limits(one) for one in recorder.asked}
    changed = [about["asked"] for one, about in known.items() if walks[one] != about.get("walks", [])]
    for what, names in {
        "refused": recorder.refused,
        "new": [about["asked"] for one, about in statements.items() if one not in known],
        "known, and not prepared this time": [
            f"{about['asked']}: {one}" for one, about in known.items() if ignore_limits(one) not in prepared
        ],
        "known, with another plan": changed,
    }.items():
        print(f"{what}: {len(names)}", *names, sep="\n  ")
    if unexplained := [*find_unexplained(statements, found["hidden"])]:
        print("walks through the archive, and has no reason:", *unexplained, sep="\n")
        raise SystemExit("Remedy: change STATISTICS so that these need not walk, or write why they must as `because`")


if __name__ == "__main__":
    main()
