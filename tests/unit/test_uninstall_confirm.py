"""The name that an uninstall asks for in a terminal, by the real ansible-playbook, and what a person sees before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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
        tasks_from: uninstall_confirm
    - ansible.builtin.debug:
        msg: it begins
"""


@pytest.fixture(params=["ansible.builtin.default", "clinicops.orthanc.deploy"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """With Ansible's own output, and with this collection's."""
    (tmp_path / "play.yml").write_text(PLAY)
    given = json.dumps({"__orthanc_install_leaving": FOUND})
    options = ["-i", "pacs,", "-c", "local", "-e", given, "play.yml"]
    environment = {**ENVIRONMENT, "ANSIBLE_STDOUT_CALLBACK": request.param}
    opened = Terminal(tmp_path, environment, "ansible-playbook", *options)
    yield opened
    opened.close()


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
