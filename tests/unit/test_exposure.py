"""The exposure audit, with sockets on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify import exposure
from server.verify import lines

# 127.0.0.2 is reached from 127.0.0.1, as another machine would be
SERVER, CLIENT = "127.0.0.2", "127.0.0.1"
FULL = "closed, but so is every port from here: not conclusive"
WAIVERS = {"no_firewall": "the clinic has a firewall in front"}


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server((SERVER, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def refusing(listener: int) -> int:
    """A port at which nobody listens, while `listener` keeps its own."""
    with socket.create_server((SERVER, 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that never answers: Linux drops who comes when the queue is full."""
    with socket.create_server((SERVER, 0), backlog=0) as server, socket.socket() as first:
        first.connect(server.getsockname())
        yield server.getsockname()[1]


def look(
    port: int, sources: list[str], served: bool = True, seen_as: str = "", waivers: dict[str, str] | None = None
) -> dict[str, Any]:
    ports = [{"name": "dicom", "port": port, "sources": sources}]
    addresses = {SERVER: [port] if served else []}
    found: dict[str, dict[str, Any]] = {
        check["name"]: check for check in exposure.probe_ports("office", addresses, ports, seen_as, waivers or {})
    }
    (name,) = [name for name in found if name.startswith(f"port {port} (dicom) from office ({CLIENT}")]
    return found[name]


@pytest.mark.parametrize(
    ("sources", "expected", "passed"),
    [
        ([], "closed", False),
        (["198.51.100.0/24", "2001:db8::/32"], "closed", False),
        ([CLIENT], "open", True),
        (["127.0.0.0/8"], "open", True),
    ],
)
def test_an_open_port_is_for_its_sources_alone(listener: int, sources: list[str], expected: str, passed: bool) -> None:
    check = look(listener, sources)
    assert (check["expected"], check["seen"], check["passed"]) == (expected, f"open at {SERVER}", passed)


@pytest.mark.parametrize(
    ("sources", "served", "expected", "passed"),
    [([], True, "closed", True), ([CLIENT], True, "open", False), ([CLIENT], False, "open or closed", True)],
)
def test_a_closed_port_is_missed_where_it_is_served(
    refusing: int, sources: list[str], served: bool, expected: str, passed: bool
) -> None:
    check = look(refusing, sources, served)
    assert (check["expected"], check["seen"], check["passed"]) == (expected, "closed", passed)


def test_the_waiver_excuses_what_is_open_and_nothing_else(listener: int, refusing: int) -> None:
    opened, missed = look(listener, [], waivers=WAIVERS), look(refusing, [CLIENT], waivers=WAIVERS)
    assert (opened["passed"], opened["waiver"]) == (True, WAIVERS["no_firewall"])
    assert (missed["passed"], missed["waiver"]) == (False, "")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [([], "closed"), ([CLIENT], "open or closed"), (["192.0.2.9"], "open or closed"), ([CLIENT, "192.0.2.9"], "open")],
)
def test_behind_a_translation_both_addresses_count(listener: int, sources: list[str], expected: str) -> None:
    check = look(listener, sources, seen_as="192.0.2.9")
    assert check["expected"] == expected
    assert check["name"].endswith(f"({CLIENT}, seen as 192.0.2.9)")


def test_the_server_s_word_changes_nothing_without_a_translation(listener: int) -> None:
    for seen_as in (CLIENT, "2001:db8::9"):
        check = look(listener, [CLIENT], seen_as=seen_as)
        assert (check["expected"], check["name"]) == ("open", f"port {listener} (dicom) from office ({CLIENT})")


def test_plain_http_is_for_nobody_unless_it_is_published(monkeypatch: pytest.MonkeyPatch, listener: int) -> None:
    assert exposure.NEVER["port"] == 80
    monkeypatch.setitem(exposure.NEVER, "port", listener)
    (check,) = exposure.probe_ports("office", {SERVER: [listener]}, [], "", {})
    assert check["name"] == f"port {listener} (plain http) from office ({CLIENT})"
    assert (check["expected"], check["passed"]) == ("closed", False)
    assert look(listener, ["127.0.0.0/8"])["passed"]


def test_silence_everywhere_is_no_proof(monkeypatch: pytest.MonkeyPatch, silent: int, refusing: int) -> None:
    # the port that nobody serves is silent as well
    monkeypatch.setitem(exposure.NEVER, "port", silent)
    check = look(silent, [])
    assert (check["seen"], check["passed"]) == (FULL, True)
    assert look(silent, [CLIENT])["passed"] is False
    # and one that is refused shows that the machine can be reached
    monkeypatch.setitem(exposure.NEVER, "port", refusing)
    assert look(silent, [])["seen"] == "closed"


