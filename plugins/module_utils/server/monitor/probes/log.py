# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc's log since the last look: errors, rejected devices, images under the identifiers of another."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.escaping import escape
from ...orthanc import log as orthanc_log
from ..context import DAY, HOUR, Context, Sample, ask_program, observe

REFUSED = "Cannot execute a Lua command"
# not counted: Orthanc's Lua at an image that the disk guard refuses; a client that connects and sends nothing
KNOWN = (REFUSED, orthanc_log.NAMELESS)


def probe_log(context: Context) -> Iterator[Sample]:
    """Errors and rejected devices since the last check."""
    lines = read_docker_log(context) if context.settings.method == "docker" else read_journal(context)
    errors = sum(line.startswith("E") and not any(text in line for text in KNOWN) for line in lines)
    yield observe("errors_hour", context.measure_increase("errors", context.count("errors", errors), HOUR))
    # a person may have written [AET, address, port]
    pairs = {
        name: (str(of["AET"]), str(of["Host"])) if isinstance(of, dict) else (str(of[0]), str(of[1]))
        for name, of in context.options.get("DicomModalities", {}).items()
    }
    yield from find_rejections(context, lines, pairs)
    yield from find_conflicts(context, lines, {aet: name for name, (aet, _unused) in pairs.items()})


def find_rejections(context: Context, lines: list[str], pairs: dict[str, tuple[str, str]]) -> Iterator[Sample]:
    """Listed devices that Orthanc rejected; `pairs` are AE title and address of each."""
    tester = context.settings.calling_aet
    # the acceptance test's own is rejected on purpose
    devices = {name: pair for name, pair in pairs.items() if pair[0] != tester}
    reasons = orthanc_log.list_rejections("\n".join(lines), devices, tester)
    latest = context.state.setdefault("rejections", {})
    for name in devices:
        own, counter = [reason for of, reason in reasons if of == name], f"rejected {name}"
        if own:
            latest[name] = own[-1]
        increase = context.measure_increase(counter, context.count(counter, len(own)), HOUR)
        yield observe("rejected_hour", increase, "device", name, latest.get(name, ""))


def find_conflicts(context: Context, lines: list[str], names: dict[str, str]) -> Iterator[Sample]:
    """Images that came under the UIDs of another image; `names` are the devices by their AE titles."""
    latest = context.state.setdefault("conflicts", {})
    for found in filter(None, map(orthanc_log.read_received, lines)):
        if found.kind == "conflict":
            senders = [names[aet] for aet in found.sender.split(" or ") if aet in names]
            for name in senders or ["applications"]:
                context.count(f"conflicts {name}", 1)
                latest[name] = escape(f"study {found.study}, accession {found.accession}: image {found.what}")
    for name in (*names.values(), "applications"):
        counter = f"conflicts {name}"
        increase = context.measure_increase(counter, context.count(counter, 0), DAY)
        yield observe("conflicts_day", increase, "device", name, latest.get(name, ""))


# --- where it is ----------------------------------------------------------------------------------
def read_journal(context: Context) -> list[str]:
    """The unit's lines since the last check. OSError where journalctl fails."""
    state = context.state
    ask = ("journalctl", "--unit=orthanc", "--output=cat", "--show-cursor", "--quiet")
    done = ask_program(*ask, f"--after-cursor={state['cursor']}") if state.get("cursor") else None
    if not done or done.status:  # no cursor yet, or its journal has been rotated away
        # what the last check counted is not counted again
        done = ask_program(*ask, f"--since=@{int(state.get('time', context.now - 60)) + 1}")
    if done.status and done.errors.strip():
        raise OSError(f"journalctl: {done.errors.strip()}")
    if done.status:  # there is no journal, as where /var/log is another disk since
        return []
    # not what it says of a file that a power cut has damaged, which it leaves out
    lines = done.output.removesuffix("\n").split("\n")
    if lines[-1].startswith("-- cursor: "):
        state["cursor"] = lines.pop().removeprefix("-- cursor: ")
    return lines


def read_docker_log(context: Context) -> list[str]:
    """The container's lines since the last check. OSError where Docker does not give them."""
    since = context.state.get("docker_since", context.now - 60)
    done = ask_program("docker", "logs", f"--since={since:.3f}", f"--until={context.now:.3f}", "orthanc")
    if done.status:  # what it says then is not Orthanc's
        raise OSError(f"docker logs: {done.errors.strip()}")
    context.state["docker_since"] = context.now
    return done.said.split("\n")
