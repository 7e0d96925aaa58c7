#!/usr/bin/env python3
"""A clinic's registry with TLS and a log-in, Orthanc's image in it, and machines that trust it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import bed
from certificates import Authority

CONTAINER, ADDRESS, NAME = "orthanc-registry", "198.51.100.40", "registry.clinic.example"
PROGRAM = "/usr/sbin/Orthanc"  # in the bed's images
USER, PASSWORD = "clinic", "scenario-registry-password"
REPOSITORY = f"{NAME}:5000/orthancteam/orthanc"
CONFIGURATION = """\
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: /srv/registry}}
auth: {htpasswd: {realm: clinic, path: /etc/registry.htpasswd}}
http: {addr: ":5000", tls: {certificate: /etc/registry.crt, key: /etc/registry.key}}
"""


def put(name: str, path: str, content: str) -> None:
    command = ["docker", "exec", "-i", name, "sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}"]
    subprocess.run(command, input=content.encode(), check=True)


def add(image: str, tag: str) -> str:
    """Puts one of the bed's images into the registry; gives its digest there."""
    return push(bed.image(image), tag)


def move(image: str, tag: str, program: str = "") -> str:
    """Moves a tag to the same image with another content, as its owner does who builds it again; gives its digest.

    `program` is a script that takes the place of Orthanc, which is beside it."""
    made = bed.docker("create", bed.image(image), "true").stdout.strip()
    name = f"clinicops-bed/moved:{made[:12]}"
    try:
        if program:
            with tempfile.TemporaryDirectory() as scratch:
                real, script = Path(scratch, "real"), Path(scratch, "script")
                bed.docker("cp", f"{made}:{PROGRAM}", str(real))
                script.write_text(program)
                script.chmod(0o755)
                bed.docker("cp", str(real), f"{made}:{PROGRAM}.real")
                bed.docker("cp", str(script), f"{made}:{PROGRAM}")
        bed.docker("commit", "--change", f"LABEL built={made}", made, name)
        return push(name, tag)
    finally:
        bed.docker("rm", made)
        bed.docker("rmi", name, check=False)


def push(name: str, tag: str) -> str:
    """Puts an image of the host into the registry; gives its digest there."""
    with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as saved:
        receive = ["docker", "exec", "-i", CONTAINER, "sh", "-c", "cat > /tmp/image.tar"]
        subprocess.run(receive, stdin=saved.stdout, check=True)
    options = f"--dest-creds={USER}:{PASSWORD} --dest-cert-dir=/etc/registry.d --digestfile=/tmp/digest"
    copy = f"skopeo copy -q {options} docker-archive:/tmp/image.tar docker://{REPOSITORY}:{tag} && cat /tmp/digest"
    return bed.docker("exec", CONTAINER, "sh", "-c", f"{copy}; rm /tmp/image.tar").stdout.strip()


def know(machine: str) -> None:
    """Docker forgets it when the machine starts again."""
    bed.docker("exec", machine, "sh", "-c", f"echo {ADDRESS} {NAME} >> /etc/hosts")


def up(machines: list[str]) -> None:
    authority = Authority("Clinic CA")
    certificate, key = authority.issue(NAME)
    put(CONTAINER, "/etc/registry.crt", certificate)
    put(CONTAINER, "/etc/registry.key", key)
    put(CONTAINER, "/etc/registry.yml", CONFIGURATION)
    put(CONTAINER, "/etc/registry.d/ca.crt", authority.root)
    bed.docker("exec", CONTAINER, "sh", "-c", f"htpasswd -Bbn {USER} {PASSWORD} > /etc/registry.htpasswd")
    bed.docker("exec", "--detach", CONTAINER, "docker-registry", "serve", "/etc/registry.yml")
    for machine in [CONTAINER, *machines]:
        know(machine)
    for machine in machines:
        put(machine, f"/etc/docker/certs.d/{NAME}:5000/ca.crt", authority.root)
    bed.say("putting Orthanc's images into the registry")
    add("orthanc", "26.8.1")
    add("orthanc-debian13", "1.12.7")


if __name__ == "__main__":
    up(json.loads(sys.argv[1]))
