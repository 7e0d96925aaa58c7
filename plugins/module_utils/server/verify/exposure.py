# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which ports are open, and from where: on the server from the kernel's table and the listeners, elsewhere by probing.

The probe runs on any machine with Python 3.9. Nothing here imports Ansible.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import ipaddress
import json
import os
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..core import nftables
from ..core.networks import collapse, is_within
from ..core.process import try_output
from ..orthanc.address import Listener, find_published
from .sites import NGINX, PLAIN_HTTP, leads_to, list_listens, list_sites, read_site

Check = dict[str, Any]
LIMIT = 2.0
# This port must be closed for every client, whatever the settings say about other ports.
EVERYBODY = ["0.0.0.0/0", "::/0"]
NEVER = {"name": "plain http", "port": PLAIN_HTTP, "sources": []}
OURS = ("Orthanc", "nginx")
OWN_SITES = ("orthanc.conf", "orthanc-acme.conf")  # in conf.d, written by the deploy
NODE_EXPORTER = "prometheus-node"  # as the kernel truncates its name
WAIVER = "no_firewall"
PROBE = "a TCP connection"
CLOSE = "load the firewall's table again: systemctl reload-or-restart orthanc-firewall, or deploy again"
DEPLOY = "deploy again: the firewall's file holds whom the inventory does not, or a deploy did not come to its end"
ROUTER = "let the router lead this port nowhere, or to this server for its sources alone"
UNSEEN = "not seen"
ALLOW = "let this machine create network namespaces: unshare --net true shows why it cannot"
ALIEN = "remove it: find it with nft --handle list ruleset, delete it with nft delete rule; and find out what added it"
REACH = "check that the service runs, and that no firewall on the way blocks it"
# Docker's own bridges: other machines have networks with the same addresses, and would probe those.
INTERNAL = re.compile(r"docker0|br-(orthanc|[0-9a-f]{12})")


def check(name: str, tried: str, expected: str, seen: str, passed: bool, remedy: str = "", reason: str = "") -> Check:
    """A check. `reason` is that of the clinic's waiver, if any: then the result is reported, but not a failure."""
    waiver = "" if passed else reason
    return {
        **{"group": "Access", "name": name, "tried": tried, "expected": expected, "seen": seen},
        **{"passed": passed or bool(waiver), "waiver": waiver, "remedy": "" if passed or waiver else remedy},
    }


# --- from elsewhere -----------------------------------------------------------------------------
def find_source(address: str) -> str:
    """The address from which this machine reaches another one; empty without a route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect((address, 9))  # sends nothing
            return str(way.getsockname()[0])
    except OSError:
        return ""


def probe_port(address: str, port: int) -> str:
    """'open', 'refused' (a reply that refuses the connection), or 'silent'."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(LIMIT)
        try:
            probe.connect((address, port))
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "silent"
        return "open"


def find_outer(addresses: dict[str, list[int]], known_as: str) -> str:
    """The inventory's address of a server behind address translation, which does not have it; empty without one."""
    try:
        other = ipaddress.ip_address(known_as)
    except ValueError:
        return ""  # a name
    return "" if other.is_loopback or other.is_link_local or str(other) in addresses else str(other)


def read_certificate(address: str, port: int, name: str) -> str:
    """The SHA-256 digest of the certificate that is shown there to whoever asks for this name; empty without one."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whose it is, is the question
    try:
        plain = socket.create_connection((address, port), LIMIT)
        with plain, context.wrap_socket(plain, server_hostname=name) as talk:
            return hashlib.sha256(talk.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError:
        return ""


def is_another(address: str, port: dict[str, Any], held: dict[str, list[int]], shown: Mapping[str, str]) -> bool:
    """Whether what is open at an address that the server does not have is a router's own: a port that is not served at
    the `held` ones, or HTTPS with another certificate than the server's."""
    if not any(port["port"] in served for served in held.values()):
        return True
    if port["name"] != "https" or not shown.get("digest"):
        return False
    return read_certificate(address, port["port"], shown["name"]) not in ("", shown["digest"])


def is_listed(network: str, sources: list[str]) -> bool:
    """Whether every address of the network is in the sources, which may adjoin one another."""
    return any(is_within(ipaddress.ip_network(network), one) for one in collapse(sources))


