"""The worklist's gate and its command, on a directory of their own. With Debian's pydicom: the scenario `worklist`."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock
from pathlib import Path
from typing import Any

import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from server.core import files
from server.core.errors import Refused
from server.worklist import cli, orders, spool
from server.worklist.intake import Intake
from server.worklist.item import MAX_BYTES, parse_item, read_data_set
from server.worklist.orders import build_item
from server.worklist.settings import Settings
from server.worklist.spool import read_served_items
from server.worklist.tidy import is_study_of, read_served_time, tidy_worklist
from workbook import Cell, xlsx

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="settings")
def fixture_settings(tmp_path: Path) -> Any:
    served = tmp_path / "served"
    for name in ("incoming", "quarantine"):
        (served / ".spool" / name).mkdir(parents=True)
    return Settings(
        worklist_served=served,
        worklist_drop=served / ".spool/incoming",
        hostname="pacs.clinic.example",
        stations=["US1", "US2"],
        keep_days=7,
        max_items=5,
        orthanc=tmp_path / "orthanc.json",
    )


@pytest.fixture(name="later")
def fixture_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock that the age of a file is told by."""
    real = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: real() + seconds)


def item(**changes: Any) -> Dataset:
    content, step = Dataset(), Dataset()
    values = {
        "PatientID": "P1",
        "PatientName": "ROE^JANE",
        "AccessionNumber": "A1",
        "StudyInstanceUID": "1.2.3",
        "ScheduledStationAETitle": "US1",
        "Modality": "US",
        "ScheduledProcedureStepStartDate": "20261125",
        "ScheduledProcedureStepStartTime": "0900",
        **changes,
    }
    for name, value in values.items():
        if value is not None:
            setattr(step if name.startswith("Scheduled") or name == "Modality" else content, name, value)
    content.ScheduledProcedureStepSequence = Sequence([step])
    return content


def written(content: Dataset, implicit: bool = False) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, implicit
    write_dataset(stream, content)
    return bytes(stream.getvalue())


def refusal(settings: Any, data: bytes) -> list[str]:
    with pytest.raises(Refused) as caught:
        parse_item(data, settings)
    problems: list[str] = caught.value.problems
    assert all("Remedy: " in problem for problem in problems), problems
    return problems


def drop(settings: Any, name: str = "a.wl", data: bytes | None = None) -> Path:
    path: Path = settings.incoming / name
    path.write_bytes(written(item()) if data is None else data)
    return path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith(".") and path.name != "lock")


# --- what an item is ---------------------------------------------------------------------------
@pytest.mark.parametrize("implicit", [True, False])
def test_an_item_s_facts(settings: Any, implicit: bool) -> None:
    found = parse_item(written(item(), implicit), settings)
    assert found.facts == {
        "patient_id": "P1",
        "patient_name": "ROE^JANE",
        "accession_number": "A1",
        "study_instance_uid": "1.2.3",
        "steps": [{"station": "US1", "modality": "US", "date": "20261125", "time": "090000", "id": "1"}],
        "name": "1.2.3_1.wl",
    }
    assert found.data[128:132] == b"DICM"
    # what it wrote it reads again, to the same bytes
    assert parse_item(found.data, settings) == found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"PatientID": None}, "PatientID is missing or empty"),
        ({"PatientID": "  "}, "PatientID is missing or empty"),
        ({"PatientName": "^^"}, "PatientName is malformed"),
        ({"PatientName": ["ROE^JANE", "ROE^MARY"]}, "PatientName has several values"),
        ({"PatientName": "ROE^J\tE"}, "PatientName is "),
        ({"AccessionNumber": ""}, "AccessionNumber is missing or empty"),
        ({"AccessionNumber": "12345678901234567"}, "AccessionNumber is '12345678901234567'"),
        ({"AccessionNumber": ["1", "2"]}, "AccessionNumber has several values"),
        ({"StudyInstanceUID": ""}, "StudyInstanceUID is missing or empty"),
        ({"StudyInstanceUID": "1.2.03"}, "StudyInstanceUID is '1.2.03'"),
        ({"StudyInstanceUID": "1.2." + "3" * 61}, "StudyInstanceUID is '1.2.333"),
        ({"ScheduledStationAETitle": ["US1", "US2"]}, "ScheduledStationAETitle has several values"),
        ({"ScheduledStationAETitle": "US9"}, "ScheduledStationAETitle is 'US9', which may not query the worklist"),
        ({"Modality": ""}, "Modality is missing or empty"),
        ({"ScheduledProcedureStepStartDate": "20260231"}, "is 20260231, which is not a calendar date"),
        ({"PatientBirthDate": "19700231"}, "PatientBirthDate is not a calendar date. Remedy"),
        ({"ScheduledProcedureStepStartDate": "20261125-20261126"}, "ScheduledProcedureStepStartDate is '20261125-2"),
        ({"ScheduledProcedureStepStartTime": ""}, "ScheduledProcedureStepStartTime is missing or empty"),
        ({"ScheduledProcedureStepStartTime": "25"}, "ScheduledProcedureStepStartTime is '25'"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_wrong_is_named_with_a_remedy(settings: Any, changes: dict[str, Any], said: str) -> None:
    assert [problem[: len(said)] for problem in refusal(settings, written(item(**changes)))] != []
    assert said in refusal(settings, written(item(**changes)))[0]


def test_everything_that_is_wrong_is_named_at_once(settings: Any) -> None:
    assert len(refusal(settings, written(item(PatientID=None, StudyInstanceUID=None, Modality=None)))) == 3


def test_a_value_of_another_representation(settings: Any) -> None:
    content = item(PatientName=None)
    content.add_new(0x00100010, "SQ", [Dataset()])
    assert "PatientName has the VR SQ" in refusal(settings, written(content))[0]


def test_no_sequence(settings: Any) -> None:
    content = item()
    del content.ScheduledProcedureStepSequence
    assert "ScheduledProcedureStepSequence is missing or empty" in refusal(settings, written(content))[0]


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ("ISO_IR 192", "山田^太郎=ヤマダ^タロウ"),
        ("ISO_IR 192", "山田\u3000太郎"),
        ("ISO_IR 192", "می\u200cرود^م"),
        ("ISO_IR 126", "Διονυσιος"),
        ("ISO_IR 127", "قباني^لنزار"),
        ("ISO_IR 100", "Buc^Jérôme"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_a_name_becomes_utf_8(settings: Any, declared: Any, name: str) -> None:
    found = parse_item(written(item(SpecificCharacterSet=declared, PatientName=name)), settings)
    assert found.patient_name == name
    assert name.encode() in found.data
    assert b"ISO_IR 192" in found.data


@pytest.mark.parametrize("declared", [None, "ISO_IR 6"])
def test_text_in_an_undeclared_character_set_is_not_guessed(settings: Any, declared: str | None) -> None:
    data = written(item(PatientName="MULLER^A", SpecificCharacterSet=declared))
    data = data.replace(b"MULLER", "Müll".encode() + b"e")
    assert "PatientName is not ASCII, and SpecificCharacterSet is missing" in refusal(settings, data)[0]


def test_utf_8_that_is_declared_as_latin_1(settings: Any) -> None:
    data = written(item(PatientName="MULLER^A", SpecificCharacterSet="ISO_IR 100"))
    data = data.replace(b"MULLER", "Müll".encode() + b"e")
    assert "PatientName is in UTF-8" in refusal(settings, data)[0]


def test_text_that_is_not_in_its_character_set(settings: Any) -> None:
    data = written(item(SpecificCharacterSet="ISO_IR 192", PatientName="MULLER^A")).replace(
        b"MULLER", b"M\xfc\xfc\xfcER"
    )
    assert "cannot be read" in refusal(settings, data)[0]


def test_values_take_their_normal_form(settings: Any) -> None:
    found = parse_item(
        written(item(PatientID=" P1 ", Modality="us", ScheduledStationAETitle="us2 ", ScheduledProcedureStepID=None)),
        settings,
    )
    assert (found.patient_id, found.steps[0]["modality"], found.steps[0]["station"]) == ("P1", "US", "US2")
    assert found.steps[0]["id"] == "1"


@pytest.mark.parametrize("written_so", ["09", "0900", "090000", "090000.5", "09:00", "9:00:00"])
def test_a_time_has_seconds_on_the_list(settings: Any, written_so: str) -> None:
    """Orthanc compares times as text: 0900 would not be in the range 090000-."""
    found = parse_item(written(item(ScheduledProcedureStepStartTime=written_so)), settings)
    step = read_data_set(found.data).ScheduledProcedureStepSequence[0]
    assert (found.steps[0]["time"], step.ScheduledProcedureStepStartTime) == ("090000", "090000")


@pytest.mark.parametrize("cut", range(1, 300, 7))
def test_a_file_that_is_cut_off_is_refused(settings: Any, cut: int) -> None:
    data = parse_item(written(item()), settings).data
    # cut behind a whole element it may lack what comes last, and nothing that is needed
    assert refusal(settings, data[:-cut])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 5000,
        os.urandom(3000),
        b"\0" * 128 + b"DICM",
        (ROOT / "README.md").read_bytes(),
        written(item(), True) * 2,
    ],
    ids=["empty", "zeros", "random", "preamble", "text", "twice"],
)
def test_what_is_no_data_set_is_refused(settings: Any, data: bytes) -> None:
    assert refusal(settings, data)


