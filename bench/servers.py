"""Orthanc on two machines of one kind: as this collection deploys it, and as the guide of a clinic leaves it."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import copies
import machines
import pydicom
from copies import SERIES, STORED, STUDIES
from index import Study, make_image
from machines import run_in
from pydicom.data import get_testdata_file
from pydicom.uid import UltrasoundMultiFrameImageStorage, generate_uid

SCANNER = {"name": "us1", "aet": "US1", "host": "198.51.100.49", "port": 104, "may": ["echo", "store"]}
# What a person sets up by hand with "Orthanc deployment guidance for Linux VMs with SQLite, DICOMweb and Worklists",
# with Debian's packages. Changed only where Orthanc would not start or answer: Debian has no package
# orthanc-worklists, its own files in /etc/orthanc repeat sections of this one, and TemporaryDirectory must exist.
GUIDE = {
    "Name": "Clinic Orthanc",
    "StorageDirectory": "/var/lib/orthanc/db",
    "IndexDirectory": "/var/lib/orthanc/db",
    "TemporaryDirectory": "/var/lib/orthanc/tmp",
    "AuthenticationEnabled": True,
    "RegisteredUsers": {"orthanc": "change-this-password"},
    "RemoteAccessAllowed": False,
    "HttpPort": 8042,
    "DicomAet": "ORTHANC",
    "DicomPort": 4242,
    "DicomCheckCalledAet": True,
    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    "Worklists": {"Enable": True, "Database": "/var/lib/orthanc/worklists"},
    "Plugins": ["/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins"],
    "ConcurrentJobs": 2,
    "StorageCompression": False,
}
STORAGE = "/var/lib/orthanc/db"
GUIDE_USER = "orthanc:change-this-password"
INSTALL = "export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; apt-get install -qq -y --no-install-recommends"


@dataclass(frozen=True)
class Server:
    """A machine with Orthanc, its address for devices, and a user of its REST API with the password."""

    machine: str
    address: str
    user: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What Orthanc's REST API answers on the machine itself; subprocess.CalledProcessError if it refuses."""
        data = "" if body is None else "--data-binary @-"
        command = f"curl -fsS -u '{self.user}' -X {method} {data} 'http://127.0.0.1:8042{path}'"
        answer = run_in(self.machine, command, b"" if body is None else json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def count_images(self) -> int:
        """How many images its index has."""
        return int(self.ask("GET", "/statistics")["CountInstances"])

    def require_images(self, images: int) -> None:
        """SystemExit unless Orthanc has so many."""
        if (found := self.count_images()) != images:
            raise SystemExit(f"{self.machine} has {found} of {images} images")

    def store_first(self) -> None:
        """Gives an empty Orthanc, in one ZIP file, the images of 2 kB that a large archive is copied from."""
        with io.BytesIO() as packed:
            with zipfile.ZipFile(packed, "w") as archive:
                for study in range(STUDIES):
                    for number in range(SERIES):
                        archive.writestr(f"{study}/{number}", make_image(Study(0, study), number))
            upload = f"curl -fsS -o /dev/null -u '{self.user}' --data-binary @- http://127.0.0.1:8042/instances"
            run_in(self.machine, upload, packed.getvalue())
        self.require_images(STORED)

    def grow_archive(self, images: int) -> None:
        """Copies these images until there are so many, while Orthanc is stopped."""
        grow = f"setpriv --reuid=orthanc --regid=orthanc --init-groups python3 - {STORAGE} {images}"
        script = f"systemctl stop orthanc; {grow}; systemctl start orthanc"
        run_in(self.machine, script, Path(copies.__file__).read_bytes())
        self.await_answer()
        self.require_images(images)

    def await_answer(self) -> None:
        """Returns once Orthanc answers, within a minute."""
        ready = f"curl -fsS -o /dev/null --retry 60 --retry-delay 1 --retry-all-errors -u '{self.user}' "
        run_in(self.machine, f"{ready} http://127.0.0.1:8042/changes?last 2>/dev/null")

    def empty(self) -> None:
        """Deletes every image."""
        if patients := self.ask("GET", "/patients"):
            self.ask("POST", "/tools/bulk-delete", {"Resources": patients})

    def read_versions(self) -> dict[str, str]:
        """Of what answers there: Orthanc, its DICOMweb plugin, nginx."""
        query = "dpkg-query -W -f '${binary:Package} ${Version}\\n' orthanc orthanc-dicomweb nginx 2>/dev/null || true"
        return dict(line.split() for line in run_in(self.machine, query).splitlines() if len(line.split()) == 2)


def deploy_ours(machine: str, address: str) -> Server:
    """Deploys the example inventory by this collection, with a scanner; returns once the acceptance test has passed."""
    settings = {"orthanc_modalities": [SCANNER], "orthanc_https_sources": ["198.51.100.64/26"]}
    if "active" not in run_in(machine, "systemctl is-active orthanc || true").split():
        machines.deploy_machines({machine: {}}, settings)
    run_in(machine, f"command -v curl >/dev/null || {{ {INSTALL} curl; }} >/dev/null 2>&1")
    return Server(machine, address, f"it:{machines.PASSWORDS['it']}")


def set_up_guide(machine: str, address: str) -> Server:
    """Installs Orthanc as the guide says, with its orthanc.json; returns once Orthanc answers."""
    if "active" not in run_in(machine, "systemctl is-active orthanc || true").split():
        run_in(machine, f"{{ {INSTALL} orthanc orthanc-dicomweb curl; }} >/dev/null 2>&1; systemctl stop orthanc")
        run_in(
            machine, "rm -f /etc/orthanc/*.json; install -d -o orthanc /var/lib/orthanc/tmp /var/lib/orthanc/worklists"
        )
        machines.write_file(machine, "/etc/orthanc/orthanc.json", json.dumps(GUIDE, indent=2))
        run_in(machine, "systemctl reset-failed orthanc; systemctl start orthanc")
    server = Server(machine, address, GUIDE_USER)
    server.await_answer()
    return server


@cache
def read_kinds() -> list[pydicom.Dataset]:
    """Real ultrasound images, of pydicom: two of 0.23 and 0.28 MB, and clips of 4 and 8 frames, of 0.9 and 1.8 MB."""
    single = [pydicom.dcmread(str(get_testdata_file(f"examples_{name}.dcm"))) for name in ("rgb_color", "palette")]
    return [*single, make_clip(single[0], 4), make_clip(single[0], 8)]


def make_clip(image: pydicom.Dataset, frames: int) -> pydicom.Dataset:
    """A clip that shows an image in each frame."""
    clip = pydicom.dcmread(io.BytesIO(write_image(image)))
    clip.SOPClassUID = clip.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    clip.NumberOfFrames, clip.PixelData = frames, bytes(clip.PixelData) * frames
    return clip


def write_image(image: pydicom.Dataset) -> bytes:
    """The file of an image."""
    with io.BytesIO() as buffer:
        image.save_as(buffer)
        return buffer.getvalue()


def make_study(images: int = 20) -> dict[str, bytes]:
    """The files of a study by their SOP Instance UIDs: of twenty images, eighteen are single and two are clips."""
    single_a, single_b, short, long = read_kinds()
    study, series, files = generate_uid(), generate_uid(), {}
    for number in range(images):
        kind = {9: short, 19: long}.get(number % 20, single_b if number % 2 else single_a)
        kind.StudyInstanceUID, kind.SeriesInstanceUID, kind.PatientID = study, series, f"BENCH{study[-12:]}"
        kind.SOPInstanceUID = kind.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        files[str(kind.SOPInstanceUID)] = write_image(kind)
    return files
