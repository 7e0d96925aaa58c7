"""The name that an uninstall asks for in a terminal, by the real ansible-playbook, and what a person sees before it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from terminals import Terminal
from test_init_inventory import ENVIRONMENT

QUESTION = "Type its name in the inventory to uninstall it"
# what the module finds on a server whose programs have gone, and whose data are to go
FOUND = {
    "goes": [],
    "lost": ["1200 files of images, 3.4 GB, and the index, in /var/lib/orthanc/db", "2 worklist items in /srv/items"],
    "told": ["The last restore check that succeeded was on 2026-08-01; images that came since may not be in a backup."],
}
PLAY = """\
- hosts: pacs
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: clinicops.orthanc.orthanc_install
        tasks_from: "{{ part }}"
    - ansible.builtin.debug:
        msg: it begins
"""
OPTIONS = ["ansible-playbook", "-i", "pacs,", "-c", "local", "play.yml"]


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """A terminal with the tasks of a file and these variables, which is closed after the test."""
    (tmp_path / "play.yml").write_text(PLAY)
    opened: list[Terminal] = []

    def open_one(part: str, variables: dict[str, Any], callback: str = "ansible.builtin.default") -> Terminal:
        environment = {**ENVIRONMENT, "ANSIBLE_STDOUT_CALLBACK": callback}
        given = json.dumps({"part": part, "ansible_python_interpreter": sys.executable, **variables})
        opened.append(Terminal(tmp_path, environment, *OPTIONS, "-e", given))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture(params=["ansible.builtin.default", "clinicops.orthanc.deploy"])
def terminal(request: pytest.FixtureRequest, open_terminal: Callable[..., Terminal]) -> Terminal:
    """With Ansible's own output, and with this collection's."""
    return open_terminal("uninstall_confirm", {"__orthanc_install_leaving": FOUND}, request.param)


def test_what_goes_for_good_is_shown_before_the_name_is_asked_for(terminal: Terminal) -> None:
    shown = terminal.answer(QUESTION, "pacs").replace("\r\n", "\n")
    lines = [*(f"Goes for good: {line}" for line in FOUND["lost"]), *FOUND["told"]]
    assert "\n".join(lines) in shown
    status, said = terminal.end()
    assert status == 0, said
    assert "it begins" in said


@pytest.mark.parametrize("name", ["", "pacs2"])
def test_another_name_changes_nothing(terminal: Terminal, name: str) -> None:
    terminal.answer(QUESTION, name)
    status, said = terminal.end()
    assert status == 2, said
    assert "Nothing was changed: the name of this clinic, pacs, was not given" in " ".join(said.split())
    assert "it begins" not in said


def test_the_name_is_asked_for_if_the_data_are_all_that_is_left(
    tmp_path: Path, open_terminal: Callable[..., Terminal]
) -> None:
    """A waiver that comes after an uninstall: on a machine without Orthanc, a directory of images."""
    image = tmp_path / "db/00/cd/00cd0000-0000-4000-8000-000000000000"
    image.parent.mkdir(parents=True)
    image.write_text("image")
    variables = {
        "orthanc_storage_dir": str(tmp_path / "db"),
        "orthanc_worklist_dir": str(tmp_path / "worklists"),
        "orthanc_install_made_by_roles": [],
        "orthanc_waivers": dict.fromkeys(("removes_images", "removes_last_copy"), "the clinic is closed"),
    }
    terminal = open_terminal("uninstall_check", variables)
    shown = terminal.answer(QUESTION, "")
    assert f"Goes for good: 1 file of images, 5 B, and the index, in {tmp_path}/db" in shown
    assert terminal.end()[0] == 2
