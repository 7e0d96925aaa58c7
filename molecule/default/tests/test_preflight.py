"""What is refused before anything changes, and that nothing did."""

from __future__ import annotations

import os
from typing import Any

import pytest
from clients import PASSWORDS, fingerprint, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = [AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1]]

US1: dict[str, Any] = {"name": "us1", "aet": "US1", "host": "198.51.100.21", "port": 104, "may": ["store"]}
GOOD = {**{"name": "it", "role": "admin"}, "password": "long-enough-password"}
IT = {"name": "it", "role": "admin"}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"orthanc_hostname": ""}, "orthanc_hostname is not set", "set it to the name"),
    ({"orthanc_users": []}, "orthanc_users is empty", "list at least one user"),
    (
        {"orthanc_users": [{**IT, "password": "change-this-password"}]},
        "orthanc_users[0].password is a publicly known default",
        "openssl rand",
    ),
    (
        {"orthanc_users": [{"name": "orthanc", "role": "admin", "password": "orthanc"}]},
        "orthanc_users[0].password is a publicly known default",
        "openssl rand",
    ),
    ({"orthanc_aet": "MORE_THAN_SIXTEEN"}, "is not an AE title", "use 1 to 16 characters"),
    ({"orthanc_modalities": [US1, {**US1, "name": "us2"}]}, "orthanc_modalities[1].aet", "its own name"),
    ({"orthanc_config_settings": {"StabelAge": 60}}, "is not an Orthanc option", "did you mean StableAge"),
    ({"orthanc_hostnam": "x"}, "orthanc_hostnam is not a setting", "did you mean orthanc_hostname?"),
    ({"orthanc_http_port": 4242}, "orthanc_http_port is also the DICOM port", "its own port"),
    (
        {"orthanc_modalities": [{**US1, "host": "us1.clinic"}]},
        "is not an IP address",
        "write the device's fixed IP address",
    ),
    ({"orthanc_modalities": [{**US1, "name": "us 1"}]}, "is not a name that Orthanc accepts", "letters, digits"),
    ({"orthanc_users": [{**GOOD, "name": "i:t"}]}, "is not a valid user name", "letters, digits"),
    ({"orthanc_users": [{**GOOD, "password": "dollar${dollar}"}]}, "contains ${", "openssl rand"),
    ({"orthanc_config_settings": {"MaximumStorageSize": 100}}, "the oldest patients are deleted", 'to "Reject"'),
    (
        {"orthanc_config_settings": {"BuiltinDecoderTranscoderOrder": "Befor"}},
        "is not a value that Orthanc",
        '"Before", "After", "Disabled"',
    ),
    (
        {"orthanc_config_settings": {"DicomAlwaysAllowStore": True}},
        "devices that are not listed",
        "set it to false",
    ),
    ({"orthanc_config_settings": {"WebDavEnabled": True}}, "through WebDAV", "set it to false"),
    ({"orthanc_config_settings": {"ZipUseUtf8": True}}, "came with Orthanc 1.12.11", "deploy a newer Orthanc"),
    (
        {"orthanc_config_settings": {"HttpThreadsCount": "50"}},
        "is not of type integer",
        "write a value of type integer",
    ),
    (
        {"orthanc_config_settings": {"DicomWeb": {"Sll": True}}},
        "settings.DicomWeb.Sll is not an Orthanc option",
        "did you mean Ssl",
    ),
    ({"orthanc_config_settings": {"DicomWeb": {"Root": "/x/"}}}, "DicomWeb.Root must stay", "remove it"),
    (
        {"orthanc_config_settings": {"DicomWeb": {"EnableWado": True}}},
        "the proxy denies it to readers",
        "retrieve by WADO-RS",
    ),
    (
        {"orthanc_config_settings": {"LuaScripts": ["/srv/missing.lua"]}},
        "names /srv/missing.lua, which does not exist",
        "put the file there",
    ),
    ({"orthanc_waivers": {"webdav": ""}}, "orthanc_waivers.webdav has no reason", "an auditor would understand"),
    ({"orthanc_storage_dir": "/tmp/images"}, "orthanc_storage_dir: /tmp/images is on tmpfs", "put it on a disk"),
    ({"orthanc_storage_dir": "/srv/images"}, "orthanc_storage_dir: /srv/images is on overlay", "put it on a disk"),
    ({"orthanc_storage_dir": "/var/lib/orthanc/other"}, "has no file .orthanc-storage", "Is the data disk mounted"),
    ({"orthanc_proxy_certificate": "provided"}, "orthanc_proxy_certificate", "orthanc_proxy_certificate_chain"),
    ({"orthanc_proxy_certificate": "acme"}, "Let's Encrypt cannot issue for it", "another ACME server, or self_signed"),
    ({"orthanc_https_sources": ["office"]}, "must all be addresses", "write them like 198.51.100.21"),
    (
        {"orthanc_dicom_sources": ["0.0.0.0/0"]},
        "include 0.0.0.0/0",
        "orthanc_waivers: {dicom_for_everybody: <your reason>}",
    ),
    (
        {"orthanc_firewall_enabled": False},
        "Orthanc's ports are open to every machine",
        "orthanc_waivers: {no_firewall: <your reason>}",
    ),
    ({"orthanc_dicom_tls": ["us4"]}, "names 'us4', which is not a device", "did you mean us"),
    ({"orthanc_proxy_certificate_users": ["gatway"]}, "names gatway, who is not in orthanc_users", "correct the name"),
    ({"orthanc_proxy_allowed_origins": ["*"]}, "orthanc_proxy_allowed_origins contains *", "browser's Origin header"),
    ({"orthanc_proxy_allowed_origins": ["https://a.example/"]}, "contains https://a.example/", "without a path"),
    ({"orthanc_proxy_allowed_origins": ["https://a.example\n"]}, "orthanc_proxy_allowed_origins contains", "a path"),
    (
        {"orthanc_proxy_revoked_certificates": ["us1"]},
        "orthanc_proxy_revoked_certificates contains us1",
        "openssl x509",
    ),
]


