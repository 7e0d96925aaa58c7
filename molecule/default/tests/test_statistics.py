"""The index's statistics: the deploy writes them, and SQLite plans each statement of this Orthanc's with them."""

from __future__ import annotations

import os

from clients import name_of
from planned import check_plans
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


def test_no_statement_walks_through_the_archive_that_need_not(host: Host) -> None:
    check_plans(name_of(host), host.check_output("Orthanc --version").split()[1])
