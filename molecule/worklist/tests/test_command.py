"""The command as a clinic without an application of its own uses it: a spreadsheet, and what goes wrong with it."""

from __future__ import annotations

import json
import os

import pytest
from clients import put
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import QUARANTINE, Item, ask, command, csv, day, drop, empty, look, names, patients, plain, settle, sh

OLDER, NEWER = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
HEAD = "PatientID;PatientName;ScheduledStationAETitle;ScheduledProcedureStepStartDate;ScheduledProcedureStepStartTime\n"


# one machine in make test, the other one in the campaign
@pytest.fixture(scope="module", params=[pytest.param(OLDER, marks=pytest.mark.campaign), NEWER])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def clean(machine: str) -> None:
    empty(machine)


def create(machine: str, text: str | bytes, *arguments: str, user: str = "root") -> tuple[int, str]:
    stdin = text if isinstance(text, bytes) else text.encode()
    return command(machine, "create", *arguments, "-", stdin=stdin, user=user)


def test_a_spreadsheet_s_rows_are_scheduled_and_listed(machine: str) -> None:
    today = f"{day()[:4]}-{day()[4:6]}-{day()[6:]}"
    rows = f"P1;MÜLLER^ANNA;US1;{today};08:00\nP2;MUSTER^BERTA;US4;{day()};0900\n"
    status, said = create(machine, "\ufeff" + HEAD + rows, "--json")  # as Excel saves UTF-8
    assert status == 0, said
    made = json.loads(said)["items"]
    assert [item["patient_id"] for item in made] == ["P1", "P2"]
    status, said = command(machine, "list", "--json")
    assert status == 0
    listed = json.loads(said)["items"]
    assert {item["study_instance_uid"] for item in listed} == {item["study_instance_uid"] for item in made}
    assert names(machine) == ["P1"]
    [answer] = ask(machine)
    step = answer.ScheduledProcedureStepSequence[0]
    assert (str(answer.PatientName), step.Modality) == ("MÜLLER^ANNA", "US")
    assert (step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime) == (day(), "080000")
    assert answer.AccessionNumber == made[0]["accession_number"]
    assert answer.StudyInstanceUID == made[0]["study_instance_uid"]
    # the same rows again are the same items
    assert json.loads(create(machine, HEAD + rows, "--json")[1])["items"] == made
    assert names(machine) == ["P1"]


def test_every_bad_row_is_named_and_nothing_is_written(machine: str) -> None:
    good = "".join(f"P{number};MUSTER^ANNA;US1;{day()};0800\n" for number in range(10))
    bad = f";MUSTER^ANNA;US1;{day()};0800\nP98;MUSTER^ANNA;CT99;{day()};0800\nP99;MUSTER^ANNA;US1;31.11.2026;0800\n"
    status, said = create(machine, HEAD + good + bad)
    assert status == 1
    for number, what in ((12, "PatientID"), (13, "ScheduledStationAETitle"), (14, "ScheduledProcedureStepStartDate")):
        assert f"Row {number}: {what}" in said
    assert "Row 2:" not in said
    assert said.count("Remedy:") >= 4
    found = look(machine)
    assert (found["served"], found["waiting"], found["quarantine"]) == ({}, [], {})
    status, said = create(machine, HEAD + good + bad, "--json")
    assert status == 1
    assert len(json.loads(said)["problems"]) >= 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PatientID,PatientNam\n1,2\n", "PatientName"),
        ("", "no row"),
        (HEAD, "no row"),
        ("{broken", "not JSON"),
        (HEAD.encode() + b"P1;M\xdcLLER^ANNA;US1;20260101;0800\n", "not in UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused(machine: str, text: str | bytes, said: str) -> None:
    status, output = create(machine, text)
    assert (status, said in output, "Remedy" in output) == (1, True, True), output


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["list", "--nonsense"], ["remove"], ["create", "/nowhere.csv"]]
)
def test_wrong_usage_is_2(machine: str, arguments: list[str]) -> None:
    assert command(machine, *arguments)[0] == 2


def test_json_schedules_as_well(machine: str) -> None:
    row = Item("JSON", name="山田^太郎").row()
    status, said = create(machine, json.dumps([row]))
    assert status == 0, said
    assert str(patients(machine)["JSON"].PatientName) == "山田^太郎"


def test_an_application_s_user_schedules_by_the_command(machine: str) -> None:
    status, said = create(machine, csv([Item("RIS")]), user="ris")
    assert status == 0, said
    settle(machine)
    assert names(machine) == ["RIS"]


def test_who_is_no_writer_may_not(machine: str) -> None:
    assert create(machine, csv([Item("OPERATOR")]), user="operator")[0] == 2
    for arguments in (["list"], ["remove", "ARIS"]):
        assert command(machine, *arguments, user="ris")[0] == 2
    assert look(machine)["served"] == {}


def test_remove_takes_one_item_off_the_list(machine: str) -> None:
    items = [Item("P1"), Item("P2"), Item("P3")]
    assert create(machine, csv(items))[0] == 0
    status, said = command(machine, "remove", items[0].accession, items[1].study)
    assert status == 0, said
    assert names(machine) == ["P3"]
    status, said = command(machine, "remove", items[0].accession)
    assert status == 1
    assert items[0].accession in said
    assert "Remedy" in said


def test_check_says_it_and_changes_nothing(machine: str) -> None:
    item = Item("CHECKED")
    put(machine, "/tmp/good.wl", item.file())
    put(machine, "/tmp/bad.wl", Item("CHECKED", station="CT99").file())
    status, said = command(machine, "check", "--json", "/tmp/good.wl")
    assert status == 0, said
    [told] = json.loads(said)["items"]
    assert told["study_instance_uid"] == item.study
    status, said = command(machine, "check", "/tmp/good.wl", "/tmp/bad.wl")
    assert status == 1
    assert "/tmp/bad.wl: ScheduledStationAETitle" in said
    assert "/tmp/good.wl:" not in said
    assert look(machine)["served"] == {}


def test_the_quarantine_is_listed_with_its_reasons(machine: str) -> None:
    drop(machine, [plain("large", b"", "zeros", size=2 << 20, sparse=False)])
    settle(machine)
    status, said = command(machine, "list", "--quarantine", "--json")
    assert status == 0, said
    [held] = json.loads(said)["quarantine"]
    assert "large" in held["file"]
    assert "ris" in held["reason"]
    assert "Remedy" in held["reason"]
    assert sh(machine, f"test -e {QUARANTINE}/{held['file']}.reason")[0] == 0


def test_what_waits_is_listed(machine: str) -> None:
    drop(machine, [{**plain("unfinished", Item("P1").file()), "name": "unfinished.part"}])
    status, said = command(machine, "list", "--waiting", "--json")
    assert (status, json.loads(said)["waiting"]) == (0, ["unfinished.part"])