# What the inventory alone tells comes all at once, of every role; this the machine must be asked for.
ON_MACHINE = ("came with Orthanc", "does not exist", " is on tmpfs", " is on overlay", "has no file .orthanc-storage")
IN_TEST = 7  # of the deploys; most of what is wrong is in the first ones
Wrong = tuple[dict[str, Any], list[tuple[str, str]]]


def deploys() -> list[Wrong]:
    """The cases in as few deploys as they need: with no setting twice, but for options of Orthanc's."""
    found: list[Wrong] = []
    for settings, reason, remedy in REFUSED:
        ((name, value),) = settings.items()
        for together, lines in found:
            if any(part in each for part in ON_MACHINE for each in (reason, lines[0][0])):
                continue
            options = together.get(name)
            if name not in together or (isinstance(options, dict) and not options.keys() & value.keys()):
                together[name] = {**options, **value} if isinstance(options, dict) else value
                lines.append((reason, remedy))
                break
        else:
            found.append((dict(settings), [(reason, remedy)]))
    return found


# what is refused and why is a unit test's as well; that nothing changes, a few of them show in make test
@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        pytest.param(settings, lines, id=lines[0][0], marks=pytest.mark.campaign if number >= IN_TEST else ())
        for number, (settings, lines) in enumerate(deploys())
    ],
)
def test_it_is_refused_and_nothing_changes(host: Host, settings: dict[str, Any], lines: list[tuple[str, str]]) -> None:
    before = fingerprint(host)
    status, said = play("deploy", host, settings)
    assert status == 2, said
    for reason, remedy in lines:
        assert reason in said
        assert remedy in said
    assert "changed=0" in said
    assert not any(password in said for password in PASSWORDS.values())
    assert fingerprint(host) == before
