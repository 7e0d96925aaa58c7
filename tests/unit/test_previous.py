"""What a deploy keeps and puts back, file by file; the rest is in the scenario `many_clinics`."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import previous
from ansible_collections.clinicops.orthanc.plugins.module_utils.previous import Notes
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused
from test_made import ROLES, read_made
from test_present import BROKEN, play_docker


def make(top: Path) -> list[Path]:
    """Settings of three kinds, and a file that is not there yet."""
    (top / "library/deep").mkdir(parents=True)
    (top / "library/deep/one.py").write_text("old")
    (top / "library/gone.py").write_text("old")
    (top / "library").chmod(0o750)
    (top / "settings.json").write_text("secret")
    (top / "settings.json").chmod(0o600)
    (top / "site").symlink_to("settings.json")
    (top / "same").write_text("the same")
    return [top / name for name in ("later.json", "library", "same", "settings.json", "site")]


def describe(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory: kind, mode, owner and content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        known = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        mode = known.st_mode if not path.is_symlink() else 0
        found[str(path.relative_to(top))] = (mode, known.st_uid, known.st_gid, content)
    return found


def test_what_was_replaced_is_as_before_and_what_came_is_gone(tmp_path: Path) -> None:
    top, archive = tmp_path / "etc", tmp_path / "files.tar"
    paths = make(top)
    before = describe(top)
    previous.archive_paths(paths, archive)
    assert archive.stat().st_mode & 0o777 == 0o600, "passwords are in it"
    assert previous.restore_paths(archive, paths) == []

    (top / "later.json").write_text("new")
    (top / "library/new").mkdir()
    (top / "library/new/two.py").write_text("new")
    (top / "library/deep/one.py").write_text("new")
    (top / "library/gone.py").unlink()
    (top / "library").chmod(0o755)
    (top / "settings.json").write_text("other")
    (top / "settings.json").chmod(0o644)
    (top / "site").unlink()
    (top / "site").mkdir()
    (top / "site/inside").write_text("x")
    assert describe(top) != before
    changed = previous.restore_paths(archive, paths)
    assert describe(top) == before
    assert top / "same" not in changed
    assert {top / "later.json", top / "library/new", top / "settings.json", top / "site"} <= {*changed}
    assert previous.restore_paths(archive, paths) == [], "an interrupted run can be run again"


def test_a_directory_that_was_removed_is_there_again(tmp_path: Path) -> None:
    top, archive = tmp_path / "etc", tmp_path / "files.tar"
    paths = make(top)
    before = describe(top)
    previous.archive_paths(paths, archive)
    for name in ("site", "settings.json"):
        (top / name).unlink()
    previous.removal.remove_paths([top / "library"])
    (top / "same").unlink()
    (top / "same").symlink_to("/dev/null")
    previous.restore_paths(archive, paths)
    assert describe(top) == before
    assert Path("/dev/null").is_char_device()


def test_settings_programs_and_units_are_kept_and_no_data() -> None:
    chosen = [str(path) for path in previous.choose_paths(read_plain(role) for role in ROLES)]
    assert {
        "/etc/orthanc/site/orthanc.json",
        "/etc/systemd/system/orthanc.service.d/clinicops.conf",
        "/etc/systemd/system/orthanc-monitor.timer",
        "/etc/nginx/conf.d/orthanc.conf",
        "/etc/nginx/orthanc",
        "/etc/nftables.d/orthanc.nft",
        "/usr/local/lib/clinicops-orthanc",
        "/etc/clinicops-orthanc.json",
    } <= {*chosen}
    assert [path for path in chosen if path.startswith(("/var", "/run", "/srv", "/home"))] == []
    assert "/usr/local/lib/clinicops-orthanc/purge_guard" not in chosen, "it is in the directory above"


def read_plain(role: str) -> dict[str, list[str]]:
    made = read_made(role)
    return {**made, "units": [Path(unit).name for unit in made["units"]]}


def test_nothing_is_put_back_where_nothing_was_kept(tmp_path: Path) -> None:
    outcome = previous.go_back([], "127.0.0.1", tmp_path / "previous")
    assert not outcome.returned
    assert outcome.said == "Nothing was put back: this was its first deploy, or nothing was kept before it."


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"method": "docker"}, "the method of installation changed from docker to package"),
        ({"release": "1.10.1"}, "the release of Orthanc changed, and the older one must not open the index"),
    ],
)
def test_another_release_is_not_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], why: str
) -> None:
    (tmp_path / "facts.json").write_text(json.dumps({"method": "package"}))
    monkeypatch.setattr(previous, "FACTS", tmp_path / "facts.json")
    monkeypatch.setattr(previous, "read_release", lambda _method: "1.12.7")
    directory = tmp_path / "previous"
    directory.mkdir()
    with tarfile.open(directory / previous.ARCHIVE, "w"):
        pass
    notes = Notes(method="package", release="1.12.7")
    assert previous.find_obstacle(Notes(**{**vars(notes), "step": "kept"})) == ""
    Notes(**{**vars(notes), **changed}).write("kept", directory)
    outcome = previous.go_back([], "127.0.0.1", directory)
    assert (outcome.returned, outcome.short) == (False, f"not put back: {why}")
    assert Notes.read(directory).step == "kept", "nothing was begun"


def test_an_archive_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "facts.json").write_text(json.dumps({"method": "package"}))
    monkeypatch.setattr(previous, "FACTS", tmp_path / "facts.json")
    monkeypatch.setattr(previous, "read_release", lambda _method: "1.12.7")
    directory = tmp_path / "previous"
    Notes(method="package", release="1.12.7").write("kept", directory)
    (directory / previous.ARCHIVE).write_bytes(b"cut off")
    outcome = previous.go_back([], "127.0.0.1", directory)
    assert (outcome.returned, outcome.short) == (False, "could not be put back")
    assert f"What was kept is in {directory} on the server." in outcome.said


def test_what_was_kept_stays_where_docker_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not known then which release the server has."""
    (tmp_path / "facts.json").write_text(json.dumps({"method": "docker"}))
    monkeypatch.setattr(previous, "FACTS", tmp_path / "facts.json")
    directory = tmp_path / "previous"
    Notes(method="docker", release="sha256:1").write("kept", directory)
    play_docker(monkeypatch, tmp_path, errors=BROKEN[-1])
    with pytest.raises(Refused, match="layer does not exist"):
        previous.keep([], [], "127.0.0.1", directory)
    outcome = previous.go_back([], "127.0.0.1", directory)
    assert (outcome.returned, outcome.short) == (False, "could not be put back")
    assert f"layer does not exist. Remedy: see systemctl status docker. What was kept is in {directory}" in outcome.said
    assert Notes.read(directory).step == "kept"


