"""A disk that is full when a module writes: told with the path and a remedy, and what runs is not left unsaid.

The disk is played by a limit on the size of files; the system's error then names no file, as with a full disk.
"""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import service
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.files import write_atomic
from test_files_and_units import call

CONFIGURATION = {"Name": "x" * 5000, "StorageDirectory": "/nonexistent"}


@contextlib.contextmanager
def limit_files() -> Iterator[None]:
    """No process that is started meanwhile, nor this one, can write more than a few bytes into a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("orthanc_tools", {"files": {"one.py": "#" * 5000}}),
        ("orthanc_configuration", {"content": json.dumps(CONFIGURATION)}),
        ("orthanc_files", {}),
    ],
)
def test_a_module_names_the_path_and_a_remedy(tmp_path: Path, module: str, arguments: dict[str, Any]) -> None:
    path = str(tmp_path / "written")
    given = {"files": [{"path": path, "content": "x" * 5000}]} if module == "orthanc_files" else {"path": path}
    with limit_files():
        answer = call(module, {**arguments, **given})
    assert answer["failed"] is True
    assert answer["msg"].startswith(path), answer["msg"]
    assert "Remedy: " in answer["msg"]


def test_a_way_back_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orthanc does not start with the new file, and the disk has become full."""
    path = tmp_path / "orthanc.json"
    path.write_text(json.dumps({**CONFIGURATION, "Name": "y" * 5000}))
    monkeypatch.setattr(service, "write_configuration", write_atomic)
    with contextlib.ExitStack() as until_end:

        def restart(*_unused: Any) -> None:
            until_end.enter_context(limit_files())
            raise service.Failure("Orthanc ended")

        monkeypatch.setattr(service, "restart_orthanc", restart)
        with pytest.raises(service.Failure) as caught:
            service.apply_configuration(service.Unit(), path, json.dumps(CONFIGURATION), [], 1.0)
    said = str(caught.value)
    assert said.startswith("Orthanc does not work: it did not start with the new configuration")
    assert "Orthanc ended" in said
    assert f"{path}: File too large" in said
    assert "Remedy: make space on its disk, and deploy again" in said
    assert service.is_unfinished(service.Unit(), path), "the next deploy finishes it"
