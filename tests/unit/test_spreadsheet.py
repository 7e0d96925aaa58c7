"""A clinic's spreadsheet: the files that Excel saves in any country, its days, times, numbers and names."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import date, datetime, time
from typing import Any

import pytest
from server.worklist import row, spreadsheet
from workbook import Cell, Result, Shown, xlsx

DAY, TIME = "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"
HEAD = ["PatientID", "PatientName", "ScheduledStationAETitle", DAY, TIME]
INSTANT = datetime(2026, 11, 28, 8, 30)
FIRST = {"PatientID": "0815", "PatientName": "Müller, Anna", "ScheduledStationAETitle": "US1", DAY: "28.11.2026"}
LINES = [HEAD, ["0815", "Müller, Anna", "US1", "28.11.2026", "08:30"], ["4711", "Ωνάση^Αθηνά", "US1", "28.11.2026", ""]]


def text(separator: str, end: str = "\r\n") -> str:
    quoted = [[f'"{cell}"' if separator in cell else cell for cell in line] for line in LINES]
    return "".join(separator.join(line) + end for line in quoted)


def refusal(data: bytes, **how: str) -> str:
    with pytest.raises(spreadsheet.Unreadable) as caught:
        spreadsheet.read_rows(data, "day.csv", **how)
    assert all("Remedy: " in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


# --- files -------------------------------------------------------------------------------------
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"], ids=["windows", "linux", "old mac"])
def test_text_as_excel_saves_it(separator: str, encoding: str, end: str) -> None:
    found = spreadsheet.read_rows(text(separator, end).encode(encoding), "day.csv")
    assert found[2] == {**FIRST, TIME: "08:30"}
    assert found[3]["PatientName"] == "Ωνάση^Αθηνά"


def test_big_endian_with_its_mark() -> None:
    found = spreadsheet.read_rows(b"\xfe\xff" + text("\t").encode("utf-16-be"), "day.txt")
    assert found[2]["PatientName"] == "Müller, Anna"


def test_an_encoding_that_cannot_be_known_is_asked_for() -> None:
    data = text(";").replace("Ωνάση^Αθηνά", "Groß^Eva").encode("cp1252")
    said = refusal(data)
    assert "Row 2 of day.csv is not in UTF-8" in said
    assert "--encoding cp1252" in said
    assert spreadsheet.read_rows(data, "day.csv", encoding="cp1252")[3]["PatientName"] == "Groß^Eva"
    greek = text(";").replace("Müller", "Miller").encode("cp1253")
    assert spreadsheet.read_rows(greek, "day.csv", encoding="cp1253")[3]["PatientName"] == "Ωνάση^Αθηνά"
    # a file that says what it is in is believed
    assert spreadsheet.read_rows(text(";").encode("utf-8-sig"), "x", encoding="cp1252")[3]["PatientName"][0] == "Ω"
    assert "Row 1 of day.csv is not in cp1252" in refusal(b"\x81", encoding="cp1252")


def test_rows_have_the_numbers_that_excel_shows() -> None:
    lines = text(";").split("\r\n")
    data = "\r\n".join(["sep=;", lines[0], "", '"P1";"A^B";"US1\nx";"28.11.2026";""', ";;;;", lines[1]])
    assert sorted(spreadsheet.read_rows(data.encode(), "day.csv")) == [3, 5]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "has no rows"),
        (text(";").partition("\n")[0].encode(), "has no rows"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Excel workbook (.xls), or has a password"),
        (b"<html><table><tr><td>PatientID</td></tr></table>", "HTML or XML"),
        (b"PK\3\4 and no more", "cut off or is not an .xlsx"),
        (text(",").replace('"', "").encode(), "Row 2 has a value in a column without a name"),
        (text(";").replace("PatientName", "PatientID").encode(), "Column PatientID appears 2 times"),
        (text(";").replace("PatientName", "Name").encode(), "Column 'Name' is unknown"),
        (text(";").replace("4711", '"4711').encode(), "cannot be read as CSV"),
    ],
    ids=["empty", "head", "xls", "html", "cut off", "comma in a name", "twice", "unknown", "quotation mark"],
)
def test_what_is_no_list_is_refused(data: bytes, said: str) -> None:
    assert said in refusal(data)


def test_json_is_read_as_before() -> None:
    found = spreadsheet.read_rows(json.dumps([{**FIRST, "PatientID": 815}, {}]).encode(), "day.json")
    assert found == {1: {**FIRST, "PatientID": "815"}}


def test_a_text_in_a_formula_is_the_text() -> None:
    assert spreadsheet.read_rows(text(";").replace("0815", '"=""0815"""').encode(), "x")[2]["PatientID"] == "0815"


