"""A web viewer: a page of another origin than the server's, in a real browser at a client's place."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import page
import places
from clients import HOSTNAME, name_of
from testinfra.host import Host

VIEWER_HOST, OTHER_HOST = "viewer.clinic.example", "other.clinic.example"


class Site(NamedTuple):
    """A web server on this machine, under both names."""

    port: int
    key: str  # SHA-256 of its public key


@contextlib.contextmanager
def serve(home: Path) -> Iterator[Site]:
    """What lies in that directory; a key and a certificate are made there, and an empty page where there is none."""
    if not (home / "index.html").exists():
        (home / "index.html").write_text("<!DOCTYPE html><title>A viewer</title>")
    key, certificate = home / "viewer.key", home / "viewer.crt"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    names = f"subjectAltName=DNS:{VIEWER_HOST},DNS:{OTHER_HOST}"
    subprocess.run([*make, "-subj", "/CN=viewer", "-addext", names], check=True, capture_output=True)
    public = subprocess.run(
        ["sh", "-c", f"openssl pkey -in {key} -pubout -outform der | openssl dgst -sha256 -binary"],
        check=True,
        capture_output=True,
    ).stdout
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(home))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(server.server_address[1], base64.b64encode(public).decode())
        server.shutdown()


def trusting(host: Host) -> str:
    """Chromium takes the machine's certificate, and no other one that it does not know."""
    show = "openssl x509 -pubkey -noout -in /etc/nginx/orthanc/self_signed.crt | openssl pkey -pubin -outform der"
    digest = host.check_output(f"{show} | openssl dgst -sha256 -binary | base64")
    return f"--ignore-certificate-errors-spki-list={digest.strip()}"


@contextlib.contextmanager
def at(host: Host, site: Site, origin: str, client: str) -> Iterator[page.Browser]:
    """A browser of that client in the office that shows the page of that origin."""
    with places.lent(client, name_of(host), 1) as address:
        here = f"127.0.0.1:{site.port}"
        rules = f"MAP {HOSTNAME} {address}, MAP {VIEWER_HOST} {here}, MAP {OTHER_HOST} {here}"
        trusted = f"{trusting(host)},{site.key}"
        with page.browser(f"--host-resolver-rules={rules}, MAP * ~NOTFOUND", trusted) as chromium:
            chromium.open(f"https://{origin}/")
            yield chromium
