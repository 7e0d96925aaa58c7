#!/usr/bin/env python3
"""Devices that store without a pause, what Orthanc holds of it, and what happens to machines: for `backup_restore` and
`snapshots`.

As a program it saves Orthanc's image as the file that its second argument names. Unless the first is `carry`, a JSON
array of machines, it starts the repository as well and lets them in.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import io
import json
import os
import random
import shlex
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bed
from clients import ADDRESSES, CLIENTS, PASSWORDS, ROOT, client, client_at, example, put, wait_for
from template import make_template
from worklists import sh

IMAGE = "clinic/orthanc:carried"
STORE = client_at("repository")
STORE_ADDRESS = next(iter(CLIENTS.get(STORE, ())), "")  # other scenarios have none
REST = {"RESTIC_REST_USERNAME": "clinic", "RESTIC_REST_PASSWORD": "scenario-repository-password"}
PASSWORD = "scenario-backup-password"
DEVICES = {f"US{number}": client_at(f"device{number}") for number in range(1, 5)}
STORAGE, OWN = "/var/lib/orthanc/db", "/var/lib/orthanc-backup"
PROGRAM = "/usr/local/sbin/orthanc-backup"
DICOM = "/opt/dicom"  # pydicom and pynetdicom on the devices
UNIT = """\
[Service]
ExecStart=
ExecStart=/usr/bin/restic-rest-server --path /srv/{path} --listen :{port} --htpasswd-file /etc/rest.htpasswd {options}
ExecCondition=
PrivateUsers=false
"""


class Image(NamedTuple):
    """A C-STORE: what was sent, when (UTC, seconds), how long it took, and the MD5 of its data set."""

    uid: str
    study: str
    accession: str
    aet: str
    sent: float
    seconds: float
    status: int
    digest: str

    @property
    def acknowledged(self) -> float:
        return self.sent + self.seconds


# --- what stands outside the machines ------------------------------------------------------------
def repository_up() -> None:
    """restic's REST server at 8000, another one that only appends at 8001, and SFTP; on a disk that can be full."""
    must(STORE, "mountpoint -q /srv || mount -t tmpfs -o size=12g tmpfs /srv")
    must(STORE, "id clinic >/dev/null 2>&1 || useradd --create-home --shell /bin/bash clinic")
    must(STORE, "mkdir -p /srv/sftp /srv/rest /srv/append && chown clinic: /srv/sftp")
    must(STORE, "chown restic-rest-server: /srv/rest /srv/append")
    user, password = REST.values()
    must(STORE, f"htpasswd -Bbc /etc/rest.htpasswd {user} {password} && chmod 644 /etc/rest.htpasswd")
    source = "/usr/lib/systemd/system/restic-rest-server.service"
    must(STORE, f"cp {source} /etc/systemd/system/append-rest-server.service")
    for name, path, port, options in (
        ("restic-rest-server", "rest", 8000, ""),
        ("append-rest-server", "append", 8001, "--append-only"),
    ):
        must(STORE, f"mkdir -p /etc/systemd/system/{name}.service.d")
        unit = UNIT.format(path=path, port=port, options=options)
        put(STORE, f"/etc/systemd/system/{name}.service.d/bed.conf", unit.encode())
    # tests fail to log in on purpose, again and again; and a call of restic by SSH takes half as long with these keys
    settings = b"PerSourcePenalties no\nKexAlgorithms curve25519-sha256\n"
    put(STORE, "/etc/ssh/sshd_config.d/bed.conf", settings)
    must(STORE, "systemctl daemon-reload && systemctl restart restic-rest-server append-rest-server ssh")
    wait_for(lambda: sh(STORE, "ss -Hltn '( sport = 8000 or sport = 8001 or sport = 22 )' | wc -l")[1] >= "3", "doors")


def dicom_up(*names: str) -> None:
    """pydicom and pynetdicom, where there is Python."""
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for package in ("pydicom", "pynetdicom"):
                for file in importlib.metadata.files(package) or []:
                    if file.suffix in (".py", ".json") or file.name == "METADATA":
                        archive.add(file.locate(), str(file))
        for name in names:
            must(name, f"mkdir -p {DICOM} && tar -C {DICOM} -xf -", packed.getvalue())


def devices_up() -> None:
    dicom_up(*DEVICES.values())
    for name in DEVICES.values():
        put(name, "/opt/device.py", (ROOT / "tests/agents/device.py").read_bytes())


