"""A controller without what the checks need says so at once, and what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LACKING = """
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name == "jsonschema":
            raise ModuleNotFoundError("No module named 'jsonschema'")
sys.meta_path.insert(0, Lacking())
"""


def said_by(playbook: str, tmp_path: Path, lacks: bool) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(LACKING)
    (tmp_path / "orthanc.json").write_text("{}")
    command = ["ansible-playbook", "-i", str(ROOT / "inventories/single_clinic"), f"clinicops.orthanc.{playbook}"]
    if not lacks:
        (tmp_path / "sitecustomize.py").unlink()
    path = f"orthanc_config_check_path={tmp_path}/orthanc.json"
    vault = " ".join(
        f"vault_orthanc_{name}_password=nobody-guesses-{name}-here" for name in ("it", "viewer", "gateway")
    )
    return subprocess.run(
        [*command, "--connection=local", "--check", "--extra-vars", f"ansible_become=false {path} {vault}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "default"},
    )


@pytest.mark.parametrize("playbook", ["deploy", "config_check"])
def test_a_controller_without_jsonschema_names_it_before_it_asks_a_machine(playbook: str, tmp_path: Path) -> None:
    done = said_by(playbook, tmp_path, lacks=True)
    said = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert "No module named 'jsonschema'" in said
    assert f"{sys.executable} -m pip install 'jsonschema>=4.18'".replace("'", "") in said.replace("'", "")
    if playbook == "deploy":
        assert "Gather facts" not in done.stdout
        assert len(done.stdout.splitlines()) < 25, done.stdout


def test_a_controller_that_has_everything_is_let_through(tmp_path: Path) -> None:
    done = said_by("deploy", tmp_path, lacks=False)
    assert "Gather facts" in done.stdout
    assert "jsonschema" not in done.stdout
