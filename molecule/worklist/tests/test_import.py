"""The spreadsheet that Excel saved, imported and imported again, as the scanner's list shows it."""

from __future__ import annotations

import os
from datetime import date, time, timedelta

import pytest
from clients import put
from testinfra.utils.ansible_runner import AnsibleRunner
from workbook import Cell, Shown, xlsx
from worklists import QUARANTINE, ask, command, drop, empty, keys, plain, settle, sh, told

HOSTS = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
COLUMNS = ["PatientID", "PatientName", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate"]
COLUMNS += ["ScheduledProcedureStepStartTime", "RequestedProcedureDescription", "AccessionNumber"]
TEXT = """# DICOM Worklist File
# Patient Information
PatientID=P0000001
PatientsName=DOE^JANE
PatientsBirthDate=1985-05-15
PatientsSex=F

# Study Information
StudyInstanceUID=1.2.826.0.1.3680043.8.498.1.1
AccessionNumber=ACC0000001
"""


# Debian 12 has openpyxl 3.0 and pydicom 2.3, Debian 13 openpyxl 3.1 and pydicom 2.4
@pytest.fixture(params=HOSTS)
def machine(request: pytest.FixtureRequest) -> str:
    empty(request.param)
    return str(request.param)


def create(machine: str, data: str | bytes, *options: str, user: str = "root") -> tuple[int, str]:
    return command(
        machine, "create", *options, "-", stdin=data if isinstance(data, bytes) else data.encode(), user=user
    )


def rows(*lines: str, separator: str = ";") -> str:
    return "".join(f"{line}\r\n" for line in [separator.join(COLUMNS), *lines])


def screen(machine: str) -> list[tuple[str, str, str]]:
    """What the operator of US1 sees: patient, day and time."""
    steps = [(item.PatientID, item.ScheduledProcedureStepSequence[0]) for item in ask(machine)]
    return sorted((who, one.ScheduledProcedureStepStartDate, one.ScheduledProcedureStepStartTime) for who, one in steps)


def test_a_moved_appointment_is_on_the_list_once(machine: str) -> None:
    today = date.today()  # once: a test may run past midnight
    german, seen = f"{today:%d.%m.%Y}", f"{today:%Y%m%d}"
    lines = [f"P1;Muster, Anna;US1;{german};08:30;Abdomen;", f"P1;Muster, Anna;US1;{german};08:45;Thyroid;"]
    lines += [f"P2;Muster, Berta;US1;{german};09:00;;A2"]
    status, said = create(machine, rows(*lines))
    assert status == 0, said
    first = {item.RequestedProcedureDescription: item.StudyInstanceUID for item in ask(machine, keys(PatientID="P1"))}
    assert screen(machine) == [("P1", seen, "083000"), ("P1", seen, "084500"), ("P2", seen, "090000")]
    moved = rows(*lines).replace("08:30", "09:30").replace("09:00", "09:00:00")
    for user in ("root", "ris"):
        assert create(machine, moved, user=user)[0] == 0
        settle(machine)
        assert screen(machine) == [("P1", seen, "084500"), ("P1", seen, "093000"), ("P2", seen, "090000")]
    again = {item.RequestedProcedureDescription: item.StudyInstanceUID for item in ask(machine, keys(PatientID="P1"))}
    assert again == first
    # to another station, and off this one's list
    assert create(machine, moved.replace("Anna;US1", "Anna;US4"))[0] == 0
    assert screen(machine) == [("P2", seen, "090000")]
    assert len(ask(machine, scanner="orthanc-us4", aet="US4")) == 2


def test_what_the_file_no_longer_has_is_named_and_goes_when_it_is_said(machine: str) -> None:
    first = date.today()
    second = first + timedelta(days=1)
    today, tomorrow = f"{first:%d.%m.%Y}", f"{second:%d.%m.%Y}"
    before = [f"P{number};Muster, Anna;US1;{today};0{number}:00;Abdomen;" for number in (7, 8, 9)]
    assert create(machine, rows(*before))[0] == 0
    after = rows(before[0], before[1].replace(today, tomorrow))  # P8 is moved, P9 cancelled
    status, said = create(machine, after)
    assert status == 0, said
    assert "2 from earlier imports, not in this file, stay on the list. Remedy" in said
    assert len(screen(machine)) == 4
    assert create(machine, after, "--replace", user="ris")[0] == 2
    status, said = create(machine, after, "--replace")
    assert status == 0, said
    assert screen(machine) == [("P7", f"{first:%Y%m%d}", "070000"), ("P8", f"{second:%Y%m%d}", "080000")]


def test_a_workbook_is_taken_as_excel_saves_it(machine: str) -> None:
    today = date.today()
    seen = f"{today:%Y%m%d}"
    cells: list[list[Cell]] = [
        [4711, "Müller, Anna", "US1", today, time(8, 30), "Schilddrüse", None],
        [Shown(815, "zeros"), "Παπαδοπούλου, Μαρία", "US1", Shown(today, "german day"), Shown(time(14), "12 hours")],
        ["P3", "山田^太郎", "US1", f"{today:%d.%m.%Y}", "3:15 PM"],
    ]
    status, said = create(machine, xlsx({"Tabelle1": [[*COLUMNS], *cells], "Legende": [["US1", "Raum 1"]]}))
    assert status == 0, said
    assert screen(machine) == [("000815", seen, "140000"), ("4711", seen, "083000"), ("P3", seen, "151500")]
    [answer] = ask(machine, keys(PatientID="4711"))
    assert (answer.PatientName.family_name, answer.PatientName.given_name) == ("Müller", "Anna")
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    names = {item.PatientID: str(item.PatientName) for item in ask(machine)}
    assert names == {"4711": "Müller^Anna", "000815": "Παπαδοπούλου^Μαρία", "P3": "山田^太郎"}


@pytest.mark.parametrize(
    ("encoding", "separator", "options"),
    [("utf-16", "\t", []), ("utf-8-sig", ";", []), ("utf-8", ",", []), ("cp1252", ";", ["--encoding", "cp1252"])],
)
def test_text_is_taken_as_excel_saves_it(machine: str, encoding: str, separator: str, options: list[str]) -> None:
    line = separator.join(["P1", '"Müller, Anna"', "US1", f"{date.today()}", "9:00 AM", "Schilddrüse", ""])
    data = rows(line, separator=separator).encode(encoding)
    if options:
        status, said = create(machine, data)
        assert (status, "Row 2 of standard input is not in UTF-8" in said) == (1, True), said
    status, said = create(machine, data, *options)
    assert status == 0, said
    [answer] = ask(machine)
    assert (str(answer.PatientName), answer.RequestedProcedureDescription) == ("Müller^Anna", "Schilddrüse")


def test_what_is_not_clear_is_asked_back_with_its_row(machine: str) -> None:
    next_year = date.today().year + 1
    lines = [f"P1;Muster, Anna;US1;11/28/{next_year};0830;;", f"P2;Anna Muster;US1;01/02/{next_year};0830;;"]
    lines += [f"P3;Muster, Eva;US1;01/03/{next_year};0830;A;", f"P3;Muster, Eva;US1;03/01/{next_year};0930;A;"]
    status, said = create(machine, rows(*lines))
    assert status == 1
    for expected in (
        f"Row 3: ScheduledProcedureStepStartDate is ambiguous: day first or month first ('01/02/{next_year}'). Remedy",
        "Row 3: PatientName does not say which part is the family name. Remedy: ",
        "Row 4: ScheduledProcedureStepStartDate is ambiguous",
        "Nothing was scheduled. Remedy: ",
    ):
        assert expected in said
    assert "Row 2:" not in said
    assert screen(machine) == []
    lines[1] = lines[1].replace("Anna Muster", "Muster, Anna")
    assert create(machine, rows(*lines), "--date-order", "mdy")[0] == 0
    assert screen(machine) == [
        ("P1", f"{next_year}1128", "083000"), ("P2", f"{next_year}0102", "083000"),
        ("P3", f"{next_year}0103", "083000"), ("P3", f"{next_year}0301", "093000"),
    ]  # fmt: skip


def test_a_text_file_is_called_text(machine: str) -> None:
    said = "It is text, not a DICOM file. Remedy: write a DICOM data set"
    put(machine, "/tmp/14-text.wl", TEXT.encode())
    status, output = command(machine, "check", "/tmp/14-text.wl")
    assert (status, said in output) == (1, True), output
    drop(machine, [plain("text", TEXT.encode())])
    told(machine, "settle 300")
    reason = sh(machine, f"cat {QUARANTINE}/*text*.reason")[1]
    assert said in reason
