"""A repository over SFTP: where it is, the ssh that restic starts, and what is wrong with host keys and key."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import ssh
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import ssh_settings
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

REPOSITORY = "sftp:backup@192.0.2.10:/orthanc"
BODY = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()
KEY = f"ssh-ed25519 {BODY}"


def hashed(name: str) -> str:
    salt = bytes(range(20))
    digest = hmac.digest(salt, name.encode(), hashlib.sha1)
    return "|".join(["", "1", *(base64.b64encode(part).decode() for part in (salt, digest))])


def private_key(kind: str = "ed25519", form: str = "OpenSSH", passphrase: bytes = b"") -> str:
    """As ssh-keygen writes it."""
    keys: dict[str, Callable[[], Any]] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    }
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    shape = getattr(serialization.PrivateFormat, form)
    text: str = keys[kind]().private_bytes(serialization.Encoding.PEM, shape, locked).decode()
    return text


def locked_key() -> str:
    """A key in OpenSSH's form that says of itself that it has a passphrase."""
    content = base64.b64decode("".join(private_key().splitlines()[1:-1]))
    none = b"\0\0\0\x04none"
    content = content.replace(none + none, b"\0\0\0\x0aaes256-ctr\0\0\0\x06bcrypt", 1)
    text = base64.encodebytes(content).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}-----END OPENSSH PRIVATE KEY-----\n"


def found(repository: str = REPOSITORY, known_hosts: Any = "", key: Any = "") -> list[str]:
    return [f"{one['path']} {one['message']}" for one in ssh_settings.problems(repository, known_hosts, key)]


@pytest.mark.parametrize(
    ("repository", "place"),
    [
        ("sftp:backup@192.0.2.10:/orthanc", ("backup", "192.0.2.10", "")),
        ("sftp:nas:orthanc", ("", "nas", "")),
        ("sftp:me@clinic.example@nas:/orthanc", ("me@clinic.example", "nas", "")),
        ("sftp://backup@nas:2222//orthanc", ("backup", "nas", "2222")),
        ("sftp://me%40clinic@nas/orthanc", ("me@clinic", "nas", "")),
        ("sftp://nas/orthanc", ("", "nas", "")),
        ("sftp://backup@[2001:db8::1]:22//orthanc", ("backup", "2001:db8::1", "22")),
        ("sftp:-oProxyCommand=x:/orthanc", None),
        ("sftp:nas", None),
        ("sftp://nas:22", None),
        ("/mnt/disk/orthanc", None),
        ("rest:https://nas/", None),
    ],
)
def test_the_place_is_read_as_restic_reads_it(repository: str, place: tuple[str, str, str] | None) -> None:
    assert ssh.find_place(repository) == place


def test_ssh_asks_nobody_and_gets_no_secret() -> None:
    place = ssh.Place("backup", "nas", "2222")
    command = ssh.build_command(place, "", "")
    assert "-oBatchMode=yes" in command
    assert command[-7:] == ["2222", "-l", "backup", "-s", "--", "nas", "sftp"]
    assert not [option for option in command if "KnownHosts" in option or "Identity" in option]
    both = ssh.build_command(place, "/etc/known", "/etc/key")
    for option in ("StrictHostKeyChecking=yes", "UserKnownHostsFile=/etc/known", "IdentityFile=/etc/key"):
        assert f"-o{option}" in both
    assert ssh.build_options("rest:https://nas/", "", "") == []
    assert ssh.build_options(REPOSITORY, "", "")[1].startswith("sftp.command=ssh -oBatchMode=yes")


def test_no_window_and_no_lent_key_comes_along() -> None:
    kept = ssh.build_environment({"PATH": "/bin", "DISPLAY": ":0", "SSH_AUTH_SOCK": "/x", "SSH_ASKPASS": "/y"})
    assert kept == {"PATH": "/bin", "SSH_ASKPASS_REQUIRE": "never", "RCLONE_ASK_PASSWORD": "false"}


