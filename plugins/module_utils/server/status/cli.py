# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The server in ten lines: monitor, backup, verified restore, worklist, certificates, disk, Orthanc, patches.

It only reads the state files of the monitor and the backup, so it answers at once, also on a server with problems and
for a person who is not root. Exit code 1 while something is wrong or cannot be read.
"""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from pathlib import Path

from ..core import monitor_state, words
from ..core.cli import build_parser, run_command
from ..core.errors import DONE, WRONG, Misused
from ..core.limits import read_limits
from ..core.output import write_json, write_line
from ..core.settings import BACKUP, FACTS, read_file
from .lines import GOOD, Server, State, describe_server, summarise


def read_state_file(path: Path) -> State:
    """The contents of a state file; None without a valid one. Raises PermissionError if only root may read it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_server(limits: dict[str, float], now: float) -> Server:
    """The state files of all programs, and why one cannot be read."""
    names = ("backup", "restore_check") if BACKUP.is_dir() else ()
    paths = {name: BACKUP / f"{name}.json" for name in names}
    files: dict[str, State] = {}
    unread: dict[str, str] = {}
    for name, path in {**paths, "monitor": monitor_state.DIRECTORY / monitor_state.FILE}.items():
        try:
            files[name] = read_state_file(path)
        except PermissionError:
            unread[name] = f"{path} cannot be read. Remedy: run orthanc-status as root."
    if monitor_state.IN_MEMORY.exists() and not os.access(monitor_state.IN_MEMORY, os.R_OK):
        what = f"The monitor's last check is in {monitor_state.IN_MEMORY}, which only root may read"
        unread["monitor"] = f"{what}. Remedy: run orthanc-status as root."
    return Server(monitor_state.read_state(monitor_state.DIRECTORY), files, bool(names), unread, limits, now)


def run(arguments: Namespace) -> int:
    """Prints the state of the server and returns the exit code."""
    read_file(arguments.config, "orthanc_tools")
    try:
        limits = read_limits(arguments.config)
    except ValueError as error:
        raise Misused(f"{error}. Remedy: deploy again.") from None
    lines = describe_server(read_server(limits, time.time()))
    host = os.uname().nodename
    verdict = summarise(lines)
    if arguments.json:
        subjects = {line.subject: {"state": line.state, "text": line.text, **line.facts} for line in lines}
        content = {"host": host, "state": verdict.state, "text": verdict.text, "subjects": subjects}
        write_json(content)
    else:
        write_line(f"{host}: {verdict.text} ({words.say_moment(time.time())})")
        for line in lines:
            write_line(f"{line.subject:12}  {line.state:7}  {line.text}")
    return DONE if verdict.state == GOOD else WRONG


def main() -> int:
    """The command orthanc-status; returns its exit code."""
    parser = build_parser("orthanc-status", __doc__ or "", FACTS)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args()
    return run_command("orthanc-status", lambda: run(arguments), arguments.json)
