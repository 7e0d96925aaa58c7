"""Devices that come over TLS and users with a certificate: theirs alone, and none that was revoked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from certificates import Authority
from clients import (
    ADDRESSES,
    HOSTNAME,
    OFFICE,
    PASSWORDS,
    TLS_SCANNER,
    client,
    example,
    https,
    name_of,
    play,
    put,
    scu,
    wait_for,
)
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]
# a list of revoked certificates by another key, under the name of the CA
FOREIGN_LIST = """
set -e
cd $(mktemp -d)
name=$(openssl x509 -noout -subject -nameopt compat -in /etc/nginx/orthanc/ca.crt | sed 's/^subject= *//')
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out crt -days 9 -subj "$name" 2>&-
touch index.txt
printf '[ca]\\ndefault_ca=own\\n[own]\\ndatabase=index.txt\\ndefault_md=sha256\\n' > list.cnf
openssl ca -config list.cnf -gencrl -keyfile key -cert crt -crldays 3650 -out /etc/nginx/orthanc/ca.crl 2>&-
systemctl reload nginx
"""
GATEWAY = f"gateway:{PASSWORDS['gateway']}"


def made(host: Host, name: str) -> Path:
    """What the deploy brought to the controller, without .crt and .key."""
    return Path(os.environ["MOLECULE_INVENTORY_FILE"]).parents[1] / "ca" / name_of(host) / HOSTNAME / name


def carry(host: Host, place: str, name: str, *, to: str = "") -> list[str]:
    """A certificate and its key on their way to a device: the switches of DCMTK's tools."""
    path, to = made(host, name), to or f"/tmp/{name}"
    for suffix in ("crt", "key"):
        put(place, f"{to}.{suffix}", path.with_name(f"{name}.{suffix}").read_bytes())
    put(place, "/tmp/ca.crt", host.file("/etc/nginx/orthanc/ca.crt").content)
    return ["+tls", f"{to}.key", f"{to}.crt", "+cf", "/tmp/ca.crt"]


def over_tls(host: Host, tool: str, aet: str, *arguments: str) -> tuple[int, str]:
    return scu(TLS_SCANNER, tool, aet, ADDRESSES[name_of(host)][0], *arguments, port=2762)


def curl(*names: str) -> list[str]:
    return [part for name in names for part in ("--cert", f"/tmp/{name}.crt", "--key", f"/tmp/{name}.key")]


def test_a_device_over_tls_is_who_its_certificate_says(host: Host) -> None:
    shown = carry(host, TLS_SCANNER, "us3")
    put(TLS_SCANNER, "/tmp/image.dcm", example().read_bytes())
    assert over_tls(host, "storescu", "US3", *shown, "/tmp/image.dcm")[0] == 0
    for aet in ("US1", "US2", "ACCEPTANCE_TEST", "US9"):
        assert "Association Rejected" in over_tls(host, "echoscu", aet, *shown)[1], aet
    # the plain port does not know it
    assert scu(TLS_SCANNER, "echoscu", "US3", ADDRESSES[name_of(host)][0])[0] != 0

    certificate, key = Authority("Other CA").issue("us3", usage="clientAuth")
    put(TLS_SCANNER, "/tmp/other.crt", certificate.encode())
    put(TLS_SCANNER, "/tmp/other.key", key.encode())
    for strange in (["+tls", "/tmp/other.key", "/tmp/other.crt"], ["+tla"]):
        status, said = over_tls(host, "echoscu", "US3", *strange, "+cf", "/tmp/ca.crt")
        assert status != 0
        assert "Accepted" not in said


@pytest.mark.parametrize("old", ["TLSv1", "TLSv1.1"])
def test_old_tls_is_refused(host: Host, old: str) -> None:
    for port, address in (("2762", ADDRESSES[name_of(host)][0]), ("443", ADDRESSES[name_of(host)][1])):
        place = TLS_SCANNER if port == "2762" else OFFICE
        switch = "-" + old.lower().replace(".", "_").replace("tlsv", "tls")
        command = f"echo | openssl s_client {switch} -cipher ALL:@SECLEVEL=0 -servername {HOSTNAME} {address}:{port}"
        done = client(place, "sh", "-c", command)
        assert done.returncode != 0
        assert b"Cipher is (NONE)" in done.stdout