def test_an_address_without_a_route_is_said_to_be_one(listener: int) -> None:
    # a link-local address has no route without the name of an interface
    checks = exposure.probe_ports("office", {"fe80::1": [listener]}, [], "", {})
    assert [(check["name"], check["seen"]) for check in checks] == [("fe80::1 from office", "not reachable from here")]


def test_a_machine_does_not_look_at_itself(listener: int) -> None:
    checks = exposure.probe_ports("office", {CLIENT: [listener], SERVER: [listener]}, [], "", {})
    assert checks[0]["seen"].startswith("not probed")
    assert [check["name"] for check in checks[1:]] == [f"port 80 (plain http) from office ({CLIENT})"]


OUTER = "which is not an address of this server: see where the router leads"


@pytest.fixture(name="shown")
def fixture_shown(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A port at which a certificate is shown, and its digest."""
    names = ("-keyout", "router.key", "-out", "router.crt")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=router", *names)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "router.crt", tmp_path / "router.key")

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                with contextlib.suppress(ssl.SSLError, ConnectionError), server.accept()[0] as plain:
                    context.wrap_socket(plain, server_side=True).close()

    with socket.create_server((SERVER, 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert((tmp_path / "router.crt").read_text())).hexdigest()
        yield server.getsockname()[1], digest
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def probe_router(port: int, served: list[int], certificate: str, name: str = "https") -> dict[str, Any]:
    """The check of a port that is open at an address that only the inventory knows."""
    ports = [{"name": name, "port": port, "sources": []}]
    shown = {"name": "pacs.example", "digest": certificate}
    checks = exposure.probe_ports("office", {"127.0.0.3": served}, ports, "", {}, [80], SERVER, shown)
    found: dict[str, Any]
    [found] = [one for one in checks if one["name"].startswith(f"port {port} ")]
    return found


def test_what_a_router_shows_is_not_the_server_s(shown: tuple[int, str]) -> None:
    port, digest = shown
    assert exposure.read_certificate(SERVER, port, "pacs.example") == digest
    # another certificate than the server's, and a port that it does not serve at all
    for served, certificate in (([port], "another"), ([], digest), ([], "")):
        check = probe_router(port, served, certificate)
        assert (check["passed"], check["seen"]) == (True, f"open at {SERVER}, {OUTER}")
    # DICOM over TLS has a certificate of its own
    assert not probe_router(port, [port], "another", "dicom_tls")["passed"]
    # the server itself, or what cannot be told from it
    for certificate in (digest, ""):
        check = probe_router(port, [port], certificate)
        assert (check["passed"], check["seen"]) == (False, f"open at {SERVER}, {OUTER}")
        assert "router" in check["remedy"]


def test_a_port_without_tls_behind_a_router_may_be_the_server_s(listener: int) -> None:
    assert not probe_router(listener, [listener], "another")["passed"]


def rule(*parts: dict[str, Any], chain: str = "prerouting") -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "orthanc", "chain": chain, "expr": list(parts)}}


def match(field: str, right: Any) -> dict[str, Any]:
    protocol = "tcp" if field == "dport" else "ip"
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


TABLE = [
    {"metainfo": {"version": "1.1.3", "json_schema_version": 1}},
    {"table": {"family": "inet", "name": "orthanc", "handle": 6}},
    {"chain": {"family": "inet", "table": "orthanc", "name": "prerouting", "type": "filter", "hook": "prerouting"}},
    {"chain": {"family": "inet", "table": "orthanc", "name": "refuse"}},
    {"set": {"family": "inet", "name": "more", "table": "orthanc", "type": "inet_service", "elem": [104]}},
    rule(match("dport", 4242), match("saddr", "@dicom_4"), {"counter": {"packets": 0}}, {"accept": None}),
    rule({"limit": {"rate": 6, "per": "minute"}}, {"log": {"prefix": "orthanc refused: "}}, chain="refuse"),
    rule({"counter": {"packets": 80}}, {"drop": None}, chain="refuse"),
]
REFUSE = {"jump": {"target": "refuse"}}


def dropped(*rules: dict[str, Any]) -> set[int]:
    found: set[int] = exposure.find_dropped(json.dumps({"nftables": [*TABLE, *rules]}))[0]
    return found


def test_a_drop_at_one_address_counts_for_a_port_of_that_address() -> None:
    own = rule(match("daddr", "198.51.100.10"), match("dport", 443), REFUSE)
    table = json.dumps({"nftables": [*TABLE, own]})
    assert dropped(own) == set()
    assert exposure.find_dropped(table, {443: "198.51.100.10"})[0] == {443}
    assert exposure.find_dropped(table, {443: "198.51.100.11"})[0] == set()
    port = {"name": "https", "port": 443, "address": "198.51.100.10", "sources": []}
    strangers = exposure.parse_listeners('LISTEN 0 5 198.51.100.47:443 *:* users:(("apache2",pid=3,fd=5))\n')
    drops, _let_in, _else, who, _other = exposure.check_server(table, strangers, [port], {})
    assert (drops["passed"], who["passed"]) == (True, True)
    here = exposure.parse_listeners('LISTEN 0 5 *:443 *:* users:(("apache2",pid=3,fd=5))\n')
    assert not exposure.check_server(table, here, [port], {})[3]["passed"]


def test_a_port_is_probed_at_its_address_alone(listener: int) -> None:
    ports = [{"name": "https", "port": listener, "address": "192.0.2.1", "sources": []}]
    checks = exposure.probe_ports("office", {SERVER: [listener]}, ports, "", {})
    assert [one["name"] for one in checks if f"port {listener} " in one["name"]] == []


def test_another_program_may_serve_plain_http(tmp_path: Path) -> None:
    line = 'LISTEN 0 5 *:80 *:* users:(("{}",pid=3,fd=5))\n'
    for program, found in (("apache2", [80]), ("nginx", []), ("docker-proxy", [80])):
        assert exposure.find_neighbours(exposure.parse_listeners(line.format(program)), 8042, tmp_path) == found
    # of Orthanc's own container
    proxied, own = exposure.parse_listeners(line.format("docker-proxy")), [("0.0.0.0", 80, ["docker"])]
    assert exposure.find_neighbours(proxied, 8042, tmp_path, own) == []


def test_a_table_that_nft_cannot_write_is_not_in_force() -> None:
    # Debian 12's nft, of a dormant table
    assert exposure.find_dropped('{"nftables": [{"table": {"family": "inet", "name": "orthanc", "flags": ') == (
        set(),
        "the table cannot be read; it may be dormant",
    )


def test_the_kernel_s_drops_are_found_in_every_form() -> None:
    assert dropped() == set()
    assert dropped(rule(match("dport", {"set": [443, {"range": [4242, 4243]}]}), REFUSE)) == {443, 4242, 4243}
    assert dropped(rule(match("dport", 443), {"counter": {"packets": 0}}, {"drop": None})) == {443}
    assert dropped(rule(match("dport", "@more"), {"goto": {"target": "refuse"}})) == {104}
    # not for everybody, not always, not really
    assert dropped(rule(match("dport", 443), match("saddr", "192.0.2.1"), REFUSE)) == set()
    assert dropped(rule(match("dport", 443), {"limit": {"rate": 1, "per": "second"}}, {"drop": None})) == set()
    assert dropped(rule(match("dport", 443), {"jump": {"target": "nowhere"}})) == set()
    assert dropped(rule(match("dport", 443), REFUSE, chain="refuse")) == set()


@pytest.mark.parametrize(
    ("objects", "seen"),
    [
        ([], "the table inet orthanc does not exist"),
        # a list in nft's documentation, a word in Debian 13
        ([{"table": {"name": "orthanc", "flags": ["dormant"]}}, *TABLE[2:]], "the table is dormant"),
        ([{"table": {"name": "orthanc", "flags": "dormant"}}, *TABLE[2:]], "the table is dormant"),
        ([TABLE[1], *TABLE[3:]], "the table has no chain at prerouting"),
        (TABLE, "not at 443, 4242"),
        ([*TABLE, rule(match("dport", 443), REFUSE)], "not at 4242"),
        ([*TABLE, rule(match("dport", {"set": [443, 4242]}), REFUSE)], "yes"),
    ],
)
def test_a_table_that_is_not_in_force_is_named(objects: list[dict[str, Any]], seen: str) -> None:
    ports = [{"name": "https", "port": 443, "sources": []}, {"name": "dicom", "port": 4242, "sources": []}]
    table = json.dumps({"nftables": objects}) if objects else ""
    check = exposure.check_server(table, [], ports, {})[0]
    assert (check["name"], check["seen"]) == ("the kernel drops strangers at 443, 4242", seen)
    assert check["passed"] == (seen == "yes")
    assert exposure.check_server(table, [], ports, WAIVERS)[0]["passed"]


SS = """\
LISTEN 0      200       0.0.0.0:8042  0.0.0.0:* users:(("Orthanc",pid=2101,fd=6))
LISTEN 0      511       0.0.0.0:443   0.0.0.0:* users:(("nginx",pid=2669,fd=9),("nginx",pid=2668,fd=9))
LISTEN 0      4096   127.0.0.11:44693 0.0.0.0:*
LISTEN 0      511          [::]:443      [::]:* users:(("nginx",pid=2669,fd=10),("nginx",pid=2668,fd=10))
LISTEN 0      511     127.0.0.1:9000  0.0.0.0:* users:(("nginx",pid=2669,fd=9))
LISTEN 0      128             *:22          *:* users:(("sshd",pid=1,fd=3))
LISTEN 0      128 10.0.0.5%eth1:104   0.0.0.0:* users:(("docker-proxy",pid=9,fd=4))
"""
IP = [
    {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "scope": "host"}]},
    {},  # iproute2 6.1: an interface that is down
    {"ifname": "eth0", "addr_info": [{"local": "192.0.2.7", "scope": "global"}, {"local": "fe80::7", "scope": "link"}]},
    {"ifname": "eth1", "addr_info": [{"local": "10.0.0.5", "scope": "global"}]},
    {"ifname": "eth2", "addr_info": [{"local": "2001:db8::7", "scope": "global"}]},
    {"ifname": "docker0", "addr_info": [{"local": "172.17.0.1", "scope": "global"}]},
    {"ifname": "br-0123456789ab", "addr_info": [{"local": "172.18.0.1", "scope": "global"}]},
    {"ifname": "br-orthanc", "addr_info": [{"local": "172.19.0.1", "scope": "global"}]},
]


def test_who_listens_is_known_for_each_address() -> None:
    found = exposure.list_addresses(json.dumps(IP), exposure.parse_listeners(SS))
    assert found == {"192.0.2.7": [22, 443, 8042], "10.0.0.5": [22, 104, 443, 8042], "2001:db8::7": [22, 443]}
    # behind a translation of addresses the inventory alone knows the one that others use
    assert exposure.find_outer(found, "203.0.113.5") == "203.0.113.5"
    assert {exposure.find_outer(found, one) for one in ("192.0.2.7", "pacs", "127.0.0.1", "2001:db8:0::7")} == {""}


@pytest.mark.parametrize(
    ("more", "strangers", "others"),
    [
        ("", "Orthanc, nginx or Docker", "none"),
        ('LISTEN 0 5 0.0.0.0:104 0.0.0.0:* users:(("socat",pid=3,fd=5))', "socat on 104", "none"),
        ("LISTEN 0 5 0.0.0.0:104 0.0.0.0:*", "the kernel on 104", "none"),
        ('LISTEN 0 5 *:8080 *:* users:(("nginx",pid=3,fd=5))', "Orthanc, nginx or Docker", "nginx on 8080"),
        ('LISTEN 0 5 [::]:81 *:* users:(("Orthanc",pid=3,fd=5))', "Orthanc, nginx or Docker", "Orthanc on 81"),
    ],
)
def test_a_stranger_on_a_port_and_a_port_too_many_are_named(more: str, strangers: str, others: str) -> None:
    ports: list[dict[str, Any]] = [{"name": str(port), "port": port, "sources": []} for port in (104, 443, 8042)]
    *_kernel, who, other = exposure.check_server("", exposure.parse_listeners(SS + more), ports, {})
    assert (who["name"], who["seen"]) == ("who listens on 104, 443, 8042", strangers)
    assert who["passed"] == (strangers == "Orthanc, nginx or Docker")
    assert (other["seen"], other["passed"]) == (others, others == "none")


def test_a_port_of_another_site_is_not_orthanc_s_unless_it_leads_there(tmp_path: Path) -> None:
    for directory in ("conf.d", "sites-enabled"):
        (tmp_path / directory).mkdir()
    (tmp_path / "conf.d/orthanc.conf").write_text("server { listen 443 ssl; proxy_pass http://127.0.0.1:8042; }")
    (tmp_path / "conf.d/round.conf").write_text("server { listen 8080; proxy_pass http://127.0.0.1:8042; }")
    (tmp_path / "sites-enabled/shop").write_text("server { listen 80; listen [::]:81 default_server; } # listen 82;")
    assert exposure.find_other_sites(8042, tmp_path) == [80, 81]
    # the former is another service's, if Orthanc's port is not its default
    assert exposure.find_other_sites(8052, tmp_path) == [80, 81, 8080]
    more = "".join(f'LISTEN 0 5 *:{port} *:* users:(("nginx",pid=3,fd=5))\n' for port in (80, 81, 8080))
    *_checks, other = exposure.check_server("", exposure.parse_listeners(SS + more), [], {}, [80, 81])
    assert "nginx on 8080" in other["seen"]
    assert "nginx on 80," not in other["seen"]
    assert "nginx on 81" not in other["seen"]


@pytest.mark.parametrize(
    ("site", "ports"),
    [
        ("server { listen 192.0.2.5; }", [80]),
        ("server { listen 192.0.2.5:81 ssl; listen [2001:db8::5]:82; }", [81, 82]),
        ("server { server_name a; location / { return 200; } }\nserver { listen 83; }", [80, 83]),
        ("server { include snippets/listen.conf; }", []),
        ("server { listen 127.0.0.1:84; listen unix:/run/a.sock; }", []),
        ("upstream a { server 192.0.2.6; }", []),
    ],
)
def test_where_a_site_listens(tmp_path: Path, site: str, ports: list[int]) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/shop.conf").write_text(site)
    assert exposure.find_other_sites(8042, tmp_path) == ports
    own = [84] if "127.0.0.1:84" in site else []
    assert exposure.find_other_sites(8042, tmp_path, local=True) == sorted(ports + own)


def test_the_controller_s_address_survives_sudo() -> None:
    """A process without the variable below one that has it."""
    ask = (
        "import os;"
        "from ansible_collections.clinicops.orthanc.plugins.module_utils.server.verify.exposure import find_ssh_client;"
        "print(find_ssh_client(os.getpid()))"
    )
    below = f"import subprocess; subprocess.run(['env', '-u', 'SSH_CONNECTION', {sys.executable!r}, '-c', {ask!r}])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for connection, seen in (
        ("192.0.2.1 50000 192.0.2.7 22", "192.0.2.1"),
        ("UNKNOWN 65535 UNKNOWN 65535", ""),
        ("", ""),
    ):
        chosen = {**environment, "SSH_CONNECTION": connection}
        done = subprocess.run([sys.executable, "-c", below], env=chosen, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == seen


def test_the_report_counts_and_names() -> None:
    checks = [
        exposure.check("one", "a knock", "closed", "closed", True),
        exposure.check("another", "a knock", "closed", "open at 192.0.2.7", False, "close it"),
        exposure.check("third", "a knock", "closed", "open at 192.0.2.7", False, "close it", WAIVERS["no_firewall"]),
    ]
    assert lines.list_lines({"checks": checks, "waivers": WAIVERS}) == [
        "passed  one    closed",
        "waived  third  expected: closed; actual: open at 192.0.2.7",
        "waived  no_firewall: the clinic has a firewall in front",
        "2 passed, 1 failed",
        "",
        "FAILED  another",
        "        expected: closed; actual: open at 192.0.2.7",
        "        Remedy: close it",
    ]


def test_what_differs_in_the_kernel_and_what_leads_past_it_fail_each_on_its_own() -> None:
    assert all(check["passed"] for check in exposure.check_held("", "", {}))
    changed, past = exposure.check_held("chain prerouting has in addition 'accept'", "", {})
    assert (changed["passed"], past["passed"]) == (False, True)
    assert "systemctl reload-or-restart orthanc-firewall" in changed["remedy"]
    changed, past = exposure.check_held("", "table ip nat, chain PREROUTING: redirect to :4242", {})
    assert (changed["passed"], past["passed"]) == (True, False)
    assert "nft delete rule" in past["remedy"]
    assert all(check["waiver"] for check in exposure.check_held("there is none", "one", WAIVERS))


def test_a_table_that_cannot_be_compared_is_not_called_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise exposure.nftables.Unseen("unshare failed: not permitted")

    monkeypatch.setattr(exposure.nftables, "find_changes", fail)
    [unseen, _] = exposure.check_held(exposure.describe_changes(), "", {})
    assert (unseen["passed"], unseen["seen"]) == (False, "not seen: unshare failed: not permitted")
