#!/usr/bin/env python3
"""orthanc-verify on the machines of the scenario `verify`, and what is done to these.

As a program it saves Orthanc's image as the file that its argument names.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from backups import carried, must
from clients import PASSWORDS, client, wait_for
from worklists import sh

PROGRAM = "/usr/local/sbin/orthanc-verify"
DEVICE, DEVICE_ADDRESS = "orthanc-us7", "198.51.100.57"
SITE = "/etc/orthanc/site/orthanc.json"
STORAGE, WORKLISTS, DROP = "/var/lib/orthanc/db", "/var/lib/orthanc/worklists", "/srv/worklists/incoming"
PREFIX, NAME = "ACCEPTANCE-TEST-", "ACCEPTANCE^TEST"
NGINX = "/etc/nginx/orthanc/self_signed"


def is_container(machine: str) -> bool:
    return machine == "orthanc-verify13"


def call(machine: str, *arguments: str) -> tuple[int, Any, str]:
    """Exit code, what it says as JSON, and its complaints."""
    done = client(machine, PROGRAM, *arguments, "--json")
    return done.returncode, json.loads(done.stdout or "null"), done.stderr.decode()


def failed(machine: str) -> set[str]:
    """The checks that fail; each says what helps, and the exit code says the same as they do."""
    status, report, said = call(machine, "run")
    assert report, said
    wrong = [check for check in report["checks"] if not check["passed"]]
    assert (status, report["passed"]) == ((1, False) if wrong else (0, True))
    assert all(check["remedy"] for check in wrong), wrong
    assert all(f"FAILED {check['name']}: " in said for check in wrong), said
    return {check["name"] for check in wrong}


REST = """
import base64, sys, urllib.request as u
user, path, *body = sys.argv[1:]
headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}
request = u.Request("http://127.0.0.1:8042" + path, body[0].encode() if body else None, headers)
print(u.urlopen(request).read().decode())
"""


def rest(machine: str, path: str, body: Any = None) -> Any:
    arguments = [f"it:{PASSWORDS['it']}", path, *([] if body is None else [json.dumps(body)])]
    return json.loads(must(machine, f"python3 - {shlex.join(arguments)}", REST.encode()))


def patients(machine: str) -> list[str]:
    """Orthanc's identifiers of synthetic patients."""
    found: list[str] = rest(machine, "/tools/find", {"Level": "Patient", "Query": {"PatientID": f"{PREFIX}*"}})
    return found


def traces(machine: str) -> list[str]:
    """Where anything of the synthetic patient is, in files and in Orthanc's answers."""
    places = f"{WORKLISTS} {DROP} /tmp /var/tmp /var/lib/orthanc-verify/scratch /var/lib/orthanc/tmp"
    found = sh(
        machine, f"grep -rlaE 'ACCEPTANCE.TEST' {places} 2>/dev/null; find {places} -name '*{PREFIX}*' 2>/dev/null"
    )
    return [*found[1].split(), *patients(machine)]


def logged(machine: str) -> str:
    """Everything that the logs of Orthanc, nginx and systemd say."""
    orthanc = "docker logs orthanc 2>&1" if is_container(machine) else "true"
    return must(machine, f"journalctl --output=cat --no-pager; {orthanc}; cat /var/log/nginx/*.log")


def restarted(machine: str) -> None:
    """Orthanc reads its configuration anew, and answers."""
    must(machine, "docker restart orthanc" if is_container(machine) else "systemctl restart orthanc")
    answers(machine)


def answers(machine: str) -> None:
    # whatever it answers: a sabotage may have taken the password away
    http = "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8042, timeout=5); c.request('GET', '/')"
    asked = f'python3 -c "{http}; c.getresponse()" && timeout 1 bash -c "</dev/tcp/127.0.0.1/4242"'
    wait_for(lambda: sh(machine, asked)[0] == 0, "Orthanc answers")


@dataclass(frozen=True)
class Sabotage:
    """What somebody does to a server, what undoes it, and the check that must fail."""

    name: str
    check: str
    do: str = ""
    undo: str = ""
    edit: str = ""  # Python that changes `it`, Orthanc's configuration
    only: bool = True  # whether no other check fails
    machines: tuple[str, ...] = ("orthanc-verify12", "orthanc-verify13")

    @contextmanager
    def done(self, machine: str) -> Iterator[None]:
        if self.edit:
            must(machine, f"cp -p {SITE} /root/before.json")
        try:
            if self.edit:
                script = f"import json; p = {SITE!r}; it = json.load(open(p)); {self.edit}; json.dump(it, open(p, 'w'))"
                must(machine, "python3 -", script.encode())
                restarted(machine)
            if self.do:
                must(machine, self.do)
            yield
        finally:
            if self.undo:
                must(machine, self.undo)
            if self.edit:
                # the same file, which the container has mounted
                must(machine, f"cat /root/before.json > {SITE}")
                restarted(machine)


