#!/usr/bin/env python3
"""Deploys: a first one against a shell script, one that changes nothing and one with a new device against a play that
gathers facts, and eight machines at once against one.

python3 bench/deploy.py [--json FILE] [--runs 5] [--first 5] [--machines 8] [--keep]

On machines of the test bed with Debian 13, which have the packages in apt's cache. bench/by_hand.sh is the script.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import machines
from machines import PASSWORDS, ROOT, run_in, run_playbook, use_machines, write_inventory
from pairs import Comparison, measure_pairs, parse_arguments, write_result

CLINIC = [f"198.51.100.{last}" for last in (43, 45, 50, 55, 56)]
OFFICE = [f"198.51.100.{last}" for last in (106, 107, 108, 109, 110)]
NAMES = [f"orthanc-bench-deploy{number}" for number in range(8)]
PLATFORMS = {name: ("debian13", [address]) for name, address in zip(NAMES, [*CLINIC, *OFFICE][:8], strict=True)}
BY_HAND = "orthanc-bench-by-hand"
ALONE = {BY_HAND: ("debian13", [OFFICE[4]])}
DEVICES: list[dict[str, Any]] = [
    {
        "name": f"us{number}",
        "aet": f"US{number}",
        "host": f"198.51.100.2{number}",
        "port": 104,
        "may": ["echo", "store"],
    }
    for number in (1, 2, 3)
]
PACKAGES = (
    "orthanc orthanc-dicomweb orthanc-python nginx nftables restic cron openssh-client ca-certificates"
    " systemd-timesyncd dcmtk distro-info-data openssl curl python3-pydicom"
)
APT = "DEBIAN_FRONTEND=noninteractive apt-get -o Binary::apt::APT::Keep-Downloaded-Packages=true"
# what the profiles showed on 2026-11-30
LATER = (
    "both have become faster: in the beginning they took 114 to 125 s and 2.6 s. By the accounting of controller and"
    " machine, a deploy that changes nothing takes 10.1 s of the controller's processor (134 tasks, each in a process"
    " of its own) and 6.4 s of the machine's (31 module runs, each of which Python compiles anew), and 2 s until ports"
    " that must be closed have not answered; by cProfile a tenth each of the controller's go into building modules,"
    " checking settings and reading vars_files; tried: a template lookup without copies, facts that are not injected,"
    " workers that are asked less often (all taken), no garbage collection, another allocator with huge pages (no"
    " gain)"
)
FIRST = (
    "a first deploy takes 13.4 s of the controller's processor and 24 s of the machine's (apt and dpkg included), where"
    " the script needs no controller, and makes no trial of the configuration and no acceptance test"
)
MODALITY = "as with nothing to change, and the configuration is tried beside Orthanc, which restarts"
GATHER = """\
- hosts: orthanc
  gather_facts: true
  tasks: []
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--first", type=int, default=5, help="first deploys, of us and by hand, on new machines; 5")
    parser.add_argument("--machines", type=int, default=8, choices=range(1, 9), help="how many at once; 8")


