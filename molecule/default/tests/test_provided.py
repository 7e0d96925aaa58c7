"""A certificate of the clinic's own, and the acceptance test alone."""

from __future__ import annotations

import os

import pytest
from certificates import Authority
from clients import HOSTNAME, OFFICE, PROVEN, fingerprint, https, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]

RENEWAL = (
    "/usr/local/sbin/orthanc-certificate",
    "/etc/systemd/system/orthanc-certificate.service",
    "/etc/systemd/system/orthanc-certificate.timer",
)
PROVIDED = ("/etc/nginx/orthanc/provided.crt", "/etc/nginx/orthanc/provided.key")


def list_there(host: Host, paths: tuple[str, ...]) -> list[str]:
    return [path for path in paths if host.file(path).exists]


def settings(chain: str, key: str) -> dict[str, str]:
    return {
        "orthanc_proxy_certificate": "provided",
        "orthanc_proxy_certificate_chain": chain,
        "orthanc_proxy_certificate_key": key,
    }


@pytest.mark.campaign
def test_a_provided_certificate_is_served(host: Host) -> None:
    authority = Authority("Clinic CA")
    chosen = settings(*authority.issue(HOSTNAME))
    status, said = play("deploy", host, chosen)
    assert status == 0, said
    assert chosen["orthanc_proxy_certificate_key"].split("\n")[1] not in said
    assert https(host, OFFICE, "/dicom-web/studies", ca=authority.root.encode())[0] == 200
    assert host.file("/etc/nginx/orthanc/provided.key").mode == 0o600
    # nobody is shown the server's own certificate now, and its CA stays for those who trust it
    assert list_there(host, RENEWAL) == []
    assert host.run("systemctl is-active orthanc-certificate.timer").stdout.strip() == "inactive"
    assert host.file("/etc/nginx/orthanc/ca.key").exists

    status, said = play("verify", host, chosen)
    assert status == 0, said
    assert PROVEN in said
    assert "changed=0" in said

    before = fingerprint(host)
    for wrong, reason in (
        (authority.issue("other.clinic.example"), "is for other.clinic.example, not for pacs.clinic.example"),
        (authority.issue(HOSTNAME, days=(-90, -1)), "expired on"),
        ((authority.issue(HOSTNAME)[0], authority.issue(HOSTNAME)[1]), "belongs to another certificate"),
        (("-----BEGIN CERTIFICATE-----\n", "no key"), "is not a certificate in PEM"),
    ):
        status, said = play("deploy", host, settings(*wrong))
        assert status == 2
        assert reason in said
        assert "changed=0" in said
    assert fingerprint(host) == before
    assert https(host, OFFICE, "/dicom-web/studies", ca=authority.root.encode())[0] == 200

    status, said = play("deploy", host)
    assert status == 0, said
    assert https(host, OFFICE, "/dicom-web/studies")[0] == 200
    assert list_there(host, PROVIDED) == []
    assert list_there(host, RENEWAL) == list(RENEWAL)
    assert host.service("orthanc-certificate.timer").is_running


@pytest.mark.campaign
def test_verify_fails_when_the_service_is_down(host: Host) -> None:
    host.check_output("systemctl stop nginx")
    status, said = play("verify", host)
    host.check_output("systemctl start nginx")
    assert status == 2
    assert "FAILED" in said
    status, said = play("verify", host)
    assert status == 0, said
