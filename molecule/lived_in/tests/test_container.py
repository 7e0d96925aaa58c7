"""An Orthanc in a container of another name, a person who is called orthanc, and a site of somebody else's."""

from __future__ import annotations

import os

from backups import must
from clients import name_of, play
from lived import IMAGES, refused, stored
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[:1]
SITES = "/etc/nginx/sites-enabled"
HELD = f"/srv/pacs/db-v6 holds {IMAGES} images of an Orthanc"


def test_each_is_named_and_left_alone(host: Host) -> None:
    machine = name_of(host)
    stored(machine)
    refused(
        host,
        "The account orthanc is a person's (number 1001, shell /bin/bash, more groups: sudo)",
        "usermod --login NEW-NAME orthanc",
        HELD,
        "set orthanc_storage_dir: /srv/pacs/db-v6 to go on",
        "The container pacs is an Orthanc that this collection did not deploy",
        "docker stop pacs",
        f"{SITES}/default is not as its package left it, and a deploy takes that name away",
        f"mv {SITES}/default {SITES}/NAME",
    )
    must(machine, "usermod --login anna orthanc && docker update --restart=no pacs && docker stop pacs")
    refused(host, HELD)
    must(machine, f"mv {SITES}/default {SITES}/intranet")
    # out of the way nothing keeps a deploy from its work
    must(machine, "mv /srv/pacs /srv/before")
    status, said = play("deploy", host, {}, "--check")
    assert status == 0, said[-3000:]
    assert must(machine, "docker inspect --format '{{.State.Status}}' pacs; id -un 1001").split() == ["exited", "anna"]
