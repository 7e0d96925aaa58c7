# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From an Orthanc that somebody set up to the settings of a deploy that takes it over. Without Ansible."""

from __future__ import annotations

import dataclasses
import ipaddress
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import survey
from ansible_collections.clinicops.orthanc.plugins.module_utils.adoption import KEEP_VOLUMES, REMOVED
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import configuration, rules, specs
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption import devices, users
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.devices import Change, Device, count
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.old import Old, list_leaves
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.adoption.options import (
    KEPT,
    REFUSED,
    REPLACED,
    Line,
    Open,
    Verdict,
    Verdicts,
    judge_options,
    list_lines,
)

# Plugins that a deploy loads, and those of Debian's package and of the image that do nothing without their section.
SERVED = re.compile(r"Orthanc(DicomWeb|Python|Worklists|Explorer2|[A-Z]\w*Index|[A-Z]\w*Storage)|Modality|ServeFolders")
IDLE = re.compile(r"ConnectivityChecks|DelayedDeletion|Housekeeper|MultitenantDicom|HousekeeperPlugin|AutomatedJpeg2k")
HOOKS = {"IncomingHttpRequestFilter": "the roles of orthanc_users decide instead (roles.lua)"}
TLS = "the proxy's certificate: orthanc_proxy_certificate (docs/variables.md)"
DICOM_TLS = "orthanc_dicom_tls, by which the proxy accepts TLS (docs/devices.md)"


class Decision(NamedTuple):
    """What only a person can decide: the setting, and the question."""

    setting: str
    question: str


@dataclasses.dataclass
class Adoption:
    """An inventory, and the account of it."""

    old: Old
    found: Mapping[str, Any]  # what the module orthanc_survey found
    settings: dict[str, Any]
    closed: list[Open]
    lines: list[Line]
    changes: list[Change]
    losses: list[str]
    decisions: list[Decision]
    devices: list[Device]
    unlisted: list[dict[str, Any]]


def adopt(old: Old, found: Mapping[str, Any], given: Mapping[str, Any], generate: Callable[[], str]) -> Adoption:
    """The settings with which a deploy takes the server over.

    `given` are settings that were decided already, by their public names. `generate` returns a new password.
    """
    method = given.get("orthanc_install_method", "docker" if old.container else "package")
    listed = given.get("orthanc_users")
    chosen = {
        str(one["name"]): one
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and {"name", "role"} <= one.keys()
    }
    index = found["index"]
    known = devices.read_devices(old, index, found["hosts"])
    people = users.read_users(old, chosen, generate)
    settings: dict[str, Any] = {
        "orthanc_hostname": _find_hostname(found),
        "orthanc_users": users.list_entries(people, chosen, generate),
        "orthanc_modalities": [one.entry for one in known],
        "orthanc_https_sources": _find_sources(found),
        "orthanc_install_method": method,
        "orthanc_name": old.effective("Name"),
        "orthanc_aet": old.effective("DicomAet"),
        "orthanc_dicom_port": _find_published(old, found, "DicomPort"),
        "orthanc_http_port": old.effective("HttpPort") if not old.container else 8042,
        "orthanc_adopt": _describe_adoption(old, found),
        **_find_directories(found),
    }
    settings = {name: value for name, value in settings.items() if name not in given or name == "orthanc_users"}
    settings |= {name: value for name, value in given.items() if name != "orthanc_users" or not chosen}
    plain = {name.removeprefix("orthanc_"): value for name, value in settings.items()}
    plain |= {
        "version": old.version if method == "package" else "",
        "worklist_plugin": "worklists" if method == "package" else "orthanc-worklists",
        "hostname": plain["hostname"] or "undecided.example",
    }
    special = {
        **_judge_settings(old, settings),
        **devices.judge_devices(old, known),
        **users.judge_users(people),
    }
    verdicts, options, closed = judge_options(old, special, plain)
    options |= {name: _resolve(old, options[name]) for name in rules.FILES.keys() & options.keys()}
    if options:
        settings["orthanc_config_settings"] = {**options, **given.get("orthanc_config_settings", {})}
    adoption = Adoption(
        old=old,
        found=found,
        settings={name: value for name, value in settings.items() if not _is_default(name, value)},
        closed=closed,
        lines=list_lines(old, verdicts),
        changes=[],
        losses=[],
        decisions=[],
        devices=known,
        unlisted=devices.list_unlisted(known, index),
    )
    adoption.changes = [
        *devices.list_device_changes(old, known, index, str(settings["orthanc_aet"])),
        *users.list_user_changes(old, people, settings["orthanc_users"]),
        *_list_web_changes(old, found, settings),
    ]
    adoption.losses = [*_list_losses(adoption)]
    adoption.decisions = [*_list_decisions(adoption)]
    return adoption


