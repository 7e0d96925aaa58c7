"""What the adoption of an Orthanc does with files, indexes and images; the rest is in the scenario `adopt`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.module_utils import adoption, conffiles, indexes, submission
from ansible_collections.clinicops.orthanc.plugins.module_utils.adoption import Notes, Wanted
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused

UUIDS = [f"{number:02x}cd0000-0000-4000-8000-000000000000" for number in range(5)]


def fill(directory: Path, count: int, compression: int = 1) -> Path:
    """A storage directory as Orthanc has it, as far as it is read."""
    directory.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(directory / "index")) as database:
        database.execute("CREATE TABLE Resources(internalId INTEGER PRIMARY KEY, resourceType INTEGER, publicId TEXT)")
        database.execute(
            "CREATE TABLE AttachedFiles(id INTEGER, fileType INTEGER, uuid TEXT, compressedSize INTEGER,"
            " compressionType INTEGER)"
        )
        for number, uuid in enumerate(UUIDS[:count], 1):
            content = f"image {number}".encode()
            if compression == indexes.ZLIB:
                content = len(content).to_bytes(8, "little") + zlib.compress(content)
            path = directory / uuid[:2] / uuid[2:4] / uuid
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            database.execute("INSERT INTO Resources VALUES (?, 4, ?)", (number, f"image-{number}"))
            row = (number, indexes.DICOM, uuid, len(content), compression)
            database.execute("INSERT INTO AttachedFiles VALUES (?, ?, ?, ?, ?)", row)
        database.commit()
    return directory


def read_files(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in adoption.list_files(directory)}


def wanted(tmp_path: Path) -> Wanted:
    return Wanted("package", tmp_path / "old", tmp_path / "new")


# --- images -------------------------------------------------------------------------------------
@pytest.mark.parametrize("linked", [True, False])
def test_images_move_while_the_old_orthanc_runs(tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not linked:
        monkeypatch.setattr(os, "link", fail_to_link)
    old, new = fill(tmp_path / "old", 3), tmp_path / "new"
    adoption.bring_files(wanted(tmp_path), new, last=False)
    assert read_files(new) == read_files(old)
    assert {os.path.samefile(old / one, new / one) for one in read_files(old)} == {linked}
    # one is deleted, and one comes
    late = old / "ff" / "ee" / "ffee0000-0000-4000-8000-000000000000"
    late.parent.mkdir(parents=True)
    late.write_bytes(b"late")
    gone = old / sorted(adoption.list_files(old))[0]
    gone.unlink()
    with contextlib.closing(sqlite3.connect(old / "index")) as database:
        database.execute("DELETE FROM AttachedFiles WHERE uuid = ?", (gone.name,))
        database.commit()
    adoption.bring_files(wanted(tmp_path), new, last=True)
    assert read_files(new) == read_files(old)
    assert len(read_files(new)) == 3
    assert [path.name for path in new.iterdir() if path.is_file()] == []


def test_an_image_that_the_index_still_has_stays_in_the_new_directory(tmp_path: Path) -> None:
    """It was not deleted: the old disk has been unmounted, or has lost it."""
    old, new = fill(tmp_path / "old", 3), tmp_path / "new"
    adoption.bring_files(wanted(tmp_path), new, last=False)
    before = read_files(new)
    for name in [*before]:
        (old / name).unlink()
    adoption.bring_files(wanted(tmp_path), new, last=True)
    assert read_files(new) == before


def test_an_old_directory_that_goes_with_its_container_takes_no_image_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Docker does with the unnamed volume of a container that was started with --rm."""
    old, new = fill(tmp_path / "old", 3), tmp_path / "new"
    adoption.bring_files(wanted(tmp_path), new, last=False)
    before = read_files(new)
    monkeypatch.setattr(adoption, "stop_old", lambda *_unused: shutil.rmtree(old))
    Notes().write("prepared", tmp_path / "before")
    with pytest.raises(Refused, match="index is gone with it"):
        adoption.switch(wanted(tmp_path), tmp_path / "before")
    assert read_files(new) == before


