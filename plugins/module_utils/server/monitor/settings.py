# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of the monitor: what the deploy wrote into /etc/orthanc-monitor.json, and the limits of all programs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.errors import Misused
from ..core.limits import read_limits
from ..core.settings import FACTS, read_settings
from .rules import Rule

FILE = Path("/etc/orthanc-monitor.json")


@dataclass(frozen=True)
class Settings:
    """What the deploy wrote into /etc/orthanc-monitor.json, and of the shared facts what the monitor needs."""

    clinic: str
    host: str
    hostname: str
    method: str
    orthanc: Path  # its configuration, which names ports, users and devices
    storage: Path
    calling_aet: str
    plugins: list[str]
    mount: Path
    logs: Path
    tls_ports: dict[str, int]
    own_ca: str  # the certificate of the server's own CA; empty without one
    firewall: bool
    backup: bool
    units: list[str]
    worklist_drop: Path
    accepted_cves: list[str]
    disk_guard_percent: int
    index_statistics: bool
    mail_to: list[str]
    mail_from: str
    webhook: str
    directory: Path
    limits: dict[str, float] = field(default_factory=dict)  # each by its name, of the facts that all programs share

    @classmethod
    def read(cls, path: Path, facts: Path = FACTS) -> Settings:
        """The settings in this file. Misused where it is not there or is another release's."""
        settings = read_settings(cls, path, "orthanc_monitor", facts)
        try:
            return replace(settings, limits=read_limits(facts))
        except ValueError as error:
            raise Misused(f"{error}. Remedy: deploy again.") from None

    def limit(self, rule: Rule) -> float:
        """The number with which this rule compares: its own, or the clinic's limit of that name."""
        return self.limits[rule.limit] if isinstance(rule.limit, str) else rule.limit
