"""What the scanner's operator sees: exactly what was scheduled for the device, in letters that people read."""

from __future__ import annotations

import os
from typing import Any

import pytest
from clients import ADDRESSES, name_of, scu
from pydicom.sequence import Sequence
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import APP, US1, US4, Item, ask, command, csv, day, drop, empty, keys, names, plain, seen, settle

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

LATIN, GREEK, ARABIC, UTF8 = "ISO_IR 100", "ISO_IR 126", "ISO_IR 127", "ISO_IR 192"
JAPANESE, KOREAN = ["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"]
FILES = [
    Item("MUSTER", date=day(0), time="0800"),
    Item("MUELLER", name="MÜLLER^JÜRGEN", date=day(1), sex="M", charset=LATIN, referring="GRÜN^DR"),
    Item("YAMADA", name="Yamada^Tarou=山田^太郎=やまだ^たろう", date=day(1), charset=JAPANESE),
    Item("SUZUKI", name="Suzuki^Hanako=鈴木^花子=すずき^はなこ", date=day(2), charset=UTF8),
    Item("DIONYSIOS", name="Διονυσίου^Μαρία", date=day(2), charset=GREEK, procedure="Άνω κοιλία"),
    Item("QABBANI", name="قباني^لنزار", date=day(3), charset=ARABIC),
    Item("OTHER", name="MUSTER^BERTA", station="US4", date=day(0)),
    Item("SHARED", name="BEIDE^GERÄTE", date=day(4), more=("US4",), charset=LATIN),
]
# of the clinic's spreadsheet, which is in UTF-8
ROWS = [
    Item("TANAKA", name="Tanaka^Ichiro=田中^一郎", date=day(3)),
    Item("PAPADOPOULOS", name="Παπαδοπούλου^Ελένη", station="US4", date=day(1)),
]
FOR_US1 = {item.patient: item for item in [*FILES, *ROWS] if item.station == "US1"}
FOR_US4 = {item.patient: item for item in [*FILES, *ROWS] if item.station == "US4" or item.more}
EVERYBODY = sorted(FOR_US1)

TIMES: list[tuple[str, list[str]]] = [
    *((times, ["MUSTER"]) for times in ("080000", "080000-170000", "075959-080000", "000000-", "0800-", "08-09")),
    *((times, ["MUSTER"]) for times in ("0800", "08")),
    *((times, ["MUSTER"]) for times in ("-0800", "-08", "-080000", "0800-0800", "000000-235959", "080000.000-080000")),
    *((times, []) for times in ("080001-170000", "0801-", "09-17", "-0759", "-07", "-075959", "083000", "0801", "07")),
]
# a query's keys: the patients in the answers
QUERIES: list[tuple[dict[str, Any], list[str]]] = [
    ({"ScheduledStationAETitle": "US1"}, EVERYBODY),
    # Orthanc puts the device's own title in: nobody sees the list of another one
    ({"ScheduledStationAETitle": "US4"}, EVERYBODY),
    ({"Modality": "US", "ScheduledStationAETitle": "US1", "ScheduledProcedureStepStartDate": day()}, ["MUSTER"]),
    ({"Modality": "CT"}, []),
    ({"ScheduledProcedureStepStartDate": f"{day(1)}-{day(2)}"}, ["DIONYSIOS", "MUELLER", "SUZUKI", "YAMADA"]),
    ({"ScheduledProcedureStepStartDate": f"-{day(0)}"}, ["MUSTER"]),
    ({"ScheduledProcedureStepStartDate": f"{day(3)}-"}, ["QABBANI", "SHARED", "TANAKA"]),
    ({"ScheduledProcedureStepStartDate": day(9)}, []),
    # the application wrote 0800 for MUSTER, and 0830 for everybody else
    *(
        ({"ScheduledProcedureStepStartTime": times, "ScheduledProcedureStepStartDate": day()}, patients)
        for times, patients in TIMES
    ),
    ({"PatientName": "MUS*"}, ["MUSTER"]),
    ({"PatientName": "M?STER^*"}, ["MUSTER"]),
    ({"PatientName": "*Tarou*"}, ["YAMADA"]),
    ({"PatientName": "MÜL*", "charset": LATIN}, ["MUELLER"]),
    ({"PatientName": "MÜL*", "charset": UTF8}, ["MUELLER"]),
    ({"PatientName": "*山田*", "charset": UTF8}, ["YAMADA"]),
    ({"PatientName": "*鈴木*", "charset": JAPANESE}, ["SUZUKI"]),
    ({"charset": JAPANESE}, EVERYBODY),
    ({"charset": KOREAN}, EVERYBODY),
    ({"PatientName": "Διον*", "charset": GREEK}, ["DIONYSIOS"]),
    ({"PatientName": "Διον*", "charset": UTF8}, ["DIONYSIOS"]),
    ({"PatientName": "قباني*", "charset": ARABIC}, ["QABBANI"]),
    ({"PatientID": "TANAKA"}, ["TANAKA"]),
    ({"AccessionNumber": "AMUSTER"}, ["MUSTER"]),
    ({"PatientID": "OTHER"}, []),
]


@pytest.fixture(scope="module")
def machine(host: Host) -> str:
    name = name_of(host)
    empty(name)
    drop(name, [plain(item.patient, item.file()) for item in FILES])
    status, said = command(name, "create", "-", stdin=csv(ROWS, ";"))
    assert status == 0, said
    settle(name)
    return name


@pytest.mark.parametrize(("scanner", "aet", "items"), [(US1, "US1", FOR_US1), (US4, "US4", FOR_US4)])
def test_each_device_sees_its_own_list_field_by_field(
    machine: str, scanner: str, aet: str, items: dict[str, Item]
) -> None:
    answers = ask(machine, scanner=scanner, aet=aet)
    found = {answer.PatientID: seen(answer) for answer in answers}
    assert found == {patient: item.answer() for patient, item in items.items()}
    assert len(answers) == len(items)


@pytest.mark.parametrize(("wanted", "patients"), QUERIES)
def test_a_query_gives_what_it_asks_for(machine: str, wanted: dict[str, Any], patients: list[str]) -> None:
    assert names(machine, keys(**wanted)) == patients


def test_a_sequence_of_no_items_asks_for_everything(machine: str) -> None:
    query = keys()
    query.ScheduledProcedureStepSequence = Sequence([])
    assert names(machine, query) == EVERYBODY


def test_a_device_without_the_right_gets_no_list(machine: str) -> None:
    address = ADDRESSES[machine][0]
    assert scu(APP, "echoscu", "ARCHIVE", address)[0] == 0  # it is let in
    asked = ["-W", "-k", "PatientName", "-k", "PatientID"]
    _status, said = scu(APP, "findscu", "ARCHIVE", address, *asked)
    assert "Success" not in said
    assert "MUSTER" not in said
    _status, said = scu(US1, "findscu", "US1", address, *asked)
    assert "MUSTER" in said
