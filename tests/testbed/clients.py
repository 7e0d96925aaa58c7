"""Real clients in containers of their own, and deploys as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[2]
SCANNER, UNLISTED, OFFICE, OUTSIDE = "orthanc-us2", "orthanc-unlisted", "orthanc-office", "orthanc-outside"
# name of the machine: its address for the clinic's devices, the office and outside
ADDRESSES = {
    "orthanc-bookworm": ("198.51.100.12", "198.51.100.72", "198.51.100.142"),
    "orthanc-trixie": ("198.51.100.13", "198.51.100.73", "198.51.100.143"),
}
HOSTNAME = "pacs.clinic.example"
PASSWORDS = {name: f"scenario-{name}-password" for name in ("it", "viewer", "gateway")}
VIEWER = f"viewer:{PASSWORDS['viewer']}"


def name_of(host: Host) -> str:
    return str(host.backend.get_hostname())


def client(name: str, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["docker", "exec", "-i", name, *command], input=stdin, capture_output=True, check=False, timeout=120
    )


def put(name: str, path: str, content: bytes) -> None:
    assert client(name, "sh", "-c", f"cat > {path}", stdin=content).returncode == 0


def scu(name: str, tool: str, aet: str, address: str, *arguments: str, called: str = "ORTHANC") -> tuple[int, str]:
    """Exit code and all that the DICOM client `tool` says; findscu exits 0 when it is refused."""
    done = client(name, tool, "-v", "-to", "5", "-aet", aet, "-aec", called, address, "4242", *arguments)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def https(
    host: Host, name: str, path: str, *arguments: str, user: str = VIEWER, ca: bytes = b""
) -> tuple[int, str, bytes]:
    """Status, content type and body as the client `name` gets them, the CA verified."""
    machine = name_of(host)
    put(name, f"/tmp/{machine}.crt", ca or host.file("/etc/nginx/orthanc/ca.crt").content)
    options = ["--silent", "--show-error", "--max-time", "60", "--cacert", f"/tmp/{machine}.crt"]
    options += ["--resolve", f"{HOSTNAME}:443:{ADDRESSES[machine][1]}", "--output", "/tmp/body"]
    options += ["--write-out", "%{http_code} %{content_type}", *(["--user", user] if user else []), *arguments]
    url = path if path.startswith("https:") else f"https://{HOSTNAME}{path}"
    done = client(name, "curl", *options, url)
    assert done.returncode == 0, done.stderr
    status, _, kind = done.stdout.decode().partition(" ")
    return int(status), kind, client(name, "cat", "/tmp/body").stdout


def start(playbook: str, host: Host, settings: dict[str, Any] | None = None, *more: str) -> subprocess.Popen[str]:
    """A playbook on one machine, still running."""
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    options = ["--inventory", str(inventory), "--limit", name_of(host), "--extra-vars", json.dumps(settings or {})]
    return subprocess.Popen(
        ["ansible-playbook", *options, *more, f"clinicops.orthanc.{playbook}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def play(playbook: str, host: Host, settings: dict[str, Any] | None = None, *more: str) -> tuple[int, str]:
    """Exit code and output (each run of white space one space) of a playbook on one machine."""
    running = start(playbook, host, settings, *more)
    said, _none = running.communicate()
    return running.returncode, " ".join(said.split())


def wait_for(is_true: Callable[[], Any], what: str, limit: float = 60) -> None:
    end = time.monotonic() + limit
    while not is_true():
        assert time.monotonic() < end, f"{what}: not within {limit} s"
        time.sleep(0.1)


def fingerprint(host: Host) -> str:
    """Everything that a deploy would write, and when each service started, on a virgin machine too."""
    written = "/etc/orthanc /etc/nginx /etc/nftables.d /etc/systemd/system /etc/passwd /var/lib/orthanc /srv"
    packages = "/var/lib/dpkg/status /var/lib/apt/lists"
    # a directory's own time moves with the index's journal; a new file shows as itself
    printf = "-type d -printf '%p %m %u %g\\n' -o -printf '%p %m %u %g %T@\\n'"
    moving = "-e /var/lib/orthanc/db/ -e /var/lib/orthanc/tmp"
    files = host.run(f"find {written} {packages} {printf} 2>/dev/null | grep -v {moving} | sort").stdout
    services = host.run("systemctl show --property ExecMainStartTimestampMonotonic orthanc nginx").stdout
    rules = host.check_output("nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'")
    return f"{files}{services}{rules}"
