"""A deploy takes the servers over: nothing is missing, however it is cut off, and a failure brings the old one back."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from adopted import DEVICE, adopt, ask_archive, connect, store_one
from backups import PASSWORD as BACKUP_PASSWORD
from backups import must, power_off
from clients import ADDRESSES, PASSWORDS, build_environment, client, scu, wait_for
from testinfra.utils.ansible_runner import AnsibleRunner

MACHINES = FIRST, *OTHERS = sorted(AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc"))
BEFORE = "/etc/orthanc/site/before"
IT = f"it:{PASSWORDS['it']}"
DECIDED: dict[str, Any] = {
    "orthanc_https_sources": ["198.51.100.64/26"],
    "orthanc_modalities": [
        {"name": "us1", "aet": "US1", "host": "198.51.100.11", "port": 104, "may": ["echo", "store", "find_worklist"]}
    ],
    "orthanc_users": [{"name": "it", "role": "admin", "password": PASSWORDS["it"]}],
    "orthanc_backup_repository": "/srv/repository",
    "orthanc_backup_password": BACKUP_PASSWORD,
}
# The image is on the machine, and the archive moves.
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
# A handler fails: the reload of nginx, as long as there is a deploy's site.
OWN_SITE, BROKEN_SITE = "/etc/nginx/conf.d/orthanc.conf", "/etc/nginx/conf.d/broken.conf"
BREAK_HANDLER = "systemd-run --quiet --unit broken sh -c " + shlex.quote(
    f"while sleep 0.05; do if test -e {OWN_SITE}; then echo x > {BROKEN_SITE}; else rm -f {BROKEN_SITE}; fi; done"
)
MEND_HANDLER = f"systemctl stop broken; rm -f {BROKEN_SITE}"
ACCEPTANCE = "TASK [Run the acceptance test]"
WAY_BACK = "Adoption: Bring the old Orthanc back"
# Orthanc's configuration, the firewall and the proxy: the device is let read, also for a page of that origin.
ORIGIN = "https://viewer.clinic.example"
CHANGE: dict[str, Any] = {
    "orthanc_aet": "RENAMED",
    "orthanc_https_sources": [*DECIDED["orthanc_https_sources"], "198.51.100.11/32"],
    "orthanc_proxy_allowed_origins": [ORIGIN],
}
TASKS = 205  # of a deploy that adopts
CUTS = 7  # of each of three machines
SEED = 23


def start(directory: Path, *options: str, playbook: str = "deploy") -> subprocess.Popen[str]:
    """A playbook on the inventory in this directory, still running."""
    return subprocess.Popen(
        ["ansible-playbook", "-i", "inventory", *options, f"clinicops.orthanc.{playbook}"],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=build_environment(ANSIBLE_PIPELINING="true"),
    )


def play(directory: Path, *options: str, playbook: str = "deploy") -> tuple[int, str]:
    """Exit code and output, each run of white space one space."""
    running = start(directory, *options, playbook=playbook)
    said, _none = running.communicate()
    return running.returncode, " ".join(said.split())


class Clinic:
    """The inventory that the reader wrote for a machine, and deploys with it."""

    def __init__(self, machine: str, directory: Path) -> None:
        self.machine, self.directory = machine, directory
        self.name = f"{machine}.clinic.example"  # in the inventory
        self.settings = directory / "inventory/group_vars/orthanc"
        self.sent: list[str] = []  # UIDs of images that came during a deploy
        self.old = describe_old(machine)
        status, said = adopt(machine, directory, settings={**DECIDED, "orthanc_hostname": self.name})
        assert status == 0, said
        more = MOVED if machine == "orthanc-adoptc" else {}
        written = {
            "orthanc_verify_report_directory": str(directory / "reports"),
            "orthanc_proxy_ca_directory": str(directory / "ca"),
        }
        # Of these files the last one counts. Not of localhost, which some tasks are delegated to.
        last = self.settings / "written.json"
        last.write_text(json.dumps({**DECIDED, **more, **written, **connect(machine)}))

    def deploy(self, *options: str) -> tuple[int, str]:
        """Exit code and output."""
        return play(self.directory, *options)

    def deploy_while_a_device_stores(self) -> tuple[int, str]:
        """The same; the device stores an image when the new Orthanc runs and the acceptance test begins."""
        running, lines = start(self.directory), []
        assert running.stdout
        for line in running.stdout:
            lines.append(line)
            if line.startswith(ACCEPTANCE):
                self.sent.append(store_one(self.machine))
        return running.wait(), " ".join("".join(lines).split())

    def cut_off(self, chosen: random.Random, power: bool, task: str = "") -> str:
        """Kills the controller in a random task or in this one, or switches the machine off.

        Returns the task, and its number."""
        running, last, count = start(self.directory), "", 0
        moment = chosen.randint(1, TASKS)
        assert running.stdout
        for line in running.stdout:
            if line.startswith("TASK ["):
                count, last = count + 1, line.split("]")[0].removeprefix("TASK [")
            if (task in last) if task else count == moment:
                break
        time.sleep(chosen.uniform(0, 2))  # somewhere in it
        if power:
            power_off(self.machine)
        subprocess.run(["pkill", "-9", "--parent", str(running.pid)], check=False)
        running.kill()
        running.wait()
        return f"{last} ({count})"


def describe_old(machine: str) -> str:
    """What the old server is made of: its files with modes and owners, how it starts, its sites, who reaches it."""
    files = "find /etc/orthanc /etc/nginx/sites-enabled/clinic /etc/systemd/system/orthanc* /orthanc/config"
    skip = "-path /etc/orthanc/site -prune -o"
    listed = f"{files} {skip} -type f -exec sha256sum {{}} + ; {files} {skip} -printf '%m %U:%G %l %p\\n'"
    images = "/orthanc/db" if machine == "orthanc-adoptc" else "/var/lib/orthanc/db*"
    owners = f"find {images} -path '*-*-*-*-*' -printf '%m %U:%G %p\\n'"
    owners += "; stat -c '%a %U:%G %n' /var/lib/orthanc/index /var/lib/orthanc/index/index"
    units = "systemctl is-enabled orthanc; systemctl is-active orthanc; systemctl show -p FragmentPath orthanc"
    boxes = "docker ps --all --format '{{.Names}} {{.Image}}'"
    boxes += "; docker inspect -f '{{.HostConfig.RestartPolicy}}' $(docker ps -aq)"
    tables = "nft list tables | grep -v sabotage; ls /etc/cron.d; ls /etc/nginx/conf.d"
    return must(machine, f"({listed}; {owners}; {units}; {boxes}; {tables}) 2>/dev/null | sort; true")


def require_as_before(clinic: Clinic) -> None:
    """The old server is as it was; more images may have come."""
    before, now = set(clinic.old.splitlines()), set(describe_old(clinic.machine).splitlines())
    assert before - now == set()
    # and the directory in which an adoption keeps its notes
    more = re.compile(r"/(\w\w/){2}[0-9a-f-]{36}$|755 0:0  /etc/orthanc$")
    assert [line for line in now - before if not more.search(line)] == []


def read_old(clinic: Clinic) -> dict[str, Any]:
    """What the old Orthanc has, as soon as it answers; without what came since it was filled, which must be there."""
    wait_for(lambda: must(clinic.machine, "ss -Hltn 'sport = 8042'"), "the old Orthanc")
    return without_sent(clinic, ask_archive(clinic.machine))


def without_sent(clinic: Clinic, found: dict[str, Any]) -> dict[str, Any]:
    assert [uid for uid in clinic.sent if uid not in found["images"]] == []
    images = {uid: digest for uid, digest in found["images"].items() if uid not in clinic.sent}
    return without_ids({**found, "images": images})


def without_ids(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("images", "patients", "studies")}


def was_there(machine: str) -> dict[str, Any]:
    """What the server had when it was filled."""
    directory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parents[1]
    found: dict[str, Any] = json.loads((directory / "adopt.json").read_text())[machine]
    return without_ids(found)


def open_firewall(machine: str) -> None:
    """What the deploy asks for where ufw lets nobody read."""
    for source in CHANGE["orthanc_https_sources"] if machine == "orthanc-adopt13" else ():
        must(machine, f"ufw allow proto tcp from {source} to any port 443")


def require_adopted(clinic: Clinic) -> None:
    """Nothing is missing, and what ended is kept."""
    machine = clinic.machine
    assert without_sent(clinic, ask_archive(machine, user=IT)) == was_there(machine)
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
        # the index was in a directory of its own, and is beside the images now
        assert must(machine, "ls /var/lib/orthanc/index/index /var/lib/orthanc/db-v6/index").split()
    listed = "RESTIC_PASSWORD_FILE=/etc/orthanc-backup.password restic -r /srv/repository snapshots --no-lock"
    assert "before-adoption" in must(machine, listed)


def require_brought_back(clinic: Clinic, because: str = "acceptance test") -> None:
    """A deploy with the sabotage fails and says so, and the old server is as it was, with the image that came."""
    before = len(clinic.sent)
    status, said = clinic.deploy_while_a_device_stores()
    assert status != 0, said[-3000:]
    assert "The old Orthanc was brought back, and runs as before." in said, said[-3000:]
    assert because in said, said[-3000:]
    sent = len(clinic.sent) - before
    # where the index stayed, the image is in it
    own_index = clinic.machine != "orthanc-adopt12"
    submitted = f"{sent} image(s) that came meanwhile were submitted to it" in said
    assert submitted == bool(sent and own_index), said[-3000:]
    assert "/etc/orthanc/site/before/arrived" not in said, said[-3000:]
    assert read_old(clinic) == was_there(clinic.machine)
    require_as_before(clinic)


def require_taken_over(clinic: Clinic) -> None:
    """A deploy adopts the server: the device reaches it, a second deploy changes nothing, and there is a backup."""
    status, said = clinic.deploy()
    assert status == 0, said[-3000:]
    assert " passed, 0 failed" in said
    require_adopted(clinic)
    assert reaches(clinic.machine, "ORTHANC")
    require_unchanged(clinic.directory, clinic)


def require_unchanged(directory: Path, *clinics: Clinic, options: tuple[str, ...] = ()) -> None:
    """Another deploy changes nothing."""
    status, said = play(directory, *options)
    assert status == 0, said[-3000:]
    assert re.findall(r"TASK \[([^]]*)\] \*+ changed: ", said) == []
    recap = said.split("PLAY RECAP")[1]
    assert [one.name for one in clinics if not re.search(rf"{one.name} : ok=\d+ changed=0 ", recap)] == [], recap


def require_readable(machine: str, directory: Path) -> None:
    """The server that came back can be read again; the password of the backup is asked for, since there is one."""
    again = Path(tempfile.mkdtemp(dir=directory))
    decided = {name: value for name, value in DECIDED.items() if name != "orthanc_backup_password"}
    status, said = adopt(machine, again, settings={**decided, "orthanc_hostname": "pacs.clinic.example"})
    assert status == 0, said
    assert "orthanc_backup_password: A deploy has begun to adopt this server" in said


def reaches(machine: str, called: str) -> bool:
    """Whether the device reaches Orthanc by this AE title."""
    return scu(DEVICE, "echoscu", "US1", ADDRESSES[machine][0], called=called)[0] == 0


def is_changed(clinic: Clinic) -> bool:
    """Whether the device sees each part of the change."""
    url = f"https://{clinic.name}/dicom-web/studies"
    at = f"{clinic.name}:443:{ADDRESSES[clinic.machine][0]}"
    options = ["--silent", "--insecure", "--max-time", "5", "--resolve", at, "--user", IT]
    options += ["--header", f"Origin: {ORIGIN}", "--output", "/dev/null", "--dump-header", "-"]
    answer = client(DEVICE, "curl", *options, url).stdout.decode()
    seen = {
        reaches(clinic.machine, "RENAMED"),
        not reaches(clinic.machine, "ORTHANC"),
        f"access-control-allow-origin: {ORIGIN}" in answer.lower(),
    }
    assert len(seen) == 1, answer
    return seen.pop()


@pytest.fixture(scope="module")
def clinics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clinic]:
    """Each server as it is read before a deploy, by its machine."""
    return {machine: Clinic(machine, tmp_path_factory.mktemp(machine)) for machine in MACHINES}


def require_check_mode(clinic: Clinic) -> None:
    """It succeeds, and changes nothing."""
    open_firewall(clinic.machine)
    status, said = clinic.deploy("--check")
    assert status == 0, said[-3000:]
    require_as_before(clinic)


@pytest.mark.parametrize("machine", OTHERS)
def test_a_deploy_takes_the_server_over(clinics: dict[str, Clinic], machine: str) -> None:
    clinic = clinics[machine]
    require_check_mode(clinic)
    if machine == "orthanc-adopt13":
        must(machine, SABOTAGE)
        require_brought_back(clinic)
        must(machine, NO_SABOTAGE)
    else:
        clinic.cut_off(random.Random(f"{SEED} {machine}"), power=True)
    require_taken_over(clinic)


def write_inventory(clinics: dict[str, Clinic], directory: Path) -> None:
    """One inventory of all servers, each with the settings that it had in its own."""
    for clinic in clinics.values():
        shutil.copytree(clinic.settings, directory / "inventory/host_vars" / clinic.name)
    hosts: dict[str, dict[str, str]] = {clinic.name: {} for clinic in clinics.values()}
    (directory / "inventory/hosts.yml").write_text(json.dumps({"orthanc": {"hosts": hosts}}))


def test_one_batch_adopts_a_server_and_changes_the_others(clinics: dict[str, Clinic], tmp_path: Path) -> None:
    """The first one of the inventory is adopted with the change, after a deploy of it was cut off."""
    first = clinics[FIRST]
    require_check_mode(first)
    first.cut_off(random.Random(f"{SEED} {FIRST}"), power=False)
    assert not any(is_changed(clinics[machine]) for machine in OTHERS)
    write_inventory(clinics, tmp_path)
    options = ("-e", json.dumps({"orthanc_rollout": ["100%"], **CHANGE}))
    status, said = play(tmp_path, *options)
    assert status == 0, said[-3000:]
    assert said.count("PLAY [Deploy Orthanc for a clinic]") == 1
    assert said.count("The old Orthanc is adopted.") == 1
    for clinic in clinics.values():
        assert is_changed(clinic)
        require_adopted(clinic)
    require_unchanged(tmp_path, *clinics.values(), options=options)


@pytest.mark.campaign
def test_it_may_be_cut_off_at_any_moment(clinics: dict[str, Clinic]) -> None:
    """All machines side by side, since each waits for most of its time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(cut_off_often, clinics.values()))