TEXT = """\
# DICOM Worklist File
# Patient Information
PatientID=P0000001
PatientsName=DOE^JANE
PatientsBirthDate=1985-05-15
PatientsSex=F

# Study Information
StudyInstanceUID=1.2.826.0.1.3680043.8.498.1.1
AccessionNumber=ACC0000001
"""


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.replace("DOE", "DÖE").encode("cp1252"),
        b'{"PatientID": "P1"}',
        b"<NativeDicomModel/>",
        b"PatientID;PatientName\nP1;ROE^JANE\n",
        b"\x0bMSH|^~\\&|RIS\rPID|||P1\r\x1c\r",
    ],
    ids=["lines", "windows", "utf-16", "cp1252", "json", "xml", "csv", "hl7"],
)
def test_text_is_called_text(settings: Any, tmp_path: Path, capsys: Any, later: Any, data: bytes) -> None:
    said = "It is text, not a DICOM file. Remedy: write a DICOM data set"
    assert refusal(settings, data)[0].startswith(said)
    (tmp_path / "text.wl").write_bytes(data)
    assert command(settings, tmp_path, "check", str(tmp_path / "text.wl")) == 1
    assert f"text.wl: {said}" in capsys.readouterr().err
    drop(settings, "text.wl", data)
    later(20)
    Intake(settings).process_incoming()
    assert said in next(settings.quarantine.glob("*text.wl.reason")).read_text()


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n\0\1",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1" + bytes(500),
        b"PK\3\4\x14\0\6\0\x08\0" + b"\x7f" * 500,
    ],
    ids=["pdf", "jpeg", "xlsx"],
)
def test_a_file_of_another_kind_is_not_called_cut_off(settings: Any, data: bytes) -> None:
    assert refusal(settings, data)[0].startswith("It is not a DICOM data set. Remedy: ")


def test_a_data_set_that_is_cut_off_is_called_so(settings: Any) -> None:
    for data in (written(item()), written(item(), True), parse_item(written(item()), settings).data):
        assert refusal(settings, data[:-5])[0].startswith("The file is cut off. Remedy: ")


def test_a_bomb_is_not_inflated(settings: Any) -> None:
    import zlib

    head = parse_item(written(item()), settings).data
    start = head.index(b"1.2.840.10008.1.2.1\0")
    deflated = head[:start] + b"1.2.840.10008.1.2.1.99" + zlib.compress(b"\0" * 50_000_000)
    deflated = deflated.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    assert "transfer syntax is 1.2.840.10008.1.2.1.99" in refusal(settings, deflated)[0]


@pytest.mark.parametrize("defined", [True, False], ids=["defined length", "undefined length"])
@pytest.mark.parametrize("depth", [20, 5_000])
def test_deep_nesting_is_refused(settings: Any, depth: int, defined: bool) -> None:
    inside = b""
    for _ in range(depth):
        if defined:
            part = b"\xfe\xff\x00\xe0" + len(inside).to_bytes(4, "little") + inside
            inside = b"\x40\x00\x00\x01" + len(part).to_bytes(4, "little") + part
        else:
            inside = b"\x40\x00\x00\x01\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + inside
    assert refusal(settings, inside)


def test_an_image_is_refused(settings: Any) -> None:
    content = item()
    content.add_new(0x7FE00010, "OW", b"\0" * 100)
    assert "It is an image" in refusal(settings, written(content, True))[0]


# --- the intake --------------------------------------------------------------------------------
def test_a_good_file_is_served_once_it_has_settled(settings: Any, later: Callable[[float], None]) -> None:
    drop(settings)
    intake = Intake(settings)
    assert intake.process_incoming() == (1, 0)
    later(2)
    assert intake.process_incoming() == (1, 1)
    assert (names(settings.worklist_served), names(settings.incoming)) == (["1.2.3_1.wl"], [])
    assert oct((settings.worklist_served / "1.2.3_1.wl").stat().st_mode)[-3:] == "640"


def test_a_bad_file_gets_the_benefit_of_the_doubt(settings: Any, later: Callable[[float], None]) -> None:
    path = drop(settings, data=written(item())[:50])
    intake = Intake(settings)
    later(10)
    assert intake.process_incoming() == (1, 0)
    later(0)
    path.write_bytes(written(item()))
    later(2)
    assert intake.process_incoming() == (1, 1)
    assert names(settings.worklist_served) == ["1.2.3_1.wl"]


def test_a_bad_file_goes_with_its_reason(settings: Any, later: Callable[[float], None]) -> None:
    drop(settings, "bad\n.wl", written(item(StudyInstanceUID="")))
    later(20)
    assert Intake(settings).process_incoming() == (1, 1)
    held, reason = names(settings.quarantine)
    assert reason == f"{held}.reason"
    text = (settings.quarantine / reason).read_text()
    assert r"'bad\n.wl'" in text
    assert "StudyInstanceUID is missing or empty. Remedy: " in text
    assert names(settings.worklist_served) == names(settings.incoming) == []


