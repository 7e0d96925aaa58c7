"""The container as an attacker, an auditor and a power cut see it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable

import bed
import pytest
import registry
from clients import (
    ADDRESSES,
    OFFICE,
    PASSWORDS,
    Sending,
    answers,
    https,
    inspect,
    instances,
    name_of,
    play,
    put,
    verified,
    wait_for,
)
from planned import check_plans
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


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
    total = int(host.check_output("awk '/^MemTotal/ {print $2}' /proc/meminfo")) // 1024
    # three quarters of the machine's memory, in steps of 64 MiB, and at least 512 MiB are left
    share = max(512, total - max(total // 4, 512)) // 64 * 64
    assert limits["Memory"] == (share * 1024**2 if engine["MemoryLimit"] else 0)
    assert limits["PidsLimit"] == (512 if engine["PidsLimit"] else None)
    writable = {mount["Source"] for mount in found["Mounts"] if mount["RW"]}
    assert writable == {"/var/lib/orthanc/db", "/var/lib/orthanc/tmp"}
    assert all(mount["Source"] == mount["Destination"] for mount in found["Mounts"])
    wait_for(lambda: inspect(host)["State"]["Health"]["Status"] == "healthy", "health")


def test_no_statement_walks_through_the_archive_that_need_not(host: Host) -> None:
    release = host.check_output("docker exec orthanc Orthanc --version").split()[1]
    check_plans(name_of(host), release, inside=("docker", "exec", "-i", "orthanc"))


def test_config_check_finds_no_fault(host: Host) -> None:
    status, said = play("config_check", host)
    assert status == 0, said
    assert "reads /etc/orthanc/site/orthanc.json. No problem(s)" in said


def test_check_mode_shows_another_image_that_would_come(host: Host) -> None:
    container = inspect(host)["Id"]
    image = {"orthanc_install_docker_image": f"{registry.REPOSITORY}:not-pulled"}
    status, said = play("deploy", host, image, "--check")
    assert status == 0, said[-3000:]
    assert "Pull the Orthanc image with the login of the inventory" in said
    assert inspect(host)["Id"] == container


def test_a_registry_that_does_not_answer_is_told(host: Host) -> None:
    """The image is on the machine; whether its tag was moved is asked with a login of the inventory alone."""
    nobody = {"orthanc_install_docker_username": "", "orthanc_install_docker_password": ""}
    status, said = play("deploy", host, nobody)
    assert status == 0, said[-3000:]
    assert " changed=0 " in said
    assert f"the registry does not say whether {inspect(host)['Config']['Image']} is still the same image: " in said


def test_no_secret_shows(host: Host) -> None:
    users = json.loads(host.file("/etc/orthanc/site/orthanc.json").content_string)["RegisteredUsers"]
    secrets = [*users.values(), registry.PASSWORD]
    assert set(PASSWORDS.values()) < set(secrets)
    shown = host.check_output("docker inspect orthanc; docker logs orthanc 2>&1; cat /root/.docker/config.json || true")
    shown += host.check_output("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' || true")
    assert "/etc/orthanc/site/orthanc.json" in shown
    assert [secret for secret in secrets if secret in shown] == []
    assert '"auth"' not in shown


def test_the_registry_s_password_is_not_kept_and_a_person_s_login_is(host: Host) -> None:
    path, image = "/root/.docker/config.json", str(inspect(host)["Config"]["Image"])
    assert not host.file(path).exists  # the deploy has pulled
    login = base64.b64encode(f"{registry.USER}:{registry.PASSWORD}".encode()).decode()
    others = {"registry.example": {"auth": base64.b64encode(b"somebody:else").decode()}}
    host.check_output("mkdir --mode=700 /root/.docker")
    put(name_of(host), path, json.dumps({"auths": {f"{registry.NAME}:5000": {"auth": login}, **others}}).encode())
    try:
        before = host.check_output(f"cat {path}; stat --format '%i %a %y %z' {path} /root/.docker")
        host.check_output(f"docker image rm --force {image}")  # its name alone, since a container uses it
        status, said = play("deploy", host)
        assert status == 0, said[-3000:]
        assert "changed=1 " in said, said[-3000:]
        assert host.check_output(f"cat {path}; stat --format '%i %a %y %z' {path} /root/.docker") == before
        assert image in host.check_output(f"docker pull {image}")
        assert registry.PASSWORD not in said
        assert login not in said
    finally:
        host.check_output("rm -r /root/.docker")


def test_the_health_check_s_user_may_do_nothing_else(host: Host) -> None:
    users = json.loads(host.file("/etc/orthanc/site/orthanc.json").content_string)["RegisteredUsers"]
    host.check_output("command -v curl || apt-get install -qq -y curl")
    ask = f"curl --silent --output /dev/null --write-out %{{http_code}} --user healthcheck:{users['healthcheck']}"
    url = "http://127.0.0.1:8042"
    assert host.check_output(f"{ask} {url}/changes?last") == "200"
    for request in (f"{url}/system", f"{url}/patients", f"--request DELETE {url}/changes", f"{url}/dicom-web/studies"):
        assert host.check_output(f"{ask} {request}") == "403", request
    assert https(host, OFFICE, "/dicom-web/studies", user=f"healthcheck:{users['healthcheck']}")[0] == 401


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
    sending = Sending(address, 200)
    wait_for(lambda: sending.acknowledged() >= 10, "ten images are in")
    assert sending.acknowledged() < 200
    started = inspect(host)["State"]["StartedAt"]
    kill(host)
    acknowledged = sending.finish()
    assert len(acknowledged) >= 10
    # a container goes on without its engine, until that is back and starts it anew
    assert len(acknowledged) < 200 or kill is kill_engine
    show = "docker inspect --format {{.State.StartedAt}} orthanc"
    wait_for(lambda: host.run(show).stdout.strip() not in ("", started), "a new start")
    wait_for(lambda: answers(host), "Orthanc is back")
    there = instances(host)
    assert set(acknowledged) <= set(there)
    assert set(verified(host, [there[sop] for sop in acknowledged])) == {"200"}
