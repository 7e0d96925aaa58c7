"""What tools made for it find: testssl.sh, gixy, nginx and systemd themselves."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from clients import ADDRESSES, HOSTNAME, OFFICE, client, name_of, put
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

# no finding, and why
GIXY = {"try_files_is_evil_too": "about speed: no file is looked for"}
TESTSSL = {
    "cert_revocation": "the small CA has no address for revocations: its certificates are this server's, and replaced",
}
# OpenSSL 3.5 asks for a post-quantum group by a HelloRetryRequest: too new for testssl.sh 3.2, not for real clients
TESTSSL_DEBIAN_13 = {"FS_TLS13_sig_algs": "nothing was seen; test_a_real_client_speaks_tls is in its place"}


def test_nginx_has_nothing_to_warn_of(host: Host) -> None:
    said = host.run("nginx -t").stderr
    assert "syntax is ok" in said
    assert "warn" not in said


def gixy(dump: Path) -> list[tuple[str, str]]:
    """Findings in our files; the others are Debian's, and left as they are."""
    done = subprocess.run(["gixy", "-f", "json", str(dump)], capture_output=True, text=True, check=False)
    ours = [one for one in json.loads(done.stdout) if "orthanc" in one["file"] and one["plugin"] not in GIXY]
    # the server that asks for passwords is on the loopback alone, and has no TLS to set up
    alone = "server {\n\tserver_name login;\n}"
    return [(one["plugin"], one["reason"]) for one in ours if one["config"].strip() != alone]


def test_gixy_finds_nothing(host: Host, tmp_path: Path) -> None:
    dump = tmp_path / "nginx.txt"
    written = host.check_output("nginx -T 2>/dev/null")
    dump.write_text(written)
    assert gixy(dump) == []
    # it has read what we wrote
    dump.write_text(written.replace("ssl_protocols TLSv1.2 TLSv1.3;", "ssl_protocols TLSv1 TLSv1.2;"))
    assert "weak_ssl_tls" in dict(gixy(dump))


def test_orthanc_s_unit_is_confined(host: Host) -> None:
    said = host.check_output("systemd-analyze security orthanc --no-pager | tail -n 1")
    assert float(said.split("orthanc.service:")[1].split()[0]) <= 1.3


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_a_real_client_speaks_tls(host: Host, version: str) -> None:
    machine = name_of(host)
    put(OFFICE, "/tmp/hardening-ca.crt", host.file("/etc/nginx/orthanc/ca.crt").content)
    options = ["-connect", f"{ADDRESSES[machine][1]}:443", "-servername", HOSTNAME, "-CAfile", "/tmp/hardening-ca.crt"]
    done = client(OFFICE, "openssl", "s_client", *options, "-verify_return_error", f"-{version}")
    assert b"Verification: OK" in done.stdout


@pytest.mark.campaign  # it takes a minute and a half
def test_testssl_finds_nothing(host: Host) -> None:
    machine = name_of(host)
    put(OFFICE, "/tmp/hardening-ca.crt", host.file("/etc/nginx/orthanc/ca.crt").content)
    options = ["--quiet", "--color", "0", "--nodns", "min", "--warnings", "batch", "--add-ca", "/tmp/hardening-ca.crt"]
    options += ["--ip", ADDRESSES[machine][1], "--overwrite", "--jsonfile", "/tmp/hardening.json"]
    command = ["docker", "exec", OFFICE, "testssl", *options, f"{HOSTNAME}:443"]
    subprocess.run(command, capture_output=True, check=False, timeout=400)
    found = {one["id"]: one for one in json.loads(client(OFFICE, "cat", "/tmp/hardening.json").stdout)}
    assert found["cert_chain_of_trust"]["severity"] == "OK"
    assert found["TLS1_2"]["severity"] == "OK"
    known = {**TESTSSL, **(TESTSSL_DEBIAN_13 if machine.endswith("13") else {})}
    bad = [one for one in found.values() if one["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL")]
    assert [(one["id"], one["severity"], one["finding"]) for one in bad if one["id"] not in known] == []
