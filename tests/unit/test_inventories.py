"""Files that the docs place relative to an inventory are none of the inventory's own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACED = re.compile(r"inventory_dir(?: \}\}| ~ ')([/.\w-]+)")


def test_no_file_that_the_docs_recommend_is_read_as_an_inventory(tmp_path: Path) -> None:
    inventory, ran = tmp_path / "inventories" / "clinic", tmp_path / "ran"
    shutil.copytree(ROOT / "inventories" / "single_clinic", inventory)
    placed = {name for page in ROOT.glob("docs/*.md") for name in PLACED.findall(page.read_text())}
    assert placed
    for name in placed:
        path = Path(f"{inventory}{name}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {ran}\necho '{{}}'\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["ansible-inventory", "-i", str(inventory), "--list"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert not ran.exists()
    assert "WARNING" not in done.stderr
