"""What a deploy checks of an image, and when; what becomes of the image itself is in the scenario `docker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

TASKS = Path(__file__).resolve().parents[2] / "roles/orthanc_install/tasks"
CAN_OPEN = "Check that the Orthanc of the image can open the index"


def runs(file: str, name: str, **facts: Any) -> bool:
    """Whether a task runs with these facts, by its conditions."""
    [task] = [one for one in yaml.safe_load((TASKS / file).read_text()) if one["name"] == name]
    conditions = task.get("when", [])
    templar = Templar(DataLoader(), variables=facts)
    every = conditions if isinstance(conditions, list) else [conditions]
    return all(templar.template(trust_as_template(f"{{{{ {one} }}}}")) for one in every)


@pytest.mark.parametrize(("here", "check", "checked"), [(True, True, True), (False, True, False), (False, False, True)])
def test_check_mode_asks_nothing_of_an_image_that_it_does_not_pull(here: bool, check: bool, checked: bool) -> None:
    facts = {"__orthanc_install_orthanc": {"here": here}, "ansible_check_mode": check}
    for name in (
        "Check that the image has Orthanc and the required plugins",
        "Check that the image is the one that was deployed under this name",
        CAN_OPEN,
    ):
        assert runs("release.yml", name, **facts) is checked, name
    assert runs("container.yml", "Create the Orthanc container", **facts) is checked


@pytest.mark.parametrize(("known", "judged"), [({"here": True}, True), ({"here": False}, False), ({}, True)])
def test_the_version_of_an_image_that_is_not_here_is_not_guessed(known: dict[str, bool], judged: bool) -> None:
    """1.13.0 would be refused for an index that 1.13.1 has opened, though the image has 1.13.2. A package is known."""
    facts = {"__orthanc_install_orthanc": known, "__orthanc_install_is_unfinished": False}
    assert runs("preflight.yml", "Check that the Orthanc to deploy can open the index", **facts) is judged
    assert runs("release.yml", CAN_OPEN, __orthanc_install_orthanc={"here": True}, ansible_check_mode=False)


@pytest.mark.parametrize(
    ("image", "problem", "warned"),
    [
        ("registry.example:5000/orthanc:1", "unauthorized", True),
        ("registry.example/team/orthanc:1", "unauthorized", True),
        ("registry.example/team/orthanc:1", "", False),
        ("orthancteam/orthanc:26.8.1", "no route to host", False),
        ("orthanc:26.8.1", "no route to host", False),
    ],
)
def test_a_registry_of_one_s_own_that_does_not_answer_is_told(image: str, problem: str, warned: bool) -> None:
    facts = {"orthanc_install_image": image, "__orthanc_install_tag": {"digest": "", "problem": problem}}
    assert runs("release.yml", "Warn that the registry could not be asked", **facts) is warned
