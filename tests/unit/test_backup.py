"""What of the backup's program needs no Orthanc; everything else is in the scenario backup_restore."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from server.backup import history, ledger, restic, restore, restored_orthanc, settings
from server.backup.beginning import make_first_backup, make_repository
from server.backup.cli import parse_arguments, run_action
from server.backup.freeze import copy_index, is_frozen, parse_version
from server.backup.ledger import Study, group_by_device, read_studies
from server.backup.listing import identify_snapshot
from server.backup.manifest import (
    Attachment,
    Proof,
    find_defects,
    find_foreign_files,
    keep_content,
    read_content,
    write_rows,
)
from server.backup.output import print_result
from server.backup.reconcile import bring_back, reconcile_index
from server.backup.restic import explain_failure, fetch_files, watch_ssh
from server.backup.restore import require_space
from server.backup.restore_check import (
    apply_retention,
    check_restore,
    find_altered_images,
    find_unproven,
    measure_room,
)
from server.backup.run import find_shared_disk, is_on_system_disk, make_backup, require_mounted
from server.backup.settings import Settings, read_archive
from server.backup.state import hold_program_lock, read_state, record_outcome, write_state
from server.core.errors import Refused
from server.core.files import hash_file, hash_md5, write_atomic
from server.core.monitor_state import read_margin
from server.monitor.probes.disk import guard_disk
from server.orthanc.api import Api
from server.orthanc.layout import find_attachments, walk_folders

SIZE = {"TotalDiskSize": "1000"}
PACKAGE = Path(__file__).resolve().parents[2] / "plugins/module_utils"


def make_settings(home: Path, **more: Any) -> Any:
    content = {
        "repository": str(home / "repository"), "password_file": "", "environment": {}, "host": "clinic",
        "append_only": False, "limit_upload": 0, "keep": {"daily": 14}, "subset": 10, "storage": str(home / "db"),
        "orthanc": "", "paths": [], "directory": str(home), "scratch": str(home), "scratch_bytes": 1,
        "method": "package", "name": "orthanc", "owner": getpass.getuser(), "pause": "pause", "pause_seconds": 5,
        "image": "", "index_statistics": True, "collection": "1.0.0", "fingerprint": "", **more,
    }  # fmt: skip
    (home / "db").mkdir(exist_ok=True)
    (home / "settings.json").write_text(json.dumps(content))
    return Settings.read(home / "settings.json")


def replace_everywhere(patch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Another function of this name for every module of the program that has it."""
    modules = [one for key, one in sys.modules.items() if key.startswith("server.backup.") and hasattr(one, name)]
    assert modules
    for module in modules:
        patch.setattr(module, name, value)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def awaited(what: Any) -> None:
    end = time.monotonic() + 300
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / ".state.part").symlink_to(victim)
    write_atomic(tmp_path / "state", "new", 0o640)
    assert (victim.read_text(), (tmp_path / "state").read_text()) == ("as it was", "new")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / ".orthanc-archive").symlink_to(victim)
    victim.write_text("0123456789abcdef\n")
    assert read_archive(make_settings(tmp_path)) == ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_stopped_process_goes_on_however_the_program_ends(how: signal.Signals | None) -> None:
    script = (
        "import os, signal, sys, time; from server.backup import freeze\n"
        "with freeze.run_at_end(int(sys.argv[2]), 'kill', '-CONT', sys.argv[1]):\n"
        "    os.kill(int(sys.argv[1]), signal.SIGSTOP); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen(["sleep", "60"]) as orthanc:
        limit = "60" if how else "1"
        program = subprocess.Popen(
            [sys.executable, "-c", script, str(orthanc.pid), limit],
            env={**os.environ, "PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.PIPE,
        )
        assert program.stdout is not None
        program.stdout.readline()
        awaited(lambda: is_frozen(orthanc.pid))
        if how:
            program.send_signal(how)
        awaited(lambda: state_of(orthanc.pid) == "S")
        program.kill()
        program.communicate()
        orthanc.kill()


def test_a_rest_server_s_credentials_reach_any_restic(tmp_path: Path) -> None:
    def url(repository: str, **environment: str) -> str:
        found = restic.build_environment(make_settings(tmp_path, repository=repository, environment=environment))
        return str(found["RESTIC_REPOSITORY"])

    secrets = {"RESTIC_REST_USERNAME": "clinic", "RESTIC_REST_PASSWORD": r"a/b@c:\1"}
    assert url("rest:https://192.0.2.1/x/", **secrets) == "rest:https://clinic:a%2Fb%40c%3A%5C1@192.0.2.1/x/"
    assert url("rest:https://192.0.2.1/x/") == "rest:https://192.0.2.1/x/"
    assert url("sftp:me@192.0.2.1:/x", **secrets) == "sftp:me@192.0.2.1:/x"


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    one = make_settings(tmp_path)
    with (
        hold_program_lock(one, "run"),
        pytest.raises(Refused, match="Another orthanc-backup"),
        hold_program_lock(one, "run"),
    ):
        pass


def test_a_failure_keeps_the_last_success(tmp_path: Path) -> None:
    one = make_settings(tmp_path)
    with record_outcome(one, "backup") as result:
        result["bytes"] = 7
    first = read_state(one, "backup")
    assert first["bytes"] == 7

    def fails() -> None:
        with record_outcome(one, "backup"):
            assert read_state(one, "backup")["result"] == "running"
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        fails()
    after = read_state(one, "backup")
    assert (after["result"], after["reason"]) == ("failed", "OSError: no")
    assert after["last_success_epoch"] == first["last_success_epoch"]
    assert "bytes" not in after


def test_settings_of_another_version_are_refused(tmp_path: Path) -> None:
    make_settings(tmp_path)
    content = json.loads((tmp_path / "settings.json").read_text())
    del content["keep"]
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with pytest.raises(Refused, match="deploy again"):
        Settings.read(tmp_path / "settings.json")


def test_versions_are_compared_by_their_numbers() -> None:
    assert parse_version("1.9.7") < parse_version("1.12.7") < parse_version("1.12.10") < parse_version("mainline")


def test_the_same_disk_is_seen_through_directories_that_are_not_there_yet(tmp_path: Path) -> None:
    one = make_settings(tmp_path, repository=str(tmp_path / "not" / "yet"))
    assert "one defect destroys both" in find_shared_disk(one)[0]
    assert find_shared_disk(make_settings(tmp_path, repository="rest:https://192.0.2.1/")) == []
    assert find_shared_disk(make_settings(tmp_path, repository="/proc/repository")) == []


def test_attachments_are_verified_one_by_one(tmp_path: Path) -> None:
    def attachment(uuid: str, content: bytes) -> Any:
        path = tmp_path / uuid[:2] / uuid[2:4] / uuid
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return Attachment(uuid, 1, 3, hash_file(path, "md5"), "", "")

    good, short, other, gone = (
        attachment(f"{two}bbcccc-1111-2222-3333-444444444444", b"abc") for two in ("00", "01", "02", "03")
    )
    assert {path.name for path in find_attachments(tmp_path)} == {one.uuid for one in (good, short, other, gone)}
    (tmp_path / short.path).write_bytes(b"ab")
    (tmp_path / other.path).write_bytes(b"abd")
    (tmp_path / gone.path).unlink()
    found = find_defects(tmp_path, [good, short, other, gone])
    assert [(one.kind, one.path) for one in found] == [
        ("truncated", short.path), ("altered", other.path), ("missing", gone.path)
    ]  # fmt: skip


def test_an_image_on_a_bad_sector_is_a_defect_that_the_repair_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_settings(tmp_path)
    names = [
        Attachment(f"{two}bbcccc-1111-2222-3333-444444444444", 1, 0, hash_md5(b""), "", "i") for two in ("0a", "1a")
    ]
    bad, good = (own.storage / one.path for one in names)
    for path in (bad, good):
        path.parent.mkdir(parents=True)
    bad.symlink_to("/proc/self/mem")  # its first byte cannot be read: EIO
    good.touch()

    def fetch(_settings: Any, _snapshot: Any, target: Path, only: list[str], incomplete: bool) -> None:
        assert (only, incomplete) == ([str(bad)], True)
        (target / str(bad)[1:]).parent.mkdir(parents=True)
        (target / str(bad)[1:]).touch()

    snapshot = {"id": "x", "short_id": "0123", "paths": [str(own.storage)]}
    replace_everywhere(monkeypatch, "list_current_attachments", lambda _settings: (names, 0.0))
    replace_everywhere(monkeypatch, "list_snapshots", lambda *_unused: [snapshot])
    replace_everywhere(monkeypatch, "fetch_files", fetch)
    replace_everywhere(monkeypatch, "read_repository_id", lambda _settings: "id")
    api = SimpleNamespace(ask=lambda *_unused: (200, b"", ""))
    monkeypatch.setattr(Api, "as_administrator", lambda _path: api)
    found = reconcile_index(own, repair=False)
    assert found["unreadable"] == found["left"] == [names[0].path]
    assert find_altered_images(replace(own, subset=1), names, {})[0].startswith(
        f"In {own.storage}: {names[0].path} is unreadable. Remedy: orthanc-backup reconcile --repair; check the disk"
    )
    repaired = reconcile_index(own, repair=True)
    assert (repaired["repaired"], repaired["left"]) == ({names[0].uuid: "from snapshot 0123"}, [])
    assert bad.read_bytes() == b""
    [aside] = own.storage.glob(f".quarantine-*/{bad.name}")
    assert aside.is_symlink()


def test_what_to_send_again_stands_once_for_each_device() -> None:
    rows = [
        Study(9, "20260102T000000", "US2", "1.2", "A"),
        Study(3, "20260101T000000", "US1", "1.3", ""),
        Study(4, "20260101T010000", "US1", "1.3", ""),
    ]
    assert [(one["aet"], one["study"], one["number"]) for one in group_by_device(rows)] == [
        ("US1", "1.3", 4), ("US2", "1.2", 9)
    ]  # fmt: skip


def test_the_ledger_takes_what_devices_send_and_is_read_past_a_damaged_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        Study(1, "20260101T000000", "US1", "1.2", 'A\r1, "B"\n'),
        Study(2, "20260101T000000", "US1", "1.3", "C"),
    ]
    write_rows(tmp_path / "20260101.csv", rows)
    assert read_studies(tmp_path / "20260101.csv") == rows
    assert capsys.readouterr().err == ""
    with (tmp_path / "20260101.csv").open("ab") as file:
        file.write(b'half\n"3","20260101T000000","US1","1.4","\xff"\n')
    assert [one.study for one in read_studies(tmp_path / "20260101.csv")] == ["1.2", "1.3", "1.4"]
    assert "1 rows of the ledger cannot be read" in capsys.readouterr().err


def test_nothing_is_restored_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".restore-0123").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="Remedy: remove it"):
        fetch_files(make_settings(tmp_path), {"id": "0123"}, tmp_path / ".restore-0123")


