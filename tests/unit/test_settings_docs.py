"""The specs of the roles are the only text on a setting: what is made of them is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import settings_docs
import yaml
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import specs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", settings_docs.write_all(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_made_of_the_specs_is_up_to_date(path: Path) -> None:
    assert path.read_text() == settings_docs.write_all()[path], f"{path} is stale. Remedy: make docs"


def test_every_public_setting_is_in_one_group() -> None:
    grouped = [name for group in specs.read_groups() for name in group["settings"]]
    assert len(grouped) == len(set(grouped)) > 60
    remedy = "add it to a group of plugins/plugin_utils/groups.yml, or take it out there"
    assert set(grouped) == set(specs.list_public()), f"Remedy: {remedy}"


def test_a_spec_says_of_a_wired_setting_that_it_is_wired() -> None:
    said = {
        setting.own
        for role in specs.list_roles()
        for setting in specs.list_settings(role)
        if setting.spec["description"].endswith("Wired by the playbooks.")
    }
    assert said == set(specs.read_wiring())


def test_every_page_that_a_spec_names_exists() -> None:
    texts = [path.read_text() for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    pages = {page for text in texts for page in re.findall(r"docs/[a-z-]+\.md", text)}
    assert len(pages) > 8
    assert [page for page in pages if not (ROOT / page).exists()] == []


@pytest.mark.parametrize("role", specs.list_roles())
def test_the_example_of_a_readme_is_a_play_with_settings_of_that_role(role: str) -> None:
    text = (ROOT / "roles" / role / "README.md").read_text()
    [example] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    [play] = yaml.safe_load(example)
    assert play["roles"] == [f"clinicops.orthanc.{role}"]
    assert set(play.get("vars", {})) <= {setting.name for setting in specs.list_settings(role)}


def test_a_stale_page_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(settings_docs, "ROOT", tmp_path)
    monkeypatch.setattr(settings_docs, "write_all", lambda: {page: "new\n"})
    settings_docs.main()
    assert page.read_text() == "new\n"
