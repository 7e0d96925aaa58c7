# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the configuration of a machine's Orthanc, whoever set it up: unit or container, files and environment.

Changes nothing. Runs on the machine, standard library only.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import posixpath
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .server.core.process import MISSING, WAIT_SECONDS, run_program, try_output
from .server.orthanc.runtime import is_absent, require_docker

OURS = "/etc/orthanc/site"
CONFIGURATION = f"{OURS}/orthanc.json"
NAME = "orthanc"  # of the account and of the container that a deploy creates
# The entry point of orthancteam/orthanc builds the configuration with this program.
GENERATOR = "/startup/generateConfiguration.py"
# in what Docker's command says where no engine runs, up to its release 28 and after
NO_ENGINE = "daemon (is )?running"
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins")


class NotFoundError(Exception):
    """There is no configuration to read."""


def read_present(path: str, container: str) -> dict[str, Any]:
    """`files` (text by path), `environment` (None if unknown), `version`, `plugins`, `image`, `bridge`, `of`, and
    `container`, its name or ''.

    `path` is a file or directory on this machine, `container` a name; both may be empty.
    """
    if not path and not container and not Path(CONFIGURATION).exists() and not is_active():
        container = find_running()  # instead of a package that is installed beside it
    read = [path] if path else [] if container else unit_paths()
    inspected = None if path or read else inspect(container or NAME)
    if not container and not read and Path(CONFIGURATION).exists():
        read = [OURS]  # a container of ours reads the same file as the unit does
    elif not read and not inspected and not container:
        inspected = inspect(find_container())
    if container and not inspected:
        raise NotFoundError(f"The container {container} does not exist.")
    if inspected and not read:
        return of_container(inspected)
    files = of_machine(read or ["/etc/orthanc"])
    inspected = inspected or ({} if is_active() else inspect(NAME))
    return {
        "files": files,
        "environment": None if path else unit_environment(),
        "version": version_of(["docker", "exec", "orthanc", "Orthanc"]) or version_of(["/usr/sbin/Orthanc"]),
        "plugins": [] if path else [file.name for folder in PLUGINS for file in Path(folder).glob("*.so")],
        "image": False,
        "bridge": bool(inspected) and inspected["HostConfig"]["NetworkMode"] != "host",
        "of": ", ".join(files),
        "container": "",
    }


def text(content: bytes) -> str:
    """The text of a file. One from Windows may be in Latin-1; the names of options are ASCII."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def version_of(command: list[str]) -> str:
    """'1.12.7', or '' if it is unknown."""
    said: str = try_output(*command, "--version")
    return (said.splitlines() or [""])[0].rpartition(" ")[2]


# --- the machine --------------------------------------------------------------------------------
def is_active() -> bool:
    """Whether the unit orthanc.service runs."""
    return try_output("systemctl", "is-active", "orthanc.service").strip() == "active"


def unit_paths() -> list[str]:
    """The files and directories in the command of orthanc.service, after the binary and its switches."""
    shown = try_output("systemctl", "show", "--property", "ExecStart", "--value", "orthanc.service")
    command = re.search(r"argv\[\]=([^;]*) ;", shown)
    return [word for word in command[1].split()[1:] if not word.startswith("-")] if command else []


def unit_environment() -> dict[str, str] | None:
    """The environment of the unit's process, or None if it does not run."""
    number = try_output("systemctl", "show", "--property", "MainPID", "--value", "orthanc.service").strip()
    try:
        return variables(text(Path(f"/proc/{number}/environ").read_bytes()).split("\0")) if int(number or 0) else None
    except OSError:
        return None


def of_machine(paths: list[str]) -> dict[str, str]:
    """The text of the files, and of `*.json` in the directories, not deeper, as Orthanc reads them."""
    found: dict[str, str] = {}
    for path in map(Path, paths):
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        found |= {str(file): text(file.read_bytes()) for file in files if file.is_file()}
    return found


# --- a container --------------------------------------------------------------------------------
def inspect(name: str) -> dict[str, Any]:
    """The output of `docker inspect` for a container; empty if it does not exist, or Docker is not installed.

    Refused where Docker does not answer: the container may run all the same."""
    done = run_program("docker", "inspect", "--type", "container", name) if name else None
    if not done or done.status == MISSING or is_absent(done):
        return {}
    require_docker("inspect", done)
    found: dict[str, Any] = json.loads(done.output)[0]
    return found


def list_containers(*, stopped: bool = False) -> list[dict[str, Any]]:
    """`docker inspect` of the containers whose image or command is Orthanc's, or that have a deploy's name.

    None without an engine that runs. Refused where it does not answer."""
    every = ["--all"] if stopped else []
    listed = run_program("docker", "ps", *every, "--no-trunc", "--format", "{{.Names}}\t{{.Image}}\t{{.Command}}")
    if listed.status == MISSING or re.search(NO_ENGINE, listed.errors):
        return []
    require_docker("ps", listed)
    found = []
    for name, image, command in (line.split("\t", 2) for line in listed.output.splitlines()):
        if name == NAME or NAME in f"{image.rpartition('/')[2]} {command}".lower():
            found.append(inspect(name))
    return [one for one in found if one]  # one may be gone by now


