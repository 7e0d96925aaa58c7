"""An .xlsx file as Excel saves it: shared strings, days and times as numbers with a format."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from datetime import date, datetime, time
from xml.sax.saxutils import escape

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
# numFmtId: general, Excel's own short day and h:mm, and those of a clinic
STYLES = {"general": 0, "day": 14, "time": 20, "german day": 164, "zeros": 165, "12 hours": 166, "letter": 167}
STYLES |= {"escaped hyphen": 168, "hyphens": 169, "letter and any": 170, "french thousands": 171, "condition": 172}
FORMATS = {164: "[$-407]dddd\\,\\ d/\\ mmmm\\ yyyy;@", 165: "000000", 166: "[$-409]h:mm\\ AM/PM;@", 167: '"P"0000'}
FORMATS |= {168: "0000\\-00;@", 169: "000-00-0000", 170: '"P"#', 171: "#\\ ##0", 172: '[<100]000;"P"000'}


@dataclass(frozen=True)
class Shown:
    """A value in a format of STYLES."""

    value: float | date | time
    style: str


@dataclass(frozen=True)
class Result:
    """A formula with the result that Excel saved, which may be an error."""

    formula: str
    result: str
    error: bool = False


Cell = str | int | float | date | time | Shown | Result | None


def count_days(value: float | date | time) -> float:
    """As Excel counts, from the last day but one of 1899."""
    if isinstance(value, datetime):
        return (value - datetime(1899, 12, 30)).total_seconds() / 86400
    if isinstance(value, date):
        return (value - date(1899, 12, 30)).days
    if isinstance(value, time):
        return (value.hour * 3600 + value.minute * 60 + value.second) / 86400
    return value


def write_cell(place: str, cell: Cell, strings: list[str]) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Result):
        kind = "e" if cell.error else "str"
        return f'<c r="{place}" t="{kind}"><f>{escape(cell.formula)}</f><v>{escape(cell.result)}</v></c>'
    if isinstance(cell, str):
        strings.append(cell)
        return f'<c r="{place}" t="s"><v>{len(strings) - 1}</v></c>'
    if isinstance(cell, (date, time)):
        cell = Shown(cell, "time" if isinstance(cell, time) else "day")
    style = list(STYLES).index(cell.style) if isinstance(cell, Shown) else 0
    value = count_days(cell.value if isinstance(cell, Shown) else cell)
    return f'<c r="{place}" s="{style}"><v>{value!r}</v></c>'


def write_sheet(rows: list[list[Cell]], strings: list[str]) -> str:
    lines = [
        f'<row r="{number}">'
        + "".join(write_cell(f"{chr(65 + at)}{number}", cell, strings) for at, cell in enumerate(row))
        + "</row>"
        for number, row in enumerate(rows, 1)
        if row  # Excel leaves out empty rows
    ]
    return f'{HEAD}<worksheet xmlns="{MAIN}"><dimension ref="A1"/><sheetData>{"".join(lines)}</sheetData></worksheet>'


def xlsx(sheets: dict[str, list[list[Cell]]], hidden: tuple[str, ...] = ()) -> bytes:
    strings: list[str] = []
    parts = {f"xl/worksheets/sheet{at}.xml": write_sheet(rows, strings) for at, rows in enumerate(sheets.values(), 1)}
    states = {title: "hidden" if title in hidden else "visible" for title in sheets}
    titles = "".join(
        f'<sheet name="{escape(title)}" sheetId="{at}" state="{states[title]}" r:id="rId{at}"/>'
        for at, title in enumerate(sheets, 1)
    )
    parts["xl/workbook.xml"] = f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{titles}</sheets></workbook>'
    shared = "".join(f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in strings)
    parts["xl/sharedStrings.xml"] = f'<sst xmlns="{MAIN}" count="{len(strings)}">{shared}</sst>'
    formats = "".join(
        f'<numFmt numFmtId="{number}" formatCode="{escape(code, {chr(34): "&quot;"})}"/>'
        for number, code in FORMATS.items()
    )
    cells = "".join(f'<xf numFmtId="{number}" fontId="0" fillId="0" borderId="0"/>' for number in STYLES.values())
    parts["xl/styles.xml"] = (
        f'<styleSheet xmlns="{MAIN}"><numFmts>{formats}</numFmts><fonts><font><sz val="11"/></font></fonts>'
        '<fills><fill><patternFill patternType="none"/></fill></fills><borders><border/></borders>'
        f'<cellStyleXfs><xf numFmtId="0"/></cellStyleXfs><cellXfs>{cells}</cellXfs></styleSheet>'
    )
    links = [(f"rId{at}", "worksheet", f"worksheets/sheet{at}.xml") for at in range(1, len(sheets) + 1)]
    links += [("rId98", "styles", "styles.xml"), ("rId99", "sharedStrings", "sharedStrings.xml")]
    parts["xl/_rels/workbook.xml.rels"] = relate(links)
    parts["_rels/.rels"] = relate([("rId1", "officeDocument", "xl/workbook.xml")])
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    overrides = {"xl/workbook.xml": "sheet.main", "xl/styles.xml": "styles", "xl/sharedStrings.xml": "sharedStrings"}
    overrides |= {name: "worksheet" for name in parts if "/worksheets/" in name}
    types = "".join(
        f'<Override PartName="/{name}" ContentType="{kind}.{what}+xml"/>' for name, what in overrides.items()
    )
    rels = '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    parts["[Content_Types].xml"] = f'<Types xmlns="{PACKAGE}/content-types">{rels}{types}</Types>'
    with io.BytesIO() as packed:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(parts):
                archive.writestr(name, parts[name] if parts[name].startswith("<?xml") else HEAD + parts[name])
        return packed.getvalue()


def relate(links: list[tuple[str, str, str]]) -> str:
    listed = "".join(f'<Relationship Id="{name}" Type="{OFFICE}/{what}" Target="{to}"/>' for name, what, to in links)
    return f'<Relationships xmlns="{PACKAGE}/relationships">{listed}</Relationships>'
