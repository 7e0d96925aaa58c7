"""A change rolled out to four clinics, of which the second fails and is put back, and the third does not answer; then
to all of them; and another one whose canary, which has Orthanc in a container, fails and is put back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bed
import pytest
from clients import ADDRESSES, client_at, scu
from terminal import run_in_terminal

INVENTORY = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
CLINICS = [f"orthanc-many{number}" for number in (1, 2, 3, 4)]
CANARY, BROKEN, GONE, NEXT = CLINICS
# the acceptance test finds that anybody may read Orthanc on this port
SITE = "/etc/nginx/conf.d/zz-forgotten.conf"
SERVER = "server { listen 8080; location / { proxy_pass http://127.0.0.1:8042; } }"
# a firewall with other sources, a site, Orthanc's configuration, the container's ports and a program's settings change
CHANGE = {
    "orthanc_aet": "RENAMED",
    "orthanc_dicom_port": 11112,
    "orthanc_worklist_keep_days": 5,
    "orthanc_https_sources": ["192.0.2.0/24"],
}
KEPT = "/var/lib/orthanc-previous"
# content, owner and mode of what a deploy writes, the firewall as it is loaded, and the units that are enabled
STATE = """
find /etc/orthanc /etc/orthanc-*.json /etc/clinicops-orthanc.json /etc/nginx /etc/nftables.d /etc/systemd/system \
  /etc/cron.d /usr/local ! -name '*.pyc' ! -name __pycache__ -printf '%p %y %m %U %G %l\\n' | sort
find /etc/orthanc /etc/orthanc-*.json /etc/clinicops-orthanc.json /etc/nginx /etc/nftables.d /etc/systemd/system \
  /etc/cron.d /usr/local ! -name '*.pyc' -type f -print0 | sort -z | xargs -0 sha256sum
nft --stateless list table inet orthanc
systemctl list-unit-files --no-legend --state=enabled
systemctl list-timers --all --no-legend --output=json | grep -o '"unit":"orthanc[^"]*"' | sort
"""


def roll_out(settings: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit code and lines of a deploy with these settings: one clinic, one more, and all others."""
    values = {"orthanc_rollout": [1, 1, "100%"], **settings}
    command = ["ansible-playbook", "--inventory", str(INVENTORY), "-e", json.dumps(values), "clinicops.orthanc.deploy"]
    return run_in_terminal(command)


def run_on(name: str, script: str) -> str:
    """What a shell script prints on a machine."""
    return bed.docker("exec", name, "sh", "-ec", script).stdout


def find_changed() -> list[str]:
    """The clinics on which the setting has the new value."""
    read = {name: json.loads(run_on(name, "cat /etc/orthanc-worklist.json"))["keep_days"] for name in CLINICS}
    return [name for name, found in read.items() if found == CHANGE["orthanc_worklist_keep_days"]]


def is_served(name: str) -> tuple[bool, bool]:
    """Whether the clinic's device reaches it as it was before the change, and as it is after it."""
    address, client = ADDRESSES[name][0], client_at("us1")
    before = scu(client, "echoscu", "US1", address)
    after = scu(client, "echoscu", "US1", address, called="RENAMED", port=11112)
    return before[0] == 0, after[0] == 0


def leave_site(name: str) -> None:
    """Leaves a site on the clinic's machine that opens Orthanc to everybody."""
    run_on(name, f"echo '{SERVER}' > {SITE} && systemctl reload nginx")


def remove_site(name: str) -> None:
    """Takes it away again."""
    run_on(name, f"rm {SITE} && systemctl reload nginx")


@pytest.fixture
def broken() -> Iterator[None]:
    """The second clinic has a forgotten site, and the third is switched off."""
    leave_site(BROKEN)
    bed.docker("stop", "--time", "5", GONE)
    try:
        yield
    finally:
        bed.docker("start", GONE)
        bed.wait_for_systemd(GONE)
        remove_site(BROKEN)