@pytest.mark.parametrize("answers", [True, False])
def test_what_a_repository_did_not_give_for_a_while_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """restic ends with 1 for a file that is damaged, and for one that it did not get."""
    own, calls = make_settings(tmp_path), list[list[str]]()
    names = [Attachment(f"{number:08x}-0000-4000-8000-000000000000", 1, 1, "", "", "") for number in range(4)]
    damaged, work = names[0], tmp_path / "work"

    def fetch(_settings: Any, _snapshot: Any, target: Path, only: list[str], incomplete: bool) -> None:
        assert incomplete
        calls.append(only)
        here = [one for one in names if one != damaged and (not only or f"/db/{one.path}" in only)]
        if not only:
            (target / "own").mkdir(parents=True)
            (target / "own/index").write_text("index")
        for one in here if answers and only else here[:1]:
            (target / "db" / one.path).parent.mkdir(parents=True, exist_ok=True)
            (target / "db" / one.path).write_text("1")

    replace_everywhere(monkeypatch, "fetch_files", fetch)
    replace_everywhere(monkeypatch, "read_repository_id", lambda _settings: "id")
    digest = hashlib.sha256(b"index").hexdigest()
    manifest = {"storage": "/db", "staging": "/own", "index": {"sha256": digest}}
    proof = Proof({"short_id": "0123"}, manifest, names, set(), [])
    _data, defects = restored_orthanc.assemble_data(own, proof, work, names, incomplete=True)
    assert [one.path for one in defects] == [damaged.path]
    # again for what is missing alone, and once more than it helps
    assert [len(only) for only in calls] == ([0, 3, 1] if answers else [0, 3, 2, 1])


