# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends the acceptance report to a web server that collects those of many clinics, by PUT over HTTPS."""

from __future__ import annotations

import http.client
import ssl
import urllib.parse
from pathlib import Path

from ..dicom.web import User, ask

SECONDS = 30  # until a web server that does not answer is given up
KINDS = {".html": "text/html; charset=utf-8", ".json": "application/json"}  # the page first: the overview links to it


def send_report(url: str, host: str, directory: Path) -> str:
    """Sends report.html and report.json from the directory, as <host>.html and <host>.json below the URL.

    `url` ends with a slash and may hold user and password. Returns why that failed, with the web server's name and
    without the rest of the URL; empty if both were accepted.
    """
    place = urllib.parse.urlsplit(url)
    server, user = str(place.hostname), User(*map(urllib.parse.unquote, (place.username or "", place.password or "")))
    try:
        for suffix, kind in KINDS.items():
            trusted = ssl.create_default_context()
            connection = http.client.HTTPSConnection(server, place.port, timeout=SECONDS, context=trusted)
            path = f"{place.path}{urllib.parse.quote(host, safe='')}{suffix}"
            content = (directory / f"report{suffix}").read_bytes()
            reply = ask(connection, "PUT", path, user, content, {"Content_Type": kind})
            if not 200 <= reply.status < 300:
                return f"{server} answers with HTTP status {reply.status}"
    except OSError as error:
        return f"{server}: {error or type(error).__name__}"
    return ""