def _resolve(old: Old, paths: Any) -> Any:
    """Absolute paths: Orthanc resolves them from the directory of its configuration, which is another one then."""
    return [_resolve(old, path) for path in paths] if isinstance(paths, list) else old.resolve(paths)


def _is_default(name: str, value: Any) -> bool:
    """Whether an inventory need not name it."""
    setting = specs.list_public().get(name)
    required = name in ("orthanc_hostname", "orthanc_users", "orthanc_modalities", "orthanc_https_sources")
    return bool(setting and not required and name != "orthanc_install_method" and setting.default == value)


# --- what the settings are ----------------------------------------------------------------------
def _find_hostname(found: Mapping[str, Any]) -> str:
    """The only name under which nginx serves Orthanc; '' if there is none, or more than one."""
    names = {name.lower() for site in found["sites"] for name in site["names"] if "." in name and "*" not in name}
    good = [name for name in names if name not in ("localhost",) and re.fullmatch(r"[a-z0-9.-]+", name)]
    return good[0] if len(good) == 1 and not re.fullmatch(r"[0-9.]+", good[0]) else ""


def _find_sources(found: Mapping[str, Any]) -> list[str]:
    """The networks that a firewall or a site of today lets in to Orthanc over HTTP; not the whole world."""
    listened = {word.rpartition(":")[2] for site in found["sites"] for word in site["listens"]}
    ports = {*listened, "443", "8042"}
    rules_of = [one for one in found["ufw"] if one["admits"] and set(one["ports"].split(",")) & ports]
    sources = [*(one["source"] for one in rules_of), *(source for site in found["sites"] for source in site["sources"])]
    nets = []
    for source in sources:
        net = ipaddress.ip_network(source, strict=False)
        if net.prefixlen and not net.is_loopback:
            nets.append(str(net) if net.prefixlen < net.max_prefixlen else str(net.network_address))
    return list(dict.fromkeys(nets))


def _find_published(old: Old, found: Mapping[str, Any], option: str) -> Any:
    """The port at which other machines reach Orthanc."""
    inside = old.effective(option)
    return next((one["outside"] for one in found["ports"] if one["inside"] == inside), inside)


def _find_directories(found: Mapping[str, Any]) -> dict[str, Any]:
    """The directories that can stay where they are."""
    settings: dict[str, Any] = {}
    if found["storage"]["where"] in ("machine", "mount") and may_stay(found["storage"]["path"]):
        settings["orthanc_storage_dir"] = found["storage"]["path"]
    worklists = found["worklists"]["path"]
    if worklists and may_stay(worklists) and not _overlap(worklists, settings.get("orthanc_storage_dir", "")):
        settings["orthanc_worklist_dir"] = worklists
    return settings