@pytest.mark.parametrize("how", ["restore", "repair"])
def test_a_repository_that_went_is_not_waited_for_by_each_thousand_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """restic tries a quarter of an hour each time."""
    own, calls = make_settings(tmp_path), list[int]()
    names = [Attachment(f"{number:08x}-0000-4000-8000-000000000000", 1, 1, "", "", "") for number in range(5000)]

    def fetch(_settings: Any, _snapshot: Any, _target: Path, only: list[str], incomplete: bool) -> None:
        assert incomplete
        calls.append(len(only))

    def identify(_settings: Any) -> str:
        if calls:
            raise Refused("restic cat: connection refused. Remedy: check that the repository can be reached.")
        return "id"

    replace_everywhere(monkeypatch, "fetch_files", fetch)
    replace_everywhere(monkeypatch, "read_repository_id", identify)
    snapshot = {"id": "x", "short_id": "0123", "paths": [str(own.storage)]}
    replace_everywhere(monkeypatch, "list_snapshots", lambda *_unused: [snapshot] * 2)
    monkeypatch.setattr(Api, "as_administrator", lambda _path: None)
    proof = Proof(snapshot, {"storage": str(own.storage)}, names, set(), [])
    defects = find_defects(own.storage, names)
    fetch_again = partial(restored_orthanc.fetch_again, own, proof, tmp_path / "work", names, defects)
    repair = partial(bring_back, own, names, own.storage / ".quarantine-1")
    with pytest.raises(Refused, match="connection refused"):
        (fetch_again if how == "restore" else repair)()
    assert calls == [1000]