def probe_ports(
    place: str,
    addresses: dict[str, list[int]],
    ports: list[dict[str, Any]],
    seen_as: str,
    waivers: dict[str, str],
    elsewhere: Sequence[int] = (),
    outer: str = "",
    shown: Mapping[str, str] = MappingProxyType({}),
) -> list[Check]:
    """Probes the server's ports from here. `addresses` are the server's, each with the ports that are served there.

    `elsewhere` are the ports of other sites, as `find_neighbours` returns them. `outer` is what `find_outer` returns,
    and `shown` is the certificate of `describe_server`, by which a router in front of the server is told from it.
    """
    held, addresses = addresses, {**({outer: []} if outer else {}), **addresses}
    if all(port["port"] != NEVER["port"] for port in ports) and NEVER["port"] not in elsewhere:
        ports = [*ports, NEVER]
    ways: dict[str, list[str]] = {}
    checks = []
    for address in addresses:
        ways.setdefault(find_source(address), []).append(address)
    for address in ways.pop("", []):
        checks.append(check(f"{address} from {place}", PROBE, "closed", "not reachable from here", True))
    for own in [way for way, targets in ways.items() if way in targets]:
        ways[own].remove(own)
        seen = "not probed: this machine's own address"
        checks.append(check(f"{own} from {place}", PROBE, "closed", seen, True))
    targeted = [(address, port["port"]) for targets in ways.values() for address in targets for port in ports]
    with concurrent.futures.ThreadPoolExecutor(max(1, len(targeted))) as pool:
        found = dict(pool.map(lambda target: (target, probe_port(*target)), targeted))

    # address translation on the way: the firewall may see either of the two addresses
    other = {seen_as} - {"", *ways}
    for way, targets in ways.items():
        others = {address for address in other if (":" in address) == (":" in way)}
        origin = ", seen as ".join([way, *others])
        proof = any(found[address, port["port"]] != "silent" for address in targets for port in ports)
        for port in ports if targets else []:
            number = port["port"]
            places = [address for address in targets if port.get("address") in (None, "", address)]
            if not places:
                continue  # others may serve it here
            allowed = {is_listed(address, port["sources"]) for address in {way} | others}
            if allowed == {False}:
                expected = "closed"
            elif allowed == {True} and any(number in addresses[address] for address in places):
                expected = "open"
            else:
                expected = "open or closed"
            where = [address for address in places if found[address, number] == "open"]
            state = "open" if where else "closed"
            seen = f"open at {', '.join(where)}" if where else state
            if not proof:
                seen = "closed, but so is every port from here: not conclusive"
            name = f"port {number} ({port['name']}) from {place} ({origin})"
            passed = state in expected.split(" or ")
            if not passed and where == [outer]:  # a router has ports of its own
                passed = is_another(outer, port, held, shown)
                seen += ", which is not an address of this server: see where the router leads"
            waiver = waivers.get(WAIVER, "") if state == "open" else ""
            remedy = REACH if state == "closed" else ROUTER if where == [outer] else CLOSE
            checks.append(check(name, PROBE, expected, seen, passed, remedy, waiver))
    return checks


# --- on the server ------------------------------------------------------------------------------
def read_table() -> str:
    """The firewall's table in the kernel, as JSON; empty without nft, which a waived firewall does not need."""
    return try_output("nft", "--json", "list", "table", "inet", "orthanc")


def describe_changes() -> str:
    """How the table in the kernel differs from the deployed one; empty if it does not."""
    try:
        return nftables.list_some(nftables.find_changes())
    except nftables.Unseen as error:
        return f"{UNSEEN}: {error}"
    except OSError as error:
        return str(error)


def describe_detours() -> str:
    """Rules of other tables that bypass the firewall; empty without any."""
    try:
        return nftables.list_some(nftables.find_detours())
    except OSError as error:
        return str(error)


def check_held(changed: str, past: str, waivers: dict[str, str]) -> list[Check]:
    """The results of `describe_changes` and `describe_detours` as checks."""
    waiver = waivers.get(WAIVER, "")
    name, tried = "the kernel's table is the one that was deployed", "its listing beside that of its file"
    remedy = ALLOW if changed.startswith(UNSEEN) else CLOSE
    return [
        check(name, tried, "yes", changed or "yes", not changed, remedy, waiver),
        check("no other rule leads past it", "nft list ruleset", "none", past or "none", not past, ALIEN, waiver),
    ]