def machine_ready(machine: str) -> None:
    """What IT does on a new machine before a deploy: the repository's host key, and a key for it."""
    must(machine, "install -d -m 700 /root/.ssh")
    key = "/etc/bed-key"
    must(STORE, f"test -e {key} || ssh-keygen -q -t ed25519 -N '' -f {key}")
    must(
        STORE,
        f"install -d -o clinic -m 700 ~clinic/.ssh && install -o clinic -m 600 {key}.pub ~clinic/.ssh/authorized_keys",
    )
    put(machine, "/root/.ssh/id_ed25519", client(STORE, "cat", key).stdout)
    host = sh(STORE, "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")[1]
    put(machine, "/root/.ssh/known_hosts", f"{STORE_ADDRESS} {host}".encode())
    must(machine, "chmod 600 /root/.ssh/*")


def carried(archive: str) -> None:
    """Orthanc's image as a clinic without internet brings it."""
    with bed.alone():  # two scenarios may want it at once
        bed.docker("tag", bed.image("orthanc"), IMAGE)
        bed.docker("save", "--output", archive, IMAGE)
        bed.docker("rmi", IMAGE)


# --- commands ------------------------------------------------------------------------------------
def must(machine: str, script: str, stdin: bytes = b"") -> str:
    status, said = sh(machine, script, stdin=stdin)
    assert status == 0, f"{machine}: {script}: {said}"
    return said


def python(machine: str, script: str, *arguments: str) -> Any:
    """What one of the test bed's programs tells in a container."""
    content = (ROOT / "tests/agents" / script).read_bytes()
    return json.loads(must(machine, shlex.join(["python3", "-", *arguments]), content))


