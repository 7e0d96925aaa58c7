# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks after an Orthanc every minute: disks, service, backups, certificates, worklist, clock, known defects.

One table of rules decides what is wrong: it makes the mails and webhooks of this program as well as the alert rules of
Prometheus. When the images' disk is almost full, new images are refused while the others are still read.

What only some commands need they import themselves: the timer's look comes each minute.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ..core.cli import build_common, build_parser, run_command
from ..core.errors import DONE, WRONG, Refused
from ..core.files import write_atomic
from ..core.journal import ERROR, say
from ..core.locks import hold_lock
from ..core.monitor_state import describe_silence, read_state
from ..core.output import write_json, write_line
from .history import save_state
from .settings import FILE, Settings

LOCK = Path("/run/orthanc-monitor.lock")  # root's alone: who can open a file can lock it
COMMANDS = {
    "look": "look at everything, tell what changed, switch the disk guard on or off; what the timer starts",
    "show": "what the last look saw; exit code 1 while something is wrong, or nobody looks",
    "vulnerabilities": "what is known of the packages that run, what it means, and what to do",
    "rules": "the table as alert rules of Prometheus",
    "test": "send a test message by mail and webhook",
}


# --- a look ---------------------------------------------------------------------------------------
def look(settings: Settings) -> dict[str, Any]:
    """One look: tells what is news, and leaves state and metrics. Returns the state."""
    from .prometheus import format_metrics

    with hold_lock(LOCK):
        state, now = read_state(settings.directory), time.time()
        try:
            samples = look_from(settings, state, now)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            # of another release, or of a clock or a disk that was wrong: it must not end the monitor for ever
            what = "what the last look left is of no use, and begun anew"
            say(f"{what}: {type(error).__name__}: {error}", ERROR)
            state = {}
            samples = look_from(settings, state, now)
        save_state(settings.directory, state)
        try:
            write_atomic(settings.directory / "orthanc.prom", format_metrics(samples))
        except OSError as error:
            say(f"the metrics cannot be written: {error}", ERROR)
        return state


def look_from(settings: Settings, state: dict[str, Any], now: float) -> list[Any]:
    """The samples of one look after its alerts were told; `state`, which the last one left, becomes what it leaves."""
    from .alerts import judge
    from .context import Context
    from .notify import notify
    from .probes import run_probes

    state["began"] = min(state.get("began", int(now)), int(now))
    context = Context(settings, state, now)
    samples = [*run_probes(context)]
    alerts, events = judge(samples, settings, state.get("alerts", {}), now)
    notify(settings, state, events, now)
    values = [[one.metric, one.label, one.object, one.value] for one in samples]
    state.update(time=int(now), alerts=alerts, values=values, series=context.series)
    return samples


# --- commands -------------------------------------------------------------------------------------
def show(state: dict[str, Any], as_json: bool) -> int:
    """Says what the last look saw; WRONG while something is wrong, or nobody looks."""
    from .describe import describe_state

    silence = describe_silence(state, time.time())
    if as_json:
        write_json({**state, "silence": silence})
    else:
        for line in describe_state(state):
            write_line(line)
    firing = [alert for alert in state.get("alerts", {}).values() if alert["firing"] and alert["severity"] != "info"]
    return WRONG if firing or silence else DONE


def list_vulnerabilities(settings: Settings, state: dict[str, Any], as_json: bool) -> int:
    """Says which vulnerabilities are open."""
    from .describe import describe_vulnerabilities

    known = state.get("packages", {}).get("vulnerabilities", {})
    if as_json:
        write_json(known)
    else:
        for line in describe_vulnerabilities(known, settings):
            write_line(line)
    return DONE


def send_test(settings: Settings) -> int:
    """Sends a test message by each way that is set. Refused where none is; what fails is in the journal."""
    from .notify import send_test

    if not settings.mail_to and not settings.webhook:
        raise Refused("Nobody is told. Remedy: set orthanc_monitor_mail_to or orthanc_monitor_webhook.")
    return DONE if send_test(settings) else WRONG


def print_rules(settings: Settings) -> int:
    """Says the alert rules for Prometheus."""
    from .prometheus import format_rules

    sys.stdout.write(format_rules(settings))
    return DONE


def run(arguments: argparse.Namespace) -> int:
    """What was asked for; returns the exit code."""
    settings = Settings.read(arguments.config)
    if arguments.command == "rules":
        return print_rules(settings)
    if arguments.command == "test":
        return send_test(settings)
    if arguments.command == "look":
        state = look(settings)
        if arguments.json:
            write_json(state)
        return DONE
    state = read_state(settings.directory)
    if arguments.command == "vulnerabilities":
        return list_vulnerabilities(settings, state, arguments.json)
    return show(state, arguments.json)


def main() -> int:
    """The command orthanc-monitor; returns its exit code."""
    parser, common = build_parser("orthanc-monitor", __doc__ or "", FILE), build_common()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, parents=[common], help=text, description=text)
    arguments = parser.parse_args()
    return run_command("orthanc-monitor", lambda: run(arguments), arguments.json)
