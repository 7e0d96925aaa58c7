"""Storage commitment: a right of its own, and given only for images whose file is there and whole."""

from __future__ import annotations

import os

import pytest
from backups import must
from clients import name_of, play
from pydicom.uid import generate_uid
from senders import HAS_COMMITMENT, committed, image, path, restart, sent
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

NO_SUCH_OBJECT_INSTANCE, CLASS_INSTANCE_CONFLICT = 0x0112, 0x0119


@pytest.fixture
def machine(host: Host) -> str:
    return name_of(host)


def test_who_may_not_ask_is_refused(machine: str) -> None:
    one = image("REFUSED")
    assert sent(machine, "US2", one) == [0]
    assert committed(machine, "US2", one)["status"] != 0
    if machine not in HAS_COMMITMENT:
        assert committed(machine, "US1", one)["status"] != 0


def test_what_is_whole_is_committed_and_nothing_else(machine: str) -> None:
    if machine not in HAS_COMMITMENT:
        return
    whole, missing, short, changed, never, other = (image(f"COMMIT{number}") for number in range(6))
    assert set(sent(machine, "US1", whole, missing, short, changed, other)) == {0}
    # in Orthanc's cache they are all there
    everything = (whole, missing, short, changed)
    assert len(committed(machine, "US1", *everything)["committed"]) == len(everything)
    must(machine, f"rm {path(machine, missing)}; truncate --size=-100 {path(machine, short)}")
    must(machine, f"printf x | dd of={path(machine, changed)} bs=1 seek=5000 conv=notrunc")
    kind, other.SOPClassUID = other.SOPClassUID, generate_uid()
    for cold in (False, True):
        if cold:
            restart(machine)
        report = committed(machine, "US1", whole, missing, short, changed, never, other)
        assert report["committed"] == [whole.SOPInstanceUID]
        assert report["failed"] == {
            **{one.SOPInstanceUID: NO_SUCH_OBJECT_INSTANCE for one in (missing, short, changed, never)},
            other.SOPInstanceUID: CLASS_INSTANCE_CONFLICT,
        }
    other.SOPClassUID = kind
    # what is sent again is stored, and committed
    assert sent(machine, "US1", missing, short, changed) == [0, 0, 0]
    assert committed(machine, "US1", missing, short, changed)["failed"] == {}


def test_a_release_that_cannot_verify_refuses_the_right(host: Host, machine: str) -> None:
    if machine in HAS_COMMITMENT:
        return  # it has been deployed with the right
    device = {
        "name": "us1",
        "aet": "US1",
        "host": "198.51.100.35",
        "port": 11112,
        "may": ["store", "storage_commitment"],
    }
    status, said = play("deploy", host, {"orthanc_modalities": [device]}, "--check")
    assert status != 0
    assert "orthanc_modalities[0].may contains 'storage_commitment', but Orthanc 1.10.1" in said
    assert "cannot verify that an image file is complete" in said
    assert "(Debian 13, Ubuntu 24.04) or with orthanc_install_method: docker" in said
