# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a clinic's spreadsheet into rows of text: CSV and text as Excel saves them, .xlsx, or JSON.

Nothing is guessed: an ambiguous value is refused, with its row and the remedy.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
import warnings
import zipfile
from collections import Counter
from datetime import datetime, time
from typing import Any

from ..core import words

COLUMNS = {
    "PatientID": True,
    "PatientName": True,
    "ScheduledStationAETitle": True,
    "ScheduledProcedureStepStartDate": True,
    "ScheduledProcedureStepStartTime": False,
    "Modality": False,
    "AccessionNumber": False,
    "StudyInstanceUID": False,
    "PatientBirthDate": False,
    "PatientSex": False,
    "ReferringPhysicianName": False,
    "RequestedProcedureDescription": False,
}
MAX_BYTES = 32 << 20  # of a file; five thousand rows take one or two megabytes
MAX_UNPACKED = 256 << 20  # of an .xlsx file, which is a zip archive
MAX_ROWS = 100_000
MAX_CELLS = 2_000_000  # of all sheets; cells after a row's last value do not count
MAX_FILLED = 10_000_000  # of a sheet, empty ones included: some seconds
LAST_ROW = 1_048_576  # Excel's limit
# text with the year after day and month, which Excel would have turned into a date under the same regional settings
SWAPPABLE = re.compile(r"\d{1,2}([-/]) ?\d{1,2}\1 ?\d{2,4}\b", re.ASCII)
# the parts of a number format: literal text, in four notations, and digit placeholders; colours, locales and padding
# are neither
FORMAT_PART = re.compile(
    r'"([^"]*)"|\\(.)|\[\$([^]-]*)[^]]*\]|(\[[<>=][^]]*\]|General|E[-+]|[0#?.,%@;/])|\[[^]]*\]|[_*].|(.)', re.I | re.S
)

Cells = dict[int, list[str]]  # by the row number that the spreadsheet shows


class DateCell(str):
    """The text of a cell that is a date."""


class BareNumber(str):
    """The digits of a number to which Excel adds text by a number format that this module does not render."""


