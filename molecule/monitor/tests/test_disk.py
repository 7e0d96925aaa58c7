"""A disk is filled in steps: alerts, mail, webhook, Prometheus, the disk guard; and everything comes back by itself."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator

import pytest
from backups import STORAGE, must, service
from clients import ADDRESSES, PASSWORDS, client, example, put, wait_for
from testinfra.utils.ansible_runner import AnsibleRunner
from watched import PROBE, healthy, look, mails, quiet, receive, received, small_disk, value
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
MEGABYTE = 1 << 20
SIZE = 400 * MEGABYTE


@pytest.fixture(params=testinfra_hosts)
def machine(request: pytest.FixtureRequest) -> Iterator[str]:
    name = str(request.param)
    receive()
    with small_disk(name, SIZE):
        quiet(name)
        yield name
    must(name, "rm /var/lib/orthanc-monitor/state.json")  # its history is of the small disk
    assert look(name, 3) == {}


def filled(machine: str, free_percent: float) -> None:
    """So much of the images' disk is left."""
    must(machine, f"rm -f {STORAGE}/ballast")
    left = int(must(machine, f"df -B1 --output=avail {STORAGE} | tail -1"))
    size = left - int(SIZE * free_percent / 100)
    if size > 0:
        must(machine, f"fallocate -l {size} {STORAGE}/ballast")


def store(machine: str) -> tuple[int, str]:
    """A new image: one that is there already needs no space, and is taken."""
    put(PROBE, "/tmp/image.dcm", example().read_bytes())
    assert client(PROBE, "/usr/bin/dcmodify", "--no-backup", "--gen-inst-uid", "/tmp/image.dcm").returncode == 0
    command = ["/usr/bin/storescu", "-v", "-xe", "-aet", "US1", "-aec", "ORTHANC", ADDRESSES[machine][0], "4242"]
    done = client(PROBE, *command, "/tmp/image.dcm")
    return done.returncode, (done.stdout + done.stderr).decode()


ASK = """
import base64, http.client, sys
user, method, path = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 8042)
headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}
connection.request(method, path, b"x" if method == "POST" else None, headers)
answer = connection.getresponse()
print(answer.status)
print(answer.read().decode(errors="replace"))
"""


def rest(machine: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body of Orthanc's answer on its own machine."""
    status, _, body = must(machine, f"python3 - it:{PASSWORDS['it']} {method} {path}", ASK.encode()).partition("\n")
    return int(status), body


def alerts_of_prometheus(machine: str) -> set[str]:
    url = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9090/api/v1/alerts').read().decode())"
    told = json.loads(must(machine, "python3 -", url.encode()))["data"]["alerts"]
    found = {f"{one['labels']['alertname']}/{one['labels'].get('fs', '')}" for one in told if one["state"] == "firing"}
    return found - {"OrthancMonitorSilent/"}  # here the tests look, and no timer


def firing_there(machine: str, alert: str) -> bool:
    return alert in alerts_of_prometheus(machine)


def test_a_disk_that_fills(machine: str) -> None:
    prometheus = sh(machine, "systemctl is-active prometheus")[0] == 0
    if prometheus:
        # an all-clear after three good minutes would be waited for
        must(machine, 'orthanc-monitor rules | sed \'s/"3m"/"5s"/\' > /etc/prometheus/orthanc.rules.yml')
        must(machine, "promtool check rules /etc/prometheus/orthanc.rules.yml && systemctl reload prometheus")
        wait_for(lambda: alerts_of_prometheus(machine) == set(), "Prometheus")
    assert store(machine)[0] == 0
    seen = len(mails(machine)), len(received())
    for percent, alert in ((15, "DiskFilling"), (8, "DiskAlmostFull"), (3, "DiskGuard")):
        filled(machine, percent)
        found = look(machine, 3)
        assert list(found) == [f"{alert}/storage"], percent
        if prometheus:
            wait_for(functools.partial(firing_there, machine, f"Orthanc{alert}/storage"), alert)
    # the disk guard holds, and images are read
    status, said = store(machine)
    assert status != 0
    assert "Refused: OutOfResources" in said, said
    assert rest(machine, "/instances", "POST")[0] == 403
    assert rest(machine, "/dicom-web/studies", "POST")[0] == 403
    for image in json.loads(rest(machine, "/instances")[1]):
        assert rest(machine, f"/instances/{image}/file")[0] == 200
    # also after Orthanc was started anew, as the look finds it
    service(machine, "restart")
    healthy(machine)
    look(machine)
    assert "Refused: OutOfResources" in store(machine)[1]
    # it goes on by itself
    filled(machine, 50)
    assert look(machine, 3) == {}
    assert store(machine)[0] == 0
    if prometheus:
        wait_for(lambda: alerts_of_prometheus(machine) == set(), "Prometheus' all-clear")
    assert value(machine, "disk_guard", "storage") == 0
    assert int(must(machine, f"stat -c %s {STORAGE}/.orthanc-reserve")) == SIZE // 100

    text = "\n".join(mails(machine)[seen[0] :])
    for summary in ("The disk is filling", "The disk is almost full", "New images are refused"):
        assert f"Trouble, critical: {summary}" in text or f"Trouble, warning: {summary}" in text, summary
        assert f"All clear, critical: {summary}" in text or f"All clear, warning: {summary}" in text, summary
    told = [(one["name"], one["state"]) for message in received()[seen[1] :] for one in message["alerts"]]
    # what is worse covers what was told; all is over when it is
    names = ["DiskFilling", "DiskAlmostFull", "DiskGuard"]
    assert told == [*((name, "firing") for name in names), *((name, "resolved") for name in sorted(names))]


@pytest.mark.parametrize(
    "machine", [testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)], indirect=True
)
def test_a_steady_feed_is_forecast(machine: str) -> None:
    """Ten megabytes a day for six days, by the program's own clock."""
    must(machine, "rm /var/lib/orthanc-monitor/state.json")
    daily, must_be = 10 * MEGABYTE, 0.0
    for day in range(7):
        look(machine, 1, 1 + day * 86400)
        if day < 3:
            assert value(machine, "days_until_full", "storage") is None
            assert "not enough history yet" in must(machine, "orthanc-monitor show || true")
        free = int(must(machine, f"df -B1 --output=avail {STORAGE} | tail -1"))
        must_be = (free - 0.05 * SIZE) / daily  # until the disk guard
        must(machine, f"fallocate -l {daily} {STORAGE}/ballast-{day}")
    days = value(machine, "days_until_full", "storage")
    assert days is not None
    print(f"{machine}: {days:.1f} days, {must_be:.1f} days are right")
    assert days == pytest.approx(must_be, rel=0.2)
