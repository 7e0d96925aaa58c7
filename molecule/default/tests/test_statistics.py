"""The index's statistics: the deploy writes them, SQLite plans with them, and a clinic may go without."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from clients import PROVEN, ask_index, fingerprint, name_of, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
# how Orthanc looks a study, series or instance up by its identifier
BY_IDENTIFIER = "SELECT internalId FROM Resources WHERE publicId = 'x' AND resourceType = 3"
SERVED = f"WITH Lookup AS MATERIALIZED ({BY_IDENTIFIER}) SELECT uuid FROM AttachedFiles JOIN Lookup ON id = internalId"


@pytest.fixture
def as_deployed(host: Host) -> Iterator[None]:
    yield
    status, said = play("deploy", host)
    assert status == 0, said


def test_no_look_up_walks_a_table(host: Host) -> None:
    found = ask_index(name_of(host), BY_IDENTIFIER, SERVED)
    print(found["sqlite"], found["plans"])
    for query, plan in found["plans"].items():
        assert "USING INDEX PublicIndex" in plan, query
        assert "SCAN AttachedFiles" not in plan, query


@pytest.mark.usefixtures("as_deployed")
@pytest.mark.parametrize("host", testinfra_hosts[-1:], indirect=True)
def test_a_clinic_goes_without(host: Host) -> None:
    before = fingerprint(host)
    status, said = play("deploy", host, {"orthanc_config_index_statistics": False}, "--check")
    assert status == 0, said
    assert "changed=1 " in said
    assert fingerprint(host) == before
    status, said = play("deploy", host, {"orthanc_config_index_statistics": False})
    assert status == 0, said
    assert PROVEN in said
    assert ask_index(name_of(host))["rows"] == {}
