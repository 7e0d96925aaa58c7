#!/usr/bin/env python3
"""How long the check of a whole inventory takes, by the number of clinics, as a person starts it.

python3 bench/clinics.py [--json FILE]

It uses one core, so that more cores make nothing faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from clinics_inventory import ROOT, write_inventory

NUMBERS = (1, 10, 50, 100)


def measure_check(number: int) -> dict[str, Any]:
    """Seconds, and seconds of a processor, of the playbook with an inventory of that many clinics."""
    with tempfile.TemporaryDirectory() as scratch:
        write_inventory(Path(scratch), number, {}, {"orthanc_backup_repository": "sftp:backup@192.0.2.250:/orthanc"})
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = ["ansible-playbook", "-i", scratch, "clinicops.orthanc.check_inventory"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if "No setting is wrong" not in done.stdout:
        raise SystemExit(done.stdout)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"clinics": number, "seconds": round(seconds, 2), "processor_seconds": round(used, 2)}


def describe(figures: list[dict[str, Any]]) -> str:
    """The figures as docs/measurements.md shows them."""
    first, last = figures[0], figures[-1]
    each = (last["processor_seconds"] - first["processor_seconds"]) / (last["clinics"] - first["clinics"])
    fewer = ", ".join(f"{one['clinics']}: {one['seconds']:.1f} s" for one in figures[:-1])
    return (
        f"{last['clinics']} clinics in {last['seconds']:.1f} s ({fewer}); {each * 1000:.0f} ms of a processor for each"
        " further clinic, on one core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    chosen = parser.parse_args()
    load = round(os.getloadavg()[0], 2)
    figures = []
    for number in NUMBERS:
        figures.append(measure_check(number))
        print(figures[-1], flush=True)
    print(describe(figures))
    if chosen.json:
        result = {
            "id": "clinics",
            "section": "measurement",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "versions": {"python": platform.python_version(), "ansible-core": version("ansible-core")},
            "command": "`make bench ONLY=clinics`",
            "what": "check the settings of all clinics of an inventory, without a machine (`check_inventory`)",
            "figure": describe(figures),
            "promised": "",
            "load": load,
            "figures": figures,
        }
        chosen.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
