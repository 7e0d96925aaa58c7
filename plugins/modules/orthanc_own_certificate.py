#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_own_certificate
short_description: Check whether a server's own CA and its certificate are as they must be
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - One module run finds out whether the modules that create keys, CA and certificate have anything to do.
  - Reads C(ca) and C(self_signed), each with C(.key), C(.csr) and C(.crt), and checks owner and permissions, names,
    extensions, signatures, that keys belong to their certificates, and how long they are valid.
  - It changes nothing.
options:
  directory:
    description: Directory of the keys and certificates.
    type: path
    required: true
  hostname:
    description:
      - The only name in the server's certificate. Its common name is the first 64 characters of it.
    type: str
    required: true
  ca_name:
    description: Common name of the CA where there is none yet. One that is there keeps its name.
    type: str
    required: true
  days:
    description: Days for which the server's certificate must still be valid.
    type: int
    default: 30
  ca_days:
    description: Days for which the CA must still be valid.
    type: int
    default: 180
extends_documentation_fragment: clinicops.orthanc.reads
requirements:
  - cryptography
"""

EXAMPLES = r"""
- name: Check the server's CA and its certificate
  clinicops.orthanc.orthanc_own_certificate:
    directory: /etc/nginx/orthanc
    hostname: pacs.clinic.example
    ca_name: Orthanc CA of pacs
  become: true
  register: __orthanc_proxy_own
"""

RETURN = r"""
reasons:
  description: Why a key, the CA or the certificate must be made or corrected; empty if everything is as it must be.
  type: list
  elements: str
  returned: always
ca_expires:
  description: Whether the CA must be renewed, because it expires. With the same key, what it has signed stays valid.
  type: bool
  returned: always
ca_name:
  description: Common name that the CA has, or will have.
  type: str
  returned: always
crl_stale:
  description:
    - Whether the list of revoked certificates must be signed again, because the CA did not sign it, or because it is
      not valid now and for a year. Every certificate of a client is refused otherwise.
  type: bool
  returned: always
ca:
  description: The CA's certificate; empty if there is none.
  type: str
  returned: always
"""

import datetime
import stat
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    MISSING = traceback.format_exc()
else:
    MISSING = ""

COMMON_NAME = 64  # characters at most (RFC 5280, ub-common-name); clients look at the alternative names
MODES = {"key": 0o600, "csr": 0o644, "crt": 0o644}
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def find_wrong_files(directory: Path) -> Iterator[str]:
    """Files that are missing, or do not belong to root with their permissions."""
    for name in ("ca", "self_signed"):
        for kind, mode in MODES.items():
            path = directory / f"{name}.{kind}"
            try:
                known = path.lstat()
            except FileNotFoundError:
                yield f"{path} does not exist"
                continue
            if (known.st_uid, known.st_gid, known.st_mode) != (0, 0, stat.S_IFREG | mode):
                yield f"{path} must be a file of root with the permissions {mode:04o}"


def find_reasons(directory: Path, hostname: str, days: int, ca_days: int) -> Iterator[str]:
    """What is wrong with the keys and certificates, whose files exist; raises ValueError if one cannot be read."""
    ca = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    own = x509.load_pem_x509_certificate((directory / "self_signed.crt").read_bytes())
    for name, certificate in (("ca", ca), ("self_signed", own)):
        key: Any = serialization.load_pem_private_key((directory / f"{name}.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            yield f"{name}.key is not of the curve secp256r1"
        elif key.public_key().public_numbers() != read_numbers(certificate):
            yield f"{name}.crt is not of its key"
        if not is_signed(certificate, ca):
            yield f"{name}.crt is not signed by the CA"
    if len(list_names(ca)) != 1 or not is_ca(ca):
        yield "ca.crt has another name or other rights"
    if list_names(own) != [hostname[:COMMON_NAME]] or not is_server(own, hostname):
        yield "self_signed.crt has another name or other rights"
    if not is_valid_for(own, days):
        yield f"self_signed.crt expires in {days} days"
    if not is_valid_for(ca, ca_days):
        yield describe_end(ca_days)


def read_ca_name(directory: Path, otherwise: str) -> str:
    """The common name of the CA that is there. It stays, also where the inventory has another name for the server: with
    another one nothing that trusts the CA, and nothing that it issued, would be accepted any more."""
    try:
        ca = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    except (OSError, ValueError):
        return otherwise
    names = list_names(ca)
    return names[0] if len(names) == 1 and is_ca(ca) else otherwise


def is_crl_stale(directory: Path) -> bool:
    """Whether the list of revoked certificates is there, and must be signed again."""
    try:
        ca = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
        crl = x509.load_pem_x509_crl((directory / "ca.crl").read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    key: Any = ca.public_key()
    now = datetime.datetime.now(datetime.timezone.utc)
    first, last = read_times(crl, "last_update", "next_update")
    year = datetime.timedelta(days=365)
    return not (crl.is_signature_valid(key) and first <= now and now + year < last)


def read_times(signed: Any, *names: str) -> list[Any]:
    """Times of a certificate or list; before cryptography 42 they are in UTC without their zone."""
    return [
        getattr(signed, f"{name}_utc", None) or getattr(signed, name).replace(tzinfo=datetime.timezone.utc)
        for name in names
    ]


def describe_end(ca_days: int) -> str:
    """Why a CA must be renewed."""
    return f"ca.crt expires in {ca_days} days"


def read_numbers(certificate: Any) -> Any:
    """The numbers of the certificate's public key; None if it is of another kind."""
    key = certificate.public_key()
    return key.public_numbers() if isinstance(key, ec.EllipticCurvePublicKey) else None