# --- .xlsx -------------------------------------------------------------------------------------
def read(*rows: list[Cell], sheet: str = "", **sheets: list[list[Cell]]) -> dict[int, dict[str, str]]:
    return spreadsheet.read_rows(xlsx({"Sheet1": [[*HEAD], *rows], **sheets}), "day.xlsx", sheet=sheet)


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        (["P1", "A^B", "US1", date(2026, 11, 28), time(8, 30)], ["P1", "2026-11-28", "08:30:00"]),
        ([4711, "A^B", "US1", "28.11.2026", "8:30 AM"], ["4711", "28.11.2026", "8:30 AM"]),
        ([4711.0, "A^B", "US1", 20261128, 830], ["4711", "20261128", "830"]),
        ([Shown(815, "zeros"), "A^B", "US1", Shown(date(2026, 11, 28), "german day"), Shown(time(14), "12 hours")],
         ["000815", "2026-11-28", "14:00:00"]),
        # the same instant in both columns, of which each shows its part
        (["P1", "A^B", "US1", Shown(INSTANT, "day"), Shown(INSTANT, "time")], ["P1", "2026-11-28", "08:30:00"]),
        ([Result("A1", "P1"), "A^B", "US1", date(2026, 2, 1), None], ["P1", "2026-02-01", ""]),
        ([123456789012345678, "A^B", "US1", 46354, 0.354166666666667],
         ["1.23457E+17", "46354", "0.354166666666667"]),
        ([Result("A1/0", "#DIV/0!", error=True), "A^B", "US1", date(2026, 2, 1), None], ["#DIV/0!", "2026-02-01", ""]),
    ],
)  # fmt: skip
def test_cells_are_read_as_excel_shows_them(cells: list[Cell], shown: list[str]) -> None:
    [(number, found)] = read([], cells).items()
    assert number == 3
    assert [found["PatientID"], found[DAY], found[TIME]] == shown


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (Shown(815, "letter"), "P0815"),
        (Shown(81512, "letter"), "P81512"),
        (Shown(81512, "escaped hyphen"), "0815-12"),
        (Shown(12345678, "hyphens"), "012-34-5678"),
        (Shown(4711, "french thousands"), "4711"),
    ],
)
def test_a_number_has_the_text_that_its_format_adds(cell: Cell, shown: str) -> None:
    assert read([cell, "A^B", "US1", date(2026, 11, 28), None])[2]["PatientID"] == shown


@pytest.mark.parametrize(
    "cell", [Shown(815, "letter and any"), Shown(815.5, "letter"), Shown(-815, "letter"), Shown(815, "condition")]
)
def test_a_number_whose_format_is_not_known_is_asked_back(cell: Cell) -> None:
    line: list[Cell] = ["A^B", "US1", date(2026, 11, 28), None]
    with pytest.raises(spreadsheet.Unreadable, match=r"^Row 3: PatientID has a number format that adds text .* Remedy"):
        read(["P1", *line], [cell, *line])
    assert read(["P1", *line], Legend=[[cell]])[2]["PatientID"] == "P1"


@pytest.mark.parametrize("text", ["13/12/2026", "13-12-2026", "13/12/26"])
def test_a_column_of_which_excel_took_a_part_for_dates_is_asked_back(text: str) -> None:
    # 01/12/2026, which an American Excel took for 12 January
    lines: list[list[Cell]] = [["P1", "A^B", "US1", date(2026, 1, 12), None], ["P2", "A^B", "US1", text, None]]
    with pytest.raises(spreadsheet.Unreadable, match=r"is a date in row 2 and text with the year last in row 3: .*Rem"):
        read(*lines)
    assert read(lines[1], lines[1])[3][DAY] == text
    assert read(lines[0], [*lines[1][:3], "2026-12-13", None], [*lines[1][:3], "13.12.2026", None])