def cut_off_often(clinic: Clinic) -> None:
    """The acceptance test fails, or a handler, so that the old server comes back: one machine serves all cuts. Of
    three cuts one is in the way back itself. In the end the server is taken over."""
    machine = clinic.machine
    open_firewall(machine)
    chosen = random.Random(f"{SEED} campaign {machine}")
    must(machine, SABOTAGE)
    for number in range(1, CUTS + 1):
        begin, power = time.monotonic(), chosen.random() < 0.5
        task = clinic.cut_off(chosen, power, WAY_BACK if number % 3 == 2 else "")
        how = "power" if power else "controller"
        print(f"{machine} {number}: {how}, {task} ({time.monotonic() - begin:.0f} s)", flush=True)
        must(machine, SABOTAGE)  # the power may have been off
        if number % 3 == 0:
            require_brought_back(clinic)
            print(f"{machine} {number}: back ({time.monotonic() - begin:.0f} s)", flush=True)
            require_readable(machine, clinic.directory)
    if machine == "orthanc-adopt13":  # nginx runs there before
        must(machine, BREAK_HANDLER)
        require_brought_back(clinic, because="Test nginx's configuration")
        must(machine, MEND_HANDLER)
    must(machine, NO_SABOTAGE)
    require_taken_over(clinic)
    print(f"{machine}: taken over", flush=True)


@pytest.mark.campaign
def test_an_uninstall_offers_the_old_container_back(clinics: dict[str, Clinic]) -> None:
    """The commands that it prints start the container that was adopted by the test before, as it was."""
    clinic = clinics["orthanc-adoptc"]
    confirmed = json.dumps({"orthanc_install_confirm_uninstall": clinic.name})
    status, said = play(clinic.directory, "-e", confirmed, playbook="uninstall")
    assert status == 0, said[-3000:]
    # before it begins and at its end
    commands = re.findall(r"Of before the adoption: [^:]*: (docker [^'\"]*)", said)
    assert commands == 2 * commands[:2], said[-3000:]
    assert "has an index of its own in /orthanc/db, without what came since the adoption" in said
    for command in commands[:2]:
        must(clinic.machine, command)
    assert read_old(clinic) == was_there(clinic.machine)
    require_as_before(clinic)
