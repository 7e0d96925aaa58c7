# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Monitors Orthanc every minute: disks, service, backups, certificates, worklist, clock, known vulnerabilities.

One table of rules decides what is wrong, for the mails and webhooks of this program and for the alert rules of
Prometheus. When the images' disk is almost full, new images are refused while the others are still read.

What only some commands need they import themselves, since the timer starts a check each minute.
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
    "look": "check everything, report what changed, switch the disk guard on or off; the timer starts this",
    "show": "show the last check; exit code 1 while something is wrong, or while the monitor does not run",
    "vulnerabilities": "list known vulnerabilities of the packages in use, what they mean, and what to do",
    "rules": "print the rules as alert rules for Prometheus",
    "test": "send a test message by mail and webhook",
}


# --- a check --------------------------------------------------------------------------------------
def run_check(settings: Settings) -> dict[str, Any]:
    """Runs one check: reports what is new, writes state and metrics. Returns the state."""
    from .prometheus import format_metrics

    with hold_lock(LOCK):
        state, now = read_state(settings.directory), time.time()
        try:
            samples = collect_samples(settings, state, now)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            # of another release, or of a clock or a disk that was wrong: it must not end the monitor for ever
            what = "the state of the last check cannot be used and is discarded"
            say(f"{what}: {type(error).__name__}: {error}", ERROR)
            state = {}
            samples = collect_samples(settings, state, now)
        save_state(settings.directory, state)
        try:
            write_atomic(settings.directory / "orthanc.prom", format_metrics(samples))
        except OSError as error:
            say(f"the metrics cannot be written: {error}", ERROR)
        return state


def collect_samples(settings: Settings, state: dict[str, Any], now: float) -> list[Any]:
    """Takes the samples of one check and reports its alerts; updates `state`, which the last check left."""
    from .alerts import judge
    from .context import Context
    from .notify import measure_unsent, notify
    from .probes import run_probes

    state["began"] = min(state.get("began", int(now)), int(now))
    context = Context(settings, state, now)
    samples = [*run_probes(context), *measure_unsent(settings, state, now)]
    alerts, events = judge(samples, settings, state.get("alerts", {}), now)
    notify(settings, state, events, now)
    values = [[one.metric, one.label, one.object, one.value] for one in samples]
    state.update(time=int(now), alerts=alerts, values=values, series=context.series)
    return samples


# --- commands -------------------------------------------------------------------------------------
def show(state: dict[str, Any], as_json: bool) -> int:
    """Prints the result of the last check; WRONG while something is wrong, or the monitor does not run."""
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
    """Prints the open vulnerabilities."""
    from .describe import describe_vulnerabilities

    known = state.get("packages", {}).get("vulnerabilities", {})
    if as_json:
        write_json(known)
    else:
        for line in describe_vulnerabilities(known, settings):
            write_line(line)
    return DONE


def send_test(settings: Settings) -> int:
    """Sends a test message by mail and webhook, as set. Refused where neither is; failures are in the journal."""
    from .notify import send_test

    if not settings.mail_to and not settings.webhook:
        raise Refused("No recipient is set. Remedy: set orthanc_monitor_mail_to or orthanc_monitor_webhook.")
    return DONE if send_test(settings) else WRONG


def print_rules(settings: Settings) -> int:
    """Prints the alert rules for Prometheus."""
    from .prometheus import format_rules

    sys.stdout.write(format_rules(settings))
    return DONE


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns the exit code."""
    settings = Settings.read(arguments.config)
    if arguments.command == "rules":
        return print_rules(settings)
    if arguments.command == "test":
        return send_test(settings)
    if arguments.command == "look":
        state = run_check(settings)
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