class Unreadable(Exception):
    """The problems of a file: sentences, each with its remedy."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def read_rows(data: bytes, name: str, encoding: str = "", sheet: str = "") -> dict[int, dict[str, str]]:
    """The rows that are not empty, by row number, each with its text by DICOM keyword. Raises Unreadable.

    Row numbers are those that Excel shows, with the column names in row 1; JSON objects are counted from 1.
    """
    if len(data) > MAX_BYTES:
        size = words.say_size(MAX_BYTES)
        raise Unreadable(f"{name} is larger than {size}. Remedy: import a week or a month at a time.")
    if data.startswith(b"\xd0\xcf\x11\xe0"):  # Microsoft's compound file
        what = f"{name} is an old Excel workbook (.xls), or has a password"
        raise Unreadable(f"{what}. Remedy: save it as .xlsx without a password, or as 'CSV UTF-8'.")
    if data.startswith(b"PK\3\4"):
        return name_cells(read_workbook(data, name, sheet))
    if sheet:
        raise Unreadable(f"{name} has no sheets. Remedy: leave out --sheet, or give an .xlsx file.")
    text = decode(data, name, encoding)
    start = text.lstrip()[:1]
    if start == "<":
        raise Unreadable(f"{name} is HTML or XML. Remedy: open it in Excel and save it as .xlsx or 'CSV UTF-8'.")
    return read_json(text, name) if start and start in "{[" else name_cells(read_csv(text, name))


# --- text --------------------------------------------------------------------------------------
def decode(data: bytes, name: str, encoding: str) -> str:
    """The text of a file. Raises Unreadable if neither the file nor `encoding` says how to decode it."""
    if data.startswith(b"\xef\xbb\xbf"):
        encoding = "utf-8-sig"
    elif data.startswith((b"\xff\xfe", b"\xfe\xff")):  # Excel's 'Unicode Text'
        encoding = "utf-16"
    elif not encoding and b"\0" in data[:2]:
        encoding = "utf-16-be" if data.startswith(b"\0") else "utf-16-le"
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
    if encoding:
        raise Unreadable(f"Row {row} of {name} is not in {encoding}. Remedy: save the file as .xlsx or 'CSV UTF-8'.")
    remedy = (
        "Remedy: save the file as .xlsx or 'CSV UTF-8', or add --encoding cp1252 if Excel saved it as CSV in Western"
    )
    raise Unreadable(f"Row {row} of {name} is not in UTF-8, and its encoding is unknown. {remedy} Europe or America.")


def read_csv(text: str, name: str) -> Cells:
    """The cells of each row. The separator is the comma, semicolon or tab that is most frequent in the first row."""
    text = re.sub(r"^sep=.\s+", "", text)  # a line that Excel writes and does not show as a row
    first = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
        # some programs write ="0815" to keep Excel from turning text into a number
        return {number: [re.sub(r'^="(.*)"$', r"\1", cell) for cell in line] for number, line in enumerate(lines, 1)}
    except csv.Error as error:
        remedy = "Remedy: look for an unclosed quotation mark"
        raise Unreadable(f"{name} cannot be read as CSV: {error}. {remedy}.") from None


def read_json(text: str, name: str) -> dict[int, dict[str, str]]:
    """The objects of a JSON list, or a single object."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{name} is not JSON: {error}. Remedy: correct it.") from None
    rows = dict(enumerate(content if isinstance(content, list) else [content], 1))
    rows = {number: row for number, row in rows.items() if not isinstance(row, dict) or any(row.values())}
    problems = []
    for number, row in rows.items():
        if not isinstance(row, dict):
            raise Unreadable(f"Row {number} is not an object. Remedy: write a list of objects.")
        for column, value in row.items():
            if not isinstance(value, (str, int, type(None))):
                problems.append(f"Row {number}: {column} is not text. Remedy: write it in quotes.")
        problems += find_column_problems(list(row))
    problems = problems or find_emptiness(rows)
    if problems:
        raise Unreadable(*dict.fromkeys(problems))
    texts = {number: {column: "" if value is None else str(value) for column, value in row.items()}
             for number, row in rows.items()}  # fmt: skip
    return {number: {column: value.strip() for column, value in row.items()} for number, row in texts.items()}


def name_cells(cells: Cells) -> dict[int, dict[str, str]]:
    """The rows below the first, by the column names in the first."""
    filled = {number: [cell.strip() for cell in row] for number, row in cells.items() if any(map(str.strip, row))}
    head, *_unused = filled.items() or [(0, [])]
    columns = head[1]
    rows = {number: row for number, row in filled.items() if number != head[0]}
    # a spreadsheet may add columns without name and content
    width = max([number for number, column in enumerate(columns, 1) if column], default=0)
    problems = find_column_problems([column for column in columns if column]) if columns else []
    for number, row in {} if problems else rows.items():
        if any(cell and (at >= width or not columns[at]) for at, cell in enumerate(row)):
            what = f"Row {number} has a value in a column without a name"
            remedy = "Remedy: put a value that contains the separator, such as Müller, Anna, in quotation marks"
            problems.append(f"{what}. {remedy}, or name the column.")
    problems = problems or find_emptiness(rows)
    if problems:
        raise Unreadable(*problems)
    return {
        number: {column: row[at] if at < len(row) else "" for at, column in enumerate(columns) if column}
        for number, row in rows.items()
    }


def find_column_problems(columns: list[str]) -> list[str]:
    """The problems of the column names: unknown, duplicate and missing ones."""
    problems = []
    for column, times in Counter(columns).items():
        if column not in COLUMNS:
            folded = {known.lower(): known for known in COLUMNS}  # MODALITY is Modality
            near = difflib.get_close_matches(column.lower(), folded, 1, 0.3)
            remedy = f"did you mean {folded[near[0]]}?" if near else f"use one of {', '.join(COLUMNS)}."
            problems.append(f"Column {column!a} is unknown. Remedy: {remedy}")
        elif times > 1:
            problems.append(f"Column {column} appears {times} times. Remedy: keep one of them.")
    missing = [column for column, needed in COLUMNS.items() if needed and column not in columns]
    return problems + [f"Column {column} is missing. Remedy: add it." for column in missing]


