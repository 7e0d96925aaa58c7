# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds other services on Orthanc's ports, and other firewalls that block sources that the settings let in.

Changes nothing. Runs on the machine, standard library only. ufw's rules are read from its files, firewalld's with its
client, any others from the kernel.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import present

from .server.core.networks import is_within
from .server.core.process import try_output
from .server.verify.exposure import INTERNAL

EVERYBODY = ("0.0.0.0/0", "::/0")
EVERY_ADDRESS = ("*", "0.0.0.0", "::")  # as ss writes it
OTHER_FIREWALL = "other_firewall"  # the name of the waiver
# the setting that changes the number of a port, by the port's name
SETTINGS = {
    "dicom": "orthanc_dicom_port",
    "http": "orthanc_http_port",
    "dicom_tls": "orthanc_dicom_tls_port",
    "https": "orthanc_proxy_port",
}
PROXY = ("https", "challenge")  # the ports for which orthanc_proxy_address is
UFW = Path("/etc/ufw")


class Problem(NamedTuple):
    """`what message. Remedy: remedy.` is a sentence; `rule` is the waiver that allows it, or empty."""

    what: str
    message: str
    remedy: str
    rule: str = ""


class Port(NamedTuple):
    """A port of the firewall: its name, its number, the only networks that it lets in, and the address of this machine
    that it is for; '' for every address."""

    name: str
    number: int
    sources: list[str]
    address: str = ""

    @property
    def is_for_everybody(self) -> bool:
        return any(source in EVERYBODY for source in self.sources)


class Listener(NamedTuple):
    port: int
    pid: int
    unit: str  # of systemd, or empty
    address: str = "*"  # as ss writes it, without brackets


# --- who listens --------------------------------------------------------------------------------
def list_listeners() -> list[Listener]:
    """Every process that accepts TCP connections, at each of its ports once."""
    found = set()
    for line in try_output("ss", "-H", "-l", "-t", "-n", "-p").splitlines():
        address = line.split()[3]
        for pid in re.findall(r"pid=(\d+)", line)[:1]:
            place, _unused, number = address.rpartition(":")
            place = place.strip("[]").partition("%")[0]
            found.add(Listener(int(number), int(pid), unit_of(int(pid)), place))
    return sorted(found)


def unit_of(pid: int) -> str:
    """The systemd service or scope in which a process runs, or ''."""
    with contextlib.suppress(OSError):
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        named = re.findall(r"/([^/\n]+\.(?:service|scope))(?=/|$)", groups, re.MULTILINE)
        return str(named[-1]) if named else ""
    return ""


def command_of(pid: int) -> str:
    """The command line of a process in shell syntax, or ''."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        return shlex.join(present.text(word) for word in words if word)[:200]
    return ""


def check_listeners(ports: list[Port], containers: list[str], processes: Iterable[int] = ()) -> list[Problem]:
    """Processes on a port that Orthanc or nginx needs. `containers` are reported elsewhere, or belong to a deploy. The
    `processes` end with it."""
    ending = {*processes}
    wanted = {port.number: port for port in ports}
    found = []
    for one in list_listeners():
        port = wanted.get(one.port)
        if not port or one.pid in ending or is_shared(one, port) or not overlaps(one.address, port):
            continue
        who = f"{one.unit or 'no unit'}, process {one.pid}: {command_of(one.pid)}"
        remedy = "move it to another port"
        stop = f"systemctl disable --now {one.unit}" if one.unit.endswith(".service") else f"kill {one.pid}"
        if Path(command_of(one.pid).partition(" ")[0]).name == "docker-proxy":
            published = ("docker", "ps", "--filter", f"publish={one.port}", "--format", "{{.Names}}")
            names = try_output(*published).split()
            if set(names) & set(containers):
                continue
            who = f"the container {', '.join(names)}"
            stop = f"docker update --restart=no {' '.join(names)}; docker stop {' '.join(names)}"
        if port.name in SETTINGS:
            remedy += f", set {SETTINGS[port.name]} to a free one"
        elif port.name == "challenge":
            remedy += ", set orthanc_proxy_acme_dns_hook, which needs no port 80"
        if port.name in PROXY and one.address not in EVERY_ADDRESS:
            remedy += ", set orthanc_proxy_address to another address of this machine"
        message = (
            f"is in use ({who}), but a deploy needs it for {'Orthanc' if port.name in ('dicom', 'http') else 'nginx'}"
        )
        found.append(Problem(f"Port {one.port} ({port.name})", message, f"{remedy}, or stop it: {stop}"))
    return found


def overlaps(listener: str, port: Port) -> bool:
    """Whether a process that listens there keeps ours from the address of its port."""
    # at one address, nginx also serves HTTPS to programs of this machine
    local = ("127.0.0.1", "127.0.0.2") if port.name == "https" else ()
    # over IPv4 to these, and over the version of the address
    every = {"::" if ":" in one else "0.0.0.0" for one in (port.address, *local)}
    return not port.address or listener in {port.address, *local, *every, "*"}


def is_shared(one: Listener, port: Port) -> bool:
    """Whether a deploy uses that service itself, so that it is not in the way: nginx's sites are checked one by one."""
    return (one.unit, port.name) in {
        ("nginx.service", "https"),
        ("nginx.service", "challenge"),
        ("orthanc.service", "dicom"),
        ("orthanc.service", "http"),
        ("prometheus-node-exporter.service", "metrics"),
    }


