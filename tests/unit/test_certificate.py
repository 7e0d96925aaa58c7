"""Which certificates of a clinic are taken, and what is said of the others."""

from __future__ import annotations

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import certificate
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
        ("", KEY, "certificate_chain is no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", KEY, "certificate_chain is no certificate"),
        (CHAIN, "", "certificate_key is no private key"),
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
