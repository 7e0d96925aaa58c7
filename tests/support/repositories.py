"""restic repositories that open at once: scrypt makes each call of restic cost half a second of processor time.

The product knows nothing of it. Tests of repositories that it made itself leave those as they are.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex

from backups import PASSWORD, STORE, must
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.poly1305 import Poly1305


def make_cheap(key: str, password: str) -> str:
    """The key file of a restic repository, which opens without scrypt's work (restic's design.rst, Keys)."""

    def keys(salt: bytes, n: int, r: int, p: int) -> tuple[bytes, bytes, bytes]:
        derived = Scrypt(salt=salt, length=64, n=n, r=r, p=p).derive(password.encode())
        return derived[:32], derived[32:48], derived[48:]

    def sealed(text: bytes, nonce: bytes, mac: bytes, r: bytes) -> bytes:
        """The MAC, Poly1305-AES."""
        block = Cipher(algorithms.AES(mac), modes.ECB()).encryptor()
        return Poly1305.generate_tag(r + block.update(nonce), text)

    def crypted(text: bytes, nonce: bytes, key: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(text)

    content = json.loads(key)
    data, salt = base64.b64decode(content["data"]), base64.b64decode(content["salt"])
    nonce, text, tag = data[:16], data[16:-16], data[-16:]
    opened = keys(salt, content["N"], content["r"], content["p"])
    assert sealed(text, nonce, *opened[1:]) == tag, "this is not how restic seals its keys"
    content.update(N=16, r=1, p=1)
    again = keys(salt, 16, 1, 1)
    text = crypted(crypted(text, nonce, opened[0]), nonce, again[0])
    content["data"] = base64.b64encode(nonce + text + sealed(text, nonce, *again[1:])).decode()
    return json.dumps(content)


def cheapen_repository(path: str, password: str, machine: str = STORE) -> None:
    """Replaces the keys of a repository in a directory of that machine, which restic names by their SHA-256."""
    keys = f"{path}/keys"
    for name in must(machine, f"ls {shlex.quote(keys)}").split():
        key = make_cheap(must(machine, f"cat {keys}/{name}"), password)
        made = hashlib.sha256(key.encode()).hexdigest()
        if made == name:
            continue
        # the new one is there before the old one goes
        must(machine, f"cat > {path}/made", key.encode())
        same = f"chown --reference={keys}/{name} {path}/made && chmod --reference={keys}/{name} {path}/made"
        must(machine, f"{same} && mv {path}/made {keys}/{made} && rm -f {keys}/{name}")


def cheapen_repositories() -> None:
    """Those that the deploys of `backup_restore` and `snapshots` made, over SFTP and over REST."""
    for path in ("/srv/sftp/orthanc", "/srv/rest/clinic"):
        cheapen_repository(path, PASSWORD)
