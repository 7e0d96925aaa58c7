# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the deploy wrote for the acceptance test: /etc/orthanc-verify.json, and of the shared facts what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGURATION = Path("/etc/orthanc-verify.json")


@dataclass(frozen=True)
class Settings:
    """One field for each name in the two files; passwords are in Orthanc's configuration."""

    # shared facts
    clinic: str
    hostname: str
    orthanc: Path
    aet: str
    calling_aet: str
    dicom_port: int
    dicom_tls_port: int
    http_port: int
    storage: str
    worklist_served: str
    worklist_drop: str
    # its own
    host: str
    ca_file: str
    users: dict[str, str]  # role by name
    password_digests: dict[str, str]
    devices: list[dict[str, Any]]
    certificates: dict[str, dict[str, str]]
    waivers: dict[str, str]
    ports: list[dict[str, Any]]
    backup: bool
    monitor: bool
    collection: str
    https_port: int = 443  # a shared fact
    report_url: str = ""  # where the report is sent; empty if nowhere
    largest_object: int = 0  # a shared fact, in bytes; 0 if not known
