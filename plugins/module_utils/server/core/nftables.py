# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The firewall's table: what the kernel holds against what was deployed, and what leads past it.

An accept at an earlier priority opens nothing: it ends its own chain, and the packet still meets ours. The same is true
of notrack, marks, queues and policies elsewhere. Two things do bypass a drop that matches ports and addresses: a
redirection (NAT happens after our chain, whatever the priority of its own) that sends another port to a guarded one,
and a statement that rewrites addresses or ports.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from pathlib import Path
from typing import NamedTuple

from .process import ask_program

TABLE = "table inet orthanc"
FILE = Path("/etc/nftables.d/orthanc.nft")
SECONDS = 20
NFT_FAILED = 90  # unshare has other codes, such as 1 where no namespaces are allowed
# what the file makes of an empty kernel: a network namespace of its own, which ends with the command
LOAD_APART = f'nft --file "$1" && nft --stateless list {TABLE} || exit {NFT_FAILED}'
QUOTED = re.compile(r'"[^"]*"')
# no chain or set of that name, and no state of a connection; redirect may name no target
STATEMENT = re.compile(
    r"(?<![\w@-])(?<!jump )(?<!goto )(?:(?:redirect|dnat)(?: ip6?)? to (?P<target>.+)|redirect(?![\w-]).*)$"
)
REWRITES = re.compile(r"\b(?:ip6? [sd]addr|(?:tcp|th) dport) set\b")
PORTS = re.compile(r"\b(?:tcp|th) dport (?P<not>!= )?(?P<ports>\{[^}]*\}|[\w@-]+)")
GUARDED = re.compile(r"\b(?:tcp|th) dport (?:\{ )?(?P<ports>[\d, ]+?)(?: \})?(?: fib .*)? jump refuse")
# the address is one address or prefix: no set, no range, no negation
DESTINATION = re.compile(r"\bip6? daddr (?P<address>[0-9a-f:][0-9a-f.:/]*(?!\S))?")
NOT_TCP = re.compile(r"\b(?:udp|sctp) [sd]port\b|\bicmp(?:v6)? \w|\b(?:l4proto|ip protocol|nexthdr) (?!(?:tcp|6)\b)\w")
MAP = re.compile(r"\bmap \{(?P<elements>[^}]*)\}")
NAMED = re.compile(r"\b(?P<kind>v?map) @(?P<name>[^\s,]+)")
# up to its elements there are lines of its own alone
NAMED_MAP = re.compile(
    r"^\s*map (?P<name>\S+) \{\n(?:(?!\s*\}).*\n)*?\s*elements = \{(?P<elements>[^}]*)\}", re.MULTILINE
)
ASIDE = re.compile(r' comment ""| (?:timeout|expires) \w+')  # of an element
TARGET = re.compile(r"(?:\[(?P<six>[0-9a-f:]+)\]|(?P<four>[\d.]*)):(?P<first>\d+)(?:-(?P<last>\d+))?(?!\S)")
BEFORE_MAP = re.compile(r"(?:\[(?P<six>[0-9a-f:]+)\]|(?P<four>[\d.]+)):")
ALONE = re.compile(r"(?P<address>[0-9a-f.:]+)(?!\S)")


class Unseen(OSError):
    """What the file makes cannot be seen on this machine, whatever the file is."""


class Rule(NamedTuple):
    """A rule of another table: where it stands, its text, and that without what others wrote between quotes."""

    place: str
    text: str
    plain: str
    hooks: frozenset[str] = frozenset()  # from which packets come to it


# --- the table itself ---------------------------------------------------------------------------
def read_held() -> str:
    """nft's listing of the table in the kernel, without counters; empty where there is none. OSError else."""
    status, listing, said = ask_program("nft", "--stateless", *f"list {TABLE}".split(), seconds=SECONDS)
    if status and "No such file or directory" not in said:
        raise OSError(f"nft cannot list the firewall's table: {said}")
    return "" if status else listing


def read_deployed(path: Path = FILE) -> str:
    """nft's listing of the table that the file makes, by the same kernel. OSError where it makes none, or Unseen."""
    if not path.exists():
        raise OSError(f"{path} does not exist")
    status, listing, said = ask_program("unshare", "--net", "sh", "-c", LOAD_APART, "sh", str(path), seconds=SECONDS)
    if status == NFT_FAILED:
        raise OSError(f"nft cannot load {path}: {said}")
    if status:
        raise Unseen(f"no network namespace could be created in which to load {path}: {said}")
    return listing


def load(path: Path = FILE) -> None:
    """Replaces the table in one transaction. OSError where nft does not take the file."""
    status, _unused, said = ask_program("nft", "--file", str(path), seconds=SECONDS)
    if status:
        raise OSError(f"nft cannot load {path}: {said}")