# --- addresses ----------------------------------------------------------------------------------
def list_addresses() -> list[str]:
    """The addresses at which others call this machine: not those of loopback, of one link, of Docker's bridges."""
    shown = json.loads(try_output("ip", "-json", "address", "show") or "[]")
    own = [interface for interface in shown if not INTERNAL.fullmatch(str(interface.get("ifname")))]
    found = [info for interface in own for info in interface.get("addr_info", [])]
    return [str(info["local"]) for info in found if info.get("scope") == "global" and "local" in info]


def check_addresses(ports: list[Port], own: list[str], *, containers: bool) -> list[Problem]:
    """Ports at an address that the machine (`own`) does not have, and DICOM without any IPv4 address.

    `containers`: whether Orthanc is in a container, for which Docker accepts IPv6 as well."""
    found = []
    for port in ports:
        if port.address and port.address not in own:
            message = f"is {port.address}, which is not an address of this machine ({', '.join(own) or 'it has none'})"
            found.append(Problem("orthanc_proxy_address", message, "correct it, or remove it to serve every address"))
    devices = any(port.sources for port in ports if port.name == "dicom")
    if devices and own and not containers and all(":" in address for address in own):
        message = "has IPv6 addresses alone, but Orthanc's own DICOM port is for IPv4"
        remedy = "give it an IPv4 address, let every device use TLS (orthanc_dicom_tls), which the proxy accepts over"
        found.append(Problem("This machine", message, f"{remedy} IPv6, or set orthanc_install_method: docker"))
    return list(dict.fromkeys(found))


# --- firewalls beside ours ----------------------------------------------------------------------
def check_firewalls(ports: list[Port]) -> list[Problem]:
    """The ports that other active firewalls close to sources that the settings let in."""
    found = check_ufw(ports)
    found += check_firewalld(ports)
    return found + check_chains(ports, read_ruleset())


def read_ruleset() -> dict[str, Any]:
    """The kernel's tables, as nft lists them; empty where it cannot."""
    try:
        ruleset: dict[str, Any] = json.loads(try_output("nft", "--json", "list", "ruleset") or "{}")
        return ruleset
    except ValueError:
        return {}  # Debian 12's nft stops in the middle of a dormant table, even if it is ours, which a deploy renews


def list_ports(ports: list[Port]) -> str:
    return ", ".join(f"{port.number} ({port.name})" for port in ports)


def check_ufw(ports: list[Port], directory: Path = UFW) -> list[Problem]:
    """The problem with ufw, by the rules in its own files, of which the first match decides."""
    if not re.search(r"(?m)^ENABLED=yes", read(directory / "ufw.conf")):
        return []
    default = re.search(r'(?m)^DEFAULT_INPUT_POLICY="?(\w+)', read(directory.parent / "default/ufw"))
    lets_in = bool(default and default[1] == "ACCEPT")
    rules = [*read_ufw(directory / "user.rules"), *read_ufw(directory / "user6.rules")]
    closed, commands = [], []
    for port in ports:
        missing = [source for source in port.sources if not ufw_admits(rules, port.number, source, lets_in)]
        if missing:
            closed.append(port)
        commands += [
            f"ufw allow {port.number}/tcp"
            if source in EVERYBODY
            else f"ufw allow proto tcp from {source} to any port {port.number}"
            for source in missing
        ]
    if not closed:
        return []
    message = f"is active, and blocks port {list_ports(closed)} for sources that the settings let in"
    return [Problem("ufw", message, " && ".join(dict.fromkeys(commands)), OTHER_FIREWALL)]


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class UfwRule(NamedTuple):
    admits: bool
    ports: str  # 443, 80,443, 6000:6007 or any
    source: ipaddress.IPv4Network | ipaddress.IPv6Network