def test_a_copy_that_is_not_what_was_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "hash_file", lambda *_unused: "another")
    monkeypatch.setattr(os, "link", fail_to_link)
    fill(tmp_path / "old", 1)
    with pytest.raises(Refused, match="is not what was written there"):
        adoption.bring_files(wanted(tmp_path), tmp_path / "new", last=True)
    assert len(read_files(tmp_path / "old")) == 1
    assert read_files(tmp_path / "new") == {}


def fail_to_link(*_unused: object) -> None:
    raise OSError("another file system")


def test_an_image_that_the_new_directory_lacks_is_named(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", 3)
    new = shutil.copytree(old, tmp_path / "new")
    adoption.require_complete(new, new / "index", old)
    lost = new / sorted(adoption.list_files(new))[1]
    lost.write_bytes(b"short")
    with pytest.raises(Refused, match=lost.name):
        adoption.require_complete(new, new / "index", old)


def test_images_of_a_second_attempt_belong_to_orthanc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is Orthanc's since the first one, and so a deploy does not look into it again."""
    fill(tmp_path / "new", 2)
    given: list[tuple[str, int]] = []
    monkeypatch.setattr(os, "chown", lambda path, user, _group, **_more: given.append((Path(path).name, user)))
    root = os.stat_result((0o40750, 1, 1, 1, 0, 0, 0, 0, 0, 0))
    orthanc = os.stat_result((0o40750, 1, 1, 1, 993, 993, 0, 0, 0, 0))
    for top, names in ((root, []), (orthanc, [*UUIDS[:2], "index"])):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", lambda _path, top=top, **_more: top)
            patched.setattr(Path, "rglob", lambda path, _pattern: [path / one for one in (*UUIDS[:2], "index")])
            adoption.give_to_owner(tmp_path / "new")
        assert given == [(name, 993) for name in names]


# --- images that came meanwhile -----------------------------------------------------------------
def test_the_configuration_of_a_running_orthanc_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"HttpPort": 8043, // ours\n "RegisteredUsers": {"it": "${SECRET}"},}')
    (tmp_path / "b.json").write_text('{"SslEnabled": ${TLS:-true}}')
    (tmp_path / "c.lua").write_text("not a configuration")
    (tmp_path / "more.json").write_text('{"Name": "from a relative path"}')
    command = [sys.executable, "-c", "print(flush=True); input()", "--verbose", str(tmp_path), "more.json"]
    # the directory has that file as well; Orthanc would refuse it, and here the last one counts
    with subprocess.Popen(
        command, cwd=tmp_path, env={"SECRET": "x"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout
        assert running.stdout.readline()
        found = submission.read_running(running.pid)
        running.communicate(b"\n")
    assert found == {
        "HttpPort": 8043,
        "RegisteredUsers": {"it": "x"},
        "SslEnabled": True,
        "Name": "from a relative path",
    }
    assert submission.list_accounts(found) == [(8043, "it", "x"), (8043, "", "")]
    assert submission.list_accounts({}) == [(8042, "orthanc", "orthanc"), (8042, "", "")]


def test_images_that_nobody_takes_stay(tmp_path: Path) -> None:
    fill(tmp_path / "old", 2)
    fill(tmp_path / "new", 3)
    adoption.bring_index_back(wanted(tmp_path), tmp_path / "before")
    adoption.send_arrived(wanted(tmp_path), Notes("returning"), tmp_path / "before")  # no Orthanc runs
    with open(tmp_path / "old/index", "rb"):  # this process is not one
        adoption.send_arrived(wanted(tmp_path), Notes("returning"), tmp_path / "before")
    assert indexes.count_arrived(tmp_path / "before") == 1


# --- the index ----------------------------------------------------------------------------------
def test_the_copy_of_an_index_has_its_last_changes(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", 2)
    database = sqlite3.connect(old / "index")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("INSERT INTO Resources VALUES (9, 4, 'late')")
    database.commit()
    crashed = shutil.copytree(old, tmp_path / "crashed")  # as after a loss of power
    database.close()
    assert (crashed / "index-wal").stat().st_size
    target = tmp_path / "new"
    target.mkdir()
    adoption.copy_index(crashed, target)
    indexes.save_index(crashed, crashed / adoption.ASIDE)
    for copy in (target, crashed / adoption.ASIDE):
        assert sorted(path.name for path in copy.iterdir()) == ["index"]
        with contextlib.closing(sqlite3.connect(copy / "index")) as database:
            assert database.execute("SELECT count(*) FROM Resources").fetchone() == (3,)


@pytest.mark.parametrize("upgraded", [False, True])
@pytest.mark.parametrize("compression", [1, indexes.ZLIB])
def test_the_old_index_comes_back_only_where_its_tables_changed(
    tmp_path: Path, upgraded: bool, compression: int
) -> None:
    old = fill(tmp_path / "old", 2)
    indexes.save_index(old, old / adoption.ASIDE)
    (old / "index").unlink()
    for name in adoption.list_files(old):
        shutil.rmtree(old / Path(name).parts[0])
    fill(old, 4, compression)  # two came
    with contextlib.closing(sqlite3.connect(old / "index")) as database:
        database.execute("ANALYZE")
        if upgraded:
            database.execute("CREATE TABLE KeyValueStores(storeId TEXT)")
        database.commit()
    asked = Wanted("package", old, old)
    adoption.bring_index_back(asked, tmp_path / "before")
    images = indexes.list_images(old / "index")
    assert len(images) == (2 if upgraded else 4)
    arrived = sorted(path.read_bytes() for path in (tmp_path / "before/arrived").glob("*.dcm"))
    assert arrived == ([b"image 3", b"image 4"] if upgraded else [])
    assert indexes.count_arrived(tmp_path / "before") == len(arrived)


def test_images_that_came_after_a_move_are_kept(tmp_path: Path) -> None:
    fill(tmp_path / "old", 2)
    fill(tmp_path / "new", 3)
    adoption.bring_index_back(wanted(tmp_path), tmp_path / "before")
    assert [path.read_bytes() for path in (tmp_path / "before/arrived").iterdir()] == [b"image 3"]
    # the index of a deploy that failed is not compared again
    assert not (tmp_path / "new/index").exists()
    adoption.bring_index_back(wanted(tmp_path), tmp_path / "before")
    assert indexes.count_arrived(tmp_path / "before") == 1


def test_an_image_that_cannot_be_read_does_not_end_the_way_back(tmp_path: Path) -> None:
    fill(tmp_path / "old", 1)
    images = fill(tmp_path / "new", 3, indexes.ZLIB)
    damaged = images / UUIDS[1][:2] / UUIDS[1][2:4] / UUIDS[1]
    damaged.write_bytes(b"nothing that zlib reads")
    assert adoption.bring_index_back(wanted(tmp_path), tmp_path / "before") == [str(damaged)]
    assert [path.read_bytes() for path in (tmp_path / "before/arrived").iterdir()] == [b"image 3"]
    assert damaged.exists()


def test_what_the_new_orthanc_removed_comes_back_with_the_old_index(tmp_path: Path) -> None:
    """One image was sent again: it has another file, and that of before is gone."""
    images, apart = fill(tmp_path / "old", 2), tmp_path / "index"
    apart.mkdir()
    shutil.copy(images / "index", apart)
    before = read_files(images)
    adoption.keep_names(images)
    again = UUIDS[4]
    with contextlib.closing(sqlite3.connect(images / "index")) as database:
        database.execute("UPDATE AttachedFiles SET uuid = ? WHERE uuid = ?", (again, UUIDS[0]))
        database.commit()
    (images / again[:2] / again[2:4]).mkdir(parents=True)
    (images / again[:2] / again[2:4] / again).write_bytes(b"image 1, sent again")
    shutil.rmtree(images / UUIDS[0][:2])
    adoption.bring_index_back(Wanted("package", images, images, index=apart), tmp_path / "before")
    assert {name: content for name, content in read_files(images).items() if name in before} == before
    assert [path.read_bytes() for path in (tmp_path / "before/arrived").iterdir()] == [b"image 1, sent again"]


def test_beside_the_images_no_second_index_is_left(tmp_path: Path) -> None:
    images = fill(tmp_path / "old", 3)
    apart = tmp_path / "index"
    apart.mkdir()
    shutil.copy(fill(tmp_path / "earlier", 2) / "index", apart)
    adoption.bring_index_back(Wanted("package", images, images, index=apart), tmp_path / "before")
    assert [path.read_bytes() for path in (tmp_path / "before/arrived").iterdir()] == [b"image 3"]
    assert not (images / "index").exists()
    assert len(indexes.list_images(apart / "index")) == 2


# --- configuration files ------------------------------------------------------------------------
def test_conffiles_are_read_from_dpkg() -> None:
    text = (
        "=installed orthanc\n /etc/orthanc/orthanc.json 1\n /etc/init.d/orthanc 2\n /etc/orthanc/old.json 3 obsolete\n"
        "=config-files orthanc-dicomweb\n /etc/orthanc/dicomweb.json 4\n=not-installed orthanc-mysql\n\n"
    )
    assert conffiles.read_conffiles(text) == [
        ("/etc/orthanc/orthanc.json", "1", "orthanc"),
        ("/etc/init.d/orthanc", "2", "orthanc"),
    ]


def test_the_files_come_back_and_what_came_since_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc, before = tmp_path / "etc/orthanc", tmp_path / "before"
    monkeypatch.setattr(adoption, "ETC", etc)
    monkeypatch.setattr(adoption, "SYSTEMD", tmp_path / "etc/systemd")
    (etc / "site").mkdir(parents=True)
    own = etc / "clinic.json"
    own.write_text("theirs")
    own.chmod(0o640)
    adoption.keep_file(own, before)
    assert before.stat().st_mode & 0o777 == 0o700
    own.write_text("the package's")
    own.chmod(0o644)
    (etc / "dicomweb.json").touch()
    adoption.restore_files(before)
    assert (own.read_text(), own.stat().st_mode & 0o777) == ("theirs", 0o640)
    assert sorted(path.name for path in etc.iterdir()) == ["clinic.json", "site"]


def test_sites_come_back_as_links_and_files(tmp_path: Path) -> None:
    link, file, before = tmp_path / "enabled/link", tmp_path / "enabled/file", tmp_path / "before"
    link.parent.mkdir()
    file.write_text("server {}")
    adoption.keep_file(file, before)
    file.unlink()
    notes = Notes(links={str(link): "../available/link"})
    for _twice in range(2):
        adoption.restore_sites(notes, [str(link), str(file)], before)
        assert os.readlink(link) == "../available/link"
        assert file.read_text() == "server {}"


# --- how far it is ------------------------------------------------------------------------------
def test_the_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert Notes.read(tmp_path) == Notes()
    Notes(policy="always", owner=[0, 0, 0o755]).write("switching", tmp_path)
    assert Notes.read(tmp_path) == Notes("switching", policy="always", owner=[0, 0, 0o755])
    assert (tmp_path / Notes.PLACE.name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"index": Path("/nowhere")}, ["orthanc_adopt.index_dir"]),
        ({"container": "no-such", "method": "container"}, ["orthanc_adopt.container"]),
        ({"sites": ("/etc/nginx/no-such",)}, ["orthanc_adopt.sites"]),
        ({}, []),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, more: dict[str, Any], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "is_installed", lambda: True)
    old = fill(tmp_path / "old", 1)
    asked = dataclasses.replace(Wanted("package", old, old), **more)
    assert [one.what for one in adoption.find_problems(asked, Notes())] == said
    assert adoption.find_problems(asked, Notes("switched")) == []


def test_a_container_that_docker_removes_when_it_stops_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fill(tmp_path / "old", 1)
    container = {"HostConfig": {"AutoRemove": True}}
    monkeypatch.setattr(adoption.present, "inspect", lambda _name: container)
    asked = Wanted("container", old, old, container="happy_fermi")
    [problem] = adoption.find_problems(asked, Notes())
    assert problem.what == "orthanc_adopt.container"
    assert "docker create --volumes-from happy_fermi" in problem.remedy
    container["HostConfig"]["AutoRemove"] = False
    assert adoption.find_problems(asked, Notes()) == []


@pytest.mark.parametrize("kept", [True, False])
def test_the_unit_is_masked_whoever_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """systemctl masks no unit that is a file; it refused when a way back that had been cut off was run again."""
    units, before = tmp_path / "systemd", tmp_path / "before"
    units.mkdir()
    own = units / "orthanc.service"
    own.write_text("[Service]")
    if kept:
        adoption.keep_file(own, before)
    monkeypatch.setattr(adoption, "SYSTEMD", units)
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(adoption, "read_output", lambda *command: asked.append(command))
    adoption.mask_unit(before)
    assert own.exists() != kept
    assert asked == [("systemctl", "mask", "orthanc.service")]


def test_an_index_beside_the_images_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "is_installed", lambda: True)
    old, apart = fill(tmp_path / "old", 1), fill(tmp_path / "apart", 1)
    asked = Wanted("package", old, old, index=apart)
    assert [one.what for one in adoption.find_problems(asked, Notes())] == ["orthanc_adopt.index_dir"]
    (old / "index").unlink()
    assert adoption.find_problems(asked, Notes()) == []


def test_images_do_not_move_into_another_archive(tmp_path: Path) -> None:
    fill(tmp_path / "old", 1)
    fill(tmp_path / "new", 1)
    assert "has images already" in adoption.find_obstacles(wanted(tmp_path), Notes())[0].message
    assert adoption.find_obstacles(wanted(tmp_path), Notes("prepared")) == []


def test_an_adoption_deploys_what_a_deploy_does() -> None:
    """In a block of its own, so that a failure brings the old server back; but the same roles."""
    playbooks = Path(__file__).resolve().parents[2] / "playbooks"
    [play] = [one for one in yaml.safe_load((playbooks / "deploy.yml").read_text()) if "roles" in one]
    tasks = yaml.safe_load((playbooks / "tasks/adopt_now.yml").read_text())
    [block] = [one["block"] for one in tasks if "block" in one]
    [roles] = [one["loop"] for one in block if "loop" in one]
    assert [f"clinicops.orthanc.{role}" for role in roles] == play["roles"]
    tasks = [task for one in play["post_tasks"] for task in one.get("block", [one])]
    after = [one["ansible.builtin.import_role"] for one in tasks if "ansible.builtin.import_role" in one]
    included = [one["ansible.builtin.include_role"] for one in block if "ansible.builtin.include_role" in one]
    assert after == [one for one in included if one in after]
    assert {"name": "clinicops.orthanc.orthanc_verify"} in after


def find_conditional(tasks: list[dict[str, Any]]) -> list[str]:
    """The blocks with a condition in which a role is included."""
    found = []
    for task in tasks:
        if "block" in task:
            found += [task["name"]] if "when" in task and "include_role" in str(task) else []
            found += find_conditional([*task["block"], *task.get("rescue", []), *task.get("always", [])])
    return found


def test_no_handler_gets_a_condition_that_other_hosts_do_not_have() -> None:
    """Ansible gives a handler the condition of the block in which its role is included, for all hosts of the play."""
    playbooks = Path(__file__).resolve().parents[2] / "playbooks"
    assert {
        path.name: found
        for path in (playbooks / "tasks").glob("*.yml")
        if (found := find_conditional(yaml.safe_load(path.read_text())))
    } == {}
