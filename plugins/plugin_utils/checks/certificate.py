# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks whether clients will accept the certificate that a clinic provides. Without Ansible."""

from __future__ import annotations

import contextlib
import datetime
import itertools

from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core import words
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

with contextlib.suppress(ImportError):  # ansible-core requires it, so a controller has it
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

# NIST SP 800-131A: clients and nginx no longer accept shorter keys
SHORTEST = {"RSA": 2048, "EC": 256}
CHAIN, KEY = "orthanc_proxy_certificate_chain", "orthanc_proxy_certificate_key"


def problems(chain: str, key: str, hostname: str, now: datetime.datetime) -> list[Problem]:
    """The problems of `chain` (the server's certificate first) and `key`, both PEM. `now` has a time zone."""
    found: list[Problem] = []
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        return [problem(CHAIN, "is not a certificate in PEM", "set the server's certificate, then its intermediates")]
    server = certificates[0]
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
        if private.public_key() != server.public_key():
            found.append(problem(KEY, "belongs to another certificate", "set the key of the first certificate"))
    except (ValueError, TypeError):  # TypeError: it has a passphrase
        found.append(problem(KEY, "is not a private key in PEM", "set it without a passphrase, from a vault"))
    found += _weak(server)
    try:
        extension = server.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    wildcard = "*." + hostname.partition(".")[2]
    if not {hostname, wildcard} & {name.lower() for name in names}:
        message = f"is for {', '.join(names) or 'no host name'}, not for {hostname}"
        found.append(problem(CHAIN, message, "order one with orthanc_hostname as subject alternative name"))
    try:
        usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            found.append(problem(CHAIN, "is not for a server", "order one with the usage serverAuth"))
    except x509.ExtensionNotFound:
        pass  # then it is valid for every usage
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        if certificate.not_valid_after_utc <= now:
            message = f"({name}) expired on {words.say_moment(certificate.not_valid_after_utc)}"
            found.append(problem(CHAIN, message, "renew it"))
        if certificate.not_valid_before_utc > now:
            message = f"({name}) is not valid before {words.say_moment(certificate.not_valid_before_utc)}"
            found.append(problem(CHAIN, message, "check the date of this controller, or wait"))
    for issued, issuer in itertools.pairwise(certificates):
        try:
            issued.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            message = f"goes from {issued.subject.rfc4514_string()} to {issuer.subject.rfc4514_string()}"
            remedy = "put each issuer after the certificate that it signed"
            found.append(problem(CHAIN, f"{message}, which did not sign it", remedy))
    if not _is_authority(certificates[-1]) and _names_issuer(certificates[-1]):
        message = "has no intermediate certificate: if one signed it, browsers may fetch that, but devices do not"
        remedy = "add the intermediates, as in the file that the CA calls full chain, unless the root itself signed it"
        found.append(problem(CHAIN, message, remedy, "no_intermediate", "warning"))
    return found


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return certificate.issuer == certificate.subject


def _names_issuer(certificate: x509.Certificate) -> bool:
    """Whether it says where on the web its issuer's certificate is, as those of public CAs do (RFC 5280, 4.2.2.1)."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    places = [one.access_location for one in access if one.access_method == AuthorityInformationAccessOID.CA_ISSUERS]
    return any(str(place.value).startswith("http") for place in places)


def _weak(certificate: x509.Certificate) -> list[Problem]:
    key = certificate.public_key()
    found = []
    for kind, types in (("RSA", rsa.RSAPublicKey), ("EC", ec.EllipticCurvePublicKey)):
        if isinstance(key, types) and key.key_size < SHORTEST[kind]:
            message = f"has an {kind} key of {key.key_size} bits, which clients refuse"
            found.append(problem(CHAIN, message, f"order one with at least {SHORTEST[kind]} bits"))
    if isinstance(certificate.signature_hash_algorithm, (hashes.MD5, hashes.SHA1)):
        message = f"is signed with {certificate.signature_hash_algorithm.name.upper()}, which clients refuse"
        found.append(problem(CHAIN, message, "order one that is signed with SHA-256"))
    return found