def read_ufw(path: Path) -> Iterator[UfwRule]:
    """The rules in order, from their comments: `### tuple ### allow tcp 443 0.0.0.0/0 any 198.51.100.0/24 in`."""
    for line in re.findall(r"(?m)^### tuple ### (.*)$", read(path)):
        action, protocol, port, _to, source_port, source, *rest = line.split()
        way = re.match(r"(in|out)(_|$)", next((word for word in rest if re.match(r"(in|out)(_|$)", word)), "in"))
        if action.startswith("route:") or protocol not in ("tcp", "any") or source_port != "any":
            continue
        if way and way[1] == "in":
            network = ipaddress.ip_network(source, strict=False)
            yield UfwRule(action.partition("_")[0] in ("allow", "limit"), port, network)


def ufw_admits(rules: list[UfwRule], port: int, source: str, default: bool) -> bool:
    """Whether connections from every address of the source reach the port."""
    network = ipaddress.ip_network(source, strict=False)
    for rule in rules:
        if rule.source.version == network.version and names_port(rule.ports, port):
            if is_within(network, rule.source):
                return rule.admits
            if not rule.admits and rule.source.overlaps(network):
                return False
    return default


def names_port(ports: str, port: int) -> bool:
    """Whether `ports` (443, 80,443, 6000:6007, 6000-6007 or any) includes the port."""
    ends = [re.split("[:-]", part) for part in ports.split(",")]
    return ports == "any" or any(int(part[0]) <= port <= int(part[-1]) for part in ends)


def check_firewalld(ports: list[Port]) -> list[Problem]:
    """The problem with firewalld: ports that no active zone opens as a port, by a service or in a rich rule."""
    if try_output("firewall-cmd", "--state").strip() != "running":
        return []
    active = re.findall(r"(?m)^(\S+)", try_output("firewall-cmd", "--get-active-zones"))
    # Docker's own zone admits everything, and no other machine's packets are in it
    zones = [zone for zone in active if zone != "docker"] or [try_output("firewall-cmd", "--get-default-zone").strip()]
    wanted = [port for port in ports if port.sources]
    missing = [port for port in wanted if not any(zone_names(zone, port.number) for zone in zones)]
    if not missing:
        return []
    added = " ".join(f"--add-port={port.number}/tcp" for port in missing)
    message = f"is running, and no active zone opens port {list_ports(missing)}"
    remedy = f"firewall-cmd --permanent --zone={zones[0]} {added} && firewall-cmd --reload"
    return [Problem("firewalld", message, remedy, OTHER_FIREWALL)]


def list_docker_rules() -> str:
    """The rules of table nat, as iptables writes them; empty if no Docker Engine runs that keeps rules there."""
    if try_output("systemctl", "is-active", "docker.service").strip() != "active":
        return ""
    chosen = json.loads(read(Path("/etc/docker/daemon.json")) or "{}")
    keeps = chosen.get("iptables", True) and chosen.get("firewall-backend", "iptables") == "iptables"
    return try_output("iptables", "--wait", "-t", "nat", "-S") if keeps else ""


def check_docker(rules: str) -> list[Problem]:
    """The problem with a Docker Engine whose own rules are gone: it then creates no network, and masks no address."""
    if not rules or re.search(r"(?m)^-N DOCKER$", rules):
        return []
    message = "runs without its own rules in the firewall: something removed them, such as firewalld when it started"
    remedy = "systemctl restart docker, which also restarts its containers"
    return [Problem("The Docker Engine", message, remedy, OTHER_FIREWALL)]


