"""Four devices store on while backups run: no image is refused, held up or lost."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from backups import (
    Attempt,
    Devices,
    Image,
    answers,
    configured,
    delete,
    done,
    held,
    held_in,
    lacking,
    main_process,
    moment,
    must,
    sent_digests,
    stored,
    upload_small,
)
from clients import name_of, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
# Five programs and restic share two cores here, and all of them a disk: an image may wait so long for its turn beside
# the pause itself. A device gives up after 30 seconds or more.
TURN = 0.5


def allowed(images: int) -> float:
    """Seconds of a pause: 0.1 at 1,000 images, 1 at 50,000, and between them on the straight line."""
    return 0.1 + 0.9 * max(images - 1_000, 0) / 49_000


def slowest(images: list[Image]) -> float:
    return max(image.seconds for image in images)


Ran = tuple[float, Any, float]  # when a backup began, what it said, and when it had ended


def store_on(machine: str, backups: int) -> tuple[list[Image], list[Ran]]:
    """Four devices store while so many backups run: nothing is refused, held up for a whole backup, or lost."""
    if len(held(machine)) < 1000:
        assert upload_small(machine, 1000) == 1000
    devices = Devices(machine)
    devices.reach(100)
    ran: list[Ran] = []
    for _ in range(backups):
        begin = time.time()
        ran.append((begin, done(machine, "run"), time.time()))
    images = devices.stop()

    unanswered = [image for image in images if image.status]
    for one in unanswered:  # who else waited meanwhile, and for how long
        beside = [image for image in images if image.sent < one.acknowledged and image.acknowledged > one.sent]
        print(f"{machine}: {one}; {len(beside)} beside it, the slowest {sorted(beside, key=lambda i: -i.seconds)[1:4]}")
        print(f"backups {[(begin, said['moment'], said['pause'], end) for begin, said, end in ran]}")
    assert unanswered == []
    for begin, said, end in ran:
        # what waited, waited for the pause, and not for the backup
        assert [image for image in images if image.sent < begin and image.acknowledged > end] == []
        assert [image for image in images if begin < image.sent and image.acknowledged < end] != []
        assert said["counts"]["instances"] >= 1000
        target = f"/var/tmp/snapshot-{said['snapshot']}"
        restored = done(machine, "restore", "--snapshot", said["snapshot"], "--target", target)
        before = [image for image in images if image.acknowledged < moment(said["moment"])]
        assert lacking(held_in(machine, restored["data"]), before) == []
        must(machine, f"rm -rf {target}")
    assert lacking(held(machine), images) == []
    assert sent_digests(images)
    return images, ran


def test_devices_store_on_while_backups_run(host: Host) -> None:
    store_on(name_of(host), 2)


@pytest.mark.campaign
def test_no_image_waits_longer_than_the_pause_of_a_backup(host: Host) -> None:
    machine = name_of(host)
    images, ran = store_on(machine, 20)
    quiet = slowest([image for image in images if image.acknowledged < ran[0][0]])
    during = [
        image for image in images if any(begin < image.acknowledged and image.sent < end for begin, _, end in ran)
    ]
    pauses = [said["pause"] for _, said, _ in ran]
    at = [
        max([one.seconds for one in images if one.sent <= moment(said["moment"]) <= one.acknowledged], default=0)
        for _, said, _ in ran
    ]
    print(
        f"{machine}: {len(images)} images, {len(during)} during backups; slowest {quiet:.3f} s without, "
        f"{slowest(during):.3f} s with a backup, {max(at):.3f} s across a pause; pauses {pauses}; "
        f"{[said['counts']['instances'] for _, said, _ in ran]} images in the index"
    )
    assert slowest(during) <= quiet + max(pauses) + TURN
    for _, said, _ in ran:
        assert said["pause"] <= allowed(said["counts"]["instances"])


def test_orthanc_is_stopped_where_it_cannot_be_paused(host: Host) -> None:
    machine = name_of(host)
    images = stored(machine, 5)
    before = main_process(machine)
    said = done(machine, "run", config=configured(machine, pause="stop"))
    assert main_process(machine) not in (0, before)
    wait_for(lambda: answers(machine), "Orthanc")
    assert done(machine, "restore", "--dry-run")["snapshot"] == said["snapshot"]
    assert lacking(held(machine), images) == []


@pytest.mark.parametrize(
    "machine",
    [testinfra_hosts[1], pytest.param(testinfra_hosts[0], marks=pytest.mark.campaign)],
    ids=["docker", "package"],
)
def test_what_a_user_deletes_meanwhile_is_no_defect(machine: str) -> None:
    images = stored(machine, 15)
    deleted = images[::2]
    slow = Attempt(machine, "run", config=configured(machine, limit_upload=1000))
    wait_for(lambda: sh(machine, "pgrep -f '^restic backup'")[0] == 0, "restic")
    delete(machine, deleted)
    status, said = slow.end()
    assert (status, said["result"]) == (0, "success")
    assert said["deleted"] >= 1  # at a megabyte a second most of them were still to be read
    assert lacking(held(machine), images[1::2]) == []
    assert lacking(held(machine), deleted)
    # what is proven can be restored, and nothing of it is missing
    [listed] = [one for one in done(machine, "list")["snapshots"] if one["id"] == said["snapshot"]]
    assert listed["proven"] is True
    target = f"/var/tmp/deleted-{said['snapshot']}"
    restored = held_in(machine, done(machine, "restore", "--snapshot", listed["id"], "--target", target)["data"])
    must(machine, f"rm -rf {target}")
    assert lacking(restored, images[1::2]) == []
    assert "missing" not in restored.values()
    done(machine, "run")


@pytest.mark.campaign
def test_the_pause_of_a_large_index(host: Host) -> None:
    """50,000 small images: the pause is what it takes to copy what changed since the first copy."""
    machine = name_of(host)
    assert upload_small(machine, 50_000) == 50_000
    devices = Devices(machine)
    devices.reach(100)
    ran = [done(machine, "run") for _ in range(3)]
    images = devices.stop()
    print(
        f"{machine}: pauses {[one['pause'] for one in ran]}, slowest C-STORE {slowest(images):.3f} s,"
        f" {ran[-1]['counts']}"
    )
    assert [image for image in images if image.status] == []
    assert ran[-1]["counts"]["instances"] >= 50_000
    assert max(one["pause"] for one in ran) <= 1
