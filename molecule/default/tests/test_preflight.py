"""What is refused before anything changes, and that nothing did."""

from __future__ import annotations

import os
from typing import Any

import pytest
from clients import PASSWORDS, fingerprint, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]

US1: dict[str, Any] = {"name": "us1", "aet": "US1", "host": "198.51.100.21", "port": 104, "may": ["store"]}
IT = {"name": "it", "role": "admin"}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"orthanc_hostname": ""}, "orthanc_hostname is not set", "set it to the name"),
    ({"orthanc_users": []}, "orthanc_users names nobody", "list at least one user"),
    (
        {"orthanc_users": [{**IT, "password": "change-this-password"}]},
        "orthanc_users[0].password is a default",
        "openssl rand",
    ),
    (
        {"orthanc_users": [{"name": "orthanc", "role": "admin", "password": "orthanc"}]},
        "orthanc_users[0].password is a default",
        "openssl rand",
    ),
    ({"orthanc_aet": "MORE_THAN_SIXTEEN"}, "is not an AE title", "use 1 to 16 characters"),
    ({"orthanc_modalities": [US1, {**US1, "name": "us2"}]}, "orthanc_modalities[1].aet", "of its own"),
    ({"orthanc_config_settings": {"StabelAge": 60}}, "is no option of Orthanc", "did you mean StableAge"),
    ({"orthanc_storage_dir": "/tmp/images"}, "orthanc_storage_dir: /tmp/images is on tmpfs", "Put it on a disk"),
    ({"orthanc_storage_dir": "/srv/images"}, "orthanc_storage_dir: /srv/images is on overlay", "Put it on a disk"),
    ({"orthanc_storage_dir": "/var/lib/orthanc/other"}, "has no file .orthanc-storage", "Is the data disk mounted"),
    ({"orthanc_proxy_certificate": "provided"}, "orthanc_proxy_certificate", "orthanc_proxy_certificate_chain"),
    ({"orthanc_https_sources": ["office"]}, "are not all addresses", "write them like 198.51.100.21"),
]


@pytest.mark.parametrize(("settings", "reason", "remedy"), REFUSED, ids=[reason for _, reason, _ in REFUSED])
def test_it_is_refused_and_nothing_changes(host: Host, settings: dict[str, Any], reason: str, remedy: str) -> None:
    before = fingerprint(host)
    status, said = play("deploy", host, settings)
    assert status == 2, said
    assert reason in said
    assert remedy in said
    assert "changed=0" in said
    assert not any(password in said for password in PASSWORDS.values())
    assert fingerprint(host) == before
