"""An Orthanc in a container of another name with images, a service at Orthanc's port, and rules of somebody's own."""

from __future__ import annotations

import os

from backups import must
from clients import ADDRESSES, OFFICE, SCANNER, answers, client, https, name_of, play, wait_for
from lived import IMAGES, gone_or_changed, refused, remedies, stored, theirs
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")[:1]
SITES = "/etc/nginx/sites-enabled"
HELD = f"/srv/pacs/db-v6 holds {IMAGES} images of an Orthanc"
VIEWER = "systemd-run --quiet --unit clinic-viewer python3 -m http.server --directory /var/www 8042"
RULES = """
table inet clinic {
    chain input {
        type filter hook input priority filter; policy drop;
        iif "lo" accept
        ct state established,related accept
        tcp dport { 22, 443 } accept
    }
}
"""

# The clinic's own web server, at the address of the devices' network alone.
APACHE = """
Listen {address}:443
<VirtualHost {address}:443>
    ServerName devices.clinic.example
    SSLEngine on
    SSLCertificateFile /etc/ssl/certs/ssl-cert-snakeoil.pem
    SSLCertificateKeyFile /etc/ssl/private/ssl-cert-snakeoil.key
    DocumentRoot /srv/devices
    <Directory /srv/devices>
        Require all granted
    </Directory>
</VirtualHost>
"""
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends"
JAIL = "[sshd]\nenabled = true\nbackend = systemd\n"
# accounts are added; a cache of ldconfig's
ADDED = ("hash /etc/passwd", "hash /etc/group", "hash /etc/shadow", "hash /etc/gshadow", "hash /etc/ld.so.cache")
BANNED = "198.51.100.190"
# firewalld takes away the rules by which Docker answers DNS on a machine of the test bed
KNOW_MIRRORS = (
    "for host in $(grep -rhoE 'https?://[^/: ]+' /etc/apt/sources.list* | sed 's#.*/##' | sort -u); do"
    " getent ahostsv4 $host | awk -v host=$host 'NR == 1 { print $1, host }' >> /etc/hosts; done"
)
IPV4_OFF = (
    "ip -4 -o address show scope global | awk '$2 !~ /docker/ {print $2, $4}' > /root/addresses;"
    " ip -4 route show default > /root/route; while read device address; do ip address del $address dev $device;"
    " done < /root/addresses"
)
IPV4_ON = (
    "while read device address; do ip address add $address dev $device; done < /root/addresses;"
    " ip route replace $(cat /root/route)"
)


def test_each_is_named_and_left_alone(host: Host) -> None:
    machine = name_of(host)
    stored(machine)
    must(machine, VIEWER)
    must(machine, "nft --file -", stdin=RULES.encode())
    told = refused(
        host,
        "The account orthanc belongs to a person (number 1001, shell /bin/bash, more groups: sudo)",
        HELD,
        "set orthanc_storage_dir: /srv/pacs/db-v6 to continue",
        "The container pacs is an Orthanc that this collection did not deploy",
        f"{SITES}/default is not the one of its package, but a deploy removes a site of that name",
        "Port 8042 (http) is in use (clinic-viewer.service, process ",
        "set orthanc_http_port to a free one, or stop it: systemctl disable --now clinic-viewer.service",
        "The chain input of table inet clinic drops packets by default, and does not accept port 4242 (dicom)",
    )
    must(machine, remedies(told, "The account orthanc").replace("NEW-NAME", "anna"))
    must(machine, remedies(told, "The container pacs"))
    refused(host, HELD, "Port 8042", "The chain input of table inet clinic")
    must(machine, remedies(told, f"{SITES}/default").replace(f"{SITES}/NAME", f"{SITES}/intranet"))
    must(machine, remedies(told, "The chain input of table inet clinic").partition(", and add the rule")[0])
    # out of the way nothing keeps a deploy from its work
    must(machine, "systemctl stop clinic-viewer; mv /srv/pacs /srv/before")
    before = theirs(machine)
    status, said = play("deploy", host, {}, "--check")
    assert status == 0, said[-3000:]
    assert gone_or_changed(before, theirs(machine)) == []
    assert must(machine, "docker inspect --format '{{.State.Status}}' pacs; id -un 1001").split() == ["exited", "anna"]


