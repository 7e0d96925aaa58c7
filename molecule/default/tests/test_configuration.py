"""orthanc.json tried, applied and put back; the checks against the real binaries."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bed
import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules
from clients import ADDRESSES, OFFICE, PASSWORDS, SCANNER, fingerprint, https, name_of, play, put, scu
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
SITE = "/etc/orthanc/site/orthanc.json"
DROP_IN = "/etc/systemd/system/orthanc.service.d/zz-thief.conf"
PID = "systemctl show --property MainPID --value orthanc"


def options(**settings: Any) -> dict[str, Any]:
    return {"orthanc_config_settings": settings}


def leftovers(host: Host) -> str:
    units = host.run("systemctl list-units --all --plain --no-legend 'orthanc-trial-*'").stdout
    files = host.run("ls /run | grep orthanc-trial; ls -A /etc/orthanc/site | grep -v '^orthanc.json$'").stdout
    return f"{units}{files}"


def wrong_lines(text: str) -> list[str]:
    return [password for password in PASSWORDS.values() if password in text]


@pytest.fixture
def as_deployed(host: Host) -> Iterator[None]:
    yield
    host.run(f"rm -f {DROP_IN}; systemctl daemon-reload; systemctl stop thief; systemctl reset-failed")
    status, said = play("deploy", host)
    assert status == 0, said


@pytest.mark.usefixtures("as_deployed")
def test_one_option_is_one_file_and_one_restart(host: Host) -> None:
    before, pid = fingerprint(host).splitlines(), host.check_output(PID)
    status, said = play("deploy", host, options(StableAge=61), "--check", "--diff")
    assert status == 0, said
    assert '+ "StableAge": 61' in said
    assert "changed=1 " in said
    assert wrong_lines(said) == []
    assert fingerprint(host).splitlines() == before

    status, said = play("deploy", host, options(StableAge=61))
    assert status == 0, said
    assert "changed=1 " in said
    print(re.search(r"Tried in \d+ ms; \d+ ms without service", said))
    assert re.search(r"Tried in \d+ ms; \d+ ms without service", said)
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


def test_what_the_binary_refuses_is_not_put_in_place(host: Host) -> None:
    before = fingerprint(host)
    for check in ([], ["--check"]):
        status, said = play("deploy", host, options(LuaScripts=["/srv/missing.lua"]), *check)
        assert status == 2
        assert "Orthanc does not come up on this configuration; nothing was changed" in said
        assert "missing.lua" in said
        assert wrong_lines(said) == []
        assert fingerprint(host) == before
        assert leftovers(host) == ""


@pytest.mark.usefixtures("as_deployed")
def test_a_port_that_is_taken_after_the_trial_brings_the_old_service_back(host: Host) -> None:
    thief = "/usr/bin/systemd-run --quiet --unit=thief /usr/bin/python3 -m http.server 11119"
    put(name_of(host), DROP_IN, f"[Service]\nExecStartPre=-+{thief}\n".encode())
    host.check_output("systemctl daemon-reload")
    before = host.file(SITE).content_string
    status, said = play("deploy", host, {"orthanc_dicom_port": 11119})
    assert status == 2
    assert "the previous configuration is back and works" in said
    away = re.search(r"the service was away for (\d+) ms", said)
    assert away
    print(name_of(host), away[0])
    assert "already in use" in said  # Orthanc's own words
    assert wrong_lines(said) == []
    assert host.file(SITE).content_string == before
    assert https(host, OFFICE, "/dicom-web/studies")[0] == 200
    assert scu(SCANNER, "echoscu", "US2", ADDRESSES[name_of(host)][0])[0] == 0
    assert leftovers(host) == ""


@pytest.mark.usefixtures("as_deployed")
@pytest.mark.parametrize("moment", ["trial", "restart"])
def test_a_run_that_is_killed_leaves_nothing_and_is_finished_by_the_next(host: Host, moment: str) -> None:
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    command = ["ansible-playbook", "--inventory", str(inventory), "--limit", name_of(host)]
    command += ["--extra-vars", json.dumps(options(StableAge=62)), "clinicops.orthanc.deploy"]
    pid = host.check_output(PID)
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sign = "ls /run/orthanc-trial-*" if moment == "trial" else f"grep -q '\"StableAge\": 62' {SITE}"
    while host.run(sign).rc != 0:
        assert running.poll() is None
    # without a chance to clean up
    host.run("pkill --signal KILL --full '[A]nsiballZ_orthanc_configuration|[o]rthanc_configuration'")
    assert running.wait(60) != 0
    assert host.run("ls /run/orthanc-trial-*").rc != 0 or moment == "trial"
    end = time.monotonic() + 60
    while host.run("ls /run/orthanc-trial-*").rc == 0:
        assert time.monotonic() < end, "the candidate is still there"
    assert host.run("systemctl is-active 'orthanc-trial-*'").rc != 0
    if moment == "trial":
        assert host.check_output(PID) == pid
    status, said = play("deploy", host, options(StableAge=62))
    assert status == 0, said
    assert host.check_output(PID) != pid
    assert leftovers(host) == ""


# --- the schema against the real binaries ---------------------------------------------------------
US1 = {"AET": "US1", "Host": "192.0.2.1", "Port": 104}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("a port as text", {"HttpPort": "8042"}, "wrong_value"),
    ("a switch as text", {"DicomCheckCalledAet": "False"}, "wrong_value"),
    ("a password that is a number", {"RegisteredUsers": {"it": 123456789012}}, "wrong_value"),
    ("a modality's name", {"DicomModalities": {"us 1": ["US1", "192.0.2.1", 104]}}, "wrong_value"),
    ("a manufacturer", {"DicomModalities": {"us1": ["US1", "192.0.2.1", 104, "Acme"]}}, "wrong_value"),
    ("a modality without port", {"DicomModalities": {"us1": {"AET": "US1", "Host": "192.0.2.1"}}}, "wrong_value"),
    ("a right as text", {"DicomModalities": {"a": {**US1, "AllowGet": "yes"}}}, "wrong_value"),
    ("one port twice", {"HttpPort": 4242}, "ports_in_conflict"),
    ("worklists without a folder", {"Worklists": {"Enable": True}}, "worklist_folder"),
    ("the other plugin's folder", {"Worklists": {"Enable": True, "Directory": "/tmp"}}, "worklist_folder"),
    ("DICOM TLS without files", {"DicomTlsEnabled": True}, "missing_tls_file"),
]  # fmt: skip


def binary(host: Host, version: str, text: str) -> int:
    """The exit code of the real Orthanc on a configuration; 124 when it comes up, and is ended."""
    start = "cat > /tmp/tried.json; cd /tmp; ip link set lo up 2>/dev/null; exec timeout 8 Orthanc /tmp/tried.json"
    if version == "1.13.0":
        command = ["docker", "run", "--rm", "--interactive", "--network=none", bed.image("orthanc"), "sh", "-c", start]
    else:
        command = ["docker", "exec", "--interactive", name_of(host), "unshare", "--net", "sh", "-c", start]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=False).returncode


def versions(host: Host) -> list[str]:
    """The version of this machine; the newest runs beside the last machine, in an image of its own."""
    installed = host.check_output("dpkg-query --show --showformat '${Version}' orthanc").partition("+")[0]
    return [installed, *(["1.13.0"] if name_of(host) == "orthanc-trixie" else [])]


def test_orthanc_refuses_what_the_rules_refuse(host: Host) -> None:
    for version in versions(host):
        deployed = json.loads(host.file(SITE).content_string)
        deployed.update(StorageDirectory="/tmp/tried", IndexDirectory="/tmp/tried", TemporaryDirectory="/tmp")
        deployed["Worklists"] = {"Enable": True, "Database": "/tmp"}
        assert binary(host, version, json.dumps(deployed)) == 124, version
        for what, change, rule in REFUSED:
            candidate = {**copy.deepcopy(deployed), **change}
            assert rule in {item["rule"] for item in rules.problems(candidate, version)}, what
            assert binary(host, version, json.dumps(candidate)) not in (0, 124), (version, what)
        assert binary(host, version, '{"Name": ') not in (0, 124)
        assert [item["rule"] for item in rules.read({"orthanc.json": '{"Name": '})[1]] == ["bad_json"]


def test_the_shipped_files_hold_no_unknown_option(host: Host) -> None:
    show = 'for file in /etc/orthanc/*.json; do echo "=== $file"; cat "$file"; done'
    shipped = {versions(host)[0]: host.check_output(show)}
    if "1.13.0" in versions(host):
        command = ["docker", "run", "--rm", "--network=none", bed.image("orthanc"), "sh", "-c", show]
        shipped["1.13.0"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for version, text in shipped.items():
        files = dict(part.split("\n", 1) for part in text.split("=== ")[1:])
        assert len(files) >= 5
        configuration, wrong = rules.read(files)
        assert wrong == []
        problems = rules.problems(configuration, version)
        found = {item["rule"] for item in problems}
        assert not found & {"unknown_option", "newer_option", "wrong_value"}, problems
        # and what is dangerous in them is seen
        assert {"any_device", "no_password", "no_users", "webdav"} <= found
