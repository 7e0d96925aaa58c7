"""Machines like Ubuntu's with the method that scenario ubuntu does not have there."""

from __future__ import annotations

import json
import os

from clients import answers, name_of, play, require_accepted
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
METHODS = {"orthanc-ubuntu24": "package", "orthanc-ubuntu26": "docker"}


def test_the_acceptance_test_passes(host: Host) -> None:
    facts = json.loads(host.check_output("cat /etc/clinicops-orthanc.json"))
    assert facts["method"] == METHODS[name_of(host)]
    require_accepted(host)


def test_a_device_stores_beside_an_active_ufw(host: Host) -> None:
    assert "Status: active" in host.check_output("ufw status")
    assert answers(host)


def test_check_mode_announces_nothing(host: Host) -> None:
    status, said = play("deploy", host, {}, "--check")
    assert status == 0, said[-3000:]
    assert " changed=0 " in said, said[-3000:]
