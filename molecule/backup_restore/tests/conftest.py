"""What all tests of backups begin with."""

from __future__ import annotations

import pytest
from repositories import cheapen_repositories


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last comes what fills the archives: every other test would read and restore it."""
    items.sort(key=lambda item: item.path.name == "test_moment.py")


@pytest.fixture(scope="session", autouse=True)
def cheap_keys(request: pytest.FixtureRequest) -> None:
    """The deploy made the repositories, and has opened them; the campaign judges times, and leaves them so.

    test_ssh and test_append_only go through repositories with the keys that `orthanc-backup init` made.
    """
    if request.config.option.markexpr != "campaign":
        cheapen_repositories()
