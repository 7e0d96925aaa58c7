"""A device that is set up by its connection sheet reaches Orthanc: in each of the server's networks."""

from __future__ import annotations

import json
import os
import re

import pytest
from backups import must
from clients import ADDRESSES, client, name_of
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

REPORT = "/var/lib/orthanc-verify/report.html"
# as orthanc-verify describes a device, from this machine's own routes and listeners
DESCRIBE = """
import json, sys
sys.path.insert(0, "/usr/local/lib/clinicops-orthanc")
from server.verify.cli import CONFIGURATION, described_devices, read_settings
settings = read_settings(CONFIGURATION)
settings["devices"] = [settings["devices"][0] | {"host": host} for host in sys.argv[1:]]
print(json.dumps(described_devices(settings, set())))
"""


def sheet(machine: str, device: str) -> dict[str, list[str]]:
    """What stands under each word of the device's sheet, the server's after the device's own."""
    [found] = re.findall(rf'<h3 id="device-\d+">{device}</h3>(.*?)</section>', must(machine, f"cat {REPORT}"), re.S)
    known: dict[str, list[str]] = {}
    for term, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", found):
        known.setdefault(term, []).extend(re.findall(r"<code>(.*?)</code>", value))
    return known


@pytest.mark.parametrize(("device", "place"), [("us1", 0), ("us2", 0), ("us3", 1)])
def test_a_device_set_up_by_its_sheet_is_answered(host: Host, device: str, place: int) -> None:
    machine = name_of(host)
    known = sheet(machine, device)
    [calling, called], [address], [port] = known["AE title"], known["Address"], known["Port"]
    assert address == ADDRESSES[machine][place]
    sender = f"orthanc-sender{device[-1]}"
    done = client(sender, "echoscu", "-v", "-to", "5", "-aet", calling, "-aec", called, address, port)
    assert done.returncode == 0, done.stderr.decode()


def test_who_cannot_reach_it_is_told_so(host: Host) -> None:
    machine = name_of(host)
    hosts = "198.51.100.35 198.51.100.111 203.0.113.9 2001:db8:100:1::35"
    must(machine, "ip route add unreachable 203.0.113.0/24")
    try:
        clinic, office, nowhere, six = json.loads(must(machine, f"python3 - {hosts}", DESCRIBE.encode()))
    finally:
        must(machine, "ip route del unreachable 203.0.113.0/24")
    assert (clinic["server_address"], clinic["server_problem"]) == (ADDRESSES[machine][0], "")
    assert (office["server_address"], office["server_problem"]) == (ADDRESSES[machine][1], "")
    assert nowhere["server_address"] == six["server_address"] == ""
    assert "no route to 203.0.113.9" in nowhere["server_problem"]
    # Docker's proxy does listen there, and Orthanc would refuse whom it brings
    assert "Orthanc listens only on IPv4. Remedy: give the device an IPv4 address" in six["server_problem"]
