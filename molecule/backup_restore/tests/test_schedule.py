"""When backups run, what they do not tell, and index against files."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from backups import (
    OWN,
    PASSWORD,
    REST,
    STORAGE,
    Attempt,
    attachment,
    backup,
    configured,
    done,
    held,
    lacking,
    must,
    refused,
    state,
    stored,
)
from clients import wait_for
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


# one machine in make test, the other one in the campaign
@pytest.fixture(
    scope="module", params=[testinfra_hosts[0], pytest.param(testinfra_hosts[1], marks=pytest.mark.campaign)]
)
def machine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    done(name, "run")
    return name


def test_cron_and_timers_are_set(machine: str) -> None:
    lines = must(machine, "cat /etc/cron.d/orthanc-backup").splitlines()
    assert any(re.fullmatch(r"[0-9]+ [1-4] \* \* \* root .*/orthanc-backup run .*", line) for line in lines), lines
    assert any("orthanc-backup run --due" in line for line in lines)
    assert must(machine, "systemctl is-active cron").strip() == "active"
    timers = must(machine, "systemctl list-timers --no-legend --plain")
    for unit in ("orthanc-restore-check.timer", "orthanc-ledger.timer"):
        assert unit in timers
        assert must(machine, f"systemctl is-enabled {unit}").strip() == "enabled"
    assert must(machine, "systemctl is-enabled orthanc-restore.service").strip() == "enabled"
    assert re.search(r"Sun .*orthanc-restore-check.timer", timers)


def test_one_backup_a_day_is_enough_and_one_at_a_time(machine: str) -> None:
    first = Attempt(machine, "run")
    wait_for(lambda: state(machine, "backup")["result"] == "running", "a backup")
    assert "is running" in refused(machine, "run")
    assert "is running" in refused(machine, "restore")
    assert first.end()[0] == 0
    before = state(machine, "backup")
    assert done(machine, "run", "--due") == {"result": "not due"}
    assert state(machine, "backup") == before
    old = {**before, "last_success_epoch": int(time.time()) - 20 * 3600 - 1}
    must(machine, f"cat > {OWN}/backup.json", json.dumps(old).encode())
    assert done(machine, "run", "--due")["result"] == "success"


def test_the_password_is_nowhere(machine: str) -> None:
    secrets = [PASSWORD, REST["RESTIC_REST_PASSWORD"]]
    attempt, seen = Attempt(machine, "check"), ""
    while attempt.process.poll() is None:
        seen += must(machine, "ps -eww -o args")
    assert attempt.end()[0] == 0
    assert "restic" in seen
    done(machine, "run")
    must(machine, "systemctl start orthanc-ledger.service")
    seen += must(machine, "journalctl --no-pager -o json --all; crontab -l 2>&1 || true; cat /etc/cron*/* /etc/crontab")
    seen += must(machine, "systemctl cat orthanc-ledger orthanc-restore-check")
    readable = "find /etc /usr/local /var/lib /var/log /var/spool /opt /srv /home /run /tmp -xdev"
    readable += " -path /var/lib/docker -prune -o -path '/var/lib/orthanc/db/??' -prune -o -type f -perm /o=r"
    for secret in secrets:
        assert secret not in seen
        files = must(machine, f"{readable} -exec grep -slF -e {secret} {{}} + || true").split()
        assert files == []
    # the search finds what is there
    assert "/etc/orthanc-backup.password" in must(machine, f"grep -rlF -e {PASSWORD} /etc")


@pytest.mark.parametrize("name", testinfra_hosts)
def test_a_deploy_does_not_log_what_it_writes(name: str) -> None:
    journal = must(name, "journalctl --no-pager -o json --all")
    assert "ansible" in journal  # the modules' own lines are there
    for secret in (PASSWORD, REST["RESTIC_REST_PASSWORD"], "PRIVATE KEY"):
        assert secret not in journal


def test_a_repository_on_the_disk_of_the_images_is_warned_of(machine: str) -> None:
    own = "/var/lib/orthanc-backup-near"
    config = configured(machine, repository="/var/lib/orthanc/near", directory=own)
    [warning] = done(machine, "init", config=config)["warnings"]
    assert "is on the disk that holds the images" in warning
    assert "Remedy: " in warning
    must(machine, f"rm -rf /var/lib/orthanc/near {own}")
    assert done(machine, "init")["warnings"] == []


def test_reconcile_tells_and_repairs_only_when_asked(machine: str) -> None:
    images = stored(machine, 2)
    done(machine, "run")
    missing, truncated, altered, whole = (attachment(machine, images[number].uid) for number in range(4))
    short = {path: path.removeprefix(f"{STORAGE}/") for path in (missing, truncated, altered, whole)}
    orphan, noise = (f"00/00/0000{number}000-0000-4000-8000-000000000000" for number in (1, 2))
    must(machine, f"install -d -o orthanc -g orthanc {STORAGE}/00 {STORAGE}/00/00")
    # an image that the index has lost: Orthanc is given the file of another one under another UID
    uid = images[3].uid
    other = uid[:-4] + f"{(int(uid[-4:]) + 1) % 10000:04}"
    swap = "import sys; d = open(sys.argv[1], 'rb').read(); "
    swap += "open(sys.argv[2], 'wb').write(d.replace(sys.argv[3].encode(), sys.argv[4].encode()))"
    must(machine, f'python3 -c "{swap}" {whole} {STORAGE}/{orphan} {uid} {other}')
    must(machine, f"head -c 1000 /dev/urandom > {STORAGE}/{noise}")
    must(machine, f"chown orthanc: {STORAGE}/{orphan} {STORAGE}/{noise}")
    must(machine, f"touch -d '1 hour ago' {STORAGE}/{orphan} {STORAGE}/{noise}")
    must(
        machine, f"rm {missing}; truncate --size=-100 {truncated}; echo x | dd of={altered} bs=1 seek=5000 conv=notrunc"
    )
    files = must(machine, f"find {STORAGE}/?? -type f -printf '%p %s %T@\\n' | sort")

    status, said = backup(machine, "reconcile")

    assert status == 1
    assert (said["missing"], said["truncated"], said["altered"]) == (
        [short[missing]],
        [short[truncated]],
        [short[altered]],
    )
    assert sorted(said["orphaned"]) == [orphan, noise]
    assert must(machine, f"find {STORAGE}/?? -type f -printf '%p %s %T@\\n' | sort") == files

    status, said = backup(machine, "reconcile", "--repair")
    repaired = said["repaired"]
    assert repaired[orphan.rpartition("/")[2]] == "imported"
    # what is not an image is told, and stays
    assert (status, said["left"]) == (1, [noise])
    assert "not an image" in said["unresolved"][noise.rpartition("/")[2]]
    must(machine, f"rm {STORAGE}/{noise}")
    assert len([how for how in repaired.values() if how.startswith("from snapshot")]) == 3
    now = held(machine)
    assert lacking(now, images) == []
    assert other in now
    assert done(machine, "reconcile")["left"] == []
    must(machine, f"rm -rf {STORAGE}/.quarantine-*")


def test_the_ledger_is_in_the_journal(machine: str) -> None:
    images = stored(machine, 1)
    must(machine, "systemctl start orthanc-ledger.service")
    journal = must(machine, "journalctl --no-pager -o cat -u orthanc-ledger.service")
    for image in images:
        assert f"received study {image.study} ({image.accession}) from {image.aet}" in journal
    assert state(machine, "ledger")["unsent_since"] == 0