def find_running(*, stopped: bool = False) -> str:
    """The name of the one container whose command or image is Orthanc's and that runs, or ''; or of any such one."""
    names = [one["Name"].lstrip("/") for one in list_containers(stopped=stopped)]
    if len(names) > 1:
        what = "be" if stopped else "run"
        raise NotFoundError(f"Several containers may {what} Orthanc: {', '.join(sorted(names))}.")
    return names[0] if names else ""


def find_container() -> str:
    """The name of the one container of Orthanc: the one that runs, or else the one that is stopped; or ''."""
    return find_running() or find_running(stopped=True)


def of_container(inspected: dict[str, Any]) -> dict[str, Any]:
    """The result of `read_present` for a container, running or not."""
    config, name = inspected["Config"], inspected["Name"].lstrip("/")
    image: dict[str, Any] = json.loads(try_output("docker", "image", "inspect", inspected["Image"]) or "[{}]")[0]
    own = {key: image.get("Config", {}).get(key) for key in ("Entrypoint", "Cmd")}
    # with another command, the configuration that the image builds is not used
    generated = bool(copy_files(name, GENERATOR)) and own == {key: config.get(key) for key in own}
    if generated:  # a secret is a file of any name; /etc/orthanc also contains certificates and scripts
        files = (copy_files(name, "/etc/orthanc") or {}) | (copy_files(name, "/run/secrets", "") or {})
    else:
        files = {}
        for path in find_named(inspected):
            files |= require_files(name, path)
    exec_in = ["docker", "exec", name]
    listed = try_output(*exec_in, "sh", "-c", f"ls {' '.join(f'{folder}*' for folder in PLUGINS)} 2>/dev/null || true")
    return {
        "files": files,
        "environment": variables(config.get("Env") or []),
        "version": version_of([*exec_in, "Orthanc"]),
        "plugins": [word for word in listed.split() if word.endswith(".so")],
        "image": generated,
        "bridge": inspected["HostConfig"]["NetworkMode"] != "host",
        "of": ", ".join([*files, *(["its environment"] if generated else [])]) + f" of the container {name}",
        "container": name,
    }


def find_named(inspected: dict[str, Any]) -> list[str]:
    """The files and directories that Orthanc reads in this container, by its process, or else by the command."""
    config, name = inspected["Config"], inspected["Name"].lstrip("/")
    words = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    directory = config.get("WorkingDir") or "/"
    if process := find_process(int((inspected.get("State") or {}).get("Pid") or 0)):
        words, directory = read_command(process)
    elif any(re.search(r"\bOrthanc\b", word) and " " in word for word in words):
        raise NotFoundError(f"The container {name} starts Orthanc in a shell, and does not run: start it first.")
    if not (named := list_arguments(words)):
        raise NotFoundError(f"The container {name} starts Orthanc without a configuration.")
    return [posixpath.join(directory, word) for word in named]


def list_arguments(words: list[str]) -> list[str]:
    """The paths in this command after Orthanc itself; of another program the one that it may give to Orthanc."""
    programs = [posixpath.basename(word) for word in words]
    if "Orthanc" in programs:
        return [word for word in words[programs.index("Orthanc") + 1 :] if word and not word.startswith("-")]
    named = [word for word in words[1:] if word.startswith("/") and not word.endswith(".sh")]
    return named[-1:] or ["/etc/orthanc"]


def read_command(process: Path) -> tuple[list[str], str]:
    """The words of a process's command, and the directory from which it resolves paths, as it sees it."""
    return text((process / "cmdline").read_bytes()).split("\0"), os.readlink(process / "cwd")


def find_process(pid: int) -> Path | None:
    """Orthanc's directory in /proc: that of this process, or of one that it has started."""
    for process in (Path("/proc", str(number)) for number in list_processes(pid)):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() == "Orthanc":
                return process
    return None


def list_processes(pid: int) -> Iterator[int]:
    """The process, and all that it and those have started; none for 0."""
    if pid:
        yield pid
        for child in try_output("pgrep", "--parent", str(pid)).split():
            yield from list_processes(int(child))


def require_files(name: str, path: str) -> dict[str, str]:
    """The same as `copy_files`. Refused if the container does not give the file or directory."""
    copied = copy_files(name, path)
    if copied is None:
        raise NotFoundError(f"{path} of the container {name}, which Orthanc reads, cannot be copied.")
    return copied


def copy_files(name: str, path: str, suffix: str = ".json") -> dict[str, str] | None:
    """The text of a file, or of the files in a directory that end so, of a container, by path. None if there is
    neither."""
    command = ["docker", "cp", "--follow-link", f"{name}:{path}", "-"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=WAIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive.getmembers():
            _first, _unused, rest = member.name.partition("/")
            place = f"{path.rstrip('/')}/{rest}" if rest else path
            if "/" in rest or not (rest == "" or rest.endswith(suffix)):
                continue
            if member.issym() and rest:  # Docker follows the link that it is given, and none in a directory
                copied = require_files(name, place)
                found |= {place: copied[place]} if place in copied else {}
            elif file := archive.extractfile(member) if member.isfile() or member.islnk() else None:
                found[place] = text(file.read())
    return dict(sorted(found.items()))


def variables(lines: list[str]) -> dict[str, str]:
    """Lines of NAME=value as a dictionary."""
    return {name: value for name, given, value in (line.partition("=") for line in lines) if given}
