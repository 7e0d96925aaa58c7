# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the host keys and the key of a repository over SFTP. Neither is shown: a private key may be in either."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import ssh
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

KNOWN_HOSTS, KEY = "orthanc_backup_ssh_known_hosts", "orthanc_backup_ssh_key"
# sshd(8), SSH_KNOWN_HOSTS FILE FORMAT
LINE = re.compile(
    r"(?:(?P<mark>@cert-authority|@revoked)\s+)?(?P<names>\S+)\s+(?P<kind>[a-z][\w@.-]+)\s+(?P<body>\S+)(?:\s.*)?"
)
PEM = re.compile(
    r"\s*-----BEGIN (?P<kind>[A-Z ]*)PRIVATE KEY-----\s(?P<body>.+?)-----END (?P=kind)PRIVATE KEY-----\s*", re.S
)
MAGIC = b"openssh-key-v1\0"


def problems(repository: str, known_hosts: Any, key: Any) -> list[Problem]:
    """Problems of both settings; empty for a repository that is not reached over SFTP."""
    place = ssh.find_place(repository)
    if not place:
        return []
    return _known_hosts(known_hosts, place) + _key(key)


def _known_hosts(text: Any, place: ssh.Place) -> list[Problem]:
    if text in ("", None):
        return []
    remedy = f"write the output of `{place.scan}`, after comparing its fingerprint with that of the machine"
    if not isinstance(text, str):
        return [problem(KNOWN_HOSTS, "must be text", remedy)]
    found, named = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if not match or not _is_public(match["kind"], match["body"]):
            found.append(problem(KNOWN_HOSTS, f"has a line {number} that is not in known_hosts format", remedy))
        elif match["mark"] != "@revoked":
            named = named or any(_names(match["names"], name) for name in place.names)
    if not found and not named:
        found.append(problem(KNOWN_HOSTS, f"has no key for {place.names[0]}", remedy))
    return found


def _is_public(kind: str, body: str) -> bool:
    try:
        content = base64.b64decode(body, validate=True)
    except binascii.Error:
        return False
    begin = len(kind).to_bytes(4, "big") + kind.encode()
    return content.startswith(begin) and len(content) > len(begin) + 32


def _names(names: str, host: str) -> bool:
    """Whether the first field of a line matches a host."""
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in names[3:].split("|"))
        except ValueError:
            return False
        return hmac.digest(salt, host.encode(), hashlib.sha1) == digest
    patterns = [pattern.lower().replace("[", "[[]") for pattern in names.split(",")]
    if any(fnmatch.fnmatchcase(host, pattern[1:]) for pattern in patterns if pattern.startswith("!")):
        return False
    return any(fnmatch.fnmatchcase(host, pattern) for pattern in patterns)


def _key(text: Any) -> list[Problem]:
    if text in ("", None):
        return []
    match = PEM.fullmatch(text.replace("\r\n", "\n")) if isinstance(text, str) else None
    if not match:
        remedy = "write the whole private key file (the one without .pub), from a vault, without a passphrase"
        return [problem(KEY, "is not an SSH private key", remedy)]
    locked = "ENCRYPTED" in match["kind"] or "ENCRYPTED" in match["body"]
    if match["kind"] == "OPENSSH ":
        cipher = _cipher(match["body"])
        if not cipher:
            return [problem(KEY, "is cut off or altered", "write the whole file, with all its lines, from a vault")]
        locked = cipher != b"none"
    if locked:
        remedy = "use a key without one: create it with `ssh-keygen -t ed25519 -N '' -f key`, and add key.pub there"
        return [problem(KEY, "has a passphrase, but backups run unattended", remedy)]
    return []


def _cipher(body: str) -> bytes:
    """The cipher of a private key in OpenSSH format (PROTOCOL.key); empty if the key is incomplete."""
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error:
        return b""
    if not content.startswith(MAGIC):
        return b""
    rest, fields = content[len(MAGIC) :], list[bytes]()
    # cipher, derivation, its options; the number of keys; the public key, the private one
    for number in range(5):
        if number == 3:
            rest = rest[4:]
        length = int.from_bytes(rest[:4], "big")
        fields.append(rest[4 : 4 + length])
        if len(rest) < 4 or len(fields[-1]) < length:
            return b""
        rest = rest[4 + length :]
    return fields[0]
