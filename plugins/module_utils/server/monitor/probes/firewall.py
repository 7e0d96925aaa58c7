# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The firewall's table: whether it is loaded, the one that was deployed, and nothing leads past it."""

from __future__ import annotations

from collections.abc import Iterator

from ...core import nftables
from ..context import Context, Sample, observe


def probe_firewall(context: Context) -> Iterator[Sample]:
    """Table, differences and detours, where the deploy has a firewall."""
    if not context.settings.firewall:
        return
    held = nftables.read_held()
    yield observe("firewall_ok", bool(held))
    try:
        yield compare_tables(held)
    finally:  # an error of either does not hide the other
        yield find_detours()


def compare_tables(held: str) -> Sample:
    """Differences between the table in the kernel and the deployed one; Unseen where they cannot be compared."""
    try:
        changes = nftables.list_differences(nftables.read_deployed(), held)
    except nftables.Unseen:
        raise
    except OSError as error:  # its file is gone or broken: the next boot leaves the ports open
        changes = [str(error)]
    return observe("firewall_changes", len(changes), detail=nftables.list_some(changes))


def find_detours() -> Sample:
    """Rules of other tables that bypass ours."""
    detours = nftables.find_detours()
    return observe("firewall_detours", len(detours), detail=nftables.list_some(detours))
