"""An upgrade takes the package of Debian 12 to a container of a later Orthanc, while a device stores."""

from __future__ import annotations

import os

import registry
from clients import play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from upgraded import LONGEST, require_clean, require_images, store, storing

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
CONTAINER = {
    "orthanc_install_method": "docker",
    "orthanc_install_docker_image": f"{registry.REPOSITORY}:1.12.7",
}


def test_the_package_of_debian_12_becomes_a_container(host: Host) -> None:
    """No Docker Engine runs before; the trial installs it."""
    acknowledged = store(host, 100)
    assert not host.exists("dockerd")
    with storing(host) as seen:
        status, said = play("upgrade", host, CONTAINER)
    acknowledged += seen["uids"]
    print("refused for", seen["refused"], "s")
    assert status == 0, said[-3000:]
    assert "Installed: package orthanc 1.10.1" in said
    assert "The method of installation changes from package to docker." in said
    assert f"became 1.12.7 ({registry.REPOSITORY}:1.12.7)" in said
    assert max(seen["refused"], default=0) < LONGEST
    assert host.run("systemctl is-active orthanc").stdout.strip() == "inactive"
    require_images(host, acknowledged)
    require_clean(host)
    status, said = play("deploy", host, CONTAINER)
    assert status == 0, said[-3000:]
    assert " changed=0 " in said


def test_the_older_package_is_refused_afterwards(host: Host) -> None:
    status, said = play("upgrade", host, {}, "--tags", "plan")
    assert status == 2, said[-3000:]
    assert "was opened by Orthanc 1.12.7 or later, and 1.10.1" in said
    assert " changed=0 " in said
    assert host.check_output("docker ps --format '{{.Names}}'") == "orthanc"
