# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends the acceptance report to a web server that collects those of many clinics, by PUT over HTTPS."""

from __future__ import annotations

import base64
import http.client
import ssl
import urllib.parse
from pathlib import Path

SECONDS = 30  # for each file
KINDS = {".html": "text/html; charset=utf-8", ".json": "application/json"}  # the page first: the overview links to it


def send_report(url: str, host: str, directory: Path) -> str:
    """Sends report.html and report.json from the directory, as <host>.html and <host>.json below the URL.

    `url` ends with a slash and may hold user and password. Returns why that failed, with the web server's name and
    without the rest of the URL; empty if both were accepted.
    """
    place = urllib.parse.urlsplit(url)
    headers = {}
    if place.username is not None:
        user = f"{urllib.parse.unquote(place.username)}:{urllib.parse.unquote(place.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    try:
        for suffix, kind in KINDS.items():
            content = (directory / f"report{suffix}").read_bytes()
            path = f"{place.path}{urllib.parse.quote(host, safe='')}{suffix}"
            status, reason = put(place.hostname or "", place.port, path, content, {**headers, "Content-Type": kind})
            if not 200 <= status < 300:
                return f"{place.hostname} answers {status} {reason}"
    except (OSError, http.client.HTTPException) as error:
        return f"{place.hostname}: {error or type(error).__name__}"
    return ""


def put(server: str, port: int | None, path: str, content: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """The status and its reason. OSError, also for a certificate that the machine does not trust."""
    connection = http.client.HTTPSConnection(server, port, timeout=SECONDS, context=ssl.create_default_context())
    try:
        connection.request("PUT", path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.reason
    finally:
        connection.close()
