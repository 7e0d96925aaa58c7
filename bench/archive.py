#!/usr/bin/env python3
"""What works on the whole archive, or must not: backup and its pause, restore check, restore, reconcile, the monitor's
check of each minute and the tidying of the worklist; with a large archive and with a small one.

python3 bench/archive.py [--json FILE] [--sizes 10000 200000] [--runs 5] [--restores 5] [--keep]

One machine with Debian 13 and a repository in a directory of its own; its archive is measured, grows, and is measured
again. Images of 2 kB: 1,000 that Orthanc stores, and copies, each with its own rows in the index and its own file. The
cost of an image counts here, and not that of its bytes.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from functools import partial

import machines
from index import ITEMS
from machines import ROOT, run_in, use_machines, write_file
from pairs import Comparison, parse_arguments, write_result
from servers import INSTALL, SCANNER, STORAGE, Server
from template import make_template

MACHINE, ADDRESS = "orthanc-bench-backup", "198.51.100.58"
# with what a deploy installs
PLATFORMS = {MACHINE: ("ready13", [ADDRESS])}
# on the machine's volume, as the archive is: a container's other directories are slow for many small files
DISK = "/var/lib/orthanc"
WORKLIST = f"{DISK}/worklists"
SETTINGS = {
    "orthanc_modalities": [{**SCANNER, "may": ["echo", "store", "find_worklist"]}],
    "orthanc_https_sources": ["198.51.100.64/26"],
    "orthanc_backup_repository": f"{DISK}/repository",
    "orthanc_backup_scratch_dir": f"{DISK}/scratch",
    "orthanc_backup_password": "bench-backup-password",
}
TIMERS = "orthanc-monitor.timer orthanc-worklist-tidy.timer orthanc-ledger.timer orthanc-restore-check.timer"
# in the machine, without the start of `docker exec`; of the processor what the command and its children used
MEASURE = """
import json, os, subprocess, sys, time
begin, before = time.monotonic(), os.times()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
took, after = time.monotonic() - begin, os.times()
spent = after.children_user + after.children_system - before.children_user - before.children_system
print(json.dumps([done.returncode, took, spent, done.stdout, done.stderr]))
"""
# a device's images keep coming as long as the backup takes
WHILE_STORING = """
python3 /root/fill.py < /root/plan.json >/dev/null &
filling=$!
trap 'kill $filling' EXIT
orthanc-backup run --json
"""
PATIENT = "SMALL"  # of those images
PAUSE = 1.0  # seconds, at most
FLAT = 1.3


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        type=int,
        nargs=2,
        default=[10_000, 200_000],
        metavar=("SMALL", "LARGE"),
        help="thousands of images; 10000 200000",
    )
    parser.add_argument("--restores", type=int, default=5, help="restore checks and restores of each archive; 5")


# --- the machine --------------------------------------------------------------------------------
def deploy_machine() -> Server:
    """Deploys, and stops the timers, so that nothing begins while another thing is measured."""
    server = Server(MACHINE, ADDRESS, f"it:{machines.PASSWORDS['it']}")
    run_in(MACHINE, f"mkdir -p {SETTINGS['orthanc_backup_scratch_dir']}")
    machines.deploy_machines({MACHINE: {}}, SETTINGS)
    run_in(MACHINE, f"command -v curl >/dev/null || {{ {INSTALL} curl; }} >/dev/null 2>&1")
    run_in(MACHINE, f"systemctl stop {TIMERS}")
    file, uids = make_template()
    plan = {"file": file, "uids": uids, "count": 1_000_000, "threads": 1, "study": 100, "user": server.user}
    write_file(MACHINE, "/root/plan.json", json.dumps({**plan, "seed": 1}))
    write_file(MACHINE, "/root/fill.py", (ROOT / "tests" / "agents" / "fill.py").read_bytes())
    return server


def fill_worklist() -> None:
    """Schedules patients whose study has not come; returns once the scanner can see all of them."""
    columns = "PatientID,PatientName,ScheduledStationAETitle,ScheduledProcedureStepStartDate,AccessionNumber"
    rows = "".join(f"W{one},WAITING^{one},{SCANNER['aet']},$(date +%Y%m%d),W{one}\\n" for one in range(ITEMS))
    served = f"[ $(ls {WORKLIST} | grep -c '[.]wl$') = {ITEMS} ]"
    create = f'printf "{columns}\\n{rows}" | orthanc-worklist create >/dev/null'
    run_in(MACHINE, f"{create}; timeout 60 sh -c 'until {served}; do sleep 0.2; done'")


# --- what is measured ---------------------------------------------------------------------------
def measure_command(*command: str, good: tuple[int, ...] = (0,)) -> tuple[float, float, str]:
    """Seconds that a command takes on the machine, those of the processor, and its output; SystemExit if it fails."""
    printed = run_in(MACHINE, f"python3 - {shlex.join(command)}", MEASURE.encode())
    status, took, spent, output, errors = json.loads(printed)
    if status not in good:
        raise SystemExit(f"{MACHINE}: {shlex.join(command)}: {status} {output} {errors}")
    return took, spent, output


def time_command(*command: str, good: tuple[int, ...] = (0,)) -> float:
    return measure_command(*command, good=good)[0]


def time_processor(*command: str, good: tuple[int, ...] = (0,)) -> float:
    return measure_command(*command, good=good)[1]


def time_restore() -> float:
    """Seconds of a restore in place; what it set aside is removed afterwards."""
    took = time_command("orthanc-backup", "restore", "--json")
    run_in(MACHINE, f"rm -rf {STORAGE}/.set-aside-*")
    return took


def time_pause(server: Server) -> float:
    """Seconds that Orthanc stands still for a backup while images arrive; these are deleted afterwards.

    SystemExit if none came.
    """
    before = server.count_images()
    said = json.loads(measure_command("sh", "-ec", WHILE_STORING)[2])
    came = server.count_images() - before
    if came <= 0 or said["counts"]["instances"] <= before:
        raise SystemExit(f"{MACHINE}: no image came while the backup was made: {said}")
    [found] = server.ask("POST", "/tools/find", {"Level": "Patient", "Query": {"PatientID": PATIENT}})
    server.ask("DELETE", f"/patients/{found}")
    server.require_images(before)
    return float(said["pause"])


MONITOR = ("orthanc-monitor", "look")
RESTORES = ("restore check", "restore")
BACKUP, STILL = "backup with nothing new", "Orthanc's pause for a backup, while images arrive"


def list_measured(server: Server, growth: float) -> dict[str, tuple[Callable[[], float], float | None]]:
    """What is measured, in this order, and how many times as long it may take with the large archive."""
    return {
        BACKUP: (partial(time_command, "orthanc-backup", "run", "--json"), growth),
        "restore check": (partial(time_command, "orthanc-backup", "check", "--json"), growth),
        "reconcile": (partial(time_command, "orthanc-backup", "reconcile", "--json"), growth),
        "the monitor's check": (partial(time_command, *MONITOR, good=(0, 1)), FLAT),
        "the monitor's check, processor time": (partial(time_processor, *MONITOR, good=(0, 1)), FLAT),
        f"tidying a worklist of {ITEMS}": (partial(time_command, "orthanc-worklist", "tidy"), FLAT),
        "restore": (time_restore, growth),
        STILL: (partial(time_pause, server), None),
    }


def measure_size(server: Server, images: int, runs: int, restores: int, growth: float) -> dict[str, list[float]]:
    """Seconds of each, `runs` times, with an archive that has grown to so many images."""
    server.grow_archive(images)
    run_in(MACHINE, "orthanc-backup ledger >/dev/null")
    found = {}
    for what, (timed, _most) in list_measured(server, growth).items():
        if what in (BACKUP, STILL):  # what is new, or restored
            time_command("orthanc-backup", "run", "--json")
        elif what not in RESTORES:  # the first of each is not measured
            timed()
        found[what] = [timed() for _run in range(restores if what in RESTORES else runs)]
        print(f"{images:,} images: {what}: {', '.join(f'{one:.3f}' for one in found[what])} s", flush=True)
    return found


def compare_sizes(
    server: Server, small: int, large: int, measured: dict[int, dict[str, list[float]]]
) -> list[Comparison]:
    """The large archive with the small one; and the pause with the longest that is allowed."""
    rows = []
    for what, (_timed, most) in list_measured(server, large / small).items():
        row = Comparison(f"{what}, {large:,} images", f"an archive of {small:,}", "s", at_most=most)
        row.ours, row.theirs = measured[large][what], measured[small][what]
        rows.append(row)
    row = Comparison(f"{STILL}, the longest, {large:,} images", "the longest allowed", "s", at_most=1)
    row.ours, row.theirs = [max(measured[large][STILL])], [PAUSE]
    rows.append(row)
    for row in rows:
        print(row.describe(), flush=True)
    return rows


def main() -> None:
    chosen = parse_arguments(__doc__, add_options)
    small, large = chosen.sizes
    with use_machines(PLATFORMS, keep=chosen.keep):
        server = deploy_machine()
        server.empty()
        server.store_first()
        fill_worklist()
        measured = {
            size: measure_size(server, size, chosen.runs, chosen.restores, large / small) for size in (small, large)
        }
        query = "dpkg-query -W -f '${Package} ${Version}\\n' orthanc restic libsqlite3-0"
        versions = dict(line.split() for line in run_in(MACHINE, query).splitlines())
    rows = compare_sizes(server, small, large, measured)
    what = "Backup, restore, monitor and worklist on a large archive"
    command = f"python3 bench/archive.py --sizes {small} {large} --runs {chosen.runs} --restores {chosen.restores}"
    write_result(chosen.json, "archive", what, command, versions, rows)


if __name__ == "__main__":
    main()