def test_rows_and_cells_are_bounded(monkeypatch: Any) -> None:
    lines: list[list[Cell]] = [["P1", "A^B", "US1", date(2026, 11, 28), time(8), *[""] * 15] for _number in range(5)]
    monkeypatch.setattr(spreadsheet, "MAX_CELLS", 32)
    assert len(read(*lines, Legend=[["US1", "room 1"]])) == 5
    with pytest.raises(spreadsheet.Unreadable, match=r"'Legend' has too many cells: over 32 in total\. Remedy"):
        read(*lines, Legend=[["US1", "room 1", "door 2"]])
    monkeypatch.setattr(spreadsheet, "LAST_ROW", 5)
    with pytest.raises(spreadsheet.Unreadable, match=r"'Sheet1' has more than 5 rows\. Remedy"):
        read([], [], [], [], lines[0])


def test_cells_without_a_value_are_bounded(monkeypatch: Any) -> None:
    """openpyxl fills each row up to its last cell, which may be empty and in any of 18,278 columns."""
    lines: list[list[Cell]] = [["P1", "A^B", "US1", date(2026, 11, 28), time(8), *[""] * 15] for _number in range(5)]
    monkeypatch.setattr(spreadsheet, "MAX_FILLED", 5 * 20 + 5)
    assert len(read(*lines)) == 5
    with pytest.raises(spreadsheet.Unreadable, match=r"'Sheet1' has too many cells without a value\. Remedy"):
        read(*lines, [*lines[0]])


def test_the_sheet_that_is_a_list_is_taken() -> None:
    cells: list[Cell] = ["P1", "A^B", "US1", date(2026, 11, 28), time(8, 30)]
    other: list[list[Cell]] = [[*HEAD], ["P2", *cells[1:]]]
    assert read(cells, Legend=[["US1", "room 1"]])[2]["PatientID"] == "P1"
    assert read(cells, sheet="Monday", Monday=other)[2]["PatientID"] == "P2"
    with pytest.raises(spreadsheet.Unreadable, match=r"Several sheets .*'Sheet1', 'Monday'"):
        read(cells, Monday=other)
    with pytest.raises(spreadsheet.Unreadable, match="no visible sheet 'Friday'"):
        read(cells, sheet="Friday")
    hidden = xlsx({"Sheet1": [[*HEAD], cells], "Old": other}, hidden=("Old",))
    assert spreadsheet.read_rows(hidden, "day.xlsx")[2]["PatientID"] == "P1"


def packed(**parts: str) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        return file.getvalue()


def test_an_archive_that_is_no_workbook(monkeypatch: Any) -> None:
    assert "not an .xlsx file" in refusal(packed(mimetype="application/vnd.oasis.opendocument.spreadsheet"))
    assert "cannot be read" in refusal(packed(**{"xl/workbook.xml": "<broken"}))
    monkeypatch.setattr(spreadsheet, "MAX_UNPACKED", 1000)
    assert "more than 1.0 kB" in refusal(packed(**{"xl/workbook.xml": "x" * 1001}))
    assert "has no sheets" in refusal(text(";").encode(), sheet="Monday")


# --- values ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "order", "day"),
    [
        ("28.11.2026", "", "20261128"),
        ("1.2.2026", "", "20260201"),
        ("01. 02. 2026", "", "20260201"),
        ("01.02.2026.", "", "20260201"),
        ("28/11/2026", "", "20261128"),
        ("11/28/2026", "", "20261128"),
        ("28-11-2026", "", "20261128"),
        ("05/05/2026", "", "20260505"),
        ("01/02/2026", "dmy", "20260201"),
        ("01/02/2026", "mdy", "20260102"),
        ("2026-11-28", "", "20261128"),
        ("2026/2/1", "mdy", "20260201"),
        ("2026. 11. 28.", "", "20261128"),
        ("20261128", "", "20261128"),
        ("28.11.2026 00:00:00", "", "20261128"),
        ("2026-11-28T00:00", "", "20261128"),
        ("11/28/2026 12:00:00 AM", "", "20261128"),
    ],
)
def test_a_day_in_the_forms_of_all_countries(written: str, order: str, day: str) -> None:
    values, problems, _orders = row.read_row({DAY: written, "PatientBirthDate": written}, order)
    assert (values, problems) == ({DAY: day, "PatientBirthDate": day}, {})


