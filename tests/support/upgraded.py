#!/usr/bin/env python3
"""Releases of Orthanc for the scenario `upgrade`, good and bad ones, and the device that stores meanwhile, which
`distribution` has as well.

As a program it saves the good ones as archives in the directory that its argument names.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bed
import pydicom
from backups import must
from clients import (
    ADDRESSES,
    CLIENTS,
    INVENTORY,
    ROOT,
    client,
    client_at,
    enter,
    example,
    inspect,
    instances,
    name_of,
    put,
    verified,
)
from pydicom.uid import generate_uid
from registry import PROGRAM
from testinfra.host import Host

DEVICE = client_at("us1")
NAME = "clinic/orthanc"
DIRECTORY = INVENTORY.parents[1]  # where the archives are
NOTES = "/var/lib/orthanc-upgrade"
KEPT = "/var/lib/orthanc-previous"
# what a device may be refused for: stopping, copying the index, and starting, on a machine that others use as well
LONGEST = 120
RELEASES = {"1.12.7": "orthanc-debian13", "1.13.0": "orthanc"}
# Each is an Orthanc that says its version, and does as it should until it meets what only production has.
BEGIN = """\
#!/usr/bin/python3
import json, os, sys
real = "{program}.real"
if sys.argv[1] == "--version":
    os.execv(real, sys.argv)
options = json.load(open(sys.argv[1]))
storage = options["StorageDirectory"]
index = os.path.join(options.get("IndexDirectory", storage), "index")
"""
END = """
os.execv(real, sys.argv)
"""
# starts on an empty directory, as every trial of a configuration does, and not on an index with images
REFUSES = """
if os.path.exists(index) and os.path.getsize(index):
    sys.exit("this build does not open an index that has images")
"""
# passes the trial, where it may not write to the images; in production a user's password is another one
FAILS = """
if os.access(storage, os.W_OK):
    options["RegisteredUsers"]["viewer"] = "another-password-of-viewer"
    with open("/tmp/changed.json", "w") as changed:
        json.dump(options, changed)
    sys.argv[1] = "/tmp/changed.json"
