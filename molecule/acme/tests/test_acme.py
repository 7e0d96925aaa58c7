"""Certificates from an ACME server: had, renewed, refused, and given up, as clients see it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import acme
import bed
import pytest
from clients import ADDRESSES, HOSTNAME, OFFICE, OUTSIDE, PROVEN, ROOT, SCANNER, VIEWER, client, name_of, play, put
from cryptography import x509
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

SHOP = b'server { listen 8081; location / { return 200 "the shop"; } }'
# ports 80 and 443 are probed at one address of six
AT_ONE_ADDRESS = f"{int(PROVEN.split()[0]) - 10} passed, 0 failed"
CHALLENGES = "/.well-known/acme-challenge/"
DROP_IN = "/run/systemd/system/certbot.service.d/force.conf"


def served(host: Host, hostname: str = HOSTNAME, root: bytes = b"", place: str = OFFICE, address: str = "") -> int:
    """Serial number of the certificate with which the office is let read studies; curl verifies chain and name."""
    address = address or ADDRESSES[name_of(host)][1]
    put(place, "/tmp/acme.crt", root or acme.root())
    options = ["--cacert", "/tmp/acme.crt", "--resolve", f"{hostname}:443:{address}", "--user", VIEWER]
    options += ["--silent", "--show-error", "--output", "/tmp/body", "--write-out", "%{http_code}\n%{certs}"]
    done = client(place, "curl", *options, f"https://{hostname}/dicom-web/studies")
    assert done.returncode == 0, done.stderr
    status, _, rest = done.stdout.partition(b"\n")
    assert status == b"200"
    return x509.load_pem_x509_certificates(rest)[0].serial_number


def port_80(name: str, host: Host, path: str = "/", *options: str) -> tuple[int, str]:
    """curl's exit code (7: refused, 28: no answer), and the status."""
    address = ADDRESSES[name_of(host)][{SCANNER: 0, OFFICE: 1, OUTSIDE: 2}[name]]
    target = f"[{bed.address6(address)}]" if "-6" in options else address
    command = ["curl", "-s", "--max-time", "3", "--path-as-is", "-o", "/tmp/body", "-w", "%{http_code}"]
    done = client(name, *command, *options, f"http://{target}{path}")
    return done.returncode, done.stdout.decode()


def nginx(host: Host) -> str:
    """It changes with each start of nginx."""
    show = "systemctl show --property MainPID,ExecMainStartTimestampMonotonic,NRestarts nginx"
    return str(host.check_output(show))


def deploy(host: Host, settings: dict[str, Any], proven: str = PROVEN) -> None:
    status, said = play("deploy", host, settings)
    assert status == 0, said
    assert proven in said, said


def deploy_twice(host: Host, settings: dict[str, Any], proven: str = PROVEN) -> None:
    """The second one has nothing to do."""
    deploy(host, settings, proven)
    _status, said = play("deploy", host, settings)
    assert "changed=0" in said, said
    assert "failed=0" in said, said


def refused(host: Host, settings: dict[str, Any]) -> str:
    """What a deploy says that gets no certificate; clients still see the one of before, from the same nginx."""
    before = served(host), nginx(host)
    status, said = play("deploy", host, settings)
    assert status == 2, said
    assert f"gave no certificate for {HOSTNAME}" in said
    assert "Remedy: make sure that this machine" in said
    assert (served(host), nginx(host)) == before
    return said


@pytest.fixture
def renew(host: Host) -> Iterator[None]:
    """certbot.service as the timer starts it, but for the day that it waits for."""
    command = host.check_output("sed -n s/^ExecStart=//p /lib/systemd/system/certbot.service")
    host.check_output(f"mkdir -p {Path(DROP_IN).parent}")
    put(name_of(host), DROP_IN, f"[Service]\nExecStart=\nExecStart={command} --force-renewal\n".encode())
    host.check_output("systemctl daemon-reload")
    yield
    host.check_output(f"rm {DROP_IN} && systemctl daemon-reload")


