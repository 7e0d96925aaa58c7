# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups of Orthanc that are proven by restoring them: run, list, schedule, ledger, check, restore, reconcile.

The index is copied while Orthanc is paused for a moment; the attachments, which never change once they are written,
are read afterwards. A manifest in each snapshot names every attachment with its size and MD5.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.cli import build_common, build_parser, run_command
from ..core.errors import DONE, WRONG
from ..core.output import write_json
from .adoption import save_old_server
from .beginning import make_first_backup, make_repository
from .freeze import start_orthanc
from .ledger import update_ledger
from .listing import describe_snapshots
from .output import PROGRAM, print_result
from .reconcile import reconcile_index
from .restic import remove_locks
from .restore import restore_snapshot
from .restore_check import check_restore
from .restore_study import restore_one_study
from .run import accept_snapshot, make_backup
from .schedule import describe_schedules
from .settings import CONFIGURATION, MAKE_SPACE, STOPPED, Settings
from .state import hold_program_lock


def explain_error(error: Exception) -> str:
    """The sentence for an error that only this command knows, or nothing."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'A file'}: {error.strerror}. Remedy: {MAKE_SPACE}."
    if isinstance(error, sqlite3.Error):
        return f"The index: {error}. Remedy: run orthanc-backup check; if it fails, orthanc-backup restore."
    return ""


def run_action(settings: Settings, given: argparse.Namespace) -> dict[str, Any]:
    """Runs the subcommand with the locks that it needs, and returns its result."""
    if not settings.directory.exists():
        settings.directory.mkdir(parents=True)
        settings.directory.chmod(0o755)  # the monitor reads what is there
    actions: dict[str, tuple[tuple[str, ...], Callable[[], dict[str, Any]]]] = {
        "init": ((), lambda: make_repository(settings, given.new)),
        "first": ((), lambda: make_first_backup(settings, given.dry_run)),
        "adopt": (
            ("run",),
            lambda: save_old_server(settings, given.storage, given.index or given.storage, given.container),
        ),
        "run": (("run",), lambda: make_backup(settings, given.due, given.new_archive)),
        "accept": (("run",), lambda: accept_snapshot(settings, given.id, given.reason)),
        "list": ((), lambda: describe_snapshots(settings)),
        "unlock": ((), lambda: remove_locks(settings)),  # while a backup waits for such a lock
        "schedule": ((), describe_schedules),
        "ledger": (("ledger",), lambda: update_ledger(settings)),
        "check": (("check",), lambda: check_restore(settings)),
        "restore": (
            ("run", "check", "ledger"),
            lambda: restore_snapshot(settings, given.snapshot, given.target, given.dry_run, given.incomplete),
        ),
        "study": (("run",), lambda: restore_one_study(settings, given.study, given.snapshot, given.dry_run)),
        "reconcile": (("run",), lambda: reconcile_index(settings, given.repair)),
    }
    locks, action = actions["study" if getattr(given, "study", "") else given.command]
    with contextlib.ExitStack() as stack:
        for name in locks:
            stack.enter_context(hold_program_lock(settings, name))
        if "run" in locks and (settings.directory / STOPPED).exists():
            start_orthanc(settings)
        return action()


def parse_arguments() -> argparse.Namespace:
    """The command line; wrong usage ends the program."""
    parser = build_parser(PROGRAM, __doc__ or "", CONFIGURATION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = build_common()
    add: Callable[..., argparse.ArgumentParser] = commands.add_parser
    one = add("init", parents=[common], help="create the repository if it does not exist")
    one.add_argument("--new", action="store_true", help="create it in the place of one that had backups and is gone")
    one = add("first", parents=[common], help="make the first backup; a large one continues in the background")
    one.add_argument("--dry-run", action="store_true", help="report whether it would be made")
    one = add("adopt", parents=[common], help="save an Orthanc that was set up by hand, before a deploy takes it over")
    one.add_argument("storage", type=Path, metavar="DIRECTORY", help="the directory of its images")
    one.add_argument("--index", type=Path, metavar="DIRECTORY", help="the directory of its index, if it is another one")
    one.add_argument("--container", default="", metavar="NAME", help="its container; default: orthanc.service")
    one = add("run", parents=[common], help="make a backup")
    one.add_argument("--due", action="store_true", help="only if none was made in the last 20 hours")
    one.add_argument(
        "--new-archive", action="store_true", help="start a new archive beside the snapshots of another one"
    )
    one = add("accept", parents=[common], help="accept a snapshot as good although it is not proven")
    one.add_argument("id", help="id of a snapshot, from orthanc-backup list")
    one.add_argument("--reason", default="", metavar="TEXT", help="stored with the snapshot's acceptance")
    add("list", parents=[common], help="list the snapshots")
    add("unlock", parents=[common], help="remove the repository's locks; only if no restic is at work on any machine")
    add("schedule", parents=[common], help="what starts backup, restore check and ledger, and whether it runs")
    add("ledger", parents=[common], help="record which studies arrived, to know what to send again after a restore")
    add(
        "check", parents=[common], help="test restore: restore the newest snapshot into a scratch directory and read it"
    )
    one = add("restore", parents=[common], help="replace the present data with a snapshot")
    one.add_argument("--snapshot", default="latest", help="id of a snapshot; default: the newest proven one")
    one.add_argument("--target", type=Path, metavar="DIRECTORY", help="only restore into this directory and verify")
    one.add_argument("--dry-run", action="store_true", help="check the snapshot and report what would be done")
    one.add_argument("--incomplete", action="store_true", help="restore although the snapshot lacks attachments")
    one.add_argument(
        "--study", default="", metavar="VALUE",
        help="restore only this study, by AccessionNumber or StudyInstanceUID, without stopping Orthanc",
    )  # fmt: skip
    one = add("reconcile", parents=[common], help="compare the index with the files")
    one.add_argument(
        "--repair",
        action="store_true",
        help="import orphaned files, and restore damaged and missing ones from the snapshots",
    )
    given = parser.parse_args()
    if getattr(given, "study", "") and (given.target or given.incomplete):
        parser.error("--study can be combined only with --snapshot and --dry-run")
    return given


def main() -> int:
    """The command orthanc-backup; its exit code."""
    given = parse_arguments()
    os.umask(0o077)

    def act() -> int:
        result = run_action(Settings.read(given.config), given)
        write_json(result) if given.json else print_result(result)
        return WRONG if result.get("left") else DONE

    return run_command(PROGRAM, act, given.json, explain_error)
