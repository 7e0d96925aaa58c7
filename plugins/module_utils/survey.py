# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads what a machine's Orthanc has and what was built around it: images, index, sites, firewalls, cron jobs.

Changes nothing, and returns no secret. Runs on the machine, standard library only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import platform
import re
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import adoption, neighbours, occupied, present

from .server.core.process import try_output

NGINX = Path("/etc/nginx")
CRON = ("crontab", "cron.d/*", "cron.hourly/*", "cron.daily/*", "cron.weekly/*", "cron.monthly/*")
COMPOSE = "com.docker.compose.project.config_files"
ATTEMPTS = 20
# names and numbers of Orthanc's ServerEnumerations.h
OWN_NUMBERS = 1024  # UserMetadata and UserContentType begin here
MODALITIES = 20  # of GlobalProperties: the devices, where they are kept in the index
SENDERS = """
SELECT origin.value, aet.value, address.value, called.value, user.value, count(*), max(received.value)
FROM Resources LEFT JOIN Metadata origin ON origin.id = internalId AND origin.type = 8
LEFT JOIN Metadata aet ON aet.id = internalId AND aet.type = 3
LEFT JOIN Metadata address ON address.id = internalId AND address.type = 11
LEFT JOIN Metadata called ON called.id = internalId AND called.type = 12
LEFT JOIN Metadata user ON user.id = internalId AND user.type = 13
LEFT JOIN Metadata received ON received.id = internalId AND received.type = 2
WHERE resourceType = 4 GROUP BY 1, 2, 3, 4, 5 ORDER BY 6 DESC LIMIT 1000
"""


class Asked(NamedTuple):
    """What the configuration says, as Orthanc sees it: inside its container if it has one."""

    container: str = ""
    storage_dir: str = ""
    index_dir: str = ""
    worklist_dir: str = ""
    dicom_port: int = 4242
    http_port: int = 8042
    hosts: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()


class Place(NamedTuple):
    """Where Orthanc runs: the container or {}, and the number of its process or 0."""

    inspected: dict[str, Any]
    pid: int


def survey(asked: Asked) -> dict[str, Any]:
    """Everything about this machine that an adoption must know; the keys are those of the module orthanc_survey."""
    place = find_place(asked.container)
    opened = find_open_index(place.pid)
    storage = to_host(place.inspected, asked.storage_dir)
    index = to_host(place.inspected, opened or asked.index_dir or asked.storage_dir)
    ports = list_published(place.inspected)
    outside = {asked.http_port, *(one["outside"] for one in ports if one["inside"] == asked.http_port)}
    read = read_index(Path(index.path))
    return {
        "name": socket.getfqdn(),
        "system": describe_system(),
        "runs": place.pid > 0,
        "container": describe_container(place.inspected),
        "ports": ports,
        "storage": {"path": storage.path, "where": storage.where, **describe_disk(Path(storage.path))},
        "index": {"path": index.path, **read},
        "worklists": describe_worklists(to_host(place.inspected, asked.worklist_dir).path),
        "hosts": {name: resolve(name) for name in (*asked.hosts, *list_hosts(read.get("modalities")))},
        "scripts": [describe_script(path, to_host(place.inspected, path).path) for path in asked.scripts],
        "sites": [*list_sites(outside)],
        "ufw": list_ufw(),
        "firewalls": list_firewalls(),
        "jobs": [*list_jobs()],
        "deployed": Path(present.CONFIGURATION).exists(),
        "attempted": adoption.Notes.PLACE.exists(),
    }


def describe_system() -> str:
    """'Debian GNU/Linux 13 (trixie)'."""
    with contextlib.suppress(OSError):
        return str(platform.freedesktop_os_release()["PRETTY_NAME"])
    return platform.system()


# --- where it runs ------------------------------------------------------------------------------
def find_place(container: str) -> Place:
    """The container of that name, or the unit if there is none."""
    inspected = present.inspect(container)
    if inspected:
        return Place(inspected, int(inspected["State"].get("Pid") or 0))
    return Place(
        {}, int(try_output("systemctl", "show", "--property", "MainPID", "--value", "orthanc.service").strip() or 0)
    )


