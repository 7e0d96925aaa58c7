# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc of each method of installation, as an upgrade puts it aside, brings it back, and removes the other one.

Runs on the machine, standard library only.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ansible_collections.clinicops.orthanc.plugins.module_utils import present, registry, service

from .server.core.process import read_output, try_output
from .server.monitor import packages
from .server.orthanc.runtime import STOP_SECONDS

# the container of before, from the switch until the upgrade is complete; an adoption's and a person's have other names
OLD = f"{present.NAME}-before-upgrade"
UNIT = f"{present.NAME}.service"


class Installed(NamedTuple):
    """What is installed: its name for people, and what identifies its content; both empty where nothing is."""

    name: str = ""
    identity: str = ""


class Package:
    """Orthanc of the distribution's package."""

    method = "package"
    what = "package"

    @property
    def name(self) -> str:
        """The package, with its version where it is installed."""
        version = self.read_identity()
        return f"package orthanc {version}" if version else "the package orthanc"

    def read_identity(self) -> str:
        """The version that is on this machine; empty where it is not installed."""
        found = packages.read_installed().get("orthanc")
        return found.version if found else ""

    def read_installed(self) -> Installed:
        """The same, with its name."""
        version = self.read_identity()
        return Installed(self.name, version) if version else Installed()

    def describe(self) -> str:
        """What would come, for people."""
        return self.name

    def build_runner(self, address: str) -> service.Runner:
        """How a trial of it is run, and how it runs itself; it sees this machine at 127.0.0.1."""
        return service.Unit()

    def read_policy(self) -> str:
        """What starts it at boot is the same on every server."""
        return ""

    def stop(self) -> None:
        """Stops it so that no boot starts it."""
        read_output("systemctl", "mask", UNIT)
        read_output("systemctl", "stop", UNIT, seconds=None)

    def set_aside(self) -> None:
        """There is nothing to do: a container does not need its place."""

    def remove(self) -> None:
        """Stops it for good; the package stays installed."""
        self.stop()

    def bring_back(self) -> None:
        """Lets it be started again."""
        read_output("systemctl", "unmask", UNIT)

    def start(self, policy: str) -> None:
        """Starts it, now and at each boot."""
        read_output("systemctl", "enable", UNIT)
        read_output("systemctl", "start", UNIT, seconds=None)

    def is_deployed(self, identity: str) -> bool:
        """Whether it runs; an update may have come at night."""
        return bool(service.is_running(service.Unit()))

    def discard(self) -> None:
        """There is nothing to do: a package that does not run stays."""

    def describe_kept(self, image: str, identity: str) -> str:
        """What is left of it after an upgrade."""
        return "The package orthanc stays installed, and its service does not start"


class Image:
    """Orthanc of a container; `name` is its image as the inventory names it."""

    method = "docker"
    what = "container"

    def __init__(self, name: str = "") -> None:
        self.name = name

    def read_identity(self) -> str:
        """The content of the image on this machine; empty where it is not here."""
        return try_output("docker", "image", "inspect", "--format={{.Id}}", self.name).strip()

    def read_installed(self) -> Installed:
        """The image of the container: under its own name, or under the one that it has since the switch."""
        found = present.inspect(OLD) or present.inspect(present.NAME)
        return Installed(found["Config"]["Image"], found["Image"]) if found else Installed()

    def describe(self) -> str:
        """What would come, for people: the image with its digest."""
        return f"{self.name} ({read_digest(self.name) or self.read_identity()})"

    def build_runner(self, address: str) -> service.Runner:
        """How a trial of it is run, and how it runs itself; it sees this machine at the address."""
        return service.Container(self.name, address)

    def read_policy(self) -> str:
        """What starts the container at boot."""
        policy = present.inspect(present.NAME)["HostConfig"].get("RestartPolicy") or {}
        return str(policy.get("Name") or "no")

    def stop(self) -> None:
        """Stops the container so that no boot starts it."""
        read_output("docker", "update", "--restart=no", present.NAME)
        read_output("docker", "stop", "--time", str(STOP_SECONDS), present.NAME, seconds=None)

    def set_aside(self) -> None:
        """Makes room for another container."""
        read_output("docker", "rename", present.NAME, OLD)

    def remove(self) -> None:
        """Removes the container that came instead, if there is one."""
        if present.inspect(present.NAME):
            read_output("docker", "stop", "--time", str(STOP_SECONDS), present.NAME, seconds=None)
            read_output("docker", "rm", present.NAME)

    def bring_back(self) -> None:
        """Gives the container its own name again."""
        if present.inspect(OLD):
            read_output("docker", "rename", OLD, present.NAME)

    def start(self, policy: str) -> None:
        """Starts the container, now and as this policy says."""
        read_output("docker", "update", f"--restart={policy or 'unless-stopped'}", present.NAME)
        read_output("docker", "start", present.NAME, seconds=None)

    def is_deployed(self, identity: str) -> bool:
        """Whether the container is of this content."""
        return bool(present.inspect(present.NAME).get("Image") == identity)

    def discard(self) -> None:
        """Removes the container that was put aside."""
        if present.inspect(OLD):
            read_output("docker", "rm", OLD)

    def describe_kept(self, image: str, identity: str) -> str:
        """What is left of it after an upgrade to another image: its own, by the identity where the tag was moved."""
        return f"The old image is kept: docker rmi {identity if image == self.name else self.name}"


Orthanc: TypeAlias = "Package | Image"


def choose(method: str, image: str = "") -> Orthanc:
    """By the method of installation: `package` or `docker`."""
    return Image(image) if method == "docker" else Package()


def read_digest(image: str) -> str:
    """The digest under which a registry gave the image out; empty for one that was loaded from a file."""
    return next(iter(registry.read_digests(image)), "")
