"""Who may hand items over is what the inventory says, from the next deploy on."""

from __future__ import annotations

import os

import pytest
from clients import ADDRESSES, fingerprint, name_of, play, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from worklists import APP, DROP, SSH, US4, Item, command, csv, empty, look, names, patients, sftp, sh

MACHINES = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
testinfra_hosts = [MACHINES[-1]]


def key() -> str:
    status, said = sh(APP, "cat /root/.ssh/id_ed25519.pub")
    assert status == 0
    return said.strip()


def test_an_administrator_is_not_shut_in_and_nothing_changes(host: Host) -> None:
    before = fingerprint(host)
    status, said = play("deploy", host, {"orthanc_worklist_writers": [{"name": "operator", "keys": [key()]}]})
    assert status != 0
    assert "'operator' is an account of this machine" in said
    assert "nothing was changed" in said
    assert fingerprint(host) == before


@pytest.mark.campaign
def test_who_is_off_the_list_is_out_and_limits_and_shared_lists_are_kept(host: Host) -> None:
    machine = name_of(host)
    empty(machine)
    assert sftp(machine, "ls -1 /")[0] == 0
    # a session that is open when the writer goes
    address = f"broker@{ADDRESSES[machine][0]}"
    sh(APP, f"rm -f /tmp/open; ssh -o BatchMode=yes {SSH} -M -S /tmp/open -fN {address}")
    assert sh(APP, "ssh -S /tmp/open -O check x")[0] == 0
    settings = {
        "orthanc_worklist_writers": [{"name": "ris"}],
        "orthanc_worklist_max_items": 3,
        "orthanc_config_settings": {"Worklists": {"FilterIssuerAet": False}},
    }
    status, said = play("deploy", host, settings)
    assert status == 0, said[-2000:]
    wait_for(lambda: sh(APP, "ssh -S /tmp/open -O check x")[0] != 0, "the end of the session")
    assert sftp(machine, "ls -1 /")[0] != 0
    assert sh(machine, "getent passwd broker")[0] != 0
    assert sh(machine, f"echo > {DROP}/x.part", user="his")[0] != 0
    assert sh(machine, f"echo > {DROP}/x.part && rm {DROP}/x.part", user="ris")[0] == 0

    items = [Item(f"P{number}", station="US4" if number == 0 else "US1") for number in range(5)]
    status, said = command(machine, "create", "-", stdin=csv(items))
    assert status == 1
    assert "orthanc_worklist_max_items is 3" in said
    found = look(machine)
    assert (len(found["served"]), len(found["quarantine"])) == (3, 2)
    # without the filter both scanners see one list
    assert names(machine) == names(machine, scanner=US4, aet="US4")
    assert len(names(machine)) == 3

    status, said = play("deploy", host)
    assert status == 0, said[-2000:]
    assert sftp(machine, "ls -1 /")[0] == 0
    assert sh(machine, f"echo > {DROP}/x.part && rm {DROP}/x.part", user="his")[0] == 0
    served = patients(machine).values()
    theirs = [one.PatientID for one in served if one.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "US1"]
    assert names(machine) == sorted(theirs)
    assert names(machine, scanner=US4, aet="US4") == sorted({one.PatientID for one in served} - {*theirs})