OPENED = "it['AuthenticationEnabled'] = False; it['LuaScripts'] = []"
# until none of the former processes accepts connections, with the former certificate
RELOAD = (
    "old=$(ps -C nginx -o pid=,args= | awk '/worker process *$/ {print $1}' | paste -sd,); systemctl reload nginx &&"
    " while ps -o args= -p $old | grep -q 'worker process *$'; do sleep 0.1; done"
)
SELF_SIGNED = (
    f"cp -p {NGINX}.crt {NGINX}.key /root/ && openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj /CN=stranger"
    f" -keyout {NGINX}.key -out {NGINX}.crt 2>/dev/null && {RELOAD}"
)
STRANGE_TABLE = (
    "nft add table inet bed; nft 'add chain inet bed input { type filter hook input priority 0; }';"
    " nft add rule inet bed input tcp dport 4242 reject with tcp reset"
)
TABLE, RELOAD_TABLE = "/etc/nftables.d/orthanc.nft", "systemctl reload orthanc-firewall"
SABOTAGES = [
    Sabotage("nginx stopped", "certificate of the proxy", "systemctl stop nginx", "systemctl start nginx", only=False),
    Sabotage(
        *("a plugin missing", "plugin dicom-web is loaded"),
        edit="it['Plugins'] = [one for one in it['Plugins'] if 'DicomWeb' not in one]",
        only=False,
    ),
    Sabotage(
        *("a device's right removed", "Orthanc lists us7 as the inventory does"),
        edit="it['DicomModalities']['us7']['AllowStore'] = False",
    ),
    Sabotage(
        *("worklists unreadable", "worklist query finds the patient"),
        *(
            f"chmod 0700 {WORKLISTS} && chown root: {WORKLISTS}",
            f"chown root:orthanc {WORKLISTS} && chmod 2750 {WORKLISTS}",
        ),
    ),
    Sabotage(
        *("a wrong certificate", "certificate of the proxy", SELF_SIGNED),
        f"cp -p /root/self_signed.* {NGINX.rpartition('/')[0]}/ && {RELOAD}",
        only=False,
    ),
    Sabotage(
        *("DICOM behind another firewall", "C-ECHO from a listed device", STRANGE_TABLE, "nft delete table inet bed"),
        only=False,
    ),
    Sabotage(
        *("a device out of the firewall", "the kernel lets in whom the inventory names"),
        f"nft delete element inet orthanc dicom_4 '{{ {DEVICE_ADDRESS} }}'",
        "systemctl reload orthanc-firewall",
        only=False,  # that its table is another one is told as well
    ),
    Sabotage(
        *("a source too many in the firewall's file", "the kernel lets in nobody else"),
        f"cp -p {TABLE} /root/before.nft && sed -i '0,/elements = {{/s//& 192.0.2.0\\/25,/' {TABLE} && {RELOAD_TABLE}",
        f"cp -p /root/before.nft {TABLE} && {RELOAD_TABLE}",
    ),
    Sabotage(
        *("a rule before the firewall's", "the kernel's table is the one that was deployed"),
        *("nft insert rule inet orthanc prerouting accept", "systemctl restart orthanc-firewall"),
        only=False,  # that it lets in everybody is told as well
    ),
    Sabotage(
        *("another port sent to a closed one", "no other rule leads past it"),
        "nft 'table ip bed { chain c { type nat hook prerouting priority dstnat; tcp dport 104 redirect to :443; }; }'",
        "nft delete table ip bed",
    ),
    Sabotage("authentication off", "port 8042 without a password", edit=OPENED, only=False),
    Sabotage(
        *("the storage is root's", "C-STORE from a listed device"),
        *(f"chown root: {STORAGE} && chmod 0755 {STORAGE}", f"chown orthanc: {STORAGE} && chmod 0750 {STORAGE}"),
        only=False,
    ),
    Sabotage(
        *("the storage is closed", "C-STORE from a listed device"),
        *(f"chown root: {STORAGE}", f"chown orthanc: {STORAGE}"),
        only=False,
    ),
    Sabotage(
        *("a user's password changed", "viewer reads studies"),
        edit="it['RegisteredUsers']['viewer'] = 'another-password'",
        only=False,
    ),
    Sabotage(
        *("the gate stopped", "worklist query finds the patient"),
        *("systemctl stop orthanc-worklist.path orthanc-worklist.service", "systemctl start orthanc-worklist.path"),
    ),
    Sabotage(
        *("the last backup failed", "last backup"),
        'mkdir -p /var/lib/orthanc-backup; echo \'{"result": "failed"}\' > /var/lib/orthanc-backup/backup.json',
        "rm /var/lib/orthanc-backup/backup.json",
        machines=("orthanc-verify12",),
    ),
]


if __name__ == "__main__":
    carried(sys.argv[1])
