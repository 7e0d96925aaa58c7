"""The container as an attacker, an auditor and a power cut see it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import bed
import pytest
import registry
from clients import (
    ADDRESSES,
    OFFICE,
    PASSWORDS,
    answers,
    closed_but_for_devices,
    https,
    instances,
    name_of,
    play,
    store_many,
    verified,
    wait_for,
)
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


def inspect(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.check_output("docker inspect orthanc"))[0]
    return found


def test_the_container_has_no_more_than_it_needs(host: Host) -> None:
    found = inspect(host)
    config, limits = found["Config"], found["HostConfig"]
    orthanc = host.user("orthanc")
    assert config["User"] == f"{orthanc.uid}:{orthanc.gid}"
    assert orthanc.uid != 0
    assert limits["CapDrop"] == ["ALL"]
    assert limits["CapAdd"] in (None, [])
    assert "no-new-privileges=true" in limits["SecurityOpt"]
    assert limits["ReadonlyRootfs"] is True
    assert limits["Privileged"] is False
    assert limits["RestartPolicy"]["Name"] == "unless-stopped"
    assert config["StopTimeout"] == 600
    assert limits["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "5", "max-size": "10m"}}
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "/etc/orthanc/site/health.py"]
    engine = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert limits["Memory"] == (4 * 1024**3 if engine["MemoryLimit"] else 0)
    assert limits["PidsLimit"] == (512 if engine["PidsLimit"] else None)
    writable = {mount["Source"] for mount in found["Mounts"] if mount["RW"]}
    assert writable == {"/var/lib/orthanc/db", "/var/lib/orthanc/tmp"}
    assert all(mount["Source"] == mount["Destination"] for mount in found["Mounts"])
    wait_for(lambda: inspect(host)["State"]["Health"]["Status"] == "healthy", "health", 120)


def test_no_secret_shows(host: Host) -> None:
    users = json.loads(host.file("/etc/orthanc/site/orthanc.json").content_string)["RegisteredUsers"]
    secrets = [*users.values(), registry.PASSWORD]
    assert set(PASSWORDS.values()) < set(secrets)
    shown = host.check_output("docker inspect orthanc; docker logs orthanc 2>&1; cat /root/.docker/config.json || true")
    shown += host.check_output("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' || true")
    assert "/etc/orthanc/site/orthanc.json" in shown
    assert [secret for secret in secrets if secret in shown] == []
    assert '"auth"' not in shown


def test_the_health_check_s_user_may_do_nothing_else(host: Host) -> None:
    users = json.loads(host.file("/etc/orthanc/site/orthanc.json").content_string)["RegisteredUsers"]
    host.check_output("command -v curl || apt-get install -qq -y curl")
    ask = f"curl --silent --output /dev/null --write-out %{{http_code}} --user healthcheck:{users['healthcheck']}"
    url = "http://127.0.0.1:8042"
    assert host.check_output(f"{ask} {url}/changes?last") == "200"
    for request in (f"{url}/system", f"{url}/patients", f"--request DELETE {url}/changes", f"{url}/dicom-web/studies"):
        assert host.check_output(f"{ask} {request}") == "403", request
    assert https(host, OFFICE, "/dicom-web/studies", user=f"healthcheck:{users['healthcheck']}")[0] == 401


def reboot(host: Host) -> None:
    bed.docker("restart", name_of(host))
    wait_for(lambda: host.run("systemctl is-active docker").stdout.strip() == "active", "Docker")


@pytest.mark.parametrize("ufw", ["inactive", "active"])
def test_ports_stay_closed(host: Host, ufw: str) -> None:
    if ufw == "active":
        host.check_output("apt-get install -qq -y ufw && ufw allow 443/tcp && ufw allow 4242/tcp && ufw --force enable")
        assert "Status: active" in host.check_output("ufw status")
    closed_but_for_devices(host)
    host.check_output("systemctl restart docker")
    closed_but_for_devices(host)
    reboot(host)
    closed_but_for_devices(host)
    if ufw == "active":
        host.check_output("ufw --force disable")


def kill_container(host: Host) -> None:
    host.check_output("kill -KILL $(docker inspect --format '{{.State.Pid}}' orthanc)")


def kill_engine(host: Host) -> None:
    host.check_output("systemctl kill --signal KILL docker containerd")


def kill_machine(host: Host) -> None:
    bed.docker("kill", name_of(host))
    bed.docker("start", name_of(host))


@pytest.mark.parametrize("kill", [kill_container, kill_engine, kill_machine])
def test_no_acknowledged_image_is_lost(host: Host, kill: Callable[[Host], None]) -> None:
    address = ADDRESSES[name_of(host)][0]
    sending = store_many(address, 200)
    wait_for(lambda: sending.acknowledged() >= 10, "ten images are in")
    kill(host)
    acknowledged = sending.finish()
    assert 10 <= len(acknowledged) < 200
    wait_for(lambda: answers(host), "Orthanc is back", 120)
    there = instances(host)
    assert set(acknowledged) <= set(there)
    assert set(verified(host, [there[sop] for sop in acknowledged])) == {"200"}


def test_a_deploy_that_cannot_have_its_image_leaves_the_container_running(host: Host) -> None:
    registry.know(name_of(host))
    started = inspect(host)["State"]["StartedAt"]
    nowhere = {"orthanc_install_docker_image": "198.51.100.41:5000/orthancteam/orthanc:26.8.1"}
    other = {"orthanc_install_docker_image": f"{registry.REPOSITORY}:1.12.7"}
    for settings, says in (
        ({"orthanc_install_docker_digest": "sha256:" + "0" * 64}, "cannot be had"),
        (nowhere, "cannot be had"),
        ({**other, "orthanc_install_docker_password": "wrong"}, "cannot be had"),
    ):
        status, said = play("deploy", host, settings)
        assert status == 2
        assert says in said
        assert "What runs was left running" in said
        assert inspect(host)["State"]["StartedAt"] == started
    host.check_output("mkdir -p /var/lib/docker/tmp && mount -t tmpfs -o size=1m tmpfs /var/lib/docker/tmp")
    status, said = play("deploy", host, other)
    host.check_output("umount /var/lib/docker/tmp")
    assert status == 2
    assert "no space left on device" in said
    assert inspect(host)["State"]["StartedAt"] == started
    assert answers(host)


def test_an_older_image_is_refused_before_anything_stops(host: Host) -> None:
    started = inspect(host)["State"]["StartedAt"]
    status, said = play("deploy", host, {"orthanc_install_docker_image": f"{registry.REPOSITORY}:1.12.7"})
    assert status == 2
    assert "was opened by Orthanc 1.13.0 or later, and 1.12.7 would take images and lose them" in said
    assert inspect(host)["State"]["StartedAt"] == started
    assert answers(host)
