"""Where backups go, and when."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import backups
from hypothesis import given
from hypothesis import strategies as st

GOOD: dict[str, Any] = {
    "repository": "sftp:backup@192.0.2.10:/orthanc",
    "password": "twenty characters and more",
    "environment": {},
    "ssh_known_hosts": "",
    "ssh_key": "",
    "limit_upload": 0,
    "keep": {"daily": 14, "weekly": 8, "monthly": 12},
    "subset": 10,
    "hours": [1, 5],
    "pause": "pause",
    "pause_seconds": 5,
    "scratch_dir": "/var/lib/orthanc-backup",
    "scratch_bytes": 20 << 30,
    "storage_dir": "/var/lib/orthanc/db",
}
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def found(**change: Any) -> list[str]:
    return [f"{item['path']} {item['message']}" for item in backups.problems({**GOOD, **change})]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"repository": "/mnt/disk/orthanc"},
        {"repository": "local:/mnt/disk/orthanc"},
        {"repository": "//mnt/nas/orthanc"},
        {"repository": "local://srv/orthanc"},
        {"repository": "/var/lib/orthanc/db-backup"},
        {"repository": "sftp://backup@[2001:db8::1]:2222//orthanc"},
        {"repository": "rest:https://192.0.2.10:8000/clinic/"},
        {"repository": "rest:https://clinic@backup.example/"},
        {"repository": "s3:https://s3.example:9000/bucket"},
        {"environment": {"RESTIC_REST_USERNAME": "clinic", "RESTIC_REST_PASSWORD": "a secret"}},
        {"hours": [0, 24]},
        {"hours": [23, 24]},
        {"keep": {"last": 1}},
        {"pause": "stop", "pause_seconds": 60, "limit_upload": "500", "subset": 1},
    ],
)
def test_settings_as_they_should_be(change: dict[str, Any]) -> None:
    assert found(**change) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"repository": ""}, "repository '' is neither"),
        ({"repository": None}, "repository '' is neither"),
        ({"repository": "backup/orthanc"}, "repository 'backup/orthanc' is neither"),
        ({"repository": "local:backup"}, "is neither an absolute path"),
        ({"repository": "sftp:"}, "is neither an absolute path"),
        ({"repository": "https://backup.example/"}, "is neither an absolute path"),
        *(
            ({"repository": share}, "is a network share")
            for share in (r"\\nas\backup", "smb://nas/backup", "nfs://nas/backup", "NFS://nas/backup")
        ),
        ({"repository": "//nas/backup"}, "begins with //, as a network share does"),
        ({"repository": "local://nas/backup"}, "begins with //"),
        ({"repository": "//var/lib/orthanc/db/backup"}, "inside the images' directory"),
        ({"repository": "/var/lib/orthanc/db/backup"}, "inside the images' directory /var/lib/orthanc/db"),
        ({"repository": "/mnt/../var/lib/orthanc//db"}, "inside the images' directory"),
        ({"repository": "/var//lib"}, "or contains it"),
        ({"repository": "/", "storage_dir": "/srv/"}, "or contains it"),
        ({"password": ""}, "password must be text of at least 20 characters"),
        ({"password": "nineteen characters"}, "password must be text of at least 20 characters"),
        ({"password": " " * 30}, "password must be text of at least 20 characters"),
        ({"password": 10**30}, "password must be text of at least 20 characters"),
        ({"environment": ["AWS_ACCESS_KEY_ID"]}, "environment must be a dictionary"),
        ({"environment": {"a-name": "x"}}, "environment contains an invalid name"),
        (
            {"environment": {"RESTIC_PASSWORD_COMMAND": "x"}},
            "environment.RESTIC_PASSWORD_COMMAND is set by the role itself",
        ),
        ({"environment": {"RESTIC_REPOSITORY": "x"}}, "environment.RESTIC_REPOSITORY is set by the role itself"),
        ({"environment": {"RESTIC_REST_PASSWORD": 12345678}}, "environment.RESTIC_REST_PASSWORD must be text"),
        ({"limit_upload": -1}, "limit_upload must be a whole number from 0 to 1000000000, not -1"),
        ({"subset": 0}, "subset must be a whole number from 1 to 1000, not 0"),
        ({"subset": 1001}, "subset must be a whole number from 1 to 1000, not 1001"),
        ({"pause_seconds": 61}, "pause_seconds must be a whole number from 1 to 60, not 61"),
        ({"pause_seconds": True}, "pause_seconds must be a whole number from 1 to 60, not True"),
        ({"scratch_bytes": "20G"}, "not '20G'"),
        ({"scratch_bytes": (1 << 30) - 1}, "not 1073741823"),
        ({"hours": [5, 1]}, "hours [5, 1] is not a range of hours"),
        ({"hours": [5, 5]}, "hours [5, 5]"),
        ({"hours": [1, 25]}, "hours [1, 25]"),
        ({"hours": [1.5, 5]}, "hours [1.5, 5]"),
        ({"hours": [1]}, "hours [1]"),
        ({"hours": "1-5"}, "hours '1-5'"),
        ({"keep": {}}, "keep keeps no snapshots"),
        ({"keep": 14}, "keep keeps no snapshots"),
        ({"keep": {"dayly": 14}}, "keep.dayly is not a period"),
        ({"keep": {"daily": 0}}, "keep.daily must be a number of snapshots, not 0"),
        ({"pause": "freeze"}, "pause must be pause or stop, not 'freeze'"),
        ({"scratch_dir": "scratch"}, "scratch_dir 'scratch' must be an absolute path"),
        ({"scratch_dir": "/var/lib/orthanc/db/scratch"}, "scratch_dir '/var/lib/orthanc/db/scratch' is inside"),
    ],
)
def test_each_other_one_is_named(change: dict[str, Any], says: str) -> None:
    (line,) = found(**change)
    assert line.startswith("orthanc_backup_")
    assert says in line


@pytest.mark.parametrize(
    "repository",
    [
        "rest:https://clinic:SECRET@backup.example/",
        "rest:https://:SECRET@backup.example/",
        "sftp:clinic:SECRET@backup.example:/orthanc",
        "https://clinic:SECRET@backup.example/",
        "clinic:SECRET@backup.example:/orthanc",
        "local:clinic:SECRET@backup.example",
    ],
)
def test_a_password_in_the_repository_is_named_and_not_shown(repository: str) -> None:
    (line,) = found(repository=repository)
    assert line == "orthanc_backup_repository contains a password, which restic displays"


def test_everything_is_named_at_once() -> None:
    wrong = {"repository": "", "password": "", "environment": [], "keep": {}, "hours": [], "pause": ""}
    assert len(found(**wrong, **dict.fromkeys(backups.NUMBERS, -1), scratch_dir="")) == 11


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), NESTED))
def test_whatever_is_written_is_answered_with_remedies(change: dict[str, Any]) -> None:
    for item in backups.problems({**GOOD, **change}):
        assert item["path"].startswith("orthanc_backup_")
        assert item["rule"] == "wrong_value"
        assert item["remedy"]


@given(st.text("ab1_-:@/ ", max_size=8), NESTED)
def test_no_secret_is_shown(before: str, value: Any) -> None:
    secret = "q7Xz"
    for password in (secret, [secret], {secret: secret}):
        for environment in ({before + secret: value}, {before: secret}, {before: [secret]}, [secret], secret):
            said = backups.problems({**GOOD, "password": password, "environment": environment})
            assert secret not in str(said)