def test_exactly_the_right_clinics_are_changed(broken: None) -> None:
    before = run_on(BROKEN, STATE)
    others = {name: run_on(name, STATE) for name in (CANARY, NEXT)}
    assert is_served(BROKEN) == (True, False)

    status, lines = roll_out(CHANGE)
    text = "\n".join(lines)
    assert status != 0
    for row in (
        f"  done           1  {CANARY}",
        f"  FAILED         1  {BROKEN}",
        f"  NOT REACHED    1  {GONE}",
        f"  not begun      1  {NEXT}",
    ):
        assert row in lines, text
    assert [line for line in lines if line.startswith("Batch ")][:2] == [
        f"Batch 1: {CANARY} (1 of 3)",
        f"Batch 2: {BROKEN} (2 of 3)",
    ]
    said = " ".join(text.split())
    assert f"FAILED on {BROKEN}: Check that the acceptance test passed (step 12 of 12, Run the acceptance test)" in said
    assert "The configuration of before this deploy was put back, and Orthanc answers." in said
    assert "what this deploy changed is not the only cause" in said, "the forgotten site was there before"

    # the clinic that failed is as before, and serves its device
    assert run_on(BROKEN, STATE) == before
    assert is_served(BROKEN) == (True, False)
    assert is_served(CANARY) == (False, True)
    assert run_on(CANARY, STATE) != others[CANARY]
    assert run_on(NEXT, STATE) == others[NEXT]
    for name in (CANARY, BROKEN, NEXT):
        assert run_on(name, f"ls -d {KEPT}* || true") == "", "secrets are kept no longer than needed"

    page = (INVENTORY.parent / "reports" / "index.html").read_text()
    order = sorted((BROKEN, GONE), key=page.index)
    assert max(map(page.index, order)) < min(page.index(f'"{name}.html"') for name in (CANARY, NEXT))
    rows = {name: page[page.index(f'"{name}.html"') :].partition("</tr>")[0] for name in CLINICS}
    assert "Not tested: not reached" in rows[GONE]
    assert [name for name, row in rows.items() if "; put back" in row] == [BROKEN]


def test_what_was_stopped_goes_on_where_all_is_right() -> None:
    assert find_changed() == [CANARY]
    status, lines = roll_out(CHANGE)
    assert status == 0, "\n".join(lines)
    assert f"  done           4  {', '.join(CLINICS)}" in lines
    assert find_changed() == CLINICS
    assert is_served(BROKEN) == (False, True)
    page = (INVENTORY.parent / "reports" / "index.html").read_text()
    assert "Not tested" not in page
    assert "put back" not in page


def describe_container(name: str) -> tuple[Any, ...]:
    """What Docker knows of the clinic's container, without its identifiers and moments."""
    [found] = json.loads(run_on(name, "docker inspect orthanc"))
    config = {key: value for key, value in found["Config"].items() if key != "Hostname"}
    return config, found["HostConfig"], found["Image"], found["State"]["Running"]


def test_a_container_is_put_back_as_well() -> None:
    """The settings of before are rolled out again, and the canary fails with them."""
    before, container = run_on(CANARY, STATE), describe_container(CANARY)
    leave_site(CANARY)
    try:
        status, lines = roll_out({})
        said = " ".join(" ".join(lines).split())
        assert status != 0
        assert f"  not begun      3  {', '.join((BROKEN, GONE, NEXT))}" in lines, said
        assert "The configuration of before this deploy was put back, and Orthanc answers." in said
    finally:
        remove_site(CANARY)
    assert run_on(CANARY, STATE) == before
    assert describe_container(CANARY) == container
    assert is_served(CANARY) == (False, True)
    assert find_changed() == CLINICS
    # the next deploy finds the container as it wants it
    status, lines = roll_out(CHANGE)
    assert status == 0, "\n".join(lines)
    assert describe_container(CANARY) == container
