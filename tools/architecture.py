#!/usr/bin/env python3
"""Draws the subpackages of the server's package, from their imports, into docs/architecture.md: `make docs`.

--check only reports whether the drawing is up to date.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "plugins" / "module_utils" / "server"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawing: make docs -->\n", "<!-- end of drawing -->\n"
COMMANDS = {
    "backup": "orthanc-backup",
    "monitor": "orthanc-monitor",
    "worklist": "orthanc-worklist",
    "verify": "orthanc-verify",
    "status": "orthanc-status",
}


def find_imports(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Each subpackage, and the others that its files import from."""
    rooms = {path.name: set[str]() for path in package.iterdir() if any(path.glob("*.py"))}
    for room, found in rooms.items():
        for path in (package / room).rglob("*.py"):
            depth = len(path.relative_to(package).parts)
            for node in ast.walk(ast.parse(path.read_text())):
                # as many dots as there are directories up to the package
                if isinstance(node, ast.ImportFrom) and node.level == depth:
                    names = [node.module] if node.module else [alias.name for alias in node.names]
                    found.update(name.partition(".")[0] for name in names)
        found &= rooms.keys() - {room}
    return rooms


def draw_rooms(imports: dict[str, set[str]]) -> str:
    """A Mermaid block: the commands at the top, core at the bottom, and an arrow for each import."""
    lines = ["```mermaid", "flowchart TD"]
    for room in sorted(imports, key=lambda one: (one not in COMMANDS, one)):
        label = f"{room}<br/><i>{COMMANDS[room]}</i>" if room in COMMANDS else room
        lines.append(f'  {room}["{label}"]')
    lines += [f"  {room} --> {other}" for room in sorted(imports) for other in sorted(imports[room])]
    return "\n".join([*lines, "```", ""])


def replace_drawing(text: str, drawing: str) -> str:
    """The page with the drawing between its two markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawing}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the drawing is not up to date")
    chosen = parser.parse_args()
    text = PAGE.read_text()
    drawn = replace_drawing(text, draw_rooms(find_imports()))
    if not chosen.check:
        PAGE.write_text(drawn)
    elif drawn != text:
        print(f"{PAGE.relative_to(ROOT)} is out of date. Remedy: make docs.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
