# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Converts a row of a clinic's spreadsheet to DICOM formats: dates, times and names as Excel saves them in any country.

An ambiguous value is refused. No message contains a patient's name or birth date.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import date

DAY_FIRST, MONTH_FIRST = "dmy", "mdy"
DAY, BIRTH = "ScheduledProcedureStepStartDate", "PatientBirthDate"
DATES = {DAY, BIRTH}
NUMBERS = {"PatientID", "AccessionNumber"}  # text that Excel may take for numbers
NAMES = {"PatientName", "ReferringPhysicianName"}
LONG = {*NAMES, "RequestedProcedureDescription"}  # the lengths of the others are checked in every item
MAX_LETTERS = 64  # of a description, and of each component group of a name (PS3.5, section 6.2)
# errors that Excel shows instead of a result: #REF!, #¡REF!, #NAME?, #DIV/0!; #N/A, which in other languages is #N/D,
# #I/T or a word; ##### is a column that is too narrow
NO_RESULT = re.compile(
    r"#([^\W\d]/[^\W\d]|NV|YOK|SAKNAS|PUUTTUU|HIÁNYZIK|NENÍ_K_DISPOZICI|[¡¿]?[^\W1-9]*(/0)?[!?]|#{2,})", re.IGNORECASE
)


class Unclear(Exception):
    """What is wrong with a value: the rest of a sentence that begins with the keyword, with the remedy."""


