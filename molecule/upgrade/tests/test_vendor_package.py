"""Debian's later package removes all images when it is purged; a deploy's guard keeps it from that."""

from __future__ import annotations

import json
import os
import shlex

import pytest
from backups import must
from clients import instances, name_of, put
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from upgraded import NAME, load, store
from worklists import sh

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
IMAGE = "aacd0000-0000-4000-8000-000000000000"  # the name of a file of Orthanc's
STATUS = "dpkg-query --show --showformat '${db:Status-Status}' orthanc"
# a directory to lose in the place of the images, and no guard: what the package does by itself
UNGUARDED = f"""
set -e
mkdir -p /root/lost/db/aa/cd
touch /root/lost/db/aa/cd/{IMAGE}
mount --bind /root/lost /var/lib/orthanc
mount --bind /dev/null /etc/dpkg/dpkg.cfg.d/clinicops-orthanc
! dpkg --purge orthanc  # it cannot remove the mount itself
test ! -e /var/lib/orthanc/db
"""


@pytest.fixture(scope="module")
def package(host: Host) -> None:
    """Debian 13's package is installed, with the removal script of the later release."""
    machine = name_of(host)
    load(host, "1.13.0")
    copied = "docker cp $made:/var/lib/dpkg/info/orthanc.postrm /root/postrm; docker rm $made"
    must(machine, f"set -e; made=$(docker create {NAME}:1.13.0 true); {copied}; grep /var/lib/orthanc /root/postrm")
    must(
        machine,
        "set -e; systemctl mask orthanc.service; rm -rf /root/package /root/fetched; mkdir /root/fetched;"
        " cd /root/fetched; apt-get -qq -o APT::Sandbox::User=root download orthanc;"
        " dpkg-deb --raw-extract orthanc_*.deb /root/package;"
        " install -m 755 /root/postrm /root/package/DEBIAN/postrm;"
        " dpkg-deb --build /root/package /root/orthanc.deb;"
        " DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends /root/orthanc.deb",
    )


def test_a_purge_of_the_package_is_refused(host: Host, package: None) -> None:
    machine = name_of(host)
    stored = store(host, 3)
    purges = ["apt-get purge -y orthanc", "apt-get remove -y --purge orthanc", "dpkg --purge orthanc"]
    purges += ["dpkg -P orthanc:$(dpkg --print-architecture)"]
    purges += ["echo orthanc purge | dpkg --set-selections; dpkg --purge --pending"]
    for purge in purges:
        status, said = sh(machine, purge)
        assert status != 0, purge
        assert "The package orthanc is not purged" in said, said
        assert "Remedy: apt remove orthanc" in said
        # apt removes the program before it purges
        assert must(machine, STATUS) in ("installed", "config-files"), purge
    must(machine, "echo orthanc install | dpkg --set-selections")
    assert set(stored) <= set(instances(host))
    must(machine, "apt-get remove -y orthanc")
    assert must(machine, STATUS) == "config-files"
    status, said = sh(machine, "dpkg --purge orthanc")
    assert status != 0
    assert "The package orthanc is not purged" in said
    assert set(stored) <= set(instances(host))


def test_other_packages_are_purged(host: Host) -> None:
    machine = name_of(host)
    control = (
        "Package: orthanc-other\nVersion: 1\nArchitecture: all\nMaintainer: it <it@clinic.example>\nDescription: it\n"
    )
    must(machine, "mkdir -p /root/other/DEBIAN")
    put(machine, "/root/other/DEBIAN/control", control.encode())
    must(
        machine,
        "dpkg-deb --build /root/other /root/other.deb && dpkg -i /root/other.deb && apt-get purge -y orthanc-other",
    )
    assert sh(machine, "dpkg-query --show orthanc-other")[0] != 0


def test_without_the_guard_the_package_removes_everything(host: Host, package: None) -> None:
    """In a mount namespace of its own."""
    machine = name_of(host)
    before = instances(host)
    must(machine, f"unshare --mount --propagation private sh -c {shlex.quote(UNGUARDED)}")
    assert instances(host) == before
    must(
        machine,
        "systemctl unmask orthanc.service; systemctl daemon-reload; rm -rf /root/lost /root/package /root/fetched",
    )


def test_updates_at_night_are_followed_by_the_acceptance_test(host: Host) -> None:
    machine, report = name_of(host), "/var/lib/orthanc-verify/report.json"
    must(machine, "dpkg-deb --build /root/other /root/other.deb && apt-get install -y /root/other.deb")
    before = must(machine, f"stat -c %Y.%Z {report}")
    must(machine, "systemctl start apt-daily-upgrade.service")
    after = must(machine, f"stat -c %Y.%Z {report}")
    assert after != before
    assert json.loads(must(machine, f"cat {report}"))["passed"]
    assert "orthanc-other" in must(machine, "journalctl -u apt-daily-upgrade.service --output=cat")
    must(machine, "systemctl start apt-daily-upgrade.service")
    assert must(machine, f"stat -c %Y.%Z {report}") == after  # nothing was installed since
    must(machine, "apt-get purge -y orthanc-other; rm -rf /root/other /root/other.deb")
