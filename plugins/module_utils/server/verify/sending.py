# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends the acceptance report to a server that collects those of many clinics: by PUT over HTTPS, or by SFTP."""

from __future__ import annotations

import http.client
import ssl
import urllib.parse
from pathlib import Path

from ..core.process import run_program
from ..dicom.web import User, ask

SECONDS = 30  # until a server that does not answer is given up
KINDS = {".html": "text/html; charset=utf-8", ".json": "application/json"}  # the page first: the overview links to it
# what the deploy writes for SFTP
KEY, KNOWN_HOSTS = Path("/etc/orthanc-verify.key"), Path("/etc/orthanc-verify.known_hosts")
# the key and the host's key are the settings' alone, whatever root has in ~/.ssh, and nothing is asked
SFTP = (
    *("sftp", "-F", "/dev/null", "-oLogLevel=ERROR", "-oBatchMode=yes", f"-oConnectTimeout={SECONDS}"),
    *("-oStrictHostKeyChecking=yes", f"-oUserKnownHostsFile={KNOWN_HOSTS}"),
    *("-oGlobalKnownHostsFile=/dev/null", "-oUpdateHostKeys=no"),
    *(f"-oIdentityFile={KEY}", "-oIdentitiesOnly=yes", "-oIdentityAgent=none"),
)


def send_report(url: str, host: str, directory: Path) -> str:
    """Sends report.html and report.json from the directory, as <host>.html and <host>.json below the URL.

    `url` ends with a slash and may hold user and password. Returns why that failed, with the server's name and without
    the rest of the URL; empty if both were accepted.
    """
    try:
        place = urllib.parse.urlsplit(url)
        name = urllib.parse.quote(host, safe="")
        return (put_by_sftp if place.scheme == "sftp" else put_by_https)(place, name, directory)
    except ValueError:  # its text may hold the password
        return "its host, port or path is not valid"


def put_by_https(place: urllib.parse.SplitResult, name: str, directory: Path) -> str:
    """Sends both files with their user and password. Returns why that failed."""
    # a path with letters that HTTP does not have; what is encoded already stays
    path = urllib.parse.quote(place.path, safe="/%!$&'()*+,;=:@")
    server, user = str(place.hostname), User(*map(urllib.parse.unquote, (place.username or "", place.password or "")))
    try:
        for suffix, kind in KINDS.items():
            trusted = ssl.create_default_context()
            connection = http.client.HTTPSConnection(server, place.port, timeout=SECONDS, context=trusted)
            content = (directory / f"report{suffix}").read_bytes()
            reply = ask(connection, "PUT", f"{path}{name}{suffix}", user, content, {"Content_Type": kind})
            if not 200 <= reply.status < 300:
                return f"{server} answers with HTTP status {reply.status}"
    except OSError as error:
        return f"{server}: {error or type(error).__name__}"
    return ""


def put_by_sftp(place: urllib.parse.SplitResult, name: str, directory: Path) -> str:
    """Sends both files, each under another name until it is complete. Returns why that failed."""
    server, user = str(place.hostname), urllib.parse.unquote(place.username or "")
    steps = []
    for suffix in KINDS:
        target = f"{place.path}{name}{suffix}"
        steps += [f'put "{directory}/report{suffix}" "{target}.part"', f'rename "{target}.part" "{target}"']
    port = [f"-P{place.port}"] if place.port else []
    address = f"[{server}]" if ":" in server else server
    command = [*SFTP, *port, "-b", "-", f"{user}@{address}"]
    done = run_program(*command, text="\n".join(steps) + "\n", seconds=4 * SECONDS)
    lines = (line.strip() for line in done.errors.splitlines())
    said = [line for line in lines if line and not line.startswith("Connection closed")]  # why is in the line before
    return f"{server}: {said[-1] if said else f'sftp ended with {done.status}'}" if done.status else ""
