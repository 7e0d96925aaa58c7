"""An Orthanc in a container of another name with images, a service at Orthanc's port, and rules of somebody's own."""

from __future__ import annotations

import os

from backups import must
from clients import name_of, play
from lived import IMAGES, gone_or_changed, refused, remedies, stored, theirs
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[:1]
SITES = "/etc/nginx/sites-enabled"
HELD = f"/srv/pacs/db-v6 holds {IMAGES} images of an Orthanc"
VIEWER = "systemd-run --quiet --unit clinic-viewer python3 -m http.server --directory /var/www 8042"
RULES = """
table inet clinic {
    chain input {
        type filter hook input priority filter; policy drop;
        iif "lo" accept
        ct state established,related accept
        tcp dport { 22, 443 } accept
    }
}
"""


def test_each_is_named_and_left_alone(host: Host) -> None:
    machine = name_of(host)
    stored(machine)
    must(machine, VIEWER)
    must(machine, "nft --file -", stdin=RULES.encode())
    told = refused(
        host,
        "The account orthanc belongs to a person (number 1001, shell /bin/bash, more groups: sudo)",
        HELD,
        "set orthanc_storage_dir: /srv/pacs/db-v6 to continue",
        "The container pacs is an Orthanc that this collection did not deploy",
        f"{SITES}/default is not the one of its package, but a deploy removes a site of that name",
        "Port 8042 (http) is in use (clinic-viewer.service, process ",
        "set orthanc_http_port to a free one, or stop it: systemctl disable --now clinic-viewer.service",
        "The chain input of table inet clinic drops packets by default, and does not accept port 4242 (dicom)",
    )
    must(machine, remedies(told, "The account orthanc").replace("NEW-NAME", "anna"))
    must(machine, remedies(told, "The container pacs"))
    refused(host, HELD, "Port 8042", "The chain input of table inet clinic")
    must(machine, remedies(told, f"{SITES}/default").replace(f"{SITES}/NAME", f"{SITES}/intranet"))
    must(machine, remedies(told, "The chain input of table inet clinic").partition(", and add the rule")[0])
    # out of the way nothing keeps a deploy from its work
    must(machine, "systemctl stop clinic-viewer; mv /srv/pacs /srv/before")
    before = theirs(machine)
    status, said = play("deploy", host, {}, "--check")
    assert status == 0, said[-3000:]
    assert gone_or_changed(before, theirs(machine)) == []
    assert must(machine, "docker inspect --format '{{.State.Status}}' pacs; id -un 1001").split() == ["exited", "anna"]
