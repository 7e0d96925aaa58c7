"""What of a snapshot takes its place, and what an index knows of a study: decisions, without Orthanc."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from server.backup import placing, study
from server.backup.exchange import put_path
from server.backup.restore import plan_placings
from server.backup.settings import ARCHIVE
from server.backup.state import write_state
from server.core.files import hash_file, hash_md5
from test_backup import make_settings

SITE, CRL = "/etc/orthanc/site/orthanc.json", f"{placing.CA}/ca.crl"
THEIRS = {"Worklists": {"Database": "/var/lib/orthanc/worklists"}, "RegisteredUsers": {"it": "old"}}
OURS = {"Worklists": {"Directory": "/srv/served"}, "RegisteredUsers": {"it": "new"}}
ITEM = b"\x40\x00\x02\x00DA\x08\x0029991128"


def plan(
    paths: list[str], tmp_path: Path, options: dict[str, Any], here: dict[str, str], *, new: bool = False
) -> tuple[set[str], dict[str, str]]:
    manifest = {path: ["root", "root", 0o640, "theirs"] for path in paths}
    machine = placing.Machine(options, new, not new, here)
    placings, kept = placing.plan_paths(manifest, THEIRS, tmp_path, machine, {"1.2"}, "20261128", SITE)
    return {one.target for one in placings}, {one.path: one.why for one in kept}


@pytest.mark.parametrize(
    ("new", "key", "comes"), [(True, "another", True), (True, "theirs", False), (False, "another", False)]
)
def test_the_ca_that_devices_trust_comes_back_on_a_new_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool, key: str, comes: bool
) -> None:
    monkeypatch.setattr(placing, "has_same_name", lambda *_: True)
    paths = [placing.CA_KEY, CRL, f"{placing.CA}/device-us1.key", f"{placing.CA}/provided.key"]
    placed, kept = plan(paths, tmp_path, OURS, {placing.CA_KEY: key, CRL: "ours"}, new=new)
    assert (CRL in placed) is comes
    assert (CRL in kept) is not comes
    assert f"{placing.CA}/provided.key" in kept


def item(tmp_path: Path, name: str, day: str) -> str:
    path = f"/var/lib/orthanc/worklists/{name}"
    copy = tmp_path / path.lstrip("/")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(b"\x40\x00\x01\x00AE\x04\x00US1 @\x00\x02\x00DA\x08\x00" + day.encode())
    return path


def test_the_configuration_of_the_machine_stays(tmp_path: Path) -> None:
    placed, kept = plan([SITE, CRL, "/etc/orthanc/site/gone.lua"], tmp_path, OURS, {SITE: "ours", CRL: "ours"})
    assert placed == set()
    assert {*kept} == {SITE, CRL, "/etc/orthanc/site/gone.lua"}


def test_what_is_the_same_is_not_told(tmp_path: Path) -> None:
    assert plan([SITE], tmp_path, OURS, {SITE: "theirs"}) == (set(), {})


def test_a_machine_without_a_configuration_gets_all_of_it(tmp_path: Path) -> None:
    assert plan([SITE, CRL], tmp_path, {}, {}, new=True) == ({SITE, CRL}, {})


def test_items_come_back_into_this_machine_s_directory_unless_they_are_done(tmp_path: Path) -> None:
    paths = [
        item(tmp_path, "1.1_1.wl", "20261128"),
        item(tmp_path, "1.2_1.wl", "20261129"),
        item(tmp_path, "1.3_1.wl", "20261127"),
        item(tmp_path, "1.4_1.wl", "20261128"),
    ]
    placed, kept = plan(paths, tmp_path, OURS, {"/srv/served/1.4_1.wl": "ours"}, new=True)
    assert placed == {"/srv/served/1.1_1.wl"}
    assert kept == {
        "/srv/served/1.2_1.wl": "its study has been received",
        "/srv/served/1.3_1.wl": "its date has passed",
        "/srv/served/1.4_1.wl": "this machine has a newer one",
    }


@pytest.mark.parametrize(
    ("archive", "history", "served", "comes"),
    [
        (True, True, ["1.9_1.wl"], False),
        (True, True, [], False),  # the last one was done, or withdrawn
        (False, True, ["1.9_1.wl"], False),  # the data disk is lost, and the list is on another one
        (False, True, [], True),  # the list was on it
        (False, False, [], True),  # a new machine
        (False, False, ["1.9_1.wl"], True),  # to which an application has submitted an item already
    ],
)
def test_an_item_that_a_list_in_use_has_no_more_does_not_come_back(
    tmp_path: Path, archive: bool, history: bool, served: list[str], comes: bool
) -> None:
    """It was cancelled, or dropped for a corrected one: a scanner must not offer it again."""
    here = tmp_path / "served"
    here.mkdir()
    settings = make_settings(tmp_path, orthanc=str(tmp_path / "orthanc.json"))
    settings.orthanc.write_text(json.dumps({"Worklists": {"Database": str(here)}}))
    copies = tmp_path / "copies"
    for path, content in ((settings.orthanc, settings.orthanc.read_bytes()), (here / "1.1_1.wl", ITEM)):
        copy = copies / str(path).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    for name in served:
        (here / name).write_bytes(ITEM)
    if archive:
        (settings.storage / ARCHIVE).write_text("0123456789abcdef\n")
    if history:
        write_state(settings, "history", {"archive": "0123456789abcdef"})
    manifest = {"paths": {str(here / "1.1_1.wl"): ["root", "root", 0o640, "theirs"]}}
    found = plan_placings(settings, manifest, copies, None, [])
    assert found["put_in_place"] == ([str(here / "1.1_1.wl")] if comes else [])
    assert [one["path"] for one in found["kept"]] == ([] if comes else [str(here / "1.1_1.wl")])
    assert all("not on this machine's list any more" in one["why"] for one in found["kept"])


def test_an_item_that_came_during_the_restore_is_not_replaced(tmp_path: Path) -> None:
    target, source = tmp_path / "1.1_1.wl", tmp_path / "copy"
    source.write_bytes(b"of the snapshot")
    one = placing.Placing(str(target), str(target), "", "", 0o640, hash_file(source))
    assert put_path(one, source, tmp_path / "aside")
    assert target.read_bytes() == b"of the snapshot"
    target.write_bytes(b"corrected since")
    assert not put_path(one, source, tmp_path / "aside")
    assert target.read_bytes() == b"corrected since"


def test_changed_users_are_named_without_their_passwords() -> None:
    before = {"RegisteredUsers": {"it": "secret-1", "same": "s"}, "ClinicopsRoles": {"it": "admin", "same": "health"}}
    after = {
        "RegisteredUsers": {"it": "secret-2", "left": "secret-3", "same": "s"},
        "ClinicopsRoles": {"it": "admin", "left": "admin", "same": "admin"},
    }
    found = placing.find_changed_users(before, after)
    assert found == ["the snapshot's password of user it", "user left (admin)", "user same as admin"]
    assert "secret" not in "".join(found)


def index(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            """
            CREATE TABLE Resources(internalId INTEGER PRIMARY KEY, resourceType, publicId, parentId);
            CREATE TABLE MainDicomTags(id, tagGroup, tagElement, value);
            CREATE TABLE Metadata(id, type, value);
            CREATE TABLE AttachedFiles(id, fileType, uuid, compressedSize, uncompressedSize, compressionType,
                                       uncompressedMD5, compressedMD5);
            INSERT INTO Resources VALUES (1, 1, 'p', NULL), (2, 2, 's', 1), (3, 3, 'e', 2), (4, 4, 'i', 3);
            INSERT INTO MainDicomTags VALUES (1, 16, 32, 'P1'), (2, 32, 13, '1.2.3'), (2, 8, 80, 'A1 '),
                                             (3, 32, 14, '1.2.3.4'), (4, 8, 24, '1.2.3.4.5');
            INSERT INTO Metadata VALUES (4, 2, '20261128T100000'), (3, 3, 'US1');
            INSERT INTO AttachedFiles VALUES (4, 1, 'aabbccdd', 10, 5, 1, '', ''), (4, 3, 'x', 1, 1, 1, '', '');
            """
        )
    return path


@pytest.mark.parametrize("value", ["A1", "1.2.3", " A1"])
def test_a_study_is_found_by_accession_number_and_uid(tmp_path: Path, value: str) -> None:
    (found,) = study.find_studies(index(tmp_path / "index"), value)
    assert (found.uid, found.accession, found.patient) == ("1.2.3", "A1", "P1")
    assert [(one.uid, one.series, one.path) for one in found.images] == [("1.2.3.4.5", "1.2.3.4", "aa/bb/aabbccdd")]


@pytest.mark.parametrize("value", ["A", "a1", "1.2", "%", ""])
def test_a_part_of_a_value_finds_nothing(tmp_path: Path, value: str) -> None:
    assert study.find_studies(index(tmp_path / "index"), value) == []


def test_who_sent_what_lacks_its_file(tmp_path: Path) -> None:
    path = index(tmp_path / "index")
    assert placing.list_studies_with(path, ["i", "gone"]) == [("20261128T100000", "US1", "1.2.3", "A1 ")]
    assert placing.list_studies(path) == {"1.2.3"}


def test_a_study_of_two_patients_comes_back_whole(tmp_path: Path) -> None:
    """A device that sends a study again with a corrected PatientID gives every image the same UIDs once more."""
    path, there = index(tmp_path / "index"), dict[str, bytes]()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            f"""
            INSERT INTO Resources VALUES (5, 1, 'q', NULL), (6, 2, 't', 5), (7, 3, 'f', 6), (8, 4, 'j', 7);
            INSERT INTO MainDicomTags VALUES (5, 16, 32, 'P2'), (6, 32, 13, '1.2.3'), (7, 32, 14, '1.2.3.4'),
                                             (8, 8, 24, '1.2.3.4.5');
            INSERT INTO AttachedFiles VALUES (8, 1, 'bbccddee', 1, 1, 1, '{hash_md5(b"j")}', '');
            UPDATE AttachedFiles SET compressedSize = 1, uncompressedMD5 = '{hash_md5(b"i")}' WHERE id = 4;
            """
        )
        database.commit()
    data = tmp_path / "data"
    for uuid, content in (("aabbccdd", b"i"), ("bbccddee", b"j")):
        file = data / uuid[:2] / uuid[2:4] / uuid
        file.parent.mkdir(parents=True)
        file.write_bytes(content)

    def ask(method: str, what: str, body: bytes) -> tuple[int, bytes]:
        if method == "POST":
            there[body.decode()] = body
            return 200, b""
        instance = what.split("/")[2]
        return (200, there[instance]) if instance in there else (404, b"")

    source = study.Source(
        snapshots=[{"short_id": "0123", "moment": "20261128T100000"}],
        read_index=lambda _: path,
        fetch=lambda *_: data,
        ask=ask,
        check_files=lambda instances: dict.fromkeys(instances & {*there}, (data, True)),
        set_aside=lambda _: None,
        free_bytes=lambda: 1 << 40,
        progress=lambda *_: None,
        warn=lambda _: None,
    )
    result = study.restore_study(source, "1.2.3")
    assert there == {"i": b"i", "j": b"j"}
    assert (result["restored"], result["patient"], result["left"]) == (2, "P1 and P2", [])


@pytest.mark.parametrize("damage", ["", "missing", "truncated", "altered", "decompressed"])
def test_a_compressed_file_is_read_as_it_was_or_not_at_all(tmp_path: Path, damage: str) -> None:
    data = b"DICM" * 100
    stored = len(data).to_bytes(8, "little") + zlib.compress(data)
    if damage == "decompressed":
        stored = (len(data) + 1).to_bytes(8, "little") + zlib.compress(data)
    image = study.Image("1", "2", "i", "uuid", len(stored), hash_md5(stored), 2, hashlib.md5(data).hexdigest())
    path = tmp_path / "file"
    content = {"truncated": stored[:-1], "altered": stored[:-1] + b"\0"}.get(damage, stored)
    if damage != "missing":
        path.write_bytes(content)
    if damage:
        with pytest.raises(study.Damaged):
            study.read_image(path, image)
    else:
        assert study.read_image(path, image) == data
