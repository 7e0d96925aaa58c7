# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names in the storage directory: those that Orthanc gives to its attachments, and files of a deploy
and of the monitor."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

FOLDERS = "[0-9a-f][0-9a-f]"
FILES = f"{FOLDERS}/{FOLDERS}/*-*-*-*-*"  # Orthanc's attachments
ATTACHMENT = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
MARKER = ".orthanc-storage"  # written by a deploy; Orthanc's unit starts only where it is
# the monitor's: while it is there, the disk is almost full, and Orthanc refuses images (roles.lua, receive.py)
DISK_GUARD = ".orthanc-disk-guard"
RESERVE = ".orthanc-reserve"  # space that the monitor gives free when the disk is full
VERSION = ".orthanc-version"  # the release that last opened the index


def walk_folders(storage: Path) -> Iterator[Path]:
    """What is in the folders of the attachments, and these themselves. What goes meanwhile is left out: Orthanc removes
    a folder with its last file, which ends Path.glob with an error before Python 3.12."""
    for folder in storage.glob(FOLDERS):
        yield folder
        for top, folders, files in os.walk(folder):
            yield from (Path(top, name) for name in (*folders, *files))


def find_attachments(storage: Path) -> Iterator[Path]:
    """The files in a storage directory that are named as attachments, while Orthanc may remove some."""
    return (path for path in walk_folders(storage) if ATTACHMENT.fullmatch(path.name) and path.match(FILES))


def name_attachment(uuid: str) -> str:
    """The file in which Orthanc keeps an attachment, below the storage directory."""
    return f"{uuid[:2]}/{uuid[2:4]}/{uuid}"