@pytest.mark.campaign  # three deploys
def test_a_revoked_certificate_stays_out_and_a_user_shows_one(host: Host) -> None:
    stolen = carry(host, TLS_SCANNER, "us3", to="/tmp/stolen")
    serial = client(TLS_SCANNER, "openssl", "x509", "-noout", "-serial", "-in", "/tmp/stolen.crt").stdout
    revoked = serial.decode().strip().partition("=")[2]
    users = {"orthanc_proxy_certificate_users": ["gateway"]}
    status, said = play("deploy", host, {**users, "orthanc_proxy_revoked_certificates": [revoked]})
    assert status == 0, said
    assert "C-ECHO over TLS as US3 with its certificate accepted" in said
    assert (made(host, "us3").parent.stat().st_mode & 0o777) == 0o700
    # named no more, and revoked all the same
    status, said = play("deploy", host, users)
    assert status == 0, said
    assert "changed=0" in said
    assert over_tls(host, "echoscu", "US3", *stolen)[0] != 0
    assert over_tls(host, "echoscu", "US3", *carry(host, TLS_SCANNER, "us3"))[0] == 0

    carry(host, OFFICE, "us3")
    shown = carry(host, OFFICE, "gateway")
    studies = "/dicom-web/studies?limit=1"
    assert https(host, OFFICE, studies, user=GATEWAY)[0] == 403
    assert https(host, OFFICE, studies, *curl("us3"), user=GATEWAY)[0] == 403
    assert https(host, OFFICE, studies, *curl("gateway"), user=GATEWAY)[0] == 200
    assert https(host, OFFICE, studies, *curl("gateway"), user="gateway:wrong")[0] == 401
    assert https(host, OFFICE, studies)[0] == 200
    # a user's certificate is no device's
    put(TLS_SCANNER, "/tmp/gateway.crt", client(OFFICE, "cat", "/tmp/gateway.crt").stdout)
    put(TLS_SCANNER, "/tmp/gateway.key", client(OFFICE, "cat", "/tmp/gateway.key").stdout)
    user = ["+tls", "/tmp/gateway.key", "/tmp/gateway.crt", *shown[-2:]]
    assert "Association Rejected" in over_tls(host, "echoscu", "US3", *user)[1]

    status, said = play("deploy", host)
    assert status == 0, said
    assert https(host, OFFICE, studies, user=GATEWAY)[0] == 200


def test_the_server_renews_its_certificate_itself(host: Host) -> None:
    def serial() -> str:
        return str(host.check_output("openssl x509 -noout -serial -in /etc/nginx/orthanc/self_signed.crt"))

    assert host.service("orthanc-certificate.timer").is_enabled
    before, running = serial(), host.check_output("systemctl show --property MainPID nginx")
    host.check_output("systemctl start orthanc-certificate.service")
    assert serial() == before
    # one that expires tomorrow
    host.check_output(
        "cd /etc/nginx/orthanc && openssl x509 -req -in self_signed.csr -CA ca.crt -CAkey ca.key -days 1"
        " -copy_extensions copy -out self_signed.crt"
    )
    soon = serial()
    host.check_output("systemctl start orthanc-certificate.service")
    assert serial() != soon
    host.check_output("openssl x509 -noout -checkend 30000000 -in /etc/nginx/orthanc/self_signed.crt")
    assert https(host, OFFICE, "/dicom-web/studies?limit=1")[0] == 200
    assert host.check_output("systemctl show --property MainPID nginx") == running


def test_a_ca_that_expires_is_renewed_with_its_key(host: Host) -> None:
    """A device goes on with the certificate that it had, with the root of before and with the new one."""
    host.check_output(
        "cd /etc/nginx/orthanc && openssl x509 -req -in ca.csr -signkey ca.key -days 100 -copy_extensions copy"
        " -out ca.crt"
    )
    shown = carry(host, TLS_SCANNER, "us3")
    status, said = play("deploy", host)
    assert status == 0, said
    host.check_output("openssl x509 -noout -checkend 300000000 -in /etc/nginx/orthanc/ca.crt")
    assert over_tls(host, "echoscu", "US3", *shown)[0] == 0
    assert over_tls(host, "echoscu", "US3", *carry(host, TLS_SCANNER, "us3"))[0] == 0
    assert https(host, OFFICE, "/dicom-web/studies?limit=1")[0] == 200


def test_a_list_of_revocations_that_the_ca_did_not_sign_is_signed_again(host: Host) -> None:
    """As where its key was made anew: nginx refuses every certificate of a client."""
    shown = carry(host, TLS_SCANNER, "us3")
    host.check_output(FOREIGN_LIST)
    wait_for(lambda: over_tls(host, "echoscu", "US3", *shown)[0] != 0, "nginx has read the list")
    status, said = play("deploy", host)
    assert status == 0, said
    assert over_tls(host, "echoscu", "US3", *shown)[0] == 0
