#!/usr/bin/env python3
"""Orthanc on an index with the statistics that the deploy writes, and without: medians, in one run on one machine.

PYTHONPATH=tests/support python3 bench/index.py orthanc-demo [--images 50000] [--rounds 5] [--json FILE]

The machine is one of the test bed's (`make demo`), deployed by this collection; it keeps the images. Restarts Orthanc
before each measurement, so that both begin with empty caches.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from template import make_template

AGENT = Path(__file__).with_name("index_agent.py")


def run_agent(machine: str, images: int, rounds: int) -> dict[str, Any]:
    """What bench/index_agent.py found on the machine."""
    file, uids = make_template()
    plan = {"file": file, "uids": uids, "images": images, "rounds": rounds}
    put = ["docker", "exec", "-i", machine, "sh", "-c", "cat > /root/index_agent.py"]
    subprocess.run(put, input=AGENT.read_bytes(), check=True)
    command = ["docker", "exec", "-i", machine, "python3", "/root/index_agent.py"]
    done = subprocess.run(command, input=json.dumps(plan).encode(), stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine")
    parser.add_argument("--images", type=int, default=50_000, help="to store before the measurement; default: 50000")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind; default: 5")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures to this file, with date and versions"
    )
    chosen = parser.parse_args()
    found = run_agent(chosen.machine, chosen.images, chosen.rounds)
    lines = []
    for name, times in found["milliseconds"].items():
        ratio = times["without"] / times["with"]
        lines.append(f"{name}: {times['without']:,.1f} ms without, {times['with']:,.1f} ms with ({ratio:.1f} times)")
    print(*lines, sep="\n")
    if chosen.json:
        result = {
            "id": f"index_statistics_{found['orthanc']}",
            "section": "measurement",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "versions": {"Orthanc": found["orthanc"]},
            "command": "`PYTHONPATH=tests/support python3 bench/index.py <machine>`",
            "what": f"the index's statistics, {found['images']:,} images of 2 kB, medians of {chosen.rounds}",
            "figure": "; ".join(lines),
            "promised": "",
        }
        chosen.json.write_text(json.dumps({**result, "found": found}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
