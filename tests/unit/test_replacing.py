"""What a deploy does before it stops the Orthanc that runs, and how it finds the container that it would replace."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.orthanc.runtime import STOP_SECONDS
from test_present import ABSENT, BROKEN, NO_ENGINE, play_docker

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/orthanc_install/tasks"
CONTAINER = "community.docker.docker_container"


def read_tasks(path: Path) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = yaml.safe_load(path.read_text())
    return tasks


def test_a_container_is_never_stopped_before_its_orthanc_has_closed_the_index() -> None:
    found = [
        (path.name, task[CONTAINER].get("stop_timeout"))
        for path in sorted(ROOT.glob("roles/*/tasks/*.yml"))
        for task in read_tasks(path)
        if CONTAINER in task
    ]
    assert len(found) >= 4
    assert [(name, limit) for name, limit in found if limit != STOP_SECONDS] == []


@pytest.mark.parametrize("name", ["container", "provider_package"])
def test_a_configuration_is_tried_before_anything_stops(name: str) -> None:
    tasks = read_tasks(ROLE / f"{name}.yml")
    [tried] = [at for at, task in enumerate(tasks) if "orthanc_install_before_stop" in str(task)]
    stops = [at for at, task in enumerate(tasks) if CONTAINER in task or "ansible.builtin.systemd_service" in task]
    written = [at for at, task in enumerate(tasks) if "clinicops.orthanc.orthanc_files" in task]
    assert tried < min(stops + written)


def look(monkeypatch: pytest.MonkeyPatch, top: Path, errors: str, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the role's own inspection finds where Docker says this and has the files of these containers."""
    play_docker(monkeypatch, top, errors=errors)
    for name in names:
        (top / "containers" / name).mkdir(parents=True)
        (top / "containers" / name / "config.v2.json").write_text(
            json.dumps({"Name": f"/{name}"}, separators=(",", ":"))
        )
    script = read_tasks(ROLE / "inspect.yml")[0]["ansible.builtin.shell"]["cmd"]
    for place, here in {"/var/lib/docker": top, "/etc/docker": top, "/etc/orthanc/site": top / "site"}.items():
        script = script.replace(place, str(here))
    environment = {**os.environ, "STORAGE": str(top), "PACKAGES": "orthanc", "ADOPTED": ""}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("errors", NO_ENGINE + BROKEN)
def test_a_container_is_there_although_docker_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: str
) -> None:
    """It would start again with Docker, beside another Orthanc."""
    found = look(monkeypatch, tmp_path, errors, ("registry", "orthanc"))
    assert (found["container"], found["unreached"]) == (True, True)
    # Docker's files may be on another disk
    (tmp_path / "containers").rename(tmp_path / "moved")
    assert not look(monkeypatch, tmp_path, errors)["unreached"]
    (tmp_path / "disk").mkdir()
    (tmp_path / "moved").rename(tmp_path / "disk/containers")
    (tmp_path / "daemon.json").write_text(json.dumps({"ipv6": True, "data-root": f"{tmp_path}/disk"}, indent=2))
    assert look(monkeypatch, tmp_path, errors)["unreached"]
    [refused] = [task for task in read_tasks(ROLE / "preflight.yml") if "unreached" in str(task)]
    assert "Remedy: start Docker" in refused["ansible.builtin.assert"]["fail_msg"]


@pytest.mark.parametrize(
    ("errors", "names"),
    [(NO_ENGINE[0], ()), (NO_ENGINE[1], ("registry", "orthanc-before")), *((one, ("orthanc",)) for one in ABSENT)],
)
def test_a_docker_without_such_a_container_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: str, names: tuple[str, ...]
) -> None:
    found = look(monkeypatch, tmp_path, errors, names)
    assert (found["container"], found["unreached"]) == (False, False)


def test_a_container_that_docker_names_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/orthanc.json").write_text('{"Name": "Clinic"}\n')
    found = look(monkeypatch, tmp_path, "")
    assert (found["container"], found["unreached"]) == (True, False)
    assert found["configuration"] == hashlib.sha256(b'{"Name": "Clinic"}\n').hexdigest()