@pytest.mark.parametrize(
    ("written", "order", "said"),
    [
        ("01/02/2026", "", "is ambiguous: day first or month first ('01/02/2026'). Remedy: add --date-order dmy or"),
        ("1-2-2026", "", "is ambiguous: day first or month first"),
        ("28/11/2026", "mdy", "is not a calendar date ('28/11/2026') with --date-order mdy"),
        ("28.11.2026", "mdy", "is not a calendar date ('28.11.2026') with --date-order mdy"),
        ("11.28.2026", "", "is not a calendar date"),
        ("31/31/2026", "", "is not a calendar date"),
        ("2026-02-30", "", "is not a calendar date"),
        ("28112026", "", "is not a calendar date"),
        ("28.11.26", "", "has a two-digit year"),
        ("28-Nov-26", "", "has a two-digit year"),
        ("46354", "", "is an Excel serial number"),
        ("28.11.2026 08:30", "", "must be a date and nothing else"),
        ("20261125-20261126", "", "must be a date and nothing else"),
        ("########", "", "is a spreadsheet error"),
    ],
)
def test_a_day_that_is_not_clear_is_asked_back(written: str, order: str, said: str) -> None:
    _values, problems, _orders = row.read_row({DAY: written, "PatientBirthDate": written}, order)
    assert f"{DAY} {said}" in problems[DAY]
    assert "Remedy: " in problems[DAY]
    assert written not in problems["PatientBirthDate"]  # what is said may be kept


def test_a_birthday_after_the_appointment_is_asked_back() -> None:
    _values, problems, _orders = row.read_row({DAY: "2026-11-28", "PatientBirthDate": "29.11.2026"})
    said = f"PatientBirthDate is later than {DAY}. Remedy: correct the one that is wrong"
    assert problems == {"PatientBirthDate": said}
    assert row.read_row({DAY: "20261128", "PatientBirthDate": "20261128"})[1] == {}
    assert row.read_row({DAY: "tomorrow", "PatientBirthDate": "20261128"})[1].keys() == {DAY}


ERRORS = "#N/A #NV #N/D #N/B #I/T #\u041d/\u0414 #Δ/\u03a5 #YOK #¡REF! #¡DIV/0! #¿NOMBRE? #BEZUG!"
ERRORS += " #ÉRTÉK! #ЗНАЧ! #NÁZEV? #SAYI/0! ###"


@pytest.mark.parametrize("written", ERRORS.split())
def test_an_error_in_any_language_is_no_value(written: str) -> None:
    assert "is a spreadsheet error" in row.read_row({"PatientID": written})[1]["PatientID"]
    assert row.read_row({"PatientID": "#4711"})[1] == {}


def test_one_file_has_one_order() -> None:
    dates = {2: "28/11/2026", 3: "05/05/2026", 4: "2026-11-28", 5: "11/29/2026"}
    orders = {number: row.read_row({DAY: text})[2] for number, text in dates.items()}
    assert [said[:62] for said in row.find_contradictions(orders)] == [
        "Row 5 has the month first, and row 2 has the day. Remedy: writ"
    ]
    del orders[5]
    assert [*row.find_contradictions(orders)] == []


@pytest.mark.parametrize(
    ("written", "time_of_day"),
    [
        ("09:00", "0900"), ("09:00:00", "0900"), ("9:00", "0900"), ("9:00 AM", "0900"), ("9:00:00 a.m.", "0900"),
        ("0900", "0900"), ("090000", "0900"), ("900", "0900"), ("90000", "0900"), ("09.00", "0900"), ("9h00", "0900"),
        ("09:00 Uhr", "0900"), ("09:00:00.000", "0900"), ("09:00:30", "090030"), ("2:15 PM", "1415"),
        ("12:15 AM", "0015"), ("12:15 PM", "1215"), ("09", "09"), ("", ""),
    ],
)  # fmt: skip
def test_one_time_is_one_time(written: str, time_of_day: str) -> None:
    assert row.read_row({TIME: written})[:2] == ({TIME: time_of_day}, {})


