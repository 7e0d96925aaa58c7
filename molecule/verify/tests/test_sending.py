"""The report of each acceptance test arrives at a web or an SFTP server that is set up as docs/many-clinics.md says."""

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

CLINIC = "orthanc-verify12"
SSH_PORT, KEY = 2222, "/root/report_key"
# a server of its own, so that the machine's sshd stays as it is
SSHD = f"""
Port {SSH_PORT}
PidFile /run/reports-sshd.pid
HostKey /root/report_host_key
UsePAM yes
Subsystem sftp internal-sftp
"""
START_SFTP = f"""
rm -rf /root/report_* /srv/incoming /etc/ssh/reports /srv/reports
ssh-keygen -q -t ed25519 -N '' -f /root/report_host_key
ssh-keygen -q -t ed25519 -N '' -f {KEY}
mkdir -p /run/sshd
{{commands}}
cp {KEY}.pub /etc/ssh/reports/{CLINIC}
/usr/sbin/sshd -f /root/reports_sshd.conf >/dev/null 2>&1 </dev/null  # as nginx above
"""
STOP_SFTP = f"kill $(cat /run/reports-sshd.pid); userdel {CLINIC}; groupdel reports; rm -r /root/report*"
STOP_SFTP += "; rm -rf /srv/incoming /srv/reports /etc/ssh/reports"


def find_block(kind: str, holding: str) -> str:
    """The example of that kind on the page which holds this text."""
    page = (ROOT / "docs/many-clinics.md").read_text()
    [found] = [one for one in re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) if holding in one]
    return str(found)


def url_for(password: str) -> str:
    return f"https://orthanc-verify12:{password}@{NAME}:{PORT}/clinics/"


def list_received() -> set[str]:
    return set(must(COLLECTOR, "ls /srv/reports/clinics").split())


@pytest.fixture(name="machine")
def fixture_machine(host: Host) -> Iterator[str]:
    """The clinic's machine, which knows the collector and trusts its certificate."""
    name = name_of(host)
    server = find_block("nginx", "server {").replace("listen 443", f"listen {PORT}")
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


@pytest.fixture(name="key")
def fixture_key() -> Iterator[str]:
    """The private key of the clinic's account on an SFTP server that is set up as the page says."""
    settings = SSHD + find_block("sshd_config", "Match Group reports")
    commands = find_block("sh", "groupadd").replace("mill", CLINIC)
    must(COLLECTOR, "cat > /root/reports_sshd.conf", settings.encode())
    must(COLLECTOR, START_SFTP.format(commands=commands))
    yield must(COLLECTOR, f"cat {KEY}")
    must(COLLECTOR, STOP_SFTP)


def test_each_acceptance_test_sends_its_report_by_sftp(host: Host, key: str) -> None:
    machine = name_of(host)
    url = f"sftp://{CLINIC}@{ADDRESS}:{SSH_PORT}/clinics/"
    known = must(machine, f"ssh-keyscan -t ed25519 -p {SSH_PORT} {ADDRESS} 2>/dev/null")
    settings = {"url": url, "key": key, "known_hosts": known}
    incoming = f"/srv/incoming/{CLINIC}/clinics"
    try:
        # twice: an older report is replaced
        for _unused in ("first", "again"):
            given = {f"orthanc_verify_report_{name}": value for name, value in settings.items()}
            status, said = play("verify", host, given)
            assert status == 0, said
            assert key.splitlines()[1] not in said
            received = json.loads(must(COLLECTOR, f"cat {incoming}/{CLINIC}.json"))
            assert received["passed"]
            assert received["host"] == CLINIC
            assert must(COLLECTOR, f"ls {incoming}").split() == [f"{CLINIC}.html", f"{CLINIC}.json"]
        assert received["time"] == json.loads(must(machine, "cat /var/lib/orthanc-verify/report.json"))["time"]
        assert must(machine, "stat -c '%a %U' /etc/orthanc-verify.key").strip() == "600 root"

        # what the overview reads is the clinic's own report alone: not another's, and no link
        must(COLLECTOR, f"cd {incoming} && cp {CLINIC}.json mill.json && ln -sf /etc/shadow {CLINIC}.html")
        must(COLLECTOR, find_block("sh", "for place in"))
        assert must(COLLECTOR, "ls /srv/reports/clinics").split() == [f"{CLINIC}.json"]
        must(COLLECTOR, f"rm {incoming}/*.html")

        # another host in its place, and a clinic that may not come any more
        kept_key, kept_hosts = "/etc/orthanc-verify.key", "/etc/orthanc-verify.known_hosts"
        must(machine, f"cp {kept_hosts} /root/report_hosts; cp {kept_key} /root/report_key")
        must(machine, "ssh-keygen -q -t ed25519 -N '' -f /root/report_other")
        other = f'echo "[{ADDRESS}]:{SSH_PORT} $(cut -d" " -f1,2 /root/report_other.pub)" > {kept_hosts}'
        for spoil, why, mend in (
            (other, "Host key verification failed", f"cp /root/report_hosts {kept_hosts}"),
            (f"cp /root/report_other {kept_key}", "Permission denied", f"cp /root/report_key {kept_key}"),
        ):
            must(machine, spoil)
            status, report, complaint = call(machine, "run")
            assert status == 0, "the acceptance test itself passed"
            assert report["not_sent"].startswith(f"{ADDRESS}: ")
            assert why in complaint
            must(machine, mend)
        assert sh(COLLECTOR, f"ls {incoming}/{CLINIC}.html")[0] != 0, "nothing came"
        assert "not_sent" not in call(machine, "run")[1]
        assert must(COLLECTOR, f"ls {incoming}/{CLINIC}.html")
    finally:
        sh(machine, "rm -f /root/report_*")
        status, said = play("verify", host)
    assert status == 0, said
    assert must(machine, "ls /etc/orthanc-verify.*").split() == [SETTINGS], "what SFTP needed is gone"
