"""A command in a terminal of its own, in which somebody types."""

from __future__ import annotations

import os
import select
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path


class Terminal:
    """A playbook, or a shell that runs one: what it asks is answered as a person would."""

    def __init__(self, directory: Path, environment: Mapping[str, str], *command: str) -> None:
        self.own, self.theirs = os.openpty()
        self.said = ""
        self.process = subprocess.Popen(
            # setsid makes the terminal that of the process
            ["setsid", "--ctty", "--wait", *command],
            cwd=directory,
            env=environment,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
        )

    def read(self) -> None:
        """What was said since, for at most 20 ms."""
        if select.select([self.own], [], [], 0.02)[0]:
            self.said += os.read(self.own, 65536).decode(errors="replace")

    def is_reading(self) -> bool:
        """Whether what is typed now arrives: both ways of asking first discard what was typed before."""
        modes = termios.tcgetattr(self.theirs)[3]
        # getpass reads lines without an echo; Ansible reads letters without blocking
        asks_for_password = modes & termios.ICANON and not modes & termios.ECHO
        return bool(asks_for_password) or not os.get_blocking(self.theirs)

    def answer(self, question: str, text: str) -> str:
        """Waits for the question and answers it; returns what was said before the question."""
        until = time.monotonic() + 60
        while question not in self.said or not self.is_reading():
            assert time.monotonic() < until, self.said
            assert self.process.poll() is None, self.said
            self.read()
        before, _question, _rest = self.said.partition(question)
        self.said = ""
        os.write(self.own, f"{text}\r".encode())
        return before

    def end(self, limit: float = 60) -> tuple[int, str]:
        """Exit code, and what was said after the last answer; fails after so many seconds."""
        until = time.monotonic() + limit
        while self.process.poll() is None:
            assert time.monotonic() < until, self.said
            self.read()
        while select.select([self.own], [], [], 0.02)[0]:
            self.read()
        return self.process.returncode, self.said.replace("\r\n", "\n")

    def close(self) -> None:
        """Ends the playbook if it still runs; Ansible's worker would outlive a playbook that is killed."""
        while self.process.poll() is None:
            if self.is_reading():
                os.write(self.own, b"\x03")
            self.read()
        os.close(self.own)
        os.close(self.theirs)
