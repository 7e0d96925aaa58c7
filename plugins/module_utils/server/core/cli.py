# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What all commands on the server have in common: options, signals, exit codes, and how they report problems."""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import journal
from .errors import DONE, WRONG, Interrupted, Refused
from .output import write_json

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SYSTEM_REMEDIES = {
    errno.EACCES: "run it as root",
    errno.EPERM: "run it as root",
    errno.ENOSPC: "make space on its disk",
}
Explain = Callable[[Exception], str]


def build_parser(program: str, text: str, configuration: Path) -> argparse.ArgumentParser:
    """The parser of a command; `text` is the first paragraph of its help."""
    parser = argparse.ArgumentParser(prog=program, description=text.partition("\n\n")[0])
    parser.add_argument("--config", type=Path, default=configuration, metavar="FILE", help=f"default: {configuration}")
    return parser


def build_common() -> argparse.ArgumentParser:
    """What every subcommand takes."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    return common


def interrupt(number: int, _frame: Any) -> None:
    """Handles a signal: further signals are ignored."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def has_no_reader(descriptor: int) -> bool:
    """Whether the descriptor is a pipe whose reader has gone (poll(2))."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(seen & select.POLLERR for _descriptor, seen in poll.poll(0))


def explain_system(error: Exception) -> str:
    """An operating system error as a sentence with its remedy; empty for any other error."""
    if not isinstance(error, OSError):
        return ""
    remedy = SYSTEM_REMEDIES.get(error.errno or 0, "check that it exists")
    return f"{error.filename or 'A file'}: {error.strerror or error}. Remedy: {remedy}."


def run_command(
    program: str,
    action: Callable[[], int],
    as_json: bool = False,
    explain: Explain | None = None,
    loudly: bool = True,
) -> int:
    """Runs the action and returns the exit code, which is the action's own where nothing went wrong.

    Problems are reported in sentences with their remedies: in the journal and on standard error, or as
    {"problems": [..]}. `explain` gives the sentence for an error that only this command knows, or nothing. Without
    `loudly` problems go only to the caller: on standard error, or as JSON.
    """
    journal.prepare_output()
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # cron's has neither
    for number in SIGNALS:
        signal.signal(number, interrupt)
    status = WRONG
    try:
        done = action()
        sys.stdout.flush()  # here, where a reader that has gone is not an error
        return done
    except Refused as refused:
        problems, status = refused.problems, refused.status
    except Interrupted as interrupted:
        problems = [f"Interrupted ({interrupted}). Remedy: run it again."]
    except Exception as error:
        if isinstance(error, BrokenPipeError) and has_no_reader(1) and not has_no_reader(2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # only results go there, and their reader has closed the pipe
            return DONE
        said = (explain(error) if explain else "") or explain_system(error)
        if not said:
            journal.say_traceback(error)
            said = f"{type(error).__name__}: {error}. Remedy: this is a defect of {program}; report these lines."
        problems = [said]
    if as_json:
        write_json({"problems": problems})
    for problem in problems:
        if loudly:
            journal.say_loudly(problem, program)
        elif not as_json:
            journal.say(problem, journal.ERROR)
    return status