@pytest.mark.parametrize("sound", [True, False])
def test_a_repository_that_went_during_a_restore_is_not_one_without_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: bool
) -> None:
    def call(_settings: Any, what: str, *_unused: str) -> str:
        assert what == ("check" if sound else "cat")  # one with errors does not have fewer by now
        raise Refused("restic: connection refused. Remedy: check it.")

    monkeypatch.setattr(restore, "call_restic", call)
    with pytest.raises(Refused, match=r"images are missing that it may have .*refused.*Remedy: restore again"):
        restore.require_same_repository(make_settings(tmp_path), sound)


def test_an_index_is_not_copied_onto_a_disk_without_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = make_settings(tmp_path)
    (own.storage / "index").write_bytes(bytes(1 << 20))
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(Refused, match="needs 2 MiB"):
        copy_index(own, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("walk", [find_attachments, walk_folders])
def test_folders_that_go_while_they_are_read_are_no_error(
    tmp_path: Path, walk: Callable[[Path], Iterator[Path]]
) -> None:
    """Orthanc removes a folder with its last image, which Path.glob does not bear before Python 3.12."""
    folders = [tmp_path / "00" / f"{number:02x}" for number in range(64)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / f"00{folder.name}0000-0000-4000-8000-000000000000").touch()
    found = walk(tmp_path)
    first = next(found)
    for folder in folders:
        if folder != first.parent:
            shutil.rmtree(folder)
    assert len([path for path in found if path.exists()]) <= 2


def test_a_ledger_that_cannot_be_read_holds_up_no_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest snapshot of the repository is damaged, and an older one, which is whole, is to be restored."""
    own = make_settings(tmp_path)
    there = [
        {"id": name * 64, "short_id": name * 8, "paths": [f"{tmp_path}/ledger"], "time": time, "tags": []}
        for name, time in (("a", "2026-11-01T00:00:00Z"), ("b", "2026-11-02T00:00:00Z"))
    ]
    monkeypatch.setattr(ledger, "list_snapshots", lambda _settings, tags: there if tags.startswith("orthanc") else [])

    def fetch(_settings: Any, one: dict[str, Any], target: Path, _only: list[str]) -> None:
        if one["id"].startswith("b"):
            raise Refused("restic restore: unable to load tree. Remedy: see whether the repository can be reached.")
        (target / "ledger").mkdir(parents=True)
        (target / "ledger" / "20261101.csv").write_text('"9","20261101T120000","US1","1.2.3","A1"\n')

    monkeypatch.setattr(ledger, "fetch_files", fetch)
    manifest = {"archive": "0" * 16, "counts": {"last_change": 5}, "moment": "20261031T000000.000"}
    studies, unread = ledger.find_received_after(own, manifest)
    assert [one.study for one in studies] == ["1.2.3"]
    assert len(unread) == 1
    assert "bbbbbbbb (restic restore: unable to load tree.)" in unread[0]


def test_another_repository_gets_its_first_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = make_settings(tmp_path)
    monkeypatch.setattr(Api, "as_administrator", lambda _path: SimpleNamespace(get=lambda _path: SIZE))
    (own.storage / ".orthanc-archive").write_text("0123456789abcdef\n")
    some = [{"id": "x"}]
    for state, there, first in (
        ({}, [], "would be made"),
        ({"last_success_epoch": 1}, some, "was there"),  # of a release that did not note where
        ({"last_success_epoch": 1}, [], "would be made"),  # and the address is another one now
        ({"last_success_epoch": 1, "last_repository": own.repository}, some, "was there"),
        ({"last_success_epoch": 1, "last_repository": "/mnt/the-disk-of-before"}, [], "would be made"),
    ):
        replace_everywhere(monkeypatch, "list_snapshots", lambda *_unused, found=there: found)
        write_state(own, "backup", state)
        assert make_first_backup(own, dry_run=True)["first"] == first


SAID = "restic cat: Fatal: unable to open config file: stat /mnt/config: no such file or directory"


def lose_repository(patch: pytest.MonkeyPatch) -> list[str]:
    """restic's commands from now on, at a place without a repository."""
    calls: list[str] = []

    def call(_settings: Any, what: str, *_unused: str) -> str:
        calls.append(what)
        if what == "cat" and "init" not in calls:
            raise Refused(f"{SAID}. Remedy: see it.")
        return '{"id": "0123456789abcdef"}'

    replace_everywhere(patch, "call_restic", call)
    return calls


def test_a_repository_that_is_made_anew_has_no_backup_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same place: a person says that it is another disk."""
    own = make_settings(tmp_path)
    lose_repository(monkeypatch)
    write_state(own, "backup", {"last_success_epoch": 1, "last_repository": own.repository})
    assert make_repository(own, new=True)["repository"] == "made"
    assert read_state(own, "backup") == {"last_success_epoch": 1, "last_repository": ""}


@pytest.mark.parametrize("last", ["here", "not noted"])  # the second by an earlier release
def test_no_repository_takes_the_place_of_one_that_has_backups_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Somebody deploys while the backup's disk is not mounted."""
    own = make_settings(tmp_path, repository="/mnt/backup/orthanc")
    calls = lose_repository(monkeypatch)
    noted = {"last_repository": own.repository} if last == "here" else {}
    former = {"result": "failed", "last_success_epoch": 1_700_000_000, **noted}
    write_state(own, "backup", former)
    with pytest.raises(Refused) as refused:
        make_repository(own)
    said = str(refused.value)
    assert f"{SAID}. The last backup of 14 Nov 2023 " in said
    assert ("may be there" in said) == (last == "not noted")
    assert "Remedy: make the repository available again (mount its disk" in said
    assert "orthanc-backup init --new" in said
    assert calls == ["cat"]
    assert read_state(own, "backup") == former


@pytest.mark.parametrize(
    "former",
    [
        {},
        {"result": "failed"},
        {"last_success_epoch": 1, "last_repository": "/mnt/the-disk-of-before"},
        {"last_success_epoch": 1, "last_repository": ""},
    ],
    ids=["first deploy", "no backup yet", "another address", "made a moment ago"],
)
def test_a_repository_is_made_where_none_had_backups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, former: dict[str, Any]
) -> None:
    own = make_settings(tmp_path)
    calls = lose_repository(monkeypatch)
    write_state(own, "backup", former)
    assert make_repository(own)["repository"] == "made"
    assert calls == ["cat", "init", "cat"]
    assert read_state(own, "repositories") == {"0123456789abcdef": ""}


