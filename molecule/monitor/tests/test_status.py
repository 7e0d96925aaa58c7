"""The server in ten lines, against what the programs say that it reads of."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from backups import backup, done, must
from clients import PASSWORDS
from testinfra.utils.ansible_runner import AnsibleRunner
from watched import changed, kept, orthanc_stopped, quiet, state
from watched import look as looks
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
PROGRAM, STATE = "/usr/local/bin/orthanc-status", "/var/lib/orthanc-monitor/state.json"
SYSTEM = """
import base64, sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8042/system")
request.add_header("Authorization", "Basic " + base64.b64encode(sys.argv[1].encode()).decode())
print(urllib.request.urlopen(request).read().decode())
"""


@pytest.fixture(scope="module", params=testinfra_hosts)
def machine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    quiet(name)
    return name


def status(machine: str, user: str = "root") -> tuple[int, Any]:
    """Exit code and answer."""
    code, said = sh(machine, f"{PROGRAM} --json", user)
    return code, json.loads(said)


def without_ages(answer: tuple[int, Any]) -> str:
    """The same at another moment, in which an age has another number."""
    return re.sub(r"\d+ (seconds?|minutes?)", "some time", json.dumps(answer, sort_keys=True))


def wrong(machine: str) -> dict[str, str]:
    """The subjects that are wrong, with what is said of them; `orthanc-monitor show` ends as it does."""
    code, found = status(machine)
    assert code == sh(machine, "orthanc-monitor show")[0] == 1
    return {name: line["text"] for name, line in found["subjects"].items() if line["state"] == "wrong"}


def test_a_server_that_is_well_says_so_in_ten_lines_to_everybody(machine: str) -> None:
    looks(machine)
    for user in ("root", "nobody"):
        code, said = sh(machine, PROGRAM, user)
        print(said)
        first, *rest = said.splitlines()
        assert (code, len(rest)) == (0, 9)
        assert first.startswith(f"{machine}: all is well")
        assert not [line for line in rest if line.split()[1] not in ("good", "none")]
    assert without_ages(status(machine)) == without_ages(status(machine, "nobody"))
    assert sh(machine, "orthanc-monitor show")[0] == 0


def test_it_says_what_monitor_and_orthanc_say(machine: str) -> None:
    looks(machine)
    subjects = status(machine)[1]["subjects"]
    shown = json.loads(must(machine, "orthanc-monitor show --json"))
    values = {(metric, object_): value for metric, _, object_, value in shown["values"]}
    assert subjects["monitor"]["time"] == shown["time"]
    assert subjects["worklist"]["items"] == values["worklist_items", ""]
    assert subjects["certificates"]["days"] == {
        object_: value for (metric, object_), value in values.items() if metric == "certificate_days"
    }
    assert subjects["disk"]["free_percent"]["storage"] == values["fs_free_percent", "storage"]
    for line in must(machine, "orthanc-monitor show").splitlines():
        if line.startswith("disk"):
            assert line.split(maxsplit=1)[1] in subjects["disk"]["text"]
    system = json.loads(must(machine, f"python3 - it:{PASSWORDS['it']}", SYSTEM.encode()))
    assert subjects["orthanc"]["version"] == system["Version"]
    assert subjects["orthanc"]["answers"] == {"REST": True, "DICOM": True, "HTTPS": True}
    assert subjects["patches"]["known_vulnerabilities"] == values["known_cves", ""]


def test_it_says_what_the_backup_s_list_says(machine: str) -> None:
    done(machine, "run")
    done(machine, "check")
    newest = max(done(machine, "list")["snapshots"], key=lambda one: str(one["time"]))
    subjects = status(machine)[1]["subjects"]
    assert subjects["backup"]["snapshot"] == newest["id"]
    assert subjects["restore"]["snapshot"] == newest["id"]
    assert newest["verified"]
    for name in ("backup", "restore"):
        assert (subjects[name]["state"], subjects[name]["result"]) == ("good", "success")
        assert newest["id"] in subjects[name]["text"]


@contextlib.contextmanager
def backup_failed(machine: str) -> Iterator[None]:
    """Of itself: its repository is not there."""
    must(machine, "mv /srv/backup /srv/backup-away")
    try:
        assert backup(machine, "run")[0] == 1
    finally:
        must(machine, "mv /srv/backup-away /srv/backup")
    yield
    done(machine, "run")


def test_a_backup_that_failed_is_wrong_before_the_monitor_looks(machine: str) -> None:
    with backup_failed(machine):
        code, found = status(machine)
        assert (code, found["state"]) == (1, "wrong")
        assert found["subjects"]["backup"]["text"].startswith("failed: ")
        looks(machine)
        assert set(wrong(machine)) == {"monitor", "backup"}
    looks(machine, 3)
    assert status(machine)[0] == 0


def test_an_orthanc_that_is_stopped_is_wrong(machine: str) -> None:
    with orthanc_stopped(machine):
        looks(machine, 2)
        found = wrong(machine)
        assert set(found) == {"monitor", "orthanc"}
        assert "Orthanc is not running" in found["orthanc"]
    looks(machine, 3)
    assert status(machine)[0] == 0


def test_an_old_look_is_called_old(machine: str) -> None:
    looks(machine)
    with changed(machine, STATE, "c['time'] -= 10 * 86400"):
        found = wrong(machine)
        assert set(found) == {"monitor"}
        assert "has not run a check for 10 days" in found["monitor"]
        _, said = sh(machine, PROGRAM)
        assert sum(line.split()[2] == "seen" for line in said.splitlines()[1:]) == 6
    assert status(machine)[0] == 0


def test_what_is_root_s_alone_is_named(machine: str) -> None:
    looks(machine)
    with kept(machine, STATE):
        must(machine, f"chmod 600 {STATE}")
        code, found = status(machine, "nobody")
        assert (code, found["state"]) == (1, "unknown")
        assert f"{STATE} cannot be read. Remedy: run orthanc-status as root." in found["subjects"]["monitor"]["text"]
        assert found["subjects"]["backup"]["state"] == "good"
        assert status(machine)[0] == 0


def test_wrong_usage_and_settings_end_with_2(machine: str) -> None:
    assert sh(machine, f"{PROGRAM} --nonsense")[0] == 2
    code, said = sh(machine, f"{PROGRAM} --config /root/none 2>&1")
    assert (code, "Remedy: deploy" in said) == (2, True)
    assert state(machine)["time"] > 0
