"""What takes longer: reboots, firewalls and networks, and images that cannot be had."""

from __future__ import annotations

import os

import bed
import pytest
import registry
from clients import PROVEN, answers, closed_but_for_devices, inspect, name_of, play, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
pytestmark = pytest.mark.campaign


def reboot(host: Host) -> None:
    bed.docker("restart", name_of(host))
    wait_for(lambda: host.run("systemctl is-active docker").stdout.strip() == "active", "Docker")


@pytest.mark.parametrize("ufw", ["inactive", "active"])
def test_ports_stay_closed(host: Host, ufw: str) -> None:
    if ufw == "active":
        host.check_output("apt-get install -qq -y ufw && ufw allow 443/tcp && ufw allow 4242/tcp && ufw --force enable")
        assert "Status: active" in host.check_output("ufw status")
    closed_but_for_devices(host)
    host.check_output("systemctl restart docker")
    closed_but_for_devices(host)
    reboot(host)
    closed_but_for_devices(host)
    if ufw == "active":
        host.check_output("ufw --force disable")


def test_a_deploy_that_cannot_have_its_image_leaves_the_container_running(host: Host) -> None:
    registry.know(name_of(host))
    started = inspect(host)["State"]["StartedAt"]
    nowhere = {"orthanc_install_docker_image": "198.51.100.41:5000/orthancteam/orthanc:26.8.1"}
    other = {"orthanc_install_docker_image": f"{registry.REPOSITORY}:1.12.7"}
    for settings in (
        {"orthanc_install_docker_digest": "sha256:" + "0" * 64},
        nowhere,
        {**other, "orthanc_install_docker_password": "wrong"},
    ):
        status, said = play("deploy", host, settings)
        assert status == 2
        assert "cannot be pulled" in said
        assert "Nothing was stopped" in said
        assert inspect(host)["State"]["StartedAt"] == started
    host.check_output("mkdir -p /var/lib/docker/tmp && mount -t tmpfs -o size=1m tmpfs /var/lib/docker/tmp")
    status, said = play("deploy", host, other)
    host.check_output("umount /var/lib/docker/tmp")
    assert status == 2
    assert "no space left on device" in said
    assert inspect(host)["State"]["StartedAt"] == started
    assert answers(host)


def test_an_older_image_is_refused_before_anything_stops(host: Host) -> None:
    started = inspect(host)["State"]["StartedAt"]
    status, said = play("deploy", host, {"orthanc_install_docker_image": f"{registry.REPOSITORY}:1.12.7"})
    assert status == 2
    assert "was opened by Orthanc 1.13.0 or later, and 1.12.7 would take images and lose them" in said
    assert inspect(host)["State"]["StartedAt"] == started
    assert answers(host)


def test_the_other_network_serves_as_well(host: Host) -> None:
    """On the way back the container is connected to a network that somebody made, which stays as it is."""
    named = "docker network inspect --format {{.Id}} orthanc"
    for settings, mode in (({"orthanc_install_docker_network": "host"}, "host"), ({}, "orthanc")):
        made = host.run(named).stdout
        status, said = play("deploy", host, settings)
        assert status == 0, said
        assert PROVEN in said
        assert host.check_output("docker inspect --format {{.HostConfig.NetworkMode}} orthanc") == mode
        assert host.run(named).stdout == made
        closed_but_for_devices(host)
        if mode == "host":
            host.check_output("docker network rm orthanc && docker network create --subnet 198.18.7.0/24 orthanc")