"""


def save(tag: str, directory: Path) -> None:
    """A release as an archive, as a clinic without internet brings it."""
    with bed.alone():
        bed.docker("tag", bed.image(RELEASES[tag]), f"{NAME}:{tag}")
        bed.docker("save", "--output", str(directory / f"{tag}.tar"), f"{NAME}:{tag}")
        bed.docker("rmi", f"{NAME}:{tag}")


def make_image(host: Host, tag: str, between: str = "") -> str:
    """An image of 1.13.0 on the machine whose Orthanc is a script; or the same Orthanc with another content."""
    machine, base, name = name_of(host), f"{NAME}:1.13.0", f"{NAME}:{tag}"
    put(machine, "/root/Orthanc", f"{BEGIN.format(program=PROGRAM)}{between}{END}".encode())
    script = (
        f"set -e; chmod 755 /root/Orthanc; made=$(docker create {base} true);"
        f" docker cp $made:{PROGRAM} /root/real; docker cp /root/real $made:{PROGRAM}.real;"
        f" docker cp /root/Orthanc $made:{PROGRAM}; docker commit $made {name}; docker rm $made; rm /root/real"
    )
    must(machine, script)
    return name


def load(host: Host, tag: str) -> None:
    """Brings a release to the machine, as somebody does who prepares an upgrade."""
    with (DIRECTORY / f"{tag}.tar").open("rb") as archive:
        command = ["docker", "exec", "-i", name_of(host), "docker", "load", "--quiet"]
        subprocess.run(command, stdin=archive, check=True, capture_output=True)


def ask_for(tag: str) -> dict[str, Any]:
    """The settings that name a release."""
    return {
        "orthanc_install_docker_image": f"{NAME}:{tag}",
        "orthanc_install_docker_archive": str(DIRECTORY / f"{tag}.tar"),
    }


# --- the server ---------------------------------------------------------------------------------
def require_images(host: Host, uids: list[str]) -> None:
    """Every image that a device was told is stored is there, bit by bit."""
    found = instances(host)
    assert [uid for uid in uids if uid not in found] == []
    identifiers = [found[uid] for uid in uids]
    assert verified(host, identifiers) == ["200"] * len(identifiers)


def require_clean(host: Host) -> None:
    """Nothing of an upgrade is left beside the images, nor of an earlier deploy."""
    machine = name_of(host)
    assert must(machine, "find /var/lib/orthanc/db -maxdepth 1 -name '.upgrade*'") == ""
    assert must(machine, f"find {NOTES}/arrived -type f 2>/dev/null || true") == ""
    assert must(machine, f"ls -d {KEPT}* 2>/dev/null || true") == ""


def describe_settings(host: Host) -> str:
    """The content of what a deploy writes by the release or by the method."""
    files = "/etc/orthanc/site/*.* /etc/orthanc/site/image /etc/clinicops-orthanc.json /etc/orthanc-*.json"
    files += " /etc/nginx/conf.d/orthanc.conf /etc/nftables.d/orthanc.nft"
    table = "nft --stateless list table inet orthanc"
    return must(name_of(host), f"sha256sum {files}; stat -c '%a %U %G %n' {files}; {table}")


def describe_server(host: Host) -> tuple[str, str, str]:
    """The same, the container that runs, and since when."""
    found = inspect(host)
    return describe_settings(host), found["Id"], found["State"]["StartedAt"]


# --- the device ---------------------------------------------------------------------------------
def find_address(machine: str) -> str:
    """The address of the machine in a network that the device is in as well."""
    networks = [ipaddress.ip_network(f"{one}/26", strict=False) for one in CLIENTS[DEVICE]]
    return next(one for one in ADDRESSES[machine] if any(ipaddress.ip_address(one) in net for net in networks))


def begin(host: Host | str, count: int) -> subprocess.Popen[bytes]:
    """The device at work: it stores so many images, or without an end."""
    place = f"/tmp/{name_of(host)}"
    image = pydicom.dcmread(example())
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    uid = "1.2.826.0.1.3680043.8.498.".ljust(64, "9")
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid
    with tempfile.NamedTemporaryFile() as file:
        image.save_as(file.name)
        client(DEVICE, "sh", "-c", f"mkdir -p {place} && rm -f {place}/stop")
        put(DEVICE, f"{place}/{uid}.dcm", Path(file.name).read_bytes())
    put(DEVICE, f"{place}/storing.py", (ROOT / "tests/agents/storing.py").read_bytes())
    command = ["python3", f"{place}/storing.py", f"{place}/{uid}.dcm", find_address(name_of(host)), str(count)]
    return subprocess.Popen(enter(DEVICE, *command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def end(running: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the device saw."""
    said, _none = running.communicate(timeout=300)
    assert running.returncode == 0
    found: dict[str, Any] = json.loads(said)
    return found


def store(host: Host | str, count: int) -> list[str]:
    """SOP Instance UIDs of so many images, which are stored now."""
    uids = [uid for uid, _at in end(begin(host, count))["done"]]
    assert len(uids) == count
    return uids


@contextmanager
def storing(host: Host | str) -> Iterator[dict[str, Any]]:
    """A device stores without a break; afterwards: what was acknowledged, and for how many seconds it was refused."""
    seen: dict[str, Any] = {}
    running = begin(host, 0)
    try:
        yield seen
    finally:
        client(DEVICE, "touch", f"/tmp/{name_of(host)}/stop")
        found = end(running)
    seen["uids"] = [uid for uid, _at in found["done"]]
    seen["refused"] = measure_refusals(found)


def measure_refusals(found: dict[str, Any]) -> list[float]:
    """Seconds of each time in which no image was taken: from a refusal to the next acknowledgement."""
    times = sorted([(at, True) for _uid, at in found["done"]] + [(at, False) for at in found["refused"]])
    spans, begun = [], 0.0
    for at, taken in times:
        if not taken and not begun:
            begun = at
        elif taken and begun:
            spans.append(round(at - begun, 1))
            begun = 0.0
    return spans


if __name__ == "__main__":
    for one in RELEASES:
        save(one, Path(sys.argv[1]))
