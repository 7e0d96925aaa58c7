"""What an Orthanc of somebody else's reads, found on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import present


def test_a_directory_is_read_as_orthanc_reads_it(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.json", "a.json", "roles.lua", "a.json.before", "deeper/c.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "latin1.json").write_bytes('{"Name": "Müller"}'.encode("latin-1"))
    found = present.read_present(str(tmp_path), "")
    assert found["files"] == {
        str(tmp_path / "a.json"): "a.json",
        str(tmp_path / "b.json"): "b.json",
        str(tmp_path / "latin1.json"): '{"Name": "Müller"}',
    }
    assert (found["environment"], found["image"]) == (None, False)
    assert list(present.read_present(str(tmp_path / "b.json"), "")["files"].values()) == ["b.json"]
    assert present.read_present(str(tmp_path / "nothing"), "")["files"] == {}


def test_a_container_that_is_not_there_is_named() -> None:
    with pytest.raises(present.NotFoundError, match="The container clinicops-nobody does not exist"):
        present.read_present("", "clinicops-nobody")


def test_a_variable_may_hold_anything_but_a_nul() -> None:
    lines = ["A=1", 'ORTHANC__REGISTERED_USERS={"a": "b=c"}', "EMPTY=", "no variable", ""]
    assert present.variables(lines) == {"A": "1", "ORTHANC__REGISTERED_USERS": '{"a": "b=c"}', "EMPTY": ""}
