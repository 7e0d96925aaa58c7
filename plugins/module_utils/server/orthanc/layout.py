# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names in the storage directory: those that Orthanc gives to its attachments, and files of a deploy
and of the monitor."""

from __future__ import annotations

FOLDERS = "[0-9a-f][0-9a-f]"
FILES = f"{FOLDERS}/{FOLDERS}/*-*-*-*-*"  # Orthanc's attachments
MARKER = ".orthanc-storage"  # written by a deploy; Orthanc's unit starts only where it is
# the monitor's: while it is there, the disk is almost full, and Orthanc refuses images (roles.lua, receive.py)
DISK_GUARD = ".orthanc-disk-guard"
RESERVE = ".orthanc-reserve"  # space that the monitor gives free when the disk is full
VERSION = ".orthanc-version"  # the release that last opened the index


def name_attachment(uuid: str) -> str:
    """The file in which Orthanc keeps an attachment, below the storage directory."""
    return f"{uuid[:2]}/{uuid[2:4]}/{uuid}"
