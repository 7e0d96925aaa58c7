# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the sites of nginx that somebody else wrote listen to, and whether they lead to Orthanc."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

NGINX = Path("/etc/nginx")
SERVER, LISTEN = re.compile(r"\bserver\s*\{"), re.compile(r"\blisten\s+([^;]+);")
LOCAL = re.compile(r"unix:|127\.|localhost|\[::1\]")
PLAIN_HTTP = 80  # where a server listens that does not say where


class Listen(NamedTuple):
    """A `listen` directive: its address, '' for every one of IPv4, its port, and its words."""

    address: str
    port: int
    words: list[str]


def list_sites(directory: Path = NGINX) -> list[Path]:
    """The files in which nginx's servers are, as Debian's nginx.conf includes them."""
    return [directory / "nginx.conf", *directory.glob("conf.d/*.conf"), *directory.glob("sites-enabled/*")]


def read_site(path: Path) -> str:
    """A file without its comments, in one line."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return " ".join(line.partition("#")[0] for line in lines)


def list_servers(text: str) -> Iterator[str]:
    """What stands between the braces of each server."""
    for start in (one.end() for one in SERVER.finditer(text)):
        depth = 1
        for brace in re.finditer(r"[{}]", text[start:]):
            depth += 1 if brace[0] == "{" else -1
            if not depth:
                yield text[start : start + brace.start()]
                break


def list_listens(text: str, *, local: bool = False) -> list[Listen]:
    """Where a site listens for other machines; `local`: for this one as well."""
    # what a server includes may say where it listens
    silent = [str(PLAIN_HTTP) for one in list_servers(text) if not re.search(r"\b(?:listen|include)\s", one)]
    found = []
    for words in (directive.split() for directive in LISTEN.findall(text) + silent):
        address, _unused, number = words[0].rpartition(":") if re.search(r":\d+$", words[0]) else ("", "", words[0])
        if not number.isdigit():
            address, number = number, str(PLAIN_HTTP)
        if not address.startswith("unix:") and (local or not LOCAL.match(address)):
            found.append(Listen(address, int(number), words))
    return found


def leads_to(text: str, ports: Iterable[int]) -> bool:
    """Whether a site forwards to one of these ports of this machine, also as an upstream or in a variable."""
    numbers = "|".join(map(str, sorted({*ports})))
    return bool(re.search(rf"(?<![\w.])(?:127\.0\.0\.1|0\.0\.0\.0|localhost|\[::1\]):(?:{numbers})\b", text))
