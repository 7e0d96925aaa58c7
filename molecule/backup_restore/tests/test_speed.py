"""A night with little new costs little."""

from __future__ import annotations

import os

import pytest
from backups import STORE, done, must, stored
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
WHERE = ("/srv/sftp/orthanc", "/srv/rest/clinic")
LARGE = (768, 1024)
BYTES = 768 * 1024 * 3


def on_disk(path: str) -> int:
    return int(must(STORE, f"du -sb {path}").split()[0])


@pytest.mark.parametrize("number", [0, 1], ids=["sftp", "rest"])
def test_the_repository_grows_by_what_is_new(number: int) -> None:
    machine = testinfra_hosts[number]
    done(machine, "run")
    before = on_disk(WHERE[number])
    images = stored(machine, 3, size=LARGE)
    second = done(machine, "run")
    growth = on_disk(WHERE[number]) - before
    print(f"{machine}: {len(images) * BYTES:,} new bytes, {growth:,} more in the repository, {second['seconds']} s")
    assert growth <= 1.2 * len(images) * BYTES


@pytest.mark.campaign
@pytest.mark.parametrize("number", [0, 1], ids=["sftp", "rest"])
def test_a_hundredth_more_takes_a_tenth_of_the_time(number: int) -> None:
    machine = testinfra_hosts[number]
    done(machine, "run")
    stored(machine, 500, size=LARGE)
    first = done(machine, "run")
    before = on_disk(WHERE[number])
    images = stored(machine, 5, size=LARGE)
    second = done(machine, "run")
    growth = on_disk(WHERE[number]) - before
    print(
        f"{machine}: first {first['seconds']} s and {first['added']:,} bytes, second {second['seconds']} s; "
        f"{len(images) * BYTES:,} new bytes, {growth:,} more in the repository"
    )
    assert second["seconds"] <= 0.1 * first["seconds"]
    assert growth <= 1.2 * len(images) * BYTES
