"""What an uninstall removes and refuses to remove; the rest is in the scenario `uninstall`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import adoption, present, removal, uninstall
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import restic
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup.settings import Settings
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.locks import hold_lock
from ansible_collections.clinicops.orthanc.plugins.module_utils.uninstall import Clinic
from test_files_and_units import call
from test_made import read_made

IMAGE = "00cd0000-0000-4000-8000-000000000000"


def make(tmp_path: Path) -> dict[str, list[str]]:
    """A file, a link, a directory with content, and directories of which one has more in it than ours."""
    for name in ("full", "inner/last", "own/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "own/deep/file").write_text("x")
    (tmp_path / "full/theirs").write_text("x")
    (tmp_path / "inner/last/ours").write_text("x")
    return {
        "files": [str(tmp_path / name) for name in ("file", "link", "own", "gone", "inner/last/ours")],
        "empty": [str(tmp_path / name) for name in ("full", "inner/last", "inner", "gone")],
    }


def test_paths_go_and_stay_gone(tmp_path: Path) -> None:
    wanted = make(tmp_path)
    names = ("file", "link", "own", "inner/last/ours", "inner/last", "inner")
    expected = [str(tmp_path / name) for name in names]
    before = sorted(tmp_path.rglob("*"))
    assert call("orthanc_remove", wanted, check=True)["removed"] == expected
    assert sorted(tmp_path.rglob("*")) == before
    done = call("orthanc_remove", wanted)
    assert (done["changed"], done["removed"]) == (True, expected)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "theirs"]
    assert not call("orthanc_remove", wanted)["changed"]


def test_a_directory_with_data_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "var/images").mkdir(parents=True)
    (tmp_path / "link").symlink_to("var")
    for path in ("var", "link", "var/images"):
        wanted = {"files": [str(tmp_path / path)], "keep": [str(tmp_path / "var/images")]}
        assert "which stays" in call("orthanc_remove", wanted)["msg"]
    removal.check_paths([tmp_path / "var/images/marker"], [tmp_path / "var/images"])
    for path in ("/var", "/", "/var/lib/../lib"):
        with pytest.raises(Refused, match="not a path of a deploy's own"):
            removal.check_paths([path], [])


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """A server with one image, on which nothing is in the way."""
    storage, worklist = tmp_path / "db", tmp_path / "worklists"
    (storage / IMAGE[:2] / IMAGE[2:4]).mkdir(parents=True)
    (storage / IMAGE[:2] / IMAGE[2:4] / IMAGE).write_text("image")
    (storage / "index").write_text("index")
    (storage / ".orthanc-archive").write_text("x")
    (storage / "notes of a person").write_text("x")
    worklist.mkdir()
    (worklist / "a.wl").write_text("x")
    (tmp_path / "backup").mkdir()
    monkeypatch.setattr(uninstall, "BACKUP", tmp_path / "backup")
    monkeypatch.setattr(uninstall, "FACTS", tmp_path / "facts.json")
    monkeypatch.setattr(uninstall, "CONFIGURATION", tmp_path / "backup.json")
    monkeypatch.setattr(uninstall, "DROP_IN", tmp_path / "clinicops.conf")
    monkeypatch.setattr(adoption, "read_unit", lambda *_unused: "masked")
    monkeypatch.setattr(present, "inspect", lambda _name: {})
    return Clinic(storage, worklist, made=[], packages=[])


def list_problems(clinic: Clinic) -> list[str]:
    return [f"{one.what} {one.message}" for one in uninstall.find_problems(clinic)]


def test_nothing_is_in_the_way(clinic: Clinic) -> None:
    assert list_problems(clinic) == []


def test_another_orthanc_is_refused(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "read_unit", lambda *_unused: "loaded")
    what = "is an Orthanc that this collection did not deploy"
    assert list_problems(clinic) == [f"orthanc.service {what}"]
    uninstall.DROP_IN.write_text("")
    assert list_problems(clinic) == []
    for command, said in (["/etc/orthanc/"], [f"The container orthanc {what}"]), ([present.CONFIGURATION], []):
        found: dict[str, Any] = {"Config": {"Cmd": command}}
        monkeypatch.setattr(present, "inspect", lambda _name, found=found: found)
        assert list_problems(clinic) == said


@pytest.mark.parametrize(
    ("name", "said"), [("restore.json", "A restore is unfinished"), ("stopped", "A backup is unf")]
)
def test_what_only_the_programs_can_finish_is_refused(clinic: Clinic, name: str, said: str) -> None:
    (uninstall.BACKUP / name).write_text("{}")
    [problem] = list_problems(clinic)
    assert problem.startswith(said)


def test_a_backup_at_work_is_waited_for(clinic: Clinic) -> None:
    path = uninstall.BACKUP / "run.lock"
    with hold_lock(path):
        assert list_problems(clinic) == ["orthanc-backup run is running"]
    assert list_problems(clinic) == []


def test_the_inventory_of_another_server_is_refused(clinic: Clinic) -> None:
    uninstall.FACTS.write_text(json.dumps({"storage": "/srv/db", "worklist_served": str(clinic.worklist)}))
    assert list_problems(clinic) == [
        f"orthanc_storage_dir is {clinic.storage}, but this server was deployed with /srv/db"
    ]


def test_the_last_copy_is_refused(clinic: Clinic) -> None:
    going = clinic._replace(images_go=True)
    [problem] = uninstall.find_problems(going)
    assert problem.rule == "removes_last_copy"
    assert "no backup of this server was ever proven" in problem.message
    for epoch in (1785535200, 1785535200.5):
        (uninstall.BACKUP / "restore_check.json").write_text(json.dumps({"last_success_epoch": epoch}))
        assert uninstall.find_problems(going) == []
    uninstall.CONFIGURATION.write_text("{}")
    [told] = uninstall.tell(clinic)
    assert told.startswith("The last restore check that succeeded was on 2026-0")


def test_what_goes_for_good_is_counted(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the programs have gone already; and nothing that stays, or is no longer there."""
    assert uninstall.list_lost(clinic) == []
    going = clinic._replace(images_go=True, backups_go=True)
    images = [f"1 file of images, 5 B, and the index, in {clinic.storage}", f"1 worklist item in {clinic.worklist}"]
    assert uninstall.list_lost(going) == images
    settings = {"host": "pacs", "repository": "sftp:backup@192.0.2.7:/srv"}
    uninstall.CONFIGURATION.write_text("{}")
    monkeypatch.setattr(Settings, "read", lambda _path: SimpleNamespace(**settings))
    monkeypatch.setattr(restic, "list_snapshots", lambda _settings: [{"id": "a"}, {"id": "b"}])
    assert uninstall.list_lost(going) == [*images, "2 backups of pacs in sftp:backup@192.0.2.7:/srv"]
    removal.remove_paths(uninstall.list_archive(clinic.storage, clinic.worklist))
    uninstall.CONFIGURATION.unlink()
    assert uninstall.list_lost(going) == []