@pytest.mark.parametrize("address", ["sftp:clinic@192.0.2.1:/x", "s3:https://192.0.2.1/x", "/dev/shm/mounted/x"])
def test_with_an_earlier_release_s_notes_a_new_address_gets_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """It noted no address: only a place on the system disk can be where a disk should be mounted."""
    own = make_settings(tmp_path, repository=address)
    lose_repository(monkeypatch)
    write_state(own, "backup", {"last_success_epoch": 1})
    assert make_repository(own)["repository"] == "made"
    assert read_state(own, "backup")["last_repository"] == ""


def test_a_backup_into_no_repository_says_how_a_new_one_is_made(tmp_path: Path) -> None:
    said = explain_failure(make_settings(tmp_path), "snapshots", SAID.removeprefix("restic cat: "))
    assert said.startswith("restic snapshots: Fatal: unable to open config file: stat /mnt/config: ")
    assert "(mount its disk)" in said
    assert said.endswith("; for a new disk, orthanc-backup init --new.")


def test_a_person_can_remove_a_lock_for_which_this_machine_s_backup_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository's address and password are in the program's settings alone, so it calls restic."""
    own, calls = make_settings(tmp_path), list[tuple[str, ...]]()
    said = explain_failure(own, "prune", "repository is already locked by PID 9541 on another by root")
    assert said.endswith("if none is at work on any machine, orthanc-backup unlock.")
    replace_everywhere(monkeypatch, "call_restic", lambda _settings, *arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "argv", ["orthanc-backup", "unlock"])
    with hold_program_lock(own, "run"):
        assert run_action(own, parse_arguments()) == {"locks": "removed"}
    assert calls == [("unlock", "--remove-all")]


def test_a_repository_below_a_disk_that_is_away_gets_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made before the disk was mounted there for the first time."""
    own, disk = make_settings(tmp_path), Path("/dev/shm")
    for repository, system_disk in (("sftp:clinic@192.0.2.1:/x", False), (str(disk / "new"), False), ("/new/x", True)):
        assert is_on_system_disk(replace(own, repository=repository)) is system_disk
    own = replace(own, repository="/new/x")
    last: dict[str, Any] = {"last_success_epoch": 1, "last_repository": "/new/x", "last_on_system_disk": False}
    write_state(own, "backup", last)
    with pytest.raises(Refused, match="/new/x is on the system disk, and was on another disk at the last backup"):
        make_backup(own, False, False)
    # of an earlier release; there before; another address; a person said so (init --new); mounted
    for changed in ({"last_on_system_disk": None}, {"last_on_system_disk": True}, {"last_repository": "/mnt"}):
        write_state(own, "backup", {**last, **changed})
        require_mounted(own)
    write_state(own, "backup", {**last, "last_repository": ""})
    require_mounted(own)
    write_state(own, "backup", last)
    require_mounted(replace(own, repository=f"local:{disk}"))


