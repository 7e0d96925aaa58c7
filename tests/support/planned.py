"""What Orthanc asks its index, release by release, and whether a plan of SQLite's walks through the archive.

tests/support/queries/<release>.json: the tables and indexes of a new index, and each statement that the release
prepared while a client stored, searched, fetched and deleted (`asked` is the first request that needed it). A
statement's `parts` are joined by a space. `walks` are the steps of its plan that may walk through the archive,
`because` is why no statistics can help.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clients import ask_index
from server.orthanc.index import STATISTICS

QUERIES = Path(__file__).with_name("queries")
RELEASES = sorted(path.stem for path in QUERIES.glob("*.json"))
# they have a row or more for each image, study or request
LARGE = {
    *("Resources", "MainDicomTags", "DicomIdentifiers", "Metadata", "AttachedFiles", "Labels"),
    *("Changes", "ExportedResources", "PatientRecyclingOrder", "DeletedFiles"),
}
# all resources of a level, and all values of a tag
WALKS = re.compile(r"INDEX (ResourceTypeIndex \(|DicomIdentifiersIndex[23] \(tagGroup=\? AND tagElement=\?\))")


def read_release(release: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The schema of a release's index, and its statements, each with `asked`, and perhaps `walks` and `because`."""
    found = json.loads((QUERIES / f"{release}.json").read_text())
    return found["schema"], {
        " ".join(found["parts"][number] for number in one["parts"]): one for one in found["statements"]
    }


def find_walks(statement: str, plan: list[str]) -> list[str]:
    """The steps of a plan that read a whole table, all resources of a level, or all values of a tag."""
    found = []
    for step in plan:
        scanned = re.match(r"SCAN (\w+)", step)
        table = scanned.group(1) if scanned else ""
        alias = re.search(rf"(?:FROM|JOIN) (\w+) (?:AS )?{table}\b", statement) if table else None
        if WALKS.search(step) or {table, alias.group(1) if alias else ""} & LARGE:
            found.append(step)
    return found


def check_plans(machine: str, release: str, inside: tuple[str, ...] = ()) -> None:
    """Requires that the index beside Orthanc has the statistics, and that no statement walks that need not.

    `inside` is the beginning of a command that asks the SQLite of a container."""
    _schema, statements = read_release(release)
    found = ask_index(machine, *statements, inside=inside)
    print(release, "on SQLite", found["sqlite"])
    assert found["rows"] == {name: numbers for (_table, name), numbers in STATISTICS.items()}
    walks = {one: find_walks(one, plan) for one, plan in found["plans"].items()}
    assert walks == {one: about.get("walks", []) for one, about in statements.items()}
    assert len(found["hidden"]) > 15
    assert {one: find_walks(one, plan) for one, plan in found["hidden"].items()} == {one: [] for one in found["hidden"]}
