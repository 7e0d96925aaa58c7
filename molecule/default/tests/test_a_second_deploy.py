"""The second deploy, before any other test: it changes nothing, and costs few module runs.

Each of these is a call of the machine and a Python that starts there.
"""

from __future__ import annotations

import os

from clients import play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
MOST = 40


def test_it_changes_nothing_and_runs_few_modules(host: Host) -> None:
    status, said = play("deploy", host, {}, "-vvv")
    assert status == 0, said[-3000:]
    assert " changed=0 " in said
    assert 10 < said.count("Using module file ") <= MOST