def split_listing(listing: str) -> list[tuple[str, str]]:
    """Each line of a table with the chain or set in which it stands; each element of a set is a line of its own."""
    # the elements of a set go over several lines
    text = re.sub(r"elements = \{([^}]*)\}", lambda found: "elements = {" + " ".join(found[1].split()) + "}", listing)
    found, place = [], "the table"
    for line in (line.strip() for line in text.splitlines()):
        if line == "}":
            place = "the table"
        elif line.startswith(("chain ", "set ", "map ", "flowtable ")):
            place = line.removesuffix("{").strip()
            found.append((place, line))
        elif line.startswith("elements = {"):
            found += [(place, element) for element in line[len("elements = {") : -1].split(", ")]
        elif line:
            found.append((place, line))
    return found


def list_differences(deployed: str, held: str) -> list[str]:
    """What the kernel's table lacks or has in addition, each a sentence without its end; empty where both agree."""
    if deployed == held:
        return []
    if not held:
        return ["the table inet orthanc does not exist"]
    before, after = split_listing(deployed), split_listing(held)
    found = []
    for kind, begin, end, start, stop in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            found += [f"{place} lacks '{line}'" for place, line in before[begin:end]]
            found += [f"{place} has in addition '{line}'" for place, line in after[start:stop]]
    return found


def find_changes(path: Path = FILE) -> list[str]:
    """How the kernel's table differs from the one that was deployed. OSError where that cannot be seen."""
    return list_differences(read_deployed(path), read_held())


def list_some(found: list[str], most: int = 3) -> str:
    """The first of them, and how many more there are."""
    return "; ".join(found[:most]) + (f"; and {len(found) - most} more" if len(found) > most else "")


# --- what leads past it -------------------------------------------------------------------------
def find_detours() -> list[str]:
    """Rules of other tables that bypass the firewall. OSError where they cannot be listed."""
    status, listing, said = ask_program("nft", "--stateless", "list", "ruleset", seconds=SECONDS)
    if status:
        raise OSError(f"nft cannot list its rules: {said}")
    return list_detours(listing, local_addresses())


def local_addresses() -> set[str]:
    """This machine's."""
    status, listing, said = ask_program("ip", "-json", "address", "show", seconds=SECONDS)
    if status:
        raise OSError(f"ip cannot list this machine's addresses: {said}")
    return {info["local"] for interface in json.loads(listing) for info in interface["addr_info"] if "local" in info}


def list_guarded(listing: str) -> set[int]:
    """The ports at which our table drops strangers."""
    own = "\n".join(rule.plain for rule in split_ruleset(listing, own=True))
    return {int(port) for found in GUARDED.finditer(own) for port in found["ports"].split(", ")}


def split_ruleset(listing: str, own: bool = False) -> list[Rule]:
    """The rules of our table, or of all others."""
    table, chain = "", ""
    maps = read_maps(listing)
    found: list[tuple[str, str, str, str]] = []
    hooks: dict[tuple[str, str], set[str]] = {}
    for line in (line.strip() for line in listing.splitlines()):
        if line.startswith("table "):
            table = line.removesuffix("{").strip()
        elif line.startswith("chain "):
            chain = line.removesuffix("{").strip()
        elif line == "}":
            chain = ""
        elif hook := re.match(r"type \w+ hook (\w+)", line):
            hooks.setdefault((table, chain), set()).add(hook[1])
        elif chain and line and (table == TABLE) == own and not line.startswith("#"):
            found.append((table, chain, line, spell_out(line, maps.get(table, {}))))
    # a chain is also reached from those that jump to it; as often as chains may follow each other
    leads = re.compile(r"\b(?:jump|goto) ([^\s,]+)")
    jumps = [(of, chain, f"chain {name}") for of, chain, _unused, plain in found for name in leads.findall(plain)]
    for _unused in {chain for _unused, chain, _unused in jumps}:
        for of, chain, to in jumps:
            hooks.setdefault((of, to), set()).update(hooks.get((of, chain), ()))
    return [
        Rule(f"{of}, {chain}", text, plain, frozenset(hooks.get((of, chain), ()))) for of, chain, text, plain in found
    ]


