"""An upgrade that fails: what counts is who has opened the index, and not who was about to."""

from __future__ import annotations

import os
import re

import registry
from clients import PROVEN, answers, inspect, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[-1:]
OPENED = "/var/lib/orthanc/db/.orthanc-version"
FAULTY = """\
#!/bin/sh
[ "$1" = --version ] && { echo "Orthanc $VERSION"; exit 0; }
echo "this build does not come up" >&2
exit 1
"""


def make_image(host: Host, tag: str, version: str) -> str:
    """The image that runs, with an Orthanc that only says its version."""
    base, name = inspect(host)["Config"]["Image"], f"{registry.REPOSITORY}:{tag}"
    text = FAULTY.replace("$VERSION", version)
    host.check_output(f"cat > /tmp/Orthanc <<'END'\n{text}END\nchmod 755 /tmp/Orthanc")
    copied = f"docker cp /tmp/Orthanc $made:{registry.PROGRAM} && docker commit $made {name} && docker rm $made"
    host.check_output(f"made=$(docker create {base} true) && {copied}")
    return name


def moment(host: Host) -> tuple[str, str]:
    """Which container it is, and since when it runs."""
    found = inspect(host)
    return found["Id"], found["State"]["StartedAt"]


def test_the_way_back_from_an_image_that_does_not_come_up(host: Host) -> None:
    opened, runs = host.file(OPENED).content_string, moment(host)
    assert opened == "1.13.0\n"
    faulty = make_image(host, "26.99", "1.99.0")
    status, said = play("deploy", host, {"orthanc_install_docker_image": faulty})
    assert status == 2
    assert "this build does not come up" in said
    assert "nothing was changed" in said
    assert moment(host) == runs
    assert answers(host)
    assert host.file(OPENED).content_string == opened
    status, said = play("deploy", host)
    assert status == 0, said
    assert PROVEN in said
    assert moment(host) == runs
    assert host.file(OPENED).content_string == opened


def test_a_container_runs_on_where_what_would_replace_it_is_refused(host: Host) -> None:
    runs, port = moment(host), {"orthanc_dicom_port": 4243}
    refused = {**port, "orthanc_config_settings": {"LuaScripts": ["/etc/hostname"]}}
    status, said = play("deploy", host, refused)
    assert status == 2
    assert "Orthanc does not start with this configuration; nothing was changed" in said
    assert moment(host) == runs
    assert answers(host)
    for settings in (port, {}):
        status, said = play("deploy", host, settings)
        assert status == 0, said
        assert PROVEN in said
        assert moment(host) != runs
        tested = re.findall(r"Configuration tested in ([\d.]+) s", said)
        assert tested, said
        assert float(tested[0]) > 0
    status, said = play("deploy", host)
    assert " changed=0 " in said, said
    assert "Test the configuration beside the Orthanc that runs" not in said
    assert answers(host)


def test_an_image_whose_version_cannot_be_read_is_refused(host: Host) -> None:
    started = inspect(host)["State"]["StartedAt"]
    unknown = make_image(host, "mainline", "mainline (20260102T030405)")
    status, said = play("deploy", host, {"orthanc_install_docker_image": unknown})
    assert status == 2
    assert f"orthanc_install_docker_image: the version of Orthanc in {unknown} cannot be read" in said
    assert "Remedy: use an image of a release" in said
    assert inspect(host)["State"]["StartedAt"] == started
    assert answers(host)
