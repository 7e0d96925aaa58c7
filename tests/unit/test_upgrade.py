"""What an upgrade and its way back do with indexes, images and files; the rest is in the scenario `upgrade`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils import adoption, indexes, installed, upgrade
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup.settings import OURS
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Busy, Refused
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.locks import hold_lock
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.orthanc.api import Answer, Unanswered
from ansible_collections.clinicops.orthanc.plugins.module_utils.upgrade import Notes
from ansible_collections.clinicops.orthanc.plugins.modules import orthanc_upgrade

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS, ROLE = ROOT / "playbooks", ROOT / "roles/orthanc_install"


def name_file(number: int) -> str:
    return f"{number:02x}cd0000-0000-4000-8000-000000000000"


def make_storage(tmp_path: Path, images: dict[str, int]) -> Path:
    """A storage directory with an index: by Orthanc's identifier of each image, the number of its file."""
    storage = tmp_path / "db"
    storage.mkdir(exist_ok=True)
    (storage / "index").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(storage / "index")) as database:
        database.execute("CREATE TABLE Resources(internalId INTEGER PRIMARY KEY, resourceType INTEGER, publicId TEXT)")
        database.execute(
            "CREATE TABLE AttachedFiles(id INTEGER, fileType INTEGER, uuid TEXT, compressedSize INTEGER,"
            " compressionType INTEGER, uncompressedMD5 TEXT)"
        )
        database.execute("CREATE TABLE DicomIdentifiers(id INTEGER, tagGroup INTEGER, tagElement INTEGER, value TEXT)")
        database.execute("INSERT INTO Resources VALUES (1000, 2, 'study')")
        database.execute("INSERT INTO DicomIdentifiers VALUES (1000, 32, 13, '1.2.3')")
        for internal, (identity, number) in enumerate(images.items(), 1):
            path = upgrade.find_file(storage, name_file(number))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"image {number}".encode())
            database.execute("INSERT INTO Resources VALUES (?, 4, ?)", (internal, identity))
            row = (internal, indexes.DICOM, name_file(number), 9, 1, f"md5-{number}")
            database.execute("INSERT INTO AttachedFiles VALUES (?, ?, ?, ?, ?, ?)", row)
        database.commit()
    return storage


def add_file(storage: Path, identity: str, kind: int, number: int) -> None:
    """Another attachment of an image."""
    with contextlib.closing(sqlite3.connect(storage / "index")) as database:
        [internal] = database.execute("SELECT internalId FROM Resources WHERE publicId = ?", (identity,)).fetchone()
        database.execute("INSERT INTO AttachedFiles VALUES (?, ?, ?, 9, 1, '')", (internal, kind, name_file(number)))
        database.commit()


@pytest.fixture
def switched(tmp_path: Path) -> Path:
    """After the switch: one image was deleted, one replaced, one came with a second file; one got an attachment."""
    before = make_storage(tmp_path, {"stays": 1, "deleted": 2, "replaced": 3})
    indexes.save_index(before, before / upgrade.INDEX)
    now = make_storage(tmp_path, {"stays": 1, "replaced": 4, "new": 5})
    add_file(now, "new", 3, 6)
    add_file(now, "stays", 1024, 7)
    for number in (2, 3):
        upgrade.find_file(now, name_file(number)).unlink()
    return now


def test_what_the_new_release_did_is_found(switched: Path) -> None:
    found = upgrade.find_changes(switched / "index", switched / upgrade.INDEX / "index", switched)
    assert [one.uuid for one in found.arrived] == [name_file(4), name_file(5)]
    assert found.files == [name_file(4), name_file(5), name_file(6)]  # 7 is a person's, and stays
    assert found.deleted == ["deleted", "replaced"]


def test_a_row_that_the_new_release_lost_is_no_deletion(switched: Path) -> None:
    (upgrade.find_file(switched, name_file(2))).write_bytes(b"is there")
    found = upgrade.find_changes(switched / "index", switched / upgrade.INDEX / "index", switched)
    assert found.deleted == ["replaced"]


