"""The index's statistics: the deploy writes them, and SQLite plans with them."""

from __future__ import annotations

import os

from clients import ask_index, name_of
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
# how Orthanc looks a study, series or instance up by its identifier
BY_IDENTIFIER = "SELECT internalId FROM Resources WHERE publicId = 'x' AND resourceType = 3"
SERVED = f"WITH Lookup AS MATERIALIZED ({BY_IDENTIFIER}) SELECT uuid FROM AttachedFiles JOIN Lookup ON id = internalId"


def test_no_look_up_walks_a_table(host: Host) -> None:
    found = ask_index(name_of(host), BY_IDENTIFIER, SERVED)
    print(found["sqlite"], found["plans"])
    for query, plan in found["plans"].items():
        assert "USING INDEX PublicIndex" in plan, query
        assert "SCAN AttachedFiles" not in plan, query
