"""The upgrade of machines of Debian 12 to Debian 13, as an administrator does it: for the scenario `distribution`."""

from __future__ import annotations

import re

from backups import must
from clients import client, read_platforms
from upgraded import DEVICE, find_address

MACHINES = PACKAGE, ADOPTED = tuple(read_platforms("distribution", "orthanc"))
IMAGES = 120
WAIVER = {"orthanc_waivers": {"no_way_back": "the backup is proven, and a spare machine of Debian 12 is there"}}


def read_commands(said: str) -> list[str]:
    """The commands that the playbook prints for the administrator, without the reboot that they end with."""
    shown = re.search(r"and then the deploy from here:' - (.*?) TASK \[", said)
    assert shown, said[-3000:]
    *commands, reboot = shown[1].split(" - ")
    assert reboot == "systemctl reboot"
    return commands


def upgrade_system(machine: str, commands: list[str]) -> str:
    """Runs the commands; returns what they said."""
    return "".join(must(machine, f"DEBIAN_FRONTEND=noninteractive {command} 2>&1") for command in commands)


def read_release(machine: str) -> tuple[str, str]:
    """Debian's, and Orthanc's."""
    said = must(machine, ". /etc/os-release; echo $VERSION_ID; Orthanc --version | sed -n '1s/.* //p'")
    debian, orthanc = said.split()
    return debian, orthanc


def serves(machine: str) -> bool:
    """Whether Orthanc answers its device."""
    echo = ("echoscu", "-to", "5", "-aet", "US1", "-aec", "ORTHANC", find_address(machine), "4242")
    return client(DEVICE, *echo).returncode == 0
