"""Packages with updates, and where they come from, without a network: for the scenario monitor."""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
from collections.abc import Iterator
from typing import Any

from backups import must
from clients import put

REPOSITORY = "/srv/updates"
SOURCE = "/etc/apt/sources.list.d/updates.list"
# a flat repository of one's own, which says of itself that it is Debian's of security updates
INDEX = r"""
import glob, hashlib, os, subprocess, sys
os.chdir(sys.argv[1])
with open("Packages", "w") as index:
    for path in sorted(glob.glob("*.deb")):
        content = open(path, "rb").read()
        fields = subprocess.run(["dpkg-deb", "-f", path], capture_output=True, text=True, check=True).stdout.strip()
        digest = hashlib.sha256(content).hexdigest()
        index.write(f"{fields}\nFilename: ./{path}\nSize: {len(content)}\nSHA256: {digest}\n\n")
content = open("Packages", "rb").read()
digest = hashlib.sha256(content).hexdigest()
with open("Release", "w") as release:
    release.write(f"Origin: Bed\nLabel: {sys.argv[2]}\nSuite: {sys.argv[3]}\n")
    release.write("Date: Sat, 28 Nov 2026 20:00:00 UTC\n")
    release.write(f"SHA256:\n {digest} {len(content)} Packages\n")
"""


def build(machine: str, name: str, version: str, conffile: str, into: str) -> None:
    """A package with a configuration file."""
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Bed <bed@clinic.example>\n"
    control += "Description: a package of the test bed\n"
    text = base64.b64encode(control.encode()).decode()
    path = f"/etc/{name}.conf"
    must(
        machine,
        f"rm -rf /root/build && mkdir -p /root/build/DEBIAN /root/build/etc {into}"
        f" && echo {text} | base64 -d > /root/build/DEBIAN/control && echo {path} > /root/build/DEBIAN/conffiles"
        f" && echo {shlex.quote(conffile)} > /root/build{path}"
        f" && dpkg-deb --build --root-owner-group /root/build {into}/{name}_{version}_all.deb",
    )


def rebuild(machine: str, name: str, added: str, into: str) -> str:
    """A newer version of an installed package, of its own files; returns the version."""
    script = f"""
set -e
rm -rf /root/build && mkdir -p /root/build/DEBIAN {into}
dpkg -L {name} | while read -r path; do [ -d "$path" ] && [ ! -h "$path" ] || echo "$path"; done > /root/files
tar --create --files-from /root/files 2>&- | tar --extract --directory /root/build
dpkg-query --show --showformat='Package: ${{Package}}\\nVersion: ${{Version}}{added}\\nSource: ${{source:Package}}\\n\
Architecture: ${{Architecture}}\\nMulti-Arch: same\\nDepends: ${{Depends}}\\nMaintainer: Bed <bed@clinic.example>\\n\
Description: rebuilt\\n' {name} > /root/build/DEBIAN/control
dpkg-deb --build --root-owner-group /root/build {into}/ >&2
dpkg-deb --field {into}/{name}_*{added}_*.deb Version
"""
    return must(machine, script).splitlines()[-1]


def ask(machine: str) -> None:
    """apt asks the machine's own repository, and no other."""
    only = f"-o Dir::Etc::sourcelist={SOURCE} -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0"
    must(machine, f"apt-get update -qq {only}")


@contextlib.contextmanager
def offered(machine: str, label: str, suite: str) -> Iterator[None]:
    """What lies in the machine's own repository is offered under this label."""
    put(machine, "/root/index.py", INDEX.encode())
    must(machine, f"python3 /root/index.py {REPOSITORY} {label} {suite}")
    must(machine, f"echo 'deb [trusted=yes] file:{REPOSITORY} ./' > {SOURCE}")
    ask(machine)
    try:
        yield
    finally:
        must(machine, f"rm -rf {SOURCE} {REPOSITORY} /var/lib/apt/lists/_srv_updates_*")


def quiet_config(machine: str, **changed: Any) -> str:
    """A configuration for a look beside the monitor's own: it tells nobody, and leaves its state in /root/monitor."""
    path, directory = "/root/monitor.json", "/root/monitor"
    change = "import json; c = json.load(open('/etc/orthanc-monitor.json')); "
    changed = {"mail_to": [], "webhook": "", "directory": directory, "disk_guard_percent": 0, **changed}
    change += f"c.update({json.dumps(changed)}); "
    change += f"json.dump(c, open({path!r}, chr(119)))"
    must(machine, f"mkdir -p {directory} && python3 -c {shlex.quote(change)}")
    return path