def test_a_file_that_somebody_writes_waits(settings: Any, later: Callable[[float], None]) -> None:
    path = drop(settings)
    intake = Intake(settings)
    with path.open("ab") as writer:
        later(100)
        assert intake.process_incoming() == (1, 0)
        writer.close()
        assert intake.process_incoming() == (1, 1)
    path = drop(settings)
    with path.open("ab"):
        later(4000)
        assert intake.process_incoming() == (1, 1)
    assert len(names(settings.quarantine)) == 2


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "large", "large, under another name"])
def test_what_is_no_plain_file_goes_at_once(settings: Any, tmp_path: Path, kind: str) -> None:
    path, good = settings.incoming / "x.wl", tmp_path / "good"
    good.write_bytes(written(item()))
    if kind == "link":
        path.symlink_to(good)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
        (path / "inside").write_text("gone")
    else:
        path = path.with_suffix(".part" if "name" in kind else ".wl")
        with path.open("wb") as file:
            file.truncate(2_000_000_000)
    assert Intake(settings).process_incoming() == (1, 1)
    held = next(path for path in settings.quarantine.iterdir() if path.suffix != ".reason")
    assert names(settings.worklist_served) == []
    assert good.read_bytes() == written(item())
    if "large" in kind:
        assert held.stat().st_size == MAX_BYTES
    if kind == "directory":  # it could hold any amount
        settings.orthanc.write_text("{}")
        tidy_worklist(settings)
        assert len(names(settings.quarantine)) == 2
        assert list(held.iterdir()) == []


def test_a_file_that_its_writer_renames_leaves_no_reason_behind(settings: Any, monkeypatch: Any) -> None:
    """Written under another name, and renamed in the moment in which the intake takes it for too large."""
    path = drop(settings, ".a.part", b"")
    os.truncate(path, 2_000_000)
    cut = spool.truncate_file

    def cut_and_rename(large: Path) -> None:
        cut(large)
        large.rename(large.with_name("a.wl"))

    monkeypatch.setattr(spool, "truncate_file", cut_and_rename)
    Intake(settings).process_incoming()
    assert (names(settings.incoming), names(settings.quarantine)) == (["a.wl"], [])


def test_a_reason_without_its_file_is_tidied(settings: Any) -> None:
    """The intake was killed between the two, and the writer has renamed the file."""
    settings.orthanc.write_text("{}")
    for name in ("1-2-a.part.reason", "1-3-b.wl", "1-3-b.wl.reason"):
        (settings.quarantine / name).write_text("It is too large.")
    tidy_worklist(settings)
    assert names(settings.quarantine) == ["1-3-b.wl", "1-3-b.wl.reason"]


def test_a_large_file_has_one_reason_though_the_intake_was_killed(settings: Any, monkeypatch: Any, later: Any) -> None:
    path = drop(settings, data=b"")
    os.truncate(path, 2_000_000)
    os.utime(path, (1000, 1000))

    def kill(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("server.worklist.spool.move_file", kill)
        with pytest.raises(KeyboardInterrupt):
            Intake(settings).process_incoming()
    later(20)
    Intake(settings).process_incoming()
    held, reason = names(settings.quarantine)
    assert reason == f"{held}.reason"


def test_a_second_name_is_for_a_moment_alone(settings: Any, tmp_path: Path, later: Callable[[float], None]) -> None:
    # as sftp-server renames; for good it would be a file that others can change
    path, other = drop(settings), tmp_path / "other"
    other.hardlink_to(path)
    intake = Intake(settings)
    later(10)
    assert intake.process_incoming() == (1, 0)
    other.unlink()
    assert intake.process_incoming() == (1, 1)
    assert names(settings.worklist_served) == ["1.2.3_1.wl"]
    other.hardlink_to(drop(settings))
    later(20)
    intake.process_incoming()
    assert "hard link" in next(settings.quarantine.glob("*.reason")).read_text()


def test_the_same_again_is_an_update_and_another_patient_is_not(settings: Any, later: Callable[[float], None]) -> None:
    intake = Intake(settings)
    later(20)
    drop(settings)
    intake.process_incoming()
    drop(settings, data=written(item(PatientName="ROE^MARY")))
    drop(settings, "b.wl", written(item(PatientID="P2", ScheduledProcedureStepID="2")))
    intake.process_incoming()
    [found] = read_served_items(settings)
    assert (found.patient_id, found.patient_name) == ("P1", "ROE^MARY")
    assert "an item with another PatientID" in next(settings.quarantine.glob("*.reason")).read_text()


def test_a_step_without_an_id_takes_no_other_station_s_place(settings: Any, later: Callable[[float], None]) -> None:
    """Two steps of one study, for two devices: neither may lose its patient without a word."""
    intake = Intake(settings)
    later(20)
    drop(settings, "a.wl", written(item()))
    drop(settings, "b.wl", written(item(ScheduledStationAETitle="US2")))
    intake.process_incoming()
    [found] = read_served_items(settings)
    [reason] = settings.quarantine.glob("*.reason")
    lost = {"US1", "US2"} - {found.steps[0]["station"]}
    assert f"for {lost.pop()} has no ScheduledProcedureStepID" in reason.read_text()
    assert "give each step an ID of its own" in reason.read_text()


@pytest.mark.parametrize(
    ("identity", "station", "more", "seen"),
    [
        ("1", "US2", "", [["US2"]]),  # the step was moved
        (None, "US1", "", [["US1"]]),  # the same step again
        (None, "US1", "US2", [["US1", "US2"]]),  # with a second step; no station loses it
        ("2", "US2", "", [["US1"], ["US2"]]),
    ],
)
def test_what_is_submitted_again_replaces_the_item(
    settings: Any, later: Callable[[float], None], identity: str | None, station: str, more: str, seen: list[list[str]]
) -> None:
    intake = Intake(settings)
    later(20)
    drop(settings)
    intake.process_incoming()
    again = item(ScheduledStationAETitle=station, ScheduledProcedureStepID=identity, PatientName="ROE^MARY")
    if more:
        again.ScheduledProcedureStepSequence += item(ScheduledStationAETitle=more).ScheduledProcedureStepSequence
    drop(settings, data=written(again))
    intake.process_incoming()
    found = read_served_items(settings)
    assert [[step["station"] for step in one.steps] for one in found] == seen
    assert found[-1].patient_name == "ROE^MARY"
    assert names(settings.quarantine) == []


def steps(*given: tuple[str, str, str], day: str = "20261125") -> bytes:
    """A file of one study: ID, station and time of each step."""
    content = item()
    content.ScheduledProcedureStepSequence = Sequence(
        step
        for code, station, hour in given
        for step in item(
            ScheduledProcedureStepID=code,
            ScheduledStationAETitle=station,
            ScheduledProcedureStepStartDate=day,
            ScheduledProcedureStepStartTime=hour,
        ).ScheduledProcedureStepSequence
    )
    return written(content)


@pytest.mark.parametrize(
    ("again", "seen", "said"),
    [
        # the same two in another order, one of them at another time
        ([("s2", "US2", "1400"), ("s1", "US1", "0900")], ["s1 090000", "s2 140000"], ""),
        ([("s1", "US1", "1100"), ("s2", "US2", "1400")], ["s1 110000", "s2 140000"], ""),
        ([("s3", "US2", "1400")], ["s1 090000", "s2 100000", "s3 140000"], ""),
        ([("s2", "US2", "1400")], ["s1 090000", "s2 100000"], "Step 's2' is on the list in one item with step 's1'"),
    ],
)
def test_a_step_is_on_the_list_once(
    settings: Any, later: Callable[[float], None], again: list[tuple[str, str, str]], seen: list[str], said: str
) -> None:
    intake = Intake(settings)
    later(20)
    drop(settings, data=steps(("s1", "US1", "0900"), ("s2", "US2", "1000")))
    intake.process_incoming()
    drop(settings, data=steps(*again))
    intake.process_incoming()
    found = [step for one in read_served_items(settings) for step in one.steps]
    assert sorted(f"{step['id']} {step['time']}" for step in found) == seen
    assert [said in path.read_text() for path in settings.quarantine.glob("*.reason")] == [True] * bool(said)


def test_no_more_than_the_limit_is_served(settings: Any, later: Callable[[float], None]) -> None:
    for number in range(7):
        drop(settings, f"{number}.wl", written(item(StudyInstanceUID=f"1.2.{number}")))
    later(20)
    Intake(settings).process_incoming()
    assert len(names(settings.worklist_served)) == 5
    assert "orthanc_worklist_max_items is 5" in next(settings.quarantine.glob("*.reason")).read_text()


def test_a_flood_waits_and_nobody_else_does(settings: Any, monkeypatch: pytest.MonkeyPatch, later: Any) -> None:
    monkeypatch.setattr("server.worklist.intake.BURST", 3)
    monkeypatch.setattr("server.worklist.intake.A_SECOND", 0)
    for number in range(5):
        drop(settings, f"{number}.wl", written(item(StudyInstanceUID=f"1.2.{number}")))
    os.chown(settings.incoming / "4.wl", 12345, -1)
    later(2)
    assert Intake(settings).process_incoming() == (5, 4)
    assert len(names(settings.incoming)) == 1
    assert "1.2.4_1.wl" in names(settings.worklist_served)


def test_open_files_delay_no_finished_ones(settings: Any, monkeypatch: Any, later: Any) -> None:
    monkeypatch.setattr("server.worklist.intake.BURST", 3)
    monkeypatch.setattr("server.worklist.intake.A_SECOND", 0)
    with contextlib.ExitStack() as stack:
        for number in range(5):
            stack.enter_context(drop(settings, f"{number}.wl").open("ab"))
        drop(settings, "good.wl")
        later(100)
        assert Intake(settings).process_incoming() == (6, 1)
    assert names(settings.worklist_served) == ["1.2.3_1.wl"]


def test_a_newer_version_does_not_overtake_one_that_waits(settings: Any, monkeypatch: Any, later: Any) -> None:
    later(2)
    intake = Intake(settings)
    intake.tokens[os.getuid()] = (0.0, 0.0)
    for number in range(2):
        drop(settings, f"{number}.wl", written(item(PatientName=f"ROE^{number}")))
    clock_of_rate = itertools.count(0.0, 0.04)  # there is a token when the second file's turn comes
    monkeypatch.setattr(time, "monotonic", lambda: next(clock_of_rate))
    assert intake.process_incoming() == (2, 0)
    while names(settings.incoming):
        intake.process_incoming()
    assert [one.patient_name for one in read_served_items(settings)] == ["ROE^1"]


def test_a_full_disk_leaves_everything_where_it_is(
    settings: Any, monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]
) -> None:
    drop(settings)
    drop(settings, "b.wl", b"bad")
    later(20)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert Intake(settings).process_incoming() == (2, 0)
    assert names(settings.incoming) == ["a.wl", "b.wl"]
    assert Intake(settings).process_incoming() == (2, 2)


