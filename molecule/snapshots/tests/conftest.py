"""What all tests of snapshots begin with."""

from __future__ import annotations

import pytest
from repositories import cheapen_repositories


@pytest.fixture(scope="session", autouse=True)
def cheap_keys() -> None:
    """The deploy made the repositories, and has opened them."""
    cheapen_repositories()
