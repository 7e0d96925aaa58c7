# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Messages of a program to the journal and to its caller. Text from outside never starts a line of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from types import TracebackType

from .escaping import escape

ERROR, WARNING, NOTICE, INFORMATION = 3, 4, 5, 6  # syslog(3)
LENGTH = 10_000  # characters; journald begins a new line, and looks for its priority, after 48 KiB


def say(text: object, level: int = INFORMATION) -> None:
    """One line on standard error; as a unit its priority goes before it (sd-daemon(3))."""
    line, priority = escape(text), f"<{level}>" * ("INVOCATION_ID" in os.environ)
    for start in range(0, len(line) or 1, LENGTH):
        sys.stderr.write(priority + line[start : start + LENGTH] + "\n")
        sys.stderr.flush()


def say_loudly(text: object, program: str) -> None:
    """One line at priority 3, in the journal wherever the program was called from."""
    import shutil  # costs more than all the rest of a short command, and is needed when something is wrong alone

    say(text, ERROR)
    if "INVOCATION_ID" not in os.environ and shutil.which("logger"):
        subprocess.run(
            ["logger", "-p", "daemon.err", "-t", program, "--size=32768", "--", escape(text)[:LENGTH]],
            stdin=subprocess.DEVNULL,
            check=False,
        )


def say_traceback(error: BaseException) -> None:
    """Prints a traceback line by line, since the text of an error may come from outside."""
    import traceback  # as shutil

    for part in traceback.format_exception(error):
        for line in part.splitlines():
            say(line, ERROR)


def prepare_output() -> None:
    """Makes standard output and error take every character; a library's warnings are said like the rest, and errors too
    that nobody caught."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the terminal's language
    warnings.showwarning = say_warning
    sys.excepthook = say_uncaught


def say_uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """What Python calls for an error that ends the program."""
    say_traceback(error)


def say_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """What Python calls for a warning."""
    say(message, WARNING)
