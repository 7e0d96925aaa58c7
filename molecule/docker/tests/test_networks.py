"""The container in the machine's own network, and back in its bridge."""

from __future__ import annotations

import os

from clients import closed_but_for_devices, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]


def test_the_other_network_serves_as_well(host: Host) -> None:
    for settings, mode in (({"orthanc_install_docker_network": "host"}, "host"), ({}, "orthanc")):
        status, said = play("deploy", host, settings)
        assert status == 0, said
        assert "36 passed, 0 failed" in said
        assert host.check_output("docker inspect --format {{.HostConfig.NetworkMode}} orthanc") == mode
        closed_but_for_devices(host)