def list_listening() -> list[Listener]:
    return parse_listeners(try_output("ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"))


def find_other_sites(http_port: int, directory: Path = NGINX, *, local: bool = False) -> list[int]:
    """The ports of nginx sites that are not deployed by this collection and do not lead to Orthanc; `local`: also of
    those for this machine alone."""
    found = set()
    for path in (path for path in list_sites(directory) if path.name not in OWN_SITES):
        with contextlib.suppress(OSError):
            text = read_site(path)
            found |= {one.port for one in list_listens(text, local=local) if not leads_to(text, [http_port])}
    return sorted(found)


def find_neighbours(
    listening: list[Listener], http_port: int, directory: Path = NGINX, published: Sequence[Listener] = ()
) -> list[int]:
    """The ports of `find_other_sites`, and that of plain HTTP where another program serves it; `published` is what
    Docker publishes of Orthanc's container."""
    own = {*OURS, *({"docker-proxy"} if any(port == PLAIN_HTTP for _address, port, _names in published) else ())}
    serves_http = any(port == PLAIN_HTTP and not own & {*names} for _address, port, names in listening)
    return sorted({*find_other_sites(http_port, directory), *([PLAIN_HTTP] if serves_http else [])})


def find_own_neighbours(listening: list[Listener], http_port: int) -> list[int]:
    """`find_neighbours` of this machine."""
    return find_neighbours(listening, http_port, published=find_published())


def read_addresses() -> str:
    return try_output("ip", "-json", "address", "show", "up")


def parse_ports(right: Any, sets: dict[str, Any]) -> set[int]:
    """The ports on the right side of an nft comparison."""
    if isinstance(right, int):
        return {right}
    if isinstance(right, str):
        return parse_ports({"set": sets.get(right.lstrip("@"), [])}, sets)
    if isinstance(right, dict) and "range" in right:
        return set(range(right["range"][0], right["range"][1] + 1))
    if isinstance(right, dict) and "set" in right:
        return {number for item in right["set"] for number in parse_ports(item, sets)}
    return set()


def find_dropped(table: str, addresses: Mapping[int, str] | None = None) -> tuple[set[int], str]:
    """The ports at which the kernel drops every source that no rule lets in, and the reason if there are none.

    `table` is nft's JSON. `addresses` are those of ports that are for one address alone."""
    try:
        objects = json.loads(table)["nftables"] if table else []
    except ValueError:
        # Debian 12's nft stops in the middle of a dormant table
        return set(), "the table cannot be read; it may be dormant"
    if not any("table" in item for item in objects):
        return set(), "the table inet orthanc does not exist"
    if any("dormant" in item["table"].get("flags", []) for item in objects if "table" in item):
        return set(), "the table is dormant"
    sets = {item["set"]["name"]: item["set"].get("elem", []) for item in objects if "set" in item}
    first = [item["chain"]["name"] for item in objects if item.get("chain", {}).get("hook") == "prerouting"]
    if not first:
        return set(), "the table has no chain at prerouting"
    rules: dict[str, list[list[dict[str, Any]]]] = {}
    for item in objects:
        if "rule" in item:
            rules.setdefault(item["rule"]["chain"], []).append(item["rule"]["expr"])

    def plain(expressions: list[dict[str, Any]]) -> bool:
        return not any(key in part for part in expressions for key in ("match", "limit"))

    def ends(expressions: list[dict[str, Any]]) -> bool:
        for part in expressions:
            target = (part.get("jump") or part.get("goto") or {}).get("target", "")
            if "drop" in part or any(plain(rule) and ends(rule) for rule in rules.get(target, [])):
                return True
        return False

    found: set[int] = set()
    for expressions in (rule for chain in first for rule in rules.get(chain, [])):
        matches = [part["match"] for part in expressions if "match" in part]
        rest = [part for part in expressions if "match" not in part]
        *before, last = matches or [{}]
        if last and len(before) < 2 and plain(rest) and ends(rest):
            left = last["left"].get("payload", {})
            if (left.get("protocol"), left.get("field"), last["op"]) == ("tcp", "dport", "=="):
                ports = parse_ports(last["right"], sets)
                where = [(read_field(match), match["op"], match["right"]) for match in before]
                found |= {one for one in ports if not where or where == [("daddr", "==", (addresses or {}).get(one))]}
    return found, ""


