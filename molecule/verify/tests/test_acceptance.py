"""The acceptance test on the server: sound, sabotaged in a dozen ways, interrupted, and without a trace."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from typing import Any

import pydicom
import pytest
from backups import must
from clients import PASSWORDS, example, name_of, play, put, wait_for
from pydicom.uid import generate_uid
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from verified import (
    NAME,
    PREFIX,
    PROGRAM,
    SABOTAGES,
    Sabotage,
    call,
    failed,
    is_container,
    logged,
    patients,
    rest,
    traces,
)
from watched import changed
from worklists import sh

ADMIN = f"it:{PASSWORDS['it']}"
SETTINGS = "/etc/orthanc-verify.json"
MACHINES = ["orthanc-verify12", "orthanc-verify13"]
# for what goes through Ansible; the rest is parametrized
testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]


@pytest.fixture(name="machine", params=MACHINES)
def fixture_machine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    must(name, "command -v curl || apt-get install -qq -y curl")
    return name


def test_a_sound_deployment_passes_and_says_what_it_is(machine: str) -> None:
    status, report, said = call(machine, "run")
    assert (status, report["passed"]) == (0, True), said
    assert report["host"] == machine
    assert {"Orthanc", "DICOMweb", "Worklists", "System"} <= set(report["versions"])
    assert ("Image" in report["versions"]) == is_container(machine)
    assert report["certificates"][0]["days"] > 14
    assert [device["tls"] for device in report["devices"]] == [False, False, not is_container(machine)]
    assert {check["group"] for check in report["checks"]} >= {"DICOM", "Worklist", "DICOMweb", "Access", "Service"}
    written = json.loads(must(machine, "cat /var/lib/orthanc-verify/report.json"))
    assert written == report
    assert must(machine, "stat -c '%a %U' /var/lib/orthanc-verify/report.json /etc/orthanc-verify.json").split() == [
        *("640", "root", "600", "root")
    ]
    for password in PASSWORDS.values():
        assert password not in json.dumps(report) + logged(machine)


@pytest.mark.parametrize(
    ("where", "sabotage"),
    [
        pytest.param(
            machine, one, id=f"{one.name}-{machine}", marks=[pytest.mark.campaign] if number % len(one.machines) else []
        )
        for index, one in enumerate(SABOTAGES)
        # each on one machine in make test, on the other in the campaign
        for number, machine in enumerate(one.machines if index % 2 else one.machines[::-1])
    ],
)
def test_a_sabotage_fails_the_right_check(where: str, sabotage: Sabotage) -> None:
    with sabotage.done(where):
        found = failed(where)
        assert sabotage.check in found
        if sabotage.only:
            assert found == {sabotage.check}
    assert failed(where) == set()
    assert traces(where) == []


# what the settings allow with a waiver, or without one, and what then is not as usual
ALLOWED = [
    pytest.param({"IngestTranscoding": "1.2.840.10008.1.2"}, "", 0, id="implicit"),
    pytest.param({"IngestTranscoding": "1.2.840.10008.1.2.4.70"}, "", 0, id="JPEG"),
    pytest.param({"IngestTranscoding": "1.2.840.10008.1.2.4.80"}, "", 0, id="JPEG-LS"),
    pytest.param({"IngestTranscoding": "1.2.840.10008.1.2.4.50"}, "lossy_ingest", 2, id="lossy"),
    pytest.param({"DicomAlwaysAllowEcho": True}, "any_device", 4, id="echo"),
    pytest.param({"DicomAlwaysAllowEcho": True, "DicomAlwaysAllowStore": True}, "any_device", 5, id="echo and store"),
    pytest.param({"RemoteAccessAllowed": True}, "remote_access", 1, id="remote access"),
]


@pytest.mark.parametrize(("options", "rule", "least"), ALLOWED)
@pytest.mark.parametrize("where", [MACHINES[0], pytest.param(MACHINES[1], marks=pytest.mark.campaign)])
def test_what_a_clinic_may_set_passes(where: str, options: dict[str, Any], rule: str, least: int) -> None:
    """Settings that make Orthanc take or keep more, or otherwise, than usual."""
    waive = f"c['waivers'] = {{{rule!r}: 'the clinic lends machines'}}" if rule else "pass"
    container = is_container(where) and rule == "remote_access"  # its ports are published on loopback alone
    with changed(where, SETTINGS, waive), Sabotage("", "", edit=f"it.update({options!r})").done(where):
        _status, report, said = call(where, "run")
    assert report["passed"], said
    waived = [check["name"] for check in report["checks"] if check["waiver"]]
    assert len(waived) >= (0 if container else least), waived
    assert bool(waived) == (bool(rule) and not container)
    assert traces(where) == []


def test_nothing_of_the_patient_stays(machine: str) -> None:
    before = rest(machine, "/statistics")
    assert call(machine, "run")[0] == 0
    after = rest(machine, "/statistics")
    assert [after[f"Count{level}"] for level in ("Patients", "Studies", "Instances")] == [
        before[f"Count{level}"] for level in ("Patients", "Studies", "Instances")
    ]
    assert traces(machine) == []
    assert NAME not in logged(machine)


class Running:
    """orthanc-verify run in the background, until its patient is in Orthanc."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.process = subprocess.Popen(
            ["docker", "exec", machine, "sh", "-c", f"echo $$ >/tmp/verify.pid; exec {PROGRAM} run"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: patients(machine) or self.process.poll() is not None, "the patient is there", pause=0.1)
        assert self.process.poll() is None

    def end(self, signal: str) -> tuple[int, str]:
        must(self.machine, f"kill -{signal} $(cat /tmp/verify.pid)")
        _out, said = self.process.communicate(timeout=300)
        return self.process.returncode, said


