#!/usr/bin/env python3
"""A clinic's ACME server (pebble) and name server (BIND), and machines that know them."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path

import bed
from certificates import Authority
from registry import put

CONTAINER, ADDRESS, NAME = "orthanc-pebble", "198.51.100.41", "acme.clinic.example"
TSIG = base64.b64encode(b"scenario-tsig-secret").decode()
# its own API; what it signs comes from a root that it makes when it starts
PEBBLE = {
    "listenAddress": "0.0.0.0:14000",
    "managementListenAddress": "0.0.0.0:15000",
    "certificate": "/etc/pebble/server.crt",
    "privateKey": "/etc/pebble/server.key",
    "httpPort": 80,
    "tlsPort": 443,
}
NAMED = f"""\
options {{ directory "/var/cache/bind"; recursion no; }};
key orthanc {{ algorithm hmac-sha256; secret "{TSIG}"; }};
zone clinic.example {{
    type primary; file "clinic.example";
    update-policy {{ grant orthanc name _acme-challenge.pacs.clinic.example. TXT; }};
}};
"""


def zone(address: str) -> str:
    """Three names for the machine, since a clinic may change its mind; one of them for IPv6 alone."""
    return f"""\
$TTL 60
@ SOA ns admin 1 3600 600 86400 60
@ NS ns
ns A {ADDRESS}
pacs A {address}
images A {address}
six AAAA {bed.address6(address)}
"""


def root() -> bytes:
    """The root of what is signed here."""
    get = f"curl -sS --fail --cacert /etc/pebble/ca.crt https://{NAME}:15000/roots/0"
    return bed.docker("exec", CONTAINER, "sh", "-c", get).stdout.encode()


def up(machines: dict[str, str], trusted: Path) -> None:
    """`machines`: their addresses by name. The root of the API's own certificate goes to `trusted`."""
    authority = Authority("Clinic CA")
    certificate, key = authority.issue(NAME)
    trusted.write_text(authority.root)
    put(CONTAINER, "/etc/pebble/ca.crt", authority.root)
    put(CONTAINER, "/etc/pebble/server.crt", certificate)
    put(CONTAINER, "/etc/pebble/server.key", key)
    put(CONTAINER, "/etc/pebble/pebble.json", json.dumps({"pebble": PEBBLE}))
    put(CONTAINER, "/etc/bind/named.conf", NAMED)
    put(CONTAINER, "/var/cache/bind/clinic.example", zone(next(iter(machines.values()))))
    for name in [CONTAINER, *machines]:
        bed.docker("exec", name, "sh", "-c", f"echo {ADDRESS} {NAME} ns.clinic.example >> /etc/hosts")
    bed.docker("exec", CONTAINER, "named", "-u", "bind")
    # every order is challenged, and at once; no nonce is refused on purpose
    moods = ("PEBBLE_AUTHZREUSE=0", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
    environment = [f"--env={mood}" for mood in moods]
    serve = ["pebble", "-config", "/etc/pebble/pebble.json", "-dnsserver", "127.0.0.1:53"]
    bed.docker("exec", "--detach", *environment, CONTAINER, *serve)
    for name in machines:  # for the hook
        install = "apt-get update -qq && apt-get install -qq -y --no-install-recommends bind9-dnsutils"
        bed.docker("exec", "--env=DEBIAN_FRONTEND=noninteractive", name, "sh", "-c", install)
    answers = ["exec", CONTAINER, "curl", "-sS", "--cacert", "/etc/pebble/ca.crt", f"https://{NAME}:14000/dir"]
    for _ in range(100):
        if bed.docker(*answers, check=False).returncode == 0:
            return
        time.sleep(0.1)
    sys.exit(f"acme: pebble in {CONTAINER} does not answer")


if __name__ == "__main__":
    up(json.loads(sys.argv[1]), Path(sys.argv[2]))
