"""What an uninstall says of what stays on the machine; the rest is in the scenario `uninstall`."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import uninstall
from test_made import read_made


def test_images_that_are_in_no_orthanc_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the old Orthanc did not take after an upgrade or an adoption went back."""
    upgrade, adoption = tmp_path / "upgrade/arrived", tmp_path / "adoption/arrived"
    monkeypatch.setattr(uninstall, "ARRIVED", {"an upgrade": upgrade, "an adoption": adoption})
    clinic = uninstall.Clinic(tmp_path / "db", tmp_path / "worklists", [], [], images_go=True)
    assert "arrived" not in str(uninstall.list_staying(clinic))
    upgrade.mkdir(parents=True)
    adoption.mkdir(parents=True)
    for path in (upgrade / "1.dcm", adoption / "2.dcm", adoption / "3.dcm"):
        path.write_bytes(b"image")
    (adoption / ".4.dcm.part").write_bytes(b"half")
    said = uninstall.list_staying(clinic)
    for count, directory, when in (("1 image", upgrade, "an upgrade"), ("2 images", adoption, "an adoption")):
        what = f"{count} in {directory} that came during {when} and that no Orthanc has"
        assert f"{what}. Once stored elsewhere: rm -r {directory}" in said


def test_the_settings_that_a_way_back_kept_go() -> None:
    """With their passwords."""
    assert "/var/lib/orthanc-upgrade/etc" in read_made("orthanc_install")["files"]
