"""One deleted study comes back alone, through Orthanc, while everything else goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from backups import STORAGE, backup, done, held, main_process, must, refused
from studies import (
    Stored,
    all_readable,
    ask,
    changed,
    file_of,
    identifier,
    make,
    readable,
    remove,
    send,
    whole_on_disk,
)
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


# the other one is the campaign's
@pytest.fixture(params=[testinfra_hosts[1], pytest.param(testinfra_hosts[0], marks=pytest.mark.campaign)])
def machine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Orthanc is not stopped, whatever the test does."""
    name = str(request.param)
    before = main_process(name)
    yield name
    assert main_process(name) == before
    assert must(name, f"ls -A {STORAGE} | grep -c '^.restore-' || true").strip() == "0"
    assert must(name, "ls -A /var/lib/orthanc-backup").find("study\n") < 0


def test_a_deleted_study_comes_back_by_its_accession_number(machine: str) -> None:
    wanted, other = make(), make()
    send(machine, wanted, other)
    snapshot = done(machine, "run")["snapshot"]
    remove(machine, wanted.uid)
    done(machine, "run")  # the newest snapshot does not have it any more
    everything = held(machine)

    would = done(machine, "restore", "--study", wanted.accession, "--dry-run")
    assert (would["snapshot"], would["study"]) == (snapshot, wanted.uid)
    assert "4 of 4 images" in would["would"]
    assert sorted(would["series"].values()) == [2, 2]
    assert held(machine) == everything

    said = done(machine, "restore", "--study", wanted.accession)
    assert (said["snapshot"], said["restored"], said["left"]) == (snapshot, 4, [])
    assert {one["uid"] for one in said["images"]} == {*wanted.files}
    assert all_readable(machine, wanted, other)
    assert {uid: md5 for uid, md5 in held(machine).items() if uid in everything} == everything
    # again, by the UID: nothing is left to do
    said = done(machine, "restore", "--study", wanted.uid)
    assert (said["there"], said["left"]) == (4, [])


def test_several_studies_under_one_accession_number_are_listed(machine: str) -> None:
    first = make(patient="FIRST")
    second = make(accession=first.accession, patient="SECOND")
    send(machine, first, second)
    done(machine, "run")
    remove(machine, first.uid, second.uid)
    before = held(machine)
    said = refused(machine, "restore", "--study", first.accession)
    assert all(word in said for word in (first.uid, second.uid, "FIRST", "SECOND", "--study"))
    assert held(machine) == before
    done(machine, "restore", "--study", second.uid)
    assert all_readable(machine, second)
    assert readable(machine, first) == []


def test_what_is_missing_or_altered_is_put_in_and_the_rest_stays(machine: str) -> None:
    study = make()
    send(machine, study)
    snapshot = done(machine, "run")["snapshot"]
    there, deleted, missing, altered = study.files
    remove(machine, deleted)
    must(machine, f"rm {file_of(machine, missing)}")
    path = file_of(machine, altered)
    must(machine, f"truncate --size=-1 {path} && printf x >> {path}")
    said = done(machine, "restore", "--study", study.uid, "--snapshot", snapshot)
    assert (said["there"], said["restored"], said["left"]) == (1, 3, [])
    assert {one["uid"] for one in said["images"] if one["state"] == "there"} == {there}
    assert all_readable(machine, study)
    assert whole_on_disk(machine, study)
    # nothing is deleted: what was altered lies aside
    assert must(machine, f"find {STORAGE}/.quarantine-* -name {path.rpartition('/')[2]}").strip()
    must(machine, f"rm -r {STORAGE}/.quarantine-*")


def test_another_image_with_the_same_uids_is_told(machine: str) -> None:
    study = make(series=1)
    send(machine, study)
    done(machine, "run")
    remove(machine, study.uid)
    others = Stored(study.uid, study.accession, study.patient, dict(study.files))
    first = next(iter(study.files))
    others.files[first] = changed(study.files[first])
    send(machine, others)
    status, said = backup(machine, "restore", "--study", study.uid)
    assert status == 1
    assert said["left"] == [f"{first} differs"]
    assert all_readable(machine, others)
    remove(machine, study.uid)


def test_compressed_images_come_back(machine: str) -> None:
    study = make(series=1)
    send(machine, study)
    for uid in study.files:
        assert ask(machine, "POST", f"{identifier(machine, uid)}/attachments/dicom/compress")[0] == 200
    done(machine, "run")
    remove(machine, study.uid)
    assert done(machine, "restore", "--study", study.uid)["restored"] == 2
    assert all_readable(machine, study)


def test_a_study_that_no_snapshot_has(machine: str) -> None:
    number = len([one for one in done(machine, "list")["snapshots"] if one["proven"]])
    said = refused(machine, "restore", "--study", "NOT-THERE")
    assert f"in none of {number} proven snapshots" in said


def test_the_disk_guard_refuses_with_the_remedy(machine: str) -> None:
    study = make(series=1)
    send(machine, study)
    done(machine, "run")
    remove(machine, study.uid)
    # the monitor would take the disk guard away
    must(
        machine, f"systemctl stop orthanc-monitor.timer orthanc-monitor.service && touch {STORAGE}/.orthanc-disk-guard"
    )
    try:
        assert "make space" in refused(machine, "restore", "--study", study.uid)
        assert done(machine, "restore", "--study", study.uid, "--dry-run")["would"]
    finally:
        must(machine, f"rm {STORAGE}/.orthanc-disk-guard; systemctl start orthanc-monitor.timer")
    done(machine, "restore", "--study", study.uid)
    assert all_readable(machine, study)
