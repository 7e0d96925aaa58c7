# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How Orthanc runs on this machine: as a unit of systemd's, or as a container of Docker's."""

from __future__ import annotations

import contextlib
import json
import re
import time
from datetime import datetime
from typing import NamedTuple

from ..core.errors import Refused
from ..core.process import Finished, read_output, run_program

STOP_SECONDS = 600  # as the unit's TimeoutStopSec
NAME = "orthanc"  # of the unit, and of the container


class State(NamedTuple):
    """Whether it runs, its main process as this machine sees it (0 without one), and how often it was restarted
    automatically (None where that is not known)."""

    runs: bool
    pid: int
    restarts: int | None


class Unit:
    """Orthanc of the system's package."""

    method = "package"
    image = ""

    def __init__(self, name: str = NAME) -> None:
        self.name = name

    def read_state(self) -> State:
        """How it is now."""
        shown = read_output("systemctl", "show", "--property=ActiveState,MainPID,NRestarts", self.name)
        found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        runs = found["ActiveState"] == "active"
        return State(runs, int(found["MainPID"]), int(found["NRestarts"]))

    def build_command(self, verb: str) -> list[str]:
        """The command that does start, stop, restart or kill with it."""
        return ["systemctl", verb, self.name]

    def read_started(self) -> float:
        """When the process that runs now began, in seconds since 1970."""
        shown = read_output("systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "--value", self.name)
        return time.time() - time.monotonic() + int(shown) / 1_000_000

    def read_log(self, since: float, of_now: bool = False) -> str:
        """What it wrote since a moment in seconds since 1970; `of_now`: the process that runs now alone."""
        shown = ("systemctl", "show", "--property=InvocationID", "--value", self.name)
        run = run_program(*shown).output.strip() if of_now else ""
        only = f"_SYSTEMD_INVOCATION_ID={run}" if run else f"--unit={self.name}.service"
        return run_program("journalctl", only, f"--since=@{since:.0f}", "--output=cat", "--no-pager").output

    def read_version(self) -> str:
        """What the program that is installed says of itself, such as 1.12.7; mainline for an unnamed build."""
        return find_version(read_output("Orthanc", "--version", seconds=None).partition("\n")[0]) or "mainline"


class Container:
    """Orthanc of an image."""

    method = "docker"

    def __init__(self, name: str = NAME) -> None:
        self.name = name

    @property
    def image(self) -> str:
        """What the container was made of."""
        return self.inspect("{{.Image}}")

    def inspect(self, template: str) -> str:
        """What Docker knows of it. Refused where there is none, or no Docker."""
        return read_output("docker", "inspect", "--type=container", f"--format={template}", self.name)

    def read_state(self) -> State:
        """How it is now; one that is not there does not run."""
        template = "--format={{json .State}} {{.RestartCount}}"
        done = run_program("docker", "inspect", "--type=container", template, self.name)
        if is_absent(done):
            return State(False, 0, None)
        require_docker("inspect", done)
        state, _unused, restarts = done.output.strip().rpartition(" ")
        found = json.loads(state)
        return State(found["Running"] and found["Pid"] != 0, found["Pid"], int(restarts))

    def build_command(self, verb: str) -> list[str]:
        """The command that does start, stop, restart or kill with it."""
        return ["docker", verb, *(["--time", str(STOP_SECONDS)] if verb == "stop" else []), self.name]

    def read_started(self) -> float:
        """When the process that runs now began, in seconds since 1970."""
        # to the microsecond, which is all that Python 3.10 reads
        started = re.sub(r"(\.\d{6})\d*", r"\1", self.inspect("{{.State.StartedAt}}")).replace("Z", "+00:00")
        return datetime.fromisoformat(started).timestamp()

    def read_log(self, since: float, of_now: bool = False) -> str:
        """What it wrote since a moment in seconds since 1970; `of_now`: the process that runs now alone."""
        if of_now:
            with contextlib.suppress(Refused, ValueError):
                since = max(since, self.read_started())
        return run_program("docker", "logs", f"--since={since:.3f}", self.name).said

    def read_version(self) -> str:
        """The same of the image that the container was made of; a container of its own is started for that."""
        # by its log, since a `docker run` that is attached sometimes prints nothing
        alone = ("--pull=never", "--network=none", "--log-driver=json-file", "--entrypoint=Orthanc")
        made = read_output("docker", "create", *alone, self.image, "--version")
        try:
            read_output("docker", "start", made)
            status, said = read_output("docker", "wait", made, seconds=None), read_output("docker", "logs", made)
        finally:
            run_program("docker", "rm", "--force", "--volumes", made)
        if status != "0" or not said:
            raise Refused(f"{self.image}: Orthanc --version fails ({status}). Remedy: see docker run with this image.")
        return find_version(said.partition("\n")[0]) or "mainline"


def is_absent(inspected: Finished) -> bool:
    """Whether Docker answers to an inspection that there is no such container."""
    # also "no such file or directory", of its socket, is an answer, but not of Docker
    return inspected.status != 0 and bool(re.search("no such (container|object)", inspected.errors, re.IGNORECASE))


def require_docker(verb: str, done: Finished) -> None:
    """Refused where Docker did not do it, which says nothing of its containers."""
    if done.status:
        raise Refused(f"docker {verb}: {done.errors.strip()}. Remedy: see systemctl status docker.")


def choose_runtime(method: str, name: str = NAME) -> Unit | Container:
    """By the method of installation: `package` or `docker`."""
    return Container(name) if method == "docker" else Unit(name)


def find_version(text: str) -> str:
    """The first version in a text, such as 1.12.7; empty where there is none."""
    found = re.search(r"[0-9]+(\.[0-9]+)+", text)
    return found[0] if found else ""
