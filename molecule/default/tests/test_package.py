"""What holds for Debian's package alone."""

from __future__ import annotations

import os

from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


def test_orthanc_never_ran_with_the_vendors_settings(host: Host) -> None:
    # test_package_opened.py, which lets other programs start in its place, comes after this
    journal = host.check_output("journalctl --unit orthanc.service --output cat --no-pager").splitlines()
    read = [line for line in journal if "Reading the configuration" in line]
    assert all("/etc/orthanc/site/orthanc.json" in line for line in read), read
    assert len(read) == sum(line.startswith("Started ") for line in journal) > 0
    # the vendor's unit logs into files
    assert host.file("/var/log/orthanc").listdir() == []


def test_vendor_files_stay_as_shipped(host: Host) -> None:
    changed = [
        line for line in host.run("dpkg --verify orthanc orthanc-dicomweb").stdout.splitlines() if "/etc/" in line
    ]
    assert changed == []