@pytest.mark.parametrize(
    "written", ["9", "9.5", "0.35", "0.354166666667", "25:00", "9:60", "13:00 PM", "28.11.2026 09:00"]
)
def test_a_time_that_is_not_clear_is_asked_back(written: str) -> None:
    assert f"{TIME} must be a time of day" in row.read_row({TIME: written})[1][TIME]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Müller, Anna", "Müller^Anna"),
        ("Müller,Anna Maria", "Müller^Anna Maria"),
        ("Mu\u0308ller, Anna", "Müller^Anna"),  # as a Mac writes it
        ("Müller^Anna", "Müller^Anna"),
        (" Müller ^ Anna ", "Müller^Anna"),
        ("Müller,", "Müller"),
        ("Müller", "Müller"),
        ("Abu Bakr^", "Abu Bakr^"),
        ("van der Berg, Jan", "van der Berg^Jan"),
        ("Yamada, Tarou=山田、太郎", "Yamada^Tarou=山田^太郎"),
        ("山田太郎", "山田太郎"),
        ("Παπαδοπούλου, Μαρία", "Παπαδοπούλου^Μαρία"),
    ],
)
def test_a_name_gets_its_parts(written: str, name: str) -> None:
    assert row.read_row({"PatientName": written})[:2] == ({"PatientName": name}, {})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Anna Müller", "does not say which part is the family name"),
        ("山田\u3000太郎", "does not say which part is the family name"),
        ("Müller, Anna, Dr.", "does not say which part is the family name"),
        ("M?ller, Anna", "has a question mark"),
        ("????????????, ?????", "has a question mark"),
        ("MÃ¼ller, Anna", "wrong encoding"),
        ("Ã„rmel, Eva", "wrong encoding"),  # of cp1252, not of Latin-1
        ("M\ufffdller, Anna", "wrong encoding"),
        ("#NAME?", "is a spreadsheet error"),
    ],
)
def test_a_name_that_a_scanner_would_show_wrongly_is_refused(written: str, said: str) -> None:
    problem = row.read_row({"PatientName": written})[1]["PatientName"]
    assert said in problem
    assert "Remedy: " in problem
    assert written not in problem


def test_the_physician_s_name_is_not_that_strict() -> None:
    assert row.read_row({"ReferringPhysicianName": "Dr. Haus"})[0] == {"ReferringPhysicianName": "Dr. Haus"}
    assert row.read_row({"ReferringPhysicianName": "Haus, Gregory"})[0] == {"ReferringPhysicianName": "Haus^Gregory"}


@pytest.mark.parametrize("column", ["PatientID", "AccessionNumber"])
@pytest.mark.parametrize("written", ["1.23457E+17", "1,23457E+17", "1E+15"])
def test_a_number_that_excel_has_rounded_is_refused(column: str, written: str) -> None:
    assert "was rounded by the spreadsheet" in row.read_row({column: written})[1][column]
    assert row.read_row({column: "E17", "PatientSex": "f"})[1] == {}
    # a number of the clinic's; spreadsheets write the sign
    assert row.read_row({column: "12E5"})[:2] == ({column: "12E5"}, {})


@pytest.mark.parametrize("column", ["PatientName", "ReferringPhysicianName", "RequestedProcedureDescription"])
def test_what_is_longer_than_dicom_allows_is_asked_back(column: str) -> None:
    assert row.read_row({column: "Ä" * 64})[1] == {}
    problem = row.read_row({column: "Ä" * 65})[1][column]
    assert problem.startswith(f"{column} is longer than 64 characters, the limit in DICOM. Remedy: ")
    both = row.read_row({column: "Ä" * 64 + "=" + "Ö" * 64})[1]
    assert (column in both) == (column == "RequestedProcedureDescription")