@pytest.mark.parametrize(
    ("was", "now", "asked"),
    [
        # the deploy gave the same container more memory
        ((1408, 2816, "unless-stopped", 0), (2880, 5760, "unless-stopped", 0), "1408 2816 unless-stopped"),
        ((1408, 2816, "on-failure", 3), (1408, 2816, "unless-stopped", 0), "1408 2816 on-failure:3"),
        ((0, -1, "", 0), (0, -1, "unless-stopped", 0), "0 -1 no"),
        ((1408, 2816, "unless-stopped", 0), (1408, 2816, "unless-stopped", 0), ""),
    ],
)
def test_the_limits_of_the_same_container_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: tuple[object, ...], now: tuple[object, ...], asked: str
) -> None:
    play_docker(monkeypatch, tmp_path, json.dumps([describe_limits(now)]))
    script = tmp_path / "docker"
    script.write_text(script.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'))
    assert previous.restore_container(describe_limits(was)) is False, "it is the same container, and runs"
    [memory, swap, policy] = asked.split() or ["", "", ""]
    wanted = [f"update --memory={memory} --memory-swap={swap} --restart={policy} orthanc"] if asked else []
    assert (tmp_path / "asked").read_text().splitlines()[1:] == wanted


def test_a_limit_that_was_not_there_goes_with_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker takes a limit of 0 for no change."""
    limits = (2880, 5760, "unless-stopped", 0)
    play_docker(monkeypatch, tmp_path, json.dumps([{**describe_limits(limits), "Config": {}}]))
    script = tmp_path / "docker"
    script.write_text(script.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'))
    made: list[object] = []
    monkeypatch.setattr(previous, "make_container", made.append)
    before = {**describe_limits((0, 0, "unless-stopped", 0)), "Config": {}}
    assert previous.restore_container(before) is True
    assert [line.split()[0] for line in (tmp_path / "asked").read_text().splitlines()[1:]] == ["stop", "rm"]
    assert made == [before]


def describe_limits(limits: tuple[object, ...]) -> dict[str, object]:
    memory, swap, policy, retries = limits
    restart = {"Name": policy, "MaximumRetryCount": retries}
    return {"Id": "1", "HostConfig": {"Memory": memory, "MemorySwap": swap, "RestartPolicy": restart}}