def find_open_index(pid: int) -> str:
    """The directory of the index that this process, or one below it, has open, as the process sees it; or ''."""
    for number in present.list_processes(pid):
        with contextlib.suppress(OSError):
            for link in Path("/proc", str(number), "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = Path(os.readlink(link))
                    if target.name == "index":
                        return str(target.parent)
    return ""


class Located(NamedTuple):
    """A path of this machine; `where` is `machine`, `mount`, `volume`, `layer` (of the container alone) or ''."""

    path: str
    where: str


def to_host(inspected: dict[str, Any], path: str) -> Located:
    """Where a path of the container is on this machine. Without a container it is the path itself."""
    if not path or not inspected:
        return Located(path, "machine" if path else "")
    mounts = [one for one in inspected.get("Mounts", []) if one.get("Source")]
    for one in sorted(mounts, key=lambda mount: len(mount["Destination"]), reverse=True):
        target = one["Destination"].rstrip("/")
        if path == target or path.startswith(f"{target}/"):
            return Located(one["Source"] + path[len(target) :], "volume" if one["Type"] == "volume" else "mount")
    layer = ((inspected.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir", "")
    return Located(layer + path if layer else "", "layer")


def describe_container(inspected: dict[str, Any]) -> dict[str, Any]:
    """Name, image, restart policy, the compose file that made it, and whether Docker removes it when it stops; empty
    if there is none."""
    if not inspected:
        return {}
    labels = inspected["Config"].get("Labels") or {}
    return {
        "name": inspected["Name"].lstrip("/"),
        "image": inspected["Config"]["Image"],
        "restart": inspected["HostConfig"]["RestartPolicy"]["Name"] or "no",
        "compose": labels.get(COMPOSE, ""),
        "removed": adoption.is_removed(inspected),
    }


def list_published(inspected: dict[str, Any]) -> list[dict[str, Any]]:
    """The ports that the container publishes: `inside`, `outside`, and the `address` at which it listens."""
    bound = (inspected.get("HostConfig") or {}).get("PortBindings") or {}
    return [
        {"inside": int(inside.partition("/")[0]), "outside": int(one["HostPort"]), "address": one["HostIp"]}
        for inside, outsides in sorted(bound.items())
        for one in outsides or []
        if one.get("HostPort", "").isdigit()
    ]


# --- images -------------------------------------------------------------------------------------
def describe_disk(path: Path) -> dict[str, Any]:
    """`free` and `total` bytes of the disk that the directory is on, and its file system; empty if there is none."""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(path)
        kind = try_output("stat", "--file-system", "--format", "%T", str(path)).strip()
        return {"free": usage.free, "total": usage.total, "file_system": kind}
    return {}


def read_index(directory: Path) -> dict[str, Any]:
    """What the index says; only `why` if it cannot be read. Orthanc may run: a copy is read."""
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
            copy_index(directory, Path(scratch))
            with contextlib.closing(sqlite3.connect(Path(scratch, "index"))) as index:
                return query_index(index)
    except (OSError, sqlite3.Error) as error:
        return {"why": str(error)}


def copy_index(directory: Path, scratch: Path) -> None:
    """Copies the index with what is not written into it yet. OSError if it changes all the time, or has no room."""
    for _attempt in range(ATTEMPTS):
        parts = [path for path in (directory / "index", directory / "index-wal") if path.is_file()]
        if not parts:
            raise OSError(f"{directory} contains no index")
        if sum(path.stat().st_size for path in parts) > shutil.disk_usage(scratch).free // 4:
            raise OSError("a copy of the index could fill /var/tmp")
        before = [mark(path) for path in parts]
        for path in parts:
            shutil.copyfile(path, scratch / path.name)
        if before == [mark(path) for path in parts if path.is_file()]:
            return
    raise OSError("the index changes all the time: read the server when no device sends")


def mark(path: Path) -> tuple[int, int]:
    """What changes when the file does."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def query_index(index: sqlite3.Connection) -> dict[str, Any]:
    """Counts, sizes, names and senders (Orthanc's PrepareDatabase.sql)."""
    tables = {name for (name,) in index.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    levels = dict(index.execute("SELECT resourceType, count(*) FROM Resources GROUP BY 1"))
    version = index.execute("SELECT value FROM GlobalProperties WHERE property = 1").fetchone()
    devices = index.execute("SELECT value FROM GlobalProperties WHERE property = ?", (MODALITIES,)).fetchone()
    stored = index.execute(
        "SELECT count(*), total(compressedSize), sum(compressionType != 1) FROM AttachedFiles"
    ).fetchone()
    own = [
        sorted(number for (number,) in index.execute(f"SELECT DISTINCT {column} FROM {table}") if number >= OWN_NUMBERS)
        for table, column in (("Metadata", "type"), ("AttachedFiles", "fileType"))
    ]
    labels = index.execute("SELECT DISTINCT label FROM Labels ORDER BY 1").fetchall() if "Labels" in tables else []
    kinds = index.execute("SELECT value, count(*) FROM Metadata WHERE type = 10 GROUP BY 1 ORDER BY 2 DESC").fetchall()
    protected = index.execute(
        "SELECT count(*) FROM Resources WHERE resourceType = 1"
        " AND internalId NOT IN (SELECT patientId FROM PatientRecyclingOrder)"
    ).fetchone()
    columns = ("origin", "aet", "address", "called", "user", "images", "last")
    senders = [dict(zip(columns, row, strict=True)) for row in index.execute(SENDERS)]
    return {
        "version": int(version[0]) if version else 0,
        "patients": levels.get(1, 0),
        "studies": levels.get(2, 0),
        "series": levels.get(3, 0),
        "images": levels.get(4, 0),
        "files": stored[0],
        "bytes": int(stored[1]),
        "compressed": stored[2] or 0,
        "metadata": own[0],
        "attachments": own[1],
        "labels": [label for (label,) in labels],
        "kinds": dict(kinds),
        "protected": protected[0],
        "senders": senders,
        "modalities": json.loads(devices[0]) if devices else {},
    }


# --- around it ----------------------------------------------------------------------------------
def describe_worklists(directory: str) -> dict[str, Any]:
    """The directory on this machine, and how many items it has."""
    return {"path": directory, "items": sum(1 for _item in Path(directory).glob("*.wl")) if directory else 0}


def list_hosts(devices: Any) -> list[str]:
    """The names in DNS by which Orthanc knows devices, in its options or in its index, each once."""
    hosts: dict[str, None] = {}
    for one in devices.values() if isinstance(devices, dict) else ():
        host = one.get("Host") if isinstance(one, dict) else one[1] if isinstance(one, list) and len(one) > 1 else ""
        if isinstance(host, str) and host and not is_address(host):
            hosts[host] = None
    return list(hosts)


def is_address(text: str) -> bool:
    """Whether it is an IP address of either version."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def resolve(name: str) -> list[str]:
    """The addresses that the name has on this machine."""
    with contextlib.suppress(OSError):
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    return []


def describe_script(path: str, real: str) -> dict[str, Any]:
    """The functions that a script of Orthanc's defines; Orthanc calls some of them by name."""
    text = neighbours.read(Path(real)) if real else ""
    functions = re.findall(r"(?m)^\s*(?:function|def)\s+([\w.:]+)", text)
    return {"path": path, "real": real, "exists": bool(text), "functions": sorted(set(functions))}


def list_sites(ports: set[int]) -> Iterator[dict[str, Any]]:
    """nginx's sites that forward to one of these ports, and whether the file has other sites as well."""
    numbers = "|".join(str(number) for number in sorted(ports))
    orthanc = re.compile(rf"(?<![\w.])(?:127\.0\.0\.1|0\.0\.0\.0|localhost|\[::1\]):(?:{numbers})\b")
    every = [NGINX / "nginx.conf", *NGINX.glob("conf.d/*.conf"), *NGINX.glob("sites-enabled/*")]
    own = [NGINX / "conf.d" / name for name in occupied.OWN_SITES]
    for path in sorted(one for one in every if one.is_file() and one not in own):
        text = re.sub(r"#.*", "", neighbours.read(path))
        named = re.findall(r"\bupstream\s+(\S+)\s*\{([^}]*)\}", text)
        upstreams = [name for name, body in named if orthanc.search(body)]
        names = [orthanc, *(re.compile(rf"\b[a-z]+_pass\s+\S*//{re.escape(name)}\b") for name in upstreams)]
        servers = [*split_servers(text)]
        leads = [body for body in servers if any(name.search(body) for name in names)]
        if leads or orthanc.search(text):
            others = [body for body in servers if body not in leads and not re.search(r"\breturn\s+30\d", body)]
            yield {
                "path": str(path),
                "listens": find_words(r"\blisten\s+([^\s;]+)", servers),
                "names": [word for word in find_words(r"\bserver_name\s+([^;]+);", leads) if word != "_"],
                "sources": find_words(r"\ballow\s+([0-9a-fA-F.:/]+);", leads),
                "others": len(others),
            }


def find_words(pattern: str, bodies: list[str]) -> list[str]:
    """The words of a directive in these blocks, each once."""
    return sorted({word for body in bodies for words in re.findall(pattern, body) for word in words.split()})


def split_servers(text: str) -> Iterator[str]:
    """The bodies of the `server` blocks of nginx's configuration."""
    for found in re.finditer(r"\bserver\s*\{", text):
        depth, end = 1, found.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield text[found.end() : end - 1]


def list_ufw() -> list[dict[str, Any]]:
    """The rules of an active ufw for TCP, in their order."""
    if not re.search(r"(?m)^ENABLED=yes", neighbours.read(neighbours.UFW / "ufw.conf")):
        return []
    files = (neighbours.UFW / name for name in ("user.rules", "user6.rules"))
    return [
        {"admits": rule.admits, "ports": rule.ports, "source": str(rule.source)}
        for path in files
        for rule in neighbours.read_ufw(path)
    ]


def list_firewalls() -> list[str]:
    """The firewalls that filter what arrives, in words."""
    found = ["ufw"] if list_ufw() else []
    if try_output("firewall-cmd", "--state").strip() == "running":
        found.append("firewalld")
    if found:
        return found  # their chains are theirs
    parts = neighbours.read_ruleset().get("nftables", [])
    ruled = {(one["rule"]["family"], one["rule"]["table"], one["rule"]["chain"]) for one in parts if "rule" in one}
    for chain in (one["chain"] for one in parts if "chain" in one):
        place = (chain["family"], chain["table"], chain["name"])
        if chain.get("hook") == "input" and (place in ruled or chain.get("policy") == "drop"):
            found.append(f"nftables: chain {place[2]} of table {place[0]} {place[1]}")
    return found


def list_jobs(etc: Path = Path("/etc"), spool: Path = Path("/var/spool/cron/crontabs")) -> Iterator[dict[str, Any]]:
    """The cron jobs and units that mention Orthanc: file and line, and the program, since arguments may be secret."""
    cron = [path for pattern in CRON for path in etc.glob(pattern)] + [*spool.glob("*")]
    units = [path for kind in ("service", "timer") for path in etc.glob(f"systemd/system/*.{kind}")]
    for path in sorted({*cron, *units}):
        if not path.is_file() or path.name == "orthanc.service":
            continue
        for number, line in enumerate(neighbours.read(path).splitlines(), 1):
            if "orthanc" in line.lower() and not line.lstrip().startswith("#"):
                programs = re.findall(r"(?<![\w.-])(?:/[\w.-]+)+(?![\w./-])", line)
                yield {"file": str(path), "line": number, "program": programs[0] if programs else ""}
                if "cron." in path.parent.name or path in units:
                    break  # a whole file is one job