def test_the_old_index_comes_back_and_an_interrupted_way_back_is_repeated(switched: Path, tmp_path: Path) -> None:
    directory = tmp_path / "upgrade"
    (switched / "index-wal").write_bytes(b"")
    for _again in range(2):  # the second finds the old index in its place already
        notes = Notes.read(directory)
        upgrade.put_index_back(notes, switched, directory)
        noted = Notes.read(directory)
        assert (noted.step, noted.missing) == ("returning", ["deleted", "replaced"])
        assert noted.orphans == [name_file(4), name_file(5), name_file(6)]
        assert sorted(indexes.list_images(switched / "index")) == ["deleted", "replaced", "stays"]
        saved = (directory / indexes.ARRIVED).iterdir()
        assert sorted(path.read_bytes() for path in saved) == [b"image 4", b"image 5"]
        assert not (switched / "index-wal").exists()
        assert (switched / "index").stat().st_mode & 0o777 == 0o640


def test_without_the_old_index_nothing_is_replaced(switched: Path, tmp_path: Path) -> None:
    (switched / upgrade.INDEX / "index").unlink()
    present = (switched / "index").read_bytes()
    with pytest.raises(Refused, match="orthanc-backup restore"):
        upgrade.put_index_back(Notes(), switched, tmp_path / "upgrade")
    assert (switched / "index").read_bytes() == present


@pytest.mark.parametrize(("free", "is_removed"), [(40 << 10, False), (60 << 10, True)])
def test_the_way_back_asks_for_space_while_the_new_orthanc_still_runs(
    switched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, is_removed: bool
) -> None:
    """A copy of the index of before, of 20 KiB, and twice the images that came since, of 10 KiB."""
    monkeypatch.setattr(upgrade, "BACKUP", tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)

    def remove(_self: installed.Package) -> None:
        raise SystemExit("removed")

    monkeypatch.setattr(installed.Package, "remove", remove)
    index, directory = switched / upgrade.INDEX / "index", tmp_path / "upgrade"
    with index.open("r+b") as file:
        file.truncate(20 << 10)
    for path in adoption.find_attachments(switched):
        os.utime(path, (1000, 1000))
    upgrade.find_file(switched, name_file(5)).write_bytes(bytes(10 << 10))
    Notes(method="package", old_method="package", aside=True, stopped=2000, image="orthanc 2").write(
        "switched", directory
    )
    end = (
        (SystemExit, "removed") if is_removed else (Refused, r"needs 41\.0 kB .*, and 41\.0 kB are free\. Nothing was")
    )
    with pytest.raises(end[0], match=end[1]):
        upgrade.go_back("127.0.0.1", switched, directory)
    assert Notes.read(directory).step == ("returning" if is_removed else "switched")


def test_the_old_settings_come_back_with_owner_and_mode(tmp_path: Path) -> None:
    kept, path = tmp_path / "upgrade", tmp_path / "root" / "etc" / "orthanc.json"
    for one, text, mode in ((kept / "etc" / "orthanc.json", "old", 0o640), (path, "new", 0o600)):
        one.parent.mkdir(parents=True)
        one.write_text(text)
        one.chmod(mode)
    upgrade.put_files_back(kept, tmp_path / "root")
    assert path.read_text() == "old"
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.stat().st_uid == os.geteuid()


def test_a_file_of_the_configuration_that_came_since_goes(tmp_path: Path) -> None:
    """As the one with the configuration of before, which a deploy that is cut off leaves."""
    kept, site = tmp_path / "upgrade", tmp_path / "root/etc/orthanc/site"
    (site / "before").mkdir(parents=True)
    for name in ("orthanc.json", "orthanc.json.before", "new.py"):
        (site / name).write_text("new")
    upgrade.put_files_back(kept, tmp_path / "root")  # nothing was kept
    assert len([*site.iterdir()]) == 4
    (kept / "etc/orthanc/site").mkdir(parents=True)
    (kept / "etc/orthanc/site/orthanc.json").write_text("old")
    upgrade.put_files_back(kept, tmp_path / "root")
    assert sorted(path.name for path in site.iterdir()) == ["before", "orthanc.json"]
    assert (site / "orthanc.json").read_text() == "old"


