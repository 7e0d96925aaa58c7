#!/usr/bin/env python3
"""A deploy over SSH without `pipelining` in ansible.cfg against one with it.

python3 bench/pipelining.py [--json FILE] [--runs 3] [--keep]

A deploy with nothing to change, to a machine of the test bed with Debian 13.
"""

from __future__ import annotations

import os
import time
from importlib.metadata import version

import machines
from pairs import Comparison, measure_pairs, parse_arguments, write_result

NAME = "orthanc-bench-pipelining"
PLATFORM = {NAME: ("ready13", ["198.51.100.100"])}
DEPLOY = "clinicops.orthanc.deploy"


def time_deploy(configured: str) -> float:
    """Seconds of a deploy, with this word for `pipelining` in Ansible's configuration."""
    os.environ["ANSIBLE_PIPELINING"] = configured  # as in ansible.cfg, over which a variable wins
    with machines.write_inventory({NAME: {}}, {}) as inventory:
        begin = time.monotonic()
        machines.run_playbook(inventory, DEPLOY)
        return time.monotonic() - begin


def main() -> None:
    chosen = parse_arguments(__doc__, runs=3)
    with machines.use_machines(PLATFORM, keep=chosen.keep):
        time_deploy("true")
        same = Comparison("deploy over SSH without pipelining in ansible.cfg", "one with it", "s", at_most=1.1)
        row = measure_pairs(same, chosen.runs, lambda: time_deploy("false"), lambda: time_deploy("true"))
    what = "pipelining, with a deploy that has nothing to change, on Debian 13"
    versions = {"ansible-core": version("ansible-core")}
    write_result(chosen.json, "pipelining", what, "make bench ONLY=pipelining", versions, [row])


if __name__ == "__main__":
    main()