def time_call(call: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


def fetch_packages(name: str) -> bytes:
    """apt's lists and packages, which a machine has fetched, in a tar file."""
    run_in(
        name, f"{APT} update -qq; {APT} install -qq -y --no-install-recommends --download-only {PACKAGES} >/dev/null"
    )
    command = ["docker", "exec", name, "tar", "-C", "/var", "-cf", "-", "lib/apt/lists", "cache/apt/archives"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def renew_machines(platforms: machines.Platforms, packages: bytes) -> None:
    """Machines as new, with the packages in apt's cache."""
    machines.remove_machines(platforms)
    machines.create_machines(platforms)
    stamp = "/var/lib/apt/periodic/update-success-stamp"
    for name in platforms:
        run_in(name, f"tar -C /var -xf -; mkdir -p $(dirname {stamp}); touch {stamp} /var/lib/apt/lists", packages)


def deploy(names: Sequence[str], devices: Sequence[Mapping[str, Any]] = DEVICES[:2]) -> None:
    """A deploy to machines, with these devices."""
    machines.deploy_machines({name: {} for name in names}, {"orthanc_modalities": devices})


def install_by_hand(name: str) -> None:
    """The end state of a deploy, by a script."""
    script = (ROOT / "bench" / "by_hand.sh").read_bytes()
    run_in(
        name, f"cat > /root/by_hand.sh; PASSWORD={PASSWORDS['it']} sh /root/by_hand.sh >/root/by_hand.log 2>&1", script
    )


def gather_facts(name: str) -> None:
    """A play that does nothing else."""
    with write_inventory({name: {}}, {}) as inventory, tempfile.NamedTemporaryFile("w", suffix=".yml") as play:
        play.write(GATHER)
        play.flush()
        run_playbook(inventory, play.name)


def count_restarts(name: str) -> int:
    """How often Orthanc has been started on a machine since it booted."""
    return int(run_in(name, "journalctl -u orthanc -o cat | grep -c '^Started ' || true"))


def read_version(name: str) -> str:
    """Of Debian's package of Orthanc on a machine."""
    return run_in(name, "dpkg-query -W -f '${Version}' orthanc")


def compare_first(packages: bytes, runs: int) -> Comparison:
    """A first deploy and the script, each on a new machine."""

    def ours() -> float:
        renew_machines({NAMES[0]: PLATFORMS[NAMES[0]]}, packages)
        return time_call(lambda: deploy(NAMES[:1]))

    def by_hand() -> float:
        renew_machines(ALONE, packages)
        return time_call(lambda: install_by_hand(BY_HAND))

    row = Comparison("first deploy, packages cached", "a shell script", "s", at_most=2, why=FIRST)
    with use_machines(ALONE):
        return measure_pairs(row, runs, ours, by_hand)


def compare_later(runs: int) -> tuple[list[Comparison], list[int]]:
    """Deploys to a machine that has been deployed; and how often each that changed a device restarted Orthanc."""
    name, play = NAMES[0], "a play that gathers facts"
    restarts: list[int] = []
    numbers = itertools.cycle((3, 2))

    def change() -> float:
        """Adds a device, or removes it again."""
        before, devices = count_restarts(name), DEVICES[: next(numbers)]
        took = time_call(lambda: deploy([name], devices))
        restarts.append(count_restarts(name) - before)
        return took

    def gather() -> float:
        return time_call(lambda: gather_facts(name))

    deploy([name])
    same = Comparison("deploy with nothing to change", play, "s", at_most=10, why=LATER)
    more = Comparison("deploy with one modality added or removed", play, "s", at_most=13, why=MODALITY)
    rows = [
        measure_pairs(same, runs, lambda: time_call(lambda: deploy([name])), gather),
        measure_pairs(more, runs, change, gather),
    ]
    return rows, restarts


def compare_many(packages: bytes, runs: int, number: int) -> Comparison:
    """Deploys with nothing to change to several machines at once, and to one of them."""
    names = NAMES[:number]
    new = [name for name in names if name != NAMES[0]]
    renew_machines({name: PLATFORMS[name] for name in new}, packages)
    deploy(names)
    row = Comparison(f"deploy with nothing to change to {number} machines at once", "to one", "s", at_most=4)
    return measure_pairs(
        row, runs, lambda: time_call(lambda: deploy(names)), lambda: time_call(lambda: deploy(names[:1]))
    )


def main() -> None:
    chosen = parse_arguments(__doc__, add_options)
    with use_machines({NAMES[0]: PLATFORMS[NAMES[0]]}, keep=chosen.keep):
        packages = fetch_packages(NAMES[0])
        rows = [compare_first(packages, chosen.first)] if chosen.first else []
        later, restarts = compare_later(chosen.runs)
        print("restarts of Orthanc by each deploy that changed a device:", *restarts)
        with use_machines({name: PLATFORMS[name] for name in NAMES[1 : chosen.machines]}, keep=chosen.keep):
            many = [compare_many(packages, chosen.runs, chosen.machines)] if chosen.machines > 1 else []
        versions = {"ansible-core": version("ansible-core"), "Orthanc": read_version(NAMES[0])}
    what = "deploys on Debian 13"
    rows = [*rows, *later, *many]
    write_result(chosen.json, "deploy", what, "make bench ONLY=deploy", versions, rows, restarts=restarts)


if __name__ == "__main__":
    main()