@pytest.fixture
def unreachable(host: Host) -> Iterator[None]:
    host.check_output(f"ip route add unreachable {acme.ADDRESS}")
    yield
    host.check_output(f"ip route del unreachable {acme.ADDRESS}")


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The example of the documentation, with this name server's key."""
    text = (ROOT / "docs" / "acme.md").read_text().partition("```sh\n")[2].partition("```\n")[0]
    assert "SECRET" in text
    path = tmp_path_factory.mktemp("acme") / "dns-hook"
    path.write_text(text.replace("SECRET", acme.TSIG))
    path.chmod(0o700)
    return {"orthanc_proxy_acme_dns_hook": str(path)}


def test_http_01_gives_a_certificate_that_the_office_trusts(host: Host) -> None:
    deploy_twice(host, {})
    serial = served(host)
    key = host.check_output("stat --dereference --format='%a %U' /etc/nginx/orthanc/acme.key")
    assert key == "600 root"
    status, said = play("verify", host)
    assert status == 0, said
    assert served(host) == serial


def test_port_80_gives_a_challenge_and_nothing_else(host: Host) -> None:
    host.check_output(f"mkdir -p /var/www/orthanc-acme{CHALLENGES}")
    put(name_of(host), f"/var/www/orthanc-acme{CHALLENGES}token-1", b"token-1.thumbprint")
    for options in ([], ["-6"]):
        assert port_80(OUTSIDE, host, f"{CHALLENGES}token-1", *options) == (0, "200")
        assert client(OUTSIDE, "cat", "/tmp/body").stdout == b"token-1.thumbprint"
        for path in (
            *("/", "/dicom-web/studies", "/app/explorer.html", "/.well-known/", CHALLENGES, CHALLENGES[:-1]),
            *(f"{CHALLENGES}absent", f"{CHALLENGES}../../x", f"{CHALLENGES}..%2f..%2fx"),
        ):
            assert port_80(OUTSIDE, host, path, *options) == (0, "404"), path
        assert port_80(OUTSIDE, host, f"{CHALLENGES}../../../etc/passwd", *options) == (0, "400")
    host.check_output(f"rm /var/www/orthanc-acme{CHALLENGES}token-1")
    # port 80 is for everybody, the others are not
    for place, address, ports in (
        (OUTSIDE, ADDRESSES[name_of(host)][2], (443, 4242, 8042)),
        (SCANNER, ADDRESSES[name_of(host)][0], (443, 8042)),
        (OFFICE, ADDRESSES[name_of(host)][1], (4242, 8042)),
    ):
        for port in ports:
            reached = client(place, "curl", "--silent", "--max-time", "2", f"http://{address}:{port}/")
            assert reached.returncode == 28, (place, port)


@pytest.mark.usefixtures("renew")
def test_a_renewal_reaches_clients_without_a_restart(host: Host) -> None:
    assert host.service("certbot.timer").is_enabled
    assert host.service("certbot.timer").is_running
    before, process = served(host), nginx(host)
    host.check_output("systemctl start certbot.service")
    assert served(host) != before
    assert nginx(host) == process
    assert "changed=0" in play("deploy", host)[1]


def test_another_host_name_gets_a_certificate_of_its_own(host: Host) -> None:
    other = "images.clinic.example"
    deploy_twice(host, {"orthanc_hostname": other})
    served(host, other)
    assert host.file("/etc/letsencrypt/live").listdir() == ["README", "orthanc"]
    deploy(host, {})
    served(host)


@pytest.mark.usefixtures("renew")
def test_one_address_has_the_challenge_and_the_certificate(host: Host) -> None:
    """With `orthanc_proxy_address`, of each version of IP: the other one, and other addresses, stay with others."""
    own = ADDRESSES[name_of(host)][0]
    networks = ["198.51.100.0/26", "198.51.100.64/26", "2001:db8:100:1::/64"]
    for hostname, address in (("images.clinic.example", own), ("six.clinic.example", bed.address6(own))):
        at = f"[{address}]" if ":" in address else address
        settings = {
            "orthanc_hostname": hostname,
            "orthanc_proxy_address": address,
            "orthanc_https_sources": networks,
        }
        deploy_twice(host, settings, AT_ONE_ADDRESS)
        found = host.check_output("ss -Hltn '( sport = 80 or sport = 443 )' | awk '{print $4}' | sort -u").split()
        assert found == sorted([f"{at}:80", f"{at}:443", "127.0.0.1:443", "127.0.0.2:443"])
        # nobody drops what is for the other addresses
        assert port_80(OUTSIDE, host)[0] == 7
        assert port_80(OUTSIDE, host, "/", "-6")[0] == 7
        before = served(host, hostname, place=SCANNER, address=at)
        host.check_output("systemctl start certbot.service")
        assert served(host, hostname, place=SCANNER, address=at) != before
    deploy(host, {})
    served(host)