def test_the_units_drop_in_that_came_since_goes(tmp_path: Path) -> None:
    """As that of the package, where the old Orthanc is in a container."""
    kept, drop_in = tmp_path / "upgrade", tmp_path / "root" / upgrade.DROP_IN.relative_to("/")
    (kept / "etc/orthanc/site").mkdir(parents=True)
    (tmp_path / "root/etc/orthanc/site").mkdir(parents=True)
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("new")
    (drop_in.parent / "clinic.conf").write_text("a person's")
    upgrade.put_files_back(kept, tmp_path / "root")
    assert [path.name for path in drop_in.parent.iterdir()] == ["clinic.conf"]


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server that was deployed with the package."""
    (tmp_path / "facts.json").write_text('{"method": "package"}')
    (tmp_path / "orthanc.json").write_text("{}")
    monkeypatch.setattr(upgrade, "FACTS", tmp_path / "facts.json")
    monkeypatch.setattr(upgrade, "SITE", tmp_path / "orthanc.json")
    monkeypatch.setattr(installed.Package, "read_identity", lambda _self: "1.12.7+dfsg-4")
    monkeypatch.setattr(installed.Image, "read_identity", lambda _self: "sha256:new")
    return tmp_path


def test_another_method_is_an_upgrade_and_the_package_alone_is_for_apt(deployed: Path) -> None:
    package, image = installed.choose("package"), installed.choose("docker", "clinic/orthanc:2")
    assert (upgrade.is_needed(image, "", Notes()), upgrade.is_of_distribution(image, Notes())) == (True, False)
    assert (upgrade.is_needed(package, "", Notes()), upgrade.is_of_distribution(package, Notes())) == (False, True)
    # one that was interrupted goes on, whatever the facts say by then
    under_way = Notes(step="switched", method="package", old_method="docker")
    assert (upgrade.is_needed(package, "", under_way), upgrade.is_of_distribution(package, under_way)) == (True, False)
    (deployed / "orthanc.json").unlink()
    with pytest.raises(Refused, match="no package of Orthanc to upgrade"):
        upgrade.find_old(Notes())


@pytest.mark.parametrize("step", upgrade.STEPS)
def test_nothing_before_the_switch_runs_once_the_old_orthanc_is_stopped(
    deployed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The playbook reads it from the module. On an interrupted way back it runs again once that is complete."""
    Notes(method="docker", old_method="package").write(step, tmp_path / "upgrade")
    monkeypatch.setattr(Notes, "PLACE", tmp_path / "upgrade/upgrade.json")
    monkeypatch.setattr(orthanc_upgrade, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(orthanc_upgrade, "run_step", lambda _given: (False, []))
    monkeypatch.setattr(orthanc_upgrade.signals, "end_at_signals", lambda: None)
    told: dict[str, Any] = {}

    class Module:
        params: ClassVar = {"step": "plan", "method": "docker", "image": "clinic/orthanc:2", "moved": ""}

        def __init__(self, **_: Any) -> None:
            self.exit_json = told.update

    monkeypatch.setattr(orthanc_upgrade, "AnsibleModule", Module)
    orthanc_upgrade.main()
    assert (told["step"], told["stopped"]) == (step, step in ("switching", "switched", "confirmed", "settling"))
    documented = yaml.safe_load(orthanc_upgrade.RETURN)
    assert set(told) == {"changed", *documented}
    assert not step or f"V({step})" in str(documented["step"])
    assert "'stopped': __orthanc_upgrade_done.stopped" in (PLAYBOOKS / "upgrade.yml").read_text()


def test_the_switch_goes_to_what_was_tried_alone(deployed: Path, tmp_path: Path) -> None:
    notes = Notes(method="package", image="package orthanc 1.12.7+dfsg-4", identity="1.12.7+dfsg-4")
    notes.write("tried", tmp_path / "upgrade")
    with pytest.raises(Refused, match="not passed with clinic/orthanc:2, but with package orthanc"):
        upgrade.switch(installed.choose("docker", "clinic/orthanc:2"), tmp_path, tmp_path / "upgrade")


def test_what_a_release_must_find_is_read_of_the_index(tmp_path: Path) -> None:
    storage = make_storage(tmp_path, {"a": 1, "b": 2, "c": 3})
    expected = upgrade.read_expected(storage / "index")
    assert expected.counts == {"patients": 0, "studies": 1, "series": 0, "instances": 3}
    assert expected.study == "1.2.3"
    assert expected.images == {name: (name_file(number), f"md5-{number}") for number, name in enumerate("abc", 1)}


def test_an_empty_index_is_no_reason_to_fail(tmp_path: Path) -> None:
    expected = upgrade.read_expected(make_storage(tmp_path, {}) / "index")
    assert (expected.counts["instances"], expected.images) == (0, {})


def test_the_trial_has_another_index_and_its_own_device() -> None:
    configuration: dict[str, Any] = {
        "StorageDirectory": "/var/lib/orthanc/db",
        "DicomModalities": {"us1": {"Host": "198.51.100.21"}, "own": {"Host": "172.18.0.1"}, "old": ["A", "b", 104]},
    }
    candidate = upgrade.build_candidate(configuration, "172.18.0.1", Path("/copy"))
    assert candidate["IndexDirectory"] == "/copy"
    assert candidate["StorageDirectory"] == "/var/lib/orthanc/db"
    assert candidate["DicomModalities"] == {
        **configuration["DicomModalities"],
        "own": {"Host": "127.0.0.1"},
    }
    assert upgrade.find_worklists({"Worklists": {"Enable": True, "Database": "/worklists"}}) == ["/worklists"]
    assert upgrade.find_worklists({}) == []


def test_the_notes_are_read_as_written(tmp_path: Path) -> None:
    assert Notes.read(tmp_path) == Notes()
    written = Notes(image="clinic/orthanc:2", stopped=12.5, missing=["a"])
    written.write("switched", tmp_path / "new")
    assert Notes.read(tmp_path / "new") == written
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert {written.step, *upgrade.UNFINISHED, "tried", "returned", "settled", ""} == set(upgrade.STEPS)


def test_backups_and_restores_leave_what_lies_beside_the_images() -> None:
    assert all(name.startswith(OURS) for name in (upgrade.INDEX, upgrade.TRIAL, f"{upgrade.INDEX}.part"))


class Old:
    """What an old Orthanc answers to the requests of a way back, and does not any more once it was interrupted."""

    def __init__(self, images: dict[str, bytes], *, files: set[str], stores: int = 99) -> None:
        self.images, self.files, self.stores = images, files, stores

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        identity = path.split("/")[2] if path.count("/") > 1 else body.decode()
        if method == "POST":
            if not self.stores:
                raise Unanswered("Orthanc does not answer (it was interrupted). Remedy: see its log.")
            self.stores -= 1
            self.images[identity] = body
            self.files.add(identity)
            return Answer(200, json.dumps({"ID": identity}).encode(), "")
        if method == "DELETE":
            del self.images[identity]
        is_there = identity in self.images and identity in self.files
        return Answer(200 if is_there else 404, self.images.get(identity, b""), "")

    def close(self) -> None:
        """There is no connection."""


def begin_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orthanc: Old, arrived: list[str]) -> Notes:
    monkeypatch.setattr(upgrade.service, "open_api", lambda _configuration: orthanc)
    for number, identity in enumerate(arrived):
        path = tmp_path / indexes.ARRIVED / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_text(identity)
    return Notes(step="returning", missing=["deleted", "sent-again"])