def test_a_machine_with_ipv6_alone_is_refused(host: Host) -> None:
    machine = name_of(host)
    must(machine, IPV4_OFF)
    try:
        told = refused(host, "This machine has IPv6 addresses alone, but Orthanc's own DICOM port is for IPv4")
    finally:
        must(machine, IPV4_ON)
    assert "orthanc_dicom_tls" in told


def test_neighbours_that_stay_share_the_machine(host: Host) -> None:
    """Another web server at one address, firewalld, fail2ban, and no IPv6: a first deploy beside them."""
    machine = name_of(host)
    devices, office, _outside = ADDRESSES[machine]
    must(machine, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    must(machine, KNOW_MIRRORS)
    # its package would start it at port 80, which nginx has
    must(machine, f"systemctl mask apache2; {INSTALL} apache2 ssl-cert firewalld fail2ban python3-systemd iptables")
    must(machine, "cat > /etc/apache2/ports.conf", APACHE.format(address=devices).encode())
    must(machine, "mkdir -p /srv/devices && echo the devices > /srv/devices/index.html && a2enmod -q ssl")
    must(machine, "a2dissite -q 000-default; systemctl unmask apache2; systemctl restart apache2")
    must(machine, f"printf '{JAIL}' > /etc/fail2ban/jail.local; systemctl restart fail2ban firewalld")
    wait_for(lambda: must(machine, "fail2ban-client status sshd || true").startswith("Status"), "fail2ban")
    must(machine, "timeout 60 sh -c 'until firewall-cmd --quiet --state; do sleep 0.2; done'")
    must(machine, f"fail2ban-client set sshd banip {BANNED}")

    told = refused(
        host,
        "Port 443 (https) is in use (apache2.service, process ",
        "set orthanc_proxy_address to another address of this machine",
        "firewalld is running, and no active zone opens port 4242 (dicom), 443 (https)",
    )
    elsewhere = {"orthanc_proxy_address": "198.51.100.126"}
    refused(host, "198.51.100.126, which is not an address of this machine", settings=elsewhere)
    must(machine, remedies(told, "firewalld is running,"))
    # firewalld removed Docker's rules when it started, and this Docker does not notice
    container = {"orthanc_install_method": "docker", "orthanc_proxy_address": office}
    told = refused(host, "The Docker Engine runs without its own rules in the firewall", settings=container)
    must(machine, remedies(told, "The Docker Engine").partition(",")[0])
    assert "-N DOCKER\n" in must(machine, "iptables -t nat -S")

    before = theirs(machine)
    tables = must(machine, "nft list tables").splitlines()
    done, said = play("deploy", host, {"orthanc_proxy_address": office})
    assert done == 0, said[-4000:]
    assert " passed, 0 failed" in said
    done, said = play("deploy", host, {"orthanc_proxy_address": office})
    assert (done, " changed=0 " in said) == (0, True), said[-3000:]

    # --- each is served, and nothing of theirs is changed
    left = gone_or_changed(before, theirs(machine))
    assert [one for one in left if not one.startswith(ADDED)] == []
    assert {*tables} <= {*must(machine, "nft list tables").splitlines()}
    assert answers(host)
    assert https(host, OFFICE, "/dicom-web/studies")[0] == 200
    read = client(SCANNER, "curl", "--silent", "--insecure", "--max-time", "10", f"https://{devices}/")
    assert read.stdout == b"the devices\n"
    # whom Orthanc's HTTPS does not let in
    assert client(SCANNER, "curl", "--silent", "--insecure", "--max-time", "5", f"https://{office}/").returncode != 0
    assert must(machine, "firewall-cmd --state").strip() == "running"
    assert BANNED in must(machine, "fail2ban-client status sshd")
    listening = must(machine, "ss -Hltnp 'sport = 443' | awk '{print $4}' | sort -u").split()
    assert listening == sorted([f"{devices}:443", f"{office}:443", "127.0.0.1:443", "127.0.0.2:443"])
