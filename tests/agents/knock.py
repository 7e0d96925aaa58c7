#!/usr/bin/env python3
"""Knock at doors every 10 ms and tell who was let in, as JSON when told to end (SIGTERM) or when the time is up.
With --result it also writes what it has seen so far whenever it is asked to (SIGUSR1).

Standard library alone: it runs in the client containers. A knock is a TCP connect; "in" is a connect that succeeds,
"refused" one that nobody listens to (RST), "silent" one without an answer in time. Each "in" has its time of day.
"""

from __future__ import annotations

import argparse
import collections
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

KEPT = 1000  # times of "in" that are kept for one door


class Door:
    def __init__(self, name: str) -> None:
        host, _, port = name.rpartition(":")
        self.address = (host.strip("[]"), int(port))
        self.family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        self.knocks, self.last, self.gap = 0, 0.0, 0.0
        self.answers: collections.Counter[str] = collections.Counter()
        self.times: list[float] = []

    def knock(self, now: float) -> socket.socket:
        if self.knocks:
            self.gap = max(self.gap, now - self.last)
        self.knocks, self.last = self.knocks + 1, now
        knocking = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # closed with a RST: no thousand connections in TIME_WAIT
        knocking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        code = knocking.connect_ex(self.address)
        if code not in (0, errno.EINPROGRESS):
            self.answer(code)
            knocking.close()
        return knocking

    def answer(self, code: int) -> None:
        names = {0: "in", errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "silent"}
        self.answers[names.get(code, errno.errorcode.get(code, str(code)))] += 1
        if code == 0 and len(self.times) < KEPT:
            self.times.append(round(time.time(), 3))

    def told(self) -> dict[str, Any]:
        return {"knocks": self.knocks, "longest_gap": round(self.gap, 3), "times": self.times, **self.answers}


class Knocker:
    def __init__(self, doors: list[str], every: float, wait: float) -> None:
        self.doors = {name: Door(name) for name in doors}
        self.every, self.wait, self.ended = every, wait, False
        self.poll = select.epoll()
        self.open: dict[int, tuple[socket.socket, Door, float]] = {}  # in the order of their end

    def listen(self, until: float) -> None:
        """What comes back until then; an answer that is there counts before its knock is too old."""
        while True:
            now = time.monotonic()
            for number, _ in self.poll.poll(max(0.0, until - now)):
                knocking, door, _ = self.open[number]
                self.close(number, knocking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), door)
            now = time.monotonic()
            while self.open and next(iter(self.open.values()))[2] < now:
                number, (_, door, _) = next(iter(self.open.items()))
                self.close(number, errno.ETIMEDOUT, door)
            if now >= until:
                return

    def close(self, number: int, code: int, door: Door) -> None:
        door.answer(code)
        self.poll.unregister(number)
        self.open.pop(number)[0].close()

    def run(self, seconds: float) -> dict[str, Any]:
        tick = time.monotonic()
        end = tick + seconds
        while not self.ended:
            for door in self.doors.values():
                now = time.monotonic()
                knocking = door.knock(now)
                if knocking.fileno() >= 0:
                    self.poll.register(knocking, select.EPOLLOUT)
                    self.open[knocking.fileno()] = (knocking, door, now + self.wait)
            # a knock that is late does not make the next ones late
            tick = max(tick + self.every, time.monotonic() - 10 * self.every)
            if tick >= end:
                break
            self.listen(tick)
        while self.open:
            self.listen(min(time.monotonic() + 0.05, next(iter(self.open.values()))[2]))
        return self.told()

    def told(self) -> dict[str, Any]:
        return {name: door.told() for name, door in self.doors.items()}


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all: who waits for the file may read it."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text)
    unfinished.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("doors", nargs="+", help="198.51.100.12:4242 or [2001:db8::1]:443")
    parser.add_argument("--every", type=float, default=0.01, help="seconds between two knocks at one door")
    parser.add_argument("--wait", type=float, default=0.5, help="seconds until a knock without answer is silent")
    parser.add_argument("--seconds", type=float, default=3600, help="0: one knock at each door")
    parser.add_argument("--result", type=Path, help="file for the JSON; standard output otherwise")
    parser.add_argument("--pid", type=Path, help="file for the process id")
    chosen = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    knocker = Knocker(chosen.doors, chosen.every, chosen.wait)
    signal.signal(signal.SIGTERM, lambda *_: setattr(knocker, "ended", True))
    if chosen.result:
        so_far = chosen.result.with_suffix(".so-far")
        signal.signal(signal.SIGUSR1, lambda *_: write_whole(so_far, json.dumps(knocker.told())))
    if chosen.pid:
        chosen.pid.write_text(str(os.getpid()))
    told = json.dumps(knocker.run(chosen.seconds))
    if chosen.result:
        write_whole(chosen.result, told)
    else:
        sys.stdout.write(told)


if __name__ == "__main__":
    main()
