# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The first backup of an archive: a deploy makes it, waits for a small one, and leaves a large one at work."""

from __future__ import annotations

from ..core.limits import describe

WAIT_BYTES = 2_000_000_000
WAIT_SECONDS = 300  # at the speed that the inventory allows
UNIT = "orthanc-first-backup"
# what goes on by itself takes the lock of every backup
LEAVE_AT_WORK = (
    *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--description=The first backup of Orthanc"),
    "--property=Nice=10",
)


def is_awaited(size: int, limit_upload: int) -> bool:
    """Whether a deploy waits for the backup of so many bytes, of which KiB/s may be sent (0: no limit)."""
    return size <= WAIT_BYTES and (not limit_upload or size <= 1024 * limit_upload * WAIT_SECONDS)


def tell(size: int, limit_upload: int) -> str:
    """What is said of a backup that a deploy does not wait for."""
    at = f" at {limit_upload} KiB/s" if limit_upload else ""
    hours = size / (1024 * limit_upload) / 3600 if limit_upload else 0
    lasts = f", which takes {describe(round(hours), 'hour')} or more" if hours >= 1 else ""
    what = f"The first backup has {size / 1e9:.1f} GB to read{at}{lasts}, and runs on by itself"
    return f"{what}. Remedy: none is needed; journalctl -u {UNIT} shows how it ends."
