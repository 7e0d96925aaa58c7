"""orthanc.json tried, applied and put back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from clients import (
    ADDRESSES,
    OFFICE,
    PASSWORDS,
    PROVEN,
    SCANNER,
    UNLISTED,
    ask_index,
    fingerprint,
    https,
    name_of,
    play,
    put,
    scu,
    start,
    wait_for,
)
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
SITE = "/etc/orthanc/site/orthanc.json"
DROP_IN = "/etc/systemd/system/orthanc.service.d/zz-thief.conf"
PID = "systemctl show --property MainPID --value orthanc"


def options(**settings: Any) -> dict[str, Any]:
    return {"orthanc_config_settings": settings}


def leftovers(host: Host) -> str:
    units = host.run("systemctl list-units --all --plain --no-legend 'orthanc-trial-*'").stdout
    ours = "orthanc.json|roles.lua|receive.py|search.py|dataset.py"
    files = host.run(f"ls /run | grep orthanc-trial; ls -A /etc/orthanc/site | grep -vxE '{ours}'").stdout
    return f"{units}{files}"


def passwords_in(text: str) -> list[str]:
    return [password for password in PASSWORDS.values() if password in text]


@pytest.fixture
def as_deployed(host: Host) -> Iterator[None]:
    yield
    host.run(f"rm -f {DROP_IN}; systemctl daemon-reload; systemctl stop thief; systemctl reset-failed")
    status, said = play("deploy", host)
    assert status == 0, said


@pytest.mark.campaign
@pytest.mark.usefixtures("as_deployed")
def test_one_option_is_one_file_and_one_restart(host: Host) -> None:
    before, pid = fingerprint(host).splitlines(), host.check_output(PID)
    status, said = play("deploy", host, options(StableAge=61), "--check", "--diff")
    assert status == 0, said
    assert '+ "StableAge": 61' in said
    assert "changed=1 " in said
    assert passwords_in(said) == []
    assert fingerprint(host).splitlines() == before

    status, said = play("deploy", host, options(StableAge=61))
    assert status == 0, said
    assert "changed=1 " in said
    print(re.search(r"Configuration tested in \d+[.]\d s; Orthanc was unavailable for \d+[.]\d s", said))
    assert re.search(r"Configuration tested in \d+[.]\d s; Orthanc was unavailable for \d+[.]\d s", said)
    assert host.check_output(PID) != pid
    after = fingerprint(host).splitlines()
    changed = {line.split()[0] for line in {*before} ^ {*after}}
    assert {path for path in changed if path.startswith("/")} == {SITE}
    assert json.loads(host.file(SITE).content_string)["StableAge"] == 61

    pid = host.check_output(PID)
    status, said = play("deploy", host, options(StableAge=61))
    assert "changed=0" in said
    assert host.check_output(PID) == pid
    assert leftovers(host) == ""


@pytest.mark.usefixtures("as_deployed")
def test_a_clinic_goes_without_the_index_s_statistics(host: Host) -> None:
    before, without = fingerprint(host), {"orthanc_config_index_statistics": False}
    status, said = play("deploy", host, without, "--check")
    assert status == 0, said
    assert "changed=2 " in said  # the index, and the facts for the programs
    assert fingerprint(host) == before
    status, said = play("deploy", host, without)
    assert status == 0, said
    assert PROVEN in said
    assert ask_index(name_of(host))["rows"] == {}


@pytest.mark.parametrize(
    "arguments", [pytest.param([], id="deploy"), pytest.param(["--check"], id="check", marks=pytest.mark.campaign)]
)
def test_what_the_binary_refuses_is_not_put_in_place(host: Host, arguments: list[str]) -> None:
    before = fingerprint(host)
    status, said = play("deploy", host, options(LuaScripts=["/etc/hostname"]), *arguments)
    assert status == 2
    assert "Orthanc does not start with this configuration; nothing was changed" in said
    assert "hostname" in said
    assert passwords_in(said) == []
    assert fingerprint(host) == before
    assert leftovers(host) == ""


@pytest.mark.campaign
def test_a_trial_that_is_killed_leaves_nothing_behind(host: Host) -> None:
    before, pid = fingerprint(host), host.check_output(PID)
    running = start("deploy", host, options(StableAge=62))
    # the module, as when the machine's memory runs out; systemd-run, as when the connection is lost
    processes = (
        "client=$(pgrep -f '[s]ystemd-run.*orthanc-trial') && kill -{} $(ps --format ppid= --pid $client) $client"
    )
    wait_for(lambda: host.run(processes.format("STOP")).rc == 0, "a trial")
    show = "systemctl show --property MainPID --value 'orthanc-trial-*'"
    wait_for(lambda: host.run(show).stdout.strip() not in ("", "0"), "Orthanc in the trial")
    main = f"/proc/$({show})"
    # neither the index nor the ports of production are within its reach
    assert ".orthanc-storage" not in host.check_output(f"ls -A {main}/root/var/lib/orthanc/db")
    assert host.check_output("readlink /proc/self/ns/net") != host.check_output(f"readlink {main}/ns/net")
    host.check_output(processes.format("KILL"))
    running.communicate()
    assert running.returncode != 0
    wait_for(lambda: not leftovers(host), "the end of the trial")
    assert fingerprint(host) == before
    assert host.check_output(PID) == pid


@pytest.mark.campaign
@pytest.mark.usefixtures("as_deployed")
def test_a_device_s_old_port_is_served_and_nothing_is_left_open(host: Host) -> None:
    """104 is DICOM's own port, below 1024."""
    status, said = play("deploy", host, {"orthanc_dicom_port": 104})
    assert status == 0, said
    assert PROVEN in said
    address = ADDRESSES[name_of(host)][0]
    assert scu(SCANNER, "echoscu", "US2", address, port=104)[0] == 0
    assert "TCP Initialization Error" in scu(UNLISTED, "echoscu", "US2", address, port=104)[1]
    status, said = play("deploy", host, {"orthanc_dicom_port": 104})
    assert "changed=0" in said


