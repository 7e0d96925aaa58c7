"""Debian's own Orthanc, with images where its package keeps them."""

from __future__ import annotations

import os

from clients import instances, name_of, play
from lived import IMAGES, refused, stored
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
DIRECTORY = "/var/lib/orthanc/db-v6"


def test_its_images_are_named_and_gone_on_with(host: Host) -> None:
    own = stored(name_of(host))
    refused(host, f"{DIRECTORY} holds {IMAGES} images of an Orthanc", f"set orthanc_storage_dir: {DIRECTORY} to go on")

    status, said = play("deploy", host, {"orthanc_storage_dir": DIRECTORY})

    assert status == 0, said[-3000:]
    assert own <= {*instances(host)}
