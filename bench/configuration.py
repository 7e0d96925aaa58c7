#!/usr/bin/env python3
"""Time and memory to check and build orthanc.json for many clinics of 50 devices each.

python3 bench/configuration.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import tracemalloc
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / ".collections"))

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration

DEVICES = 50


def clinic(number: int) -> dict[str, Any]:
    devices = [
        {"name": f"us{device}", "aet": f"US{device}", "host": f"198.51.100.{device + 1}", "port": 104, "may": ["store"]}
        for device in range(DEVICES)
    ]
    users = [{"name": "it", "password": f"long-enough-password-{number}", "role": "admin"}]
    return {"hostname": f"pacs{number}.clinic.example", "users": users, "modalities": devices, "version": "1.12.7"}


def deploy(number: int) -> str:
    settings = clinic(number)
    if configuration.problems(settings):
        raise SystemExit(f"clinic {number}: {configuration.problems(settings)}")
    return json.dumps(configuration.build(settings))


def describe(figures: list[dict[str, Any]]) -> str:
    """The figures as docs/measurements.md shows them: milliseconds and KiB a clinic."""
    last = figures[-1]
    each = ", ".join(f"{one['seconds'] / one['clinics'] * 1000:.1f}" for one in figures)
    numbers = ", ".join(f"{one['clinics']:,}" for one in figures)
    kib = sorted(one["peak_kib_per_clinic"] for one in figures)
    return (
        f"{last['seconds'] / last['clinics'] * 1000:.1f} ms and {last['peak_kib_per_clinic']:.1f} KiB a clinic"
        f" ({numbers} clinics: {each} ms; {kib[0]:.0f} to {kib[-1]:.0f} KiB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures to this file, with date and versions"
    )
    chosen = parser.parse_args()
    figures = []
    deploy(0)  # the schema is read once
    print("clinics  seconds  ms a clinic  peak KiB a clinic with all results kept")
    for clinics in (125, 250, 500, 1000):
        begin = time.process_time()
        for number in range(clinics):
            deploy(number)
        seconds = time.process_time() - begin
        tracemalloc.start()
        kept = [deploy(number) for number in range(clinics // 5)]
        peak = tracemalloc.get_traced_memory()[1] / 1024 / len(kept)
        tracemalloc.stop()
        print(f"{clinics:7}  {seconds:7.2f}  {seconds / clinics * 1000:11.2f}  {peak:10.1f}")
        figures.append({"clinics": clinics, "seconds": round(seconds, 3), "peak_kib_per_clinic": round(peak, 1)})
    if chosen.json:
        versions = {"python": platform.python_version(), "jsonschema": version("jsonschema")}
        result = {
            "id": "configuration",
            "section": "measurement",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "versions": versions,
            "command": "`make bench ONLY=configuration`",
            "what": "check and build orthanc.json, a clinic of 50 devices",
            "figure": describe(figures),
            "promised": "",
        }
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps({**result, "figures": figures}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