def read_rules(table: str) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """The elements of each set of a table in nft's JSON, and the parts of each rule; none if it cannot be read."""
    try:
        objects = json.loads(table)["nftables"] if table else []
    except ValueError:
        return {}, []
    sets = {item["set"]["name"]: item["set"].get("elem", []) for item in objects if "set" in item}
    return sets, [item["rule"]["expr"] for item in objects if "rule" in item]


def list_let_in(table: str) -> dict[int, list[str]]:
    """The networks that the kernel lets in, by port."""
    sets, rules = read_rules(table)
    found: dict[int, list[str]] = {}
    for rule in rules:
        matches = [part["match"] for part in rule if "match" in part]
        port = next((match["right"] for match in matches if read_field(match) == "dport"), None)
        source = next((match["right"] for match in matches if read_field(match) == "saddr"), None)
        if isinstance(port, int) and isinstance(source, str) and any("accept" in part for part in rule):
            found.setdefault(port, []).extend(
                network for item in sets.get(source[1:], []) for network in parse_networks(item)
            )
    return found


def read_field(match: dict[str, Any]) -> str:
    return str(match["left"].get("payload", {}).get("field", "")) if isinstance(match["left"], dict) else ""


def parse_networks(item: Any) -> list[str]:
    """An element of a set of addresses in nft's JSON."""
    if isinstance(item, dict) and "prefix" in item:
        return [f"{item['prefix']['addr']}/{item['prefix']['len']}"]
    if isinstance(item, dict) and "range" in item:
        first, last = map(ipaddress.ip_address, item["range"])
        return [str(network) for network in ipaddress.summarize_address_range(first, last)]
    return [str(item)]


def parse_sources(right: Any, sets: dict[str, Any]) -> list[str]:
    """The networks on the right side of an nft comparison."""
    if isinstance(right, str) and right.startswith("@"):
        right = {"set": sets.get(right[1:], [])}
    items = right["set"] if isinstance(right, dict) and "set" in right else [right]
    return [network for item in items for network in parse_networks(item)]


def is_own_way(match: dict[str, Any]) -> bool:
    """Whether a rule of ours accepts by this: packets of this machine to itself, and those for another one."""
    if "fib" in match["left"]:
        return (match["op"], match["right"]) == ("!=", "local")
    return match == {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}


def list_unlisted(table: str, ports: list[dict[str, Any]]) -> list[str]:
    """Whom the kernel lets in at these ports although their sources do not contain him."""
    listed: dict[int, list[str]] = {}
    for port in ports:
        listed.setdefault(port["port"], []).extend(port["sources"])
    sets, rules = read_rules(table)
    found = set()
    for rule in (rule for rule in rules if any("accept" in part or "return" in part for part in rule)):
        matches = [part["match"] for part in rule if "match" in part]
        if any(map(is_own_way, matches)):
            continue
        asked = {read_field(match): match["right"] for match in matches if match["op"] == "=="}
        numbers = {*listed} & parse_ports(asked["dport"], sets) if "dport" in asked else {*listed}
        networks = parse_sources(asked["saddr"], sets) if "saddr" in asked else EVERYBODY
        found |= {(one, number) for number in numbers for one in networks if not is_listed(one, listed[number])}
    return [f"{network} at {number}" for network, number in sorted(found)]


def is_let_in(table: str, port: dict[str, Any], source: str) -> bool:
    return is_listed(source, list_let_in(table).get(port["port"], []))


def count_refused_packets(table: str) -> int:
    """How many packets the kernel has dropped at our ports since the table was loaded."""
    rules = [rule for rule in read_rules(table)[1] if {"drop": None} in rule]
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


def parse_listeners(text: str) -> list[Listener]:
    """Address, port and processes of each line of `ss --no-header --listening --tcp --numeric --processes`."""
    found = []
    for line in text.splitlines():
        address, _unused, port = line.split()[3].rpartition(":")
        processes = sorted(set(re.findall(r'\("([^"]+)",pid=', line)))
        found.append((address.strip("[]").partition("%")[0], int(port), processes or ["the kernel"]))
    return found


def serves(listener: str, address: str) -> bool:
    """Whether a listener accepts connections to this address; `*` in ss means both address families."""
    return listener in ("*", address, "::" if ":" in address else "0.0.0.0")


