"""The machine is lost, its disk is not: a deploy onto a new machine finds the images."""

from __future__ import annotations

import os

import bed
import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import masking
from clients import ADDRESSES, PASSWORDS, fingerprint, instances, name_of, play, verified
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]


@pytest.mark.campaign
def test_images_survive_their_machine(host: Host) -> None:
    before = instances(host)
    assert len(before) >= 4
    assert set(verified(host, list(before.values()))) == {"200"}
    name = name_of(host)
    owner = host.check_output("stat --format %u /var/lib/orthanc/db")

    bed.machine_down(name, keep_volume=True)
    bed.machine_up(name, "debian13", list(ADDRESSES[name]))
    virgin = fingerprint(host)
    refused = {"orthanc_users": [{"name": "it", "role": "admin", "password": "change-this-password"}]}
    status, said = play("deploy", host, refused)
    assert status == 2
    assert "orthanc_users[0].password is a publicly known default" in said
    assert fingerprint(host) == virgin
    # a newer Orthanc has had the disk: this one would take images and lose them
    opened = "/var/lib/orthanc/db/.orthanc-version"
    version = host.file(opened).content_string
    assert version == "1.12.7\n"
    host.check_output(f"echo 1.13.0 > {opened}")
    status, said = play("deploy", host)
    assert status == 2
    assert "was opened by Orthanc 1.13.0 or later, and 1.12.7 would take images and lose them" in said
    host.check_output(f"echo {version.strip()} > {opened}")
    assert fingerprint(host) == virgin

    # what would be written, on a machine that was never deployed
    status, said = play("deploy", host, None, "--check", "--diff")
    assert status == 0, said
    assert '+ "DicomAet": "ORTHANC"' in said
    assert f'"it": "{masking.MASK}"' in said
    assert not any(password in said for password in PASSWORDS.values())
    assert host.run("dpkg-query --show orthanc").rc != 0
    assert not host.file("/etc/orthanc").exists

    for number in range(3):  # the account gets another number than it had
        host.check_output(f"useradd --system --create-home earlier{number}")
    status, said = play("deploy", host)

    assert status == 0, said
    assert host.check_output("stat --format %u /var/lib/orthanc/db") != owner
    assert instances(host) == before
    assert set(verified(host, list(before.values()))) == {"200"}
