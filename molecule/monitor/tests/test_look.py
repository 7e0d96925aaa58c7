"""What a look costs, who may read what, and what others read of it."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import time
from typing import Any

import pytest
from backups import PASSWORD, STORAGE, main_process, must
from clients import PASSWORDS, ROOT, client, wait_for
from testinfra.utils.ansible_runner import AnsibleRunner
from watched import PROBE, look, quiet, state

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
LOOKS = 10
PROGRAMS, CONNECTIONS = 16, 16  # of one look


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


# Python tells whoever asks (PEP 578) which programs it starts, where it connects and what it opens
WATCHED = """
import json, runpy, sys
seen = []
def watch(event, values):
    if event == "subprocess.Popen":
        seen.append(["program", str(values[0])])
    elif event == "socket.connect":
        seen.append(["connection", str(values[1])])
    elif event == "open" and isinstance(values[0], (str, bytes)):
        seen.append(["file", str(values[0])])
sys.addaudithook(watch)
sys.argv = ["/usr/local/sbin/orthanc-monitor", "look"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("\\n" + json.dumps(seen))
"""


def looked(machine: str) -> dict[str, list[str]]:
    """What one look starts, where it connects to, and what it opens."""
    found: dict[str, list[str]] = {"program": [], "connection": [], "file": []}
    for kind, what in json.loads(must(machine, "python3 -", WATCHED.encode()).splitlines()[-1]):
        found[kind].append(what)
    return found


def test_a_look_does_little_and_opens_no_image(machine: str) -> None:
    look(machine)
    written = "stat --format=%.9Y /var/lib/orthanc-monitor/state.json"  # the state itself knows whole seconds
    before = float(must(machine, written))
    found = looked(machine)
    assert float(must(machine, written)) > before
    print(f"{machine}: {found['program']} {found['connection']}, {len(found['file'])} files")
    assert 0 < len(found["program"]) <= PROGRAMS
    assert 0 < len(found["connection"]) <= CONNECTIONS
    assert [path for path in found["file"] if re.match(rf"{STORAGE}/[0-9a-f]{{2}}/", path)] == []
    again = looked(machine)
    assert [len(again[kind]) for kind in ("program", "connection")] == [
        len(found[kind]) for kind in ("program", "connection")
    ]


@pytest.mark.campaign
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
    try:
        found = look(machine, 2)
        # both looks were over before it went on
        assert must(machine, f"ps --no-headers -o state {pid}").strip() == "T"
    finally:
        must(machine, f"kill -CONT {pid}")
    assert list(found) == ["IndexSilent/"]
    assert look(machine, 3) == {}


@pytest.mark.campaign
def test_a_look_at_a_frozen_orthanc_takes_half_a_minute_at_most(machine: str) -> None:
    pid = main_process(machine)
    must(machine, f"kill -STOP {pid}")
    begin = time.monotonic()
    try:
        look(machine, 2)
        assert time.monotonic() - begin < 60
    finally:
        must(machine, f"kill -CONT {pid}")
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
