"""A clinic's day seen from outside: real clients with addresses of their own."""

from __future__ import annotations

import email
import email.policy
import io
import json
import os
import time
from typing import Any

import pydicom
import pytest
from clients import (
    ADDRESSES,
    HOSTNAME,
    OFFICE,
    OUTSIDE,
    PASSWORDS,
    SCANNER,
    UNLISTED,
    client,
    example,
    https,
    name_of,
    put,
    scu,
    wait_for,
)
from pydicom.uid import generate_uid
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

# native, palette, JPEG 2000 and a JPEG clip of 30 frames, as ultrasound machines send them
IMAGES = [
    "examples_rgb_color.dcm",
    "examples_palette.dcm",
    "examples_jpeg2k.dcm",
    "examples_ybr_color.dcm",
]


@pytest.fixture(scope="module")
def study() -> tuple[str, dict[str, pydicom.Dataset]]:
    """The four images under new UIDs, by SOP Instance UID."""
    uid, images = generate_uid(), {}
    for file in IMAGES:
        image = pydicom.dcmread(example(file))
        image.StudyInstanceUID, image.SeriesInstanceUID = uid, generate_uid()
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.PatientID = "FOUR"
        images[image.SOPInstanceUID] = image
    return uid, images


@pytest.fixture
def address(host: Host) -> str:
    return ADDRESSES[name_of(host)][0]


def test_the_four_images_come_back_over_https(host: Host, address: str, study: Any) -> None:
    uid, images = study
    names = []
    for sop, image in images.items():
        buffer = io.BytesIO()
        image.save_as(buffer)
        names.append(f"/tmp/{sop}.dcm")
        put(SCANNER, names[-1], buffer.getvalue())
    # -xs and the like propose one syntax each: every file goes in the syntax that it has
    for option, name in zip(["-xe", "-xe", "-xv", "-xy"], names, strict=True):
        status, said = scu(SCANNER, "storescu", "US2", address, option, name)
        assert status == 0, said

    status, _kind, body = https(host, OFFICE, f"/dicom-web/instances?StudyInstanceUID={uid}")
    assert status == 200
    found = json.loads(body)
    assert {item["00080018"]["Value"][0] for item in found} == set(images)
    for item in found:
        url = item["00081190"]["Value"][0]
        assert url.startswith(f"https://{HOSTNAME}/dicom-web/")
        accept = 'Accept: multipart/related; type="application/dicom"; transfer-syntax=*'
        status, kind, body = https(host, OFFICE, url, "--header", accept)
        assert status == 200, url
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
        payload = next(iter(message.iter_parts())).get_payload(decode=True)
        assert isinstance(payload, bytes)
        received = pydicom.dcmread(io.BytesIO(payload))
        sent = images[received.SOPInstanceUID]
        assert received.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
        assert received.PixelData == sent.PixelData


def test_the_worklist_gives_the_scanner_its_patient(host: Host, address: str) -> None:
    item = (
        "(0008,0050) SH [ACC1]\n(0010,0010) PN [MUSTER^ANNA]\n(0010,0020) LO [P1]\n"
        f"(0020,000d) UI [{generate_uid()}]\n(0040,0100) SQ\n(fffe,e000) -\n(0008,0060) CS [US]\n"
        f"(0040,0001) AE [US2]\n(0040,0002) DA [{time.strftime('%Y%m%d')}]\n(0040,0003) TM [0800]\n"
        "(fffe,e00d) -\n(fffe,e0dd) -\n"
    )
    put(SCANNER, "/tmp/item.txt", item.encode())
    assert client(SCANNER, "dump2dcm", "/tmp/item.txt", "/tmp/item.wl").returncode == 0
    incoming = "/srv/worklists/incoming"
    put(name_of(host), f"{incoming}/item.part", client(SCANNER, "cat", "/tmp/item.wl").stdout)
    host.check_output(f"mv {incoming}/item.part {incoming}/item.wl")
    keys = [
        "-k",
        "PatientName",
        "-k",
        "ScheduledProcedureStepSequence[0].ScheduledStationAETitle=US2",
    ]
    wait_for(
        lambda: "MUSTER^ANNA" in scu(SCANNER, "findscu", "US2", address, "-W", *keys)[1], "the scanner finds it", 20
    )
    _status, said = scu(SCANNER, "findscu", "US2", address, "-W", *keys)
    assert said.count("MUSTER^ANNA") == 1, said
    _status, said = scu(UNLISTED, "findscu", "US2", address, "-W", *keys)
    assert "MUSTER" not in said
    host.check_output("orthanc-worklist remove ACC1")


