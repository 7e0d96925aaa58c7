# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends alerts by mail, webhook and journal.

What only a message needs is imported where it is sent: most checks send none.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..core import words
from ..core.escaping import escape
from ..core.journal import ERROR, INFORMATION, WARNING, say
from ..core.monitor_state import describe_alert
from .context import ANSWER_SECONDS, Sample, observe
from .settings import Settings

SETTLE_SECONDS = 5 * 60  # of a new monitor, until which what can wait is gathered for one message
KEPT_EVENTS = 100  # of those that could not be sent
POSTED = 10  # at a time: chat services refuse long messages (Teams: 28 KB)
PRIORITIES = {"critical": ERROR, "warning": WARNING, "info": INFORMATION}
WORDS = {"firing": "Trouble", "reminder": "Still", "resolved": "All clear"}

Event = dict[str, Any]  # an alert with its `state`: firing, reminder or resolved


# --- words ----------------------------------------------------------------------------------------
def describe_kind(event: Event) -> str:
    """The kind of message; an alert that needs no action is for information."""
    if event["state"] == "firing" and event["severity"] == "info":
        return "For information"
    return WORDS[event["state"]]


# --- ways -----------------------------------------------------------------------------------------
def send_mail(settings: Settings, events: list[Event], now: float) -> None:
    """Sends one mail for one check, through the machine's sendmail; OSError with its complaint."""
    import email.message
    from email.utils import formatdate, make_msgid

    message = email.message.EmailMessage()
    first = min(events, key=lambda one: PRIORITIES[one["severity"]])
    more = f" and {len(events) - 1} more" if len(events) > 1 else ""
    message["Subject"] = escape(f"[{settings.clinic}] {describe_kind(first)}: {first['summary']}{more}")
    message["From"], message["To"] = settings.mail_from, ", ".join(settings.mail_to)
    message["Date"], message["Message-ID"] = formatdate(now), make_msgid(domain=settings.hostname or "localhost")
    lines = []
    for event in events:
        since, severity = words.say_moment(event["since"]), event["severity"]
        kind = describe_kind(event) + ("" if severity == "info" else f", {severity}")
        lines += [f"{kind}: {describe_alert(event)}.", f"  {event['name']} since {since}"]
        lines += [f"  Remedy: {event['remedy']}."] * (event["state"] != "resolved") + [""]
    lines.append(f"{settings.host} ({settings.hostname}). More on the machine: orthanc-monitor show")
    message.set_content("\n".join(lines))
    done = subprocess.run(
        ["/usr/sbin/sendmail", "-oi", "-t"],
        input=message.as_bytes(),
        capture_output=True,
        timeout=60,
        check=False,
        start_new_session=True,  # msmtp would ask a terminal for a password
    )
    if done.returncode:
        raise OSError(f"sendmail: {done.stderr.decode(errors='replace').strip()}")


def post_webhook(settings: Settings, events: list[Event], now: float) -> None:
    """The same as JSON, with a `text` that chat services show."""
    import urllib.request

    alerts = [{"text": f"{describe_kind(event)}: {describe_alert(event)}", **event} for event in events]
    content = {"clinic": settings.clinic, "host": settings.host, "time": int(now), "alerts": alerts}
    content["text"] = "\n".join(f"{settings.clinic}: {event['text']}" for event in alerts)
    request = urllib.request.Request(
        settings.webhook, json.dumps(content).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.build_opener().open(request, timeout=2 * ANSWER_SECONDS):
        pass


def list_ways(settings: Settings) -> list[tuple[str, bool, Callable[[Settings, list[Event], float], None], int]]:
    """Each way: its name, whether it is set, what sends, and how many events it takes at a time."""
    return [
        ("mail", bool(settings.mail_to), send_mail, KEPT_EVENTS),
        ("webhook", bool(settings.webhook), post_webhook, POSTED),
    ]


# --- when -----------------------------------------------------------------------------------------
def is_settling(state: dict[str, Any], waiting: list[Event], now: float) -> bool:
    """Whether a new monitor still gathers: a first deploy is one message, unless something is critical."""
    return now - state.get("began", now - SETTLE_SECONDS) < SETTLE_SECONDS and all(
        one["severity"] != "critical" for one in waiting
    )


def leave_out_resolved(waiting: list[Event]) -> list[Event]:
    """Leaves out what began and ended before it was reported."""
    keys = {each: {(one["name"], one["object"]) for one in waiting if one["state"] == each} for each in WORDS}
    over = keys["firing"] & keys["resolved"]
    return [one for one in waiting if (one["name"], one["object"]) not in over]


def notify(settings: Settings, state: dict[str, Any], events: list[Event], now: float) -> None:
    """Reports to the journal, by mail and webhook. What could not be sent stays in `state` for the next check."""
    for event in events:
        say(f"{describe_kind(event)}: {event['name']}: {describe_alert(event)}", PRIORITIES[event["severity"]])
    pending, unsent = state.setdefault("pending", {}), state.setdefault("unsent", {})
    for name, wanted, send, most in list_ways(settings):
        waiting = [*pending.get(name, []), *events] if wanted else []
        if is_settling(state, waiting, now):
            waiting = leave_out_resolved(waiting)
        elif waiting:
            try:
                while waiting:
                    send(settings, waiting[:most], now)
                    waiting = waiting[most:]
                unsent.pop(name, None)
            except Exception as error:  # whatever the other side does; its text may hold the URL, and that a token
                text = str(error) if name == "mail" else getattr(error, "code", type(error).__name__)
                say(f"{name} cannot be sent, the next check tries again: {text}", ERROR)
                unsent[name] = min(unsent.get(name, int(now)), int(now))
        pending[name] = waiting[-KEPT_EVENTS:]


def measure_unsent(settings: Settings, state: dict[str, Any], now: float) -> Iterator[Sample]:
    """For how long each way that is set has not taken a message; the last check left it in `state`."""
    for name, wanted, _send, _most in list_ways(settings):
        if wanted:
            since = state.get("unsent", {}).get(name, now)
            yield observe("unsent_minutes", max(now - since, 0) / 60, "way", name)


def send_test(settings: Settings) -> bool:
    """Sends a test message by each way that is set; whether all were accepted."""
    event = {
        **{"name": "Test", "object": "", "severity": "info", "state": "firing", "since": int(time.time())},
        **{"summary": "This is a test of the monitor", "remedy": "none is needed"},
    }
    state: dict[str, Any] = {}
    notify(settings, state, [event], time.time())
    return not any(state["pending"].values())
