"""What is on a machine: files with mode, owner and content, accounts, units, mounts, ports, tables, packages.

Prints a JSON object of names and values. Logs and what packages and Docker note for themselves are left out.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import re
import stat
import subprocess
from pathlib import Path

PLACES = (
    *("/etc", "/usr/local", "/usr/lib/systemd", "/var/lib", "/var/spool", "/var/www", "/srv", "/opt", "/root", "/home"),
)
WITHOUT = {"/var/lib/dpkg", "/var/lib/apt", "/var/lib/docker", "/var/lib/containerd"}
# accounts are compared one by one
LISTS = {
    f"/etc/{name}{end}" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid") for end in ("", "-")
}


def run(*command: str) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        return []


def find_name(number: int, group: bool) -> str:
    try:
        return grp.getgrgid(number).gr_name if group else pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def describe(path: str) -> str:
    known = os.lstat(path)
    if stat.S_ISLNK(known.st_mode):
        return f"link {os.readlink(path)}"
    owner = f"{find_name(known.st_uid, False)}:{find_name(known.st_gid, True)}"
    content = hashlib.sha256(Path(path).read_bytes()).hexdigest() if stat.S_ISREG(known.st_mode) else "-"
    return f"{stat.filemode(known.st_mode)} {owner} {content}"


found: dict[str, str] = {}
for place in PLACES:
    for directory, below, names in os.walk(place):
        below[:] = [name for name in below if os.path.join(directory, name) not in WITHOUT]
        for path in [directory, *(os.path.join(directory, name) for name in names)]:
            if path not in LISTS:
                found[f"file {path}"] = describe(path)
        for name in below:
            if os.path.islink(path := os.path.join(directory, name)):
                found[f"file {path}"] = describe(path)
for line in run("getent", "passwd"):
    found[f"account {line.split(':')[0]}"] = line
for line in run("getent", "group"):
    found[f"group {line.split(':')[0]}"] = line.split(":")[3]
for line in run("systemctl", "list-unit-files", "--no-legend", "--plain"):
    found[f"unit {line.split()[0]}"] = line.split()[1]
# also those whose files are gone
for line in run("systemctl", "list-units", "--all", "--no-legend", "--plain", "*orthanc*", "*worklist*"):
    found[f"loaded {line.split()[0]}"] = " ".join(line.split()[1:3])
for line in run("findmnt", "--noheadings", "--list", "--output", "TARGET"):
    found[f"mount {line}"] = ""
for line in run("ss", "--no-header", "--listening", "--numeric", "--tcp", "--udp", "--processes"):
    words = line.split()
    found[f"port {words[0]} {words[4]}"] = re.findall(r'\(\("([^"]+)"', line)[0] if "((" in line else ""
for line in run("nft", "list", "tables"):
    found[line] = "\n".join(
        re.sub(r"counter packets \d+ bytes \d+", "counter", one) for one in run("nft", "list", *line.split())
    )
for line in run("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status} ${Version}\n"):
    found[f"package {line.split()[0]}"] = line.partition(" ")[2]
for line in run("docker", "ps", "--all", "--format", "{{.Names}} {{.State}} {{.Image}}"):
    found[f"container {line.split()[0]}"] = line
for line in run("docker", "network", "ls", "--format", "{{.Name}}"):
    found[f"network {line}"] = ""
print(json.dumps(found))
