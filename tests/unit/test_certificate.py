"""Which certificates of a clinic are taken, when an ACME server is asked, and what is said otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import acme, certificate
from certificates import NOW, Authority
from cryptography.hazmat.primitives.asymmetric import rsa

NAME = "pacs.clinic.example"
OURS, OTHER = Authority("Clinic CA"), Authority("Other CA")
CHAIN, KEY = OURS.issue(NAME)


def said(chain: str, key: str) -> list[str]:
    return [f"{item['path']} {item['message']}" for item in certificate.problems(chain, key, NAME, NOW)]


@pytest.mark.parametrize("name", [NAME, "*.clinic.example", "PACS.Clinic.Example"])
def test_a_good_certificate_has_no_problem(name: str) -> None:
    assert said(*OURS.issue(name)) == []


def test_a_chain_in_order_has_no_problem() -> None:
    assert said(CHAIN + OURS.root, KEY) == []


@pytest.mark.parametrize(
    ("chain", "key", "says"),
    [
        ("", KEY, "certificate_chain is not a certificate"),
        ("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", KEY, "certificate_chain is not a certificate"),
        (CHAIN, "", "certificate_key is not a private key"),
        (CHAIN, OURS.issue(NAME)[1], "certificate_key belongs to another"),
        (OURS.root + CHAIN, KEY, "certificate_key belongs to another"),
        (*OURS.issue("other.clinic.example"), "certificate_chain is for other.clinic.example, not for pacs"),
        (*OURS.issue("*.example"), "certificate_chain is for *.example, not for pacs"),
        (*OURS.issue(NAME, days=(-90, -1)), "expired on"),
        (*OURS.issue(NAME, days=(1, 90)), "not valid before"),
        (CHAIN + OTHER.root, KEY, "which did not sign it"),
        (*OURS.issue(NAME, key=rsa.generate_private_key(65537, 1024)), "has an RSA key of 1024 bits"),
        (*OURS.issue(NAME, usage="clientAuth"), "is not for a server"),
    ],
)
def test_each_problem_is_named(chain: str, key: str, says: str) -> None:
    assert any(says in line for line in said(chain, key)), said(chain, key)


def test_a_chain_without_its_intermediate_is_told() -> None:
    """A clinic's own CA signs with its root; a public one says where its intermediate is."""
    chain, key = OURS.issue(NAME, issuer_url="http://ca.clinic.example/intermediate.crt")
    [item] = certificate.problems(chain, key, NAME, NOW)
    assert (item["severity"], item["path"]) == ("warning", "orthanc_proxy_certificate_chain")
    assert "has no intermediate certificate" in item["message"]
    assert "full chain" in item["remedy"]
    assert said(chain + OURS.root, key) == []
    # a directory's own CA
    assert said(*OURS.issue(NAME, issuer_url="ldap:///CN=Clinic%20CA")) == []


LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
OWN = "https://acme.clinic.example:14000/dir"


def acme_said(directory: str = OWN, hostname: str = NAME, email: str = "", hook: str = "", ca: str = "") -> list[str]:
    found = acme.problems(directory, hostname, email, hook, ca)
    assert all(item["remedy"] for item in found)
    return [f"{item['path']} {item['message']}" for item in found]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"email": "it@clinic.example", "ca": OURS.root},
        {"ca": f"# two of them\n{OURS.root}\n{OTHER.root}"},
        {"hostname": "pacs"},  # an own ACME server may know names that nobody else does
        {"directory": LETS_ENCRYPT, "hostname": "pacs.clinic.org"},
        {"directory": LETS_ENCRYPT, "hostname": "local.test.clinic.org"},
        {"directory": "https://letsencrypt.org.clinic.example/dir"},
    ],
)
def test_an_acme_server_is_asked_with_good_settings(settings: dict[str, str]) -> None:
    assert acme_said(**settings) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"directory": "http://acme.clinic.example/dir"},
            "acme_directory (http://acme.clinic.example/dir) must be an https",
        ),
        ({"directory": ""}, "acme_directory () must be an https"),
        ({"directory": "https:///directory"}, "must be an https"),
        ({"directory": LETS_ENCRYPT, "hostname": "pacs"}, "orthanc_hostname (pacs) has no domain"),
        ({"directory": LETS_ENCRYPT, "hostname": NAME}, "is not a public name"),
        ({"directory": LETS_ENCRYPT, "hostname": "pacs.clinic.LOCAL."}, "is not a public name"),
        ({"directory": LETS_ENCRYPT, "hostname": "pacs.home.arpa"}, "is not a public name"),
        ({"directory": LETS_ENCRYPT.replace("v02", "staging-v02"), "hostname": "a.internal"}, "is not a public name"),
        ({"directory": LETS_ENCRYPT, "hostname": "198.51.100.10"}, "is an IP address"),
        ({"email": "it"}, "acme_email (it) is not an e-mail address"),
        ({"email": "it@clinic.example, x@clinic.example"}, "is not an e-mail address"),
        ({"hook": "dns-hook"}, "acme_dns_hook (dns-hook) must be an absolute path"),
        ({"hook": "/nowhere/dns-hook"}, "acme_dns_hook (/nowhere/dns-hook) is not a file"),
        ({"hook": "~nobody-of-this-name/hook"}, "acme_dns_hook (~nobody-of-this-name/hook) cannot be read"),
        ({"hook": f"/{'x' * 300}"}, "cannot be read: [Errno 36] File name too long"),
        ({"directory": "https://[fd00::5/directory"}, "must be an https:// URL"),
        ({"hook": "/etc"}, "is not a file"),
        ({"ca": "/etc/ssl/root.crt"}, "acme_ca is not a certificate in PEM"),
        ({"ca": KEY}, "acme_ca is not a certificate in PEM"),
    ],
)
def test_an_acme_server_is_not_asked_in_vain(settings: dict[str, str], says: str) -> None:
    assert any(says in line for line in acme_said(**settings)), acme_said(**settings)


def test_a_hook_must_be_executable(tmp_path: Path) -> None:
    hook = tmp_path / "dns-hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o600)
    assert acme_said(hook=str(hook)) == [f"orthanc_proxy_acme_dns_hook ({hook}) is not executable"]
    hook.chmod(0o700)
    assert acme_said(hook=str(hook)) == []
