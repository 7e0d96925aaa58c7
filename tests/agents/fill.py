#!/usr/bin/env python3
"""Gives Orthanc many small images over REST, on its own machine.

It reads a JSON object from standard input: `file` is an image whose three `uids` (study, series, image) each image gets
anew; `count` images go out by `threads` at a time, `study` of them to a study. It tells how many Orthanc took. Standard
library alone.
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def part(plan: dict[str, Any], first: int) -> int:
    """Every `threads`th study, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", 8042, timeout=120)
    headers = {"Authorization": "Basic " + base64.b64encode(plan["user"].encode()).decode()}
    whole, taken = base64.b64decode(plan["file"]), 0
    for study in range(first, plan["count"] // plan["study"], plan["threads"]):
        for number in range(plan["study"]):
            made = whole
            for uid, value in zip(plan["uids"], (study, study, study * plan["study"] + number), strict=True):
                made = made.replace(uid.encode(), f"{uid[:-12]}{plan['seed']:04}{value:08}".encode())
            connection.request("POST", "/instances", made, headers)
            answer = connection.getresponse()
            answer.read()
            taken += answer.status == 200
    return taken


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    with ThreadPoolExecutor(wanted["threads"]) as pool:
        print(json.dumps(sum(pool.map(lambda first: part(wanted, first), range(wanted["threads"])))))
