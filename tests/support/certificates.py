"""Certificates as a clinic's own CA would issue them."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

NOW = datetime.datetime.now(datetime.UTC)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def pem(key: Key) -> str:
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


class Authority:
    """A root of its own, and what it signs."""

    def __init__(self, name: str) -> None:
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.BasicConstraints(ca=True, path_length=0)
        self.root = self._sign(self.name, self.key, authority, days=(-1, 3650))

    def issue(
        self,
        hostname: str,
        days: tuple[int, int] = (-1, 90),
        key: Key | None = None,
        usage: str = "serverAuth",
        issuer_url: str = "",
    ) -> tuple[str, str]:
        """Certificate and key in PEM, valid from and until so many days from now. `issuer_url` has this CA's own."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hostname)])
        names = x509.SubjectAlternativeName([x509.DNSName(hostname)])
        oid = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}
        extensions: list[x509.ExtensionType] = [names, x509.ExtendedKeyUsage([oid[usage]])]
        if issuer_url:
            place = x509.UniformResourceIdentifier(issuer_url)
            access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)
            extensions.append(x509.AuthorityInformationAccess([access]))
        return self._sign(subject, key, *extensions, days=days), pem(key)

    def _sign(self, subject: x509.Name, key: Key, *extensions: x509.ExtensionType, days: tuple[int, int]) -> str:
        builder = (
            x509.CertificateBuilder(issuer_name=self.name, subject_name=subject, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + datetime.timedelta(days=days[0]))
            .not_valid_after(NOW + datetime.timedelta(days=days[1]))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
