# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the deploy wrote for the worklist's programs, and the directories that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.settings import read_settings

CONFIGURATION = Path("/etc/orthanc-worklist.json")


@dataclass(frozen=True)
class Settings:
    """What the deploy wrote into /etc/orthanc-worklist.json."""

    served: Path
    drop: Path
    hostname: str
    stations: list[str]
    keep_days: int
    max_items: int
    orthanc: Path

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Those in a file of a deploy's. Misused where it is not there or is another release's."""
        return read_settings(cls, path, "orthanc_worklist")

    @property
    def spool(self) -> Path:
        return self.served / ".spool"

    @property
    def incoming(self) -> Path:
        return self.spool / "incoming"

    @property
    def quarantine(self) -> Path:
        return self.spool / "quarantine"

    @property
    def unfinished(self) -> Path:
        """Where a file is written that is whole or not there: not in the served directory, since a name that goes while
        Orthanc reads that makes its query fail."""
        return self.spool / "unfinished"

    @property
    def taken(self) -> Path:
        """Where a file of an application's is while it goes."""
        return self.spool / "taken"
