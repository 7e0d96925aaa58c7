# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names in the storage directory: those that Orthanc gives to its attachments, and files of a deploy."""

FOLDERS = "[0-9a-f][0-9a-f]"
FILES = f"{FOLDERS}/{FOLDERS}/*-*-*-*-*"  # Orthanc's attachments
MARKER = ".orthanc-storage"  # written by a deploy; Orthanc's unit starts only where it is
VERSION = ".orthanc-version"  # the release that last opened the index
