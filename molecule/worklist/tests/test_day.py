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
from worklists import (
    APP,
    US1,
    Item,
    ask,
    command,
    csv,
    day,
    drop,
    empty,
    encode,
    keys,
    names,
    plain,
    settle,
    sftp,
    sh,
)

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


def scan(machine: str, item: pydicom.Dataset, study: str = "", date: str = "") -> None:
    """An image of this patient, as the scanner takes it over from the list, of today or of `date`; some scanners make a
    UID of their own."""
    image = pydicom.dcmread(example())
    image.PatientID, image.PatientName = item.PatientID, item.PatientName
    image.AccessionNumber = item.AccessionNumber
    image.StudyInstanceUID, image.SeriesInstanceUID = study or item.StudyInstanceUID, generate_uid()
    image.StudyDate = date or day()
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


def test_a_treatment_with_one_number_for_all_its_days(machine: str) -> None:
    """Each item is ended by the study of its day, whether the scanner takes over its UID or makes one of its own."""
    run = secrets.token_hex(2)
    head = "PatientID,PatientName,AccessionNumber,ScheduledStationAETitle,ScheduledProcedureStepStartDate\n"
    patients = [f"CYCLE-{run}", f"OWN-UID-{run}"]
    rows = [
        f"{patient},MUSTER^ANNA,C{patient[:9]}{run},US1,{day(ahead)}" for patient in patients for ahead in (0, 2, 4)
    ]
    status, said = command(machine, "create", "--json", "-", stdin=(head + "\n".join(rows) + "\n").encode())
    assert status == 0, said
    # the same rows again are the same items, each with a study of its own
    assert command(machine, "create", "--json", "-", stdin=(head + "\n".join(rows) + "\n").encode()) == (0, said)
    assert len({item.StudyInstanceUID for item in ask(machine)}) == len(rows)

    def days(patient: str) -> list[str]:
        return sorted(
            item.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate
            for item in ask(machine)
            if item.PatientID == patient
        )

    of_today = {item.PatientID: item for item in ask(machine, keys(ScheduledProcedureStepStartDate=day()))}
    scan(machine, of_today[patients[0]])
    scan(machine, of_today[patients[1]], study=generate_uid())
    status, said = sh(machine, "systemctl start orthanc-worklist-tidy.service")
    assert status == 0, said
    assert {patient: days(patient) for patient in patients} == {key: [day(2), day(4)] for key in patients}


def test_an_old_study_ends_no_item(machine: str) -> None:
    """Not one that was there before, nor one of a year ago that is imported today, nor the day before of one study."""
    run = secrets.token_hex(3)
    before, imported = Item(f"BEFORE-{run}"), Item(f"IMPORTED-{run}")
    scan(machine, before.dataset(), study=generate_uid(), date=day(-30))
    status, said = command(machine, "create", "-", stdin=csv([before, imported]))
    assert status == 0, said
    scan(machine, imported.dataset(), study=generate_uid(), date=day(-365))
    first, second = Item(f"STEPS-{run}").dataset(), Item(f"STEPS-{run}", date=day(1)).dataset()
    second.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID = "2"
    drop(machine, [plain("first", encode(first)), plain("second", encode(second))])
    settle(machine)
    scan(machine, first)
    status, said = sh(machine, "systemctl start orthanc-worklist-tidy.service")
    assert status == 0, said
    assert names(machine) == sorted([before.patient, imported.patient, first.PatientID])
    left = {item.PatientID: item.ScheduledProcedureStepSequence[0] for item in ask(machine)}
    assert left[first.PatientID].ScheduledProcedureStepStartDate == day(1)
    # and what is scanned for them does
    for item in (before, imported):
        scan(machine, item.dataset(), study=generate_uid())
    assert sh(machine, "systemctl start orthanc-worklist-tidy.service")[0] == 0
    assert names(machine) == [first.PatientID]


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