def test_without_leases_a_file_must_rest(settings: Any, monkeypatch: Any, later: Callable[[float], None]) -> None:
    def denied(_descriptor: int, command: int, _argument: int) -> None:
        assert command == fcntl.F_SETLEASE
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fcntl, "fcntl", denied)
    drop(settings)
    later(10)
    assert Intake(settings).process_incoming() == (1, 0)
    later(20)
    assert Intake(settings).process_incoming() == (1, 1)
    assert names(settings.worklist_served) == ["1.2.3_1.wl"]


def test_without_leases_a_clock_that_was_set_back_delays_nothing(settings: Any, monkeypatch: Any, later: Any) -> None:
    def denied(_descriptor: int, _command: int, _argument: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fcntl, "fcntl", denied)
    drop(settings)
    later(-3600)
    assert Intake(settings).process_incoming() == (1, 1)


# --- tidying up, and the command ---------------------------------------------------------------
def test_what_is_past_goes_and_what_nobody_finishes(settings: Any, later: Callable[[float], None]) -> None:
    later(2)
    drop(settings, data=written(item(ScheduledProcedureStepStartDate="20200101")))
    drop(settings, "b.wl", written(item(StudyInstanceUID="1.2.4", ScheduledProcedureStepStartDate="29991231")))
    Intake(settings).process_incoming()
    drop(settings, "c.part")
    (settings.orthanc).write_text('{"HttpPort": 1, "ClinicopsRoles": {"it": "admin"}, "RegisteredUsers": {"it": "x"}}')
    later(4000)
    with pytest.raises(Refused, match="Orthanc does not answer"):
        tidy_worklist(settings)
    assert names(settings.worklist_served) == ["1.2.4_1.wl"]
    assert "ends in .wl" in next(settings.quarantine.glob("*c.part.reason")).read_text()
    # a name that would be its reason's, and a directory that no path reaches the end of
    grown = next(settings.quarantine.glob("*c.part"))
    os.truncate(grown, MAX_BYTES + 1)
    with pytest.raises(Refused):
        tidy_worklist(settings)
    assert grown.stat().st_size == MAX_BYTES
    later(40 * 86400)
    with pytest.raises(Refused):
        tidy_worklist(settings)
    assert names(settings.quarantine) == []


def test_a_clock_that_is_ahead_takes_nothing_from_the_list_for_good(
    settings: Any, monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]
) -> None:
    """What it put away comes back once it is right, but for what was submitted again meanwhile."""
    settings.orthanc.write_text("{}")
    today = date.today()
    ahead = f"{today + timedelta(days=358):%Y%m%d}"  # the first day on the list, by a clock that is a year ahead
    monkeypatch.setattr("server.worklist.tidy.find_arrived", lambda *_arguments: [])
    later(2)
    for name, uid in (("a.wl", "1.2.3"), ("b.wl", "1.2.4")):
        drop(settings, name, written(item(StudyInstanceUID=uid, ScheduledProcedureStepStartDate=f"{today:%Y%m%d}")))
    Intake(settings).process_incoming()
    with monkeypatch.context() as patched:
        patched.setattr("server.worklist.tidy.find_first_day", lambda _settings: ahead)
        tidy_worklist(settings)
        assert names(settings.worklist_served) == []
        tidy_worklist(settings)
    later(-3600)  # it is put right
    again = item(StudyInstanceUID="1.2.4", PatientName="ROE^MARY", ScheduledProcedureStepStartDate=f"{today:%Y%m%d}")
    drop(settings, "c.wl", written(again))
    Intake(settings).process_incoming()
    tidy_worklist(settings)
    assert names(settings.worklist_served) == ["1.2.3_1.wl", "1.2.4_1.wl"]
    assert "ROE^MARY" in {one.patient_name for one in read_served_items(settings)}
    # by a clock that is right, what is past goes for good, also if items are kept for longer from now on
    later(2)
    with monkeypatch.context() as patched:
        patched.setattr("server.worklist.tidy.find_first_day", lambda _settings: ahead)
        tidy_worklist(settings)
    tidy_worklist(settings)
    assert names(settings.past) == ["1.2.3_1.wl", "1.2.4_1.wl"]
    monkeypatch.setattr("server.worklist.tidy.find_first_day", lambda _settings: ahead)
    tidy_worklist(settings)
    assert names(settings.past) == ["1.2.3_1.wl", "1.2.4_1.wl"]
    later(31 * 86400)
    tidy_worklist(settings)
    assert names(settings.past) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_long_value_is_served_without_a_word_each_minute(
    settings: Any, recwarn: pytest.WarningsRecorder, later: Callable[[float], None]
) -> None:
    settings.orthanc.write_text("{}")
    drop(settings, data=written(item(RequestedProcedureDescription="x" * 70, PatientTelephoneNumbers="1" * 20)))
    later(2)
    Intake(settings).process_incoming()
    config.settings.reading_validation_mode = config.WARN  # as in a program that starts
    recwarn.clear()
    assert len(read_served_items(settings)) == 1
    assert [str(one.message) for one in recwarn] == []


