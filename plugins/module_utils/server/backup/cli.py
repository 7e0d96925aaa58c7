# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups of Orthanc that are proven by restoring them: run, list, ledger, check, restore, reconcile.

The index is copied while Orthanc stands still for a moment; the attachments, which never change once they are written,
are read afterwards. A manifest in each snapshot names every attachment with its size and MD5.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core import journal, words
from ..core.escaping import escape
from .beginning import made, make_first
from .freeze import started
from .ledger import ledger
from .listing import listed
from .reconcile import reconcile
from .restore import restore
from .restore_check import check
from .restore_study import study_restored
from .run import accepted, backup
from .settings import CONFIGURATION, CONFIGURED, STOPPED, SYSTEM_REMEDIES, Interrupted, Refused, Settings, loud
from .state import alone
from .study import format_images


def interrupted(number: int, _frame: Any) -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)  # once is enough
    raise Interrupted(signal.Signals(number).name)


def show(result: dict[str, Any]) -> None:
    for one in result.get("snapshots", []):
        proven = "" if one["proven"] else "  NOT PROVEN"
        counts = f"{one.get('studies', '?')} studies, {one.get('instances', '?')} instances"
        belongs = f"archive {one.get('archive', '?')[:4]}, Orthanc {one.get('version', '?'):8}"
        kept = f"  kept: {one['kept']}" if "kept" in one else ""
        taken = f"{words.say_stamp(one['time']):>17}"
        print(escape(f"{one['id']}  {taken}  {belongs} {counts}, {verified_of(one)}{proven}{kept}"))
    for one in result.get("kept", []):
        print(escape(f"stays as it is: {one['path']} ({one['why']})"))
    for line in format_images(result.get("images", [])):
        print(escape(line))
    for aet in dict.fromkeys(one["aet"] for one in result.get("resend", [])):
        print(escape(f"send again from {aet or 'applications'}:"))
        for one in result["resend"]:
            if one["aet"] == aet:
                print(escape(f"    {words.say_stamp(one['time']):>17}  {one['accession']:16}  {one['study']}"))
    for name, value in result.items():
        if name not in ("snapshots", "resend", "kept", "images") and value not in ("", [], {}):
            if isinstance(value, dict):
                value = [f"{key} {say_value(key, of)}" for key, of in value.items()]
            text = ", ".join(map(str, value)) if isinstance(value, list) else say_value(name, value)
            print(escape(f"{name.removesuffix('_seconds').replace('_', ' ')}: {text}"))


def say_value(name: str, value: Any) -> str:
    """A moment, a duration or a number of bytes as a person says it, everything else as it is."""
    if isinstance(value, str):
        return words.say_day(value) if name == "day" else words.say_stamp(value)
    if name == "pause":
        return f"{1000 * value:.0f} ms"
    if name == "seconds" or name.endswith("_seconds"):
        return words.say_duration(value)
    return words.say_size(value) if name in ("added", "bytes") or name.endswith("_bytes") else str(value)


def verified_of(snapshot: dict[str, Any]) -> str:
    """On which day a listed snapshot was restored on trial."""
    day, part = snapshot["verified"], snapshot["verified_part"].replace("/", " of ")
    if not day:
        return "never verified"
    return f"verified {words.say_day(day)}" + f" ({part} attachments)" * bool(part)