def find_emptiness(rows: dict[int, Any]) -> list[str]:
    """The problem of a file without rows."""
    remedy = "write the column names in row 1, then one row for each item"
    return [] if rows else [f"The file has no rows. Remedy: {remedy}."]


# --- .xlsx -------------------------------------------------------------------------------------
def read_workbook(data: bytes, name: str, sheet: str) -> Cells:
    """The cells of the sheet that has the columns of a worklist, as Excel shows them. Raises Unreadable."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {part.filename: part.file_size for part in archive.infolist()}
    except zipfile.BadZipFile:
        raise Unreadable(f"{name} is cut off or is not an .xlsx file. Remedy: save it again.") from None
    if "xl/workbook.xml" not in parts:  # .ods, .xlsb, a zipped folder
        raise Unreadable(f"{name} is not an .xlsx file. Remedy: save it in Excel as .xlsx or 'CSV UTF-8'.")
    if sum(parts.values()) > MAX_UNPACKED:
        size = words.say_size(MAX_UNPACKED)
        raise Unreadable(f"{name} has more than {size}. Remedy: delete the sheets that are not needed.")
    try:
        import openpyxl
    except ImportError:
        raise Unreadable("The package python3-openpyxl is missing. Remedy: deploy again, or save as CSV.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about drop-down lists and the like, which openpyxl ignores
            # read the results of formulas, as Excel saved them
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets: dict[str, Cells] = {}
            for one in book.worksheets:
                if one.sheet_state == "visible":
                    filled = sum(len(row) for cells in sheets.values() for row in cells.values())
                    sheets[one.title] = read_sheet(one, MAX_CELLS - filled)
    except Unreadable:
        raise
    except Exception as error:  # a broken file can make a parser raise anything
        what = f"{type(error).__name__} {str(error)[:200]!a}"
        raise Unreadable(f"{name} cannot be read: {what}. Remedy: save it again in Excel.") from None
    chosen = sheets[choose_sheet(sheets, name, sheet)]
    if problems := find_cell_problems(chosen):
        raise Unreadable(*problems)
    return chosen


def choose_sheet(sheets: dict[str, Cells], name: str, wanted: str) -> str:
    """The title of the wanted sheet, or of the only one that can be a patient list."""
    titles = ", ".join(repr(title) for title in sheets)
    if wanted:
        if wanted not in sheets:
            raise Unreadable(f"{name} has no visible sheet {wanted!r}. Remedy: --sheet with one of {titles}.")
        return wanted
    filled = [title for title, cells in sheets.items() if cells]
    fit = [title for title in filled if "PatientID" in map(str.strip, next(iter(sheets[title].values())))]
    if len(fit) > 1:
        raise Unreadable(f"Several sheets of {name} are patient lists. Remedy: --sheet with one of {titles}.")
    if not filled:
        raise Unreadable(*find_emptiness({}))
    return (fit or filled)[0]


def find_cell_problems(cells: Cells) -> list[str]:
    """Numbers that differ from what Excel shows, and date columns of which Excel converted only a part."""
    head, *rows = [(number, row) for number, row in cells.items() if any(map(str.strip, row))] or [(0, [])]
    problems = []
    for at, column in enumerate(map(str.strip, head[1])):
        values = {number: row[at] for number, row in rows if at < len(row)}
        remedy = "Remedy: format the column as text, and enter the value as Excel shows it"
        bare = [number for number, value in values.items() if isinstance(value, BareNumber) and column]
        problems += [f"Row {number}: {column} has a number format that adds text to the number. {remedy}."
                     for number in bare]  # fmt: skip
        dates = [number for number, value in values.items() if isinstance(value, DateCell)]
        texts = [number for number, value in values.items() if SWAPPABLE.match(value.strip())]
        if column.endswith("Date") and dates and texts:
            what = f"{column} is a date in {list_rows(dates)} and text with the year last in {list_rows(texts)}"
            why = "Excel may have swapped day and month in the dates, for example 01/12 to 12 January"
            remedy = "Remedy: copy the dates from their source again as YYYY-MM-DD"
            problems.append(f"{what}: {why}. {remedy}.")
    return problems


def list_rows(numbers: list[int]) -> str:
    """The row numbers as text, at most ten of them."""
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:10]))}{more}"


def read_sheet(sheet: Any, limit: int) -> Cells:
    """The rows that are not empty, up to their last value. `limit` is the number of cells that may be read."""
    sheet.reset_dimensions()  # some programs write wrong dimensions
    found: Cells = {}
    filled = 0
    for number, row in enumerate(sheet.iter_rows(), 1):
        filled += len(row)  # openpyxl pads a row up to its last cell, whichever column that is in
        if filled > MAX_FILLED:
            what = f"Sheet {sheet.title!r} has too many cells without a value"
            raise Unreadable(f"{what}. Remedy: copy only the list into a new workbook.")
        cells = [show_cell(cell) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            found[number] = cells
            limit -= len(cells)
        if number > LAST_ROW or limit < 0:
            what = f"more than {LAST_ROW} rows" if number > LAST_ROW else f"too many cells: over {MAX_CELLS} in total"
            raise Unreadable(f"Sheet {sheet.title!r} has {what}. Remedy: copy only the list into a new workbook.")
        if len(found) > MAX_ROWS:
            raise Unreadable(f"Sheet {sheet.title!r} has more than {MAX_ROWS} rows. Remedy: import a month at a time.")
    return found


def show_cell(cell: Any) -> str:
    """The text of a cell as Excel shows it; dates as YYYY-MM-DD and times as HH:MM:SS, whatever Excel's language."""
    value = cell.value
    if value is None:
        return ""
    code = str(cell.number_format)
    if isinstance(value, datetime):
        shown = re.sub(r'\[[^]]*\]|"[^"]*"|\\.|_.', "", code).lower()
        day = f"{value:%Y-%m-%d}" if re.search("[yd]", shown) else ""
        written = f"{day} {value:%H:%M:%S}".strip() if "h" in shown or not day else day
        return DateCell(written) if day else written
    if isinstance(value, time):
        return f"{value:%H:%M:%S}"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return show_number(value, code) if isinstance(value, (int, float)) else str(value)


