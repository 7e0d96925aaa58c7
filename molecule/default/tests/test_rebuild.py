"""The machine is lost, its disk is not: a deploy onto a new machine finds the images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "testbed"))
import bed  # noqa: E402 - the path above is how it is found

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
testinfra_hosts = [AnsibleRunner(INVENTORY).get_hosts("orthanc")[-1]]
ADDRESSES = ["198.51.100.13", "198.51.100.73", "198.51.100.143"]


def verified_instances(host: Host) -> dict[str, str]:
    """Each instance of the index and what Orthanc's own MD5 check says of its file."""
    ask = "curl --silent --user it:scenario-it-password http://127.0.0.1:8042"
    instances = json.loads(host.check_output(f"{ask}/instances"))
    check = f"{ask}/instances/%s/attachments/dicom/verify-md5 --data '' --output /dev/null --write-out %%{{http_code}}"
    return {instance: host.check_output(check % instance) for instance in instances}


def test_images_survive_their_machine(host: Host) -> None:
    host.check_output("apt-get install -qq -y curl")
    before = verified_instances(host)
    assert before
    assert set(before.values()) == {"200"}
    name = host.backend.get_hostname()
    old_owner = host.check_output("stat --format %u /var/lib/orthanc/db")

    bed.machine_down(name, keep_volume=True)
    bed.machine_up(name, "debian13", ADDRESSES)
    # the new machine gives the account another number
    for number in range(3):
        host.check_output(f"useradd --system --create-home earlier{number}")
    subprocess.run(
        ["ansible-playbook", "--inventory", INVENTORY, "--limit", name, "clinicops.orthanc.deploy"],
        cwd=ROOT,
        check=True,
    )

    assert host.check_output("stat --format %u /var/lib/orthanc/db") != old_owner
    host.check_output("apt-get install -qq -y curl")
    assert verified_instances(host) == before