def test_data_go_and_nothing_else_in_their_directories(clinic: Clinic) -> None:
    (clinic.storage / ".set-aside-1").mkdir()
    (clinic.worklist / ".spool/incoming").mkdir(parents=True)
    (clinic.worklist / "letter.txt").write_text("x")
    removal.remove_paths(uninstall.list_archive(clinic.storage, clinic.worklist))
    left = sorted(path.name for place in (clinic.storage, clinic.worklist) for path in place.rglob("*"))
    assert left == ["letter.txt", "notes of a person"]
    assert uninstall.list_archive(clinic.storage, clinic.worklist) == []


def test_what_was_put_away_is_offered(tmp_path: Path) -> None:
    assert uninstall.list_offers(tmp_path) == []
    notes = adoption.Notes(renamed="pacs", policy="always", nginx=True, links={"/etc/nginx/sites-enabled/a": "../a"})
    notes.write("adopted", tmp_path)
    said = "\n".join(uninstall.list_offers(tmp_path))
    for command in (
        "ln -s ../a /etc/nginx/sites-enabled/a",
        "systemctl enable --now nginx.service",
        "docker update --restart=always pacs",
        "docker start pacs",
        f"rm -r {tmp_path}",
    ):
        assert command in said
    assert "chown" not in said
    # the account that a deploy gave the images to has gone, and they belong to root
    assert "cannot read the index as it is now" in said
    notes.storage = notes.index = "/data/the images"
    notes.files_owner = [1000, 1000]
    notes.write("adopted", tmp_path)
    said = "\n".join(uninstall.list_offers(tmp_path))
    assert "chown --recursive --no-dereference 1000:1000 '/data/the images/'" in said
    assert "has an index of its own in /data/the images, without what came since the adoption" in said
    assert "cannot read the index" not in said
    adoption.Notes(enabled="enabled").write("adopted", tmp_path)
    said = "\n".join(uninstall.list_offers(tmp_path))
    assert "systemctl unmask orthanc.service" in said
    assert "docker" not in said


def test_images_that_are_in_no_orthanc_are_named(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the old Orthanc did not take after an upgrade or an adoption went back."""
    upgraded, adopted = tmp_path / "upgrade/arrived", tmp_path / "adoption/arrived"
    monkeypatch.setattr(uninstall, "KEPT", {"an upgrade": upgraded.parent, "an adoption": adopted.parent})
    assert "arrived" not in str(uninstall.list_staying(clinic))
    upgraded.mkdir(parents=True)
    adopted.mkdir(parents=True)
    for path in (upgraded / "1.dcm", adopted / "2.dcm", adopted / "3.dcm"):
        path.write_bytes(b"image")
    (adopted / ".4.dcm.part").write_bytes(b"half")
    said = uninstall.list_staying(clinic)
    for count, directory, when in (("1 image", upgraded, "an upgrade"), ("2 images", adopted, "an adoption")):
        what = f"{count} in {directory} that came during {when} and that no Orthanc has"
        assert f"{what}. Once stored elsewhere: rm -r {directory}" in said


def test_the_settings_that_a_way_back_kept_go() -> None:
    """With their passwords."""
    assert "/var/lib/orthanc-upgrade/etc" in read_made("orthanc_install")["files"]
