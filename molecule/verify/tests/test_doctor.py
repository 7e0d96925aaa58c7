"""The connectivity doctor: one sentence for each way in which a device and Orthanc miss each other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from backups import must
from clients import ADDRESSES, client, play, scu, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from verified import DEVICE, DEVICE_ADDRESS, call, restarted

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]

MACHINE = "orthanc-verify12"  # with devices over TLS


@contextmanager
def listening(*options: str) -> Iterator[None]:
    """The device's own DICOM service."""
    process = subprocess.Popen(["docker", "exec", DEVICE, "storescp", *options, "11112"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: client(DEVICE, "sh", "-c", "ss -Hltn | grep -q :11112").returncode == 0, "the device listens")
        yield
    finally:
        client(DEVICE, "sh", "-c", "kill $(pidof storescp)")
        process.wait()


def diagnosed(machine: str, device: str = "us7") -> tuple[str, str]:
    status, said, complaints = call(machine, "doctor", device)
    assert said, complaints
    assert status == (0 if said["passed"] else 1)
    assert said["sentence"].count("Remedy: ") == (0 if said["passed"] else 1)
    return said["kind"], said["sentence"]


@pytest.mark.parametrize("machine", ["orthanc-verify12", "orthanc-verify13"])
def test_each_situation_is_named(machine: str) -> None:
    restarted(machine)  # refusals of before are another process's
    address = ADDRESSES[machine][0]
    assert call(machine, "run")[0] == 0  # whose own refusals are nobody's
    with listening():
        kind, sentence = diagnosed(machine)
        assert kind == "fine", sentence
    kind, sentence = diagnosed(machine)
    assert (kind, "nothing listens on its port 11112" in sentence) == ("closed_port", True), sentence
    with listening("--refuse"):
        kind, sentence = diagnosed(machine)
        assert (kind, "refuses Orthanc's AE title ORTHANC" in sentence) == ("device_refuses", True), sentence
    kind, sentence = diagnosed(machine, "us8")
    assert (kind, "Nobody answers at 198.51.100.60" in sentence) == ("wrong_address", True), sentence

    assert scu(DEVICE, "echoscu", "US70", address)[0] != 0
    kind, sentence = diagnosed(machine)
    assert (kind, "calls itself US70" in sentence) == ("calling_aet", True), sentence

    assert scu(DEVICE, "echoscu", "US7", address, called="PACS")[0] != 0
    kind, sentence = diagnosed(machine)
    assert (kind, "called PACS" in sentence) == ("called_aet", True), sentence

    scu(DEVICE, "findscu", "US7", address, "-W", "-k", "PatientName")
    kind, sentence = diagnosed(machine)
    assert (kind, "add find_worklist to may of us7" in sentence) == ("right", True), sentence

    assert scu(DEVICE, "echoscu", "US8", address)[0] != 0
    kind, sentence = diagnosed(machine, "us8")
    assert (kind, f"AE title US8 came from {DEVICE_ADDRESS}" in sentence) == ("address", True), sentence
    kind, sentence = diagnosed(machine)
    assert (kind, f"us7 ({DEVICE_ADDRESS}) calls itself US8" in sentence) == ("calling_aet", True), sentence

    must(machine, f"nft delete element inet orthanc dicom_4 '{{ {DEVICE_ADDRESS} }}'")
    try:
        kind, sentence = diagnosed(machine)
    finally:
        must(machine, "systemctl reload orthanc-firewall")
    assert (kind, f"does not let us7 ({DEVICE_ADDRESS}) in at port 4242" in sentence) == ("firewall", True), sentence


def test_a_handshake_that_fails_is_named() -> None:
    address = ADDRESSES[MACHINE][1]
    scu(DEVICE, "echoscu", "US9", address, port=2762)
    kind, sentence = diagnosed(MACHINE, "us9")
    assert (kind, "speaks without TLS" in sentence) == ("tls", True), sentence
    client(DEVICE, "sh", "-c", f"openssl s_client -connect {address}:2762 -ign_eof </dev/null")
    kind, sentence = diagnosed(MACHINE, "us9")
    assert (kind, "showed no certificate" in sentence) == ("tls", True), sentence


def test_the_playbook_says_it(host: Host) -> None:
    status, said = play("verify", host, {"orthanc_verify_device": "us8"})
    assert status == 2
    assert "us8" in said
    assert "Remedy: " in said
    assert "C-ECHO from a stranger" not in said


def test_an_unknown_device_gets_the_names_of_the_known() -> None:
    status, said, complaints = call(MACHINE, "doctor", "us70")
    assert (status, said) == (2, None)
    assert "us70 is no device of orthanc_modalities. Remedy: use one of: us7, us8, us9." in complaints