def test_an_interrupted_way_back_deletes_no_image_that_it_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orthanc = Old({"deleted": b"", "sent-again": b"", "stays": b""}, files={"stays"}, stores=1)
    notes = begin_way_back(tmp_path, monkeypatch, orthanc, ["sent-again", "new"])
    with pytest.raises(Unanswered):
        upgrade.put_images_in(notes, {}, tmp_path, tmp_path)
    orthanc.stores = 1
    again = Notes.read(tmp_path)
    upgrade.put_images_in(again, {}, tmp_path, tmp_path)
    assert {*orthanc.images} == {"stays", "sent-again", "new"}
    assert (again.arrived, indexes.count_arrived(tmp_path)) == (2, 0)


def test_an_image_that_a_device_sent_to_the_old_orthanc_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a way back that was killed before anything was noted."""
    orthanc = Old({"deleted": b"", "sent-again": b"sent-again"}, files={"sent-again"})
    upgrade.put_images_in(begin_way_back(tmp_path, monkeypatch, orthanc, []), {}, tmp_path, tmp_path)
    assert {*orthanc.images} == {"sent-again"}


def test_an_image_that_cannot_be_read_is_told_and_its_file_stays(switched: Path, tmp_path: Path) -> None:
    directory, damaged = tmp_path / "upgrade", upgrade.find_file(switched, name_file(5))
    with contextlib.closing(sqlite3.connect(switched / "index")) as database:
        database.execute("UPDATE AttachedFiles SET compressionType = 2 WHERE uuid = ?", (name_file(5),))
        database.commit()
    for _again in range(2):
        notes = Notes.read(directory)
        upgrade.put_index_back(notes, switched, directory)
        assert Notes.read(directory).unread == [name_file(5)]
    assert [path.read_bytes() for path in (directory / indexes.ARRIVED).iterdir()] == [b"image 4"]
    assert name_file(5) not in notes.orphans
    [said] = upgrade.describe_unread(notes, switched)
    assert str(damaged) in said
    assert damaged.exists()


def test_nothing_but_orthanc_itself_keeps_the_old_one_from_starting(
    deployed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(what: str) -> Callable[[], None]:
        def fail() -> None:
            done.append(what)
            raise Refused(f"{what}: it is wrong. Remedy: correct this.")

        return fail

    done: list[str] = []
    monkeypatch.setattr(upgrade, "load_units", refuse("systemd"))
    monkeypatch.setattr(upgrade, "load_firewall", refuse("firewall"))
    monkeypatch.setattr(adoption, "reload_nginx", refuse("nginx"))
    monkeypatch.setattr(upgrade, "put_tag_back", lambda _image: refuse("tag")())
    monkeypatch.setattr(installed.Package, "bring_back", lambda _self: done.append("back"))
    monkeypatch.setattr(installed.Package, "start", lambda _self, _policy: done.append("start"))
    monkeypatch.setattr(upgrade.service, "await_running", lambda *_unused: done.append("runs"))
    problems = upgrade.start_old(Notes(old_method="package"), "127.0.0.1")
    assert done == ["systemd", "firewall", "back", "start", "nginx", "tag", "runs"]
    assert [said.partition(":")[0] for said in problems] == ["systemd", "firewall", "nginx", "tag"]


def test_settings_in_any_encoding_come_back(tmp_path: Path) -> None:
    kept = tmp_path / "upgrade/etc/nginx/conf.d/orthanc.conf"
    kept.parent.mkdir(parents=True)
    kept.write_bytes("# Müller".encode("latin-1"))
    (tmp_path / "root/etc/nginx/conf.d").mkdir(parents=True)
    upgrade.put_files_back(tmp_path / "upgrade", tmp_path / "root")
    assert (tmp_path / "root/etc/nginx/conf.d/orthanc.conf").read_bytes() == kept.read_bytes()


def test_an_index_that_a_process_has_open_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "CLOSE_SECONDS", 0)
    index = make_storage(tmp_path, {}) / "index"
    upgrade.require_closed(index)
    with index.open(), pytest.raises(Refused, match=r"a process still has .*/index open"):
        upgrade.require_closed(index)


@pytest.mark.parametrize("lock", ["run", "ledger"])
def test_nothing_changes_while_a_backup_runs(
    deployed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """It may stop Orthanc, and starts it again."""
    monkeypatch.setattr(upgrade, "BACKUP", tmp_path)
    monkeypatch.setattr(upgrade, "LOCK_SECONDS", 0)
    directory, package = tmp_path / "upgrade", installed.choose("package")
    notes = Notes(method="package", identity="1.12.7+dfsg-4", old_method="package")
    with hold_lock(tmp_path / f"{lock}.lock"):
        notes.write("tried", directory)
        with pytest.raises(Busy, match="Another orthanc-backup"):
            upgrade.switch(package, tmp_path, directory)
        assert Notes.read(directory).step == "tried"
        notes.write("switched", directory)
        with pytest.raises(Busy, match="Another orthanc-backup"):
            upgrade.go_back("127.0.0.1", tmp_path, directory)
        assert Notes.read(directory).step == "switched"


@pytest.mark.parametrize("step", ["switching", "switched", "returning"])
def test_the_way_back_stays_until_the_acceptance_test_has_passed(tmp_path: Path, step: str) -> None:
    Notes(method="package", old_method="package").write(step, tmp_path)
    with pytest.raises(Refused, match="has not passed its acceptance test"):
        upgrade.settle(tmp_path / "db", tmp_path)
    assert Notes.read(tmp_path).step == step


def test_an_upgrade_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the power goes before the notes are written."""
    monkeypatch.setattr(installed.Package, "is_deployed", lambda *_unused: True)
    monkeypatch.setattr(installed.Package, "read_identity", lambda _self: "1.12.7+dfsg-4")
    write = Notes.write

    def settle_until(step: str) -> None:
        def cut(notes: Notes, now: str, directory: Path | None = None) -> None:
            if now == step:
                raise SystemExit
            write(notes, now, directory)

        with monkeypatch.context() as patched:
            patched.setattr(Notes, "write", cut)
            upgrade.settle(tmp_path / "db", tmp_path)

    for number, version in enumerate(("1.12.8", "1.12.9"), 1):
        Notes(method="package", version=version, old_method="package").write("confirmed", tmp_path)
        for step in ("settling", "settled"):
            with pytest.raises(SystemExit):
                settle_until(step)
        settle_until("")
        assert Notes.read(tmp_path).step == "settled"
        assert len(json.loads((tmp_path / upgrade.HISTORY).read_text())["upgrades"]) == number


