"""A machine that somebody used before, and a deploy that meets it: for the scenario `lived_in`."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pydicom
from backups import must
from clients import ROOT, content_of, example, fingerprint, name_of, play, put, wait_for
from pydicom.uid import generate_uid
from testinfra.host import Host

IMAGES = 3
GO_ON = "/run/clinic-tool.may-go-on"
# An upgrade of the clinic's own that takes until somebody lets it end.
TOOL = """\
Package: clinic-tool
Version: {version}
Architecture: all
Maintainer: the clinic <it@clinic.example>
Description: a tool of the clinic's
"""
RELEASE = """\
Origin: clinic
Suite: stable
Codename: stable
Date: Sat, 01 Aug 2026 00:00:00 UTC
SHA256:
 {digest} {size} Packages
"""
POSTINST = f"""\
#!/bin/sh
set -e
case "$2" in 1.0) while [ ! -e {GO_ON} ]; do sleep 0.2; done;; esac
"""
UPGRADES = """\
Unattended-Upgrade::Origins-Pattern { "origin=clinic"; };
APT::Periodic::Update-Package-Lists "0";
APT::Periodic::Unattended-Upgrade "1";
"""
# what a person's machine has, but for packages
PLACES = "/etc /home /opt /root /srv /usr/local /var/www /var/lib/orthanc"


def stored(machine: str, port: int = 4242) -> set[str]:
    """The SOP Instance UIDs of images that the Orthanc of before has."""
    found = set()
    must(machine, "mkdir -p /root/images")
    for number in range(IMAGES):
        one = pydicom.dcmread(example())
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        put(machine, f"/root/images/{number}.dcm", content_of(one))
        found.add(str(one.SOPInstanceUID))
    wait_for(lambda: must(machine, f"echoscu -to 5 127.0.0.1 {port} && echo yes || true").endswith("yes\n"), "Orthanc")
    must(machine, f"storescu -to 10 127.0.0.1 {port} /root/images/*.dcm")
    return found


def refused(host: Host, *said: str, settings: dict[str, Any] | None = None) -> str:
    """What a deploy says that is refused with these words, and changes nothing."""
    before = fingerprint(host), theirs(name_of(host))
    status, told = play("deploy", host, settings)
    assert status != 0, told
    assert [one for one in said if one not in told] == [], told[-4000:]
    after = fingerprint(host), theirs(name_of(host))
    # Docker may write its rules again, in another order
    assert {*after[0].splitlines()} ^ {*before[0].splitlines()} == set()
    assert gone_or_changed(after[1], before[1]) == gone_or_changed(before[1], after[1]) == []
    return told


# --- what is theirs -----------------------------------------------------------------------------
def theirs(machine: str) -> dict[str, str]:
    """Each file with its hash, mode and owner; accounts, groups, enabled units and containers with what they are."""
    # an index moves while Orthanc runs
    hashes = f"find {PLACES} -xdev -type f ! -path '*/db-v6/index*' -exec sha256sum {{}} + | sed 's/^/hash /'"
    modes = f"find {PLACES} -xdev -type f -printf 'mode %m:%U:%G  %p\\n' -o -type l -printf 'link %l  %p\\n'"
    lists = "getent passwd | sed 's/^/account /;s/:/  /'; getent group | sed 's/^/group /;s/:/  /'"
    units = "systemctl list-unit-files --state=enabled --no-legend --plain | awk '{print \"unit enabled  \" $1}'"
    boxes = "docker ps --all --format 'container {{.ID}} {{.State}} {{.Image}}  {{.Names}}'"
    found = {}
    for line in must(machine, f"{hashes}; {modes}; {lists}; {units}; {boxes}").splitlines():
        what, _, name = line.partition("  ")
        kind, _, value = what.partition(" ")
        if kind in ("account", "group"):
            kind, name, value = kind, value, name
        found[f"{kind} {name}"] = value
    return found


def gone_or_changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names of what was there and is not, or is another; what came besides is nobody else's."""
    return sorted(name for name, value in before.items() if after.get(name) != value)


# --- an upgrade at work -------------------------------------------------------------------------
def begin_upgrade(machine: str) -> None:
    """Debian's unattended-upgrades installs a package, and so has dpkg's lock, until `end_upgrade`."""
    must(machine, f"rm -f {GO_ON} /var/lib/apt/periodic/*; mkdir -p /opt/clinic")
    for version in ("1.0", "1.1"):
        control = TOOL.format(version=version)
        must(machine, f"mkdir -p /tmp/tool-{version}/DEBIAN")
        put(machine, f"/tmp/tool-{version}/DEBIAN/control", control.encode())
        put(machine, f"/tmp/tool-{version}/DEBIAN/postinst", POSTINST.encode())
        name = f"clinic-tool_{version}_all.deb"
        must(
            machine,
            f"chmod 755 /tmp/tool-{version}/DEBIAN/postinst && dpkg-deb --build /tmp/tool-{version} /opt/clinic/{name}",
        )
        size, digest = must(machine, f"cd /opt/clinic && stat -c %s {name}; sha256sum < {name}").split()[:2]
        entry = f"{control}Filename: ./{name}\nSize: {size}\nSHA256: {digest}\n".encode()
        put(machine, "/opt/clinic/Packages", entry)
    release = RELEASE.format(digest=hashlib.sha256(entry).hexdigest(), size=len(entry))
    put(machine, "/opt/clinic/Release", release.encode())
    put(machine, "/etc/apt/sources.list.d/clinic.list", b"deb [trusted=yes] file:/opt/clinic ./\n")
    put(machine, "/etc/apt/apt.conf.d/52clinic", UPGRADES.encode())
    must(machine, "dpkg --install /opt/clinic/clinic-tool_1.0_all.deb && apt-get update -qq")
    must(machine, "rm -rf /tmp/tool-*; systemctl start --no-block apt-daily-upgrade.service")
    at_work = "pgrep -f '[c]linic-tool.postinst configure 1.0' || true"
    wait_for(lambda: must(machine, at_work), "unattended-upgrades at work")


def end_upgrade(machine: str) -> None:
    must(machine, f"touch {GO_ON}")


def ad_hoc(host: Host, module: str, arguments: str) -> str:
    """What one call of a module says."""
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    command = ["ansible", "--inventory", str(inventory), "--become", "--module-name", f"clinicops.orthanc.{module}"]
    done = subprocess.run(
        [*command, "--args", arguments, name_of(host)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"},
    )
    return " ".join(done.stdout.split())


def remedies(told: str, what: str) -> str:
    """The command after `Remedy:` in the sentence that begins so."""
    found = re.search(
        rf"{re.escape(what)} .*? Remedy: (?:[a-z ]+: )?(.*?)(?:[.;] (?:It stays|if it is intended)|[.] )", told
    )
    assert found, told[-4000:]
    return found[1]