@pytest.mark.parametrize(
    "lines",
    [
        f"192.0.2.10 {KEY}",
        f"# 192.0.2.10:22 SSH-2.0-OpenSSH_9.2\n\n192.0.2.10 {KEY} a comment\r\n",
        f"other,192.0.2.10 {KEY}",
        f"192.0.2.* {KEY}",
        f"{hashed('192.0.2.10')} {KEY}",
        f"@cert-authority *.10 {KEY}",
        f"other {KEY}\n192.0.2.10 {KEY}",
    ],
)
def test_lines_that_name_the_host(lines: str) -> None:
    assert found(known_hosts=lines) == []


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (f"192.0.2.11 {KEY}", "has no key for 192.0.2.10"),
        (f"{hashed('192.0.2.11')} {KEY}", "has no key for 192.0.2.10"),
        (f"@revoked 192.0.2.10 {KEY}", "has no key for 192.0.2.10"),
        (f"*,!192.0.2.10 {KEY}", "has no key for 192.0.2.10"),
        (f"[192.0.2.10]:2222 {KEY}", "has no key for 192.0.2.10"),
        ("# nothing\n", "has no key for 192.0.2.10"),
        (KEY, "has a line 1 that is not in known_hosts format"),
        (f"192.0.2.10 {KEY[:30]}", "has a line 1 that is not in known_hosts format"),
        (f"192.0.2.10 {KEY}\n192.0.2.10 ssh-rsa {BODY}", "has a line 2 that is not in known_hosts format"),
        ([f"192.0.2.10 {KEY}"], "must be text"),
    ],
)
def test_other_lines_are_refused(lines: Any, says: str) -> None:
    assert found(known_hosts=lines) == [f"orthanc_backup_ssh_known_hosts {says}"]


@pytest.mark.parametrize("name", ["[nas]:2222", "nas", hashed("[nas]:2222"), "[NAS]:2222"])
def test_a_host_with_another_port(name: str) -> None:
    assert found("sftp://backup@nas:2222//orthanc", f"{name} {KEY}") == []


def test_another_repository_needs_neither() -> None:
    assert found("/mnt/disk/orthanc", "nonsense", "nonsense") == []


@pytest.mark.parametrize(
    ("kind", "form"),
    [("ed25519", "OpenSSH"), ("rsa", "OpenSSH"), ("ecdsa", "OpenSSH"), ("rsa", "TraditionalOpenSSL"), ("rsa", "PKCS8")],
)
def test_private_keys_of_each_form(kind: str, form: str) -> None:
    key = private_key(kind, form)
    assert found(key=key) == found(key=key.replace("\n", "\r\n")) == found(key=key.strip()) == []


def test_a_passphrase_is_refused() -> None:
    locked = [private_key("rsa", form, b"secret") for form in ("TraditionalOpenSSL", "PKCS8")]
    for key in (locked_key(), *locked):
        assert found(key=key) == ["orthanc_backup_ssh_key has a passphrase, but backups run unattended"]


def test_what_is_not_a_whole_private_key_is_refused_and_not_shown() -> None:
    key = private_key()
    lines = key.splitlines(True)
    for wrong in ("".join([*lines[:2], *lines[3:]]), key.replace(lines[3].strip(), "")):
        assert found(key=wrong) == ["orthanc_backup_ssh_key is cut off or altered"]
    others: list[Any] = [KEY, "".join(lines[:-1]), lines[2], "/root/.ssh/id_ed25519", 7]
    for other in others:
        assert found(key=other) == ["orthanc_backup_ssh_key is not an SSH private key"]
    said = str(ssh_settings.problems(REPOSITORY, key, "".join(lines[:-1])))
    assert not [line for line in lines[1:-1] if line.strip() in said]


@given(st.text() | st.none() | st.integers() | st.lists(st.text()), st.text() | st.none() | st.integers())
def test_whatever_is_written_is_answered(known_hosts: Any, key: Any) -> None:
    for one in ssh_settings.problems(REPOSITORY, known_hosts, key):
        assert one["remedy"]


@pytest.mark.parametrize(
    ("said", "sentence", "remedy"),
    [
        ("Host key verification failed.", "The host key of nas is unknown: /root/.ssh/known_hosts", "ssh-keyscan nas"),
        ("No ED25519 host key is known for nas and you have requested strict checking.", "is unknown", "fingerprint"),
        (
            f"WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nSHA256:{'x' * 43}.\nHost key verification failed.",
            f"shows another host key than /root/.ssh/known_hosts has (SHA256:{'x' * 43})",
            "orthanc_backup_ssh_known_hosts",
        ),
        (
            "backup@nas: Permission denied (publickey).",
            "does not let backup in with the keys in /root/.ssh",
            "_ssh_key",
        ),
        ("subsystem request failed on channel 0", "offers no SFTP to backup", "sshd_config"),
        ("Connection closed.\nNot allowed at this time", "refuses this machine for a while", "wait"),
    ],
)
def test_each_refusal_has_its_sentence(said: str, sentence: str, remedy: str) -> None:
    told = ssh.explain_failure(said, ssh.Place("backup", "nas", ""), False, False)
    assert sentence in told
    assert remedy in told.partition(" Remedy: ")[2]


def test_what_is_not_ssh_refusing_is_not_explained() -> None:
    for said in ("", "ssh: connect to host nas port 22: Connection refused", "Fatal: wrong password or no key found"):
        assert ssh.explain_failure(said, ssh.Place("backup", "nas", ""), True, True) == ""