def test_echo_by_right_and_by_address(host: Host, address: str) -> None:
    assert scu(SCANNER, "echoscu", "US2", address)[0] == 0
    for aet, called in (("US9", "ORTHANC"), ("US1", "ORTHANC"), ("US2", "WRONG")):
        status, said = scu(SCANNER, "echoscu", aet, address, called=called)
        assert status != 0, (aet, called)
        assert "Association Rejected" in said


def test_an_unlisted_ae_title_cannot_store_or_query(host: Host, address: str, study: Any) -> None:
    put(SCANNER, "/tmp/stranger.dcm", example(IMAGES[1]).read_bytes())
    assert "Association Rejected" in scu(SCANNER, "storescu", "US9", address, "/tmp/stranger.dcm")[1]
    assert "Association Rejected" in scu(SCANNER, "findscu", "US9", address, "-W", "-k", "PatientName")[1]


def test_an_unlisted_machine_does_not_reach_the_dicom_port(host: Host, address: str) -> None:
    status, said = scu(UNLISTED, "echoscu", "US2", address)
    assert status != 0
    assert "Rejected" not in said  # not even a TCP connection


@pytest.mark.parametrize(("place", "network"), [(SCANNER, 0), (UNLISTED, 0), (OFFICE, 1), (OUTSIDE, 2)])
@pytest.mark.parametrize("port", [8042, 80])
def test_no_plain_http_from_anywhere(host: Host, place: str, network: int, port: int) -> None:
    url = f"http://{ADDRESSES[name_of(host)][network]}:{port}/system"
    assert client(place, "curl", "--silent", "--max-time", "2", url).returncode in (
        7,
        28,
    )


def test_https_is_for_the_office_alone(host: Host) -> None:
    target = ADDRESSES[name_of(host)][2]
    done = client(
        OUTSIDE,
        "curl",
        "--silent",
        "--insecure",
        "--max-time",
        "2",
        f"https://{target}/",
    )
    assert done.returncode == 28


@pytest.mark.parametrize("user", ["", "viewer:wrong", "nobody:wrong", "orthanc:orthanc", "it:wrong"])
def test_no_or_a_wrong_password_is_401(host: Host, user: str) -> None:
    assert https(host, OFFICE, "/dicom-web/studies", user=user)[0] == 401


def test_a_reader_reads_and_no_more(host: Host) -> None:
    assert https(host, OFFICE, "/dicom-web/studies")[0] == 200
    for path in (
        "/system",
        "/dicom-web/servers",
        "/app/explorer.html",
        "/tools/find",
        "/dicom-web/studies/../servers",
        "/dicom-web/studies/..\\..\\system",
        "/dicom-web/studies/..%5c..%5csystem",
        "/dicom-web/studies/%2e%2e%5cservers",
    ):
        assert https(host, OFFICE, path, "--path-as-is")[0] == 403, path
    assert https(host, OFFICE, "/dicom-web/studies", "--request", "POST")[0] == 403


def test_a_writer_stores_and_no_more(host: Host) -> None:
    writer = f"gateway:{PASSWORDS['gateway']}"
    for path in ("/tools/find", "/dicom-web/studies/..\\..\\tools\\find", "/dicom-web/studies/..%5c..%5ctools%5cfind"):
        query = ("--path-as-is", "--data", '{"Level": "Study", "Query": {}}')
        assert https(host, OFFICE, path, *query, user=writer)[0] == 403, path


def test_a_get_stays_a_get(host: Host) -> None:
    header = "X-HTTP-Method-Override: POST"
    assert https(host, OFFICE, "/dicom-web/studies", "--header", header)[0] == 200
    for name in ("_method", "%5fmethod", "%5F%6dethod"):
        assert https(host, OFFICE, f"/dicom-web/studies?limit=1&{name}=POST")[0] == 403, name


def test_secrets_are_for_root_and_orthanc(host: Host) -> None:
    config = host.file("/etc/orthanc/site/orthanc.json")
    assert (config.user, config.group, config.mode) == ("root", "orthanc", 0o640)
    assert host.file("/etc/nginx/orthanc/self_signed.key").mode == 0o600
