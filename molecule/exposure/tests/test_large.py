"""Two gigabytes in one STOW-RS request, and out again, without a copy on the way."""

from __future__ import annotations

import io
import os
import subprocess
import time

import pydicom
import pytest
from clients import ADDRESSES, HOSTNAME, OFFICE, PASSWORDS, ask, client, example, name_of, put
from pydicom.uid import generate_uid
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]
pytestmark = pytest.mark.campaign
IMAGES, ROWS, FRAMES = 20, 1024, 100  # of 105 MB each
BOUNDARY = "clinicops-boundary"


def head(study: str) -> bytes:
    """An image without its pixels."""
    image = pydicom.dcmread(example())
    image.StudyInstanceUID, image.SeriesInstanceUID, image.PatientID = study, generate_uid(), "LARGE"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.Rows = image.Columns = ROWS
    image.NumberOfFrames = FRAMES
    del image.PixelData
    with io.BytesIO() as packed:
        image.save_as(packed)
        return packed.getvalue() + b"\xe0\x7f\x10\x00OW\0\0" + (ROWS * ROWS * FRAMES).to_bytes(4, "little")


def test_two_gigabytes_go_in_and_out(host: Host) -> None:
    study = generate_uid()
    put(OFFICE, "/tmp/ca.crt", host.file("/etc/nginx/orthanc/ca.crt").content)
    start = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    client(OFFICE, "rm", "-f", "/tmp/large")
    for _ in range(IMAGES):
        fill = f"cat >> /tmp/large; head -c {ROWS * ROWS * FRAMES} /dev/zero >> /tmp/large"
        assert client(OFFICE, "sh", "-c", fill, stdin=start + head(study)).returncode == 0
    assert client(OFFICE, "sh", "-c", f"printf '\\r\\n--{BOUNDARY}--\\r\\n' >> /tmp/large").returncode == 0
    size = int(client(OFFICE, "stat", "--format", "%s", "/tmp/large").stdout)
    assert size > 2 * 1000**3

    common = ["--silent", "--max-time", "600", "--cacert", "/tmp/ca.crt", "--write-out", "%{http_code} %{time_total}"]
    common += ["--resolve", f"{HOSTNAME}:443:{ADDRESSES[name_of(host)][1]}", "--output", "/dev/null"]
    kind = f'Content-Type: multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    url = f"https://{HOSTNAME}/dicom-web/studies"
    there = ["--user", f"gateway:{PASSWORDS['gateway']}", "--header", kind, "--upload-file", "/tmp/large"]
    back = [
        "--user",
        f"viewer:{PASSWORDS['viewer']}",
        "--header",
        'Accept: multipart/related; type="application/dicom"',
    ]
    try:
        for way, options, address in (("in", [*there, "--request", "POST"], url), ("out", back, f"{url}/{study}")):
            running = subprocess.Popen(
                ["docker", "exec", OFFICE, "curl", *common, *options, address], stdout=subprocess.PIPE, text=True
            )
            while running.poll() is None:
                # nginx unlinks its temporary files: they are seen where they are open
                copies = host.run("ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E '/var/lib/nginx/(body|proxy)'").stdout
                assert copies == "", copies
                time.sleep(0.2)
            status, seconds = running.communicate()[0].split()
            print(f"{way}: {size / 1e9:.2f} GB in {float(seconds):.1f} s")
            assert status == "200", way
    finally:
        client(OFFICE, "rm", "-f", "/tmp/large")
    (found,) = (item for item in ask(host, "/studies?expand") if item["MainDicomTags"]["StudyInstanceUID"] == study)
    assert len(ask(host, f"/studies/{found['ID']}/instances")) == IMAGES
    host.check_output(
        f"curl --silent --request DELETE --user it:{PASSWORDS['it']} http://127.0.0.1:8042/studies/{found['ID']}"
    )
