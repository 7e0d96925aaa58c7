"""What a device is told is true: of images that are lost, altered, sent twice, or sent again with other content."""

from __future__ import annotations

import concurrent.futures
import io
import json
import os

import pydicom
import pytest
from backups import STORAGE, must
from clients import name_of, wait_for
from senders import (
    altered,
    identifier,
    image,
    log,
    now,
    packed,
    path,
    pixels,
    rest,
    restart,
    sent,
    stow,
)
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

DAMAGE = {
    "missing": "rm {0}",
    "truncated": "truncate --size=1000 {0}",
    "empty": "truncate --size=0 {0}",
    "altered": "printf x | dd of={0} bs=1 seek=$(($(stat -c %s {0}) - 99)) conv=notrunc",
}


@pytest.fixture
def machine(host: Host) -> str:
    return name_of(host)


def dicom(machine: str, *images: pydicom.Dataset) -> None:
    assert sent(machine, "US1", *images) == [0] * len(images)


def over_stow(machine: str, *images: pydicom.Dataset) -> None:
    assert stow(machine, *images) == 200


def over_rest(machine: str, *images: pydicom.Dataset) -> None:
    for one in images:
        assert rest(machine, "POST", "/instances", packed(one))[0] == 200


WAYS = {"C-STORE": dicom, "STOW": over_stow, "REST": over_rest}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_lost_is_stored_when_it_is_sent_again(machine: str, way: str) -> None:
    images = {kind: image(f"LOST{number}") for number, kind in enumerate(DAMAGE)}
    dicom(machine, *images.values())
    for kind, damage in DAMAGE.items():
        must(machine, damage.format(path(machine, images[kind])))
    restart(machine)
    begin = now(machine)

    WAYS[way](machine, *images.values())

    restart(machine)
    assert {kind: pixels(machine, one) == one.PixelData for kind, one in images.items()} == dict.fromkeys(DAMAGE, True)
    for one in images.values():
        status = rest(machine, "POST", f"/instances/{identifier(machine, one)}/attachments/dicom/verify-md5")[0]
        assert status == 200
        assert f"clinicops: replaced: study {one.StudyInstanceUID} " in log(machine, begin)


def test_neither_is_it_lost_where_orthanc_still_has_it_in_its_cache(machine: str) -> None:
    images = {kind: image(f"CACHED{number}") for number, kind in enumerate(DAMAGE)}
    dicom(machine, *images.values())
    for one in images.values():
        assert pixels(machine, one) == one.PixelData  # it is read, and kept in memory
    for kind, damage in DAMAGE.items():
        must(machine, damage.format(path(machine, images[kind])))

    dicom(machine, *images.values())

    restart(machine)
    assert {kind: pixels(machine, one) == one.PixelData for kind, one in images.items()} == dict.fromkeys(DAMAGE, True)


def test_what_somebody_read_of_a_damaged_file_is_given_out_no_more(machine: str) -> None:
    """Orthanc keeps what it has read, of a damaged file as well."""
    images = {kind: image(f"SEEN{number}") for number, kind in enumerate(DAMAGE)}
    dicom(machine, *images.values())
    for kind, damage in DAMAGE.items():
        must(machine, damage.format(path(machine, images[kind])))
    restart(machine)
    seen = image("GUARDED")
    dicom(machine, seen)
    must(machine, DAMAGE["truncated"].format(path(machine, seen)))
    restart(machine)
    for one in (*images.values(), seen):
        assert rest(machine, "GET", f"/instances/{identifier(machine, one)}/file")[1] != packed(one)
    # while no image is taken, the right file comes back and nothing goes
    must(machine, f"systemctl stop orthanc-monitor.timer && touch {STORAGE}/.orthanc-disk-guard")
    sent(machine, "US1", seen)
    must(machine, f"rm -f {STORAGE}/.orthanc-disk-guard && systemctl start orthanc-monitor.timer")

    dicom(machine, *images.values())

    assert {kind: pixels(machine, one) == one.PixelData for kind, one in images.items()} == dict.fromkeys(DAMAGE, True)
    restart(machine)
    images["guarded"] = seen
    assert {kind: pixels(machine, one) == one.PixelData for kind, one in images.items()} == dict.fromkeys(images, True)


def test_neither_is_it_lost_where_the_patient_has_a_number_with_an_umlaut(machine: str) -> None:
    """Orthanc's identifier is made of the text, not of the bytes that were sent."""
    one = image("UMLAUT")
    one.SpecificCharacterSet, one.PatientID = "ISO_IR 100", "MÜLLER"
    dicom(machine, one)
    must(machine, f"rm {path(machine, one)}")
    restart(machine)

    dicom(machine, one)

    restart(machine)
    assert pixels(machine, one) == one.PixelData


