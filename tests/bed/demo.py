#!/usr/bin/env python3
"""The demo: one machine, one scanner, one office PC; deployed, tested, left running.

up: deploys it. record: the same on new machines, and saves the terminal output in docs/first-deploy/terminal.txt and
docs/demo.svg. down: removes it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bed
import terminal

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / ".demo"
SERVER, SCANNER, OFFICE = "orthanc-demo", "orthanc-demo-us1", "orthanc-demo-office"
PLATFORMS = {
    SERVER: ("debian13", ["198.51.100.10", "198.51.100.70"]),
    SCANNER: ("client", ["198.51.100.21"]),
    OFFICE: ("client", ["198.51.100.81"]),
}
HOSTNAME = "pacs.clinic.example"
# this machine, as the containers see it, and the office PC
ADMINS = ["198.51.100.65", "198.51.100.81"]


def up() -> None:
    options = prepare()
    done = subprocess.run(["ansible-playbook", *options, "clinicops.orthanc.deploy"], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(f"\n{describe_access()}")


def record() -> None:
    down()
    status, lines = terminal.run_in_terminal(["ansible-playbook", *prepare(), "clinicops.orthanc.deploy"])
    text = "\n".join(lines).replace(str(Path.home()), "~") + "\n"
    print(text)
    if status:
        sys.exit(status)
    example = "ansible-playbook -i inventories/single_clinic --ask-vault-pass clinicops.orthanc.deploy"
    shown = [f"$ {example}", *text.splitlines()]
    (ROOT / "docs/first-deploy/terminal.txt").write_text("\n".join(shown) + "\n")
    (ROOT / "docs/demo.svg").write_text(terminal.draw(["$ make demo", *text.splitlines()]))


def prepare() -> list[str]:
    """Starts the machines. Returns the inventories as options of ansible-playbook."""
    bed.networks_up()
    for name, (image, addresses) in PLATFORMS.items():
        bed.say(f"machine {name}")
        bed.machine_up(name, image, addresses)
    DEMO.mkdir(mode=0o700, exist_ok=True)
    overlay = DEMO / "overlay.json"  # what the example inventory leaves to the clinic
    if not overlay.exists():
        passwords = {
            f"vault_orthanc_{user}_password": secrets.token_urlsafe(18) for user in ("it", "viewer", "gateway")
        }
        host = {
            "ansible_connection": "community.docker.docker",
            "ansible_host": SERVER,
            "orthanc_admin_sources": ADMINS,
        }
        overlay.touch(mode=0o600)
        overlay.write_text(
            json.dumps(
                {
                    "orthanc": {
                        "hosts": {"pacs": host},
                        "vars": {**passwords, "orthanc_proxy_ca_directory": str(DEMO)},
                    }
                }
            )
        )
    return ["-i", "inventories/single_clinic", "-i", str(overlay)]


def describe_access() -> str:
    """How to reach what was deployed; .demo/access.json contains the same."""
    access = write_access(json.loads((DEMO / "overlay.json").read_text())["orthanc"]["vars"])
    dicom = f"{access['dicom_address']} {access['dicom_port']}"
    return f"""Orthanc is running, and has passed its acceptance test.

  address    {access["url"]} on {access["https_address"]}
  user       viewer / {access["users"]["viewer"]["password"]}   (all users: .demo/access.json)
  CA         .demo/{HOSTNAME}.crt
  DICOM      {access["aet"]} at {access["dicom_address"]} port {access["dicom_port"]}

Send a first image, as the ultrasound machine US1:
  docker cp image.dcm {SCANNER}:/tmp/
  docker exec {SCANNER} storescu -v -aet US1 -aec {access["aet"]} {dicom} /tmp/image.dcm
Find it, as an external system:
  curl --cacert .demo/{HOSTNAME}.crt --resolve {HOSTNAME}:443:{access["https_address"]} -u viewer {access["url"]}studies

make demo-down removes it."""


def write_access(settings: dict[str, str]) -> dict[str, Any]:
    roles = {"it": "admin", "viewer": "dicomweb_reader", "gateway": "dicomweb_writer"}
    access = {
        "hostname": HOSTNAME,
        "url": f"https://{HOSTNAME}/dicom-web/",
        "https_address": "198.51.100.70",
        "https_port": 443,
        "dicom_address": "198.51.100.10",
        "dicom_port": 4242,
        "http_port": 8042,
        "aet": "ORTHANC",
        "devices": [{"aet": "US1", "address": "198.51.100.21", "container": SCANNER}],
        "admin_sources": ADMINS,
        "users": {
            name: {"role": role, "password": settings[f"vault_orthanc_{name}_password"]} for name, role in roles.items()
        },
        "ca_file": str(DEMO / f"{HOSTNAME}.crt"),
        "worklist_dir": "/var/lib/orthanc/worklists",
        "containers": {"server": SERVER, "scanner": SCANNER, "office": OFFICE},
    }
    target = DEMO / "access.json"
    target.touch(mode=0o600)
    target.write_text(json.dumps(access, indent=2) + "\n")
    return access


def down() -> None:
    if not bed.engine_answers():
        return
    for name in PLATFORMS:
        bed.machine_down(name)
    bed.networks_down()
    shutil.rmtree(DEMO, ignore_errors=True)


if __name__ == "__main__":
    {"up": up, "record": record, "down": down}[sys.argv[1]]()
