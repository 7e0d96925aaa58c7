"""Whether the server's own CA and certificate are as they must be, from files that openssl makes."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import pytest
from ansible_collections.clinicops.orthanc.plugins.modules import orthanc_own_certificate as own

HOST, CA = "pacs.clinic.example", "Orthanc CA of pacs"
CONSTRAINTS, SIGNS = "basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign,cRLSign"
NAME, USE = f"subjectAltName=DNS:{HOST}", "keyUsage=critical,digitalSignature"


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def make(directory: Path, name: str, subject: str, days: int, *extensions: str, curve: str = "P-256") -> None:
    """A key, and a certificate that the CA signed; the CA's own for `ca`."""
    openssl(directory, "genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out", f"{name}.key")
    certify(directory, name, subject, days, *extensions)


def certify(directory: Path, name: str, subject: str, days: int, *extensions: str) -> None:
    (directory / "extensions").write_text("\n".join(extensions) + "\n")
    signer = ["-signkey", "ca.key"] if name == "ca" else ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl(directory, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={subject}", "-out", f"{name}.csr")
    openssl(
        directory, "x509", "-req", "-in", f"{name}.csr", *signer, "-days", str(days), "-extfile", "extensions",
        "-out", f"{name}.crt",
    )  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path, "ca", CA, 3650, CONSTRAINTS, SIGNS)
    make(tmp_path, "self_signed", HOST, 397, NAME, USE, "extendedKeyUsage=serverAuth")
    return tmp_path


def judge(directory: Path, hostname: str = HOST, days: int = 30, ca_days: int = 180) -> list[str]:
    return list(own.find_reasons(directory, hostname, days, ca_days))


def test_what_a_deploy_made_stays(made: Path) -> None:
    assert judge(made) == []


def test_another_name_or_a_date_is_a_reason(made: Path) -> None:
    assert judge(made, hostname="other.example") == ["self_signed.crt has another name or other rights"]
    assert judge(made, days=398) == ["self_signed.crt expires in 398 days"]
    assert judge(made, ca_days=3651) == ["ca.crt expires in 3651 days"]


def test_a_long_host_name_is_in_the_alternative_names_alone(made: Path) -> None:
    """A common name has at most 64 characters (RFC 5280, ub-common-name); clients look at the others."""
    host = f"pacs.{'radiology-' * 5}department.clinic.example"
    assert len(host) > 70
    names = f"subjectAltName=DNS:{host}"
    certify(made, "self_signed", host[:64], 397, names, USE, "extendedKeyUsage=serverAuth")
    openssl(made, "verify", "-CAfile", "ca.crt", "-verify_hostname", host, "self_signed.crt")
    assert judge(made, hostname=host) == []
    certify(made, "self_signed", host[:64], 397, NAME, USE, "extendedKeyUsage=serverAuth")
    assert judge(made, hostname=host) == ["self_signed.crt has another name or other rights"]


def test_a_ca_keeps_its_name_where_the_inventory_has_another(made: Path) -> None:
    """As after a restore on a new machine, or where a host of the inventory is renamed."""
    assert own.read_ca_name(made, "Orthanc CA of mill") == CA
    assert judge(made) == []
    # one that is none, or cannot be read, is made anew
    certify(made, "ca", CA, 3650, SIGNS)
    assert own.read_ca_name(made, "Orthanc CA of mill") == "Orthanc CA of mill"
    (made / "ca.crt").write_text("half")
    assert own.read_ca_name(made, "Orthanc CA of mill") == "Orthanc CA of mill"
    (made / "ca.crt").unlink()
    assert own.read_ca_name(made, "Orthanc CA of mill") == "Orthanc CA of mill"


