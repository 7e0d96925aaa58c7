#!/usr/bin/env python3
"""What the scenario `exposure` is looked at with: knocks, an SSH connection that stays, many requests at once."""

from __future__ import annotations

import functools
import io
import json
import secrets
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bed
import pydicom
from certificates import Authority
from clients import (
    ADDRESSES,
    HOSTNAME,
    OFFICE,
    OUTSIDE,
    PASSWORDS,
    ROOT,
    SCANNER,
    UNLISTED,
    client,
    example,
    put,
    scu,
    wait_for,
)
from pydicom.uid import generate_uid

DICOM, DICOM_TLS, HTTPS, HTTP, ORTHANC_HTTP, MOVED = 4242, 2762, 443, 80, 8042, 11112
EVERY_DOOR = (DICOM, DICOM_TLS, HTTPS, HTTP, ORTHANC_HTTP, MOVED)
# place: its network of the three, and doors
STRANGERS = {
    UNLISTED: (0, EVERY_DOOR),
    OFFICE: (1, tuple(door for door in EVERY_DOOR if door != HTTPS)),
    OUTSIDE: (2, EVERY_DOOR),
}
LISTED = {SCANNER: (0, (DICOM,)), OFFICE: (1, (HTTPS,))}


# --- knocks ------------------------------------------------------------------------------------
def doors(machine: str, network: int, ports: tuple[int, ...], families: str = "46") -> list[str]:
    four = ADDRESSES[machine][network]
    hosts = {"4": four, "6": f"[{bed.address6(four)}]"}
    return [f"{hosts[family]}:{port}" for family in families for port in ports]


def appears(place: str, path: str) -> None:
    wait_for(lambda: client(place, "test", "-s", path).returncode == 0, f"{path} at {place}")


class Knocking:
    """Strangers knock at every door every 10 ms; those who are let in knock ten times a second, as the proof that an
    open door is noticed. Named, for one process starts it and another one ends it."""

    def __init__(self, machine: str, name: str) -> None:
        self.machine, self.base = machine, f"/tmp/knock-{machine}-{name}"
        self.who = [(place, "stranger", "46", "0.01", *at) for place, at in STRANGERS.items()]
        self.who += [(place, "listed", "4", "0.1", *at) for place, at in LISTED.items()]

    def start(self) -> None:
        for place, kind, families, every, network, ports in self.who:
            base = f"{self.base}-{kind}"
            put(place, f"{base}.py", (ROOT / "tests/agents/knock.py").read_bytes())
            client(place, "rm", "-f", f"{base}.json", f"{base}.pid")
            options = ["--every", every, "--result", f"{base}.json", "--pid", f"{base}.pid"]
            at = doors(self.machine, network, ports, families)
            bed.docker("exec", "--detach", place, "python3", f"{base}.py", *options, *at)
        for place, kind, *_ in self.who:
            appears(place, f"{self.base}-{kind}.pid")

    def let_in(self) -> bool:
        """Whether those who are let in have been let in at each of their doors since the knocking began."""
        found = []
        for place, kind, *_ in self.who:
            base = f"{self.base}-{kind}"
            if kind == "listed":
                client(place, "sh", "-c", f"rm -f {base}.so-far; kill -USR1 $(cat {base}.pid)")
                appears(place, f"{base}.so-far")
                found += json.loads(client(place, "cat", f"{base}.so-far").stdout).values()
        return all(one.get("in", 0) for one in found)

    def stop(self) -> dict[str, dict[str, dict[str, Any]]]:
        """kind: place: door: what `knock.py` tells."""
        told: dict[str, dict[str, dict[str, Any]]] = {"stranger": {}, "listed": {}}
        for place, kind, *_ in self.who:
            client(place, "sh", "-c", f"kill $(cat {self.base}-{kind}.pid)")
        for place, kind, *_ in self.who:
            appears(place, f"{self.base}-{kind}.json")
            told[kind][place] = json.loads(client(place, "cat", f"{self.base}-{kind}.json").stdout)
        return told