def test_without_an_administrator_the_remedy_is_said(
    settings: Any, tmp_path: Path, capsys: Any, later: Callable[[float], None]
) -> None:
    later(2)
    drop(settings, data=written(item(ScheduledProcedureStepStartDate="29991231")))
    Intake(settings).process_incoming()
    settings.orthanc.write_text('{"ClinicopsRoles": {"web": "dicomweb_reader"}, "RegisteredUsers": {"web": "x"}}')
    assert command(settings, tmp_path, "tidy") == 1
    said = capsys.readouterr().err.splitlines()
    assert "no user with the role admin. Remedy: give one to orthanc_users, and deploy again." in said[-1]
    assert names(settings.worklist_served) == ["1.2.3_1.wl"]


CSV = """\
PatientID;PatientName;ScheduledStationAETitle;ScheduledProcedureStepStartDate;ScheduledProcedureStepStartTime
P1;ROE^JANE;US1;2999-11-25;09:30
P2;Παπαδοπούλου^Μαρία;US2;29991125;
"""


def command(settings: Any, tmp_path: Path, *arguments: str) -> int:
    content = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
    (tmp_path / "worklist.json").write_text(json.dumps(content))
    sys.argv = ["orthanc-worklist", "--config", str(tmp_path / "worklist.json"), *arguments]
    return cli.main()


@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_a_spreadsheet_is_scheduled(
    settings: Any, tmp_path: Path, monkeypatch: Any, later: Any, separator: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "day.csv").write_text("\ufeff" + CSV.replace(";", separator))
    assert command(settings, tmp_path, "create", str(tmp_path / "day.csv")) == 0
    later(2)
    Intake(settings).process_incoming()
    found = read_served_items(settings)
    assert {item.patient_name for item in found} == {"ROE^JANE", "Παπαδοπούλου^Μαρία"}
    assert next(step for item in found for step in item.steps if step["station"] == "US1")["time"] == "093000"
    # once more: the same items
    assert command(settings, tmp_path, "create", str(tmp_path / "day.csv")) == 0
    Intake(settings).process_incoming()
    assert read_served_items(settings) == found


def test_wrong_rows_are_all_named_and_nothing_is_scheduled(settings: Any, tmp_path: Path, capsys: Any) -> None:
    text = CSV.replace("US2", "US9").replace("2999-11-25", "31.11.2999") + "\nP3;ROE^JANE;US1;25.11.2999;9.5\n"
    (tmp_path / "day.csv").write_text(text)
    assert command(settings, tmp_path, "create", "--json", str(tmp_path / "day.csv")) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    # the numbers that the spreadsheet shows, with its empty row
    assert [problem.partition(":")[0] for problem in problems[:3]] == ["Row 2", "Row 3", "Row 5"]
    assert names(settings.incoming) == []


def test_what_a_writer_calls_a_reason_is_none(settings: Any, tmp_path: Path, capsys: Any) -> None:
    drop(settings, "evil.reason", b"\x1b]0;x" + b"\0" * MAX_BYTES)
    Intake(settings).process_incoming()
    assert command(settings, tmp_path, "list", "--quarantine", "--json") == 0
    [held] = json.loads(capsys.readouterr().out)["quarantine"]
    assert held["file"].endswith("-evil_reason")
    assert "are kept" in held["reason"]


def test_a_large_file_under_a_hidden_name_is_cut(settings: Any) -> None:
    """For which the intake does not start."""
    settings.orthanc.write_text("{}")
    with (settings.incoming / ".in.day.wl").open("wb") as file:
        file.truncate(2_000_000_000)
    tidy_worklist(settings)
    assert list(settings.incoming.iterdir()) == []
    held = next(path for path in settings.quarantine.iterdir() if path.suffix != ".reason")
    assert held.stat().st_size == MAX_BYTES


