"""A change rolled out to four clinics, of which the second fails and the third does not answer; then to all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import bed
import pytest
from terminal import run_in_terminal

INVENTORY = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
CLINICS = [f"orthanc-many{number}" for number in (1, 2, 3, 4)]
CANARY, BROKEN, GONE, NEXT = CLINICS
# the acceptance test finds that anybody may read Orthanc on this port
SITE = "/etc/nginx/conf.d/zz-forgotten.conf"
SERVER = "server { listen 8080; location / { proxy_pass http://127.0.0.1:8042; } }"


def roll_out(keep_days: int) -> tuple[int, list[str]]:
    """Exit code and lines of a deploy with one changed setting: one clinic, one more, and all others."""
    values = {"orthanc_rollout": [1, 1, "100%"], "orthanc_worklist_keep_days": keep_days}
    command = ["ansible-playbook", "--inventory", str(INVENTORY), "-e", json.dumps(values), "clinicops.orthanc.deploy"]
    return run_in_terminal(command)


def run_on(name: str, script: str) -> str:
    """What a shell script prints on a machine."""
    return bed.docker("exec", name, "sh", "-ec", script).stdout


def find_changed(keep_days: int) -> list[str]:
    """The clinics on which the setting has this value."""
    read = {name: json.loads(run_on(name, "cat /etc/orthanc-worklist.json"))["keep_days"] for name in CLINICS}
    return [name for name, found in read.items() if found == keep_days]


@pytest.fixture
def broken() -> Iterator[None]:
    """The second clinic has a forgotten site, and the third is switched off."""
    run_on(BROKEN, f"echo '{SERVER}' > {SITE} && systemctl reload nginx")
    bed.docker("stop", "--time", "5", GONE)
    try:
        yield
    finally:
        bed.docker("start", GONE)
        bed.wait_for_systemd(GONE)
        run_on(BROKEN, f"rm {SITE} && systemctl reload nginx")


def test_exactly_the_right_clinics_are_changed(broken: None) -> None:
    status, lines = roll_out(5)
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
    page = (INVENTORY.parent / "reports" / "index.html").read_text()
    order = sorted((BROKEN, GONE), key=page.index)
    assert max(map(page.index, order)) < min(page.index(f'"{name}.html"') for name in (CANARY, NEXT))
    row = page[page.index(f'"{GONE}.html"') :].partition("</tr>")[0]
    assert "Not tested: not reached" in row


def test_what_was_stopped_goes_on_where_all_is_right() -> None:
    assert find_changed(5) == [CANARY, BROKEN]
    status, lines = roll_out(5)
    assert status == 0, "\n".join(lines)
    assert f"  done           4  {', '.join(CLINICS)}" in lines
    assert find_changed(5) == CLINICS
    page = (INVENTORY.parent / "reports" / "index.html").read_text()
    assert "Not tested" not in page
