"""Many files and many units in one run of a module: as a deploy calls them, with the modules themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.modules import orthanc_files, orthanc_units

MODULES = "ansible_collections.clinicops.orthanc.plugins.modules"


def call(module: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
    """What a module answers; `check` for check mode."""
    given = {**arguments, "_ansible_check_mode": options.get("check", False), "_ansible_diff": True}
    done = subprocess.run(
        [sys.executable, "-m", f"{MODULES}.{module}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": given}), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": ".collections"}, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def write(*files: dict[str, Any], check: bool = False) -> dict[str, Any]:
    return call("orthanc_files", {"files": [*files]}, check=check)


def test_paths_come_into_their_states_and_stay(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "one").write_text("x")
    wanted: list[dict[str, Any]] = [
        {"path": str(tmp_path / "new"), "state": "directory", "group": "daemon", "mode": "3730"},
        {"path": str(tmp_path / "new" / "file"), "content": "Prüfung\n", "mode": "0640", "owner": "daemon"},
        {"path": str(tmp_path / "new" / "link"), "state": "link", "target": "/dev/null"},
        {"path": str(tmp_path / "old"), "state": "absent"},
        {"path": str(tmp_path / "log")},
    ]
    would = write(*wanted, check=True)
    assert (would["changed"], len(would["paths"])) == (True, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    done = write(*wanted)
    assert done["paths"] == would["paths"] == [one["path"] for one in wanted]
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o3730
    assert (tmp_path / "new").group() == "daemon"
    file = tmp_path / "new" / "file"
    assert (file.read_text(), file.stat().st_mode & 0o7777, file.owner()) == ("Prüfung\n", 0o640, "daemon")
    assert os.readlink(tmp_path / "new" / "link") == "/dev/null"
    assert (tmp_path / "log").read_text() == ""
    (tmp_path / "log").write_text("a line")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "new"]
    before = file.stat().st_mtime_ns
    again = write(*wanted)
    assert (again["changed"], again["paths"], again["diff"]) == (False, [], [])
    assert file.stat().st_mtime_ns == before
    assert (tmp_path / "log").read_text() == "a line"


def test_what_somebody_changed_is_put_right(tmp_path: Path) -> None:
    file = tmp_path / "file"
    wanted = {"path": str(file), "content": "ours\n"}
    write(wanted)
    file.chmod(0o600)
    diff = write(wanted)["diff"]
    assert [(one["before"].strip(), one["after"].strip()) for one in diff] == [("file 0:0 0600", "file 0:0 0644")]
    file.write_text("theirs\n")
    (diff,) = write(wanted)["diff"]
    assert (diff["before"], diff["after"]) == ("theirs\n", "ours\n")
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("precious")
    assert write(wanted)["changed"]
    assert (file.is_symlink(), file.read_text()) == (False, "ours\n")
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_secret_is_not_in_the_diff(tmp_path: Path) -> None:
    for content in ("hidden-one\n", "hidden-two\n"):
        answer = write({"path": str(tmp_path / "key"), "content": content, "mode": "0600", "secret": True})
        assert answer["changed"]
        assert "hidden" not in json.dumps(answer["diff"])


def test_a_secret_is_not_in_the_result(tmp_path: Path) -> None:
    secret = {"path": str(tmp_path / "key"), "content": "hidden-one\n", "secret": True}
    empty = {"path": str(tmp_path / "none"), "state": "absent", "content": "\n", "secret": True}
    answer = write(secret, empty, {"path": str(tmp_path / "file"), "content": "shown\ntoo\n"})
    assert "hidden" not in json.dumps(answer)
    assert answer["diff"][1]["after"] == "shown\ntoo\n"


def test_new_files_of_a_directory_get_its_permissions(tmp_path: Path) -> None:
    drop = tmp_path / "incoming"
    wanted = {"path": str(drop), "state": "directory", "mode": "3730", "default_acl": "0700"}
    (would,) = write(wanted, check=True)["diff"]
    assert would["after"].strip() == "directory 0:0 3730 default ACL 0700"
    assert write(wanted)["changed"]
    assert not write(wanted)["changed"]
    before = os.umask(0)
    try:
        (drop / "item.wl").touch(mode=0o666)
    finally:
        os.umask(before)
    assert (drop / "item.wl").stat().st_mode & 0o777 == 0o600
    # as setfacl --default --set u::rwx,g::r-x,o::--- writes it
    os.setxattr(drop, orthanc_files.ACL, bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000000ffffffff"))
    (diff,) = write(wanted)["diff"]
    assert "default ACL 0750" in diff["before"]
    os.removexattr(drop, orthanc_files.ACL)
    assert write(wanted)["changed"]


def test_only_the_link_that_is_named_is_removed(tmp_path: Path) -> None:
    vendor, site = tmp_path / "available", tmp_path / "default"
    vendor.touch()
    wanted = {"path": str(site), "state": "absent", "target": str(vendor)}
    assert not write(wanted)["changed"]
    site.touch()
    assert not write(wanted)["changed"]
    site.unlink()
    site.symlink_to(tmp_path / "own")
    assert not write(wanted)["changed"]
    site.unlink()
    site.symlink_to("available")
    assert write(wanted, check=True)["paths"] == write(wanted)["paths"] == [str(site)]
    assert not site.is_symlink()


def test_the_owner_of_a_file_may_be_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "report"
    wanted = {"path": str(path), "content": "one\n", "owner": "", "group": "", "mode": "0640"}
    assert write(wanted)["changed"]
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (os.geteuid(), 0o640)
    assert not write(wanted)["changed"]


def test_a_file_that_its_program_refuses_leaves_the_one_of_before(tmp_path: Path) -> None:
    path = tmp_path / "table"
    good = {"path": str(path), "content": "good\n", "validate": "grep -q good %s"}
    assert write(good)["changed"]
    answer = write({**good, "content": "bad\n"})
    assert answer["failed"]
    assert "table is not valid" in answer["msg"]
    assert "Remedy: " in answer["msg"]
    assert path.read_text() == "good\n"
    assert [one.name for one in tmp_path.iterdir()] == ["table"]


def test_what_is_of_another_kind_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "image").write_text("precious")
    answer = write({"path": str(tmp_path / "archive"), "content": "x"})
    assert answer["failed"]
    assert "is a directory, but must be a file. Remedy: " in answer["msg"]
    assert (tmp_path / "archive" / "image").read_text() == "precious"


def test_an_account_that_is_yet_to_be_made(tmp_path: Path) -> None:
    wanted = {"path": str(tmp_path / "one"), "content": "", "owner": "nobody-of-this-name"}
    assert write(wanted, check=True)["changed"]
    answer = write(wanted)
    assert answer["failed"]
    assert "There is no account nobody-of-this-name. Remedy: " in answer["msg"]
    assert [*tmp_path.iterdir()] == []


def test_a_directory_that_a_person_put_on_another_disk_stays_there(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "disk" / "image").write_text("precious")
    (tmp_path / "archive").symlink_to(tmp_path / "disk")
    wanted = {"path": str(tmp_path / "archive"), "state": "directory", "group": "daemon", "mode": "0750"}
    assert write(wanted)["changed"]
    assert os.readlink(tmp_path / "archive") == str(tmp_path / "disk")
    assert (tmp_path / "archive" / "image").read_text() == "precious"
    assert ((tmp_path / "disk").group(), (tmp_path / "disk").stat().st_mode & 0o7777) == ("daemon", 0o750)
    assert not write(wanted)["changed"]
    (tmp_path / "lost").symlink_to(tmp_path / "unmounted")
    answer = write({**wanted, "path": str(tmp_path / "lost")})
    assert answer["failed"]
    assert "lost is a link, but must be a directory. Remedy: " in answer["msg"]


def test_directories_above_one_can_be_entered_by_its_owner(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        wanted = {"path": str(tmp_path / "one" / "two"), "state": "directory", "owner": "daemon", "mode": "0750"}
        assert write(wanted)["changed"]
    finally:
        os.umask(before)
    for path in (tmp_path / "one", tmp_path / "one" / "two"):
        assert (path.owner(), path.stat().st_mode & 0o7777) == ("daemon", 0o750)


def test_a_units_own_file_is_not_replaced_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "orthanc.service").write_text("a person's own")
    answer = write({"path": str(tmp_path / "orthanc.service"), "state": "link", "target": "/dev/null"})
    assert answer["failed"]
    assert "is a file, but must be a link. Remedy: " in answer["msg"]
    assert (tmp_path / "orthanc.service").read_text() == "a person's own"


# --- units ----------------------------------------------------------------------------------------
def unit(active: str, file: str, load: str = "loaded") -> dict[str, str]:
    return {"LoadState": load, "ActiveState": active, "UnitFileState": file}


@pytest.mark.parametrize(
    ("units", "wanted", "steps"),
    [
        ({"a": unit("active", "enabled")}, {"enabled": ["a"], "started": ["a"]}, []),
        ({"a": unit("inactive", "disabled")}, {"enabled": ["a"]}, [("enable", ["a"])]),
        (
            {"a": unit("inactive", "masked", "masked")},
            {"unmasked": ["a"], "enabled": ["a"]},
            [("unmask", ["a"]), ("enable", ["a"])],
        ),
        # an administrator's mask stays: systemctl refuses
        ({"a": unit("inactive", "masked", "masked")}, {"enabled": ["a"]}, [("enable", ["a"])]),
        ({"a": unit("failed", "enabled")}, {"enabled": ["a"], "started": ["a"]}, [("start", ["a"])]),
        ({"a": unit("inactive", "", "not-found")}, {"started": ["a"]}, [("start", ["a"])]),
        (
            {"a": unit("active", "enabled"), "b": unit("inactive", "disabled")},
            {"enabled": ["a", "b"], "started": ["a", "b"], "restarted": ["a"]},
            [("enable", ["b"]), ("restart", ["a"]), ("start", ["b"])],
        ),
        (
            {"a": unit("active", "enabled"), "b": unit("inactive", "", "not-found"), "c": unit("inactive", "static")},
            {"stopped": ["a", "b", "c"], "disabled": ["a", "b", "c"]},
            [("disable", ["a"]), ("stop", ["a"])],
        ),
    ],
)
def test_what_is_done_with_units(
    units: dict[str, dict[str, str]], wanted: dict[str, list[str]], steps: list[tuple[str, list[str]]]
) -> None:
    assert orthanc_units.plan({**{name: [] for name in orthanc_units.LISTS}, **wanted}, units) == steps
