"""What a look costs, who may read what, and what others read of it."""

from __future__ import annotations

import functools
import json
import os
import shlex
import time
from typing import Any

import pytest
from backups import PASSWORD, main_process, must
from clients import PASSWORDS, ROOT, client, wait_for
from testinfra.utils.ansible_runner import AnsibleRunner
from watched import PROBE, look, quiet, state

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
LOOKS = 10


@pytest.fixture(scope="module", params=testinfra_hosts)
def machine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    quiet(name)
    return name


def test_the_timer_looks_each_minute(machine: str) -> None:
    must(machine, "systemctl start orthanc-monitor.timer")
    [line] = must(machine, "systemctl list-timers --no-legend --plain orthanc-monitor.timer").splitlines()
    assert "orthanc-monitor.service" in line
    assert must(machine, "systemctl is-enabled orthanc-monitor.timer").strip() == "enabled"
    must(machine, "systemctl stop orthanc-monitor.timer")


def test_a_look_costs_less_than_a_hundredth_of_a_core(machine: str) -> None:
    """Processor time of the program and of all that it starts, of 60 s each; Docker's daemon works besides."""
    before, spent, longest = state(machine)["time"], 0.0, 0.0
    for _ in range(LOOKS):
        begin = time.monotonic()
        times = must(machine, "bash -c 'orthanc-monitor look; times'").split()[-2:]
        longest = max(longest, time.monotonic() - begin)
        spent += sum(int(one.split("m")[0]) * 60 + float(one.split("m")[1].rstrip("s")) for one in times)
    print(
        f"{machine}: {spent / LOOKS:.3f} s of a core per look, {100 * spent / LOOKS / 60:.2f} %; {longest:.2f} s long"
    )
    assert 0.01 < spent / LOOKS < 0.6
    assert state(machine)["time"] > before


def test_a_frozen_orthanc_is_not_waited_for(machine: str) -> None:
    pid = main_process(machine)
    must(machine, f"kill -STOP {pid}")
    begin = time.monotonic()
    try:
        found = look(machine, 2)
    finally:
        must(machine, f"kill -CONT {pid}")
    assert list(found) == ["IndexSilent/"]
    assert time.monotonic() - begin < 60
    assert look(machine, 3) == {}


def test_secrets_stay_where_they_are(machine: str) -> None:
    look(machine)
    secrets = [*PASSWORDS.values(), PASSWORD, "scenario-token"]
    readable = must(
        machine, "cat /var/lib/orthanc-monitor/*; journalctl --no-pager -u orthanc-monitor; orthanc-monitor rules"
    )
    for secret in secrets:
        assert secret not in readable
    assert must(machine, "stat -c %a:%U /etc/orthanc-monitor.json").strip() == "600:root"


def test_metrics_are_offered_to_this_machine_alone() -> None:
    machine = testinfra_hosts[0]
    look(machine)
    get = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/metrics').read().decode())"
    text = must(machine, "python3 -", get.encode())
    assert 'orthanc_monitor_fs_free_percent{fs="storage"}' in text
    assert "orthanc_monitor_index_up 1" in text
    assert client(PROBE, "curl", "--silent", "--max-time", "2", "http://198.51.100.31:9100/").returncode in (7, 28)


def test_every_panel_of_the_dashboard_shows_something() -> None:
    machine = testinfra_hosts[0]
    look(machine)
    board = json.loads((ROOT / "roles/orthanc_monitor/files/dashboard.json").read_text())
    wanted = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(wanted) > 8
    for expr in wanted:
        wait_for(functools.partial(asked, machine, expr.replace("$instance", "127.0.0.1:9100")), expr)


ASK = """
import sys, urllib.parse as p, urllib.request as u
query = p.urlencode({"query": sys.argv[1]})
print(u.urlopen("http://127.0.0.1:9090/api/v1/query?" + query).read().decode())
"""


def asked(machine: str, expr: str) -> Any:
    """What Prometheus finds."""
    return json.loads(must(machine, f"python3 - {shlex.quote(expr)}", ASK.encode()))["data"]["result"]
