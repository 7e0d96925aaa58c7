"""An operator's day: scheduled, on the scanner's screen, scanned, and gone from the list."""

from __future__ import annotations

import io
import os
import secrets

import pydicom
import pytest
from clients import ADDRESSES, example, name_of, put, scu, wait_for
from pydicom.uid import generate_uid
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import APP, US1, Item, ask, command, csv, day, drop, empty, names, plain, settle, sftp, sh

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


def scan(machine: str, item: pydicom.Dataset, study: str = "") -> None:
    """An image of this patient, as the scanner takes it over from the list; some scanners make a UID of their own."""
    image = pydicom.dcmread(example())
    image.PatientID, image.PatientName = item.PatientID, item.PatientName
    image.AccessionNumber = item.AccessionNumber
    image.StudyInstanceUID, image.SeriesInstanceUID = study or item.StudyInstanceUID, generate_uid()
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    with io.BytesIO() as buffer:
        image.save_as(buffer)
        put(US1, "/tmp/scanned.dcm", buffer.getvalue())
    status, said = scu(US1, "storescu", "US1", ADDRESSES[machine][0], "-xe", "/tmp/scanned.dcm")
    assert status == 0, said


@pytest.fixture
def machine(host: Host) -> str:
    name = name_of(host)
    empty(name)
    return name


def test_a_day_from_the_spreadsheet_to_the_image(machine: str) -> None:
    run = secrets.token_hex(3)  # Orthanc has the studies of earlier runs
    scanned, stays, own, other = (Item(f"{name}-{run}") for name in ("SCANNED", "STAYS", "OWN-UID", "OTHER-SCANNER"))
    other.station = "US4"
    late, past = Item(f"LATE-{run}", date=day(-7)), Item(f"PAST-{run}", date=day(-8))
    status, said = command(machine, "create", "-", stdin=csv([scanned, stays, other, late]))
    assert status == 0, said
    drop(machine, [plain("past", past.file())])
    put(APP, "/tmp/day.wl", own.file())
    status, said = sftp(machine, "put /tmp/day.wl day.part", "rename day.part day.wl")
    assert status == 0, said
    settle(machine)

    screen = {item.PatientID: item for item in ask(machine)}
    assert {scanned.patient, stays.patient, own.patient, late.patient} <= set(screen)
    assert screen[scanned.patient].StudyInstanceUID == scanned.study
    scan(machine, screen[scanned.patient])
    scan(machine, screen[own.patient], study=generate_uid())
    # the accession number alone is not the item: another patient has it, too
    somebody = screen[stays.patient]
    somebody.PatientID = f"SOMEBODY-{run}"
    scan(machine, somebody, study=generate_uid())

    status, said = sh(machine, "systemctl start orthanc-worklist-tidy.service")
    assert status == 0, said
    assert names(machine) == sorted([stays.patient, late.patient])
    assert names(machine, scanner="orthanc-us4", aet="US4") == [other.patient]
    status, said = command(machine, "list")
    assert status == 0
    assert scanned.accession not in said
    assert stays.accession in said


def test_without_orthanc_nothing_is_taken_off_the_list(machine: str) -> None:
    item = Item(f"KEPT-{secrets.token_hex(3)}")
    assert command(machine, "create", "-", stdin=csv([item]))[0] == 0
    scan(machine, ask(machine)[0])
    sh(machine, "systemctl stop orthanc-worklist-tidy.timer orthanc")
    assert sh(machine, "systemctl start orthanc-worklist-tidy.service")[0] != 0
    assert item.accession in command(machine, "list")[1]
    sh(machine, "systemctl start orthanc orthanc-worklist-tidy.timer")
    wait_for(lambda: scu(US1, "echoscu", "US1", ADDRESSES[machine][0])[0] == 0, "Orthanc")
    assert sh(machine, "systemctl start orthanc-worklist-tidy.service")[0] == 0
    assert names(machine) == []


@pytest.mark.campaign
def test_it_goes_by_itself_within_two_minutes(machine: str) -> None:
    item = Item(f"TIMER-{secrets.token_hex(3)}")
    assert command(machine, "create", "-", stdin=csv([item]))[0] == 0
    scan(machine, ask(machine)[0])
    wait_for(lambda: names(machine) == [], "the timer", 120)
