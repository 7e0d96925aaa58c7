"""A deploy takes the servers over: nothing is missing, however it is cut off, and a failure brings the old one back."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from adopted import DEVICE, adopt, ask_archive, connect
from backups import PASSWORD as BACKUP_PASSWORD
from backups import must, power_off
from clients import PASSWORDS, ROOT, client, name_of, wait_for
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
BEFORE = "/etc/orthanc/site/before"
IT = f"it:{PASSWORDS['it']}"
DECIDED = {
    "orthanc_hostname": "pacs.clinic.example",
    "orthanc_https_sources": ["198.51.100.64/26"],
    "orthanc_modalities": [
        {"name": "us1", "aet": "US1", "host": "198.51.100.11", "port": 104, "may": ["echo", "store", "find_worklist"]}
    ],
    "orthanc_users": [{"name": "it", "role": "admin", "password": PASSWORDS["it"]}],
    "orthanc_backup_repository": "/srv/repository",
    "orthanc_backup_password": BACKUP_PASSWORD,
}
# the image is on the machine, and the archive moves
MOVED = {"orthanc_storage_dir": "/var/lib/orthanc/db", "orthanc_install_docker_image": "clinic/orthanc:carried"}
# The acceptance test fails, and nothing else does. A deploy that installs nftables flushes all tables once.
TABLE = (
    "add table inet sabotage; add chain inet sabotage out { type filter hook output priority 0; };"
    " add rule inet sabotage out tcp dport 443 reject with tcp reset"
)
SABOTAGE = "systemctl is-active --quiet sabotage || systemd-run --quiet --unit sabotage sh -c " + shlex.quote(
    f"while sleep 0.2; do nft list table inet sabotage || nft '{TABLE}'; done >/dev/null 2>&1"
)
NO_SABOTAGE = "systemctl stop sabotage; nft delete table inet sabotage || true"
MOMENTS = (1, 130)  # tasks of a deploy
SEED = 23


class Clinic:
    """The inventory that the reader wrote for a machine, and deploys with it."""

    def __init__(self, machine: str, directory: Path) -> None:
        self.machine, self.directory = machine, directory
        status, said = adopt(machine, directory, settings=DECIDED)
        assert status == 0, said
        more = MOVED if machine == "orthanc-adoptc" else {}
        report = {"orthanc_verify_report_directory": str(directory / "reports")}
        (directory / "more.json").write_text(json.dumps({**DECIDED, **more, **report}))
        # not of localhost, which some tasks are delegated to
        (directory / "inventory/group_vars/orthanc/connection.yml").write_text(json.dumps(connect(machine)))

    def start(self, *options: str) -> subprocess.Popen[str]:
        """A deploy, still running."""
        return subprocess.Popen(
            ["ansible-playbook", "-i", "inventory", "-e", "@more.json", *options, "clinicops.orthanc.deploy"],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
                "ANSIBLE_NOCOLOR": "true",
                "ANSIBLE_FORCE_COLOR": "false",
                "ANSIBLE_PIPELINING": "true",
                "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            },
        )

    def deploy(self, *options: str) -> tuple[int, str]:
        """Exit code and output, each run of white space one space."""
        running = self.start(*options)
        said, _none = running.communicate()
        return running.returncode, " ".join(said.split())

    def cut_off(self, moment: int, power: bool) -> None:
        """Kills the controller when so many tasks have begun, or switches the machine off. It may have ended before."""
        running = self.start()
        assert running.stdout
        for line in running.stdout:
            moment -= line.startswith("TASK [")
            if not moment:
                break
        if power:
            power_off(self.machine)
        subprocess.run(["pkill", "-9", "--parent", str(running.pid)], check=False)
        running.kill()
        running.wait()


def describe_old(machine: str) -> str:
    """What the old server is made of: its files with modes and owners, how it starts, its sites, who reaches it."""
    files = "find /etc/orthanc /etc/nginx/sites-enabled/clinic /etc/systemd/system/orthanc* /orthanc/config"
    skip = "-path /etc/orthanc/site -prune -o"
    listed = f"{files} {skip} -type f -exec sha256sum {{}} + ; {files} {skip} -printf '%m %U:%G %l %p\\n'"
    owners = "find /var/lib/orthanc/db* /orthanc/db -path '*-*-*-*-*' -printf '%m %U:%G %p\\n'"
    units = "systemctl is-enabled orthanc; systemctl is-active orthanc; systemctl show -p FragmentPath orthanc"
    boxes = "docker ps --all --format '{{.Names}} {{.Image}}'"
    boxes += "; docker inspect -f '{{.HostConfig.RestartPolicy}}' $(docker ps -aq)"
    tables = "nft list tables | grep -v sabotage; ls /etc/cron.d; ls /etc/nginx/conf.d"
    return must(machine, f"({listed}; {owners}; {units}; {boxes}; {tables}) 2>/dev/null | sort; true")


def read_old(machine: str) -> dict[str, Any]:
    """What the old Orthanc has, as soon as it answers."""
    wait_for(lambda: must(machine, "ss -Hltn 'sport = 8042'"), "the old Orthanc")
    return without_ids(ask_archive(machine))


def without_ids(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("images", "patients", "studies")}


def was_there(machine: str) -> dict[str, Any]:
    """What the server had when it was filled."""
    directory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parents[1]
    found: dict[str, Any] = json.loads((directory / "adopt.json").read_text())[machine]
    return without_ids(found)


def open_firewall(machine: str) -> None:
    """What the deploy asks for where ufw lets no office in."""
    if machine == "orthanc-adopt13":
        must(machine, "ufw allow proto tcp from 198.51.100.64/26 to any port 443")


def require_adopted(machine: str) -> None:
    """Nothing is missing, and what ended is kept."""
    assert without_ids(ask_archive(machine, user=IT)) == was_there(machine)
    assert json.loads(must(machine, f"cat {BEFORE}/adoption.json"))["step"] == "adopted"
    assert must(machine, f"stat -c '%a %U' {BEFORE}").split() == ["700", "root"]
    storage = "/var/lib/orthanc/db*"
    assert must(machine, f"find {storage} ! -user orthanc ! -name '.orthanc-*'") == ""
    if machine == "orthanc-adoptc":
        boxes = must(machine, "docker ps --all --format '{{.Names}} {{.State}}'").splitlines()
        assert sorted(line.split()[1] for line in boxes) == ["exited", "running"]
        assert "orthanc running" in boxes
        name = next(line.split()[0] for line in boxes if line.endswith("exited"))
        assert must(machine, f"docker inspect -f '{{{{.HostConfig.RestartPolicy.Name}}}}' {name}").strip() == "no"
        assert int(must(machine, "find /orthanc/db -path '*-*-*-*-*' | wc -l")) >= len(was_there(machine)["images"])
    else:
        assert must(machine, "dpkg --verify orthanc orthanc-dicomweb") == ""
        assert must(machine, f"ls {BEFORE}/etc/orthanc/orthanc.json")
    if machine == "orthanc-adopt13":
        assert must(machine, "ls /etc/nginx/sites-enabled") == ""
        assert "8443" in must(machine, f"cat {BEFORE}/etc/nginx/sites-enabled/clinic")


def require_brought_back(clinic: Clinic, old: str) -> None:
    """A deploy with the sabotage fails and says so, and the old server is as it was."""
    status, said = clinic.deploy()
    assert status != 0, said[-3000:]
    assert "The old Orthanc was brought back, and runs as before." in said, said[-3000:]
    assert read_old(clinic.machine) == was_there(clinic.machine)
    assert describe_old(clinic.machine) == old


def test_a_deploy_takes_the_server_over(host: Host, tmp_path: Path) -> None:
    machine = name_of(host)
    open_firewall(machine)
    clinic = Clinic(machine, tmp_path)
    old = describe_old(machine)
    status, said = clinic.deploy("--check")
    assert status == 0, said[-3000:]
    assert describe_old(machine) == old
    chosen = random.Random(f"{SEED} {machine}")
    if machine == "orthanc-adopt13":
        must(machine, SABOTAGE)
        require_brought_back(clinic, old)
        must(machine, NO_SABOTAGE)
    else:
        clinic.cut_off(chosen.randint(*MOMENTS), power=machine == "orthanc-adoptc")
    status, said = clinic.deploy()
    assert status == 0, said[-3000:]
    assert " passed, 0 failed" in said
    require_adopted(machine)
    sent = client(DEVICE, "echoscu", "-aet", "US1", "-aec", "ORTHANC", *shlex.split(address_of(machine)))
    assert sent.returncode == 0
    status, said = clinic.deploy()
    assert status == 0, said[-3000:]
    changed = re.findall(r"TASK \[([^]]*)\] \*+ changed: ", said)
    assert changed == []
    assert " changed=0 " in said
    snapshots = must(
        machine, "RESTIC_PASSWORD_FILE=/etc/orthanc-backup.password restic -r /srv/repository snapshots --no-lock"
    )
    assert "before-adoption" in snapshots


def address_of(machine: str) -> str:
    return must(machine, "ip -4 -o addr show to 198.51.100.0/26 | awk '{print $4}'").partition("/")[0] + " 4242"


@pytest.mark.campaign
def test_it_may_be_cut_off_at_any_moment(host: Host, tmp_path: Path) -> None:
    """With the acceptance test failing, so that each time the old server comes back, and is taken over again."""
    machine = name_of(host)
    open_firewall(machine)
    clinic = Clinic(machine, tmp_path)
    old = describe_old(machine)
    chosen = random.Random(f"{SEED} campaign {machine}")
    must(machine, SABOTAGE)
    for number in range(20):
        clinic.cut_off(chosen.randint(*MOMENTS), power=chosen.random() < 0.5)
        must(machine, SABOTAGE)  # the power may have been off
        if number % 4 == 3:
            require_brought_back(clinic, old)
    must(machine, NO_SABOTAGE)
    status, said = clinic.deploy()
    assert status == 0, said[-3000:]
    require_adopted(machine)
