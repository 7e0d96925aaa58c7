"""Two hundred images move from the package to the container and back."""

from __future__ import annotations

import os
from pathlib import Path

import bed
import registry
from clients import ADDRESSES, PROVEN, Sending, answers, inspect, instances, name_of, play, verified
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[:1]

REFUSED = {"orthanc_config_settings": {"LuaScripts": ["/etc/hostname"]}}


def container(tag: str) -> dict[str, str]:
    return {"orthanc_install_method": "docker", "orthanc_install_docker_image": f"{registry.REPOSITORY}:{tag}"}


def runs(host: Host) -> tuple[bool, bool]:
    """Whether the package's Orthanc runs, and whether a container does."""
    unit = host.run("systemctl is-active orthanc").stdout.strip() == "active"
    return unit, bool(host.run("docker ps --quiet --filter name=^orthanc$").stdout.strip())


def test_no_image_is_lost_on_the_road(host: Host) -> None:
    sent = Sending(ADDRESSES[name_of(host)][0], 200).finish()
    assert len(sent) == 200
    before = instances(host)
    assert set(sent) <= set(before)
    for settings, running in (
        (container("1.12.7"), (False, True)),
        ({}, (True, False)),
        (container("26.8.1"), (False, True)),
    ):
        ran = runs(host)
        status, said = play("deploy", host, {**settings, **REFUSED})
        assert status == 2
        assert "Orthanc does not start with this configuration; nothing was changed" in said
        assert runs(host) == ran
        assert answers(host)
        status, said = play("deploy", host, settings)
        assert status == 0, said
        assert PROVEN in said
        assert runs(host) == running
        assert instances(host) == before
        assert verified(host, list(before.values())) == ["200"] * len(before)
        status, said = play("deploy", host, settings)
        assert "changed=0" in said, said

    # the container's Orthanc is newer than the package: back would lose images
    status, said = play("deploy", host)
    assert status == 2
    assert "was opened by Orthanc 1.13.0 or later, and 1.12.7" in said
    assert "changed=0" in said
    assert runs(host) == (False, True)
    assert answers(host)


def test_a_digest_and_an_archive_bring_the_image_as_well(host: Host, tmp_path: Path) -> None:
    digest = registry.add("orthanc", "26.8.1")
    archive, name = tmp_path / "orthanc.tar", "clinic/orthanc:carried"
    bed.docker("tag", bed.image("orthanc"), name)
    bed.docker("save", "--output", str(archive), name)
    bed.docker("rmi", name)
    carried = {"orthanc_install_docker_image": name, "orthanc_install_docker_archive": str(archive)}
    for settings, image in (
        ({**container("26.8.1"), "orthanc_install_docker_digest": digest}, f"{registry.REPOSITORY}@{digest}"),
        ({**container("26.8.1"), **carried}, name),
    ):
        status, said = play("deploy", host, settings)
        assert status == 0, said
        assert PROVEN in said
        assert inspect(host)["Config"]["Image"] == image
        status, said = play("deploy", host, settings)
        assert "changed=0" in said, said
    assert not host.file("/var/tmp/orthanc-image.tar").exists
