"""orthanc.json tried, applied and put back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from clients import ADDRESSES, OFFICE, PASSWORDS, SCANNER, fingerprint, https, name_of, play, put, scu
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
SITE = "/etc/orthanc/site/orthanc.json"
DROP_IN = "/etc/systemd/system/orthanc.service.d/zz-thief.conf"
PID = "systemctl show --property MainPID --value orthanc"


def options(**settings: Any) -> dict[str, Any]:
    return {"orthanc_config_settings": settings}


def leftovers(host: Host) -> str:
    units = host.run("systemctl list-units --all --plain --no-legend 'orthanc-trial-*'").stdout
    files = host.run("ls /run | grep orthanc-trial; ls -A /etc/orthanc/site | grep -v '^orthanc.json$'").stdout
    return f"{units}{files}"


def passwords_in(text: str) -> list[str]:
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
    assert passwords_in(said) == []
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
        assert passwords_in(said) == []
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
    assert passwords_in(said) == []
    assert host.file(SITE).content_string == before
    assert https(host, OFFICE, "/dicom-web/studies")[0] == 200
    assert scu(SCANNER, "echoscu", "US2", ADDRESSES[name_of(host)][0])[0] == 0
    assert leftovers(host) == ""
