"""What goes wrong in a clinic, and who tells it: for the scenarios `monitor` and `verify`."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from typing import Any

import bed
from backups import STORAGE, must, service
from clients import ADDRESSES, client, put, wait_for
from worklists import QUARANTINE, sh

MAILBOX = "orthanc-monitor12"  # its postfix delivers for every machine
PROBE = "orthanc-probe"
CONFIGURATION = "/etc/orthanc/site/orthanc.json"
RECEIVER = """
import http.server
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/tmp/received", "ab") as file:
            file.write(body + b"\\n")
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("", 8080), Receiver).serve_forever()
"""


def docker(machine: str) -> bool:
    return machine.endswith("13")


# --- the monitor --------------------------------------------------------------------------------
def look(machine: str, times: int = 1, ahead: float = 0) -> dict[str, str]:
    """Alerts after so many looks of the unit, with their details; `ahead` are seconds by which its clock runs ahead."""
    command = "systemctl start orthanc-monitor.service"
    if ahead:
        command = f"faketime -f +{ahead:.0f}s /usr/local/sbin/orthanc-monitor look"
    must(machine, f"for _ in $(seq {times}); do {command} || exit; done")
    return firing(machine)


def state(machine: str) -> Any:
    return json.loads(must(machine, "cat /var/lib/orthanc-monitor/state.json"))


def firing(machine: str) -> dict[str, str]:
    found = state(machine)["alerts"].items()
    return {key: alert["detail"] for key, alert in found if alert["firing"] and not alert["covered"]}


def value(machine: str, metric: str, of: str = "") -> float | None:
    values = {(name, object_): number for name, _, object_, number in state(machine)["values"]}
    found: float | None = values.get((metric, of))
    return found


def quiet(machine: str) -> None:
    """The tests look themselves; everything is as after a deploy."""
    must(machine, "systemctl stop orthanc-monitor.timer")
    wait_for(lambda: sh(machine, "systemctl is-active orthanc-monitor.service")[1].strip() != "activating", "the look")
    assert look(machine, 3) == {}


def mails(machine: str) -> list[str]:
    """Subjects and first lines of what lies in the clinic's mailbox, of this machine's mails."""
    wait_for(
        lambda: sh(MAILBOX, 'test -z "$(find /var/spool/postfix/active /var/spool/postfix/incoming -type f)"')[0] == 0,
        "delivery",
    )
    text = must(MAILBOX, "cat /var/mail/clinic 2>&- || true")
    return [part for part in text.split("\nFrom ") if f"{machine} (" in part]


def received() -> list[Any]:
    text = client(PROBE, "sh", "-c", "cat /tmp/received 2>&- || true").stdout.decode()
    return [json.loads(line) for line in text.splitlines()]


def receive() -> None:
    put(PROBE, "/tmp/receiver.py", RECEIVER.encode())
    if client(PROBE, "sh", "-c", "ss -Hltn 'sport = 8080' | grep -q .").returncode:
        bed.docker("exec", "--detach", PROBE, "python3", "/tmp/receiver.py")
    wait_for(lambda: client(PROBE, "sh", "-c", "ss -Hltn 'sport = 8080' | grep -q .").returncode == 0, "the webhook")


# --- what goes wrong ----------------------------------------------------------------------------
def healthy(machine: str) -> None:
    """Orthanc answers again."""
    ask = "echoscu -to 2 -aet ACCEPTANCE_TEST -aec ORTHANC 127.0.0.1 4242"
    wait_for(lambda: sh(machine, ask)[0] == 0, "Orthanc")


@contextlib.contextmanager
def kept(machine: str, path: str) -> Iterator[None]:
    """A file comes back as it was."""
    copy = f"/root/kept{path.replace('/', '-')}"
    must(machine, f"cp -a {path} {copy}")
    try:
        yield
    finally:
        must(machine, f"cp -a {copy} {path} && rm {copy}")


@contextlib.contextmanager
def changed(machine: str, path: str, script: str) -> Iterator[None]:
    """A JSON file says something else: `script` changes the dictionary `c`."""
    with kept(machine, path):
        change = f"import json, time; p = '{path}'; c = json.load(open(p)); {script}; json.dump(c, open(p, 'w'))"
        must(machine, f"python3 -c {shlex.quote(change)}")
        yield


@contextlib.contextmanager
def plugin_missing(machine: str) -> Iterator[None]:
    with changed(machine, CONFIGURATION, "c['Plugins'] = [one for one in c['Plugins'] if 'Worklists' not in one]"):
        service(machine, "restart")
        healthy(machine)
        yield
    service(machine, "restart")
    healthy(machine)


@contextlib.contextmanager
def stopped(machine: str, unit: str) -> Iterator[None]:
    must(machine, f"systemctl stop {unit}")
    try:
        yield
    finally:
        must(machine, f"systemctl start {unit}")


@contextlib.contextmanager
def threads_busy(machine: str) -> Iterator[None]:
    """As many associations as Orthanc has threads for; each asks on and on."""
    echo = "timeout 120 echoscu --repeat 10000000 -aet ACCEPTANCE_TEST -aec ORTHANC 127.0.0.1 4242"
    must(machine, f"for _ in 1 2 3 4; do {echo} >/dev/null 2>&1 & done")
    try:
        yield
    finally:
        must(machine, "pkill -f '^echoscu --repeat'")
    # Orthanc tells the least of the last seconds
    wait_for(lambda: look(machine) is not None and (value(machine, "threads_free", "dicom") or 0) > 0, "free threads")


@contextlib.contextmanager
def orthanc_stopped(machine: str) -> Iterator[None]:
    service(machine, "stop")
    try:
        yield
    finally:
        service(machine, "start")
        healthy(machine)


STATISTICS = (
    "import sys; sys.path.insert(0, '/usr/local/lib/clinicops-orthanc'); from pathlib import Path; "
    "from server.orthanc.index import write_statistics; write_statistics(Path('{}/index'), {})"
)


@contextlib.contextmanager
def statistics_gone(machine: str) -> Iterator[None]:
    """As in an index that came from elsewhere."""
    try:
        service(machine, "stop")
        must(machine, f'python3 -c "{STATISTICS.format(STORAGE, False)}"')
        service(machine, "start")
        healthy(machine)
        yield
    finally:
        service(machine, "stop")
        must(machine, f'python3 -c "{STATISTICS.format(STORAGE, True)}"')
        service(machine, "start")
        healthy(machine)


@contextlib.contextmanager
def small_disk(machine: str, size: int) -> Iterator[None]:
    """Orthanc and its images on a disk of its own; the images of meanwhile go with it."""
    service(machine, "stop")
    copy = f"mkdir /mnt/small && mount -t tmpfs -o size={size} tmpfs /mnt/small && rm -f {STORAGE}/.orthanc-reserve"
    must(machine, f"{copy} && cp -a {STORAGE}/. /mnt/small/ && chown --reference={STORAGE} /mnt/small")
    must(machine, f"chmod --reference={STORAGE} /mnt/small && mount --move /mnt/small {STORAGE} && rmdir /mnt/small")
    service(machine, "start")
    healthy(machine)
    try:
        yield
    finally:
        service(machine, "stop")
        must(machine, f"umount {STORAGE}")
        service(machine, "start")
        healthy(machine)


@contextlib.contextmanager
def certificate(machine: str, days: int) -> Iterator[None]:
    """nginx shows another certificate of the same key."""
    path = must(machine, "grep -rhoP 'ssl_certificate +\\K[^;]+' /etc/nginx/ | head -1").strip()
    key = must(machine, "grep -rhoP 'ssl_certificate_key +\\K[^;]+' /etc/nginx/ | head -1").strip()
    with kept(machine, path):
        make = f"openssl req -x509 -key {key} -subj /CN=pacs.clinic.example -days {days}"
        must(machine, f"{make} -addext subjectAltName=DNS:pacs.clinic.example > {path} && systemctl reload nginx")
        yield
    must(machine, "systemctl reload nginx")


@contextlib.contextmanager
def restore_check_failed(machine: str) -> Iterator[None]:
    """Of itself: the repository is not there when the check wants to read it."""
    must(machine, "mv /srv/backup /srv/backup-away")
    try:
        assert sh(machine, "orthanc-backup check")[0] == 1
    finally:
        must(machine, "mv /srv/backup-away /srv/backup")
    yield
    must(machine, "orthanc-backup check")


@contextlib.contextmanager
def mount_gone(machine: str) -> Iterator[None]:
    must(machine, "mkdir -p /mnt/away && mount --bind /var/lib/orthanc /mnt/away && umount -l /var/lib/orthanc")
    try:
        yield
    finally:
        must(machine, "mount --bind /mnt/away /var/lib/orthanc && umount /mnt/away")
        # one by one: Docker 26 may wait for ever for a restart
        service(machine, "stop")
        service(machine, "start")
        healthy(machine)


@contextlib.contextmanager
def item_refused(machine: str) -> Iterator[None]:
    must(machine, "head -c 500 /dev/urandom > /srv/worklists/incoming/bad.wl")
    wait_for(lambda: sh(machine, f"ls {QUARANTINE}/*.reason")[0] == 0, "quarantine")
    try:
        yield
    finally:
        must(machine, f"rm -f {QUARANTINE}/*")


LOCK = "import sqlite3, time; c = sqlite3.connect('{}/index', isolation_level=None); "
LOCK += "c.execute('PRAGMA locking_mode = EXCLUSIVE'); c.execute('BEGIN EXCLUSIVE'); print('held'); time.sleep(600)"


@contextlib.contextmanager
def index_locked(machine: str) -> Iterator[None]:
    service(machine, "stop")
    put(machine, "/root/lock.py", LOCK.format(STORAGE).encode())
    must(machine, "systemd-run --quiet --unit=index-reader python3 -u /root/lock.py")
    wait_for(lambda: "held" in sh(machine, "journalctl --unit=index-reader --output=cat")[1], "the lock")
    # it begins, and ends at once
    sh(machine, "docker start orthanc" if docker(machine) else "systemctl start --no-block orthanc")
    try:
        yield
    finally:
        must(machine, "systemctl stop index-reader")
        healthy(machine)  # by itself


@contextlib.contextmanager
def firewall_gone(machine: str) -> Iterator[None]:
    must(machine, "nft delete table inet orthanc")
    try:
        yield
    finally:
        must(machine, "systemctl restart orthanc-firewall")


@contextlib.contextmanager
def device_rejected(machine: str) -> Iterator[None]:
    """us1 says that it is us2, whose address is another."""
    done = client(
        PROBE, "/usr/bin/echoscu", "-to", "5", "-aet", "US2", "-aec", "ORTHANC", ADDRESSES[machine][0], "4242"
    )
    assert done.returncode != 0
    yield


@contextlib.contextmanager
def log_disk_full(machine: str) -> Iterator[None]:
    must(machine, "mount -t tmpfs -o size=64m tmpfs /var/log && fallocate -l 60m /var/log/large")
    try:
        yield
    finally:
        must(machine, "umount -l /var/log && systemctl restart systemd-journald")


@contextlib.contextmanager
def restarted_soon(machine: str) -> Iterator[None]:
    """systemd waits a second before it starts Orthanc again, instead of five; Docker has a rule of its own."""
    drop_in = "/run/systemd/system/orthanc.service.d"
    if not docker(machine):
        text = "[Service]\\nRestartSec=1\\n"
        must(machine, f"mkdir -p {drop_in} && printf '{text}' > {drop_in}/z-bed.conf && systemctl daemon-reload")
    try:
        yield
    finally:
        if not docker(machine):
            must(machine, f"rm -r {drop_in} && systemctl daemon-reload")


@contextlib.contextmanager
def restart_loop(machine: str) -> Iterator[None]:
    with restarted_soon(machine), kept(machine, CONFIGURATION):
        ask = "docker inspect --format '{{.RestartCount}}' orthanc"
        if not docker(machine):
            ask = "systemctl show --property=NRestarts --value orthanc"
        before = int(must(machine, ask))  # a start by hand lets the count begin anew, unseen by the monitor
        must(machine, f"echo broken > {CONFIGURATION}")
        sh(machine, "docker restart orthanc" if docker(machine) else "systemctl restart --no-block orthanc")
        wait_for(lambda: int(must(machine, ask)) > before + 4, "restarts")
        yield
    healthy(machine)  # by itself


@contextlib.contextmanager
def new_vulnerability(machine: str) -> Iterator[None]:
    path = "/usr/local/share/orthanc-monitor/vulnerabilities.json"
    with kept(machine, path):
        new = {"id": "CVE-2099-0001", "source": "orthanc", "fixed_in": "99.0.0", "summary": "", "remedy": "", "url": ""}
        put(machine, path, json.dumps({"vulnerabilities": [new]}).encode())
        yield
