#!/usr/bin/env python3
"""Counts the product's lines, without tests and documentation, by area: `make lines`.

With a git revision (`tools/lines.py d9a4f13`) it shows the lines of that revision beside them. Every line of a file
that a person wrote counts, including comments and empty lines; data such as schemas do not.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COUNTED = re.compile(r"(?!.*\.(json|png|svg|md)$)(playbooks|plugins|roles)/")
# the first match counts; before the package existed, the programs on the server were files of the roles
ROOMS = (
    (re.compile(r"plugins/module_utils/server/(\w+)/"), r"server: \1"),
    (re.compile(r"roles/\w+/files/.*\.(py|lua)$"), "server: programs in roles"),
    (re.compile(r"plugins/module_utils/"), "plugins: module_utils beside the package"),
    (re.compile(r"plugins/(\w+)/"), r"plugins: \1"),
    (re.compile(r"playbooks/"), "playbooks"),
    (re.compile(r"(roles)/(\w+)/"), r"roles: \2"),
)


def run_git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def find_room(path: str) -> str | None:
    """The area that a file's lines are counted in; None for a file that is not part of the product."""
    if not COUNTED.match(path):
        return None
    return next((found.expand(room) for pattern, room in ROOMS if (found := pattern.match(path))), None)


def count_lines(revision: str = "") -> Counter[str]:
    """Lines by area, of a revision or of the files as they are now."""
    counted: Counter[str] = Counter()
    listed = ["ls-tree", "-r", "--name-only", revision] if revision else ["ls-files"]
    for path in run_git(*listed).splitlines():
        room = find_room(path)
        if room is None or (not revision and not (ROOT / path).is_file()):
            continue
        text = run_git("show", f"{revision}:{path}") if revision else (ROOT / path).read_text()
        counted[room] += len(text.splitlines())
    return counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", help="a revision to compare with")
    chosen = parser.parse_args()
    columns = {chosen.before: count_lines(chosen.before)} if chosen.before else {}
    columns["now"] = count_lines()
    print(f"| area | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}", sep="\n")
    for room in sorted({name for column in columns.values() for name in column}):
        print(f"| {room} | {' | '.join(f'{column[room]:,}' for column in columns.values())} |")
    print(f"| all | {' | '.join(f'{column.total():,}' for column in columns.values())} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