@pytest.mark.parametrize("signal", ["TERM", pytest.param("INT", marks=pytest.mark.campaign)])
def test_an_interrupted_run_takes_its_patient_away(machine: str, signal: str) -> None:
    status, said = Running(machine).end(signal)
    assert status == 1
    assert f"Interrupted (SIG{signal})" in said
    assert traces(machine) == []


@pytest.mark.parametrize("command", ["run", "clean"])
def test_after_kill_9_the_next_one_takes_it_away(machine: str, command: str) -> None:
    Running(machine).end("KILL")
    # what an application's half-written item leaves, and what power that fails in the middle does
    must(machine, f"touch /srv/worklists/incoming/{PREFIX}0123.part")
    assert patients(machine) != []
    status, said, complaints = call(machine, command)
    assert status == 0, complaints
    assert command == "run" or said["removed"]["patients"] == 1
    assert traces(machine) == []


@pytest.mark.campaign
@pytest.mark.parametrize("moment", [number / 4 for number in range(1, 17)])
def test_killed_at_any_moment(machine: str, moment: float) -> None:
    sh(machine, f"timeout --signal=KILL {moment} {PROGRAM} run")
    status, _, complaints = call(machine, "clean")
    assert status == 0, complaints
    assert traces(machine) == []


def cron(machine: str) -> int:
    """The line of cron as cron runs it."""
    line = must(machine, "grep orthanc-verify /etc/cron.d/orthanc-verify")
    found = re.fullmatch(r"\d+ 5 \* \* \* root (.*)", line.strip())
    assert found, line
    return sh(machine, f"env -i PATH=/usr/bin:/bin sh -c '{found[1]}'")[0]


def list_errors(machine: str, since: str) -> str:
    """What orthanc-verify said in the journal at priority `err` since this moment."""
    must(machine, "journalctl --sync")
    command = f"journalctl --output=cat --no-pager --priority=err -t orthanc-verify --since=@{since}"
    return must(machine, command).replace("-- No entries --", "").strip()


def test_cron_is_silent_or_loud_in_the_journal(machine: str) -> None:
    now = "date +%s.%6N"
    since = must(machine, now).strip()
    assert cron(machine) == 0
    assert list_errors(machine, since) == ""
    must(machine, "systemctl stop orthanc-worklist.path orthanc-worklist.service")
    try:
        assert cron(machine) == 1
        after_cron = list_errors(machine, since)
        # and after updates that were installed by themselves
        since = must(machine, now).strip()
        must(machine, "touch /var/log/apt/history.log; systemctl start apt-daily-upgrade.service")
        after_updates = list_errors(machine, since)
    finally:
        must(machine, "systemctl start orthanc-worklist.path")
    said = "FAILED worklist query finds the patient: expected: found; actual: still waiting in"
    for told in (after_cron, after_updates):
        assert f"{said} /srv/worklists/incoming, the worklist service is stopped" in told