def test_a_backup_is_due_again_when_the_clock_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = make_settings(tmp_path)
    write_state(own, "backup", {"last_success_epoch": int(time.time()) - 3600})
    assert make_backup(own, True, False) == {"result": "not due"}
    write_state(own, "backup", {"last_success_epoch": int(time.time()) + 365 * 86400})
    monkeypatch.setattr(
        "server.backup.run.require_same_archive", lambda *_: (_ for _ in ()).throw(Refused("it is at work"))
    )
    with pytest.raises(Refused, match="at work"):
        make_backup(own, True, False)


def test_what_orthanc_does_not_own_is_named(tmp_path: Path) -> None:
    path = make_settings(tmp_path).storage / "ab" / "cd"
    path.mkdir(parents=True)
    assert find_foreign_files(make_settings(tmp_path)) == []
    assert str(path) in find_foreign_files(make_settings(tmp_path, owner="nobody"))[0]


def test_restic_does_not_wait_for_ever_for_an_ssh_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.backup.restic.SSH_SECONDS", 1)
    own = make_settings(tmp_path, repository="sftp:clinic@192.0.2.10:/orthanc")
    # with a child for longer than that, and then without
    script = f"sleep 4; touch {tmp_path}/childless; exec sleep 6000"
    with (
        subprocess.Popen(["sh", "-c", script], text=True, stdout=subprocess.PIPE) as program,
        watch_ssh(own, program) as lost,
    ):
        assert program.wait(timeout=300) == -signal.SIGKILL
    assert lost.is_set()
    assert (tmp_path / "childless").exists()  # not while it had its child
    # other repositories have no ssh, and one that ends by itself is left alone
    for repository, allowed in (("rest:https://192.0.2.10/", 1), ("sftp:clinic@192.0.2.10:/orthanc", 300)):
        monkeypatch.setattr("server.backup.restic.SSH_SECONDS", allowed)
        with (
            subprocess.Popen(["sleep", "4"], text=True) as program,
            watch_ssh(make_settings(tmp_path, repository=repository), program) as lost,
        ):
            assert program.wait(timeout=300) == 0
        assert not lost.is_set()


