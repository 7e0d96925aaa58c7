"""Moments of a year on a machine that has a clock of its own: for the scenario `year`.

cron and the machine's timers start by themselves what is due at a moment to which its clock is set. What runs each
minute (the monitor's check) or each quarter of an hour (the ledger) is started by the test.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from backups import must
from clients import ROOT, put
from worklists import sh

MACHINE = "orthanc-year"
ZONE = ZoneInfo("Europe/Berlin")


def at(day: date, hour: int, minute: int = 0, second: float = 0, fold: int = 0) -> float:
    """A moment of the machine's local time, in seconds since 1970."""
    return datetime(day.year, day.month, day.day, hour, minute, fold=fold, tzinfo=ZONE).timestamp() + second


def go(
    to: float | None,
    *wait: str,
    run: tuple[str, ...] = (),
    since: float | None = None,
    look: float | None = None,
) -> Any:
    """Sets the clock, waits until what is due has run, runs these scripts, and has the monitor check at another moment;
    then what there is (moment.py)."""
    asked = json.dumps({"to": to, "wait": wait, "run": run, "since": since, "look": look}).encode()
    return json.loads(must(MACHINE, "python3 /opt/moment.py", asked))


def check(to: float | None, checks: int = 1) -> Any:
    """What runs each minute runs at this moment."""
    ledger, look = "systemctl start orthanc-ledger.service", "systemctl start orthanc-monitor.service"
    return go(to, run=("systemctl start orthanc-worklist-tidy.service", ledger, *[look] * checks))


def get_ready() -> int:
    """Brings the machine what the tests need; the minute at which its nightly backup starts."""
    put(MACHINE, "/opt/moment.py", (ROOT / "tests/agents/moment.py").read_bytes())
    put(MACHINE, "/etc/cron.d/bed-tick", b"* * * * * root date +\\%s > /run/bed-tick\n")
    return int(must(MACHINE, "grep -oE '^[0-9]+' /etc/cron.d/orthanc-backup"))


def is_trusted() -> bool:
    """Whether a client of today accepts the server's certificate; the containers beside it live in another year."""
    ask = "openssl s_client -connect 127.0.0.1:443 -servername pacs.clinic.example -verify_hostname pacs.clinic.example"
    return sh(MACHINE, f"{ask} -CAfile /etc/nginx/orthanc/ca.crt -verify_return_error </dev/null")[0] == 0