def revoke(directory: Path, days: int, first: str = "") -> None:
    """The CA's list of revoked certificates, valid for so many days."""
    (directory / "index.txt").touch()
    (directory / "list.cnf").write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={directory}/index.txt\ndefault_md=sha256\n"
    )
    dates = ["-crl_lastupdate", first] if first else []
    openssl(
        directory, "ca", "-config", "list.cnf", "-gencrl", "-keyfile", "ca.key", "-cert", "ca.crt",
        "-crldays", str(days), *dates, "-out", "ca.crl",
    )  # fmt: skip


def test_a_list_of_revocations_that_refuses_every_client_is_signed_again(made: Path) -> None:
    assert not own.is_crl_stale(made)  # there is none
    revoke(made, 3650)
    assert not own.is_crl_stale(made)
    revoke(made, 300)
    assert own.is_crl_stale(made)  # it ends within a year
    ahead = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=10)
    revoke(made, 3650, f"{ahead:%Y%m%d%H%M%SZ}")
    assert own.is_crl_stale(made)  # the clock was ahead
    revoke(made, 3650)
    make(made, "ca", CA, 3650, CONSTRAINTS, SIGNS)
    assert own.is_crl_stale(made)  # another key signed it
    (made / "ca.crl").write_text("half")
    assert own.is_crl_stale(made)


def test_a_ca_that_is_renewed_with_its_key_goes_on(made: Path) -> None:
    """A client with the root of before, and one with the new root, trust what was issued before and after."""
    (made / "before.crt").write_text((made / "ca.crt").read_text())
    certify(made, "ca", CA, 3651, CONSTRAINTS, SIGNS)
    assert judge(made, ca_days=3650) == []
    for _ in range(2):
        for root in ("before.crt", "ca.crt"):
            openssl(made, "verify", "-CAfile", root, "self_signed.crt")
        certify(made, "self_signed", HOST, 397, NAME, USE, "extendedKeyUsage=serverAuth")


@pytest.mark.parametrize(
    "extensions",
    [
        (NAME, USE),
        (NAME, USE, "extendedKeyUsage=serverAuth,clientAuth"),
        (NAME, "keyUsage=critical,digitalSignature,keyCertSign", "extendedKeyUsage=serverAuth"),
        (NAME, "keyUsage=digitalSignature", "extendedKeyUsage=serverAuth"),
        (f"{NAME},DNS:other.example", USE, "extendedKeyUsage=serverAuth"),
        (USE, "extendedKeyUsage=serverAuth"),
    ],
)
def test_other_rights_are_a_reason(made: Path, extensions: tuple[str, ...]) -> None:
    certify(made, "self_signed", HOST, 397, *extensions)
    assert judge(made) == ["self_signed.crt has another name or other rights"]


def test_a_ca_that_may_sign_others_is_a_reason(made: Path) -> None:
    certify(made, "ca", CA, 3650, "basicConstraints=critical,CA:TRUE", SIGNS)
    assert judge(made) == ["ca.crt has another name or other rights"]


def test_another_ca_or_key_is_a_reason(made: Path) -> None:
    make(made, "ca", CA, 3650, CONSTRAINTS, SIGNS)
    assert judge(made) == ["self_signed.crt is not signed by the CA"]
    (made / "self_signed.key").write_text((made / "ca.key").read_text())
    assert "self_signed.crt is not of its key" in judge(made)


def test_another_curve_is_a_reason(made: Path) -> None:
    make(made, "self_signed", HOST, 397, NAME, USE, "extendedKeyUsage=serverAuth", curve="P-384")
    assert judge(made) == ["self_signed.key is not of the curve secp256r1"]


def test_a_file_that_is_half_written_cannot_be_read(made: Path) -> None:
    (made / "self_signed.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(ValueError, match=r"(?i)key|PEM"):
        judge(made)


def test_a_missing_file_and_a_readable_key_are_reasons(made: Path) -> None:
    (made / "ca.csr").unlink()
    (made / "ca.key").chmod(0o644)
    found = list(own.find_wrong_files(made))
    assert f"{made}/ca.csr does not exist" in found
    assert f"{made}/ca.key must be a file of root with the permissions 0600" in found