@pytest.mark.campaign
@pytest.mark.usefixtures("as_deployed")
def test_a_file_changed_by_hand_is_put_right(host: Host) -> None:
    host.check_output(f"sed -i '1i // by hand' {SITE}")
    status, said = play("deploy", host, None, "--diff")
    assert status == 0, said
    assert passwords_in(said) == []
    assert "by hand" not in host.file(SITE).content_string


@pytest.mark.campaign
@pytest.mark.usefixtures("as_deployed")
def test_a_deploy_that_was_cut_off_before_the_restart_is_finished(host: Host) -> None:
    pid = host.check_output(PID)
    host.check_output(f"touch {SITE}")
    status, said = play("deploy", host)
    assert status == 0, said
    assert "changed=1 " in said
    assert host.check_output(PID) != pid


@pytest.mark.usefixtures("as_deployed")
@pytest.mark.campaign
def test_a_port_that_is_taken_after_the_trial_brings_the_old_service_back(host: Host) -> None:
    thief = "/usr/bin/systemd-run --quiet --unit=thief /usr/bin/python3 -m http.server 11119"
    put(name_of(host), DROP_IN, f"[Service]\nExecStartPre=-+{thief}\n".encode())
    host.check_output("systemctl daemon-reload")
    before = host.file(SITE).content_string
    status, said = play("deploy", host, {"orthanc_dicom_port": 11119})
    assert status == 2
    assert "the previous configuration has been restored and works" in said
    away = re.search(r"([\d.]+) s without service", said)
    assert away
    print(name_of(host), away[0])
    assert "already in use" in said  # Orthanc's own words
    assert passwords_in(said) == []
    assert host.file(SITE).content_string == before
    assert https(host, OFFICE, "/dicom-web/studies")[0] == 200
    assert scu(SCANNER, "echoscu", "US2", ADDRESSES[name_of(host)][0])[0] == 0
    # the table speaks of the new port, and still keeps strangers from the old one
    assert "TCP Initialization Error" in scu(UNLISTED, "echoscu", "US2", ADDRESSES[name_of(host)][0])[1]
    assert leftovers(host) == ""


@pytest.fixture
def vendors_unit(host: Host) -> Iterator[None]:
    vendor = "/usr/sbin/Orthanc --logdir=/var/log/orthanc /etc/orthanc"
    put(name_of(host), DROP_IN, f"[Service]\nExecStart=\nExecStart={vendor}\n".encode())
    host.check_output("systemctl daemon-reload")
    yield
    host.check_output(f"rm {DROP_IN} && systemctl daemon-reload")


def test_config_check_finds_no_fault_in_what_was_deployed(host: Host) -> None:
    status, said = play("config_check", host)
    assert status == 0, said
    assert f"reads {SITE}. No problem(s); nothing was changed." in said


@pytest.mark.usefixtures("vendors_unit")
def test_config_check_reads_the_vendor_s_files(host: Host) -> None:
    before = fingerprint(host)
    for asked in ({}, {"orthanc_config_check_path": "/etc/orthanc"}):
        status, said = play("config_check", host, asked)
        assert status == 2
        for expected in (
            "/etc/orthanc/dicomweb.json",
            "DicomAlwaysAllowStore is true: devices that are not listed",
            "RegisteredUsers is empty",
            "AuthenticationEnabled is not true",
        ):
            assert expected in said
        assert "changed=0" in said
    assert fingerprint(host) == before


def test_the_guide_s_own_file_is_seen_through(host: Host) -> None:
    guide = {
        "Name": "Clinic Orthanc",
        "StorageDirectory": "/var/lib/orthanc/db",
        "IndexDirectory": "/var/lib/orthanc/db",
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"orthanc": "change-this-password"},
        "DicomCheckCalledAet": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "Worklists": {"Enable": True, "Database": "/var/lib/orthanc/worklists"},
        "DicomAlwaysAllowStor": False,
    }
    put(name_of(host), "/root/guide.json", json.dumps(guide).encode())
    status, said = play("config_check", host, {"orthanc_config_check_path": "/root/guide.json"})
    host.check_output("rm /root/guide.json")
    assert status == 2
    assert "RegisteredUsers.orthanc has a password that is a publicly known default" in said
    assert "did you mean DicomAlwaysAllowStore?" in said
    assert "change-this-password" not in said