def show_number(value: float, code: str) -> str:
    """The number as Excel shows it in a format of zeros and text; otherwise its digits, marked if text is added."""
    first = re.match(r'(?:"[^"]*"|\\.|[_*].|[^;])*', code, re.DOTALL)  # the part for numbers above zero
    # with conditions, any part may apply
    section = code if re.search(r"\[[<>=]", code) or not first else first[0]
    parts = [(one[1] or one[2] or one[3] or one[5] or "", one[4] or "") for one in FORMAT_PART.finditer(section)]
    places = "".join(place for _text, place in parts)
    if isinstance(value, int) and value >= 0 and re.fullmatch("0+", places):
        digits = f"{value:0{len(places)}}"
        first_place = len(digits) - len(places) + 1  # digits without a placeholder belong to the first one
        filling = iter([digits[:first_place], *digits[first_place:]])
        return "".join(next(filling) if place else text for text, place in parts)
    digits = format_number(value)
    # a single space separates thousands, and a slash makes a fraction
    return BareNumber(digits) if "/" in places or any(text.strip() for text, _place in parts) else digits


def format_number(value: float) -> str:
    """The digits of a number; in scientific notation beyond the 15 digits that Excel keeps."""
    return f"{value:.5E}" if abs(value) >= 1e15 else str(value)
