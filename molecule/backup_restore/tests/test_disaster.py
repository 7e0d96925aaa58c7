"""The machine burns with its disk, and everything comes back; and a snapshot in the place of what is there."""

from __future__ import annotations

import json
import os

import pytest
from backups import (
    OWN,
    STORAGE,
    Devices,
    Image,
    answers,
    done,
    held,
    lacking,
    listed,
    must,
    refused,
    ruin,
    sound,
    stored,
)
from clients import PASSWORDS, name_of, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import Item, command, csv

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
KEPT = ("/var/lib/orthanc/worklists", "/etc/nginx/orthanc", "/etc/orthanc/site")


def configuration(machine: str) -> dict[str, str]:
    """Worklist items, certificates with the CA, users: path and SHA-256."""
    said = must(machine, f"find {' '.join(KEPT)} -type f ! -name lock ! -path '*/.spool/*' -exec sha256sum {{}} +")
    return {line.split(maxsplit=1)[1]: line.split(maxsplit=1)[0] for line in said.splitlines()}


def record(machine: str) -> dict[str, object]:
    """What the last restore wrote down."""
    found: dict[str, object] = json.loads(must(machine, f"cat $(ls {OWN}/restored-*.json | tail -1)"))
    return found


def by_device(images: list[Image]) -> set[tuple[str, str]]:
    return {(image.aet, image.study) for image in images}


def told(resend: object) -> list[tuple[str, str]]:
    assert isinstance(resend, list)
    return [(one["aet"], one["study"]) for one in resend]


@pytest.fixture
def machine(host: Host) -> str:
    return name_of(host)


def test_restore_in_place(host: Host, machine: str) -> None:
    before = stored(machine, 30)
    snapshot = done(machine, "run")["snapshot"]
    # of this study one part was there at the moment, and the other came after
    devices = Devices(machine, count=25, aets=["US2", "US3"])
    after = devices.finish()
    everything = held(machine)
    assert lacking(everything, before + after) == []
    status, said = play("restore", host, {"orthanc_backup_snapshot": snapshot}, "--check")
    assert status == 0, said
    assert f"restore it into {STORAGE}" in said
    assert held(machine) == everything

    status, said = play("restore", host, {"orthanc_backup_snapshot": snapshot})

    assert status == 0, said
    restored = record(machine)
    assert sorted(told(restored["resend"])) == sorted(by_device(after))
    assert all(image.study in said for image in after)
    now = held(machine)
    assert lacking(now, before) == []
    assert now == {uid: digest for uid, digest in everything.items() if uid not in {image.uid for image in after}}
    # nothing is deleted: what came after the moment lies beside it
    aside = restored["set_aside"]
    assert must(machine, f"find {aside} -path '*/??/??/*' -type f | wc -l").strip() != "0"
    assert "A restore set aside" in "".join(done(machine, "run")["warnings"])
    must(machine, f"rm -rf {aside}")
    again = stored(machine, 2)
    assert lacking(held(machine), again) == []


@pytest.mark.campaign
def test_lists_of_several_restores(machine: str) -> None:
    """After a restore Orthanc's changes are counted anew from there: a list goes by time as well."""
    stored(machine, 5)
    first = done(machine, "run")["snapshot"]
    middle = stored(machine, 5, aets=["US2"])
    second = done(machine, "run")["snapshot"]
    restored = done(machine, "restore", "--snapshot", first)
    assert told(restored["resend"]) == sorted(by_device(middle))
    between = stored(machine, 5, aets=["US3"])
    restored = done(machine, "restore", "--snapshot", second)
    assert told(restored["resend"]) == sorted(by_device(between))
    assert lacking(held(machine), middle) == []
    must(machine, f"rm -rf {STORAGE}/.set-aside-*")
    done(machine, "run")


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.campaign)], ids=["package", "docker"])
def test_the_machine_is_lost_with_its_disk(number: int) -> None:
    name = testinfra_hosts[number]
    host = Host.get_host(f"ansible://{name}?ansible_inventory={os.environ['MOLECULE_INVENTORY_FILE']}")
    assert isinstance(host, Host)
    lost(host, name)


def lost(host: Host, machine: str) -> None:
    items = [Item("BACKUP1", name="MÜLLER^ANNA", charset="ISO_IR 192"), Item("BACKUP2", station="US2")]
    status, said = command(machine, "create", "-", stdin=csv(items))
    assert status == 0, said
    before = stored(machine, 30)
    everything, kept = held(machine), configuration(machine)
    assert lacking(everything, before) == []
    assert len([path for path in kept if path.startswith(KEPT[0])]) >= 2
    ran = done(machine, "run")
    after = stored(machine, 25, aets=["US1", "US3", "US4"])
    done(machine, "ledger")
    snapshots = listed(machine)

    ruin(machine)
    status, said = play("deploy", host)
    assert status == 0, said
    assert held(machine) == {}
    # the new machine's empty archive does not take the place of the lost one
    assert "is another archive than the" in refused(machine, "run")
    assert listed(machine) == snapshots
    new = configuration(machine)
    assert any(new.get(path) != digest for path, digest in kept.items() if path.startswith("/etc/nginx/"))
    status, said = play("restore", host)

    assert status == 0, said
    restored = record(machine)
    print(f"{machine}: {len(everything)} images restored in {restored['recovery_seconds']} s")
    assert restored["snapshot"] == ran["snapshot"]
    assert held(machine) == everything
    assert sorted(told(restored["resend"])) == sorted(by_device(after))
    for image in after:
        assert image.study in said
        assert image.accession in said
    assert configuration(machine) == kept
    users = json.loads(must(machine, "cat /etc/orthanc/site/orthanc.json"))["RegisteredUsers"]
    assert users["it"] == PASSWORDS["it"]
    assert answers(machine)
    # the day goes on
    again = stored(machine, 2)
    assert lacking(held(machine), again) == []
    done(machine, "run")
    sound(machine)
    assert set(snapshots) <= set(listed(machine))
    assert lacking(held(machine), before + again) == []
