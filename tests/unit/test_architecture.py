"""The drawing of the server's package is made of its real imports, and the paths that a newcomer reads are there."""

from __future__ import annotations

import re
from pathlib import Path

import architecture
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_drawing_is_up_to_date() -> None:
    text = architecture.PAGE.read_text()
    drawn = architecture.replace_drawing(text, architecture.draw_rooms(architecture.find_imports()))
    assert drawn == text, "Remedy: make docs"


def test_an_import_of_another_room_is_an_arrow(tmp_path: Path) -> None:
    files = {
        "core/files.py": "import os\n",
        "backup/run.py": "from ..core.files import write_atomic\nfrom . import restic\n",
        "backup/restic.py": "",
        "monitor/probes/disk.py": "def probe():\n    from ...core import files\nfrom ..rules import RULES\n",
        "monitor/rules.py": "RULES = ()\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = architecture.find_imports(tmp_path)
    assert found == {"core": set(), "backup": {"core"}, "monitor": {"core"}}
    assert "  backup --> core\n  monitor --> core\n" in architecture.draw_rooms(found)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_path_that_is_named_is_there(page: str) -> None:
    named = set(re.findall(r"`((?:\w+/)+[\w.-]*)`", (ROOT / page).read_text()))
    # a path within some role, or within the server's package, has no directory of the repository in front
    there = [name for name in named if (ROOT / name.partition("/")[0]).is_dir()]
    assert len(there) > 10
    assert [name for name in sorted(there) if not (ROOT / name).exists()] == []


def test_every_file_that_runs_on_the_server_during_a_deploy_has_its_row() -> None:
    named = re.findall(r"^\| `(plugins/module_utils/\w+\.py)` \|", architecture.PAGE.read_text(), re.MULTILINE)
    assert named == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "plugins/module_utils").glob("*.py"))
