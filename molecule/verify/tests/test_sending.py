"""The report of each acceptance test arrives at a web server that is set up as docs/many-clinics.md says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from backups import must
from clients import client, name_of, play
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from verified import DEVICE, call
from watched import changed
from worklists import sh

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[:1]
ROOT = Path(__file__).resolve().parents[3]
COLLECTOR, ADDRESS, NAME, PORT = "orthanc-verify13", "198.51.100.87", "reports.example.org", 8443
SETTINGS, TRUSTED = "/etc/orthanc-verify.json", "/usr/local/share/ca-certificates/reports.crt"
PASSWORD = "a-password-of-this-clinic"
START = f"""
install -d -o www-data -g www-data /srv/reports/clinics
printf '%s\\n' "orthanc-verify12:$(openssl passwd -apr1 {PASSWORD})" "mill:$(openssl passwd -apr1 mill)" \\
  > /etc/nginx/reports.htpasswd
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME} \\
  -keyout /etc/ssl/private/reports.key -out /etc/ssl/reports.crt 2>/dev/null
nginx -c /root/reports.conf >/dev/null 2>&1  # a daemon would keep the connection open
"""
STOP = "kill $(cat /run/reports.pid); rm -r /srv/reports /etc/nginx/reports.htpasswd /etc/ssl/reports.crt"
STOP += " /etc/ssl/private/reports.key /root/reports.conf"


def url_for(password: str) -> str:
    return f"https://orthanc-verify12:{password}@{NAME}:{PORT}/clinics/"


def list_received() -> set[str]:
    return set(must(COLLECTOR, "ls /srv/reports/clinics").split())


@pytest.fixture(name="machine")
def fixture_machine(host: Host) -> Iterator[str]:
    """The clinic's machine, which knows the collector and trusts its certificate."""
    name = name_of(host)
    [server] = re.findall(r"```nginx\n(server \{.*?\n\})\n```", (ROOT / "docs/many-clinics.md").read_text(), re.DOTALL)
    server = server.replace("listen 443", f"listen {PORT}")
    text = f"user www-data;\npid /run/reports.pid;\nevents {{}}\nhttp {{\n{server}\n}}\n"
    must(COLLECTOR, "cat > /root/reports.conf", text.encode())
    must(COLLECTOR, START)
    certificate = must(COLLECTOR, "cat /etc/ssl/reports.crt")
    must(name, f"cat > {TRUSTED}; update-ca-certificates; echo '{ADDRESS} {NAME}' >> /etc/hosts", certificate.encode())
    yield name
    must(COLLECTOR, STOP)
    # /etc/hosts is a mount: its content is replaced
    forget = f'sed "/{NAME}/d" /etc/hosts > /root/hosts; cat /root/hosts > /etc/hosts'
    must(name, f"rm {TRUSTED}; update-ca-certificates --fresh; {forget}")


def test_each_acceptance_test_sends_its_report(host: Host, machine: str) -> None:
    url = url_for(PASSWORD)
    try:
        status, said = play("verify", host, {"orthanc_verify_report_url": url})
        assert status == 0, said
        assert PASSWORD not in said
        assert list_received() == {"orthanc-verify12.html", "orthanc-verify12.json"}
        received = json.loads(must(COLLECTOR, "cat /srv/reports/clinics/orthanc-verify12.json"))
        assert received["passed"]
        assert received["host"] == "orthanc-verify12"
        assert received["clinic"] in must(COLLECTOR, "cat /srv/reports/clinics/orthanc-verify12.html")

        for script, why in (
            (f"c['report_url'] = '{url_for('wrong-password')}'", f"{NAME} answers with HTTP status 401"),
            ("c['host'] = 'mill'", f"{NAME} answers with HTTP status 403"),  # another clinic's report
        ):
            with changed(machine, SETTINGS, script):
                status, report, complaint = call(machine, "run")
            assert status == 0, "the acceptance test itself passed"
            assert report["not_sent"].startswith(why)
            assert f"The report was not sent: {why}" in complaint
            assert "Remedy: correct orthanc_verify_report_url" in complaint
            told = complaint + must(machine, "cat /var/lib/orthanc-verify/report.*")
            assert why in told
            assert PASSWORD not in told
            assert "wrong-password" not in told
        assert list_received() == {"orthanc-verify12.html", "orthanc-verify12.json"}
        # only the office of the page may read it
        asked = ("-w", "%{http_code}", "--resolve", f"{NAME}:{PORT}:{ADDRESS}", f"{url}orthanc-verify12.json")
        assert client(DEVICE, "curl", "-sS", "--insecure", "-o", "/dev/null", *asked).stdout == b"403"

        # a certificate that nobody trusts
        must(machine, f"mv {TRUSTED} /root/ && update-ca-certificates --fresh")
        assert "certificate verify failed" in call(machine, "run")[1]["not_sent"]
        must(machine, f"mv /root/reports.crt {TRUSTED} && update-ca-certificates")
    finally:
        status, said = play("verify", host)
    assert status == 0, said
    assert "not_sent" not in must(machine, "cat /var/lib/orthanc-verify/report.json")
    assert sh(machine, f"grep -c report_url {SETTINGS}")[1].strip() == "1"
