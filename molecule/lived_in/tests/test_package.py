"""A machine with all of it at once: each is refused in one go, and left as it is when the remedies are done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from backups import must
from clients import ADDRESSES, HOSTNAME, OFFICE, SCANNER, answers, client, https, instances, name_of, play, start
from lived import IMAGES, ad_hoc, begin_upgrade, end_upgrade, gone_or_changed, refused, remedies, stored, theirs
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
DIRECTORY = "/var/lib/orthanc/db-v6"
SITES = "/etc/nginx/sites-enabled"
SETTINGS = {
    "orthanc_storage_dir": DIRECTORY,
    "orthanc_waivers": {"closes_sites": "whoever reads the intranet sits in the office"},
}
# Orthanc owns the images with which it goes on; accounts are added; a cache of ldconfig's
GOES_ON = (
    f"mode {DIRECTORY}/",
    *("hash /etc/passwd", "hash /etc/group", "hash /etc/shadow", "hash /etc/gshadow"),
    "hash /etc/ld.so.cache",
)


@pytest.fixture
def upgrading(host: Host) -> Iterator[None]:
    machine = name_of(host)
    begin_upgrade(machine)
    yield
    end_upgrade(machine)


def test_everything_is_named_at_once_and_nothing_is_changed(host: Host, upgrading: None) -> None:
    machine = name_of(host)
    own = stored(machine)
    must(machine, "mkdir -p /var/lib/orthanc/share/letters")
    told = refused(
        host,
        "orthanc_storage_dir /var/lib/orthanc/share holds what Orthanc does not keep there (letters)",
        "set orthanc_storage_dir: /var/lib/orthanc/share/orthanc",
        "orthanc_tmp_dir /opt/clinic holds what Orthanc does not keep there (Packages, Release, ",
        "The account orthanc belongs to a person (number 1001, shell /bin/bash, more groups: sudo)",
        f"{DIRECTORY} holds {IMAGES} images of an Orthanc",
        f"set orthanc_storage_dir: {DIRECTORY} to continue",
        "The container pacs is an Orthanc that this collection did not deploy",
        f"{SITES}/default is not the one of its package",
        f"{SITES}/intranet is nginx's default server at port 443",
        f"{SITES}/intranet listens at port 443, which a deploy closes to all sources except "
        "198.51.100.64/26, 198.51.100.90",
        "ufw is active, and blocks port 4242 (dicom) for sources that the settings let in",
        settings={"orthanc_storage_dir": "/var/lib/orthanc/share", "orthanc_tmp_dir": "/opt/clinic"},
    )

    # --- the person does what the remedies say
    must(machine, remedies(told, "The account orthanc").replace("NEW-NAME", "anna"))
    must(machine, remedies(told, "The container pacs"))
    must(machine, remedies(told, f"{SITES}/default").replace(f"{SITES}/NAME", f"{SITES}/welcome"))
    must(machine, f"sed -i 's/ default_server;/;/' {SITES}/intranet && nginx -t && systemctl reload nginx")
    must(machine, remedies(told, "ufw is active, and blocks port 4242"))

    # --- who has dpkg's lock is named, waited for, and not ended
    before = theirs(machine)
    said = ad_hoc(host, "orthanc_packages", '{"name": ["sl"], "minutes": 0}')
    assert "Packages cannot be installed: unattended-upgrades (process " in said
    assert "of apt-daily-upgrade.service" in said
    lines = []
    running = start("deploy", host, SETTINGS)
    assert running.stdout
    for line in running.stdout:
        lines.append(line)
        if "waiting for unattended-upgrades" in line:
            end_upgrade(machine)
    said = " ".join("".join(lines).split())
    assert running.wait() == 0, said[-4000:]
    assert f"{machine}: waiting for unattended-upgrades (process" in said
    # port 80 is the neighbour's, and so not knocked at
    assert " passed, 0 failed" in said
    assert "failed=0" in said
    assert (
        must(machine, "dpkg-query --show --showformat '${Version} ${db:Status-Status}' clinic-tool") == "1.1 installed"
    )

    # --- nothing of theirs is changed
    left = gone_or_changed(before, theirs(machine))
    assert [one for one in left if not one.startswith(GOES_ON)] == []
    assert own <= {*instances(host)}
    assert answers(host)
    intranet = ["--insecure", "--resolve", f"intranet.clinic.example:443:{ADDRESSES[machine][1]}"]
    read = client(OFFICE, "curl", "--silent", "--max-time", "10", *intranet, "https://intranet.clinic.example/")
    assert read.stdout == b"the intranet\n"
    assert "Status: active" in host.check_output("ufw status")


def test_another_web_server_keeps_443(host: Host) -> None:
    machine = name_of(host)
    settings = {"orthanc_storage_dir": DIRECTORY, "orthanc_proxy_port": 8443}
    told = refused(host, "ufw is active, and blocks port 8443 (https)", settings=settings)
    must(machine, remedies(told, "ufw is active, and blocks port 8443"))
    done, said = play("deploy", host, settings)
    assert done == 0, said[-4000:]
    assert " passed, 0 failed" in said
    # everybody may read the intranet again, and the office finds Orthanc at its new port
    for place, address in zip((SCANNER, OFFICE), ADDRESSES[machine][:2], strict=True):
        intranet = ["--insecure", "--resolve", f"intranet.clinic.example:443:{address}"]
        read = client(place, "curl", "--silent", "--max-time", "10", *intranet, "https://intranet.clinic.example/")
        assert read.stdout == b"the intranet\n"
    own = f"https://{HOSTNAME}:8443"
    status, _, body = https(host, OFFICE, f"{own}/dicom-web/studies?limit=1")
    [url] = json.loads(body)[0]["00081190"]["Value"]
    assert url.startswith(f"{own}/dicom-web/studies/")
    assert https(host, OFFICE, f"{url}/metadata")[0] == status == 200
