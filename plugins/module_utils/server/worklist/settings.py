# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings that the deploy wrote for orthanc-worklist, and the directories that they imply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.settings import read_settings

CONFIGURATION = Path("/etc/orthanc-worklist.json")


@dataclass(frozen=True)
class Settings:
    """The contents of /etc/orthanc-worklist.json, and of the shared facts what the worklist needs."""

    worklist_served: Path
    worklist_drop: Path
    hostname: str
    stations: list[str]
    keep_days: int
    max_items: int
    orthanc: Path

    @classmethod
    def read(cls, path: Path) -> Settings:
        """The settings in a file. Raises Misused if it is missing or was written by another release."""
        return read_settings(cls, path, "orthanc_worklist")

    @property
    def spool(self) -> Path:
        return self.worklist_served / ".spool"

    @property
    def incoming(self) -> Path:
        return self.spool / "incoming"

    @property
    def quarantine(self) -> Path:
        return self.spool / "quarantine"

    @property
    def past(self) -> Path:
        """Where an item is put away whose day is long past, by a clock that may be ahead."""
        return self.spool / "past"

    @property
    def unfinished(self) -> Path:
        """Where a file is written before it is renamed into place: outside the served directory, since a file that
        disappears while Orthanc reads that directory makes the query fail."""
        return self.spool / "unfinished"

    @property
    def taken(self) -> Path:
        """Where an application's file is while the intake removes it."""
        return self.spool / "taken"
