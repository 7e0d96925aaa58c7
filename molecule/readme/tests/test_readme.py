"""A person who has the README and nothing else: from an empty directory to a clinic's server that passed its test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backups import must
from clients import ADDRESSES, HOSTNAME, ROOT, name_of
from terminals import Terminal
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
PERSON, SUDO, VAULT = "anna", "the-password-of-anna", "the-vault-s-own-password"
FROM_GALAXY = "ansible-galaxy collection install clinicops.orthanc"
DEPENDENCIES = ("crypto", "docker", "library_inventory_filtering_v1")
ANSWERS = {
    "Directory for the inventory [inventory]:": "",
    "Address or host name": "",  # the machine's
    "User on the server": PERSON,
    "[package]:": "",
    "Name of the server": HOSTNAME,
    "Name of the next DICOM device": "us1",
    "AE title of this device": "US1",
    "IP address of this device": "198.51.100.21",
    "DICOM port of this device [104]:": "",
    "What this device may do": "",
    "none ends the list": "",
    "from which users and systems read over HTTPS": "198.51.100.64/26",
    "administrators' computers": "198.51.100.90",
    "Users, each with a role": "",
    "Where backups go": "none",
}


def read_commands() -> list[str]:
    """The README's commands for deploying a clinic, as they are written."""
    part = (ROOT / "README.md").read_text().partition("## Deploy a clinic\n")[2].partition("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", part, re.DOTALL)


def build_collection(directory: Path) -> Path:
    """The collection as Galaxy gets it."""
    galaxy = [sys.executable, "-m", "ansible", "galaxy"]
    build = [*galaxy, "collection", "build", "--output-path", str(directory), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [built] = directory.glob("clinicops-orthanc-*.tar.gz")
    return built


class Person:
    """Types commands into a shell whose home and directory are new, and who reaches the machine by SSH."""

    def __init__(self, directory: Path, machine: str) -> None:
        self.directory, self.address = directory / "clinic", ADDRESSES[machine][0]
        self.home = directory / "home"
        for one in (self.directory, self.home):
            one.mkdir()
        others = re.compile("ANSIBLE|MOLECULE|PYTHON|VIRTUAL")
        kept = {name: value for name, value in os.environ.items() if not others.match(name)}
        path = f"{self.directory}/ansible/bin:{os.defpath}"
        # ssh asks the system for the home, so that its own configuration must be named
        self.environment = {**kept, "HOME": str(self.home), "PATH": path, "COLUMNS": "120", "ANSIBLE_NOCOLOR": "1"}
        self.environment["ANSIBLE_SSH_COMMON_ARGS"] = f"-F {self.get_access(machine)}"
        self.terminals: list[Terminal] = []

    def get_access(self, machine: str) -> Path:
        """Writes an SSH configuration with a key that the machine knows, and the machine's own."""
        ssh = self.home / ".ssh"
        ssh.mkdir(mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "id"], check=True)
        account = f"useradd --create-home --shell /bin/bash --groups sudo {PERSON} && chpasswd"
        must(machine, account, f"{PERSON}:{SUDO}\n".encode())
        keys = f"install -d -m 700 -o {PERSON} ~{PERSON}/.ssh && install -m 600 -o {PERSON} /dev/stdin"
        must(machine, f"{keys} ~{PERSON}/.ssh/authorized_keys", (ssh / "id.pub").read_bytes())
        must(machine, "systemctl start ssh")
        (ssh / "known_hosts").write_text(f"{self.address} {must(machine, 'cat /etc/ssh/ssh_host_ed25519_key.pub')}")
        config = ssh / "config"
        config.write_text(f"Host *\n  IdentityFile {ssh}/id\n  UserKnownHostsFile {ssh}/known_hosts\n")
        return config

    def type(self, command: str) -> Terminal:
        self.terminals.append(Terminal(self.directory, self.environment, "bash", "-ec", command))
        return self.terminals[-1]


@pytest.fixture
def person(host: Host, tmp_path: Path) -> Iterator[Person]:
    one = Person(tmp_path, name_of(host))
    yield one
    for terminal in one.terminals:
        terminal.close()


def test_the_readme_leads_to_a_server_that_passed_its_test(person: Person, tmp_path: Path) -> None:
    install, init, deploy = read_commands()
    assert FROM_GALAXY in install
    # Galaxy has what was built here, and what PyPI's package `ansible` has of the others
    ours = f"ansible-galaxy collection install --no-deps {build_collection(tmp_path)}"
    collections = Path(sysconfig.get_path("purelib")) / "ansible_collections" / "community"
    for name in DEPENDENCIES:
        shutil.copytree(collections / name, person.home / ".ansible/collections/ansible_collections/community" / name)

    begin = time.monotonic()
    status, said = person.type(install.replace(FROM_GALAXY, ours)).end(600)
    assert status == 0, said

    terminal = person.type(init)
    terminal.answer("Vault password:", VAULT)
    terminal.answer("The same vault password once more:", VAULT)
    for question, text in ANSWERS.items():
        terminal.answer(question, text or (person.address if question.startswith("Address") else ""))
    status, said = terminal.end()
    assert status == 0, said
    assert deploy.strip() in said  # the next command, as the README has it

    # sudo asks for a password on this machine, and nothing tells Ansible to pipeline
    asking = f"{deploy.strip()} --ask-become-pass"
    terminal = person.type(asking)
    terminal.answer("BECOME password:", SUDO)
    terminal.answer("Vault password:", VAULT)
    status, said = terminal.end(1200)
    assert status == 0, said[-4000:]
    assert re.search(r"\d+ passed, 0 failed", said), said[-4000:]
    print(f"from an empty directory to a passed acceptance test: {time.monotonic() - begin:.0f} s")

    # modules go to the server over the connection that is there, not as files before each task
    terminal = person.type(f"{asking} -vvv")
    terminal.answer("BECOME password:", SUDO)
    terminal.answer("Vault password:", VAULT)
    status, said = terminal.end(1200)
    assert status == 0, said[-4000:]
    assert re.search(r"changed=0 .*failed=0", said), said[-4000:]
    assert "EXEC ssh" in said  # what -vvv shows of each connection
    assert re.findall(r"PUT .*AnsiballZ\w+", said) == []
