"""A shared fact is written once, into a file without secrets, and a program's own file has only what is its own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup.settings import Settings as Backup
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.monitor.settings import Settings as Monitor
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify.settings import Settings as Verify
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.worklist.settings import Settings as Worklist

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, Any] = {
    "orthanc_backup": Backup,
    "orthanc_monitor": Monitor,
    "orthanc_verify": Verify,
    "orthanc_worklist": Worklist,
}
SECRET = re.compile(
    r"passw|secret|token|digest|webhook|credential|vault|users|environment|(?<![a-z])key", re.IGNORECASE
)
# what stands in two programs' own files, and why it is no shared fact
TWICE = {
    "host": "the backup's is the machine's name in the repository, which a new machine keeps",
    "directory": "each program's own, for what it notes",
    "backup": "whether there is one: each role is told by the playbooks, and may be used without the other",
    "collection": "a snapshot and a report name the release that made them, and not the one that is there now",
}


def find_values(content: Any, name: str) -> Iterator[Any]:
    """Every value of this name in YAML, however deep."""
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else []
    if isinstance(content, dict) and name in content:
        yield content[name]
    for part in parts:
        yield from find_values(part, name)


def read_written(role: str, name: str) -> dict[str, Any]:
    """The settings file that a role writes, as its YAML has it."""
    files = sorted(path for kind in ("tasks", "vars") for path in (ROOT / "roles" / role / kind).glob("*.yml"))
    [found] = [value for path in files for value in find_values(yaml.safe_load(path.read_text()), name)]
    return dict(found)


FACTS = read_written("orthanc_tools", "__orthanc_tools_facts")
OWN = {role: read_written(role, f"__{role}_configuration") for role in PROGRAMS}
FIELDS = {role: {field.name: field for field in dataclasses.fields(kind)} for role, kind in PROGRAMS.items()}


@pytest.mark.parametrize("role", PROGRAMS)
def test_no_shared_fact_is_in_a_program_s_own_file(role: str) -> None:
    assert sorted(OWN[role].keys() & FACTS.keys()) == []


@pytest.mark.parametrize("role", PROGRAMS)
def test_a_program_finds_every_field_in_one_of_both_files(role: str) -> None:
    needed = {
        name
        for name, field in FIELDS[role].items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    assert sorted(needed - OWN[role].keys() - FACTS.keys()) == []
    assert sorted(OWN[role].keys() - FIELDS[role].keys()) == []


def test_every_shared_fact_is_read() -> None:
    assert sorted(FACTS.keys() - {name for fields in FIELDS.values() for name in fields}) == []


def test_what_two_programs_write_has_a_reason() -> None:
    written = [name for own in OWN.values() for name in own]
    assert {name for name in written if written.count(name) > 1} == TWICE.keys()


def test_no_secret_is_in_the_shared_facts() -> None:
    """Neither by its name nor by the settings that a value is made of, in the role and in the wiring."""
    wiring = yaml.safe_load((ROOT / "playbooks/vars/wiring.yml").read_text())
    defaults = yaml.safe_load((ROOT / "roles/orthanc_tools/defaults/main.yml").read_text())
    told = {
        **FACTS,
        **{name: value for name, value in {**defaults, **wiring}.items() if name.startswith("orthanc_tools")},
    }
    assert {name: value for name, value in told.items() if SECRET.search(f"{name} {value}")} == {}
    assert all(SECRET.search(name) for name in ("password_file", "smtp_password", "webhook", "api_token", "ssh_key"))