def zone_names(zone: str, port: int) -> bool:
    listing = try_output("firewall-cmd", f"--zone={zone}", "--list-all")
    lines = dict(re.findall(r"(?m)^ +([\w-]+): *(.*)$", listing))
    texts = [lines.get("ports", "")]
    for service in lines.get("services", "").split():
        texts.append(try_output("firewall-cmd", f"--info-service={service}"))
    named = [part for text in texts for part in re.findall(r"([\d-]+)/tcp", text)]
    rich = re.findall(r'port port="([\d-]+)" protocol="tcp".* accept', listing)
    return lines.get("target") == "ACCEPT" or any(names_port(part, port) for part in [*named, *rich])


def check_chains(ports: list[Port], ruleset: dict[str, Any]) -> list[Problem]:
    """Problems with chains of nftables or iptables that drop by default, and whose table does not accept a port."""
    parts = ruleset.get("nftables", [])
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for rule in (part["rule"] for part in parts if "rule" in part):
        tables.setdefault((rule["family"], rule["table"]), []).append(rule)
    found = []
    for chain in (part["chain"] for part in parts if "chain" in part):
        place = (chain["family"], chain["table"])
        rules = tables.get(place, [])
        # these two are checked above, by their own files and client
        is_managed = place[1] == "firewalld" or any(rule["chain"].startswith("ufw") for rule in rules)
        if chain.get("hook") != "input" or place == ("inet", "orthanc") or is_managed:
            continue
        own = [rule for rule in rules if rule["chain"] == chain["name"]]
        if chain.get("policy") != "drop" and not any(refuses_all(rule) for rule in own):
            continue
        family = {"ip": 4, "ip6": 6}.get(place[0], 0)
        reached = list_reached(rules, chain["name"])
        missing = [
            port for port in ports if comes_by(port, family) and not any(admits(rule, port.number) for rule in reached)
        ]
        if missing:
            numbers = ", ".join(str(port.number) for port in missing)
            message = f"drops packets by default, and does not accept port {list_ports(missing)}"
            remedy = f"nft insert rule {place[0]} {place[1]} {chain['name']} tcp dport '{{ {numbers} }}' accept,"
            remedy += " and add the rule to the file that it comes from (/etc/nftables.conf, /etc/iptables/rules.v4)"
            what = f"The chain {chain['name']} of table {place[0]} {place[1]}"
            found.append(Problem(what, message, remedy, OTHER_FIREWALL))
    return found


def list_reached(rules: list[dict[str, Any]], chain: str) -> list[dict[str, Any]]:
    """The rules of a chain, and of the chains that it jumps to; Docker's chains are in the same table."""
    chains: list[str] = []
    waiting = [chain]
    while waiting:
        name = waiting.pop()
        if name in chains:
            continue
        chains.append(name)
        for rule in rules:
            for statement in rule.get("expr", []) if rule["chain"] == name else []:
                target = (statement.get("jump") or statement.get("goto") or {}).get("target")
                if target:
                    waiting.append(target)
    return [rule for rule in rules if rule["chain"] in chains]


def comes_by(port: Port, family: int) -> bool:
    """Whether the port has sources of this IP version; 0 is either."""
    return any(family in (0, ipaddress.ip_network(source, strict=False).version) for source in port.sources)


def refuses_all(rule: dict[str, Any]) -> bool:
    kinds = {next(iter(statement)) for statement in rule.get("expr", [])}
    return bool(kinds & {"drop", "reject"}) and kinds <= {"drop", "reject", "counter", "log"}


def admits(rule: dict[str, Any], port: int) -> bool:
    """Whether a rule may accept connections to the port; true for a rule that cannot be interpreted."""
    statements = rule.get("expr", [])
    kinds = {next(iter(statement)) for statement in statements}
    if "accept" not in kinds and not kinds & {"jump", "goto"}:
        return False
    if kinds <= {"accept", "counter"} or ("xt" in kinds and "accept" in kinds):
        return True
    for match in (statement["match"] for statement in statements if "match" in statement):
        left = match["left"]
        if isinstance(left, dict) and left.get("payload", {}).get("field") == "dport":
            return match["op"] != "!=" and holds(match["right"], port)
    return False


def holds(right: Any, port: int) -> bool:
    """Whether a number, a range or a set of nft contains the port; a named set may."""
    if isinstance(right, dict) and "range" in right:
        return bool(right["range"][0] <= port <= right["range"][1])
    if isinstance(right, dict) and "set" in right:
        return any(holds(one, port) for one in right["set"])
    return bool(right == port) or isinstance(right, str)
