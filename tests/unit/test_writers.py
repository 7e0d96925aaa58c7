"""Who may hand worklist items over."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import writers

ROOT = Path(__file__).resolve().parents[2]
MARK = "SFTP account of orthanc_worklist"
PASSWD = ["emr:x:1000:1000:The EMR,,,:/home/emr:/bin/bash", f"ris:x:992:994:{MARK}:/:/usr/sbin/nologin"]
DROP_IN = "/etc/ssh/sshd_config.d/orthanc-worklist.conf"


def key(kind: str, length: int = 51) -> str:
    body = len(kind).to_bytes(4, "big") + kind.encode()
    return f"{kind} {base64.b64encode(body.ljust(length, b'k')).decode()}"


ED25519 = key("ssh-ed25519")


def found(listed: Any, **change: Any) -> list[str]:
    settings = {"writers": listed, "keep_days": 7, "max_items": 5000, "dir": "/var/lib/orthanc/worklists", **change}
    return [f"{item['path']} {item['message']}" for item in writers.problems(settings, PASSWD, MARK)]


@pytest.mark.parametrize(
    "listed",
    [
        [],
        [{"name": "emr"}],
        [{"name": "ris", "keys": [ED25519]}, {"name": "app-2", "keys": [f"{ED25519} it@clinic", key("ssh-rsa", 279)]}],
        [{"name": "app", "keys": [f'from="198.51.100.30" {ED25519}\n', key("sk-ssh-ed25519@openssh.com", 74)]}],
    ],
)
def test_writers_as_they_should_be(listed: Any) -> None:
    assert found(listed) == []


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("emr", "must be a list"),
        (["emr"], "[0] must be a dictionary"),
        ([{"keys": [ED25519]}], "[0].name None is not a valid Linux user name"),
        ([{"name": "EMR"}], "'EMR' is not a valid Linux user name"),
        ([{"name": "--help"}], "is not a valid Linux user name"),
        ([{"name": "a" * 33, "keys": [ED25519]}], "is not a valid Linux user name"),
        ([{"name": "ghost"}], "'ghost' is not a user of this machine"),
        ([{"name": "ris"}], "'ris' is an SFTP account without keys here"),
        ([{"name": "emr", "keys": [ED25519]}], "'emr' is an account of this machine"),
        ([{"name": "emr"}, {"name": "emr"}], "[1].name 'emr' is listed twice"),
        ([{"name": "app", "keys": []}], "must be a list of keys"),
        ([{"name": "app", "keys": ED25519}], "must be a list of keys"),
        ([{"name": "app", "key": [ED25519]}], "[0].key is not a setting"),
    ],
)
def test_other_writers_are_named(listed: Any, says: str) -> None:
    assert any(says in line for line in found(listed)), found(listed)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        7,
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 not-base64!",
        ED25519.replace("ssh-ed25519", "ssh-rsa"),
        key("ssh-dss", 400),
        f'command="/bin/sh" {ED25519}',
        f"{ED25519}\n{ED25519}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_what_is_no_public_key_is_named_and_not_shown(wrong: object) -> None:
    (line,) = found([{"name": "app", "keys": [ED25519, wrong]}])
    assert line == "orthanc_worklist_writers[0].keys[1] is not an SSH public key"


def test_everything_is_named_at_once() -> None:
    wrong = found([{"name": "ghost"}, {"name": "X"}], keep_days=-1, max_items="many", dir="/srv/worklists/served")
    assert len(wrong) == 5


def test_names_are_looked_up_when_they_can_be() -> None:
    assert writers.names([{"name": "emr"}, "ris", {"name": "-n"}, {"name": 7}, {"keys": []}, {"name": "ris"}]) == [
        "emr",
        "ris",
    ]
    assert writers.names("emr") == writers.names(None) == []


OPTIONS = yaml.safe_load((ROOT / "roles/orthanc_worklist/vars/main.yml").read_text())["__orthanc_worklist_shut_in"]
SHUT_IN = [f"{name.lower()} {value}" for name, value in OPTIONS.items()]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ([], ""),
        (["allowusers it", "allowusers ris", "denyusers it"], ""),
        (["allowusers r*@198.51.100.30", "denyusers ris@203.0.113.1"], ""),
        (["allowgroups sudo", "allowgroups orthanc-*"], ""),
        (["allowusers it"], "add ris to AllowUsers"),
        (["denyusers r?s"], "remove it from DenyUsers"),
        (["allowgroups sudo"], "add orthanc-worklists to AllowGroups"),
        (["denygroups orthanc-worklists"], "remove it from DenyGroups"),
    ],
)
def test_who_sshd_lets_in(said: list[str], remedy: str) -> None:
    problems = writers.sftp_problems([*SHUT_IN, *said], "ris", DROP_IN, OPTIONS)
    assert len(problems) == bool(remedy)
    assert remedy in "".join(problems)


@pytest.mark.parametrize("number", range(len(SHUT_IN)))
def test_each_wall_counts(number: int) -> None:
    name = SHUT_IN[number].partition(" ")[0]
    without = [*SHUT_IN[:number], *SHUT_IN[number + 1 :]]
    for said in (without, [*without, f"{name} something else"]):
        (problem,) = writers.sftp_problems(said, "ris", DROP_IN, OPTIONS)
        assert name in problem
        assert "Include /etc/ssh/sshd_config.d/*.conf" in problem
        assert DROP_IN in problem
