# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc's worklist: schedule, list, remove and check items; and the intake through which every item passes.

Applications write DICOM data sets as .wl files into the incoming directory. The intake checks each file, then writes a
clean copy where Orthanc serves it, or moves it to quarantine next to a text file with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable
from typing import Any

from ..core import cli as core
from ..core import words
from ..core.errors import DONE, Interrupted, Misused
from ..core.output import write_json, write_line
from . import row as rows
from . import spreadsheet
from .intake import Intake
from .orders import check_files, create_items, list_items, remove_items
from .settings import CONFIGURATION, Settings
from .tidy import tidy_worklist

PROGRAM = "orthanc-worklist"


def show_result(result: dict[str, Any]) -> None:
    """Prints the result for a person on standard output."""
    for held in result.get("quarantine", []):
        write_line(held["file"])
        for line in held["reason"].strip().split("\n"):
            write_line(f"    {line}")
    for name in result.get("waiting", []):
        write_line(name)
    show_items(result.get("items", []))
    for kind, what in KINDS.items():
        if result.get(kind):
            write_line()
            write_line(f"{len(result[kind])} from earlier imports, {what}:")
            show_items(result[kind], study=True)
            write_line()


REMOVE = "orthanc-worklist remove with the StudyInstanceUID at the end of the line"
KINDS = {
    "removed": "not in this file, removed from the list",
    "not_in_file": "not in this file, stay on the list. Remedy, if they were moved or cancelled: import this file again"
    f" with --replace, which removes them; or {REMOVE}",
    "other_days": "for other days under the same AccessionNumber, stay on the list as appointments of one treatment."
    f" Remedy, if they were moved: {REMOVE}",
    "elsewhere": "for a day and a station that this file has, but not in the same row, stay on the list, even with"
    f" --replace. Remedy, if they were moved or cancelled: {REMOVE}",
}


def show_items(items: list[dict[str, Any]], study: bool = False) -> None:
    for item in items:
        who = f"{item['accession_number']:16}  {item['patient_id']:16}  {item['patient_name']}"
        who += f"  {item['study_instance_uid']}" if study else ""
        for step in item["steps"]:
            hour = f"{step['time'][:2]}:{step['time'][2:4]}" if step["time"] else ""
            when = f"{words.say_day(step['date']):>11} {hour:5}"
            write_line(f"{when}  {step['station']:16}  {step['modality']:4}  {who}")


def parse_encoding(name: str) -> str:
    """The name of a text encoding. Raises ValueError for an unknown one."""
    try:
        "".encode(name)
    except LookupError as error:
        raise ValueError(str(error)) from None
    return name


def build_parser() -> argparse.ArgumentParser:
    """The command line of orthanc-worklist."""
    parser = core.build_parser(PROGRAM, __doc__ or "", CONFIGURATION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = core.build_common()
    columns = ", ".join(name if needed else f"[{name}]" for name, needed in spreadsheet.COLUMNS.items())
    add: Callable[..., argparse.ArgumentParser] = commands.add_parser
    one = add("create", parents=[common], help="schedule each row of a spreadsheet", epilog=f"Columns: {columns}.")
    one.add_argument("file", nargs="?", default="-", help=".xlsx, CSV or JSON file; default or -: standard input")
    one.add_argument(
        "--date-order",
        choices=[rows.DAY_FIRST, rows.MONTH_FIRST],
        default="",
        help="how to read 01/02/2026: dmy is 1 February, mdy is January 2",
    )
    one.add_argument(
        "--encoding", type=parse_encoding, help="encoding of a CSV file that is not UTF-8 or UTF-16, such as cp1252"
    )
    one.add_argument("--sheet", default="", help="the sheet of an .xlsx file to import, if several hold a patient list")
    one.add_argument(
        "--replace",
        action="store_true",
        help="remove items from earlier imports that this file no longer lists, for each station and day in this file",
    )
    one = add("list", parents=[common], help="list the scheduled items")
    which = one.add_mutually_exclusive_group()
    for name, text in (("waiting", "files that are not served yet"), ("quarantine", "rejected files and the reasons")):
        which.add_argument(f"--{name}", dest="which", action="store_const", const=name, default="items", help=text)
    one = add("remove", parents=[common], help="remove items from the list")
    one.add_argument("wanted", nargs="+", metavar="ITEM", help="accession number or StudyInstanceUID")
    one = add("check", parents=[common], help="check whether files would be accepted")
    one.add_argument("files", nargs="+", metavar="FILE")
    add("gate", help="run the intake (run by orthanc-worklist.service)")
    add("tidy", help="remove items that are done (run by a timer)")
    return parser


def act(given: argparse.Namespace) -> int:
    """Runs the command and returns the exit code."""
    settings = Settings.read(given.config)
    if given.command == "gate":
        # whenever it is stopped, the next run repairs what it left unfinished
        with contextlib.suppress(Interrupted):
            Intake(settings).run()
        return DONE
    if given.command == "tidy":
        tidy_worklist(settings)
        return DONE
    actions: dict[str, Callable[[], dict[str, Any]]] = {
        "create": lambda: create_items(settings, given.file, given),
        "list": lambda: list_items(settings, given.which),
        "remove": lambda: remove_items(settings, given.wanted),
        "check": lambda: check_files(settings, given.files),
    }
    try:
        result = actions[given.command]()
    except PermissionError as error:
        raise Misused(core.explain_system(error)) from None
    if given.json:
        write_json(result)
    else:
        show_result(result)
        done = {"check": "checked, no problems"}
        if given.command == "create" and os.geteuid() != 0:  # other accounts cannot read the list
            done["create"] = "submitted; the intake decides on each"
        write_line(f"{len(next(iter(result.values())))} {done.get(given.command, 'in total')}")
    return DONE


def explain(error: Exception) -> str:
    """The sentence and the remedy for a missing directory; empty for any other error."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: {error.strerror}. Remedy: deploy again."
    return ""


def main() -> int:
    """Runs orthanc-worklist and returns its exit code."""
    given = build_parser().parse_args()
    as_json = getattr(given, "json", False)
    # a wrong row is for its author to correct, not an error of the server
    return core.run_command(PROGRAM, lambda: act(given), as_json, explain, loudly=False)
