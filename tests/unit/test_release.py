"""What a release holds, and that its parts are in step: the quick ones of `make release-check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import release_check
import yaml

ROOT = Path(__file__).resolve().parents[2]
FRAGMENTS = sorted((ROOT / "changelogs" / "fragments").glob("*.yml"))
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "changelogs" / "config.yaml").read_text())


def test_the_artifact_holds_every_file_that_it_should_and_no_other(tmp_path: Path) -> None:
    artifact = release_check.build_artifact(tmp_path)
    found = release_check.list_files_of_artifact(artifact)
    assert release_check.find_differences(release_check.list_expected_files(), found) == []
    assert {"README.md", "LICENSE", "CHANGELOG.md", "meta/runtime.yml", "changelogs/config.yaml"} <= found


def test_a_file_too_few_or_too_many_is_named() -> None:
    found = release_check.find_differences({"README.md", "LICENSE"}, {"README.md", "tests/x.py"})
    assert [line.split()[0] for line in found] == ["LICENSE", "tests/x.py"]
    assert all("Remedy: " in line for line in found)


def list_changes() -> dict[str, dict[str, Any]]:
    """What each fragment, and each release that is out, says: entries by section, by the name of where it stands."""
    releases = yaml.safe_load((ROOT / "changelogs" / "changelog.yaml").read_text())["releases"]
    return {
        **{name: of["changes"] for name, of in releases.items()},
        **{path.name: yaml.safe_load(path.read_text()) for path in FRAGMENTS},
    }


@pytest.mark.parametrize("content", [pytest.param(of, id=name) for name, of in list_changes().items()])
def test_changes_have_sections_of_the_changelog_and_no_markup_of_plugins(content: dict[str, Any]) -> None:
    for section, entries in content.items():
        if section in (CONFIG["prelude_section_name"], "release_summary"):
            assert isinstance(entries, str)
            continue
        assert section in {name for name, _title in CONFIG["sections"]}
        assert entries
        assert all(isinstance(entry, str) for entry in entries)
        # they are reStructuredText: C(name) would be shown as it stands
        assert re.findall(r"\b[CBIOVEM]\([^)]*\)", " ".join(entries)) == []


def test_the_newest_release_is_the_version_of_the_collection() -> None:
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    releases = yaml.safe_load((ROOT / "changelogs" / "changelog.yaml").read_text())["releases"]
    assert version == max(releases, key=lambda one: tuple(map(int, one.split("."))))
    # the program writes Markdown with a backslash before each dot
    assert f"## v{version}" in (ROOT / "CHANGELOG.md").read_text().replace("\\", "")