def read_maps(listing: str) -> dict[str, dict[str, str]]:
    """The elements of each named map, by table and name, as they stand in a rule with a map of its own."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^(?=table )", QUOTED.sub('""', listing), flags=re.MULTILINE):
        maps = {one["name"]: " ".join(ASIDE.sub("", one["elements"]).split()) for one in NAMED_MAP.finditer(part)}
        found[part.partition("{")[0].strip()] = maps
    return found


def spell_out(line: str, maps: dict[str, str]) -> str:
    """A rule without what others wrote between quotes, and with the elements of its named maps."""
    return NAMED.sub(lambda one: f"{one['kind']} {{ {maps.get(one['name'], '')} }}", QUOTED.sub('""', line))


def list_detours(listing: str, addresses: set[str]) -> list[str]:
    """The rules outside our table that lead past it, each with its place. `addresses` are this machine's."""
    guarded = list_guarded(listing)
    others = [rule for rule in split_ruleset(listing) if not NOT_TCP.search(rule.plain)]
    # where guarded ports lead: Docker sends them on to the container
    behind = {
        target
        for rule in others
        if ports_of(rule.plain) and is_guarded(rule.plain, guarded, addresses)
        for target in targets(rule, guarded)
    }
    found = []
    for rule in others:
        ends = {
            (address, port)
            for address, port in targets(rule, guarded)
            if (address, port) in behind or (port in guarded and is_local(address, addresses))
        }
        if (ends and not is_guarded(rule.plain, guarded, addresses)) or rewrites(rule, guarded):
            found.append(f"{rule.place}: {rule.text}")
    return found


def is_local(address: str, addresses: set[str]) -> bool:
    """Whether a destination, also a prefix, is this machine; none at all is the packet's own."""
    return not address or address in addresses or ipaddress.ip_network(address, strict=False).is_loopback


def is_guarded(text: str, guarded: set[int], addresses: set[str]) -> bool:
    """Whether our chain has looked at everything that comes to this rule: guarded ports of this machine."""
    aimed = DESTINATION.search(text)
    if aimed and not (aimed["address"] and is_local(aimed["address"], addresses)):
        return False
    matched = ports_of(text)
    # 0: whatever port it is
    mapped = {port for comes, _unused, goes in list_pairs(text) if (goes or guarded) & guarded for port in comes or {0}}
    return bool(matched or mapped) and (matched or mapped) <= guarded


def ports_of(text: str) -> set[int]:
    """The destination ports that a rule asks for; empty for all, and for what is not plain numbers."""
    found = PORTS.search(text)
    if not found or found["not"]:
        return set()
    spans = [read_ports(part) for part in found["ports"].strip("{} ").split(", ")]
    return set().union(*spans) if all(spans) else set()


def read_ports(text: str) -> set[int]:
    """A port or a range; empty for anything else."""
    if not re.fullmatch(r"\d+(-\d+)?", text):
        return set()
    span = [int(number) for number in text.split("-")]
    return set(range(span[0], span[-1] + 1))


def list_pairs(text: str) -> list[tuple[set[int], str, set[int]]]:
    """Of each element of a rule's map: from which ports (empty: any), to which address (empty: none is named) and to
    which ports (empty: they stay)."""
    found = []
    for element in (element for one in MAP.finditer(text) for element in one["elements"].split(", ")):
        key, _unused, value = (part.strip().split(" . ") for part in element.rpartition(" : "))
        comes, goes = (set().union(*map(read_ports, parts)) for parts in (key, value))
        found.append((comes, next((part for part in value if ALONE.fullmatch(part) and not part.isdigit()), ""), goes))
    return found


def targets(rule: Rule, guarded: set[int]) -> set[tuple[str, int]]:
    """Address (empty: this machine) and port to which a rule redirects."""
    found = STATEMENT.search(rule.plain)
    # at output it is for programs of this machine alone
    if not found or "prerouting" not in rule.hooks:
        return set()
    stays = ports_of(rule.plain) or guarded
    if not found["target"]:
        return {("", port) for port in stays}
    if " map " in found["target"]:
        one = BEFORE_MAP.match(found["target"])
        fixed = (one["six"] or one["four"]) if one else ""
        return {
            (address or fixed, port)
            for comes, address, goes in list_pairs(found["target"])
            if address or goes
            for port in goes or comes or stays
        }
    if one := TARGET.match(found["target"]):
        ports = range(int(one["first"]), int(one["last"] or one["first"]) + 1)
        return {(one["six"] or one["four"] or "", port) for port in ports}
    # the port stays
    alone = ALONE.match(found["target"])
    return {(alone["address"], port) for port in stays} if alone else set()


def rewrites(rule: Rule, guarded: set[int]) -> bool:
    """Whether a rule writes other addresses or ports into packets that our chain will see, or has seen otherwise."""
    found = REWRITES.search(rule.plain)
    if not found or not rule.hooks & {"ingress", "prerouting", "input"}:
        return False
    if "dport set" in found[0]:
        port = re.match(r" (\d+)\b", rule.plain[found.end() :])
        return not port or int(port[1]) in guarded
    matched = ports_of(rule.plain)
    return not matched or bool(matched & guarded)
