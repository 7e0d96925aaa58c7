"""Which first backup a deploy waits for, and what it says of another."""

from __future__ import annotations

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import beginning

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("size", "limit_upload", "awaited"),
    [
        (0, 0, True),
        (2 * GB, 0, True),
        (2 * GB + 1, 0, False),
        (300 * 1024 * 1000, 1000, True),
        (300 * 1024 * 1000 + 1, 1000, False),
        (0, 1, True),
    ],
)
def test_a_small_one_is_awaited(size: int, limit_upload: int, awaited: bool) -> None:
    assert beginning.is_awaited(size, limit_upload) is awaited


def test_a_large_one_is_told_with_what_it_takes() -> None:
    assert beginning.describe_first_backup(500 * GB, 0) == (
        "The first backup has 500.0 GB to read, and continues in the background. "
        "Remedy: no action is needed; journalctl -u orthanc-first-backup shows how it ends."
    )
    assert "500.0 GB to read at 1000 KiB/s, which takes 136 hours or more, and" in beginning.describe_first_backup(
        500 * GB, 1000
    )
    assert "takes" not in beginning.describe_first_backup(1, 1000)