def is_asked(address: str, listener: str) -> bool:
    """Whether a listener serves the address that a port is for; '' is every address."""
    return not address or serves(listener, address)


def is_local(listener: str) -> bool:
    if listener == "*":
        return False
    address = ipaddress.ip_address(listener)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def parse_interfaces(text: str) -> list[dict[str, Any]]:
    """The interfaces of `ip -json address show up`; iproute2 6.1 prints {} in the place of one that is down."""
    return [interface for interface in json.loads(text) if interface]


def list_addresses(text: str, listening: list[Listener]) -> dict[str, list[int]]:
    """The server's addresses (`ip -json address`), each with the ports that are served there."""
    own = [
        info["local"]
        for interface in parse_interfaces(text or "[]")
        if not INTERNAL.fullmatch(interface["ifname"])
        for info in interface["addr_info"]
        if info.get("scope") == "global"
    ]
    return {
        address: sorted({port for listener, port, _processes in listening if serves(listener, address)})
        for address in own
    }


def describe_server(http_port: int, https_port: int, hostname: str) -> dict[str, Any]:
    """What `probe_ports` needs to know of this server."""
    listening = list_listening()
    return {
        "addresses": list_addresses(read_addresses(), listening),
        "controller": find_ssh_client(os.getpid()),
        "neighbours": find_own_neighbours(listening, http_port),
        "certificate": {"name": hostname, "digest": read_certificate("127.0.0.1", https_port, hostname)},
    }


def check_server(
    table: str,
    listening: list[Listener],
    ports: list[dict[str, Any]],
    waivers: dict[str, str],
    elsewhere: Sequence[int] = (),
) -> list[Check]:
    """Checks the kernel's table and the listeners. `elsewhere` are the other ports that `find_neighbours` returns."""
    asked = sorted({port["port"] for port in ports})
    names = ", ".join(map(str, asked))
    closed, reason = find_dropped(table, {port["port"]: port["address"] for port in ports if port.get("address")})
    missing = [str(number) for number in asked if number not in closed]
    seen = reason or (f"not at {', '.join(missing)}" if missing else "yes")
    strangers = {
        f"{process} on {port}"
        for address, port, processes in listening
        for process in processes
        if process not in (*OURS, "docker-proxy", NODE_EXPORTER)
        and any(one["port"] == port and is_asked(one.get("address", ""), address) for one in ports)
    }
    others = {
        f"{process} on {port}"
        for address, port, processes in listening
        for process in processes
        if port not in asked and process in OURS and not is_local(address)
        if process != "nginx" or port not in elsewhere
    }
    served = "Orthanc, nginx or Docker"
    shut_out = [
        f"{source} at {port['port']}"
        for port in ports
        for source in port["sources"]
        if not (port.get("address") and (":" in source) != (":" in port["address"]))  # of the other version of IP
        and not is_let_in(table, port, source)
    ]
    left_out = reason or ", ".join(shut_out)
    unlisted = reason or nftables.list_some(list_unlisted(table, ports))
    tried, waiver, stop = (
        "nft list table inet orthanc",
        waivers.get(WAIVER, ""),
        "stop the process that listens there, or deploy again",
    )
    return [
        check(f"the kernel drops strangers at {names}", tried, "yes", seen, seen == "yes", CLOSE, waiver),
        check(
            "the kernel lets in whom the inventory names", tried, "yes", left_out or "yes", not left_out, CLOSE, waiver
        ),
        check("the kernel lets in nobody else", tried, "yes", unlisted or "yes", not unlisted, DEPLOY, waiver),
        check(f"who listens on {names}", "ss", served, ", ".join(sorted(strangers)) or served, not strangers, stop),
        check("other ports of Orthanc and nginx", "ss", "none", ", ".join(sorted(others)) or "none", not others, stop),
    ]


def find_ssh_client(pid: int) -> str:
    """The address from which the SSH session of a process comes; empty without one.

    sudo removes the variable, so the parent processes are read as well.
    """
    try:
        while pid > 1:
            for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if item.startswith(b"SSH_CONNECTION="):
                    address = item.partition(b"=")[2].split()[0].decode()
                    return "" if address == "UNKNOWN" else address  # sshd's word where it was not reached by a network
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        pass
    return ""