def may_stay(path: str) -> bool:
    """Whether a deploy can have this directory for its own."""
    return (
        bool(re.fullmatch(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+", path))
        and not configuration.SYSTEM_DIRECTORIES.fullmatch(path)
        and path != "/var/lib/orthanc"  # of the package, with more in it
        and "/docker/" not in path
    )


def _overlap(one: str, other: str) -> bool:
    return bool(other) and (f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"))


def _describe_adoption(old: Old, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the deploy must know of the old Orthanc."""
    adopted: dict[str, Any] = {"method": "container" if old.container else "package"}
    if old.container:
        adopted["container"] = old.container
    adopted["storage_dir"] = found["storage"]["path"]
    if found["index"]["path"] != found["storage"]["path"]:
        adopted["index_dir"] = found["index"]["path"]
    sites = [site["path"] for site in found["sites"] if _may_end(site)]
    return {**adopted, "sites": sites} if sites else adopted


def _may_end(site: Mapping[str, Any]) -> bool:
    """Whether the file leads to Orthanc alone, and can be disabled."""
    return not site["others"] and posixpath.basename(site["path"]) != "nginx.conf"


# --- what becomes of the options ----------------------------------------------------------------
def _judge_settings(old: Old, settings: Mapping[str, Any]) -> Verdicts:
    """The verdicts on options that a deploy computes from its own settings."""
    verdicts: Verdicts = {}

    def judge(name: str, setting: str, wanted: Any, because: str = "") -> None:
        if name in old.configuration:
            same = old.configuration[name] == wanted
            verdicts[name,] = Verdict(KEPT, setting) if same else Verdict(REPLACED, f"{setting}: {wanted}{because}")

    storage = settings.get("orthanc_storage_dir", specs.list_public()["orthanc_storage_dir"].default)
    judge("Name", "orthanc_name", settings["orthanc_name"])
    judge("DicomAet", "orthanc_aet", settings["orthanc_aet"])
    judge("DicomPort", "orthanc_dicom_port", settings["orthanc_dicom_port"], ", which devices use today")
    judge("HttpPort", "orthanc_http_port", settings["orthanc_http_port"])
    for name in ("StorageDirectory", "IndexDirectory"):
        judge(name, "orthanc_storage_dir", storage)
    judge("TemporaryDirectory", "orthanc_tmp_dir", specs.list_public()["orthanc_tmp_dir"].default)
    own = {
        "Plugins": Verdict(REPLACED, "the plugins DICOMweb, Python and worklists"),
        "PythonScript": Verdict(REFUSED, "Orthanc runs one Python script, and a deploy needs its own (receive.py)"),
        "ClinicopsRoles": Verdict(REPLACED, "orthanc_users"),
        "HttpBindAddresses": Verdict(REPLACED, "the proxy and the firewall, which decide who reaches Orthanc"),
    }
    verdicts |= {(name,): verdict for name, verdict in own.items() if name in old.configuration}
    for name, value in old.configuration.items():
        if re.match(r"Ssl|DicomTls", name) and name != "SslEnabled":
            default = rules.SCHEMA["properties"].get(name, {}).get("default")
            replaced = Verdict(REPLACED, DICOM_TLS if name.startswith("Dicom") else TLS)
            verdicts[name,] = Verdict(KEPT, "Orthanc's default") if value == default else replaced
    worklists = old.section("Worklists")
    served = settings.get("orthanc_worklist_dir", specs.list_public()["orthanc_worklist_dir"].default)
    for name in ("Database", "Directory"):
        if name in worklists:
            same = worklists[name] == served
            verdicts["Worklists", name] = Verdict(KEPT if same else REPLACED, f"orthanc_worklist_dir: {served}")
    web = old.section("DicomWeb")
    for name, what in (("Host", "the name that each client uses"), ("PublicRoot", "the same path for every client")):
        if web.get(name):
            verdicts["DicomWeb", name] = Verdict(REPLACED, what)
    if web.get("WadoRoot"):
        verdicts["DicomWeb", "WadoRoot"] = Verdict(REFUSED, "WADO-URI is off: it is not DICOMweb, and it has no roles")
    if old.configuration.get("LuaScripts") == []:
        verdicts["LuaScripts",] = Verdict(KEPT, "Orthanc's default, which need not be set")
    elif old.container and "LuaScripts" in old.configuration:
        what = "the script is inside the old container: copy it to the server, and name it in orthanc_config_settings"
        verdicts["LuaScripts",] = Verdict(REFUSED, what)
    return {path: verdict for path, verdict in verdicts.items() if path in dict(list_leaves(old.configuration))} | {
        path: verdicts[path[:1]]
        for path, _value in list_leaves(old.configuration)
        if path[:1] in verdicts and len(path) > 1
    }


# --- what changes -------------------------------------------------------------------------------
def _list_web_changes(old: Old, found: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Change]:
    """What changes for those who read and send over HTTP."""
    name = settings["orthanc_hostname"] or "<orthanc_hostname>"
    for site in found["sites"]:
        where = ", ".join(site["listens"]) or "80"
        tomorrow = f"use https://{name}/; the site ends"
        if not _may_end(site):
            tomorrow = f"use https://{name}/; remove the part that leads to Orthanc, since the file has other sites"
        yield Change(f"Users of the nginx site {site['path']}", f"reach Orthanc at {where}", tomorrow)
    port = _find_published(old, found, "HttpPort")
    published = [one for one in found["ports"] if one["outside"] == port and not one["address"].startswith("127.")]
    if published if old.container and old.bridge else old.effective("RemoteAccessAllowed") is True:
        yield Change(
            "Whoever reads from another machine", f"reaches port {port} without the proxy", f"use https://{name}/"
        )
    web = old.section("DicomWeb")
    if web.get("Enable", bool(web)) and web.get("EnableWado", True):
        yield Change("Clients of WADO-URI", "read at /wado", "must use WADO-RS below /dicom-web/")
    if old.effective("WebDavEnabled") is True:
        yield Change("Whoever uses WebDAV", "reads and writes files at /webdav", "is refused")
    if old.effective("ExecuteLuaEnabled") is True:
        yield Change("Programs that send Lua to Orthanc", "may run it", "are refused")
    if old.effective("OrthancExplorerEnabled") is True:
        yield Change(
            "Users of Orthanc's own pages",
            "open them wherever Orthanc answers",
            "open them from orthanc_admin_sources, as an admin",
        )
    worklists = old.section("Worklists")
    if worklists.get("Enable"):
        yield Change(
            "Applications that write worklists",
            f"write to {old.worklist_dir}",
            "submit to /srv/worklists/incoming, where each item is checked (docs/worklists.md)",
        )
        if worklists.get("FilterIssuerAet") is not True:
            yield Change("Devices that query a worklist", "see the items of all devices", "see their own items")
    senders = [one for one in found["index"].get("senders", []) if one["origin"] in ("RestApi", "Plugins")]
    admins = [one["name"] for one in settings["orthanc_users"] if one.get("role") == "admin"]
    for user in dict.fromkeys(one["user"] for one in senders if one["user"] and one["user"] not in admins):
        number = sum(one["images"] for one in senders if one["user"] == user)
        yield Change(
            f"User {user}",
            f"uploaded {count(number, 'image')} over HTTP",
            "needs the role admin, or dicomweb_writer and STOW-RS",
        )


def _list_losses(adoption: Adoption) -> Iterator[str]:
    """What ends, and why."""
    old, found = adoption.old, adoption.found
    for one in adoption.lines:
        if one.verdict == REFUSED:
            yield f"{one.path}: {one.what}."
    for script in found["scripts"]:
        for hook in HOOKS.keys() & set(script["functions"]):
            yield f"{hook} in {script['path']}: {HOOKS[hook]}."
        if not script["exists"]:
            yield f"{script['path']}: this script is not on the server; remove it from LuaScripts."
    loaded = [one for one in old.plugins if not old.image and not SERVED.search(one) and not IDLE.search(one)]
    for plugin in loaded:
        yield f"{plugin}: a deploy does not load this plugin."
    if found["container"].get("compose"):
        ends = "the deploy stops its container. Do not start it again with docker compose"
        yield f"{found['container']['compose']}: {ends}, since two Orthancs on one index lose images."


def _list_decisions(adoption: Adoption) -> Iterator[Decision]:
    settings, found = adoption.settings, adoption.found
    if not settings["orthanc_hostname"]:
        yield Decision("orthanc_hostname", "Which name do external systems use in https://<name>/?")
    for number, user in enumerate(settings["orthanc_users"]):
        if not user.get("role"):
            roles = ", ".join(configuration.ROLES)
            yield Decision(f"orthanc_users[{number}].role", f"What may {user['name']} do: {roles}?")
    for number, device in enumerate(settings["orthanc_modalities"]):
        host = str(device.get("host", ""))
        if not survey.is_address(host):
            addresses = ", ".join(found["hosts"].get(host, [])) or "none"
            yield Decision(
                f"orthanc_modalities[{number}].host",
                f"Which fixed address does {device['name']} have? The server resolves {host} to: {addresses}.",
            )
    if why := found["index"].get("why"):
        question = (
            f"Which devices send? The index could not be read ({why}), so it is unknown who stored images, and a "
            "deploy refuses every device that is not listed. Make room in /var/tmp, or wait until no device sends, and "
            "read the server again; or list all of them."
        )
        yield Decision("orthanc_modalities", question)
    for entry in adoption.unlisted:
        question = (
            f"Is {entry['aet']} at {entry['host']} still used? It stored images, and is refused if it is not listed."
        )
        yield Decision("orthanc_modalities", question)
    if not settings["orthanc_https_sources"]:
        yield Decision("orthanc_https_sources", "From which addresses may users and systems read? Until then, none.")
    if not settings.get("orthanc_backup_repository"):
        yield Decision("orthanc_backup_repository", "Where do backups go (docs/backup.md)? Make one before the deploy.")
    if found["attempted"] and not settings.get("orthanc_backup_password"):
        question = (
            "A deploy has begun to adopt this server: with which password, in the inventory of then, did it back up?"
        )
        yield Decision("orthanc_backup_password", question)
    if found["container"].get("removed"):
        name = found["container"]["name"]
        yield Decision("orthanc_adopt.container", f"It {REMOVED}. {KEEP_VOLUMES.format(name)}.")
    if found["storage"]["where"] == "layer":
        yield Decision(
            "orthanc_adopt.storage_dir",
            "The images are in the container alone. Pause it (docker pause), copy them to a directory with docker cp, "
            "make a container without --rm that has this directory, and name both.",
        )
