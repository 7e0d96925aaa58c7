"""The example inventories: what belongs to one, and that each playbook accepts it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("inventory", ["single_clinic", "docker_clinic", "many_clinics"])
@pytest.mark.parametrize("playbook", ["deploy", "verify"])
def test_each_playbook_accepts_it_before_it_reaches_the_machine(playbook: str, inventory: str, tmp_path: Path) -> None:
    secrets = {
        f"vault_orthanc_{name}_password": "a-password-of-this-test" for name in ("it", "viewer", "gateway", "backup")
    }
    # another address would be that of all clinics
    nowhere = {"ansible_connection": "ssh", "ansible_port": 1, "ansible_ssh_extra_args": "-o HostName=127.0.0.1"}
    (tmp_path / "values.json").write_text(json.dumps({**secrets, **nowhere}))
    command = ["ansible-playbook", "-i", f"inventories/{inventory}", "-e", f"@{tmp_path}/values.json"]
    done = subprocess.run(
        [*command, f"clinicops.orthanc.{playbook}"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert "to correct" not in done.stdout + done.stderr


def test_the_clinics_of_one_inventory_share_nothing_that_they_may_not(tmp_path: Path) -> None:
    """With passwords of their own, as each has a vault of its own; only the missing backup is worth a warning."""
    inventory = tmp_path / "many_clinics"
    shutil.copytree(ROOT / "inventories" / "many_clinics", inventory)
    clinics = [path.name for path in (inventory / "host_vars").iterdir()]
    assert len(clinics) == 3
    for clinic in clinics:
        secrets = {f"vault_orthanc_{user}_password": f"a-password-of-{clinic}-{user}" for user in ("it", "viewer")}
        (inventory / "host_vars" / clinic / "vault.yml").write_text(json.dumps(secrets))
    command = ["ansible-playbook", "-i", str(inventory), "clinicops.orthanc.check_inventory"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    said = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 clinics checked; nothing was changed. No setting is wrong" in said
    assert said.count("Warning: ") == 1
    assert "all 3 clinics Warning: orthanc_backup_repository is not set" in said
