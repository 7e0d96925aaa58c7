#!/usr/bin/env python3
"""Takes a machine that has a clock of its own to a moment, and waits until everything that is due has run.

It reads a JSON object from standard input: `to` (seconds since 1970, none leaves the clock alone), `wait` (names in
WAITS, for what began at `to` or `since`), `run` (shell scripts, one after the other), and `look` (when the monitor
checks, none: it does not). It answers with what there is then. Standard library alone.
"""

from __future__ import annotations

import calendar
import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OWN, MONITOR = Path("/var/lib/orthanc-backup"), Path("/var/lib/orthanc-monitor/state.json")
ACCEPTANCE = Path("/var/lib/orthanc-verify/report.json")
TICK, CRON = Path("/run/bed-tick"), Path("/run/crond.pid")
CERTIFICATE = "/etc/nginx/orthanc/self_signed.crt"
TIMERS = ("orthanc-certificate", "orthanc-restore-check", "logrotate")  # those that go by the calendar
PATIENCE = 900
SERVED, LOGS = Path("/var/lib/orthanc/worklists"), Path("/var/log/nginx")
MAILBOX, MAILS = Path("/var/mail/clinic"), Path("/var/spool/postfix")
LOOKS = 5  # checks of the monitor, which runs each minute, until an alert has begun or ended


def read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    return {}


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def wait_for(is_true: Callable[[], bool], what: str) -> None:
    begin = asked = time.monotonic()
    while not is_true():
        now = time.monotonic()
        if now > begin + PATIENCE:
            sys.exit(f"{what}: not within {PATIENCE} s")
        # each question takes processor time from what is waited for
        time.sleep(max(0.2, 2 * (now - asked)))
        asked = time.monotonic()


# --- the clock -----------------------------------------------------------------------------------
def set_clock(moment: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, moment)
    # cron, if it runs, sleeps until what was the next minute; a child that ends wakes it
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(CRON.read_text()), signal.SIGCHLD)


def has_fired() -> bool:
    """Whether each timer waits for a moment to come, and what it started has ended."""
    names = [f"{name}.{kind}" for name in TIMERS for kind in ("timer", "service")]
    shown = said("systemctl", "show", "--timestamp=unix", "--property=ActiveState,NextElapseUSecRealtime", *names)
    for part in shown.split("\n\n"):
        known = dict(line.split("=", 1) for line in part.splitlines() if "=" in line)
        due = known.get("NextElapseUSecRealtime", "").lstrip("@")
        # one that a person has stopped waits for nothing
        if known.get("ActiveState") == "active" and due.isdecimal() and int(due) <= time.time():
            return False
        if known.get("ActiveState") in ("activating", "deactivating", "reloading"):
            return False
    return True


# --- what is waited for --------------------------------------------------------------------------
def is_ticked(since: float) -> bool:
    """Whether cron has started what is due in this minute."""
    with contextlib.suppress(OSError, ValueError):
        return abs(int(TICK.read_text()) - since) < 3600 and int(TICK.read_text()) >= since - since % 60
    return False


def read_stamp(text: str) -> float:
    """A moment as orthanc-backup writes it: UTC, 20271031T010203.456."""
    return calendar.timegm(time.strptime(text.partition(".")[0], "%Y%m%dT%H%M%S")) if text else 0


def is_done(name: str, since: float) -> bool:
    noted = read(OWN / f"{name}.json")
    return int(since) <= read_stamp(noted.get("started", "")) and noted.get("result") != "running"


def list_own() -> list[str]:
    """The programs that cron has started, and that still run; pgrep would cost ten times as much."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [command for command in found if re.search("orthanc-(backup|verify) run", command)]


WAITS: dict[str, Callable[[float], bool]] = {
    "cron": lambda since: is_ticked(since) and not list_own(),
    "backup": lambda since: is_done("backup", since),
}


# --- the monitor ---------------------------------------------------------------------------------
def is_undecided(alert: dict[str, Any]) -> bool:
    """Whether the next check may report that it begins or ends."""
    return bool(alert["good"] if alert["firing"] else alert["looks"])


def look_at(moment: float) -> None:
    set_clock(moment)
    for _ in range(LOOKS):
        run("systemctl start orthanc-monitor.service")
        if not any(map(is_undecided, read(MONITOR)["alerts"].values())):
            break


def fetch_mails() -> str:
    """What the mailbox holds, which is empty afterwards."""
    spools = [MAILS / name for name in ("maildrop", "incoming", "active")]
    wait_for(lambda: not any(files for spool in spools for _at, _inside, files in os.walk(spool)), "the mail")
    text = MAILBOX.read_text() if MAILBOX.exists() else ""
    MAILBOX.unlink(missing_ok=True)
    return text


# --- what there is -------------------------------------------------------------------------------
def run(script: str) -> None:
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script}: {done.returncode}\n{done.stdout}{done.stderr}")


def describe() -> dict[str, Any]:
    state, known = read(MONITOR), {name: read(OWN / f"{name}.json") for name in ("backup", "restore_check")}
    noted = ("result", "reason", "started", "forgotten", "held")
    return {
        "now": time.time(),
        **{name: {key: of[key] for key in noted if key in of} for name, of in known.items()},
        "acceptance": {key: read(ACCEPTANCE).get(key) for key in ("time", "passed")},
        "served": sorted(path.name for path in SERVED.glob("*.wl")),
        "logs": sorted(path.name for path in LOGS.glob("orthanc_access.log*")),
        "disk": {key: value for key, value in state.get("disk", {}).items() if key != "history"},
        "mails": fetch_mails(),
        "alerts": sorted(key for key, one in state.get("alerts", {}).items() if one["firing"] and not one["covered"]),
        "certificate": said("openssl", "x509", "-noout", "-serial", "-startdate", "-enddate", "-in", CERTIFICATE),
    }


def main() -> None:
    asked = json.load(sys.stdin)
    since = asked.get("since") or asked.get("to") or time.time()
    if asked.get("to"):
        set_clock(asked["to"])
        wait_for(has_fired, "the timers")
    for name in asked.get("wait", []):
        wait_for(functools.partial(WAITS[name], since), name)
    for script in asked.get("run", []):
        run(script)
    if asked.get("look"):
        look_at(asked["look"])
    print(json.dumps(describe()))


if __name__ == "__main__":
    main()
