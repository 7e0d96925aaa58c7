"""The container becomes the package, and the package the container, while a device stores; what fails brings the old
method back. In the end there is a container of 1.12.7 again."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from backups import must
from clients import inspect, name_of, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from upgraded import (
    FAILS,
    LONGEST,
    NAME,
    NOTES,
    ask_for,
    describe_server,
    describe_settings,
    load,
    make_image,
    require_clean,
    require_images,
    store,
    storing,
)

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
pytestmark = [pytest.mark.campaign]
PACKAGE = {"orthanc_install_method": "package"}
# the acceptance test finds that anybody may read Orthanc on this port
SITE = "/etc/nginx/conf.d/zz-forgotten.conf"
SERVER = "server { listen 8080; location / { proxy_pass http://127.0.0.1:8042; } }"
acknowledged: list[str] = []  # of every test so far


def read_running(host: Host) -> tuple[bool, str]:
    """Whether the package's Orthanc runs, and the image of the container, if there is one."""
    unit = host.run("systemctl is-active orthanc").stdout.strip() == "active"
    return unit, must(name_of(host), "docker ps --all --format '{{.Names}} {{.Image}} {{.State}}'").strip()


def upgrade(host: Host, settings: dict[str, Any]) -> tuple[int, str]:
    """Exit code and output of an upgrade, while a device stores without a break; no image of its is lost."""
    with storing(host) as seen:
        status, said = play("upgrade", host, settings)
    acknowledged.extend(seen["uids"])
    print("refused for", seen["refused"], "s")
    assert max(seen["refused"], default=0) < LONGEST, said[-3000:]
    require_images(host, acknowledged)
    require_clean(host)
    return status, said


def require_stable(host: Host, settings: dict[str, Any]) -> None:
    """A deploy changes nothing."""
    status, said = play("deploy", host, settings)
    assert status == 0, said[-3000:]
    assert " changed=0 " in said, said[-6000:]


def read_record(host: Host) -> tuple[str, str, str, str]:
    """Method and release of before and of now, of the last upgrade that was completed."""
    last = json.loads(must(name_of(host), f"cat {NOTES}/history.json"))["upgrades"][-1]
    return last["from"]["method"], last["from"]["orthanc"], last["to"]["method"], last["to"]["orthanc"]


def test_the_plan_names_the_method_and_changes_nothing(host: Host) -> None:
    acknowledged.extend(store(host, 100))
    before = describe_server(host)
    status, said = play("upgrade", host, PACKAGE, "--tags", "plan")
    assert status == 0, said[-3000:]
    assert f"Installed: {NAME}:1.12.7, Orthanc 1.12.7." in said
    assert "Offered: the package orthanc. It is not on this machine yet; the trial brings it." in said
    assert "The method of installation changes from docker to package." in said
    assert "the index was last opened by Orthanc 1.12.7, and will be by 1.12.7." in said
    assert "Afterwards another upgrade leads back" in said
    assert "changed=0" in said
    assert describe_server(host) == before


def test_a_package_whose_acceptance_test_fails_gives_way_to_the_container(host: Host) -> None:
    machine = name_of(host)
    before, running, identity = describe_settings(host), read_running(host), inspect(host)["Id"]
    must(machine, f"echo '{SERVER}' > {SITE} && systemctl reload nginx")
    try:
        status, said = upgrade(host, PACKAGE)
    finally:
        must(machine, f"rm {SITE} && systemctl reload nginx")
    assert status == 2, said[-3000:]
    assert "The old Orthanc was brought back with its images of before, and the" in said, said[-3000:]
    assert (describe_settings(host), read_running(host), inspect(host)["Id"]) == (before, running, identity)
    require_stable(host, {})


def test_the_container_becomes_the_package(host: Host) -> None:
    status, said = upgrade(host, PACKAGE)
    assert status == 0, said[-3000:]
    assert " passed, 0 failed" in said
    assert f"Orthanc 1.12.7 ({NAME}:1.12.7) became 1.12.7 (package orthanc 1.12.7" in said
    assert read_running(host) == (True, "")
    assert read_record(host) == ("docker", "1.12.7", "package", "1.12.7")
    require_stable(host, PACKAGE)


def test_an_image_whose_acceptance_test_fails_gives_way_to_the_package(host: Host) -> None:
    """Its Orthanc is newer, and has changed the index by then."""
    load(host, "1.13.0")
    make_image(host, "fails", FAILS)
    before = describe_settings(host)
    status, said = upgrade(host, ask_for("fails"))
    assert status == 2, said[-3000:]
    assert "The method of installation changes from package to docker." in said
    assert "The old Orthanc was brought back with its images of before, and the" in said, said[-3000:]
    assert read_running(host) == (True, "")
    assert describe_settings(host) == before
    assert host.file("/var/lib/orthanc/db/.orthanc-version").content_string == "1.12.7\n"
    assert host.run("systemctl is-enabled orthanc").stdout.strip() == "enabled"
    require_stable(host, PACKAGE)


def test_the_package_becomes_the_container(host: Host) -> None:
    version = must(name_of(host), "dpkg-query --show --showformat '${Version}' orthanc")
    status, said = upgrade(host, ask_for("1.12.7"))
    assert status == 0, said[-3000:]
    assert f"Orthanc 1.12.7 (package orthanc {version}) became 1.12.7 ({NAME}:1.12.7)" in said
    assert "The package orthanc stays installed, and its service does not start." in said
    assert read_running(host) == (False, f"orthanc {NAME}:1.12.7 running")
    assert read_record(host) == ("package", "1.12.7", "docker", "1.12.7")
    require_stable(host, ask_for("1.12.7"))
    must(name_of(host), f"docker rmi {NAME}:fails {NAME}:1.13.0")  # the next tests bring them
