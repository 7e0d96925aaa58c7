"""What all tests of devices begin with."""

from __future__ import annotations

import pytest
from backups import PASSWORD
from repositories import cheapen_repository

MACHINES = ["orthanc-devices12", "orthanc-devices13", "orthanc-devices13p"]


@pytest.fixture(scope="session", autouse=True)
def cheap_keys() -> None:
    """The deploy made the repositories, and has opened them."""
    for machine in MACHINES:
        cheapen_repository("/srv/backup", PASSWORD, machine)