def done(settings: Settings, given: argparse.Namespace) -> dict[str, Any]:
    if not settings.directory.exists():
        settings.directory.mkdir(parents=True)
        settings.directory.chmod(0o755)  # the monitor reads what is there
    actions: dict[str, tuple[tuple[str, ...], Callable[[], dict[str, Any]]]] = {
        "init": ((), lambda: made(settings)),
        "first": ((), lambda: make_first(settings, given.dry_run)),
        "run": (("run",), lambda: backup(settings, given.due, given.new_archive)),
        "accept": (("run",), lambda: accepted(settings, given.id, given.reason)),
        "list": ((), lambda: listed(settings)),
        "ledger": (("ledger",), lambda: ledger(settings)),
        "check": (("check",), lambda: check(settings)),
        "restore": (
            ("run", "check", "ledger"),
            lambda: restore(settings, given.snapshot, given.target, given.dry_run, given.incomplete),
        ),
        "study": (("run",), lambda: study_restored(settings, given.study, given.snapshot, given.dry_run)),
        "reconcile": (("run",), lambda: reconcile(settings, given.repair)),
    }
    locks, action = actions["study" if getattr(given, "study", "") else given.command]
    with contextlib.ExitStack() as stack:
        for name in locks:
            stack.enter_context(alone(settings, name))
        if "run" in locks and (settings.directory / STOPPED).exists():
            started(settings)
        return action()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="the result as JSON")
    add: Callable[..., argparse.ArgumentParser] = commands.add_parser
    add("init", parents=[common], help="make the repository where there is none")
    one = add("first", parents=[common], help="make the first backup; a large one is begun, and goes on by itself")
    one.add_argument("--dry-run", action="store_true", help="say whether it would be made")
    one = add("run", parents=[common], help="make a backup")
    one.add_argument("--due", action="store_true", help="unless one was made in the last 20 hours")
    one.add_argument(
        "--new-archive", action="store_true", help="this archive begins anew beside the snapshots of another"
    )
    one = add("accept", parents=[common], help="say that a snapshot is as it should be, though it is not proven")
    one.add_argument("id", help="of orthanc-backup list")
    one.add_argument("--reason", default="", metavar="TEXT", help="kept with it")
    add("list", parents=[common], help="what snapshots there are")
    add("ledger", parents=[common], help="note which studies came, for a list of what to send again")
    add("check", parents=[common], help="restore the newest snapshot into a scratch directory, and read it")
    one = add("restore", parents=[common], help="put a snapshot in the place of what is there")
    one.add_argument("--snapshot", default="latest", help="an id of the list; the newest that is proven otherwise")
    one.add_argument("--target", type=Path, metavar="DIRECTORY", help="only restore and verify there")
    one.add_argument("--dry-run", action="store_true", help="prove the snapshot and say what would be done")
    one.add_argument("--incomplete", action="store_true", help="go without attachments that the snapshot does not have")
    one.add_argument(
        "--study", default="", metavar="VALUE",
        help="put only this study in, by AccessionNumber or StudyInstanceUID, while everything else goes on",
    )  # fmt: skip
    one = add("reconcile", parents=[common], help="compare the index with the files")
    one.add_argument(
        "--repair", action="store_true", help="import orphans, and bring the others back from the snapshots"
    )
    given = parser.parse_args()
    journal.prepare_output()
    if getattr(given, "study", "") and (given.target or given.incomplete):
        parser.error("--study goes with --snapshot and --dry-run alone")
    os.umask(0o077)
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # cron's has neither
    if given.config != CONFIGURATION:
        CONFIGURED[:] = ["--config", str(given.config)]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        result = done(Settings.read(given.config), given)
    except Refused as refused:
        problems = refused.problems
    except OSError as error:
        remedy = SYSTEM_REMEDIES.get(error.errno or 0, "see that it is there")
        problems = [f"{error.filename or 'A file'}: {error.strerror}. Remedy: {remedy}."]
    except sqlite3.Error as error:
        problems = [f"The index: {error}. Remedy: see orthanc-backup check, and restore."]
    except Exception as error:
        journal.say_traceback(error)
        problems = [f"{type(error).__name__}: {error}. Remedy: it is a defect of orthanc-backup; report these lines."]
    except Interrupted as signalled:
        problems = [f"Interrupted ({signalled}). Remedy: run it again."]
    else:
        print(json.dumps(result, indent=2)) if given.json else show(result)
        return int(bool(result.get("left")))
    if given.json:
        print(json.dumps({"problems": problems}, indent=2))
    for problem in problems:
        loud(problem)
    return 1
