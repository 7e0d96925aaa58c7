#!/usr/bin/env python3
"""Time and memory to check and build orthanc.json for many clinics of 50 devices each.

PYTHONPATH=.collections python3 bench/configuration.py
"""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

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


def main() -> None:
    deploy(0)  # the schema is read once
    print("clinics  seconds  ms a clinic  peak KiB a clinic, results kept")
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


if __name__ == "__main__":
    main()