def test_what_there_was_of_an_image_is_kept(machine: str) -> None:
    one = image("KEPT")
    dicom(machine, one)
    note = f"/instances/{identifier(machine, one)}/metadata/1024"
    assert rest(machine, "PUT", note, b"a person wrote this")[0] == 200
    file = path(machine, one)
    must(machine, f"truncate --size=5000 {file}")
    digest = must(machine, f"md5sum < {file}")
    restart(machine)
    dicom(machine, one)
    assert digest in must(machine, f"for file in {STORAGE}/.quarantine-*/*; do md5sum < $file; done")
    assert rest(machine, "GET", note) == (200, b"a person wrote this")


@pytest.mark.parametrize("way", WAYS)
def test_of_two_images_with_one_uid_the_first_is_kept_and_it_is_told(machine: str, way: str) -> None:
    # what a device sends must not write lines of the log
    first = image(f"TWO{way[0]}")
    first.AccessionNumber = 'A\n"E1 x'
    dicom(machine, first)
    second, begin = altered(first), now(machine)

    WAYS[way](machine, second)
    WAYS[way](machine, second)  # as often as a device likes

    assert pixels(machine, first) == first.PixelData
    lines = [line for line in log(machine, begin).splitlines() if "clinicops: conflict: " in line]
    assert len(lines) == 2
    sender = "US1" if way == "C-STORE" else "an application"
    told = f"study {first.StudyInstanceUID} (accession {json.dumps(first.AccessionNumber)}) from {json.dumps(sender)}"
    assert f"{told}: image {first.SOPInstanceUID} differs" in lines[0]
    kept = must(machine, f"cd {STORAGE}; ls .conflicts/{identifier(machine, first)}-*.dcm").split()
    assert len(kept) == 1
    assert kept[0] in lines[0]
    script = "import sys; sys.exit(open(sys.argv[1], 'rb').read().count(sys.stdin.buffer.read()) != 1)"
    must(machine, f'python3 -c "{script}" {STORAGE}/{kept[0]}', bytes(second.PixelData))


def test_the_same_image_is_no_conflict(machine: str) -> None:
    """Neither over another way nor in another transfer syntax."""
    one = image("SAME")
    dicom(machine, one)
    begin = now(machine)
    dicom(machine, one)
    over_stow(machine, one)
    over_rest(machine, one)
    implicit = pydicom.dcmread(io.BytesIO(packed(one)))
    implicit.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    over_rest(machine, implicit)
    dicom(machine, implicit)
    assert "clinicops:" not in log(machine, begin)
    assert pixels(machine, one) == one.PixelData


def test_many_at_once_are_neither_lost_nor_untold(machine: str) -> None:
    """Four associations: the same new images on all of them, one of which sends others under the same UIDs."""
    images = [image(f"ONCE{number:02}") for number in range(20)]
    others = [altered(one) for one in images]
    old = [image(f"AGAIN{number:02}") for number in range(10)]
    dicom(machine, *old)
    for one in old[:5]:
        must(machine, f"rm {path(machine, one)}")
    restart(machine)
    begin = now(machine)
    plans = [("US1", [*images, *old]), ("US2", [*old, *images]), ("US1", [*old[::-1], *images[::-1]]), ("US2", others)]
    with concurrent.futures.ThreadPoolExecutor(len(plans)) as pool:
        answers = [*pool.map(lambda plan: sent(machine, plan[0], *plan[1]), plans)]
    assert {status for answer in answers for status in answer} == {0}
    restart(machine)
    assert [one.AccessionNumber for one in old if pixels(machine, one) != one.PixelData] == []
    said = log(machine, begin)
    for one, other in zip(images, others, strict=True):
        assert pixels(machine, one) in (one.PixelData, other.PixelData)
        assert f"clinicops: conflict: study {one.StudyInstanceUID} " in said


def test_while_the_disk_is_almost_full_nothing_is_touched(machine: str) -> None:
    one = image("FULL")
    dicom(machine, one)
    must(machine, f"truncate --size=1000 {path(machine, one)}")
    restart(machine)
    # the monitor would take the disk guard away, and so would a look that has begun
    must(
        machine, f"systemctl stop orthanc-monitor.timer orthanc-monitor.service && touch {STORAGE}/.orthanc-disk-guard"
    )
    try:
        if sent(machine, "US1", one) == [0]:  # Orthanc 1.13 asks no filter of an image that it has, and it is healed
            assert must(machine, f"stat -c %s {path(machine, one)}").strip() != "1000"
        assert identifier(machine, one)
        assert sent(machine, "US1", image("NEW")) != [0]
    finally:
        must(machine, f"rm {STORAGE}/.orthanc-disk-guard; systemctl start orthanc-monitor.timer")
    dicom(machine, one)
    restart(machine)
    assert pixels(machine, one) == one.PixelData
    wait_for(lambda: rest(machine, "GET", "/changes?last")[0] == 200, "Orthanc answers")


def test_the_monitor_tells_of_a_conflict_with_device_and_study(machine: str) -> None:
    first = image("ALERT")
    dicom(machine, first)
    dicom(machine, altered(first))
    told = f"(us1: study {first.StudyInstanceUID}, accession ALERT: image differs"
    # the journal has the line a moment later
    wait_for(lambda: told in must(machine, "orthanc-monitor look; orthanc-monitor show || true"), "the alert")
