# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs other programs without a terminal and with a time limit."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, AnyStr, NamedTuple

from .errors import Refused

HUNG, MISSING = 124, 127  # exit codes, as timeout(1) and the shell have them
WAIT_SECONDS = 60.0


class Finished(NamedTuple):
    """How a program ended: its exit code (HUNG, MISSING), its standard output and its standard error."""

    status: int
    output: str
    errors: str

    @property
    def said(self) -> str:
        """Both, output first."""
        return self.output + self.errors


def require_pipe(pipe: IO[AnyStr] | None) -> IO[AnyStr]:
    """An end of a program that was started with a pipe there."""
    if pipe is None:
        raise ValueError("The program was started without a pipe")
    return pipe


@contextlib.contextmanager
def run_at_end(seconds: int, *command: str, awaited: bool = True) -> Iterator[None]:
    """Runs the command when this block has ended, however it did, or after so many seconds.

    It reads from a pipe that ends with this program; its session is its own.
    """
    script = 'trap "" HUP INT TERM; echo; timeout -s KILL "$0" cat >/dev/null; exec "$@" >/dev/null 2>&1'
    dog = subprocess.Popen(
        ["sh", "-c", script, str(seconds), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    leash, barks = require_pipe(dog.stdin), require_pipe(dog.stdout)
    try:
        barks.readline()
        yield
    finally:
        leash.close()
        if awaited:
            dog.wait()


def run_program(
    *command: str,
    seconds: float | None = WAIT_SECONDS,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Runs a program with `text` as its input, or with none. After so many seconds it is killed; None is no limit."""
    try:
        done = start_program(command, seconds, text, environment)
    except FileNotFoundError:
        return Finished(MISSING, "", f"{command[0]} is not installed")
    except subprocess.TimeoutExpired as hung:
        return Finished(HUNG, decode(hung.stdout), f"{command[0]} did not end within {seconds:g} s")
    return Finished(done.returncode, done.stdout, done.stderr)


def ask_program(*command: str, seconds: float = WAIT_SECONDS) -> Finished:
    """The same in English, of a program that may lie in /usr/sbin; its complaints are without space around them.

    OSError where it is not there, or hangs."""
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}
    try:
        done = start_program(command, seconds, None, environment)
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} did not end within {seconds:g} s") from None
    return Finished(done.returncode, done.stdout, done.stderr.strip())


def try_output(*command: str, seconds: float = WAIT_SECONDS) -> str:
    """What such a program says on its standard output; empty where it fails, hangs or is not there."""
    try:
        done = ask_program(*command, seconds=seconds)
    except OSError:
        return ""
    return "" if done.status else done.output


def start_program(
    command: Sequence[str], seconds: float | None, text: str | None, environment: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    """What subprocess.run gives, and raises."""
    return subprocess.run(
        command,
        input="" if text is None else text,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        env=environment,
        check=False,
    )


def decode(content: bytes | str | None) -> str:
    """What was read of a program's output before it was killed, which Python gives as bytes."""
    return content.decode(errors="replace") if isinstance(content, bytes) else content or ""


def read_output(*command: str, seconds: float | None = WAIT_SECONDS) -> str:
    """What a program says on its standard output, without space around it; Refused where it fails."""
    done = run_program(*command, seconds=seconds)
    if done.status:
        raise Refused(f"{' '.join(command[:2])}: {done.errors.strip()}. Remedy: correct what it reports.")
    return done.output.strip()