def read_row(row: dict[str, str], order: str = "") -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Each value in DICOM format; the problems of the others by keyword; the date orders that its dates prove.

    `order` is dmy or mdy if --date-order was given."""
    values, problems, orders = dict[str, str](), dict[str, str](), set[str]()
    for keyword, text in row.items():
        try:
            values[keyword] = read_value(keyword, text, order)
        except Unclear as unclear:
            values[keyword], problems[keyword] = text, f"{keyword} {unclear}"
        else:
            if keyword in DATES:
                orders |= {sign for sign, _day in find_days(text)} if len(find_days(text)) == 1 else set()
    born, day = (values.get(keyword, "") for keyword in (BIRTH, DAY))
    if born > day > "" and not {BIRTH, DAY} & problems.keys():
        problems[BIRTH] = f"{BIRTH} is later than {DAY}. Remedy: correct the one that is wrong"
    return values, problems, orders


def read_value(keyword: str, text: str, order: str = "") -> str:
    """The value in DICOM format. Raises Unclear."""
    text = unicodedata.normalize("NFC", text).strip()  # macOS writes ü as two characters
    if NO_RESULT.fullmatch(text):
        raise Unclear("is a spreadsheet error. Remedy: correct the formula, or widen the column")
    if is_garbled(text):
        remedy = "Remedy: open the file in its own encoding, correct it and save it as .xlsx or 'CSV UTF-8'"
        raise Unclear(f"has letters that were read with the wrong encoding. {remedy}")
    if not text:
        return ""
    if keyword in DATES:
        return read_day(keyword, text, order)
    if keyword == "ScheduledProcedureStepStartTime":
        return read_time(text)
    if keyword in NUMBERS and re.fullmatch(r"[0-9][.,]?[0-9]*E\+[0-9]+", text, re.IGNORECASE):
        remedy = "Remedy: format the column as text, and enter it again"
        raise Unclear(f"was rounded by the spreadsheet, which treated it as a number. {remedy}")
    text = read_name(keyword, text) if keyword in NAMES else text
    if keyword in LONG and max(map(len, text.split("=") if keyword in NAMES else [text])) > MAX_LETTERS:
        raise Unclear(f"is longer than {MAX_LETTERS} characters, the limit in DICOM. Remedy: shorten it")
    return text


def is_garbled(text: str) -> bool:
    """Whether it is UTF-8 that was decoded as cp1252 or Latin-1, or contains the replacement character."""
    for codec in ("cp1252", "latin-1"):
        try:
            if not text.isascii() and text.encode(codec).decode("utf-8"):
                return True
        except UnicodeError:
            continue
    return "\ufffd" in text


# --- days and times ----------------------------------------------------------------------------
def find_days(text: str) -> list[tuple[str, str]]:
    """The dates that a text with the year at its end can mean, as YYYYMMDD, each with its order."""
    found = re.fullmatch(r"(\d{1,2})([-./]) ?(\d{1,2})\2 ?(\d{4})\.?", strip_midnight(text), re.ASCII)
    if not found:
        return []
    first, sign, second, year = found.groups()
    # with dots the day comes first, in every country that writes dates so
    orders = {DAY_FIRST: (second, first), MONTH_FIRST: (first, second)}
    days = [(order, as_day(year, *orders[order])) for order in orders if order == DAY_FIRST or sign != "."]
    return [(order, day) for order, day in days if day]


def as_day(year: str, month: str, day: str) -> str:
    """YYYYMMDD; empty for a date that does not exist."""
    try:
        return f"{date(int(year), int(month), int(day)):%Y%m%d}"
    except ValueError:
        return ""


def strip_midnight(text: str) -> str:
    """A date without the time 00:00 that some programs add to it."""
    return re.sub(r"[ T](0{1,2}[:.]00([:.]00([.,]0+)?)?|12:00(:00)? AM)$", "", re.sub(r" +", " ", text))


def read_day(keyword: str, text: str, order: str) -> str:
    """The date as YYYYMMDD. Raises Unclear."""
    shown = "" if keyword.startswith("Patient") else f" ({text[:40]!a})"
    text = strip_midnight(text)
    if re.fullmatch(r"\d{8}", text, re.ASCII):
        day = as_day(text[:4], text[4:6], text[6:])
        if not day:
            raise Unclear(f"is not a calendar date{shown}. Remedy: write it as YYYY-MM-DD")
        return day
    if found := re.fullmatch(r"(\d{4})([-./]) ?(\d{1,2})\2 ?(\d{1,2})\.?", text, re.ASCII):
        day = as_day(found[1], found[3], found[4])
        if not day:
            raise Unclear(f"is not a calendar date{shown}. Remedy: write it as YYYY-MM-DD")
        return day
    if re.fullmatch(r"\d{5}([.,]\d+)?", text, re.ASCII):
        raise Unclear(f"is an Excel serial number{shown}. Remedy: format the column as a date")
    if re.fullmatch(r"\d{1,2}[-./ ]+[^-./ ]+[-./ ]+\d{2}\.?", text):
        raise Unclear(f"has a two-digit year{shown}. Remedy: format the column as YYYY-MM-DD")
    if not re.fullmatch(r"(\d{1,2})([-./]) ?(\d{1,2})\2 ?(\d{4})\.?", text, re.ASCII):
        raise Unclear(f"must be a date and nothing else{shown}. Remedy: write it as YYYY-MM-DD")
    days = find_days(text)
    fit = {day for sign, day in days if order in ("", sign)}
    if not fit:
        said = f" with --date-order {order}" if order and days else ""
        raise Unclear(f"is not a calendar date{shown}{said}. Remedy: write it as YYYY-MM-DD")
    if len(fit) > 1:
        remedy = "Remedy: add --date-order dmy or --date-order mdy, or write YYYY-MM-DD"
        raise Unclear(f"is ambiguous: day first or month first{shown}. {remedy}")
    return fit.pop()


def read_time(text: str) -> str:
    """The time as HHMM, or HHMMSS if it has seconds. Raises Unclear."""
    form = r"(\d{1,2})([:.h])(\d{2})(?:[:.](\d{2}))?(?:[.,]0+)? ?(?:([ap])\.? ?m\.?|uhr|h)?"
    found = re.fullmatch(form, text.lower(), re.ASCII)
    digits = re.fullmatch(r"(\d{1,2})()(\d{2})(\d{2})?()(?:\.0+)?", text, re.ASCII)  # 830: Excel drops the leading zero
    if re.fullmatch(r"\d{2}", text, re.ASCII):  # the hour alone, as DICOM has it (PS3.5, VR TM)
        return text
    fraction = re.fullmatch(r"0\.\d{2}", text, re.ASCII)  # of a day, as Excel counts: 0.25 is 06:00
    if fraction or not (found := found or digits):
        raise Unclear(f"must be a time of day and nothing else ({text[:40]!a}). Remedy: write it as HH:MM")
    hour, minute, second, half = int(found[1]), int(found[3]), int(found[4] or 0), found[5]
    if half:
        hour = hour % 12 + 12 * (half == "p") if 1 <= hour <= 12 else 24
    if hour > 23 or minute > 59 or second > 59:
        raise Unclear(f"must be a time of day ({text[:40]!a}). Remedy: write it as HH:MM")
    return f"{hour:02}{minute:02}" + (f"{second:02}" if second else "")


# --- names -------------------------------------------------------------------------------------
def read_name(keyword: str, text: str) -> str:
    """The name as Family^Given (PS3.5, section 6.2.1), also from 'Family, Given'. Raises Unclear."""
    if keyword == "PatientName" and "?" in text:
        remedy = "Remedy: save the file as .xlsx or 'CSV UTF-8', which keep the letters of every language"
        raise Unclear(f"has a question mark, which Excel writes for a letter that plain CSV cannot hold. {remedy}")
    return "=".join(read_spelling(group.strip(), keyword == "PatientName") for group in text.split("="))


def read_spelling(name: str, strict: bool) -> str:
    """One component group of a name: alphabetic, ideographic or phonetic (PS3.5, section 6.2.1.1)."""
    if "^" in name:
        return "^".join(part.strip() for part in name.split("^"))
    parts = [part.strip() for part in re.split("[,\uff0c\u3001]", name)]  # also the Chinese and Japanese commas
    if len(parts) == 2:
        return "^".join(parts) if parts[1] else parts[0]
    if strict and (len(parts) > 2 or re.search(r"\s", name)):
        remedy = "Remedy: write Family^Given, or 'Family, Given' with one comma; only a family name: 'Abu Bakr^'"
        raise Unclear(f"does not say which part is the family name. {remedy}")
    return name


def find_contradictions(orders: dict[int, set[str]]) -> Iterator[str]:
    """Yields a problem if some rows can only have the day first while others can only have the month first."""
    first = {order: min((n for n, found in orders.items() if order in found), default=0) for order in
             (DAY_FIRST, MONTH_FIRST)}  # fmt: skip
    if all(first.values()):
        early, late = sorted(first, key=lambda order: first[order])
        words = {DAY_FIRST: "the day", MONTH_FIRST: "the month"}
        remedy = "Remedy: write YYYY-MM-DD; Excel swaps days and months when it opens a file from another country"
        yield f"Row {first[late]} has {words[late]} first, and row {first[early]} has {words[early]}. {remedy}."