def test_a_check_says_what_it_has_not_verified() -> None:
    def said(*md5: str) -> list[str]:
        names = [Attachment(f"{number}", 1, 3, one, "", "") for number, one in enumerate(md5)]
        return list(find_unproven(Proof({"short_id": "0123"}, {}, names, set(), [])))

    assert "Snapshot 0123 does not contain an image. Remedy: " in said()[0]
    assert "lacks the MD5 of 1 of 2 attachments" in said("", "d41d8cd98f00b204e9800998ecf8427e")[0]
    assert said("d41d8cd98f00b204e9800998ecf8427e") == []


@pytest.mark.parametrize(
    ("percent", "guard", "refusing", "room"),
    [
        *((50, 5, False, 22.0), (10, 5, False, 2.0), (7, 5, False, 0.5), (6, 5, False, 0.0), (6, 0, False, 3.0)),
        *((10, 5, True, 1.0), (8, 5, True, 0.0)),  # it needs two percent more to go off
    ],
)
def test_a_restore_check_does_not_switch_the_disk_guard_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, percent: int, guard: int, refusing: bool, room: float
) -> None:
    own, size = make_settings(tmp_path, scratch_bytes=20 << 30), 1_000_000_000
    own.scratch.mkdir()
    (tmp_path / "monitor.json").write_text(json.dumps({"disk_guard_percent": guard}))
    monkeypatch.setattr(settings, "read_margin", partial(read_margin, settings=tmp_path / "monitor.json"))
    if refusing:
        (own.storage / ".orthanc-disk-guard").touch()
    free = size * percent // 100
    usage = shutil.disk_usage(tmp_path)._replace(total=2 * size, used=size - free, free=free)  # the rest is root's
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert measure_room(own, 0) == pytest.approx(size * room / 100)
    # a restore beside production does not either; one of production may use all
    proof = Proof({"short_id": "0123"}, {"counts": {"bytes": free * 9 // 10}, "index": {"size": 0}}, [], set(), [])
    require_space(own, tmp_path / "work", proof, production=True)
    with pytest.raises(Refused) if guard else contextlib.nullcontext():
        require_space(own, tmp_path / "work", proof, production=False)
    (own.storage / ".orthanc-storage").touch()
    monitor = SimpleNamespace(settings=SimpleNamespace(storage=own.storage, disk_guard_percent=guard))
    [sample] = guard_disk(cast("Any", monitor), free - int(measure_room(own, 0)), size)
    assert sample.value == 0


def test_old_snapshots_go_though_there_is_no_room_for_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls = make_settings(tmp_path, scratch_bytes=0), list[str]()
    manifest = {"counts": {"bytes": 9}, "index": {"size": 0}, "moment": "20260101T000000.000"}
    proof = Proof({"short_id": "0123"}, manifest, [Attachment("00", 1, 9, "md5", "", "")], set(), [])
    replace_everywhere(monkeypatch, "prove_snapshot", lambda *_unused: proof)
    replace_everywhere(monkeypatch, "call_restic", lambda _settings, what, *_unused: calls.append(what))
    with pytest.raises(Refused, match=r"The restore check has 0 MiB for attachments.*Remedy: make space"):
        check_restore(own)
    assert calls == ["prune", "check"]
    assert read_state(own, "restore_check")["result"] == "failed"
    assert "verified" not in read_state(own, "restore_check")


def test_each_week_another_part_of_the_images_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit that the disk lost: size and times of the file are as they were."""
    own, md5 = make_settings(tmp_path, subset=3), hash_md5(b"image")
    names = [Attachment(f"{number:08x}-0000-4000-8000-000000000000", 1, 5, md5, "", "") for number in range(30)]
    for one in names[:-1]:  # the last one was deleted since
        (own.storage / one.path).parent.mkdir(parents=True, exist_ok=True)
        (own.storage / one.path).write_bytes(b"image")
    (own.storage / names[7].path).write_bytes(b"imagf")
    said, read = list[str](), 0
    for week in range(40, 43):
        result = dict[str, Any]()
        monkeypatch.setattr(time, "time", lambda week=week: 7 * 86400.0 * week)
        said += find_altered_images(own, names, result)
        read += result["compared"]
    assert read == len(names)
    [told] = said
    assert f"{names[7].path} is altered. Remedy: orthanc-backup reconcile --repair" in told


def test_what_a_snapshot_held_is_kept_here(tmp_path: Path) -> None:
    own = make_settings(tmp_path)
    content = history.Content({"image": 7}, 8, 9, {"line": None, "before": 5}, 1)
    keep_content(own, "0123456789abcdef", content)
    snapshot = {"id": "x", "short_id": "x", "time": "2026-01-01T00:00:00Z", "tags": ["orthanc", "run=0123456789abcdef"]}
    assert read_content(own, snapshot) == content
    # what a token cannot be is no path
    assert identify_snapshot({**snapshot, "tags": ["run=../../../etc/passwd"], "original": "y"}).token == "y"


def test_a_restore_check_is_shown_to_whoever_calls_it_without_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result: dict[str, Any] = {"result": "success"}
    apply_retention(make_settings(tmp_path), result)  # there is no archive: nothing goes
    print_result(result)
    assert "held: 0" in capsys.readouterr().out