def test_files_that_nobody_finishes_are_bounded_for_each_owner(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("server.worklist.tidy.MAX_WAITING", 2)
    settings.orthanc.write_text("{}")
    for number in range(4):
        drop(settings, f".{number}.part")
    drop(settings, "good.wl")
    os.chown(drop(settings, ".other.part"), 12345, -1)
    tidy_worklist(settings)
    left = sorted(path.name for path in settings.incoming.iterdir())
    assert ("good.wl" in left, ".other.part" in left, len(left)) == (True, True, 4)
    assert names(settings.quarantine) == []


def test_a_deep_directory_goes_with_the_rest(settings: Any, later: Callable[[float], None]) -> None:
    settings.orthanc.write_text('{"HttpPort": 1, "ClinicopsRoles": {"it": "admin"}, "RegisteredUsers": {"it": "x"}}')
    (settings.incoming / "deep.wl").mkdir()
    Intake(settings).process_incoming()
    here = os.open(next(settings.quarantine.glob("*deep.wl")), os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    tidy_worklist(settings)
    later(40 * 86400)
    tidy_worklist(settings)
    assert names(settings.quarantine) == []


def test_too_many_files_of_one_owner_are_refused(settings: Any, monkeypatch: Any, later: Any) -> None:
    monkeypatch.setattr("server.worklist.intake.MAX_WAITING", 4)
    for number in range(6):
        drop(settings, f"{number}.part")
    later(2)
    assert Intake(settings).process_incoming() == (6, 2)
    assert len(names(settings.incoming)) == 4
    assert "More than 4 files" in next(settings.quarantine.glob("*.reason")).read_text()


def test_quarantine_is_bounded_for_each_owner(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("server.worklist.tidy.QUARANTINE_FILES", 2)
    settings.orthanc.write_text("{}")
    for number in range(4):
        (settings.incoming / f"{number}.wl").symlink_to("/nowhere")
    os.mkfifo(settings.incoming / "other.wl")
    os.chown(settings.incoming / "other.wl", 12345, -1)
    Intake(settings).process_incoming()
    tidy_worklist(settings)
    held = names(settings.quarantine)
    assert len(held) == 6
    assert sum(name.endswith(".reason") for name in held) == 3
    assert any("other" in name for name in held)


def test_a_file_that_is_replaced_meanwhile_is_not_lost(settings: Any, monkeypatch: Any, later: Any) -> None:
    path, real = drop(settings), files.write_atomic

    def replaced(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        other = settings.incoming / "other.part"
        other.write_bytes(written(item(PatientName="ROE^MARY")))
        other.rename(path)

    later(20)
    with monkeypatch.context() as patched:
        for module in ("intake", "spool"):
            patched.setattr(f"server.worklist.{module}.write_atomic", replaced)
        Intake(settings).process_incoming()
        assert names(settings.incoming) == ["a.wl"]
        path.write_bytes(b"bad")
        Intake(settings).process_incoming()
    assert names(settings.incoming) == ["a.wl"]
    assert names(settings.quarantine) == []
    Intake(settings).process_incoming()
    assert [one.patient_name for one in read_served_items(settings)] == ["ROE^MARY"]


def test_what_a_killed_gate_had_taken_comes_again(settings: Any, later: Callable[[float], None]) -> None:
    (settings.worklist_served / ".spool/taken").write_bytes(written(item()))
    later(2)
    Intake(settings).process_incoming()
    assert names(settings.worklist_served) == ["1.2.3_1.wl"]
    assert not (settings.worklist_served / ".spool/taken").exists()


@pytest.mark.parametrize(
    ("text", "scheduled"),
    [
        (CSV.replace("\n", "\r"), 2),  # Excel for Mac
        ("sep=;\n" + CSV, 2),
        (CSV.replace("\n", ";;\n") + ";;;;;;\n", 2),  # empty columns and rows
        (CSV.replace("09:30", "9:30"), 2),
        ('[{"PatientID": 1, "PatientName": "A", "ScheduledStationAETitle": "US1",'
         ' "ScheduledProcedureStepStartDate": "2999-01-01"}]', 1),
    ],
)  # fmt: skip
def test_spreadsheets_as_they_come(settings: Any, tmp_path: Path, monkeypatch: Any, text: str, scheduled: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "day.csv").write_text(text, newline="")
    assert command(settings, tmp_path, "create", str(tmp_path / "day.csv")) == 0
    assert len(names(settings.incoming)) == scheduled


HEAD = "PatientID,PatientName,ScheduledStationAETitle,ScheduledProcedureStepStartDate"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}\n1,A,US1,2020-01-01\n", "so long ago"),
        (
            f"{HEAD},PatientBirthDate\n1,A,US1,2999-01-01,31.01.70\n",
            "Row 2: PatientBirthDate has a two-digit year. Remedy",
        ),
        (f"{HEAD},PatientSex\n1,A,US1,2999-01-01,weiblich\n", "PatientSex is malformed"),
        (f'{HEAD}\n1,"A' + "x" * 200_000, "cannot be read as CSV"),
        ("[" * 100_000, "is not JSON"),
        ('[{"PatientID": ["1"], "PatientName": {"a": 1}}]', "PatientID is not text"),
        ("PatientID,PatientNam\nP1,A\n", "did you mean PatientName?"),
        ("PatientID,MODALITY\nP1,US\n", "did you mean Modality?"),
        ("PatientID\nP1\n", "Column PatientName is missing"),
        ("PatientID,PatientName,ScheduledStationAETitle,ScheduledProcedureStepStartDate\n", "has no rows"),
        ("{broken", "is not JSON"),
        ('["x"]', "is not an object"),
    ],
)
def test_a_spreadsheet_that_is_none(settings: Any, tmp_path: Path, capsys: Any, text: str, said: str) -> None:
    (tmp_path / "day.csv").write_text(text)
    assert command(settings, tmp_path, "create", str(tmp_path / "day.csv")) == 1
    assert said in capsys.readouterr().err


def test_list_remove_check(settings: Any, tmp_path: Path, capsys: Any, later: Callable[[float], None]) -> None:
    later(2)
    path = drop(settings)
    assert command(settings, tmp_path, "check", str(path)) == 0
    assert command(settings, tmp_path, "list", "--waiting") == 0
    assert "a.wl" in capsys.readouterr().out
    Intake(settings).process_incoming()
    assert command(settings, tmp_path, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["accession_number"] == "A1"
    assert command(settings, tmp_path, "remove", "A2") == 1
    assert "'A2' is not on the list. Remedy: " in capsys.readouterr().err
    assert command(settings, tmp_path, "remove", "A1") == 0
    assert names(settings.worklist_served) == []
    assert command(settings, tmp_path, "check", str(path)) == 1
    assert command(settings, tmp_path, "check", str(ROOT / "README.md")) == 1


def test_standard_input(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CSV.encode())))
    assert command(settings, tmp_path, "create") == 0
    assert len(names(settings.incoming)) == 2


