"""A snapshot against those before it: a lost index, a copy of the machine, a wrong clock, and old snapshots."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

import pytest
from backups import (
    OWN,
    REST,
    STORAGE,
    STORE,
    STORE_ADDRESS,
    answers,
    attachment,
    configured,
    delete,
    done,
    held,
    held_in,
    lacking,
    listed,
    must,
    refused,
    restic,
    sent_digests,
    service,
    state,
    stored,
)
from clients import put, wait_for
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


READY: set[str] = set()  # machines that the test before has left with a proven snapshot of everything


def around(machine: str) -> Iterator[str]:
    """A proven snapshot of everything before and after, whatever comes between."""
    if machine not in READY:
        done(machine, "run")
    READY.discard(machine)
    yield machine
    must(machine, f"rm -rf {STORAGE}/.set-aside-* /root/lost /root/state-*")
    done(machine, "run")
    READY.add(machine)


@pytest.fixture(params=testinfra_hosts)
def machine(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from around(str(request.param))


# the package in make test, the container in the campaign
@pytest.fixture(params=[testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)])
def either(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from around(str(request.param))


@contextlib.contextmanager
def standing(machine: str) -> Iterator[None]:
    """Orthanc is stopped meanwhile, and answers afterwards."""
    service(machine, "stop")
    yield
    service(machine, "start")
    wait_for(lambda: answers(machine), "Orthanc", 120)


def lose_index(machine: str) -> None:
    with standing(machine):
        must(machine, f"mkdir -p /root/lost && mv {STORAGE}/index* /root/lost")


def save(machine: str, name: str) -> None:
    """What a snapshot of the virtual machine would hold."""
    with standing(machine):
        must(machine, f"tar -C / -cf /root/state-{name} {STORAGE[1:]} {OWN[1:]}")


def put_back(machine: str, name: str) -> None:
    """The virtual machine as it was then: time and repository have gone on."""
    with standing(machine):
        must(machine, f"find {STORAGE} {OWN} -mindepth 1 -delete && tar -C / -xf /root/state-{name}")


def snapshot(machine: str, identity: str) -> dict[str, object]:
    [found] = [one for one in done(machine, "list")["snapshots"] if one["id"] == identity]
    return dict(found)


def restored(machine: str, identity: str) -> dict[str, str]:
    """What a snapshot gives back, bit by bit."""
    target = f"/var/tmp/restored-{identity}"
    found = held_in(machine, done(machine, "restore", "--snapshot", identity, "--target", target)["data"])
    must(machine, f"rm -rf {target}")
    return found


def keeping(machine: str, **keep: int) -> str:
    return configured(machine, "/root/keeping.json", keep=keep)


def test_an_index_that_is_lost_stands_for_no_archive(machine: str) -> None:
    before = stored(machine, 5)
    good = done(machine, "run")["snapshot"]
    everything = held(machine)
    lose_index(machine)
    assert held(machine) == {}
    # what comes in between is taken, and is not all there is
    between = stored(machine, 1)

    said = refused(machine, "run")

    assert f"does not continue from snapshot {good}" in said
    assert "fell from" in said or "image files in the storage directory" in said
    newest = done(machine, "list")["snapshots"][-1]
    assert newest["proven"] is False
    assert f"orthanc-backup accept {newest['id']}" in said
    assert restored(machine, newest["id"]) == sent_digests(between)  # the data is there all the same
    # each day, until somebody decides
    assert f"does not continue from snapshot {good}" in refused(machine, "run")
    noted = state(machine, "backup")
    assert (noted["result"], noted["reason"].count(good)) == ("failed", 2)
    must(machine, "orthanc-monitor look")
    alert = json.loads(must(machine, "orthanc-monitor show --json || true"))["alerts"]["BackupFailed/"]
    assert f"does not continue from snapshot {good}" in alert["detail"]
    # the restore check reads what is proven, and the retention removes none of it
    check = done(machine, "check", config=keeping(machine, last=1))
    assert (check["snapshot"], check["of"] > 0, check["verified"]) == (good, True, check["of"])
    assert good in listed(machine)

    back = done(machine, "restore")

    assert back["snapshot"] == good
    wait_for(lambda: answers(machine), "Orthanc", 120)
    assert held(machine) == everything
    assert {(one["aet"], one["study"]) for one in back["resend"]} >= {(one.aet, one.study) for one in between}
    must(machine, f"rm -rf {back['set_aside']}")
    assert done(machine, "run")["judgement"] == ""
    assert restored(machine, listed(machine)[-1]) == everything
    assert lacking(everything, before) == []
    # of what came in between only the unproven snapshot knows
    done(machine, "check", config=keeping(machine, last=1))
    assert newest["id"] in listed(machine)


def test_a_copy_of_the_machine_is_noticed(machine: str) -> None:
    stored(machine, 2)
    done(machine, "run")
    save(machine, "copy")
    true = stored(machine, 2)
    good = done(machine, "run")["snapshot"]
    save(machine, "true")
    put_back(machine, "copy")
    strange = stored(machine, 1)
    everything_strange = held(machine)

    said = refused(machine, "run")  # the copy is the second one that writes

    assert "Another machine has added 1 snapshots" in said
    assert good in said
    copys = listed(machine)[-1]
    assert snapshot(machine, copys)["proven"] is False
    # its retention removes nothing of the true one
    done(machine, "check", config=keeping(machine, last=1))
    assert good in listed(machine)
    put_back(machine, "true")
    assert lacking(held(machine), true) == []
    assert done(machine, "restore", "--dry-run")["snapshot"] == good
    said = refused(machine, "run")
    assert "Another machine has added 1 snapshots" in said
    assert copys in said
    newest = listed(machine)[-1]
    accepted = done(machine, "accept", newest, "--reason", "the copy is switched off")
    assert accepted["others"] == [copys]
    assert snapshot(machine, accepted["accepted"])["proven"] is True
    later = stored(machine, 1)
    last = done(machine, "run")
    assert done(machine, "restore", "--dry-run")["snapshot"] == last["snapshot"]
    assert lacking(restored(machine, last["snapshot"]), true + later) == []
    # what only the copy's holds stays, though its internal ids are the true one's as well
    done(machine, "check", config=keeping(machine, last=1))
    assert restored(machine, copys) == everything_strange
    assert lacking(everything_strange, strange) == []
    # and a machine that remembers nothing takes none of it for its own
    must(machine, f"rm -r {OWN}/history.json {OWN}/contents")
    assert done(machine, "restore", "--dry-run")["snapshot"] == last["snapshot"]
    assert done(machine, "run")["result"] == "success"


WRAPPER = """#!/bin/sh
[ "$1" = backup ] && exec /usr/bin/restic "$@" --time "2042-01-01 00:00:00"
exec /usr/bin/restic "$@"
"""


def test_a_wrong_clock_takes_no_snapshot_s_place(either: str) -> None:
    machine = either
    put(machine, "/usr/local/bin/restic", WRAPPER.encode())
    must(machine, "chmod 755 /usr/local/bin/restic")
    try:
        ahead = done(machine, "run")["snapshot"]
    finally:
        must(machine, "rm /usr/local/bin/restic")
    assert str(snapshot(machine, ahead)["time"]).startswith("2042")
    images = stored(machine, 1)
    true = [done(machine, "run")["snapshot"] for _ in range(5)]
    assert done(machine, "restore", "--dry-run")["snapshot"] == true[-1]
    assert done(machine, "check", config=keeping(machine, last=4))["snapshot"] == true[-1]
    assert [one for one in listed(machine) if one in true] == true[-4:]
    done(machine, "check", config=keeping(machine, last=1))
    assert [one for one in listed(machine) if one in true] == true[-1:]
    assert lacking(restored(machine, true[-1]), images) == []
    assert restic(machine, "forget", str(snapshot(machine, ahead)["restic"]))[0] == 0


def test_the_last_snapshot_that_holds_an_image_stays(either: str) -> None:
    machine = either
    first = done(machine, "run")["snapshot"]
    gone, lost = stored(machine, 1, aets=["US1"]), stored(machine, 1, aets=["US2"])
    holder = done(machine, "run")["snapshot"]
    delete(machine, gone)
    after_it = done(machine, "run")
    third = done(machine, "run")["snapshot"]
    done(machine, "check", config=keeping(machine, last=1))
    # what a user deleted is no reason to keep a snapshot
    assert {first, holder}.isdisjoint(listed(machine))
    more = stored(machine, 1, aets=["US3"])
    holder = done(machine, "run")["snapshot"]
    back = done(machine, "restore", "--snapshot", third)
    wait_for(lambda: answers(machine), "Orthanc", 120)
    must(machine, f"rm -rf {back['set_aside']}")
    stored(machine, 2, aets=["US4"])  # with internal ids that the lost image had
    done(machine, "run")
    done(machine, "run")
    check = done(machine, "check", config=keeping(machine, last=1))
    assert holder in listed(machine)
    assert snapshot(machine, holder)["kept"] == "1 images that no newer snapshot holds"
    assert (check["held"] >= 1, after_it["deleted_since"]) == (True, 1)
    assert third not in listed(machine)
    assert lacking(restored(machine, holder), more + lost) == []
    assert lacking(held(machine), lost) == []
    must(machine, "orthanc-backup list | grep -q 'kept: 1 images that no newer snapshot holds'")


def test_a_person_accepts_by_name(either: str) -> None:
    machine = either
    old = stored(machine, 1)
    good = done(machine, "run")["snapshot"]
    everything = held(machine)
    lose_index(machine)
    new = stored(machine, 1)
    refused(machine, "run")
    first = listed(machine)[-1]
    assert "is proven" in refused(machine, "accept", good)
    path = attachment(machine, new[0].uid)
    must(machine, f"mv {path} /root/kept")
    refused(machine, "run")
    incomplete = listed(machine)[-1]
    assert "is missing" in refused(machine, "accept", incomplete)
    must(machine, f"mv /root/kept {path}")

    accepted = done(machine, "accept", first, "--reason", "the archive was moved to another server")["accepted"]

    assert snapshot(machine, accepted)["proven"] is True
    assert done(machine, "run")["judgement"] == ""
    must(machine, f"mv {OWN}/history.json /root/history.json")  # its mark says so as well
    assert snapshot(machine, accepted)["proven"] is True
    must(machine, f"mv /root/history.json {OWN}/history.json")
    done(machine, "check", config=keeping(machine, last=1))
    # the line of before has ended, and what it held was not deleted
    assert good in listed(machine)
    assert restored(machine, good) == everything
    assert lacking(everything, old) == []
    # as it was
    restore = done(machine, "restore", "--snapshot", good)
    wait_for(lambda: answers(machine), "Orthanc", 120)
    must(machine, f"rm -rf {restore['set_aside']}")
    assert held(machine) == everything


def test_where_no_mark_can_be_changed_it_is_right_from_the_beginning() -> None:
    machine, own = testinfra_hosts[1], "/var/lib/orthanc-backup-append"
    repository = f"rest:http://{STORE_ADDRESS}:8001/{machine}/"
    config = configured(machine, repository=repository, environment=REST, append_only=True, directory=own)
    done(machine, "run")
    done(machine, "init", config=config)
    good = done(machine, "run", config=config)["snapshot"]
    everything = held(machine)
    lose_index(machine)
    assert f"does not continue from snapshot {good}" in refused(machine, "run", config=config)

    def proven() -> list[bool]:
        return [one["proven"] for one in done(machine, "list", config=config)["snapshots"]]

    assert proven() == [True, False]
    must(machine, f"mv {own}/history.json /root/history.json")  # another machine sees it as well
    assert proven() == [True, False]
    must(machine, f"mv /root/history.json {own}/history.json")
    newest = listed(machine, config)[-1]
    assert done(machine, "accept", newest, config=config)["accepted"] == newest
    assert proven() == [True, True]
    assert done(machine, "run", config=config)["judgement"] == ""
    back = done(machine, "restore", "--snapshot", good, config=config)
    wait_for(lambda: answers(machine), "Orthanc", 120)
    assert held(machine) == everything
    must(machine, f"rm -rf {back['set_aside']} {own} /root/lost")
    must(STORE, f"rm -rf /srv/append/{machine}")
    done(machine, "run")
