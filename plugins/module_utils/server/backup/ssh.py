# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How restic reaches a repository over SFTP: by an ssh that never prompts, with host keys and key from the settings."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

SECONDS = 60  # a probe ends after so many
# BatchMode: nothing is asked. Half a minute to connect; a line that is dead for five minutes is given up.
# ControlPath: an open connection of somebody else's would do without the keys below.
OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=30",
    "ServerAliveInterval=30",
    "ServerAliveCountMax=10",
    "ControlPath=none",
    "LogLevel=ERROR",
)
# restic's own reading: sftp://user@host:port//path, or sftp:user@host:path without a port
URL = re.compile(
    r"sftp://(?:(?P<user>[^/@:]+)@)?(?P<host>\[[0-9a-fA-F:.%]+\]|[^-/@:\[\]][^/@:\[\]]*)(?::(?P<port>\d+))?/"
)
SHORT = re.compile(r"sftp:(?!//)(?:(?P<user>[^/:]+)@)?(?P<host>[^-/@:\[\]][^/@:\[\]]*):.")
# what would let ssh ask in a window, or use keys that a person has lent to this session and cron does not have
ASKERS = ("DISPLAY", "WAYLAND_DISPLAY", "SSH_ASKPASS", "SSH_AUTH_SOCK")


class Place(NamedTuple):
    """Where sshd is; without user or port ssh's own configuration decides."""

    user: str
    host: str
    port: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which ssh looks for the host's key."""
        host = self.host.lower()
        return (host,) if self.port in ("", "22") else (f"[{host}]:{self.port}", host)

    @property
    def scan(self) -> str:
        """The command that prints the host's keys."""
        return " ".join(["ssh-keyscan", *(["-p", self.port] if self.port not in ("", "22") else []), self.host])


def find_place(repository: str) -> Place | None:
    """Where a repository over SFTP is; None for another one, and for one that restic does not understand."""
    found = URL.match(repository) or SHORT.match(repository)
    if not found:
        return None
    user = found["user"] or ""
    url = found.re is URL
    return Place(unquote(user) if url else user, found["host"].strip("[]"), (found["port"] or "") if url else "")


def build_command(place: Place, known_hosts: str, key: str) -> list[str]:
    """The ssh that restic starts. `known_hosts` and `key` are files; where one is empty, root's own ~/.ssh holds."""
    options = [*OPTIONS]
    if known_hosts:
        files = [f"UserKnownHostsFile={known_hosts}", "GlobalKnownHostsFile=/dev/null", "UpdateHostKeys=no"]
        options += ["StrictHostKeyChecking=yes", *files]
        if len(place.names) == 1:  # by the name in the repository, whatever an alias in ~/.ssh/config makes of it
            options.append(f"HostKeyAlias={place.names[0]}")
    if key:
        options += [f"IdentityFile={key}", "IdentitiesOnly=yes"]
    told = (*(("-p", place.port) if place.port else ()), *(("-l", place.user) if place.user else ()))
    return ["ssh", *(f"-o{option}" for option in options), *told, "-s", "--", place.host, "sftp"]


def build_options(repository: str, known_hosts: str, key: str) -> list[str]:
    """restic's options for such a repository; its version 0.14 knows no other way to give ssh any."""
    place = find_place(repository)
    return ["-o", f"sftp.command={shlex.join(build_command(place, known_hosts, key))}"] if place else []


def build_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what lets ssh, or the ssh of its ProxyJump, or rclone ask a person."""
    kept = {name: value for name, value in environment.items() if name not in ASKERS}
    return {**kept, "SSH_ASKPASS_REQUIRE": "never", "RCLONE_ASK_PASSWORD": "false"}


def probe_repository(place: Place, known_hosts: str, key: str) -> str:
    """What ssh complains of on the way to the repository; empty where it complains of nothing. OSError where it is not
    installed."""
    try:
        done = subprocess.run(
            build_command(place, known_hosts, key), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", check=False, timeout=SECONDS, start_new_session=True,
            env=build_environment(os.environ),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} seconds"
    return done.stderr.strip() if done.returncode else ""


def explain_failure(said: str, place: Place, known_hosts: bool, key: bool) -> str:
    """A sentence with its remedy for what ssh refused by host key, key or subsystem; empty where it was something else.

    `known_hosts` and `key` say whether the settings of these names are there.
    """
    host, setting = place.names[0], "orthanc_backup_ssh_known_hosts"
    source = setting if known_hosts else "/root/.ssh/known_hosts"
    compare = "compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints there"
    if re.search("IDENTIFICATION HAS CHANGED|Host key for .* has changed|REVOKED HOST KEY", said):
        shown = re.search(r"SHA256:[\w+/]{43}", said)
        what = f"{host} shows another host key than {source} has" + (f" ({shown[0]})" if shown else "")
        return (
            f"{what}: it was reinstalled, or another machine answers in its place."
            f" Remedy: {compare}; if it is right, write what `{place.scan}` prints into {setting}, and deploy again."
        )
    if re.search("Host key verification failed|host key is known for", said):
        return (
            f"The host key of {host} is unknown: {source} does not have it."
            f" Remedy: run `{place.scan}`, {compare}, write the line into {setting}, and deploy again."
        )
    if key and re.search("Load key .*: |UNPROTECTED PRIVATE KEY", said):
        return (
            "orthanc_backup_ssh_key is not a key that ssh can use."
            " Remedy: write the whole private key file, without passphrase, from a vault, and deploy again."
        )
    if "Permission denied (" in said:
        mine = "orthanc_backup_ssh_key" if key else "the keys in /root/.ssh"
        public = "its public key" if key else "the public key of one"
        other = "" if key else " or set orthanc_backup_ssh_key, from a vault,"
        return (
            f"{host} does not let {place.user or 'root'} in with {mine}."
            f" Remedy: add {public} to ~/.ssh/authorized_keys of that account,{other} and deploy again."
        )
    if "subsystem request failed" in said:
        return f"{host} offers no SFTP to {place.user or 'root'}. Remedy: enable the subsystem sftp in its sshd_config."
    if "Not allowed at this time" in said:
        what = f"The sshd of {host} refuses this machine for a while, after connections that did not log in"
        return f"{what}. Remedy: wait ten minutes, and deploy again; else see PerSourcePenalties there."
    return ""