# --- an SSH connection that stays --------------------------------------------------------------
def ssh_open(machine: str) -> None:
    """From the office's PC, over FIFOs: each line that goes in comes back with the pid of the server's side."""
    base = f"/tmp/ssh-{machine}"
    far = 'while read -r line; do echo "$line $$"; done'
    options = "-i /tmp/ssh.key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
    make = f"rm -f {base}.in {base}.out; mkfifo {base}.in {base}.out"
    assert client(OFFICE, "sh", "-c", make).returncode == 0
    connect = f"exec ssh {options} root@{ADDRESSES[machine][1]} '{far}' <>{base}.in 1<>{base}.out 2>{base}.err"
    bed.docker("exec", "--detach", OFFICE, "sh", "-c", connect)
    put(OFFICE, f"{base}.pid", ssh_pid(machine).encode())


def ssh_pid(machine: str, limit: int = 60) -> str:
    """The pid of the server's side, asked over the connection; empty without an answer in time."""
    word = secrets.token_hex(8)
    base = f"/tmp/ssh-{machine}"
    wait = f"while read -r said pid; do [ $said != {word} ] || break; done < {base}.out"
    ask = f"echo {word} > {base}.in; {wait}; echo $pid"
    return client(OFFICE, "timeout", str(limit), "sh", "-c", ask).stdout.decode().strip()


def ssh_stayed(machine: str) -> bool:
    first = client(OFFICE, "cat", f"/tmp/ssh-{machine}.pid").stdout.decode()
    return first != "" and ssh_pid(machine) == first


def prepare(machines: list[str]) -> None:
    """Before the first deploy: the connection is open and everybody knocks."""
    client(OFFICE, "sh", "-c", "[ -e /tmp/ssh.key ] || ssh-keygen -q -t ed25519 -N '' -f /tmp/ssh.key")
    key = client(OFFICE, "cat", "/tmp/ssh.key.pub").stdout
    for machine in machines:
        bed.say(f"SSH to {machine}, and knocks at its doors")
        bed.docker("exec", machine, "sh", "-c", "systemctl enable --now ssh.service && mkdir -p -m 700 /root/.ssh")
        put(machine, "/root/.ssh/authorized_keys", key)
        ssh_open(machine)
        assert ssh_stayed(machine)
    for machine in machines:
        Knocking(machine, "deploys").start()


# --- the study that must not get out -----------------------------------------------------------
@dataclass(frozen=True)
class Marker:
    """One image under the same UIDs in every run."""

    name: str = "SECRET^MARKER"
    patient: str = "SECRET-ID"
    study: str = generate_uid(entropy_srcs=["exposure", "study"])
    series: str = generate_uid(entropy_srcs=["exposure", "series"])
    instance: str = generate_uid(entropy_srcs=["exposure", "instance"])

    def file(self) -> bytes:
        image = pydicom.dcmread(example())
        image.PatientName, image.PatientID = self.name, self.patient
        image.StudyInstanceUID, image.SeriesInstanceUID = self.study, self.series
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = self.instance
        with io.BytesIO() as buffer:
            image.save_as(buffer)
            return buffer.getvalue()

    def stow(self) -> bytes:
        return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + self.file() + b"\r\n--b--\r\n"


MARKER = Marker()


@functools.cache
def store_marker(machine: str) -> None:
    put(SCANNER, "/tmp/marker.dcm", MARKER.file())
    status, said = scu(SCANNER, "storescu", "US2", ADDRESSES[machine][0], "-xe", "/tmp/marker.dcm")
    assert status == 0, said


# --- many requests at once ---------------------------------------------------------------------
@dataclass(frozen=True)
class Request:
    method: str
    path: str
    user: str = ""
    address: str = "127.0.0.1"
    port: int = HTTPS
    headers: tuple[str, ...] = ()
    body: str = ""  # @ and the name of a file there
    password: str = ""

    def lines(self, number: int) -> list[str]:
        """Of a file of options for curl; a password in its arguments could be seen."""
        name = HOSTNAME if self.port == HTTPS else self.address
        url = f"{'https' if self.port == HTTPS else 'http'}://{name}:{self.port}{self.path}"
        given = {"url": url, "output": f"/tmp/exposure/{number}", "max-time": "60", "write-out": r"%{http_code}\n"}
        if self.port == HTTPS:
            given |= {"resolve": f"{HOSTNAME}:443:{self.address}", "cacert": "/tmp/exposure/ca.crt"}
        if self.user:
            given["user"] = f"{self.user}:{self.password or PASSWORDS[self.user]}"
        if self.body:
            given["data-binary"] = self.body
        lines = [f"{key} = {json.dumps(value)}" for key, value in given.items()]
        lines += [f"header = {json.dumps(header)}" for header in self.headers]
        lines.append("head" if self.method == "HEAD" else f'request = "{self.method}"')
        return [*lines, "path-as-is", "globoff", "silent"]


