"""An object that needs more memory than Orthanc may use: it ends Orthanc alone, and no image is lost."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator

import pydicom
import pytest
from clients import PASSWORDS, example, wait_for
from pydicom.uid import generate_uid
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]
MIB = 1 << 20
LIMIT = 640 * MIB
SMALL, LARGE = 20, 220  # frames of a MiB
GROUP = "/run/memory/orthanc-limited"
STORE = "/usr/bin/storescu -v -xs -aet ACCEPTANCE_TEST -aec ORTHANC 127.0.0.1 4242"


def send(host: Host, frames: int) -> tuple[bool, str, str]:
    """Stores an object of so many MiB from the machine itself: whether it was confirmed, its UID, its pixels' MD5."""
    image = pydicom.dcmread(example())
    image.StudyInstanceUID, image.SeriesInstanceUID, image.PatientID = generate_uid(), generate_uid(), "MEMORY"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.Rows = image.Columns = 1024
    image.NumberOfFrames, image.SamplesPerPixel, image.PhotometricInterpretation = frames, 1, "MONOCHROME2"
    del image.PixelData
    with io.BytesIO() as packed:
        image.save_as(packed)
        start = packed.getvalue() + b"\xe0\x7f\x10\x00OW\0\0" + (frames * MIB).to_bytes(4, "little")
    write = (
        "import hashlib, sys; digest = hashlib.md5(); file = open('/var/tmp/large.dcm', 'wb')\n"
        f"file.write(bytes.fromhex('{start.hex()}'))\n"
        f"for number in range({frames}):\n"
        f" frame = hashlib.shake_128(b'%d' % number).digest({MIB}); digest.update(frame); file.write(frame)\n"
        "print(digest.hexdigest())"
    )
    digest = host.check_output("python3 - <<'EOF'\n" + write + "\nEOF")
    sent = host.run(f"{STORE} /var/tmp/large.dcm; rm -f /var/tmp/large.dcm")
    return "Received Store Response (Success)" in sent.stdout + sent.stderr, str(image.SOPInstanceUID), digest


def curl(host: Host, path: str, *options: str) -> str:
    """What Orthanc answers to its administrator on the machine; empty while it does not."""
    address = f"http://127.0.0.1:8042{path}"
    asked = " ".join([*options, "--silent --fail --max-time 60 --user", f"it:{PASSWORDS['it']}", f"'{address}'"])
    return str(host.run(f"curl {asked}").stdout)


def hash_stored(host: Host, uid: str) -> str:
    """The MD5 of the pixels of a small object that Orthanc serves; empty for an image that it does not have."""
    for one in json.loads(curl(host, "/instances?expand")):
        if one["MainDicomTags"]["SOPInstanceUID"] == uid:
            path = f"http://127.0.0.1:8042/instances/{one['ID']}/file"
            served = host.check_output(
                f"curl --silent --fail --user it:{PASSWORDS['it']} {path} | tail --bytes={SMALL * MIB} | md5sum"
            )
            return str(served).split()[0]
    return ""


def pid_of(host: Host) -> int:
    return int(host.check_output("systemctl show --property MainPID --value orthanc"))


def confine(host: Host) -> None:
    """Limits the memory of the Orthanc that runs: by systemd, or without such a controller, by the kernel's v1."""
    if "memory" in host.file("/sys/fs/cgroup/cgroup.controllers").content_string.split():
        host.check_output(f"systemctl set-property --runtime orthanc.service MemoryMax={LIMIT} MemorySwapMax=0")
        return
    host.check_output(
        f"mkdir -p /run/memory && {{ mountpoint -q /run/memory || mount -t cgroup -o memory none /run/memory; }}"
        f" && mkdir -p {GROUP} && echo {LIMIT} > {GROUP}/memory.limit_in_bytes"
        f" && echo {pid_of(host)} > {GROUP}/cgroup.procs"
    )


@pytest.fixture
def limited(host: Host) -> Iterator[None]:
    host.check_output("command -v curl || apt-get install -qq -y curl")
    confine(host)
    yield
    host.run("rm -rf /run/systemd/system.control/orthanc.service.d; systemctl daemon-reload; systemctl restart orthanc")
    wait_for(lambda: "Version" in curl(host, "/system"), "Orthanc")
    host.run(f"rmdir {GROUP}; umount /run/memory; rmdir /run/memory")


def test_the_unit_is_limited_by_the_machine_s_memory(host: Host) -> None:
    limit = int(host.check_output("systemctl show --property MemoryMax --value orthanc"))
    total = int(host.check_output("awk '/^MemTotal/ {print $2}' /proc/meminfo")) * 1024
    assert 512 * MIB <= limit <= max(512 * MIB, total * 3 // 4)
    largest = json.loads(host.file("/etc/clinicops-orthanc.json").content_string)["largest_object"]
    assert 10 * MIB < largest * 4.25 < limit


@pytest.mark.usefixtures("limited")
def test_an_object_that_is_too_large_ends_orthanc_alone(host: Host) -> None:
    confirmed, kept, pixels = send(host, SMALL)
    assert confirmed
    before = pid_of(host)
    confirmed, lost, _pixels = send(host, LARGE)
    assert not confirmed
    wait_for(lambda: pid_of(host) not in (0, before) and "Version" in curl(host, "/system"), "Orthanc")
    assert host.service("nginx").is_running
    assert hash_stored(host, lost) == ""  # it was not confirmed, and no part of it is there
    assert hash_stored(host, kept) == pixels
    confirmed, again, pixels = send(host, SMALL)
    assert confirmed
    assert hash_stored(host, again) == pixels
    for one in json.loads(curl(host, "/patients?expand")):
        if one["MainDicomTags"].get("PatientID") == "MEMORY":
            curl(host, f"/patients/{one['ID']}", "--request DELETE")
