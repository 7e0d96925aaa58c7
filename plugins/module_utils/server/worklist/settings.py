# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the deploy wrote for the worklist's programs, and the directories that follow from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = Path("/etc/orthanc-worklist.json")


class Refused(Exception):
    """What is wrong with a file, a row or a request: sentences with their remedies."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


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
        content = json.loads(path.read_text())
        paths = {name: Path(content[name]) for name in ("served", "drop", "orthanc")}
        return cls(**{**content, **paths})

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
    def taken(self) -> Path:
        """Where a file of an application's is while it goes."""
        return self.spool / "taken"