@pytest.mark.parametrize("error", [Refused("it does not open the index"), SystemExit(1)])
def test_a_trial_that_ends_gives_the_tag_back(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Also one of an interrupted play."""

    def end(*_unused: object) -> list[str]:
        raise error

    given: list[str] = []
    monkeypatch.setattr(upgrade, "try_release", end)
    monkeypatch.setattr(upgrade, "put_tag_back", given.append)
    asked = {"step": "trial", "method": "docker", "image": "clinic/orthanc:2", "content": "{}", "plugins": []}
    with pytest.raises(type(error)):
        orthanc_upgrade.run_step({**asked, "address": "127.0.0.1", "storage": "/var/lib/orthanc/db"})
    assert given == ["clinic/orthanc:2"]


def test_a_container_that_another_than_an_upgrade_put_aside_is_none_of_its() -> None:
    """An adoption gives the old container this name, and so does a person who follows a remedy."""
    assert installed.OLD != adoption.RENAMED == "orthanc-before"


def test_a_container_that_stayed_of_an_upgrade_is_told_before_the_backup(
    deployed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed.present, "inspect", lambda name: {"Name": name})
    with pytest.raises(Refused, match=f"{installed.OLD} of an earlier upgrade. Remedy: docker rm {installed.OLD}"):
        upgrade.describe(installed.choose("docker", "clinic/orthanc:2"), "", "", "{}", tmp_path, tmp_path / "upgrade")


def find_tasks(tasks: list[dict[str, Any]], tags: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Each task of a play with the tags of the blocks that it is in."""
    found: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    for task in tasks:
        own = (*tags, *task.get("tags", []))
        blocks = [task[name] for name in ("block", "rescue", "always") if name in task]
        found += [one for block in blocks for one in find_tasks(block, own)] if blocks else [(own, task)]
    return found


def test_an_upgrade_and_an_adoption_deploy_what_a_deploy_does() -> None:
    [play] = [one for one in yaml.safe_load((PLAYBOOKS / "deploy.yml").read_text()) if "roles" in one]
    [own] = yaml.safe_load((PLAYBOOKS / "upgrade.yml").read_text())
    tasks = find_tasks(own["tasks"])
    roles = [
        (tags, task["ansible.builtin.import_role"]) for tags, task in tasks if "ansible.builtin.import_role" in task
    ]
    switch = [called for tags, called in roles if tags == ("switch",)]
    # in the order of a deploy as well: the firewall closes a port before anything listens on it
    assert [called["name"] for called in switch if "tasks_from" not in called] == play["roles"]
    assert switch[-1] == {"name": "clinicops.orthanc.orthanc_firewall", "tasks_from": "settle"}
    [adopted] = yaml.safe_load((PLAYBOOKS / "tasks/adopt_now.yml").read_text())
    [loop] = [task["loop"] for task in adopted["block"] if "loop" in task]
    assert [f"clinicops.orthanc.{name}" for name in loop] == play["roles"]
    checks = {"ansible.builtin.import_tasks": "tasks/checks.yml"}
    assert [one for one in play["pre_tasks"] if one.items() >= checks.items()]
    assert [tags for tags, task in tasks if task.items() >= checks.items()] == [("always",)]


def test_every_task_of_an_upgrade_belongs_to_a_phase_and_each_failure_after_the_switch_goes_back() -> None:
    [play] = yaml.safe_load((PLAYBOOKS / "upgrade.yml").read_text())
    tasks = find_tasks(play["tasks"])
    phases = {"always", "backup", "trial", "switch", "verify", "settle", "back"}
    assert [task["name"] for tags, task in tasks if not phases & set(tags)] == []
    assert phases == {tag for tags, _task in tasks for tag in tags} - {"never"}
    tried, guarded = [task for task in play["tasks"] if "rescue" in task]
    assert {tag for tags, _task in find_tasks(guarded["block"]) for tag in tags} == {"switch", "verify"}
    assert {tags for tags, _task in find_tasks(guarded["rescue"])} == {("switch", "verify")}
    # the firewall's table is kept before its role writes another one
    assert find_tasks(guarded["block"])[0][1]["vars"]["__orthanc_upgrade_step"]["name"] == "switch"
    made = yaml.safe_load((ROOT / "roles/orthanc_firewall/vars/main.yml").read_text())
    assert made["__orthanc_firewall_file"] in upgrade.KEPT
    # and from the image on, whatever refuses it gives its tag back
    assert find_tasks(tried["block"])[0][1]["ansible.builtin.import_role"]["tasks_from"] == "bring"
    steps = [task.get("vars", {}).get("__orthanc_upgrade_step", {}).get("name") for task in tried["rescue"]]
    assert "withdraw" in steps


def test_a_deploy_knows_which_step_an_upgrade_is_at(tmp_path: Path) -> None:
    """The shell of the role's inspection reads the notes as they are written."""
    [inspection, _record] = yaml.safe_load((ROLE / "tasks/inspect.yml").read_text())
    script = inspection["ansible.builtin.shell"]["cmd"]
    [line] = [one for one in script.splitlines() if str(Notes.PLACE) in one]
    read = ["bash", "-c", f'{line.replace(str(Notes.PLACE.parent), str(tmp_path))}; printf "%s" "$upgrade"']
    for step in upgrade.STEPS:
        if step:  # otherwise there are no notes
            Notes(missing=["step"], image='"step": "x"').write(step, tmp_path)
        assert subprocess.run(read, capture_output=True, text=True, check=True).stdout == step


def test_a_deploy_is_refused_while_an_upgrade_is_unfinished(tmp_path: Path) -> None:
    hosts = {step or "none": {"__orthanc_install_found": {"upgrade": step}} for step in upgrade.STEPS}
    inventory, playbook = tmp_path / "hosts.json", tmp_path / "play.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": {"ansible_connection": "local"}}}))
    include = {"name": "clinicops.orthanc.orthanc_install", "tasks_from": "refuse_unfinished"}
    playbook.write_text(
        json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.include_role": include}]}])
    )
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default"}
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, playbook],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    refused = re.findall(r"^(\w+) +: .* failed=1 ", done.stdout, re.MULTILINE)
    assert sorted(refused) == sorted(upgrade.UNFINISHED), done.stdout
    said = " ".join(done.stdout.split())
    for step in upgrade.UNFINISHED:
        assert f"The upgrade of Orthanc is not complete ({step})" in said
    assert "run the playbook clinicops.orthanc.upgrade again; or go back with --tags back" in said


def test_an_upgrade_does_not_refuse_itself() -> None:
    """It goes on where it was interrupted, and has an older Orthanc to go back to."""
    [play] = yaml.safe_load((PLAYBOOKS / "upgrade.yml").read_text())
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    conditions = {str(one.get("ansible.builtin.include_tasks")): one.get("when") for one in tasks}
    assert play["vars"]["__orthanc_install_upgrades"] is True
    assert conditions["refuse_unfinished.yml"] == "not __orthanc_install_upgrades | default(false)"
    assert str(conditions["refuse_older.yml"]).startswith("not __orthanc_install_is_unfinished and ")