def test_a_full_disk_schedules_no_part_of_a_file(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    real, made = tempfile.mkstemp, iter(range(10))

    def make(*arguments: Any, **named: Any) -> Any:
        if next(made) == 1:
            raise OSError(28, "No space left on device")
        return real(*arguments, **named)

    monkeypatch.setattr(tempfile, "mkstemp", make)
    (tmp_path / "day.csv").write_text(CSV)
    assert command(settings, tmp_path, "create", str(tmp_path / "day.csv")) == 1
    assert "0 of 2 rows were submitted: No space left on device. Remedy: " in capsys.readouterr().err
    assert list(settings.incoming.iterdir()) == []


def test_more_rows_than_may_wait_are_refused_at_once(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("server.worklist.orders.MAX_WAITING", 1)
    (tmp_path / "day.csv").write_text(CSV)
    assert command(settings, tmp_path, "create", str(tmp_path / "day.csv")) == 1
    assert "The file has 2 rows, more than 1. Remedy: import it in parts." in capsys.readouterr().err
    assert list(settings.incoming.iterdir()) == []


def test_a_writer_is_not_told_that_rows_are_scheduled(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "day.csv").write_text(CSV)
    assert command(settings, tmp_path, "create", str(tmp_path / "day.csv")) == 0
    assert "2 submitted; the intake decides on each" in capsys.readouterr().out


# --- a later import ----------------------------------------------------------------------------
COLUMNS = ["PatientID", "PatientName", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate"]
COLUMNS += ["ScheduledProcedureStepStartTime", "RequestedProcedureDescription", "AccessionNumber"]


def imported(settings: Any, tmp_path: Path, *lines: str, code: int = 0, options: tuple[str, ...] = ()) -> list[str]:
    """Day, time and station of what is on the list after an import."""
    path = tmp_path / "week.csv"
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    assert command(settings, tmp_path, "create", *options, str(path)) == code
    Intake(settings).process_incoming()
    found = read_served_items(settings)
    return sorted(f"{one.steps[0]['date'][4:]} {one.steps[0]['time'][:4]} {one.steps[0]['station']}" for one in found)


@pytest.fixture(name="writer")
def fixture_writer(monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    later(2)


@pytest.mark.parametrize("number", ["", "A1"])
@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("P1,ROE^JANE,US1,2999-11-28,09:30,Abdomen,", "1128 0930 US1"),
        ("P1,ROE^JANE,US1,2999-11-28,08:30:00,Abdomen,", "1128 0830 US1"),
        ("P1,ROE^JANE,US1,29991128,830,Abdomen,", "1128 0830 US1"),
        ('P1,"Roe, Jane",US1,28.11.2999,8:30 AM,Abdomen,', "1128 0830 US1"),
        ("P1,ROE^JANE,US2,2999-11-28,10:00,  abdomen ,", "1128 1000 US2"),
        ("P1,ROE^MARY,US1,2999-11-28,,Abdomen,", "1128 0000 US1"),
    ],
)
@pytest.mark.usefixtures("writer")
def test_an_order_that_is_imported_again_is_one_item(
    settings: Any, tmp_path: Path, line: str, seen: str, number: str
) -> None:
    first = "P1,ROE^JANE,US1,2999-11-28,08:30,Abdomen,"
    assert imported(settings, tmp_path, first + number) == ["1128 0830 US1"]
    assert imported(settings, tmp_path, line + number) == [seen]


@pytest.mark.usefixtures("writer")
def test_two_orders_of_one_patient_stay_two(settings: Any, tmp_path: Path) -> None:
    by_what = ["P1,A^B,US1,2999-11-28,08:30,Abdomen,", "P1,A^B,US1,2999-11-28,08:45,Thyroid,"]
    by_number = ["P2,A^B,US1,2999-11-28,08:30,Abdomen,A1", "P2,A^B,US1,2999-11-28,16:00,Abdomen,A2"]
    by_day = ["P3,A^B,US1,2999-11-28,08:30,Abdomen,"]
    lines = [*by_what, *by_number, *by_day]
    assert len(imported(settings, tmp_path, *lines)) == 5
    assert len(imported(settings, tmp_path, *(line.replace("08:", "09:") for line in lines))) == 5


@pytest.mark.parametrize("number", ["", "A1"])
def test_the_same_order_twice_in_a_file_is_asked_back(settings: Any, tmp_path: Path, capsys: Any, number: str) -> None:
    lines = [f"P1,A^B,US1,2999-11-28,{hour},Abdomen,{number}" for hour in ("08:30", "09:30")]
    assert imported(settings, tmp_path, *lines, code=1) == []
    said = capsys.readouterr().err
    assert "Row 3: It repeats the order of row 2: the same PatientID, " in said
    assert "Remedy: delete the row that is no longer valid, or give each its own AccessionNumber." in said


def as_root(settings: Any, monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]) -> None:
    """The gate goes over what comes while root waits for it."""
    later(2)
    real = orders.await_verdicts

    def served(*arguments: Any) -> None:
        Intake(settings).process_incoming()
        real(*arguments)

    monkeypatch.setattr("server.worklist.orders.await_verdicts", served)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_what_an_earlier_import_had_stays_and_is_named(
    settings: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, later: Any
) -> None:
    settings = replace(settings, max_items=10)
    as_root(settings, monkeypatch, later)
    drop(settings, data=written(item(PatientID="APP", ScheduledProcedureStepStartDate="29991128")))
    before = ["P1,A^B,US1,2999-11-28,08:30,,", "P2,A^B,US1,2999-11-28,08:45,,A2", "P3,A^B,US2,2999-11-28,09:00,,"]
    assert len(imported(settings, tmp_path, *before)) == 4
    assert "from earlier imports" not in capsys.readouterr().out
    # P1 is cancelled, P2 moved to the next day; US2 and the application's items are not this file's
    after = ["P4,A^B,US1,2999-11-28,08:30,,", "P2,A^B,US1,2999-11-29,08:45,,A2"]
    assert len(imported(settings, tmp_path, *after)) == 6
    said = capsys.readouterr().out
    assert (
        "2 from earlier imports, not in this file, stay on the list. Remedy, if they were moved or cancelled:" in said
    )
    assert "2.25." in said
    path = str(tmp_path / "week.csv")
    assert command(settings, tmp_path, "create", "--replace", "--json", path) == 0
    result = json.loads(capsys.readouterr().out)
    assert [one["patient_id"] for one in result["items"]] == ["P4", "P2"]
    assert sorted(one["patient_id"] for one in result["removed"]) == ["P1", "P2"]
    left = {(one.patient_id, one.steps[0]["date"]) for one in read_served_items(settings)}
    assert left == {("P4", "29991128"), ("P2", "29991129"), ("P3", "29991128"), ("APP", "29991128")}


def test_other_days_of_a_treatment_stay_though_they_are_named(
    settings: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, later: Any
) -> None:
    as_root(settings, monkeypatch, later)
    assert len(imported(settings, tmp_path, "P1,A^B,US1,2999-11-28,,,C1", "P1,A^B,US1,2999-11-30,,,C1")) == 2
    capsys.readouterr()
    assert len(imported(settings, tmp_path, "P1,A^B,US1,2999-11-30,09:00,,C1", options=("--replace",))) == 2
    assert "1 from earlier imports, for other days under the same AccessionNumber, stay" in capsys.readouterr().out


def test_a_station_s_day_that_the_file_has_no_row_of_is_not_replaced(
    settings: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, later: Any
) -> None:
    as_root(settings, monkeypatch, later)
    imported(settings, tmp_path, "P1,A^B,US2,2999-11-28,08:30,,", "P9,A^B,US1,2999-11-28,08:30,,")
    lines = ["P2,A^B,US1,2999-11-28,09:00,,", "P3,A^B,US2,2999-11-29,09:00,,"]
    capsys.readouterr()
    left = imported(settings, tmp_path, *lines, options=("--replace",))
    assert left == ["1128 0830 US2", "1128 0900 US1", "1129 0900 US2"]
    said = capsys.readouterr().out
    assert "1 from earlier imports, not in this file, removed from the list" in said
    assert "1 from earlier imports, for a day and a station that this file has, but not in the same row, stay" in said


def test_an_item_that_was_replaced_meanwhile_stays(
    settings: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, later: Any
) -> None:
    as_root(settings, monkeypatch, later)
    imported(settings, tmp_path, "P1,A^B,US1,2999-11-28,08:30,,")
    real = orders.find_leftovers

    def find_leftovers(*arguments: Any) -> Any:
        found = real(*arguments)
        [there] = found["not_in_file"]
        path = settings.worklist_served / there.name
        path.write_bytes(path.read_bytes().replace(b"083000", b"103000"))
        return found

    monkeypatch.setattr("server.worklist.orders.find_leftovers", find_leftovers)
    capsys.readouterr()
    left = imported(settings, tmp_path, "P2,A^B,US1,2999-11-28,09:00,,", options=("--replace",))
    assert left == ["1128 0900 US1", "1128 1030 US1"]
    assert "removed from the list" not in capsys.readouterr().out


def test_only_root_replaces(settings: Any, tmp_path: Path, capsys: Any, writer: None) -> None:
    line = "P1,A^B,US1,2999-11-28,08:30,,"
    assert imported(settings, tmp_path, line, code=2, options=("--replace",)) == []
    assert "only root may remove items from the list. Remedy: run the command as root." in capsys.readouterr().err


def test_what_the_gate_refuses_is_not_called_served(
    settings: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, later: Any
) -> None:
    """The item that it was to replace is still there."""
    as_root(settings, monkeypatch, later)
    assert len(imported(settings, tmp_path, "P1,A^B,US1,2999-11-28,08:30,,A1")) == 1
    [there] = read_served_items(settings)
    row = {"PatientID": "P2", "PatientName": "A^B", "ScheduledStationAETitle": "US1", "AccessionNumber": "A1"}
    row |= {"ScheduledProcedureStepStartDate": "2999-11-28", "StudyInstanceUID": there.study_instance_uid}
    (tmp_path / "one.json").write_text(json.dumps(row))
    later(20)
    assert command(settings, tmp_path, "create", str(tmp_path / "one.json")) == 1
    assert "is in quarantine: " in capsys.readouterr().err


@pytest.mark.parametrize(("age", "code"), [(None, 0), (3600, 0), (0, 1)], ids=["no reason", "an old one", "a new one"])
def test_an_item_whose_study_arrives_during_its_import_is_not_called_refused(
    settings: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, later: Any, age: int | None, code: int
) -> None:
    as_root(settings, monkeypatch, later)
    real = orders.await_verdicts

    def served(held: Any, items: Any, *more: Any) -> None:
        Intake(settings).process_incoming()
        (settings.worklist_served / items[0].name).unlink()
        if age is not None:
            reason = settings.quarantine / f"1-1-{items[0].name}.reason"
            reason.write_text("It is no good.\n")
            os.utime(reason, (reason.stat().st_mtime - age,) * 2)
        real(held, items, *more)

    monkeypatch.setattr("server.worklist.orders.await_verdicts", served)
    assert imported(settings, tmp_path, "P1,A^B,US1,2999-11-28,08:30,,A1", code=code) == []
    assert ("is in quarantine: It is no good." in capsys.readouterr().err) == bool(code)


# --- files of Excel's --------------------------------------------------------------------------
@pytest.mark.usefixtures("writer")
def test_a_workbook_is_scheduled(settings: Any, tmp_path: Path) -> None:
    cells: list[Cell] = [4711, "Müller, Anna", "US1", date(2999, 11, 28), clock(8, 30), "Schilddrüse", None]
    (tmp_path / "day.xlsx").write_bytes(xlsx({"Tabelle1": [[*COLUMNS], [], cells]}))
    assert command(settings, tmp_path, "create", str(tmp_path / "day.xlsx")) == 0
    Intake(settings).process_incoming()
    [found] = read_served_items(settings)
    assert (found.patient_id, found.patient_name) == ("4711", "Müller^Anna")
    assert (found.steps[0]["date"], found.steps[0]["time"]) == ("29991128", "083000")
    content = read_data_set((settings.worklist_served / found.name).read_bytes())
    assert (content.PatientName.family_name, content.PatientName.given_name) == ("Müller", "Anna")


@pytest.mark.usefixtures("writer")
def test_what_is_not_clear_is_asked_back_with_its_row(settings: Any, tmp_path: Path, capsys: Any) -> None:
    lines = ["P1,A^B,US1,11/28/2999,,,", "P2,A^B,US1,01/02/2999,,,", "P3,A^B,US1,28/11/2999,,,"]
    assert imported(settings, tmp_path, *lines, code=1) == []
    said = capsys.readouterr().err
    assert (
        "Row 3: ScheduledProcedureStepStartDate is ambiguous: day first or month first ('01/02/2999'). Remedy: add"
        in said
    )
    assert "Row 4 has the day first, and row 2 has the month. Remedy: " in said
    assert imported(settings, tmp_path, *lines[1:], options=("--date-order", "dmy")) == [
        "0201 0000 US1",
        "1128 0000 US1",
    ]
    with pytest.raises(SystemExit):
        imported(settings, tmp_path, *lines, options=("--encoding", "nonsense"))


@pytest.mark.parametrize(
    ("days", "files", "left"),
    [
        (0, [[("s1", "US1", "09"), ("s2", "US2", "10")]], 1),
        (0, [[("s1", "US1", "09")], [("s2", "US2", "10")]], 2),
        (-1, [[("s1", "US1", "09"), ("s2", "US2", "10")]], 0),  # the day is over
        (0, [[("s1", "US1", "09"), ("s2", "US1", "10")]], 0),
    ],
)
def test_the_images_of_one_device_do_not_end_what_another_has_to_do(
    settings: Any, monkeypatch: Any, later: Any, days: int, files: list[Any], left: int
) -> None:
    settings.orthanc.write_text('{"HttpPort": 1, "ClinicopsRoles": {"it": "admin"}, "RegisteredUsers": {"it": "x"}}')
    found = {
        "LastUpdate": f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}",
        "MainDicomTags": {"StudyInstanceUID": "1.2.3"},
        "PatientMainDicomTags": {},
    }
    monkeypatch.setattr("server.worklist.tidy.find_studies", lambda _api, _query: [found])
    day = f"{date.today() + timedelta(days=days):%Y%m%d}"
    for number, given in enumerate(files):
        drop(settings, f"{number}.wl", steps(*given, day=day))
    later(2)
    Intake(settings).process_incoming()
    tidy_worklist(settings)
    assert len(names(settings.worklist_served)) == left