def test_items_that_are_done_are_taken_away_at_any_moment(machine: str) -> None:
    """The timer may fire while the synthetic patient has an item and images."""
    tidy = "while :; do /usr/local/bin/orthanc-worklist tidy; done"
    must(machine, f"setsid sh -c '{tidy}' >/dev/null 2>&1 </dev/null & echo $! >/tmp/tidy.pid")
    try:
        assert [failed(machine) for _run in range(3)] == [set()] * 3
    finally:
        must(machine, "kill -- -$(cat /tmp/tidy.pid)")


def asked(host: Host, module: str, **options: Any) -> Any:
    """What a module of the collection returns on the machine, whether it fails or not."""
    try:
        return host.ansible(f"clinicops.orthanc.{module}", json.dumps(options), check=False)
    except host.ansible.AnsibleException as failure:
        return failure.result


def test_the_modules_say_what_the_server_answers(host: Host) -> None:
    peer = {"called_aet": "ORTHANC", "calling_aet": "ACCEPTANCE_TEST"}
    assert asked(host, "dicom_echo", **peer)["outcome"] == "accepted"
    refused = asked(host, "dicom_echo", **{**peer, "calling_aet": "NOBODY"})
    assert (refused["outcome"], refused["detail"]) == ("rejected", "Calling AE Title Not Recognized")
    assert "C-ECHO to ORTHANC at 127.0.0.1:4242 as NOBODY was not accepted" in refused["msg"]
    assert asked(host, "dicom_echo", **peer, port=4243)["outcome"] == "unreachable"
    found = asked(host, "dicom_find_worklist", **peer)
    assert (found["outcome"], found["worklist"]) == ("accepted", [])


def test_a_stored_image_comes_back(host: Host) -> None:
    machine, path = name_of(host), "/root/image.dcm"
    image = pydicom.dcmread(example())
    image.StudyInstanceUID, image.SeriesInstanceUID, image.PatientID = generate_uid(), generate_uid(), "ROUND-TRIP"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    with io.BytesIO() as buffer:
        image.save_as(buffer)
        put(machine, path, buffer.getvalue())
    trip = {
        **{"hostname": "pacs.clinic.example", "address": "127.0.0.1", "ca_file": "/etc/nginx/orthanc/ca.crt"},
        **{"user": "viewer", "password": PASSWORDS["viewer"], "path": path},
    }
    try:
        assert "finds 0 studies" in asked(host, "dicomweb_round_trip", **trip)["msg"]
        stored = asked(host, "dicom_store", path=path, called_aet="ORTHANC", calling_aet="ACCEPTANCE_TEST")
        assert (stored["outcome"], stored["changed"]) == ("accepted", True)
        read = asked(host, "dicomweb_round_trip", **trip)
        assert (read["compared"], read["changed"]) == ("bit-identical", False)
        assert read["retrieve_url"] == f"https://pacs.clinic.example/dicom-web/studies/{image.StudyInstanceUID}"
        refused = asked(host, "dicomweb_round_trip", **trip, store=True)
        assert "STOW-RS as viewer: HTTP status 403" in refused["msg"]
        # another image than the one that is there
        must(machine, f"dcmodify --no-backup --modify '(0010,0010)=ANOTHER' {path}")
        assert asked(host, "dicomweb_round_trip", **trip)["compared"] == "different"
    finally:
        query = {"Level": "Patient", "Query": {"PatientID": "ROUND-TRIP"}}
        for patient in rest(machine, "/tools/find", query):
            must(machine, f"curl --silent --request DELETE --user {ADMIN} http://127.0.0.1:8042/patients/{patient}")


def test_the_playbook_shows_it_and_changes_nothing(host: Host) -> None:
    status, said = play("verify", host)
    assert status == 0, said
    assert "changed=0" in said
    assert re.search(r"passed worklist query finds the patient found", said)
    assert re.search(r"passed port 4242 \(dicom\) from localhost", said)
    assert ", 0 failed" in said
