# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a device may do."""

from __future__ import annotations

# the rights of a device (`may`), and Orthanc's option for each (Orthanc Book, "Configuration of DICOM modalities")
RIGHTS = {
    "echo": "AllowEcho",
    "store": "AllowStore",
    "find": "AllowFind",
    "find_worklist": "AllowFindWorklist",
    "move": "AllowMove",
    "get": "AllowGet",
    "storage_commitment": "AllowStorageCommitment",
}
# the option under which Orthanc lists each
LISTED = {**RIGHTS, "storage_commitment": "AllowNAction"}
