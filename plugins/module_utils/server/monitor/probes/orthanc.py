# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc itself: its configuration, its process, what it answers over HTTP and DICOM."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import Refused
from ...orthanc.api import Api, find_administrator, read_options
from ...orthanc.runtime import choose_runtime
from ..context import ANSWER_SECONDS, DAY, HOUR, Context, Sample, ask_program, observe

LOOKUPS = 3  # of a busy machine the fastest one says most


def probe_configuration(context: Context) -> Iterator[Sample]:
    """Orthanc reads more than JSON, such as comments; this program cannot read what a person wrote that way."""
    read_options(context.settings.orthanc)
    yield from ()


# --- the process ----------------------------------------------------------------------------------
def probe_process(context: Context) -> Iterator[Sample]:
    """Whether it runs, how often it was restarted, and whether another program holds its index."""
    state = choose_runtime(context.settings.method).read_state()
    context.pid = state.pid if state.runs else 0
    yield observe("process_up", state.runs)
    if state.restarts is not None:
        yield observe("restarts_hour", context.measure_increase("restarts", state.restarts, HOUR))
    holders = find_lock_holders(context.settings.storage / "index") - {state.pid}
    names = ", ".join(f"{read_command(holder)} ({holder})" for holder in sorted(holders))
    yield observe("index_locked", bool(holders), detail=names)


def find_lock_holders(path: Path) -> set[int]:
    """Processes with a lock on the file (proc(5), /proc/locks)."""
    try:
        known = path.stat()
    except FileNotFoundError:
        return set()
    wanted = f"{os.major(known.st_dev):02x}:{os.minor(known.st_dev):02x}:{known.st_ino}"
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {int(parts[4]) for parts in lines if len(parts) > 5 and parts[5] == wanted and int(parts[4]) > 0}


def read_command(pid: int) -> str:
    """The name of a process; a question mark for one that has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


# --- what it answers ------------------------------------------------------------------------------
def probe_service(context: Context) -> Iterator[Sample]:
    """Whether and how fast it answers from its index, its plugins, jobs, threads and number of images."""
    api, lookup = None, None
    try:
        api = Api(find_administrator(context.options), ANSWER_SECONDS)
        # /system answers from memory; this one reads the index
        up = api.ask("GET", "/changes?last").status == 200
        loaded = set(json.loads(api.ask("GET", "/plugins").body)) if up else set()
        metrics = parse_metrics(api.ask("GET", "/tools/metrics-prometheus").body.decode()) if up else {}
        lookup = measure_lookup(api, context.state) if up else None
    except (Refused, ValueError):
        up, loaded, metrics = False, set(), {}
    finally:
        if api:
            api.close()
    yield observe("index_up", up)
    for plugin in context.settings.plugins:
        yield observe("plugin_up", plugin in loaded, "plugin", plugin)
    if not up:
        return
    if lookup is not None:
        yield observe("lookup_seconds", lookup, detail=f"{lookup:.2f} seconds an image")
    # 1.13 counts for ever (jobs_total_), earlier releases those that they remember
    forgets = "orthanc_jobs_total_failed" not in metrics
    failed = metrics.get("orthanc_jobs_failed" if forgets else "orthanc_jobs_total_failed", 0)
    yield observe("jobs_failed_day", context.measure_increase("jobs_failed", failed, DAY, forgets))
    for kind, name in (("dicom", "dicom_threads"), ("http", "http_threads_count")):
        if f"orthanc_available_{name}" in metrics:
            yield observe("threads_free", metrics[f"orthanc_available_{name}"], "kind", kind)
    if "orthanc_count_instances" in metrics:
        yield observe("instances", metrics["orthanc_count_instances"])
    yield from probe_statistics(context)


def measure_lookup(api: Api, state: dict[str, Any]) -> float | None:
    """Seconds in which Orthanc finds one image by its identifier, the fastest of several times; None without an image.

    Each image that comes or is shown costs at least this. Unanswered, or Refused, where Orthanc does not answer.
    """
    # always the same image: to name one, some releases sort all of them
    image = state.get("image") or next(iter(api.get("/instances?since=0&limit=1") or ()), None)
    taken: list[float] = []
    while image and len(taken) < LOOKUPS:
        began = time.monotonic()
        if api.ask("GET", f"/instances/{image}").status != 200:
            image = None  # deleted; the next check takes another one
        taken.append(time.monotonic() - began)
    state["image"] = image
    return min(taken) if image else None


def probe_statistics(context: Context) -> Iterator[Sample]:
    """Whether the index has its statistics, where the clinic wants them."""
    if not context.settings.index_statistics:
        return
    # once they are there, they stay as long as this Orthanc runs
    present: bool | None = context.pid != 0 and context.state.get("index_statistics") == context.pid
    if not present:
        from ...orthanc.index import has_statistics  # imports sqlite3, which costs more than this probe

        present = has_statistics(Path(context.options.get("IndexDirectory") or context.settings.storage) / "index")
    if present:
        context.state["index_statistics"] = context.pid
    if present is not None:  # else Orthanc writes at this moment, and the next minute reads it
        yield observe("index_statistics", present)


def parse_metrics(text: str) -> dict[str, float]:
    """Values of Prometheus' text format without labels; Orthanc writes a time stamp behind them."""
    found = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) >= 2 and not line.startswith("#") and "{" not in parts[0]:
            with contextlib.suppress(ValueError):
                found[parts[0]] = float(parts[1])
    return found


def probe_dicom(context: Context) -> Iterator[Sample]:
    """Whether it answers a C-ECHO."""
    options = context.options
    peer = ["127.0.0.1", str(options.get("DicomPort", 4242))]
    names = ["-aet", context.settings.calling_aet, "-aec", str(options.get("DicomAet", "ORTHANC"))]
    limits = ["-to", str(ANSWER_SECONDS), "-ta", str(ANSWER_SECONDS), "-td", str(ANSWER_SECONDS)]
    yield observe("dicom_up", ask_program("/usr/bin/echoscu", *limits, *names, *peer).status == 0)
