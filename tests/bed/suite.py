#!/usr/bin/env python3
"""Runs the jobs of `make test` or `make campaign`: every one of them, even if others fail.

Lint, the unit tests and each scenario under molecule/ are a job. BED_LANES of them run side by side (in `make test` two
for each core, in the campaign, which judges times, one), the longest first. Two jobs that use the same machines or
addresses never run at once. A job's output is in .bed/logs/<job>.log. A line each minute shows what is running, and how
long the rest takes, if each job takes as long as when it last passed here (.bed/minutes.json; before that, MINUTES).
The summary at the end names every failure. The exit code is 0 if all passed, 1 if one failed, 130 if it was
interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / ".bed" / "logs"
# these run only in the campaign
CAMPAIGN_ONLY = ("acme", "distribution", "docker_to_package", "many_clinics", "ubuntu_other", "year")
# A scenario waits for two thirds of its time: for connections, services that start, timers, answers that do not come.
LANES_A_CORE = 2
# minutes on two cores, four jobs at a time, to start the longest first
MINUTES = {
    "year": 60,
    "adopt": 21,
    "monitor": 18,
    "verify": 18,
    "backup_restore": 17,
    "snapshots": 17,
    "devices": 14,
    "upgrade": 14,
    "ubuntu": 13,
    "docker": 12,
    "default": 11,
    "uninstall": 11,
    "worklist": 10,
    "exposure": 10,
    "model": 7,
    "lived_in": 7,
    "unit": 6,
    "release-check": 5,
    "readme": 4,
    "lint": 1,
}
USUAL = 8.0
BESIDE = ("unit", "lint", "release-check")
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SUMMARY = re.compile(r"^=+ (.*\d+ (?:passed|failed|error|deselected).* in [\d.]+s.*?) =+$")
FAILURE = re.compile(r"^(?:FAILED|ERROR) \S+\.py\b")
GRACE = 30  # seconds that a job has to end in after a signal


@dataclass(frozen=True)
class Job:
    name: str
    command: list[str]
    minutes: float = USUAL
    takes: frozenset[str] = frozenset()  # machines and addresses
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Result:
    job: Job
    status: int | None = None  # exit code; None before its end
    begin: float = 0.0
    minutes: float = 0.0

    @property
    def word(self) -> str:
        if not self.begin:
            return "not run"
        if self.status is None:
            return "interrupted"
        return "failed" if self.status else "passed"


# --- the jobs ----------------------------------------------------------------------------------
def make(target: str) -> list[str]:
    return ["make", "--no-print-directory", target]


def scenarios() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def taken(scenario: str) -> frozenset[str]:
    """The names and addresses of its machines."""
    text = (ROOT / "molecule" / scenario / "molecule.yml").read_text()
    return frozenset(re.findall(r"\borthanc-[\w-]+|\b\d+(?:\.\d+){3}\b", text))


def has_campaign(scenario: str) -> bool:
    tests = (ROOT / "molecule" / scenario / "tests").glob("*.py")
    return any("mark.campaign" in path.read_text() for path in tests)


def scenario_job(name: str, environment: dict[str, str]) -> Job:
    return Job(name, make(f"scenario-{name}"), MINUTES.get(name, USUAL), taken(name), environment)


def jobs_of_test() -> list[Job]:
    found = [scenario_job(name, {}) for name in scenarios() if name not in CAMPAIGN_ONLY]
    return [*found, *(Job(name, make(name), MINUTES[name]) for name in BESIDE)]


def jobs_of_campaign() -> list[Job]:
    found = [scenario_job(name, {"BED_TESTS": "campaign"}) for name in scenarios() if has_campaign(name)]
    whole = [scenario_job(name, {}) for name in CAMPAIGN_ONLY]
    others = [Job(name, make(name)) for name in ("unit-campaign", "bench")]
    return [*(job for job in found if job.name not in CAMPAIGN_ONLY), *whole, *others]


# --- their minutes -----------------------------------------------------------------------------
def key_of(job: Job) -> str:
    """What its minutes are noted under: a scenario takes others in the campaign."""
    return " ".join([job.name, *job.environment.values()])


def noted_minutes(file: Path) -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, float] = json.loads(file.read_text())
        return found
    return {}


# --- their logs --------------------------------------------------------------------------------
def plain(text: str) -> list[str]:
    """The lines of a log without colours, and without the margin that Molecule puts before them."""
    return [re.sub(r"^\s*│ ?", "", line).rstrip() for line in STYLE.sub("", text).splitlines()]


def summaries(lines: list[str]) -> list[str]:
    """What pytest says of each of its runs: 12 passed, 3 deselected in 45.67s."""
    return [found[1] for line in lines if (found := SUMMARY.match(line))]


def failures(lines: list[str]) -> list[str]:
    """pytest's line for each test that failed."""
    return list(dict.fromkeys(line for line in lines if FAILURE.match(line)))


