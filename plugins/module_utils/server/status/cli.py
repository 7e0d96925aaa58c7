# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the server is, in ten lines: monitor, backup, verified restore, worklist, certificates, disk, Orthanc, patches.

It reads what the monitor and the backup left and asks nothing else, so that it answers at once, also on a server that
is in trouble and for a person who is not root. Exit code 1 while something is wrong or cannot be read.
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
from ..core.settings import FACTS, read_file
from .lines import GOOD, Server, State, describe_server, summarise

BACKUP = Path("/var/lib/orthanc-backup")  # the state files of orthanc-backup


def read_state_file(path: Path) -> State:
    """What a program left in a file: None where it left none. PermissionError for one that is root's alone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_server(limits: dict[str, float], now: float) -> Server:
    """Everything that the programs left, and of what cannot be read why."""
    names = ("backup", "restore_check") if BACKUP.is_dir() else ()
    paths = {name: BACKUP / f"{name}.json" for name in names}
    files: dict[str, State] = {}
    unread: dict[str, str] = {}
    for name, path in {**paths, "monitor": monitor_state.DIRECTORY / monitor_state.FILE}.items():
        try:
            files[name] = read_state_file(path)
        except PermissionError:
            unread[name] = f"{path} cannot be read. Remedy: run it as root."
    if monitor_state.IN_MEMORY.exists() and not os.access(monitor_state.IN_MEMORY, os.R_OK):
        unread["monitor"] = f"The last look is in {monitor_state.IN_MEMORY}, for root alone. Remedy: run it as root."
    return Server(monitor_state.read_state(monitor_state.DIRECTORY), files, bool(names), unread, limits, now)


def run(arguments: Namespace) -> int:
    """Says how the server is; returns the exit code."""
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
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    arguments = parser.parse_args()
    return run_command("orthanc-status", lambda: run(arguments), arguments.json)
