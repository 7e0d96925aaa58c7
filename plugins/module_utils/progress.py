# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far something is that takes several steps and may be interrupted at any moment, kept on the disk.

Runs on the machine, standard library only.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import ClassVar, TypeVar

from .server.core.files import create_directories, read_object, sync_directory, write_atomic

Kept = TypeVar("Kept", bound="Progress")


@dataclasses.dataclass
class Progress:
    """The step that is complete or under way; a subclass adds what the way back needs."""

    PLACE: ClassVar[Path]  # in a directory for root alone

    step: str = ""

    @classmethod
    def read(cls: type[Kept], directory: Path | None = None) -> Kept:
        """The notes in the directory, or in their own; of something that has not begun where there are none."""
        names = {field.name for field in dataclasses.fields(cls)}
        found = read_object((directory or cls.PLACE.parent) / cls.PLACE.name)
        return cls(**{name: value for name, value in found.items() if name in names})

    def write(self, step: str, directory: Path | None = None) -> None:
        """Puts them on the disk, with this step."""
        self.step = step
        directory = directory or self.PLACE.parent
        create_directories(directory, 0o700)
        text = json.dumps(dataclasses.asdict(self), indent=4, sort_keys=True) + "\n"
        write_atomic(directory / self.PLACE.name, text, 0o600)
        sync_directory(directory)
