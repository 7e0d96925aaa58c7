"""What all tests of the monitor begin with."""

from __future__ import annotations

import pytest
from backups import PASSWORD
from repositories import cheapen_repository

MACHINES = ["orthanc-monitor12", "orthanc-monitor13"]


@pytest.fixture(scope="session", autouse=True)
def cheap_keys() -> None:
    """The deploy made the repositories, and has opened them."""
    for machine in MACHINES:
        cheapen_repository("/srv/backup", PASSWORD, machine)
