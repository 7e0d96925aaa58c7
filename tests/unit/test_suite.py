"""The runner of `make test`: all jobs run, the end names every failure, and an interrupt leaves nothing behind."""

from __future__ import annotations

import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import suite
from suite import Job

ROOT = Path(__file__).resolve().parents[2]
# as it comes from Molecule, in colours and with a margin
MARGIN, RED, GREEN, END = "\033[2m│\033[0m ", "\033[31m", "\033[32m", "\033[0m"
PYTEST = f"""\
{MARGIN}{RED}FAILED{END} molecule/x/tests/test_x.py::test_a[one-2] - assert 1.76 <= 1.5
{MARGIN}ERROR molecule/x/tests/test_y.py::test_b - OSError: gone
{MARGIN}{RED}========= {RED}1 failed{END}, {GREEN}7 passed{END}, {RED}1 error{END} in 12.34s ========={END}
"""


@pytest.mark.parametrize("target", [[], ["help"]])
def test_make_says_what_can_be_made(target: list[str]) -> None:
    said = subprocess.run(["make", *target], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for name in ("demo", "test", "campaign", "bench", "release-check"):
        assert f"make {name}: " in said


def shell(name: str, script: str, minutes: float = 1, takes: tuple[str, ...] = ()) -> Job:
    return Job(name, ["sh", "-c", script], minutes, frozenset(takes))


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 300
    while not is_true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Or dead, and the container's first process has not taken note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def number_in(path: Path) -> int:
    """What another process writes there."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), str(path))
    return int(path.read_text())


def test_a_second_run_in_one_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = "import sys; sys.path.insert(0, sys.argv[1]); import suite; from pathlib import Path;"
    inner += "sys.exit(suite.run([suite.Job('inner', ['true'])], 1, Path(sys.argv[2])))"
    again = [sys.executable, "-c", inner, str(ROOT / "tests/bed"), str(tmp_path)]
    assert suite.run([Job("outer", again)], 1, tmp_path) == 1
    said = capsys.readouterr().out
    assert "outer: exit code 2" in said
    assert "Another run is in progress" in said
    assert (tmp_path / "outer.log").exists()


def test_all_run_and_every_failure_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pytest").write_text(PYTEST)
    jobs = [
        shell("tested", f"cat {tmp_path}/pytest; echo destroyed; exit 1", 9),
        Job("false", ["false"]),
        Job("true", ["true"], 5),
        shell("broken", "echo what happened; exit 2"),
        shell("well", "echo '===== 3 passed, 1 deselected in 0.50s ====='"),
    ]
    assert suite.run(jobs, 2, tmp_path / "logs") == 1
    said = re.sub(" +", " ", re.sub(r"[\d.]+ min", "N min", capsys.readouterr().out)).splitlines()
    for line in (
        "failed tested in N min; 1 failed, 7 passed, 1 error in 12.34s",
        "passed well in N min; 3 passed, 1 deselected in 0.50s",
        "tested failed N min",
        "true passed N min",
        "tested: FAILED molecule/x/tests/test_x.py::test_a[one-2] - assert 1.76 <= 1.5",
        "tested: ERROR molecule/x/tests/test_y.py::test_b - OSError: gone",
        "false: exit code 1, without a failed test; its last lines:",
        "broken: exit code 2, without a failed test; its last lines:",
        "broken: what happened",
        "2 of 5 jobs passed in N min.",
    ):
        assert line in said, (line, said)
    assert (tmp_path / "logs" / "result").read_text() == "2 passed, 3 failed\n"
    assert (tmp_path / "logs" / "broken.log").read_text() == "what happened\n"


def test_all_passed(tmp_path: Path) -> None:
    assert suite.run([Job("one", ["true"]), Job("two", ["true"])], 2, tmp_path) == 0
    assert (tmp_path / "result").read_text() == "2 passed, 0 failed\n"


def test_what_a_job_left_by_an_earlier_run_is_gone(tmp_path: Path) -> None:
    (tmp_path / "other.log").write_text("FAILED a.py::test_a")
    assert suite.run([Job("one", ["true"])], 1, tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.log", "result"]


def test_a_line_tells_what_runs_and_what_remains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long").touch()
    jobs = [shell("long", f"while [ -e {tmp_path}/long ]; do sleep 0.05; done", 9), shell("short", "true")]
    run = suite.Run(jobs, 1, tmp_path, every=0.01)
    told = run.tell

    def tell() -> None:
        told()
        (tmp_path / "long").unlink(missing_ok=True)

    monkeypatch.setattr(run, "tell", tell)
    run.run()
    assert re.search(
        r"min: running long \d+ min; to come: short; about 10 min left$", capsys.readouterr().out, re.MULTILINE
    )


def test_the_longest_is_first_and_none_beside_another_with_its_machines() -> None:
    chain = [shell(name, "true", 5, ("orthanc-us2", name)) for name in ("default", "docker", "exposure")]
    alone = [shell("backup", "true", 12), shell("lint", "true", 1)]
    waiting = [*alone, *chain]
    order, running = [], list[Job]()
    while job := suite.pick(waiting, running):
        order.append(job.name)
        waiting.remove(job)
        running = [job] if job.takes else running  # whoever ran beside has ended
        if not job.takes:
            running = []
    # three that must follow each other are 15 minutes, and begin before twelve
    assert order == ["default", "backup", "docker", "lint", "exposure"]


def test_lanes_follow_the_cores_until_the_longest_job_decides() -> None:
    jobs = [shell("backup", "true", 12), shell("docker", "true", 10), shell("lint", "true", 3)]
    assert [suite.count_lanes(jobs, cores) for cores in (1, 2, 16)] == [2, 3, 3]
    assert suite.count_lanes(jobs[:1], 16) == 1


def test_what_is_left_follows_the_order_in_which_jobs_begin(tmp_path: Path) -> None:
    chain = [shell(name, "true", 5, ("orthanc-us2", name)) for name in ("default", "docker", "exposure")]
    jobs = [*chain, shell("backup", "true", 12), shell("lint", "true", 1)]
    assert suite.Run(jobs, 2, tmp_path).to_go() == 15
    assert suite.Run(jobs, 1, tmp_path).to_go() == 28
    assert suite.Run(jobs, 9, tmp_path).to_go() == 15
    assert suite.Run([], 2, tmp_path).to_go() == 0


def test_a_job_takes_what_it_took_when_it_last_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = tmp_path / "minutes.json"
    noted.write_text('{"passes": 7, "fails": 8, "passes campaign": 9}')
    jobs = [Job("passes", ["true"], 1), Job("fails", ["false"], 2), Job("new", ["true"], 3)]
    taken: list[float] = []
    begin = suite.Run.start

    def start(run: suite.Run, job: Job) -> None:
        taken.append(job.minutes)
        begin(run, job)

    monkeypatch.setattr(suite.Run, "start", start)
    assert suite.run(jobs, 1, tmp_path / "logs") == 1
    assert taken == [8, 7, 3]
    assert suite.noted_minutes(noted) == {"passes": 0, "fails": 8, "passes campaign": 9, "new": 0}
    noted.write_text("cut of")
    assert suite.run(jobs, 1, tmp_path / "logs") == 1
    assert taken[3:] == [3, 2, 1]


def test_two_with_one_machine_never_run_at_once(tmp_path: Path) -> None:
    script = f"mkdir {tmp_path}/held && sleep 0.3 && rmdir {tmp_path}/held"
    jobs = [shell(str(number), script, 1, ("orthanc-us2",)) for number in range(3)]
    assert suite.run(jobs, 3, tmp_path / "logs") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_what_was_started_and_names_the_rest(tmp_path: Path, number: signal.Signals) -> None:
    script = f"sleep 6000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/job; wait"
    program = (
        "import sys; from pathlib import Path; import suite; from suite import Job\n"
        f"jobs = [Job('quick', ['true'], 9), Job('long', ['sh', '-c', {script!r}], 5), Job('never', ['true'], 1)]\n"
        f"sys.exit(suite.run(jobs, 1, Path({str(tmp_path / 'logs')!r})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/bed")}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        pids = [number_in(tmp_path / name) for name in ("job", "child")]
        running.send_signal(number)
        said = running.communicate(timeout=300)[0]
    assert running.returncode == 130
    for pid in pids:
        wait_until(functools.partial(is_gone, pid), f"the end of {pid}")
    assert "Interrupted: ending long" in said
    assert "Not run: never." in said
    assert [line.split()[:2] for line in said.splitlines() if line.startswith(("quick ", "long ", "never "))] == [
        ["quick", "passed"],
        ["long", "interrupted"],
        ["never", "not"],
    ]
    assert (tmp_path / "logs" / "result").read_text() == "1 passed, 2 failed\n"


def test_an_interrupt_while_a_job_begins_ends_it_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    popen, begun = subprocess.Popen, []

    def begin(*arguments: Any, **options: Any) -> Any:
        begun.append(popen(*arguments, **options))
        signal.raise_signal(signal.SIGINT)  # before anybody knows of the job
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", begin)
    assert suite.run([Job("long", ["sleep", "6000"])], 1, tmp_path) == 130
    assert begun[0].wait(timeout=300) == -signal.SIGTERM


def test_a_scenario_joins_by_itself() -> None:
    there = {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")}
    names = [job.name for job in suite.jobs_of_test()]
    assert len(names) == len(set(names))
    assert set(names) == {*there, "lint", "unit", "release-check"} - {*suite.CAMPAIGN_ONLY}
    campaign = {job.name: job for job in suite.jobs_of_campaign()}
    assert (
        {*suite.CAMPAIGN_ONLY, "worklist", "unit-campaign", "bench"}
        <= {*campaign}
        <= {*(there | {"unit-campaign", "bench"})}
    )
    assert campaign["worklist"].environment == {"BED_TESTS": "campaign"}
    assert campaign["acme"].environment == {}
    # each has machines and clients of its own, so that any two can run side by side
    takes = {job.name: job.takes for job in suite.jobs_of_test()}
    assert [pair for pair in itertools.combinations(takes, 2) if takes[pair[0]] & takes[pair[1]]] == []
    assert "orthanc-us2" in takes["default"] & {job.name: job.takes for job in suite.jobs_of_campaign()}["acme"]
    assert all(takes[name] for name in there - {*suite.CAMPAIGN_ONLY})