# --- the run -----------------------------------------------------------------------------------
def say(text: str = "") -> None:
    print(text, flush=True)


def pick(waiting: list[Job], running: list[Job]) -> Job | None:
    """The job that begins now: of those whose machines are free, the one that most work waits behind."""

    def behind(job: Job) -> tuple[float, float]:
        return sum(one.minutes for one in waiting if one is job or one.takes & job.takes), job.minutes

    free = [job for job in waiting if not any(job.takes & other.takes for other in running)]
    return max(free, key=behind, default=None)


def count_lanes(jobs: list[Job], cores: int) -> int:
    """How many run side by side; with more of them the longest would not end sooner."""
    minutes = [job.minutes for job in jobs]
    return min(LANES_A_CORE * cores, math.ceil(sum(minutes) / max(minutes)))


class Run:
    def __init__(self, jobs: list[Job], lanes: int, logs: Path, every: float = 60) -> None:
        self.results = {job.name: Result(job) for job in jobs}
        self.lanes, self.logs, self.every = lanes, logs, every
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        # the name and exit code of each job that has ended; an interrupt is a name that is empty
        self.ended: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self.begin = time.monotonic()

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def to_go(self) -> float:
        """Minutes until all have ended, as jobs are picked, if each takes its minutes."""
        now = time.monotonic()
        begun = [self.results[name] for name in self.running]
        running = [(max(0.0, one.job.minutes - (now - one.begin) / 60), one.job) for one in begun]
        waiting, minutes = self.waiting(), 0.0
        while True:
            while len(running) < self.lanes and (job := pick(waiting, [one for _, one in running])):
                waiting.remove(job)
                running.append((minutes + job.minutes, job))
            if not running:
                return minutes
            minutes = min(end for end, _ in running)
            running = [(end, job) for end, job in running if end > minutes]

    def waiting(self) -> list[Job]:
        return [result.job for result in self.results.values() if not result.begin]

    def start(self, job: Job) -> None:
        # rich, which Molecule prints with, would break lines at 80 columns; a job's make must not join ours; quick.pth
        environment = {**os.environ, "COLUMNS": "400", "BED_QUICK": "1", **job.environment}
        for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
            environment.pop(name, None)
        with self.log(job.name).open("wb") as log:
            process = subprocess.Popen(
                job.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.results[job.name].begin = time.monotonic()
        self.running[job.name] = process
        threading.Thread(target=lambda: self.ended.put((job.name, process.wait())), daemon=True).start()

    def run(self) -> bool:
        """Until all have ended: True; or until an interrupt: False."""
        while self.waiting() or self.running:
            running = [self.results[name].job for name in self.running]
            while len(self.running) < self.lanes and (job := pick(self.waiting(), running)):
                self.start(job)
                running.append(job)
            try:
                name, status = self.ended.get(timeout=self.every)
            except queue.Empty:
                self.tell()
                continue
            if not name:
                return False
            self.end(name, status)
        return True

    def interrupt(self, number: int, _frame: object) -> None:
        """Not at once: a job that has begun must be known before it can be ended."""
        self.ended.put(("", number))

    def end(self, name: str, status: int) -> None:
        del self.running[name]
        result = self.results[name]
        result.status, result.minutes = status, (time.monotonic() - result.begin) / 60
        lines = plain(self.log(name).read_text(errors="replace"))
        say(f"{result.word} {name} in {result.minutes:.1f} min" + "".join(f"; {one}" for one in summaries(lines)))
        if status == 0:
            file = self.logs.with_name("minutes.json")
            file.write_text(json.dumps(noted_minutes(file) | {key_of(result.job): round(result.minutes, 1)}, indent=2))
        if status:
            # a CI machine is gone afterwards, with its logs
            last = lines[-20 if sys.stdout.isatty() else -150 :]
            say("\n".join([f"--- the last {len(last)} lines of {self.log(name)}", *last, "---"]))

    def tell(self) -> None:
        """What runs and for how long, what remains, and how long that may take."""
        now = time.monotonic()
        runs = ", ".join(f"{name} {(now - self.results[name].begin) / 60:.0f} min" for name in self.running)
        remain = ", ".join(job.name for job in self.waiting()) or "nothing"
        say(f"{(now - self.begin) / 60:.0f} min: running {runs}; to come: {remain}; about {self.to_go():.0f} min left")

    def stop(self) -> None:
        """Ends the jobs that run, with everything that they started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)  # its session is its own
            deadline = time.monotonic() + GRACE
            for process in self.running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))

    def report(self) -> None:
        """A line for each job, and each failure of each."""
        width = max(len(name) for name in self.results)
        say()
        for name, result in self.results.items():
            say(f"{name:{width}}  {result.word:11}  {result.minutes:5.1f} min")
        say()
        for name, result in self.results.items():
            if not result.status:
                continue
            lines = plain(self.log(name).read_text(errors="replace"))
            named = failures(lines)
            if not named:
                say(f"{name}: exit code {result.status}, without a failed test; its last lines:")
                named = [f"  {line}" for line in [line for line in lines if line][-15:]]
            for line in named:
                say(f"{name}: {line}")
        say(f"{self.passed()} of {len(self.results)} jobs passed in {(time.monotonic() - self.begin) / 60:.0f} min.")
        say(f"The output of each is in {self.logs}.")
        (self.logs / "result").write_text(f"{self.passed()} passed, {len(self.results) - self.passed()} failed\n")

    def passed(self) -> int:
        return sum(result.status == 0 for result in self.results.values())


def run(jobs: list[Job], lanes: int, logs: Path, every: float = 60) -> int:
    """Runs them all and reports; returns the exit code."""
    logs.mkdir(parents=True, exist_ok=True)
    # two runs would overwrite each other's logs and machines
    with logs.with_name("suite.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another run is in progress in {logs.parent.parent}. Remedy: wait until it has ended.")
            return 2
        return run_alone(jobs, lanes, logs, every)


def run_alone(jobs: list[Job], lanes: int, logs: Path, every: float) -> int:
    """The same, while no other run in this checkout may begin."""
    for old in [*logs.glob("*.log"), logs / "result"]:
        old.unlink(missing_ok=True)
    noted = noted_minutes(logs.with_name("minutes.json"))
    going = Run([replace(job, minutes=noted.get(key_of(job), job.minutes)) for job in jobs], lanes, logs, every)
    say(f"{', '.join(job.name for job in jobs)}: {lanes} at a time; the output of each goes to {logs}")
    before = {number: signal.signal(number, going.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        to_the_end = going.run()
        if not to_the_end:
            say(f"Interrupted: ending {', '.join(going.running) or 'nothing'}")
            going.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    going.report()
    if not to_the_end:
        say(f"Not run: {', '.join(job.name for job in going.waiting()) or 'nothing'}.")
        return 130
    return 0 if going.passed() == len(jobs) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="run only these jobs")
    parser.add_argument("--campaign", action="store_true", help="run the jobs of make campaign")
    parser.add_argument("--list", action="store_true", help="list the jobs, and run none")
    chosen = parser.parse_args()
    jobs = jobs_of_campaign() if chosen.campaign else jobs_of_test()
    if unknown := sorted(set(chosen.names) - {job.name for job in jobs}):
        parser.error(f"{', '.join(unknown)}: use some of {', '.join(job.name for job in jobs)}")
    jobs = [job for job in jobs if job.name in chosen.names or not chosen.names]
    if chosen.list:
        say("\n".join(job.name for job in jobs))
        return 0
    lanes = 1 if chosen.campaign else count_lanes(jobs, os.cpu_count() or 1)
    return run(jobs, int(os.environ.get("BED_LANES", lanes)), LOGS)


if __name__ == "__main__":
    sys.exit(main())
