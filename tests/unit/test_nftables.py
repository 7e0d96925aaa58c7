"""The firewall's table as the kernel holds it, and rules elsewhere; the listings are nft's own (1.0.6 and 1.1.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core import nftables
from ansible_collections.clinicops.orthanc.plugins.modules import orthanc_firewall_table

LISTING = """\
table inet orthanc {
	set dicom_4 {
		type ipv4_addr
		flags interval
		auto-merge
		elements = { 10.0.0.0/8, 198.51.100.57, 198.51.100.60 }
	}

	set dicom_6 {
		type ipv6_addr
		flags interval
		auto-merge
	}

	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		iifname "lo" accept
		iifname != "br-orthanc" tcp dport { 443, 4242, 8042 } fib daddr oifname "br-orthanc" jump refuse
		fib daddr type != local accept
		tcp dport 4242 ip saddr @dicom_4 counter accept
		tcp dport 4242 ip6 saddr @dicom_6 counter accept
		tcp dport { 443, 4242, 8042 } jump refuse
	}

	chain refuse {
		limit rate 6/minute log prefix "orthanc refused: " level info
		counter drop
	}
}
"""
OPENING = "		tcp dport { 443, 4242, 8042 } jump refuse\n"
CHANGES = [
    (LISTING, []),
    ("", ["the table inet orthanc does not exist"]),
    (
        LISTING.replace(OPENING, ""),
        ["chain prerouting lacks 'tcp dport { 443, 4242, 8042 } jump refuse'"],
    ),
    (
        LISTING.replace('		iifname "lo" accept\n', '		accept\n		iifname "lo" accept\n'),
        ["chain prerouting has in addition 'accept'"],
    ),
    (
        LISTING.replace("10.0.0.0/8, ", "0.0.0.0/0, "),
        ["set dicom_4 lacks '10.0.0.0/8'", "set dicom_4 has in addition '0.0.0.0/0'"],
    ),
    (LISTING.replace("198.51.100.57, ", ""), ["set dicom_4 lacks '198.51.100.57'"]),
    (
        LISTING.replace("orthanc {\n", "orthanc {\n	flags dormant\n\n", 1),
        ["the table has in addition 'flags dormant'"],
    ),
    (
        LISTING.replace("policy accept", "policy drop"),
        [
            "chain prerouting lacks 'type filter hook prerouting priority mangle; policy accept;'",
            "chain prerouting has in addition 'type filter hook prerouting priority mangle; policy drop;'",
        ],
    ),
    (
        LISTING.replace("		counter drop\n", "		counter accept\n"),
        ["chain refuse lacks 'counter drop'", "chain refuse has in addition 'counter accept'"],
    ),
]


@pytest.mark.parametrize(("held", "differences"), CHANGES)
def test_what_the_kernel_holds_is_compared_with_what_was_deployed(held: str, differences: list[str]) -> None:
    assert nftables.list_differences(LISTING, held) == differences


def test_another_order_of_rules_is_a_difference() -> None:
    lines = LISTING.splitlines(keepends=True)
    first, last = (next(n for n, line in enumerate(lines) if part in line) for part in ("type != local", "8042 } jump"))
    lines[first], lines[last] = lines[last], lines[first]
    assert nftables.list_differences(LISTING, "".join(lines)) != []


def test_how_elements_are_broken_into_lines_is_no_difference() -> None:
    assert nftables.list_differences(LISTING, LISTING.replace("57, ", "57,\n\t\t\t     ")) == []


def test_many_differences_are_told_in_short() -> None:
    assert nftables.list_some(["a", "b"]) == "a; b"
    assert nftables.list_some([*"abcde"]) == "a; b; c; and 2 more"


OWN = {"198.51.100.10", "127.0.0.1", "::1", "2001:db8::10"}
DOCKER = """\
table ip nat {
	chain DOCKER {
		iifname "br-5d2a" counter return
		iifname != "br-5d2a" tcp dport 4242 counter dnat to 172.18.0.2:4242
		iifname != "br-5d2a" ip daddr 127.0.0.1 tcp dport 8042 counter dnat to 172.18.0.2:8042
	}

	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local counter jump DOCKER
	}

	chain OUTPUT {
		type nat hook output priority dstnat; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local counter jump DOCKER
	}
}
"""


def chain(rule: str, kind: str = "nat", hook: str = "prerouting", priority: str = "dstnat") -> str:
    head = f"type {kind} hook {hook} priority {priority}; policy accept;"
    return f"table inet other {{\n	chain c {{\n		{head}\n		{rule}\n	}}\n}}\n"


def mapped(elements: str, rule: str) -> str:
    """With the named map m, as nft 1.1 breaks its elements into lines."""
    text = f"\n	map m {{\n		type inet_service : inet_service\n		elements = {{ {elements} }}\n	}}\n".replace(
        ", ", ",\n			     "
    )
    return chain(rule).replace("{", "{" + text, 1)


# each was tried with two machines and a connection; what leads past the firewall, and what does not
PAST = [
    chain("tcp dport 104 redirect to :4242"),
    chain("tcp dport 104 redirect to :4242", priority="-190"),  # NAT has a place of its own, whatever is asked for
    chain("tcp dport 104 counter dnat ip to 198.51.100.10:4242"),
    chain("redirect to :tcp dport map { 104 : 4242, 105 : 80 }"),
    chain("tcp dport { 104, 4242 } redirect to :4242"),
    chain("meta l4proto tcp redirect to :4242"),
    DOCKER + chain("tcp dport 104 dnat to 172.18.0.2:4242"),  # to the container
    chain("tcp dport 104 dnat to [2001:db8::10]:4242"),
    chain("ip daddr 203.0.113.7 tcp dport 4242 dnat to 198.51.100.10:4242"),  # not looked at: to another machine
    chain("tcp dport 104 tcp dport set 4242", "filter", priority="filter"),
    chain("tcp dport 4242 ip saddr set 198.51.100.57", "filter", priority="raw"),
    chain("ip saddr set 198.51.100.57", "filter", priority="raw"),
    chain("jump d\n	}\n	chain d {\n		tcp dport 104 redirect to :4242"),
    chain("tcp dport vmap { 104 : jump d, 105 : accept }\n	}\n	chain d {\n		redirect to :4242"),
    chain("tcp dport 104 redirect to :4200-4300"),
    chain("tcp dport 104 dnat to 198.51.100.10:4200-4300"),
    # the port stays
    chain("dnat to 198.51.100.10"),
    chain("dnat ip6 to 2001:db8::10"),
    chain("ip daddr 203.0.113.7 tcp dport 4242 dnat to 198.51.100.10"),
    # not this machine's address alone, so that our chain has not looked at all of it
    chain("ip daddr 203.0.113.0/24 tcp dport 4242 dnat to 198.51.100.10:4242"),
    chain("ip daddr 198.51.100.10/31 tcp dport 4242 dnat to 198.51.100.10:4242"),
    chain("ip6 daddr fd00::/64 tcp dport 4242 dnat to [2001:db8::10]:4242"),
    chain("ip6 daddr fd00::1 tcp dport 4242 dnat to [2001:db8::10]:4242"),
    chain("ip daddr != 198.51.100.10 tcp dport 4242 dnat to 198.51.100.10:4242"),
    chain("ip daddr { 198.51.100.10, 203.0.113.7 } tcp dport 4242 dnat to 198.51.100.10:4242"),
    chain("ip daddr @others tcp dport 4242 dnat to 198.51.100.10:4242"),
    chain("ip daddr 198.51.100.10-198.51.100.20 tcp dport 4242 redirect to :4242"),
    chain('tcp dport 104 redirect to :4242 comment "not tcp dport 4242, nor udp dport 104"'),
    chain('comment "tcp dport 4242" tcp dport 104 redirect to :4242'),
    chain("meta l4proto { tcp, udp } th dport 104 redirect to :4242"),
    chain("meta l4proto tcp th dport 104 redirect to :4242"),
    chain("meta protocol ip tcp dport 104 redirect to :4242"),
    chain("meta l4proto 6 redirect to :4242"),  # where /etc/protocols is missing
    # no port is named: it stays
    chain("redirect"),
    chain("ip daddr 203.0.113.7 tcp dport 4242 counter redirect"),
    chain('ip daddr 203.0.113.7 tcp dport 4242 redirect random comment "to the PACS"'),
    # maps: of ports, of addresses, of both, of verdicts
    mapped("104 : 4242, 105 : 80", "redirect to :tcp dport map @m"),
    mapped('104 comment "to : 80" : 4242', "redirect to :tcp dport map @m"),
    mapped("100-110 : 4242", "redirect to :tcp dport map @m"),
    mapped("443-4242 : 4242", "redirect to :tcp dport map @m"),
    mapped("104 : 198.51.100.10 . 4242, 105 : 198.51.100.11 . 80", "dnat ip to tcp dport map @m"),
    mapped("203.0.113.7 : 198.51.100.10", "dnat to ip daddr map @m"),
    mapped("203.0.113.7 . 4242 : 198.51.100.10", "dnat to ip daddr . tcp dport map @m"),
    mapped("104 : jump d, 105 : accept", "tcp dport vmap @m\n	}\n	chain d {\n		redirect to :4242"),
    DOCKER + mapped("104 : 172.18.0.2 . 4242", "dnat ip to tcp dport map @m"),
    mapped("104 : 4242", "redirect to :tcp dport map @m").replace(
        "map m {", "map empty {\n\t\ttype inet_service : inet_service\n\t}\n\n\tmap m {"
    ),
    chain("dnat to 198.51.100.10:tcp dport map { 104 : 4242 }"),
    chain("dnat to ip daddr map { 203.0.113.7 : 198.51.100.10 }"),
    chain("dnat ip to tcp dport map { 104 : 198.51.100.10 . 4242 }"),
]
NOT_PAST = [
    "",
    DOCKER,
    chain("accept", "filter", priority="-300"),
    chain("tcp dport 4242 accept", "filter", "input", "-400"),
    chain("notrack", "filter", priority="raw"),
    chain("meta mark set 0x00000001 accept", "filter", priority="-300"),
    chain("tcp dport 4242 redirect to :9999"),
    chain("tcp dport 104 redirect to :9999"),
    chain("tcp dport 104 dnat to 172.19.0.2:4242"),  # another container, or another machine
    chain("tcp dport 4242 dnat to 172.18.0.2:4242"),
    chain("tcp dport 104 redirect to :4242", hook="output"),  # for programs of this machine
    chain("ip saddr set 198.51.100.57", "filter", "postrouting", "srcnat"),
    chain("tcp dport 22 ip saddr set 198.51.100.57", "filter", priority="raw"),
    chain("tcp option maxseg size set rt mtu", "filter", "forward", "filter"),
    chain("masquerade", hook="postrouting", priority="srcnat"),
    chain('tcp dport 104 accept comment "once redirect to :4242"'),
    chain('tcp dport 22 counter comment "ip saddr set by the router"'),
    chain('comment "tcp dport 104 redirect to :4242"'),
    chain('accept comment "jump d"\n	}\n	chain d {\n		tcp dport 104 redirect to :4242'),
    chain("udp dport 104 redirect to :4242"),
    chain("meta l4proto udp redirect to :4242"),
    chain("icmp type echo-request dnat to 198.51.100.10"),
    chain("ip protocol icmp dnat to 198.51.100.10"),
    chain("udp dport 104 ip saddr set 198.51.100.57", "filter", priority="raw"),
    chain("ip daddr 203.0.113.7 tcp dport 4242 dnat to 203.0.113.9:4242"),  # one other machine to another
    chain("ip6 daddr fd00::1 tcp dport 4242 dnat to [fd00::2]:4242"),
    chain("ip daddr 127.0.0.0/8 tcp dport 4242 redirect to :4242"),
    chain("ip daddr 198.51.100.10 tcp dport 4242 redirect to :4242"),
    chain("ip6 daddr 2001:db8::10 tcp dport 4242 redirect to :4242"),
    chain("tcp dport 4242 dnat to 198.51.100.10"),
    chain("tcp dport 104 dnat to 198.51.100.10"),
    chain("dnat to 203.0.113.9"),
    chain("dnat to 198.51.100.0-198.51.100.255"),
    chain("tcp dport 104 redirect to :9000-9010"),
    chain("tcp dport vmap { 104 : jump e, 105 : accept }\n	}\n	chain d {\n		redirect to :4242"),
    chain("tcp dport 104 redirect"),
    chain("tcp dport 4242 redirect"),
    chain("ct status dnat accept"),
    chain("tcp dport 4242 jump redirect"),
    mapped("104 : 9999, 105 : 80", "redirect to :tcp dport map @m"),
    mapped("4242 : 443", "redirect to :tcp dport map @m"),
    mapped("104 : 198.51.100.10", "dnat to tcp dport map @m"),  # a port that stays, at which nobody is guarded
    mapped("104 : 203.0.113.9 . 4242", "dnat ip to tcp dport map @m"),
    mapped("203.0.113.7 : 203.0.113.9", "dnat to ip daddr map @m"),
    mapped("104 : jump e, 105 : accept", "tcp dport vmap @m\n	}\n	chain d {\n		redirect to :4242"),
    mapped("104 : 0x00000001", "meta mark set tcp dport map @m"),
    chain("dnat to 203.0.113.9:tcp dport map { 104 : 4242 }"),
    # another table's map of the same name
    chain("redirect to :tcp dport map @m") + mapped("104 : 4242", "accept").replace("inet other", "ip other"),
]


@pytest.mark.parametrize("other", PAST)
def test_a_rule_that_leads_past_the_firewall_is_named(other: str) -> None:
    [found] = nftables.list_detours(LISTING + other, OWN)
    assert found.startswith("table inet other, chain ")


@pytest.mark.parametrize("other", NOT_PAST)
def test_a_rule_that_opens_nothing_is_not_accused(other: str) -> None:
    assert nftables.list_detours(other + LISTING, OWN) == []


@pytest.mark.parametrize(("status", "unseen"), [(nftables.NFT_FAILED, False), (1, True), (127, True)])
def test_a_kernel_without_network_namespaces_is_told_from_a_file_that_nft_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, unseen: bool
) -> None:
    monkeypatch.setattr(nftables, "ask_program", lambda *_, **_more: (status, "", "it says no"))
    (tmp_path / "orthanc.nft").write_text("")
    with pytest.raises(OSError, match="it says no") as found:
        nftables.read_deployed(tmp_path / "orthanc.nft")
    assert isinstance(found.value, nftables.Unseen) == unseen


@pytest.mark.parametrize("failing", ["--file", "list"])
def test_the_shell_tells_nft_s_failure_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: str) -> None:
    nft = tmp_path / "nft"
    nft.write_text(f'#!/bin/sh\ncase "$*" in *{failing}*) exit 1 ;; esac\n')
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert nftables.ask_program("sh", "-c", nftables.LOAD_APART, "sh", "file").status == nftables.NFT_FAILED


@pytest.mark.parametrize(
    ("held", "check", "loaded"), [("", False, True), ("", True, False), (LISTING, False, False), (LISTING, True, False)]
)
def test_a_table_that_cannot_be_compared_is_loaded_only_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, held: str, check: bool, loaded: bool
) -> None:
    def fail(_path: Path) -> str:
        raise nftables.Unseen("unshare failed")

    loads: list[Path] = []
    told: dict[str, Any] = {}
    monkeypatch.setattr(nftables, "read_held", lambda: held)
    monkeypatch.setattr(nftables, "read_deployed", fail)
    monkeypatch.setattr(nftables, "load", loads.append)

    class Module:
        check_mode = check

        def __init__(self, **_: Any) -> None:
            self.params = {"path": "/etc/nftables.d/orthanc.nft"}

        def warn(self, text: str) -> None:
            told["warning"] = text

        def exit_json(self, **result: Any) -> None:
            told.update(result)
            raise SystemExit

    monkeypatch.setattr(orthanc_firewall_table, "AnsibleModule", Module)
    with pytest.raises(SystemExit):
        orthanc_firewall_table.main()
    assert bool(loads) == loaded
    assert told.pop("warning").endswith("unshare failed")
    assert told == {"changed": not held, "differences": [] if held else ["the table inet orthanc does not exist"]}