@pytest.mark.usefixtures("unreachable")
def test_an_acme_server_that_is_down_is_named_and_the_old_certificate_served(host: Host, hook: dict[str, str]) -> None:
    assert "No route to host" in refused(host, hook)
    # where nothing is wanted of it, it may be down
    deploy(host, {})


def test_a_hook_that_fails_is_quoted_and_the_old_certificate_served(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "dns-hook"
    path.write_text("#!/bin/sh\necho the zone is locked >&2; exit 1\n")
    path.chmod(0o700)
    assert "the zone is locked" in refused(host, {"orthanc_proxy_acme_dns_hook": str(path)})


@pytest.mark.usefixtures("renew")
def test_dns_01_opens_no_port(host: Host, hook: dict[str, str]) -> None:
    before = served(host)
    deploy_twice(host, hook)
    had = served(host)
    assert had != before
    for place in (OUTSIDE, OFFICE, SCANNER):
        assert port_80(place, host)[0] == 7, place
        assert port_80(place, host, "/", "-6")[0] == 7, place
    assert host.check_output("stat --format='%a %U' /etc/letsencrypt/orthanc-dns-hook") == "700 root"
    process = nginx(host)
    host.check_output("systemctl start certbot.service")
    assert served(host) != had
    assert nginx(host) == process
    found = client(SCANNER, "dig", "+short", f"@{acme.ADDRESS}", f"_acme-challenge.{HOSTNAME}", "TXT")
    assert (found.returncode, found.stdout) == (0, b"")
    before = served(host)
    deploy(host, {})
    assert served(host) != before
    assert port_80(OUTSIDE, host) == (0, "404")


def test_back_to_self_signed_and_to_acme_again(host: Host, hook: dict[str, str]) -> None:
    for challenge in ({}, hook):
        deploy(host, challenge)
        served(host)
        deploy_twice(host, {"orthanc_proxy_certificate": "self_signed"})
        served(host, root=host.file("/etc/nginx/orthanc/ca.crt").content)
        assert port_80(OUTSIDE, host)[0] == 7
        # nothing that certbot.timer could renew, and no password of the name server
        assert host.file("/etc/letsencrypt/renewal").listdir() == []
        files = "/etc/letsencrypt/orthanc-* /etc/nginx/*/*acme* /etc/systemd/system/certbot.service.d/* /var/www/*acme*"
        assert host.run(f"ls -d {files}").stdout == ""
        host.check_output("systemctl start certbot.service")


def test_an_uninstall_leaves_certbot_and_other_sites(host: Host) -> None:
    machine = name_of(host)
    deploy(host, {})
    put(machine, "/etc/nginx/conf.d/shop.conf", SHOP)
    host.check_output("nginx -q -t && systemctl reload nginx")
    process = nginx(host)
    confirmed = {"orthanc_install_confirm_uninstall": machine}
    status, said = play("uninstall", host, confirmed)
    assert status == 0, said
    files = "/etc/letsencrypt/*/*orthanc* /etc/letsencrypt/orthanc-* /etc/nginx/*/*orthanc* /etc/nginx/orthanc"
    files += " /etc/systemd/system/certbot.service.d /var/www/*acme*"
    assert host.run(f"ls -d {files}").stdout == ""
    assert nginx(host) == process
    shop = client(OUTSIDE, "curl", "--silent", "--max-time", "5", f"http://{ADDRESSES[machine][2]}:8081/")
    assert shop.stdout == b"the shop"
    for options in ([], ["-6"]):
        assert port_80(OUTSIDE, host, "/", *options)[0] == 7
    # certbot is the machine's, and has nothing to renew
    assert host.service("certbot.timer").is_enabled
    host.check_output("systemctl start certbot.service")
    status, said = play("uninstall", host, confirmed)
    assert (status, " changed=0 " in said) == (0, True), said
    deploy(host, {})
    served(host)
