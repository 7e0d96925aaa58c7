"""Machines of the test bed for the programs of bench/: created, deployed, set up by hand, and removed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "bed"))

import bed

ROOT = Path(__file__).resolve().parents[1]
HOSTNAME = "pacs.clinic.example"
PASSWORDS = {name: f"bench-{name}-password" for name in ("it", "viewer", "gateway")}
Platforms = Mapping[str, tuple[str, list[str]]]


@contextlib.contextmanager
def use_machines(platforms: Platforms, *, keep: bool = False) -> Iterator[None]:
    """Containers by name, each with its image (`debian12`, `debian13`, `client`) and its addresses.

    Machines that are there already are used as they are. At the end all are removed, unless they are to be kept.
    """
    create_machines(platforms)
    try:
        yield
    finally:
        if not keep:
            remove_machines(platforms)


def create_machines(platforms: Platforms) -> None:
    """Starts the containers that are not there; see `use_machines`."""
    with bed.alone():
        bed.engine_up()
        bed.networks_up()
        bed.connection_up()
        for name, (image, addresses) in platforms.items():
            bed.machine_up(name, image, addresses)


def remove_machines(platforms: Platforms) -> None:
    """Removes the containers and their disks."""
    with bed.alone():
        for name in platforms:
            bed.machine_down(name)
        bed.networks_down()


def run_in(name: str, script: str, stdin: bytes = b"") -> str:
    """What a shell script prints in a container; subprocess.CalledProcessError if it fails."""
    command = ["docker", "exec", *(["-i"] if stdin else []), name, "sh", "-ec", script]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout.decode()


def write_file(name: str, path: str, content: str | bytes) -> None:
    """Writes a file of a container, whose directory must exist."""
    run_in(name, f"cat > {path}", content if isinstance(content, bytes) else content.encode())


def unpack_files(name: str, directory: str, files: Mapping[str, bytes]) -> None:
    """Writes files by their paths in a directory of a container; the directory is emptied before."""
    run_in(name, f"rm -rf {directory}; mkdir -p {directory}; tar -C {directory} -xf -", bed.pack(files))


@contextlib.contextmanager
def write_inventory(hosts: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> Iterator[Path]:
    """An inventory: the example's settings, these, and for each machine of `hosts` its own.

    The machines are reached as tests/bed does it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        shared = ROOT / ".config" / "molecule" / "hosts.yml"
        (directory / "10-bed.yml").symlink_to(shared)
        (directory / "group_vars").symlink_to(ROOT / "inventories" / "single_clinic" / "group_vars")
        own = {
            **{f"vault_orthanc_{user}_password": password for user, password in PASSWORDS.items()},
            "orthanc_proxy_ca_directory": f"{scratch}/ca/{{{{ inventory_hostname }}}}",
            "orthanc_verify_report_directory": f"{scratch}/reports",
            **settings,
        }
        # of each host: the example's settings of the group would win over those of the group here
        content = {"orthanc": {"hosts": {name: {**own, **one} for name, one in hosts.items()}}}
        (directory / "20-bench.json").write_text(json.dumps(content))
        yield directory


def run_playbook(inventory: Path, playbook: str, *more: str) -> str:
    """The output of a playbook of the collection, or of a file; SystemExit with it if the playbook fails."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
    }
    done = subprocess.run(
        ["ansible-playbook", "--inventory", str(inventory), playbook, *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    return done.stdout


def deploy_machines(hosts: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """Deploys this collection to machines; returns the output. See `write_inventory`."""
    with write_inventory(hosts, settings) as inventory:
        return run_playbook(inventory, "clinicops.orthanc.deploy")
