"""The part of bench/index.py that runs on the machine, as root: fills the archive and times Orthanc.

Reads a JSON object from standard input and prints one. Uses the package of the server's programs.
"""

from __future__ import annotations

import base64
import concurrent.futures
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/local/lib/clinicops-orthanc")

from server.core.settings import FACTS, read_file
from server.orthanc.api import Api
from server.orthanc.index import write_statistics
from server.orthanc.runtime import choose_runtime

PLAN: dict[str, Any] = json.load(sys.stdin)
SERVER = read_file(FACTS, "orthanc_tools")
RUNTIME = choose_runtime(SERVER["method"])
INDEX = Path(SERVER["storage"]) / "index"
TEMPLATE, SERIES = base64.b64decode(PLAN["file"]), 100
STUDIES = PLAN["images"] // SERIES


def open_api() -> Api:
    """Orthanc, once it answers."""
    api = Api.as_administrator(Path(SERVER["orthanc"]))
    api.await_answer()
    return api


def name_uids(study: int, number: int) -> tuple[str, str, str]:
    """The UIDs of an image: of its study, of its series and its own, as long as those of the template."""
    study_uid, series_uid, image_uid = PLAN["uids"]
    own = f"{study:06}{number:06}"
    return f"{study_uid[:-12]}{study:012}", f"{series_uid[:-12]}{study:012}", f"{image_uid[:-12]}{own}"


def make_image(study: int, number: int) -> bytes:
    """An image of 2 kB."""
    image = TEMPLATE
    for old, new in zip(PLAN["uids"], name_uids(study, number), strict=True):
        image = image.replace(old.encode(), new.encode())
    return image


def store_studies(first: int) -> None:
    """Every fourth study, over one connection."""
    api = open_api()
    for study in range(first, STUDIES, 4):
        for number in range(SERIES):
            if api.ask("POST", "/instances", make_image(study, number)).status != 200:
                raise SystemExit(f"Orthanc did not store image {number} of study {study}")


def switch(wanted: bool) -> Api:
    """Orthanc, which has just been started on an index with the statistics or without."""
    subprocess.run(RUNTIME.build_command("stop"), check=True, stdout=subprocess.DEVNULL)
    write_statistics(INDEX, wanted)
    subprocess.run(RUNTIME.build_command("start"), check=True, stdout=subprocess.DEVNULL)
    return open_api()


def measure(api: Api, new: int) -> dict[str, float]:
    """Milliseconds of each request, for a study that was not asked for before; `new` numbers the one that is stored."""
    study = random.randrange(STUDIES)
    study_uid, series_uid, _image_uid = name_uids(study, 0)
    wado = f"/dicom-web/studies/{study_uid}/series/{series_uid}"
    identifier = json.loads(api.ask("POST", "/tools/lookup", study_uid.encode()).body)[0]["ID"]
    one = json.loads(api.ask("GET", f"/studies/{identifier}/instances").body)[0]["ID"]
    requests = {
        "WADO-RS of a series of 100": ("GET", wado, b""),
        "WADO-RS metadata of it": ("GET", f"{wado}/metadata", b""),
        "QIDO-RS, its images": ("GET", f"{wado}/instances", b""),
        "QIDO-RS, a study by UID": ("GET", f"/dicom-web/studies?StudyInstanceUID={study_uid}", b""),
        "GET of one image's tags": ("GET", f"/instances/{one}", b""),
        "storing one image": ("POST", "/instances", make_image(STUDIES, new)),
    }
    found = {}
    for name, (method, path, body) in requests.items():
        begin = time.perf_counter()
        answer = api.ask(method, path, body)
        found[name] = (time.perf_counter() - begin) * 1000
        if answer.status != 200:
            raise SystemExit(f"{name}: {answer.status}")
    return found


def main() -> None:
    switch(True)
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(store_studies, range(4)))
    filled = time.monotonic() - begin
    found: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    for number in range(PLAN["rounds"]):
        for wanted in (False, True):
            api = switch(wanted)
            for name, took in measure(api, 2 * number + wanted).items():
                found[wanted].setdefault(name, []).append(took)
    switch(True)
    medians = {
        name: {"without": statistics.median(found[False][name]), "with": statistics.median(found[True][name])}
        for name in found[True]
    }
    api = open_api()
    version = json.loads(api.ask("GET", "/system").body)
    print(
        json.dumps(
            {
                "orthanc": version["Version"],
                "images": json.loads(api.ask("GET", "/statistics").body)["CountInstances"],
                "stored_per_second": PLAN["images"] / filled,
                "milliseconds": medians,
            }
        )
    )


if __name__ == "__main__":
    main()
