#!/usr/bin/env python3
"""Orthanc on an index with the statistics that the deploy writes, and as the guide leaves it, at three sizes.

python3 bench/index.py [--release 1.13.0] [--sizes 1000 50000 200000] [--runs 5] [--json bench/results/index.json]

Both run side by side, each in a container of its own with the same image and configuration, and are asked in turns.
Orthanc stores 1,000 images of 2 kB (ten studies of one series). Larger archives are copies of their rows in the index,
under other identifiers, names and dates; the copies' files are those of the 1,000. Writes a file for each release.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "bed"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import bed
import pydicom
from copies import FIRST, SERIES, STORED, STUDIES, copy_rows
from pairs import Comparison, measure_pairs, parse_arguments, write_result
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    ModalityWorklistInformationFind,
    StudyRootQueryRetrieveInformationModelFind,
)
from server.orthanc.index import write_statistics
from template import make_template

RELEASES = {"1.10.1": "orthanc-debian12", "1.12.7": "orthanc-debian13", "1.13.0": "orthanc"}
HOME = Path(__file__).resolve().parents[1] / ".bed" / "index"
STORESCU = "/usr/bin/storescu"
ITEMS, SENT = 100, 20
PLUGINS = "/usr/share/orthanc/plugins"
CONFIGURATION: dict[str, Any] = {
    "StorageDirectory": "/bench/db",
    "IndexDirectory": "/bench/db",
    "RemoteAccessAllowed": True,
    "AuthenticationEnabled": False,
    "DicomAlwaysAllowFind": True,
    "DicomAlwaysAllowFindWorklist": True,
    "Plugins": [f"{PLUGINS}/libOrthancDicomWeb.so", f"{PLUGINS}/libModalityWorklists.so"],
    "DicomWeb": {"Enable": True},
    "Worklists": {"Enable": True, "Database": "/bench/worklists"},
}
WITHOUT = "the same Orthanc without the statistics"


@dataclass(frozen=True)
class Study:
    """One of those that `make_image` makes and `copy_rows` copies."""

    copy: int
    number: int

    @property
    def uid(self) -> str:
        return f"1.2.826.0.1.3680043.8.498.1{FIRST + self.copy}.{self.number + 1}"

    @property
    def patient(self) -> str:
        return f"P{FIRST + self.copy}-{self.number}"

    @property
    def name(self) -> str:
        return f"DOE{FIRST + self.copy}^{self.number}"

    @property
    def day(self) -> str:
        return f"{date(2000, 1, 1) + timedelta(days=self.copy * STUDIES + self.number):%Y%m%d}"


@cache
def read_template() -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(base64.b64decode(make_template()[0])))


def write_image(image: pydicom.Dataset) -> bytes:
    """The file of an image."""
    with io.BytesIO() as buffer:
        image.save_as(buffer)
        return buffer.getvalue()


def make_image(study: Study, number: int) -> bytes:
    """The file of an image of 2 kB."""
    image = read_template()
    image.StudyInstanceUID, image.SeriesInstanceUID = study.uid, f"{study.uid}.1"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{study.uid}.1.{number + 1}"
    image.PatientID, image.PatientName, image.StudyDate = study.patient, study.name, study.day
    image.AccessionNumber, image.InstanceNumber = f"A{study.patient[1:]}", number + 1
    return write_image(image)


# --- Orthanc ------------------------------------------------------------------------------------
@dataclass
class Orthanc:
    """A container, and what talks to it."""

    name: str
    address: str
    stored: int = 0
    http: http.client.HTTPConnection = field(init=False)
    find: Association | None = None

    def __post_init__(self) -> None:
        self.http = http.client.HTTPConnection(self.address, 8042, timeout=300)

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        """What Orthanc answers; SystemExit if it refuses."""
        try:
            self.http.request("GET" if body is None else "POST", path, body)
            answer = self.http.getresponse()
        except ConnectionError:  # it closes a connection after a second
            self.http.close()
            self.http.request("GET" if body is None else "POST", path, body)
            answer = self.http.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{self.name}: {path}: {answer.status} {content[:300]!r}")
        return content

    def open_association(self) -> Association:
        """The association for searches; Orthanc closes it after half a minute without one."""
        if self.find and self.find.is_established:
            return self.find
        device = AE("US1")
        device.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        device.add_requested_context(ModalityWorklistInformationFind)
        self.find = device.associate(self.address, 4242, ae_title="ORTHANC")
        # else the second half of each question waits 40 ms for the acknowledgement of the first
        self.find.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.find


@contextlib.contextmanager
def run_orthanc(release: str, name: str, directory: Path) -> Iterator[Orthanc]:
    """Orthanc on the archive of a directory, from its first answer until it has stopped."""
    options = [f"--user={os.getuid()}", "--entrypoint=Orthanc"]
    with run_container(f"{release}-{name}", RELEASES[release], directory, options, "/bench/orthanc.json") as orthanc:
        await_answer(orthanc)
        yield orthanc


@contextlib.contextmanager
def run_container(name: str, image: str, directory: Path, options: Sequence[str], *command: str) -> Iterator[Orthanc]:
    """A container of an image of the test bed's, with a directory as its /bench; it is removed at the end."""
    container = f"orthanc-index-{name}"
    bed.docker("rm", "--force", container, check=False)
    given = [f"--name={container}", f"--volume={directory}:/bench", "--env=TCP_NODELAY=1", *options]
    bed.docker("run", "--detach", *given, bed.image(image), *command)
    try:
        shown = bed.docker("inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)
        yield Orthanc(container, shown.stdout.strip())
    finally:
        bed.docker("stop", "--time=120", container, check=False)
        bed.docker("rm", "--force", container, check=False)


def await_answer(orthanc: Orthanc) -> None:
    """Returns once Orthanc answers; SystemExit with its log if it does not within a minute."""
    limit = time.monotonic() + 60
    while True:
        try:
            orthanc.ask("/system")
            return
        except OSError:
            orthanc.http.close()
            if time.monotonic() > limit:
                raise SystemExit(bed.docker("logs", orthanc.name).stderr) from None
            time.sleep(0.1)


def write_directory(directory: Path) -> None:
    """An archive without images: Orthanc's configuration, and the worklist."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "worklists").mkdir(parents=True)
    (directory / "db").mkdir()
    (directory / "orthanc.json").write_text(json.dumps(CONFIGURATION))
    for number in range(ITEMS):
        item, step = Dataset(), Dataset()
        step.ScheduledStationAETitle, step.Modality = f"US{number}", "US"
        step.ScheduledProcedureStepStartDate = f"{date.today():%Y%m%d}"
        item.PatientID, item.PatientName, item.AccessionNumber = f"W{number}", f"WAITING^{number}", f"W{number}"
        item.StudyInstanceUID, item.ScheduledProcedureStepSequence = generate_uid(), [step]
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = ModalityWorklistInformationFind
        item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        item.save_as(directory / "worklists" / f"{number}.wl", enforce_file_format=True)


def store_images(orthanc: Orthanc) -> None:
    """Stores those that the rest of an archive is copied from."""
    for study in range(STUDIES):
        for number in range(SERIES):
            orthanc.ask("/instances", make_image(Study(0, study), number))


def prepare_archive(release: str, images: int) -> Path:
    """The directory of an archive of so many images, which stays as it is; made where it is missing."""
    directory = HOME / release / str(images)
    if (directory / "ready").exists():
        return directory
    print(f"{release}: preparing {images:,} images", flush=True)
    if images > STORED:
        smallest = prepare_archive(release, STORED)
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(smallest, directory, copy_function=os.link)
        (directory / "ready").unlink()
        (directory / "db" / "index").unlink()
        shutil.copy(smallest / "db" / "index", directory / "db" / "index")
        copy_rows(directory / "db" / "index", images)
    else:
        write_directory(directory)
        hasty = json.dumps({**CONFIGURATION, "SyncStorageArea": False})
        (directory / "orthanc.json").write_text(hasty)
        with run_orthanc(release, "fill", directory) as orthanc:
            store_images(orthanc)
        (directory / "orthanc.json").write_text(json.dumps(CONFIGURATION))
    (directory / "ready").touch()
    return directory


@contextlib.contextmanager
def run_copy(release: str, images: int, *, wanted: bool) -> Iterator[Orthanc]:
    """Orthanc on a copy of an archive, whose index has the statistics or not. Its answers are of that many images."""
    name = "with" if wanted else "without"
    archive, directory = prepare_archive(release, images), HOME / release / name
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(archive, directory, copy_function=os.link)
    (directory / "db" / "index").unlink()
    shutil.copy(archive / "db" / "index", directory / "db" / "index")
    write_statistics(directory / "db" / "index", wanted)
    with run_orthanc(release, name, directory) as orthanc:
        found = json.loads(orthanc.ask("/statistics"))["CountInstances"]
        if int(found) != images:
            raise SystemExit(f"{orthanc.name} has {found} of {images} images")
        yield orthanc
        if orthanc.find and orthanc.find.is_established:
            orthanc.find.release()
        found = json.loads(orthanc.ask("/statistics"))["CountInstances"]
        if int(found) != images + orthanc.stored:
            raise SystemExit(f"{orthanc.name} has {found} of {images + orthanc.stored} images")
    shutil.rmtree(directory)


# --- what is measured ---------------------------------------------------------------------------
def choose_study(images: int) -> Study:
    return Study(random.randrange(images // STORED), random.randrange(STUDIES))


def time_answer(orthanc: Orthanc, images: int, make_path: Callable[[Study], str], least: int) -> float:
    """Milliseconds until the whole answer about some study has come; SystemExit if it is shorter than `least` bytes."""
    path = make_path(choose_study(images))
    orthanc.ask("/system")  # over an open connection
    begin = time.perf_counter()
    answer = orthanc.ask(path)
    took = (time.perf_counter() - begin) * 1000
    if len(answer) < least:
        raise SystemExit(f"{orthanc.name}: {path}: {answer[:300]!r}")
    return took


def time_often(timed: Callable[[Orthanc, int], float], images: int, times: int, orthanc: Orthanc) -> float:
    """Milliseconds of one of so many requests, the median."""
    return statistics.median(timed(orthanc, images) for _time in range(times))


def time_instance(orthanc: Orthanc, images: int) -> float:
    """Milliseconds until an image's description has come."""
    uid = f"{choose_study(images).uid}.1.{random.randrange(SERIES) + 1}"
    identifier = json.loads(orthanc.ask("/tools/lookup", uid.encode()))[0]["ID"]
    return time_answer(orthanc, images, lambda _study: f"/instances/{identifier}", 100)


def time_find(orthanc: Orthanc, images: int, *, worklist: bool = False) -> float:
    """Milliseconds until the last answer to a C-FIND of a study by PatientID, or of the worklist, has come."""
    asked = Dataset()
    model, wanted = StudyRootQueryRetrieveInformationModelFind, 1
    asked.PatientID, asked.StudyInstanceUID = choose_study(images).patient, ""
    if worklist:
        model, wanted = ModalityWorklistInformationFind, ITEMS
        asked = Dataset()
        asked.PatientID = asked.PatientName = asked.AccessionNumber = ""
    else:
        asked.QueryRetrieveLevel = "STUDY"
    for _attempt in range(3):
        association = orthanc.open_association()
        begin = time.perf_counter()
        found = sum(answer is not None for _status, answer in association.send_c_find(asked, model))
        took = (time.perf_counter() - begin) * 1000
        if found == wanted:
            return took
        print(f"{orthanc.name}: {found} of {wanted} answers to C-FIND", flush=True)
    raise SystemExit(f"{orthanc.name} did not answer C-FIND")


def time_store(orthanc: Orthanc, associations: int) -> float:
    """Images a second that DCMTK's storescu stores over so many associations at once, 20 of 0.23 MB over each."""
    with tempfile.TemporaryDirectory() as scratch:
        image = pydicom.dcmread(str(get_testdata_file("examples_rgb_color.dcm")))
        directories = [Path(scratch, str(number)) for number in range(associations)]
        for directory in directories:
            directory.mkdir()
            image.StudyInstanceUID, image.SeriesInstanceUID, image.PatientID = generate_uid(), generate_uid(), "SENT"
            for number in range(SENT):
                image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
                (directory / str(number)).write_bytes(write_image(image))
        command = [STORESCU, "+sd", "-aet", "US1", "-aec", "ORTHANC", orthanc.address, "4242"]
        begin = time.perf_counter()
        running = [subprocess.Popen([*command, str(directory)]) for directory in directories]
        failed = sum(one.wait() != 0 for one in running)
        took = time.perf_counter() - begin
    if failed:
        raise SystemExit(f"{orthanc.name}: {failed} of {associations} associations failed")
    orthanc.stored += associations * SENT
    return associations * SENT / took


def find_path(search: str) -> Callable[[Study], str]:
    """A search for studies, in which the study's own values stand for {study.…}."""
    return lambda study: f"/dicom-web/studies?{search.format(study=study, first=FIRST + study.copy)}"


# what was found where a target is missed, by release, measurement and size
WHY = {
    ("1.10.1", "WADO-RS of a series of 100", 50_000): (
        "the SQLite 3.40 of this release walks no series without the statistics either: nothing is to be gained"
    ),
    ("1.12.7", "C-STORE, one association, 200,000 images", None): (
        "one association waits for the disk, whose speed varies: four on the same archives were 1.02 times as long, and"
        " one with 1.10.1 and 1.13.0 1.09 and 0.83 times; by their plans, no query reads more rows there"
    ),
}
WADO, SLOWEST = "/dicom-web/studies/{0}/series/{0}.1", "WADO-RS of a series of 100"
TIMED: dict[str, Callable[[Orthanc, int], float]] = {
    SLOWEST: partial(time_answer, make_path=lambda study: WADO.format(study.uid), least=SERIES * 1500),
    "WADO-RS of one image": partial(
        time_answer, make_path=lambda study: f"{WADO.format(study.uid)}/instances/{study.uid}.1.7", least=1500
    ),
    "GET one instance": time_instance,
    "QIDO-RS, a study by UID": partial(time_answer, make_path=find_path("StudyInstanceUID={study.uid}"), least=100),
    "QIDO-RS by PatientID": partial(time_answer, make_path=find_path("PatientID={study.patient}"), least=100),
    "QIDO-RS by PatientName*": partial(time_answer, make_path=find_path("PatientName=DOE{first}*"), least=1000),
    "QIDO-RS by date": partial(time_answer, make_path=find_path("StudyDate={study.day}"), least=100),
    "C-FIND, a study by PatientID": time_find,
    "worklist query, 100 items": partial(time_find, worklist=True),
}
RATED: dict[str, Callable[[Orthanc], float]] = {
    "C-STORE, one association": partial(time_store, associations=1),
    "C-STORE, four associations": partial(time_store, associations=4),
}


def measure_size(release: str, images: int, runs: int) -> list[Comparison]:
    """Both Orthancs, in turns."""
    with run_copy(release, images, wanted=True) as ours, run_copy(release, images, wanted=False) as theirs:
        return measure_both(ours, theirs, WITHOUT, images, runs)


def measure_both(ours: Orthanc, theirs: Orthanc, against: str, images: int, runs: int) -> list[Comparison]:
    """Each request, to two archives of one size in turns; the first of each is not measured."""
    rows = []
    for what, timed in TIMED.items():
        least = 20.0 if (what, images, against) == (SLOWEST, 50_000, WITHOUT) else None
        row = Comparison(what, against, "ms", size=images, at_least=least)
        timed(ours, images)
        timed(theirs, images)
        often = partial(time_often, timed, images, 1 if what == SLOWEST else 5)
        rows.append(measure_pairs(row, runs, partial(often, ours), partial(often, theirs)))
    for what, rated in RATED.items():
        row = Comparison(what, against, "images/s", rate=True, size=images)
        rows.append(measure_pairs(row, runs, partial(rated, ours), partial(rated, theirs)))
    return rows


def compare_sizes(rows: list[Comparison]) -> list[Comparison]:
    """The largest archive with the smallest one, both with the statistics."""
    low, high = min(one.size or 0 for one in rows), max(one.size or 0 for one in rows)
    found = []
    for small in (one for one in rows if one.size == low and low < high):
        large = next(one for one in rows if one.what == small.what and one.size == high)
        most = 1.3 if large.rate else 2.0
        row = Comparison(f"{small.what}, {high:,} images", f"an archive of {low:,}", small.unit, small.rate)
        row.at_most, row.ours, row.theirs = most, large.ours, small.ours
        print(row.describe(), flush=True)
        found.append(row)
    return found


def read_versions(release: str) -> dict[str, str]:
    """Of what is in the image."""
    query = "dpkg-query -W -f '${Package} ${Version}\\n' orthanc orthanc-dicomweb libsqlite3-0"
    image = bed.image(RELEASES[release])
    shown = bed.docker("run", "--rm", "--entrypoint=sh", image, "-c", query).stdout
    return dict(line.split() for line in shown.splitlines())


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", choices=RELEASES, action="append", help="of Orthanc; all three")
    sizes = [STORED, 50_000, 200_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="thousands of images; 1000 50000 200000")
    parser.add_argument("--prepare", action="store_true", help="make the archives and measure nothing")


def measure_release(release: str, chosen: argparse.Namespace) -> None:
    for images in chosen.sizes:
        prepare_archive(release, images)
    if chosen.prepare:
        return
    print(f"Orthanc {release}", flush=True)
    sized = [row for images in chosen.sizes for row in measure_size(release, images, chosen.runs)]
    rows = [*sized, *compare_sizes(sized)]
    for row in rows:
        row.why = WHY.get((release, row.what, row.size), "")
    path = chosen.json and chosen.json.with_name(f"{chosen.json.stem}_{release}.json")
    what = f"Orthanc {release} on an index with the statistics and without"
    series = [
        {
            "name": one.what,
            "against": one.against,
            "images": one.size,
            "median_with": round(statistics.median(one.ours), 2),
            "median_without": round(statistics.median(one.theirs), 2),
            "unit": one.unit,
        }
        for one in sized
    ]
    command = f"python3 bench/index.py --release {release}"
    write_result(path, f"index_{release}", what, command, read_versions(release), rows, found=series)


def prepare_host() -> None:
    """The container engine, and DCMTK on this host: its storescu is timed without the start of `docker exec`."""
    with bed.alone():
        bed.engine_up()
        if not Path(STORESCU).exists():
            bed.say("installing Debian's DCMTK")
            bed.apt_install("dcmtk", instead=f"{STORESCU} is missing. Remedy: install dcmtk")


def main() -> None:
    chosen = parse_arguments(__doc__, add_options)
    prepare_host()
    for release in chosen.release or RELEASES:
        measure_release(release, chosen)
        if not chosen.keep:
            shutil.rmtree(HOME / release)


if __name__ == "__main__":
    main()
