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
from watched import look

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]

MACHINE = "orthanc-verify12"  # with devices over TLS
# A-ASSOCIATE-RQ (PS3.8, 9.3.2) for C-ECHO; its calling AE title is one byte sixteen times. Prints the first byte back
ASSOCIATE = r"""
import socket, struct, sys
address, filler = sys.argv[1], bytes.fromhex(sys.argv[2])
def item(kind, body):
    return struct.pack(">BBH", kind, 0, len(body)) + body
context = item(0x20, bytes([1, 0, 0, 0]) + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2"))
user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
names = b"ORTHANC".ljust(16) + filler * 16
body = struct.pack(">HH", 1, 0) + names + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
with socket.create_connection((address, 4242), 5) as way:
    way.sendall(struct.pack(">BBI", 1, 0, len(body)) + body)
    try:
        print([*way.recv(1)])
    except TimeoutError:
        print("nothing")
"""
ACCEPTED = "[2]"  # A-ASSOCIATE-AC; Orthanc 1.13.0 answers such a request with nothing at all


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
    assert (kind, "No device answers at 198.51.100.60" in sentence) == ("wrong_address", True), sentence

    assert scu(DEVICE, "echoscu", "US70", address)[0] != 0
    kind, sentence = diagnosed(machine)
    assert (kind, "calls itself US70" in sentence) == ("calling_aet", True), sentence

    assert scu(DEVICE, "echoscu", "US7", address, called="PACS")[0] != 0
    kind, sentence = diagnosed(machine)
    assert (kind, "called AE title PACS" in sentence) == ("called_aet", True), sentence

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


@pytest.mark.parametrize("filler", ["20", "00"], ids=["spaces", "nuls"])
@pytest.mark.parametrize("machine", ["orthanc-verify12", "orthanc-verify13"])
def test_a_device_without_an_ae_title_is_named_by_doctor_and_monitor(machine: str, filler: str) -> None:
    restarted(machine)
    arguments = ["python3", "-", ADDRESSES[machine][0], filler]
    done = client(DEVICE, *arguments, stdin=ASSOCIATE.encode())
    assert (done.returncode, done.stdout.decode().strip() == ACCEPTED) == (0, False), done
    kind, sentence = diagnosed(machine)
    assert kind == "calling_aet", sentence
    assert f"us7 ({DEVICE_ADDRESS}) sends no AE title of its own (the field is empty)" in sentence
    assert sentence.endswith("Remedy: set the AE title on the device to US7.")
    found = look(machine)["DeviceRejected/us7"]
    assert found.startswith("it sends no AE title of its own (the field is empty)")
    assert found.endswith(f" at {DEVICE_ADDRESS}, but Orthanc knows it as US7")


def test_a_handshake_that_fails_is_named() -> None:
    address = ADDRESSES[MACHINE][1]
    scu(DEVICE, "echoscu", "US9", address, port=2762)
    kind, sentence = diagnosed(MACHINE, "us9")
    assert (kind, "does not use TLS" in sentence) == ("tls", True), sentence
    client(DEVICE, "sh", "-c", f"openssl s_client -connect {address}:2762 -ign_eof </dev/null")
    kind, sentence = diagnosed(MACHINE, "us9")
    assert (kind, "sent no certificate" in sentence) == ("tls", True), sentence


def test_the_playbook_says_it(host: Host) -> None:
    status, said = play("verify", host, {"orthanc_verify_device": "us8"})
    assert status == 2
    assert "us8" in said
    assert "Remedy: " in said
    assert "C-ECHO from a stranger" not in said


def test_an_unknown_device_gets_the_names_of_the_known() -> None:
    status, said, complaints = call(MACHINE, "doctor", "us70")
    assert status == 2
    assert said["problems"] == ["us70 is not a device in orthanc_modalities. Remedy: use one of: us7, us8, us9."]
    assert said["problems"][0] in complaints