# --- which study is the item's --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("study", "dated", "last", "is_its"),
    [
        ("1.2.3", "20261125", "20261125T090000", True),
        # the same study, of an earlier step or at last of this one
        ("1.2.3", "20261123", "20261123T090000", False),
        ("1.2.3", "20261123", "20261125T090000", True),
        # a UID of the scanner's
        ("1.9", "20261125", "20261125T090000", True),
        ("1.9", "", "20261125T090000", True),
        ("1.9", "20261126", "20261126T000500", True),  # past midnight
        ("1.9", "20261125", "20261125T074500", False),  # before the item was made
        ("1.9", "20261123", "20261123T090000", False),  # another day of the treatment
        ("1.9", "20261001", "20261125T090000", False),  # imported
        ("1.9", "20271001", "20261124T090000", False),  # a scanner's clock that is wrong
        ("1.2.3", "20261125", "", False),  # somebody deleted that metadata
    ],
)
def test_what_was_received_for_an_item(
    study: str, dated: str, last: str, is_its: bool, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    scheduled = parse_item(written(item()), settings)
    made = datetime(2026, 11, 25, 8, 0, 0, 500_000, tzinfo=timezone.utc).timestamp()
    found = {"LastUpdate": last, "MainDicomTags": {"StudyInstanceUID": study, "StudyDate": dated}}
    assert is_study_of(scheduled, made, found) is is_its


def test_an_item_of_two_days_is_over_with_the_second(settings: Any) -> None:
    content = item()
    later = item(ScheduledProcedureStepStartDate="20261127").ScheduledProcedureStepSequence[0]
    content.ScheduledProcedureStepSequence.append(later)
    scheduled = parse_item(written(content), settings)
    for last, is_its in (("20261125T120000", False), ("20261127T120000", True)):
        found = {"LastUpdate": last, "MainDicomTags": {"StudyInstanceUID": "1.2.3", "StudyDate": "20261125"}}
        assert is_study_of(scheduled, 0.0, found) is is_its


def test_each_day_of_a_treatment_is_an_item_of_its_own(settings: Any) -> None:
    row = {"PatientID": "P1", "PatientName": "ROE^JANE", "AccessionNumber": "C1", "ScheduledStationAETitle": "US1"}
    made = [
        build_item({**row, "ScheduledProcedureStepStartDate": day, **more}, settings, {})[0].name
        for day, more in (
            ("29991201", {}),
            ("29991203", {}),
            ("29991201", {"ScheduledProcedureStepStartTime": "0930"}),  # at another time: the same appointment
        )
    ]
    assert made[0] == made[2] != made[1]


def test_an_item_that_is_handed_over_again_is_as_old_as_it_was(settings: Any) -> None:
    intake = Intake(settings)
    scheduled = parse_item(written(item()), settings)
    path = settings.worklist_served / scheduled.name
    intake.serve_item(scheduled)
    os.utime(path, (1000, 1000))
    intake.serve_item(scheduled)
    assert read_served_time(settings, scheduled) == 1000
    intake.serve_item(parse_item(written(item(PatientName="ROE^MARY")), settings))
    assert read_served_time(settings, scheduled) > 1000
