"""The pages that a deploy filed, and the one on the server, as their readers see them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import page
from backups import must

FILED = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent.parent / "reports"
MACHINES = ["orthanc-verify12", "orthanc-verify13"]


def test_the_filed_pages_are_sound_and_show_what_was_seen(tmp_path: Path) -> None:
    with page.browser() as chromium:
        for machine in MACHINES:
            report = json.loads((FILED / f"{machine}.json").read_text())
            # what was looked at from elsewhere is in it as well
            assert any("from localhost" in check["name"] for check in report["checks"])
            passed = sum(check["passed"] for check in report["checks"])
            shows = [
                f"{passed} checks passed",
                report["versions"]["Orthanc"],
                report["hostname"],
                "not enough history yet",
            ]
            devices = [device["name"] for device in report["devices"]]
            own = tmp_path / f"{machine}.html"
            own.write_text(must(machine, "cat /var/lib/orthanc-verify/report.html"))
            assert page.problems(chromium, FILED / f"{machine}.html", shows, devices) == []
            assert page.problems(chromium, own, shows[1:], devices) == []
        # a row for each, which leads to its page
        assert page.problems(chromium, FILED / "index.html", ["Clinic Orthanc", "pacs.clinic.example"]) == []
        text = (FILED / "index.html").read_text()
        assert [f'href="{machine}.html"' in text for machine in MACHINES] == [True, True]