def is_signed(certificate: Any, ca: Any) -> bool:
    """Whether the CA's key signed the certificate."""
    key = ca.public_key()
    if certificate.issuer != ca.subject or not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(
            certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(certificate.signature_hash_algorithm)
        )
    except InvalidSignature:
        return False
    return True


def list_names(certificate: Any) -> list[str]:
    """The common names, if the subject has nothing else."""
    subject = list(certificate.subject)
    return [str(one.value) for one in subject] if all(one.oid == NameOID.COMMON_NAME for one in subject) else []


def read_extension(certificate: Any, kind: Any) -> tuple[bool, Any]:
    """Whether an extension is critical, and its value; None if the certificate has none of this kind."""
    try:
        found = certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return False, None
    return found.critical, found.value


def list_usages(certificate: Any) -> tuple[bool, list[str]]:
    """Whether the key's usage is critical, and its names."""
    critical, usage = read_extension(certificate, x509.KeyUsage)
    return critical, [name for name in USAGES if usage and getattr(usage, name)]


def is_ca(certificate: Any) -> bool:
    """Whether the certificate may sign others, and nothing else."""
    critical, constraints = read_extension(certificate, x509.BasicConstraints)
    return (
        critical
        and (constraints.ca, constraints.path_length) == (True, 0)
        and list_usages(certificate) == (True, ["key_cert_sign", "crl_sign"])
    )


def is_server(certificate: Any, hostname: str) -> bool:
    """Whether the certificate is of a server with this name, and of nothing else."""
    _unused, names = read_extension(certificate, x509.SubjectAlternativeName)
    _unused, extended = read_extension(certificate, x509.ExtendedKeyUsage)
    return (
        names is not None
        and list(names) == [x509.DNSName(hostname)]
        and extended is not None
        and list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]
        and list_usages(certificate) == (True, ["digital_signature"])
    )


def is_valid_for(certificate: Any, days: int) -> bool:
    """Whether the certificate is valid now and for so many days."""
    now = datetime.datetime.now(datetime.timezone.utc)
    first, last = read_times(certificate, "not_valid_before", "not_valid_after")
    return bool(first <= now and now + datetime.timedelta(days=days) < last)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "hostname": {"type": "str", "required": True},
            "ca_name": {"type": "str", "required": True},
            "days": {"type": "int", "default": 30},
            "ca_days": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(missing_required_lib("cryptography"), exception=MISSING)
    directory, asked = Path(module.params["directory"]), module.params
    reasons = list(find_wrong_files(directory))
    if not reasons:
        try:
            reasons = list(find_reasons(directory, *(asked[name] for name in ("hostname", "days", "ca_days"))))
        except (ValueError, TypeError) as error:  # TypeError: a key with a passphrase
            reasons = [f"a file cannot be read: {error}"]
    ca = directory / "ca.crt"
    text = ca.read_text(encoding="utf-8", errors="replace") if ca.is_file() else ""
    module.exit_json(
        changed=False,
        reasons=reasons,
        ca_name=read_ca_name(directory, asked["ca_name"]),
        ca_expires=describe_end(asked["ca_days"]) in reasons,
        crl_stale=is_crl_stale(directory),
        ca=text,
    )


if __name__ == "__main__":
    main()