def ask_all(place: str, ca: bytes, requests: list[Request]) -> list[tuple[int, bytes]]:
    """Status and body of each request, by one curl in the client `place` (or on the machine itself)."""
    client(place, "sh", "-c", "rm -rf /tmp/exposure; mkdir -m 700 /tmp/exposure")
    put(place, "/tmp/exposure/ca.crt", ca)
    put(place, "/tmp/exposure/stow", MARKER.stow())
    put(place, "/tmp/exposure/image", MARKER.file())
    text = "\nnext\n".join("\n".join(request.lines(number)) for number, request in enumerate(requests))
    done = client(place, "curl", "--config", "-", stdin=text.encode())
    statuses = [int(line) for line in done.stdout.split()]
    assert len(statuses) == len(requests), done.stderr
    packed = client(place, "tar", "-C", "/tmp/exposure", "-c", ".").stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        opened = {file.name: archive.extractfile(file) for file in archive}
        bodies = {name: file.read() for name, file in opened.items() if file}
    return [(status, bodies.get(f"./{number}", b"")) for number, status in enumerate(statuses)]


# --- DICOM -------------------------------------------------------------------------------------
QUERY = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName", "-k", f"StudyInstanceUID={MARKER.study}")
OPERATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "echo": ("echoscu", ()),
    "store": ("storescu", ("-xe", "/tmp/marker.dcm")),
    "worklist": ("findscu", ("-W", "-k", "PatientName")),
    "find": ("findscu", QUERY),
    "move": ("movescu", (*QUERY, "-aem", "US2")),
    "get": ("getscu", (*QUERY, "-od", "/tmp")),
}
# what DCMTK says when it is not let in, and how far it came
REFUSALS = {
    "TCP Initialization Error": "silent",
    "Association Request Failed": "hung up",
    "Association Rejected": "rejected",
    "Peer aborted": "aborted",
    "No Acceptable Presentation Contexts": "aborted",
}


def dialogue(
    place: str, address: str, port: int, calling: str, called: str, operation: str, certificate: str = ""
) -> str:
    """accepted; or rejected (the association), aborted (the operation), hung up (before both), silent (no TCP)."""
    tool, arguments = OPERATIONS[operation]
    tls = ["+tls", f"{certificate}.key", f"{certificate}.crt", "+cf", "/tmp/device-ca.crt"] if certificate else []
    titles = ["-aet", calling, "-aec", called]
    done = client(place, tool, "-v", "-to", "2", *titles, *tls, address, str(port), *arguments)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert MARKER.name not in said
    return next(
        (verdict for text, verdict in REFUSALS.items() if text in said), "accepted" if not done.returncode else said
    )


def give_certificates(place: str, directory: Path) -> None:
    """What the controller holds for us3, and a certificate of the same name by a CA of somebody else's."""
    stranger = Authority("Somebody's CA")
    made, key = stranger.issue("us3")
    held = directory / HOSTNAME
    content = {
        "device-ca.crt": (directory / f"{HOSTNAME}.crt").read_bytes(),
        "us3.crt": (held / "us3.crt").read_bytes(),
        "us3.key": (held / "us3.key").read_bytes(),
        "foreign.crt": made.encode(),
        "foreign.key": key.encode(),
        "marker.dcm": MARKER.file(),
    }
    for name, text in content.items():
        put(place, f"/tmp/{name}", text)


if __name__ == "__main__":
    prepare(json.loads(sys.argv[1]))
