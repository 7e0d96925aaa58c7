"""An upgrade loses no image that a device was told is stored, and whatever fails goes back by itself."""

from __future__ import annotations

import json
import os
import subprocess
from typing import NamedTuple

import pytest
from backups import must, power_off
from clients import INVENTORY, inspect, name_of, play, require_accepted, start, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from upgraded import (
    FAILS,
    KEPT,
    LONGEST,
    NAME,
    NOTES,
    REFUSES,
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
from worklists import sh

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
CAMPAIGN = os.environ.get("BED_TESTS") == "campaign"
# the campaign runs all of them, with more images
COUNT, pytestmark = (1000, [pytest.mark.campaign]) if CAMPAIGN else (300, [])
acknowledged: list[str] = []  # of every test so far


def require_one(host: Host) -> None:
    """Nothing of the upgrade is left, and one container."""
    require_clean(host)
    assert must(name_of(host), "docker ps --all --format '{{.Names}} {{.State}}'").split() == ["orthanc", "running"]


def require_back(host: Host, before: str, identity: str) -> None:
    """The old release runs, with its settings of before and all images."""
    assert inspect(host)["Image"] == identity
    assert host.file("/var/lib/orthanc/db/.orthanc-version").content_string == "1.12.7\n"
    assert describe_settings(host) == before
    require_images(host, acknowledged)
    require_one(host)


def read_step(host: Host) -> str:
    """How far the upgrade is."""
    return str(json.loads(must(name_of(host), f"cat {NOTES}/upgrade.json"))["step"])


def keep_previous(host: Host) -> None:
    """Leaves what a roll-out to several clinics keeps before it changes anything, and is then interrupted."""
    command = ["ansible", "--inventory", str(INVENTORY.parent), name_of(host), "--module-name"]
    subprocess.run([*command, "clinicops.orthanc.orthanc_previous", "--args", "step=keep"], check=True)
    assert must(name_of(host), f"ls {KEPT}/previous.json")


def test_there_are_images(host: Host) -> None:
    acknowledged.extend(store(host, COUNT))
    require_images(host, acknowledged)


def test_the_plan_changes_nothing(host: Host) -> None:
    before = describe_server(host)
    status, said = play("upgrade", host, ask_for("1.13.0"), "--tags", "plan")
    assert status == 0, said[-3000:]
    assert f"Installed: {NAME}:1.12.7, Orthanc 1.12.7." in said
    assert f"Offered: {NAME}:1.13.0." in said
    assert "The way back: " in said
    assert "changed=0" in said
    assert describe_server(host) == before
    status, said = play("upgrade", host, {}, "--tags", "plan")
    assert status == 0, said[-3000:]
    assert "there is nothing to upgrade" in said


def test_a_release_that_does_not_open_the_index_is_refused_by_the_trial(host: Host) -> None:
    load(host, "1.13.0")
    make_image(host, "refuses", REFUSES)
    before = describe_server(host)
    with storing(host) as seen:
        status, said = play("upgrade", host, ask_for("refuses"), "--skip-tags", "backup")
    acknowledged.extend(seen["uids"])
    assert status == 2, said[-3000:]
    assert "this build does not open an index that has images" in said
    assert describe_server(host) == before
    assert seen["refused"] == []
    # nor does the switch go on without a trial
    status, said = play("upgrade", host, ask_for("refuses"), "--tags", "switch")
    assert status == 2, said[-3000:]
    assert "The trial has not passed" in said
    assert "The old Orthanc was not touched." in said
    assert describe_server(host) == before
    require_images(host, acknowledged)
    require_one(host)


def test_a_switch_alone_keeps_the_way_back_and_a_wrong_site_of_nginx_does_not_block_it(host: Host) -> None:
    """As after a run that was cut off before the acceptance test. Meanwhile somebody breaks a site of his own."""
    machine, site = name_of(host), "/etc/nginx/conf.d/zz-foreign.conf"
    before, identity = describe_settings(host), inspect(host)["Image"]
    with storing(host) as seen:
        status, said = play("upgrade", host, ask_for("1.13.0"), "--tags", "trial,switch")
        assert status == 0, said[-3000:]
        status, said = play("upgrade", host, ask_for("1.13.0"), "--tags", "settle")
        assert status == 2, said[-3000:]
        assert f"{NAME}:1.13.0 has not passed its acceptance test" in said
        assert read_step(host) == "switched"
        must(machine, f"echo 'server {{ listen 8080; no_directive; }}' > {site}")
        try:
            status, said = play("upgrade", host, ask_for("1.13.0"), "--tags", "back")
        finally:
            must(machine, f"rm {site}")
    acknowledged.extend(seen["uids"])
    assert status == 0, said[-3000:]
    assert "unknown directive " in said, said[-3000:]
    assert read_step(host) == "returned"
    assert "etc" not in must(machine, f"ls {NOTES}").split(), "passwords are in there"
    require_back(host, before, identity)
    must(machine, "nginx -t && systemctl reload nginx")
    require_accepted(host)


def test_a_failing_acceptance_test_goes_back(host: Host) -> None:
    make_image(host, "fails", FAILS)
    keep_previous(host)
    before, identity = describe_settings(host), inspect(host)["Image"]
    with storing(host) as seen:
        status, said = play("upgrade", host, ask_for("fails"))
    acknowledged.extend(seen["uids"])
    assert status == 2, said[-3000:]
    assert "The old Orthanc was brought back with its images of before, and the" in said, said[-3000:]
    assert seen["refused"]
    assert max(seen["refused"]) < LONGEST
    require_back(host, before, identity)
    keep_previous(host)
    status, said = play("deploy", host)
    assert status == 0, said[-3000:]
    require_one(host)  # no later way back can use what was kept
    # in the campaign, the deploy before the way back spelled the path of the archive differently
    status, said = play("deploy", host)
    assert status == 0, said[-3000:]
    assert " changed=0 " in said


class Moment(NamedTuple):
    """A moment of an upgrade: a task has begun, and then this command succeeds on the machine."""

    task: str
    seen: str


BEFORE_SWITCH = [
    Moment("Run orthanc-backup", "pgrep -f '[o]rthanc-backup run'"),
    Moment("Run orthanc-backup", "pgrep -f '[o]rthanc-backup check'"),
    Moment("Try the release on a copy of the index", "docker ps --format '{{.Names}}' | grep orthanc-trial"),
]
SWITCH = [
    Moment("Stop the old Orthanc and keep it", "test -e /var/lib/orthanc/db/.upgrade-index"),
    Moment("Create the Orthanc container", "docker container inspect orthanc"),
    Moment("Test the configuration, and restart", "docker ps --format '{{.Names}}' | grep -x orthanc"),
    Moment("Run the acceptance test with a synthetic patient", "pgrep -f '[o]rthanc-verify run'"),
]
SETTLE = Moment("Remove what the way back needed", f"grep settl {NOTES}/upgrade.json")
BACK = Moment("Bring the old Orthanc back", f"grep returning {NOTES}/upgrade.json")


def cut_off(host: Host, tag: str, moment: Moment, *more: str) -> None:
    """The machine's power goes at this moment of an upgrade, and the controller's with it."""
    running = start("upgrade", host, ask_for(tag), *more)
    said: list[str] = []
    for line in running.stdout or ():
        said.append(line)
        if line.startswith("TASK [") and moment.task in line:
            break
    else:
        raise AssertionError(f"{moment.task}: {''.join(said[-40:])}")
    wait_for(lambda: sh(name_of(host), moment.seen)[0] == 0, moment.seen, pause=0.1)
    power_off(name_of(host))
    subprocess.run(["pkill", "-9", "--parent", str(running.pid)], check=False)
    running.kill()
    running.communicate()


def require_refused(host: Host) -> None:
    """No deploy comes between an upgrade that was cut off and its end."""
    cut = describe_settings(host), must(name_of(host), "docker ps --all --no-trunc --format '{{.ID}} {{.Names}}'")
    status, said = play("deploy", host)
    assert status == 2, said[-3000:]
    assert f"The upgrade of Orthanc is not complete ({read_step(host)})" in said, said[-3000:]
    assert "changed=0" in said
    assert cut == (
        describe_settings(host),
        must(name_of(host), "docker ps --all --no-trunc --format '{{.ID}} {{.Names}}'"),
    )


@pytest.mark.campaign
@pytest.mark.parametrize("moments", [[one] for one in SWITCH] + [[SWITCH[-1], BACK]], ids=lambda found: found[-1].task)
def test_after_a_power_cut_the_old_release_comes_back(host: Host, moments: list[Moment]) -> None:
    before, identity = describe_settings(host), inspect(host)["Image"]
    with storing(host) as seen:
        for moment in moments:
            cut_off(host, "1.13.0", moment, *(["--tags", "back"] if moment is BACK else ["--skip-tags", "backup"]))
        require_refused(host)
        # whatever the inventory names by then
        status, said = play("upgrade", host, {}, "--tags", "back")
    acknowledged.extend(seen["uids"])
    assert status == 0, said[-3000:]
    assert read_step(host) == "returned"
    require_back(host, before, identity)


def test_an_upgrade(host: Host) -> None:
    # as an adoption leaves one, or a person who follows a remedy
    must(name_of(host), f"docker create --name orthanc-before {NAME}:1.12.7")
    with storing(host) as seen:
        status, said = play("upgrade", host, ask_for("1.13.0"))
    acknowledged.extend(seen["uids"])
    must(name_of(host), "docker rm orthanc-before")
    assert status == 0, said[-3000:]
    assert " passed, 0 failed" in said
    assert f"Orthanc 1.12.7 ({NAME}:1.12.7) became 1.13.0 ({NAME}:1.13.0)" in said
    assert len(seen["refused"]) <= 1
    assert max(seen["refused"], default=0) < LONGEST
    print("refused for", seen["refused"], "s")
    require_images(host, acknowledged)
    require_one(host)
    assert host.file("/var/lib/orthanc/db/.orthanc-version").content_string == "1.13.0\n"
    [*_others, record] = json.loads(must(name_of(host), f"cat {NOTES}/history.json"))["upgrades"]
    assert (record["from"]["orthanc"], record["to"]["orthanc"]) == ("1.12.7", "1.13.0")
    status, said = play("deploy", host, ask_for("1.13.0"))
    assert status == 0, said[-3000:]
    assert " changed=0 " in said
    # and an older release is refused, before anything is stopped
    status, said = play("upgrade", host, ask_for("1.12.7"), "--tags", "plan")
    assert status == 2, said[-3000:]
    assert "was opened by Orthanc 1.13.0 or later" in said


@pytest.mark.campaign
def test_the_power_goes_in_each_phase(host: Host) -> None:
    """Each run goes on from where the one before was cut off; the last one completes the upgrade."""
    make_image(host, "again", "pass\n")
    with storing(host) as seen:
        for moment in [*BEFORE_SWITCH, *SWITCH, SETTLE]:
            cut_off(host, "again", moment)
        status, said = play("upgrade", host, ask_for("again"))
    acknowledged.extend(seen["uids"])
    assert status == 0, said[-3000:]
    assert inspect(host)["Config"]["Image"] == f"{NAME}:again"
    assert read_step(host) == "settled"
    print("refused for", seen["refused"], "s")
    require_images(host, acknowledged)
    require_one(host)