class Attempt:
    """orthanc-backup at work in a machine."""

    def __init__(self, machine: str, *arguments: str, config: str = "") -> None:
        command = [PROGRAM, *(["--config", config] if config else []), arguments[0], "--json", *arguments[1:]]
        self.command = " ".join(command)
        self.process = subprocess.Popen(
            ["docker", "exec", machine, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = ""

    def end(self, limit: float = 1200) -> tuple[int, Any]:
        out, self.said = self.process.communicate(timeout=limit)
        try:
            return self.process.returncode, json.loads(out)
        except ValueError:
            return self.process.returncode, {"problems": [], "out": out, "said": self.said}


def backup(machine: str, *arguments: str, config: str = "") -> tuple[int, Any]:
    """Exit code and what it says of `orthanc-backup` with these arguments."""
    return Attempt(machine, *arguments, config=config).end()


def done(machine: str, *arguments: str, config: str = "") -> Any:
    """What it says; it must succeed."""
    attempt = Attempt(machine, *arguments, config=config)
    status, said = attempt.end()
    assert status == 0, f"{machine}: {attempt.command}: {said} {attempt.said}"
    return said


def refused(machine: str, *arguments: str, config: str = "") -> str:
    """Why it does not; a refusal names a remedy for everything it names."""
    status, said = backup(machine, *arguments, config=config)
    assert status == 1, said
    assert said["problems"], said
    assert all("Remedy: " in problem for problem in said["problems"]), said
    return "\n".join(said["problems"])


def configured(machine: str, path: str = "/root/other.json", **changed: Any) -> str:
    """Another configuration than the deploy's, in a file of its own."""
    settings = {**json.loads(must(machine, "cat /etc/orthanc-backup.json")), **changed}
    put(machine, path, json.dumps(settings).encode())
    must(machine, f"mkdir -p {shlex.quote(settings['directory'])}")
    return path


def state(machine: str, name: str) -> Any:
    return json.loads(must(machine, f"cat {OWN}/{name}.json"))


def restic(machine: str, *arguments: str, config: str = "/etc/orthanc-backup.json") -> tuple[int, str]:
    """restic itself, as an administrator (or a burglar) calls it on the machine."""
    settings = json.loads(must(machine, f"cat {config}"))
    names = {
        **settings["environment"],
        "RESTIC_REPOSITORY": settings["repository"],
        "RESTIC_PASSWORD_FILE": settings["password_file"],
        "RESTIC_CACHE_DIR": "/root/restic-cache",
    }
    return sh(
        machine, " ".join([*(f"{key}={shlex.quote(value)}" for key, value in names.items()), "restic", *arguments])
    )


def sound(machine: str) -> None:
    """restic finds no error in the repository; locks of processes that are gone go first."""
    restic(machine, "unlock", "--remove-all")
    status, said = restic(machine, "check")
    assert status == 0, said


def listed(machine: str, config: str = "") -> list[str]:
    return [one["id"] for one in done(machine, "list", config=config)["snapshots"]]


def main_process(machine: str) -> int:
    """Orthanc's, as the machine sees it."""
    if machine.endswith("13"):
        return int(must(machine, "docker inspect --format '{{.State.Pid}}' orthanc"))
    return int(must(machine, "systemctl show --property MainPID --value orthanc"))


def service(machine: str, verb: str) -> None:
    must(machine, f"{'docker' if machine.endswith('13') else 'systemctl'} {verb} orthanc")


def attachment(machine: str, uid: str) -> str:
    """The file of an image; the index is not asked, for Orthanc has it open."""
    found: dict[str, str] = python(machine, "held.py", "paths", STORAGE)
    return found[uid]


# --- images --------------------------------------------------------------------------------------
class Devices:
    """Some of the four devices, each with one association, storing one image after the other.

    With `count` they end by themselves when each has sent so many.
    """

    def __init__(
        self, machine: str, seed: int = 1, count: int = 0, aets: Iterable[str] = DEVICES, size: tuple[int, int] = (0, 0)
    ) -> None:
        self.aets = list(aets)
        self.base = f"/tmp/stored-{machine}-{time.monotonic_ns()}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        template = base64.b64encode(example("examples_rgb_color.dcm").read_bytes()).decode()
        for aet in self.aets:
            plan = {
                **{"address": ADDRESSES[machine][0], "aet": aet, "count": count, "seed": f"{seed} {aet} {self.base}"},
                **{"record": self.base, "until": f"{self.base}-end", "template": template},
                **({"rows": size[0], "columns": size[1]} if size[0] else {}),
            }
            command = ["docker", "exec", "-i", f"--env=PYTHONPATH={DICOM}", DEVICES[aet], "python3", "/opt/device.py"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert process.stdin
            process.stdin.write(json.dumps(plan).encode())
            process.stdin.close()
            process.stdin = None
            self.running[aet] = process

    def number(self) -> int:
        return sum(
            int(client(DEVICES[aet], "sh", "-c", f"cat {self.base} 2>&- | wc -l").stdout or 0) for aet in self.aets
        )

    def reach(self, number: int, limit: float = 300) -> None:
        wait_for(lambda: self.number() >= number, f"{number} images stored", limit)

    def stop(self) -> list[Image]:
        """Asks them to stop, and gives what they stored."""
        for aet in self.aets:
            client(DEVICES[aet], "touch", f"{self.base}-end")
        return self.finish()

    def finish(self, limit: float = 1800) -> list[Image]:
        found = []
        for process in self.running.values():
            record, errors = process.communicate(timeout=limit)
            assert process.returncode == 0, errors.decode()
            found += [Image(*json.loads(line)) for line in record.splitlines()]
        return found


def stored(machine: str, count: int, aets: Iterable[str] = DEVICES, size: tuple[int, int] = (0, 0)) -> list[Image]:
    """Images from each of the devices, all of them acknowledged."""
    images = Devices(machine, count=count, aets=aets, size=size).finish()
    assert [image for image in images if image.status] == []
    assert len(images) == count * len(list(aets))
    return images


def upload_small(machine: str, count: int) -> int:
    """Images of 2 kB, 50 to a study, over REST; how many Orthanc took."""
    file, uids = make_template()
    plan = {"file": file, "uids": uids, "count": count, "threads": 4, "study": 50, "user": f"it:{PASSWORDS['it']}"}
    plan["seed"] = int(time.time()) % 10000
    put(machine, "/root/fill.py", (ROOT / "tests/agents/fill.py").read_bytes())
    return int(must(machine, "python3 /root/fill.py", json.dumps(plan).encode()))


def sent_digests(images: Iterable[Image]) -> dict[str, str]:
    return {image.uid: image.digest for image in images if image.status == 0}


def held(machine: str) -> dict[str, str]:
    """Every image that Orthanc gives out."""
    found: dict[str, str] = python(machine, "held.py", "rest", f"it:{PASSWORDS['it']}")
    return found


DELETE = """
import base64, http.client, json, sys
headers = {"Authorization": "Basic " + base64.b64encode(sys.argv[1].encode()).decode()}
connection = http.client.HTTPConnection("127.0.0.1", 8042)
def ask(method, path, body=None):
    connection.request(method, path, body, headers)
    return connection.getresponse().read()
for uid in sys.argv[2:]:
    for found in json.loads(ask("POST", "/tools/lookup", uid)):
        ask("DELETE", found["Path"])
"""


def delete(machine: str, images: Iterable[Image]) -> None:
    """As a person with the role `admin`."""
    must(machine, f"python3 - it:{PASSWORDS['it']} {' '.join(image.uid for image in images)}", DELETE.encode())


def held_in(machine: str, directory: str) -> dict[str, str]:
    """Every image of an index and its files, without Orthanc."""
    found: dict[str, str] = python(machine, "held.py", "directory", directory)
    return found


def lacking(held: dict[str, str], images: Iterable[Image]) -> list[str]:
    """What was acknowledged and is not there bit by bit."""
    return [uid for uid, digest in sent_digests(images).items() if held.get(uid) != digest]


def moment(text: str) -> float:
    """Seconds of a UTC time as Orthanc and orthanc-backup write it."""
    return time.mktime(time.strptime(text[:15], "%Y%m%dT%H%M%S")) - time.timezone + float(text[15:] or 0)


def answers(machine: str) -> bool:
    curl = "import urllib.request as u; u.urlopen('http://127.0.0.1:8042/system', timeout=5)"
    said = sh(machine, f'python3 -c "{curl}"')[1]
    return "401" in said


# --- what happens to a machine -------------------------------------------------------------------
def ruin(machine: str) -> None:
    """The machine and its disk are gone; another one stands there that has never been deployed."""
    kind = {"orthanc-backup12": "ready12", "orthanc-backup13": "ready13"}[machine]
    bed.machine_down(machine)
    bed.machine_up(machine, kind, list(ADDRESSES[machine]))
    machine_ready(machine)


def power_off(machine: str) -> None:
    """Every process is gone at once; then the machine boots."""
    bed.docker("kill", machine)
    bed.docker("start", machine)
    wait_for(lambda: sh(machine, "systemctl is-system-running")[1].strip() in ("running", "degraded"), "the machine")


def kill_9(machine: str) -> None:
    """The program, wherever it is."""
    sh(machine, f"pkill -9 -f '^/usr/bin/python3 {PROGRAM} '")


@contextlib.contextmanager
def unplugged(machine: str) -> Iterator[None]:
    """The way to the repository is cut: what is under way ends, and nobody answers."""
    table = "add table inet bed; add chain inet bed out { type filter hook output priority -300; }"
    rule = f"add rule inet bed out ip daddr {STORE_ADDRESS} meta l4proto tcp reject with tcp reset"
    must(machine, f"nft '{table}; {rule}'")
    try:
        yield
    finally:
        must(machine, "nft delete table inet bed")


@contextlib.contextmanager
def full(machine: str, mount: str) -> Iterator[None]:
    """A tmpfs has no space left."""
    size = must(machine, f"findmnt -no SIZE -b {mount}").strip()
    for _ in range(100):  # it grows while it is measured
        used = int(must(machine, f"df -B1 --output=used {mount} | tail -1"))
        if sh(machine, f"mount -o remount,size={used + 4096} {mount}")[0] == 0:
            break
    else:
        raise AssertionError(f"{mount} cannot be full")
    try:
        yield
    finally:
        must(machine, f"mount -o remount,size={size} {mount}")


@contextlib.contextmanager
def on_small_disk(machine: str, path: str) -> Iterator[None]:
    """A directory on a disk of its own, which `full` can fill; what is in it comes along, and back."""
    copy = f"/var/{Path(path).name}.copy"
    must(machine, f"cp -a {path} {copy} && mount -t tmpfs -o size=4g,mode=755 tmpfs {path} && cp -a {copy}/. {path}/")
    try:
        yield
    finally:
        move = f"rm -rf {copy} && cp -a {path} {copy} && umount {path} && find {path} -mindepth 1 -delete"
        must(machine, f"{move} && cp -a {copy}/. {path}/ && rm -rf {copy}")


def after(seconds: float) -> None:
    """A seeded random moment of something that goes on."""
    threading.Event().wait(seconds)


def choice(seed: object) -> random.Random:
    return random.Random(f"{seed} {os.environ.get('BED_SEED', '')}")


if __name__ == "__main__":
    carried(sys.argv[2])
    if sys.argv[1] != "carry":
        repository_up()
        devices_up()
        for name in json.loads(sys.argv[1]):
            machine_ready(name)
