# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds the problems of a complete Orthanc configuration, whoever wrote it.

The schema (orthanc_schema.json) says what each release of Orthanc reads; the
rules below find what loses images, opens the server or stops it. Pure functions
over plain data, without Ansible.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import json
import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils import masking
from ansible_collections.clinicops.orthanc.plugins.module_utils.dialect import FromEnvironment
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import problem as problems_of
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import systems
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.reading import is_unknown

SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("orthanc_schema.json").read_text(encoding="utf-8"))
# The DICOMweb plugin that a system and the image orthancteam/orthanc ship with a release of Orthanc.
DICOMWEB = {**{one.orthanc: one.dicomweb for one in systems.SYSTEMS}, "1.13.0": "1.24"}
# From Debian's configuration, Orthanc's sources and the guides that clinics follow.
KNOWN_PASSWORDS = ("orthanc", "change-this-password", "changeme", "password", "admin", "alice", "alicepassword")
PASSWORD_LENGTH = 12
# Rules that a clinic may break on purpose, each with a reason in orthanc_waivers.
WAIVABLE = {
    "lossy_ingest": "each image is replaced by one that has lost detail",
    "recycles_images": "the oldest patients are deleted when a limit is reached",
    "index_apart": "index and images are on two disks: one can be lost, restored or forgotten without the other",
    "overwrites_images": "an image that is sent again replaces the one that was read",
    "unsynced_images": "a power cut loses images that were already confirmed to the scanner",
    "any_device": "devices that are not listed may do this",
    "any_address": "a device may connect from any address, identified only by its AE title",
    "any_called_aet": "an association for another AE title is accepted",
    "webdav": "files can be read and written through WebDAV",
    "lua_over_http": "users of the REST API may run Lua, and so any command",
    "writes_files": "users of the REST API may write files on the server",
    "remote_access": "Orthanc answers other machines without the proxy",
    "unverified_tls": "Orthanc sends images to any server with any certificate",
    "patients_in_logs": "patients' names are written to the log",
    "dicom_for_everybody": "any machine that can reach the server may open a DICOM association",
    "https_for_everybody": "any machine that can reach the server may try passwords",
    "no_firewall": "Orthanc's ports are open to every machine",
    "other_firewall": "another firewall on the machine blocks sources that the settings let in",
    "closes_sites": "the firewall closes a port to users of another site",
    "untested_system": "the collection was not tested on the machine's system",
    "removes_images": "an uninstall removes the images, the index and the worklists",
    "removes_backups": "an uninstall removes the backups of the server",
    "removes_last_copy": "an uninstall removes images of which no backup was ever proven",
    "no_way_back": "the upgrade of the distribution has no way back but a restore on another machine",
}
# Rules about the firewall's settings; the others are about the configuration.
FIREWALL = ("dicom_for_everybody", "https_for_everybody", "no_firewall")
# Rules about other software on the machine.
NEIGHBOURS = ("other_firewall", "closes_sites")
# Rules about the machine's system.
SYSTEM = ("untested_system",)
# What an uninstall does beside its usual work.
UNINSTALL = ("removes_images", "removes_backups", "removes_last_copy")
# What the upgrade of a distribution is.
UPGRADE = ("no_way_back",)
SWITCHES: dict[str, tuple[str, Any]] = {
    "OverwriteInstances": ("overwrites_images", False),
    "SyncStorageArea": ("unsynced_images", True),
    **{f"DicomAlwaysAllow{right}": ("any_device", False) for right in ("Echo", "Store", "Find", "Get", "Move")},
    "DicomAlwaysAllowFindWorklist": ("any_device", False),
    "DicomCheckModalityHost": ("any_address", True),
    "DicomCheckCalledAet": ("any_called_aet", True),
    "WebDavEnabled": ("webdav", False),
    "ExecuteLuaEnabled": ("lua_over_http", False),
    "RestApiWriteToFileSystemEnabled": ("writes_files", False),
    "RemoteAccessAllowed": ("remote_access", False),
    "HttpsVerifyPeers": ("unverified_tls", True),
    "DeidentifyLogs": ("patients_in_logs", True),
}
# Options that name files, and the option that enables each.
FILES = {
    "SslCertificate": "SslEnabled",
    "SslTrustedClientCertificates": "SslVerifyPeers",
    **dict.fromkeys(("DicomTlsCertificate", "DicomTlsPrivateKey", "DicomTlsTrustedCertificates"), "DicomTlsEnabled"),
    **dict.fromkeys(("HttpsCACertificates", "LuaScripts", "ExternalDictionaries"), ""),
}
# DICOM PS3.5, section 10: JPEG baseline and extended, JPEG-LS near-lossless, JPEG 2000.
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 93)}
# JPEG-LS, lossless and not: 16 of 48 noisy images that Orthanc 1.10.1 and 1.12.7 stored in it could not be decoded
# any more, by Orthanc and by DCMTK; of 24 in 1.13.0 each could (2026-11-30)
JPEG_LS, JPEG_LS_SINCE = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), (1, 13, 0)
DEEPEST = 50
# The directory of the file that this collection writes: Orthanc resolves relative paths from there.
DIRECTORY = "/etc/orthanc/site"


def release(version: Any) -> tuple[int, ...]:
    """'1.12.7+dfsg-4' as (1, 12, 7); an unknown version counts as the newest."""
    found: tuple[int, ...] = systems.release(version)
    return found


def problems(
    configuration: dict[str, Any],
    version: str,
    worklist_plugin: str = "worklists",
    plugins: Any = None,
    absent: Any = (),
    directory: str = "",
    authorized: bool = True,
) -> list[Problem]:
    """All problems: first those that the schema finds, then those of the rules.

    `version` is Orthanc's; `worklist_plugin` is `worklists`, `orthanc-worklists`, or empty if it may be either;
    `plugins` names the loaded plugins, or is None if they are unknown; `absent` lists those of `files` that the server
    does not have; `directory` is that of the configuration file, if it is known; `authorized` says whether the
    Authorization plugin may be loaded.
    """
    strange = list(_not_json("", configuration))
    if strange:
        return strange
    translated = [*_schema_problems(configuration, version, worklist_plugin, plugins)]
    found = [item for _place, item in translated if item]
    sound = Sound.of(configuration, release(version), [place for place, item in translated])
    found += _rules(sound, worklist_plugin, directory, authorized)
    for name, path in _files(sound.configuration, directory or DIRECTORY):
        if path in absent:
            found.append(problem(name, f"names {path}, which does not exist", "put the file there", "missing_file"))
    return found


def files(configuration: Any) -> list[str]:
    """The absolute paths of the files that Orthanc opens when it starts with this configuration."""
    return [path for _name, path in _files(configuration if isinstance(configuration, dict) else {}, DIRECTORY)]


def _files(configuration: dict[str, Any], directory: str) -> Iterator[tuple[str, str]]:
    for name, switch in FILES.items():
        if not switch or configuration.get(switch) is True:
            value = configuration.get(name)
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, str) and path and not is_unknown(path):
                    yield name, posixpath.join(directory, path)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a finding is: the path of names and numbers to it, and whether Orthanc ignores what is there."""

    steps: tuple[str | int, ...]
    ignored: bool = False


@dataclasses.dataclass(frozen=True)
class Sound:
    """The input of the rules: the configuration without the values that the schema rejects, and where those were."""

    configuration: dict[str, Any]
    version: tuple[int, ...]
    wrong: frozenset[tuple[str | int, ...]]

    @classmethod
    def of(cls, configuration: dict[str, Any], version: tuple[int, ...], places: list[Place]) -> Sound:
        unknown = [Place((name,)) for name, value in configuration.items() if is_unknown(value)]
        for place in [*places, *unknown]:
            # of an ignored option, only that option is removed; of a wrong one, the whole device or section
            configuration = _without(configuration, place.steps if place.ignored else place.steps[:2])
        return cls(configuration, version, frozenset(place.steps for place in [*places, *unknown] if not place.ignored))

    def effective(self, name: str) -> Any:
        """The option's value, or its default."""
        return self.configuration.get(name, SCHEMA["properties"][name].get("default"))

    def knows(self, *names: str) -> bool:
        """Whether all these options are valid, and none depends on the environment."""
        return not any(place[0] in names for place in self.wrong)

    def reads(self, name: str) -> bool:
        """Whether this release reads the option."""
        return release(SCHEMA["properties"][name]["x-since"]) <= self.version

    def section(self, name: str) -> dict[str, Any]:
        return self.configuration.get(name) or {}


def _without(value: Any, steps: tuple[str | int, ...]) -> Any:
    """A copy without the value at the end of the steps; inside a list, without the whole list."""
    if not isinstance(value, dict) or not steps or steps[0] not in value:
        return value
    name, *rest = steps
    if not rest or not isinstance(value[name], dict):
        return {key: inner for key, inner in value.items() if key != name}
    return {key: _without(inner, tuple(rest)) if key == name else inner for key, inner in value.items()}


def waive(
    found: list[Problem], waivers: Any, others: tuple[str, ...] = FIREWALL + NEIGHBOURS + SYSTEM + UNINSTALL + UPGRADE
) -> list[Problem]:
    """The same problems with the waived ones marked, and the problems of the waivers themselves.

    `others` are rules that another check covers: their waivers are not unused.
    """
    if not isinstance(waivers, dict):
        return [*found, problem("orthanc_waivers", "must be a dictionary", "write rule: reason")]
    extra = []
    good = {}
    for rule, reason in waivers.items():
        path = f"orthanc_waivers.{rule}"
        if rule not in WAIVABLE and not re.fullmatch(r"unknown_option\..+", str(rule)):
            extra.append(problem(path, "is not a rule that can be waived", nearest(str(rule), list(WAIVABLE))))
        elif not isinstance(reason, str) or len(reason.strip()) < 10:
            extra.append(problem(path, "has no reason", "write a sentence that an auditor would understand"))
        else:
            good[rule] = reason
    for rule in good:
        if rule not in others and not any(_waiver(item) == rule for item in found):
            message = "is not needed by any setting"
            extra.append(problem(f"orthanc_waivers.{rule}", message, "remove it", "idle_waiver", "warning"))
    return [*(_waive(item, good) for item in found), *extra]


def _waiver(item: Problem) -> str:
    """The name of the waiver for a problem. Each unknown option has its own: a clinic's own script may read it."""
    rule: str = item["rule"]
    return f"{rule}.{item['path'].removeprefix('orthanc_config_settings.')}" if rule == "unknown_option" else rule


def _waive(item: Problem, reasons: dict[str, str]) -> Problem:
    """The problem with the reason for its waiver, or with a hint how to waive it."""
    waiver = _waiver(item)
    if waiver in reasons:
        return {**item, "severity": "waived", "remedy": f"none; {reasons[waiver]}"}
    if waiver in WAIVABLE:
        hint = f"if it is intended: orthanc_waivers: {{{waiver}: <your reason>}}"
        return {**item, "remedy": f"{item['remedy']}; {hint}"}
    if item["rule"] == "unknown_option" and "." not in waiver.partition(".")[2]:
        hint = f"if your own script reads it: orthanc_waivers: {{{waiver}: <your reason>}}"
        return {**item, "remedy": f"{item['remedy']}; {hint}"}
    return item


def password_problem(name: Any, password: Any) -> str:
    """Why it is not a good password for a PACS, or ''. Never contains the password."""
    if not isinstance(password, str) or not password:
        return "is not text"
    if password.lower() in KNOWN_PASSWORDS or password == name:
        return "is a publicly known default"
    if len(password) < PASSWORD_LENGTH:
        return f"is shorter than {PASSWORD_LENGTH} characters"
    letters = password.lower().strip("0123456789!.-_")
    if letters in ("", str(name).lower(), *KNOWN_PASSWORDS) or len(set(password)) < 6:
        return "is easy to guess"
    if "${" in password:
        return "contains ${, which Orthanc reads as an environment variable"
    if not password.isprintable():
        return "contains a control character, which clients cannot send"
    return ""


# --- schema -------------------------------------------------------------------------------------
def _at(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _not_json(path: str, value: Any, depth: int = 0) -> Iterator[Problem]:
    """The problems of values that YAML allows and JSON does not: keys that are numbers, dates, NaN."""
    if depth > DEEPEST:
        yield problem(path.split(".")[0], f"is nested more than {DEEPEST} levels deep", "reduce the nesting")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _not_json(_at(path, key), inner, depth + 1)
            else:
                yield problem(_at(path, key), "has a name that is not text", "put it in quotes")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _not_json(f"{path}[{number}]", inner, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield problem(path, "is not a JSON number", "write a finite number")
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        yield problem(path, f"is of type {type(value).__name__}, which JSON does not have", "put it in quotes")


@functools.cache
def _validator(version: tuple[int, ...], worklist_plugin: str) -> Any:
    import jsonschema  # here: the collection may be listed without it, and the filters report what is missing

    return jsonschema.Draft202012Validator(_of_release(SCHEMA, version, worklist_plugin))


def _of_release(schema: Any, version: tuple[int, ...], worklist_plugin: str) -> Any:
    """The part of the schema that this release reads."""
    if isinstance(schema, list):
        return [_of_release(part, version, worklist_plugin) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-plugin") == "dicom-web":
        version = find_dicomweb(version)
    for before, older in schema.get("x-before", {}).items():
        if version < release(before):
            schema = {**schema, **older, "enum": older.get("enum", [])}
            schema = {key: value for key, value in schema.items() if key != "enum" or value}
    return {
        key: {
            name: _of_release(part, version, worklist_plugin)
            for name, part in value.items()
            if release(part.get("x-since", "0")) <= version
            and (not worklist_plugin or part.get("x-only", worklist_plugin) == worklist_plugin)
        }
        if key == "properties"
        else _of_release(value, version, worklist_plugin)
        for key, value in schema.items()
        if key not in ("x-before", "default")
    }


def find_dicomweb(version: tuple[int, ...]) -> tuple[int, ...]:
    """The DICOMweb plugin that is shipped with this release of Orthanc, or with the last one before it."""
    known = [orthanc for orthanc in DICOMWEB if release(orthanc) <= version]
    return release(DICOMWEB[max(known, key=release)] if known else "0")


def _schema_problems(
    configuration: dict[str, Any], version: str, worklist_plugin: str, plugins: Any
) -> Iterator[tuple[Place, Problem | None]]:
    for error in _validator(release(version), worklist_plugin).iter_errors(configuration):
        for place, item in _translate(error, version):
            yield place, None if _is_open(error) else item
    for name in configuration:
        section = SCHEMA["properties"].get(name, {})
        needed = worklist_plugin if name == "Worklists" else section.get("x-plugin")
        if plugins is not None and needed and needed not in plugins:
            message = f"is only read by the plugin {needed}, which is not loaded"
            yield Place((name,)), problem(name, message, "remove it", "unknown_option")


def _is_open(error: Any) -> bool:
    """Whether it depends on the environment if this is a problem; text in quotes stays text."""
    if error.validator == "additionalProperties":
        return False
    return isinstance(error.instance, FromEnvironment) or (error.validator != "type" and is_unknown(error.instance))


def _translate(error: Any, version: str) -> Iterator[tuple[Place, Problem]]:
    """A finding of jsonschema as problems of this collection, and where they are."""
    path = ""
    steps = tuple(error.absolute_path)
    for step in steps:
        path = f"{path}[{step}]" if isinstance(step, int) else _at(path, step)
    if error.validator == "additionalProperties":
        full = _place(error.absolute_schema_path).get("properties", {})
        for name in error.instance:
            if name not in error.schema.get("properties", {}) and not is_unknown(name):
                yield Place((*steps, name), ignored=True), _unknown(_at(path, name), name, full, version)
    elif error.validator == "enum" and str(error.instance) in error.schema.get("x-obsolete", {}):
        new = json.dumps(error.schema["x-obsolete"][error.instance])
        message = f"{error.instance!r} is obsolete: Orthanc {version} reads it as {new}, a later one may refuse it"
        yield Place((), ignored=True), problem(path, message, f"write {new}", "obsolete_value", "warning")
    elif error.absolute_schema_path and "propertyNames" in error.absolute_schema_path:
        message = f"{_show(path, error.instance)} is not a name that Orthanc accepts"
        yield Place((*steps, error.instance)), problem(path, message, "use letters, digits, hyphen and _")
    else:
        yield Place(steps), _wrong_value(error, path, version)


def _wrong_value(error: Any, path: str, version: str) -> Problem:
    kind = error.validator
    # text in place of a section may be a URL with a password
    value = "this" if kind == "type" and error.validator_value == "object" else _show(path, error.instance)
    if kind == "type":
        wanted = " or ".join(
            [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        )
        message = f"{value} is not of type {wanted}: Orthanc does not start, or misreads it"
        return problem(path, message, f"write a value of type {wanted}")
    if kind == "enum":
        message = f"{value} is not a value that Orthanc {version} accepts"
        return problem(path, message, f"use one of {', '.join(json.dumps(item) for item in error.validator_value)}")
    if kind == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return problem(path, f"has no {' and no '.join(missing)}", "add them; without them Orthanc does not start")
    if kind in ("minimum", "maximum"):
        return problem(path, f"{value} is out of range", f"{kind} is {error.validator_value}")
    if error.schema.get("pattern") == SCHEMA["$defs"]["AeTitle"]["pattern"]:
        return problem(path, f"{value} is not an AE title", "use 1 to 16 characters, preferably A-Z, 0-9 and _")
    return problem(path, f"{value} is not what Orthanc expects", f"it must satisfy: {kind} {error.validator_value}")


def _place(steps: Any) -> dict[str, Any]:
    """The part of the full schema in which a finding was made, references followed."""
    part: Any = SCHEMA
    for step in list(steps)[:-1]:
        part = part[step]
        if isinstance(part, dict) and "$ref" in part:  # jsonschema follows it without adding a step
            part = SCHEMA["$defs"][part["$ref"].rsplit("/", 1)[1]]
    return part if isinstance(part, dict) else {}


def _unknown(path: str, name: str, full: dict[str, Any], version: str) -> Problem:
    known = full.get(name)
    if known and "x-only" in known:
        message = f"is an option of the plugin {known['x-only']}, and the loaded plugin silently ignores it"
        return problem(path, message, "remove it", "unknown_option")
    if known:
        reader = "the DICOMweb plugin" if path.startswith("DicomWeb.") else "Orthanc"
        message = f"came with {reader} {known.get('x-since')}, and {version} silently ignores it"
        return problem(path, message, "remove it, or deploy a newer Orthanc", "newer_option")
    message = "is not an Orthanc option, and Orthanc silently ignores it"
    return problem(path, message, nearest(name, list(full)), "unknown_option")


def nearest(name: str, names: list[str]) -> str:
    """The remedy for an unknown name."""
    near = problems_of.nearest(name, names)
    return f"did you mean {near}?" if near else "remove it"


def _show(path: str, value: Any) -> str:
    """A value for a message: never a secret, and shortened."""
    if masking.SECRET.search(path) or path.startswith(("OrthancPeers", "DicomWeb.Servers")):
        return "this"
    if isinstance(value, (dict, list)):
        return "this" if value else repr(value)
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "…"


# --- rules --------------------------------------------------------------------------------------
def _rules(sound: Sound, worklist_plugin: str, directory: str, authorized: bool) -> Iterator[Problem]:
    effective, knows = sound.effective, sound.knows
    for name, (rule, safe) in SWITCHES.items():
        value = effective(name)
        if knows(name) and sound.reads(name) and value not in (safe, "Never" if name == "OverwriteInstances" else safe):
            yield problem(name, f"is {json.dumps(value)}: {WAIVABLE[rule]}", f"set it to {json.dumps(safe)}", rule)
    yield from _storage(sound, directory)
    yield from _access(sound, authorized)
    yield from _devices(sound.section("DicomModalities"), bool(effective("DicomCheckModalityHost")))
    if knows("HttpPort", "DicomPort") and effective("HttpPort") == effective("DicomPort"):
        yield problem("HttpPort", "is also the DICOM port", "give each service its own port", "ports_in_conflict")
    if effective("DicomTlsEnabled"):
        for name in ("DicomTlsCertificate", "DicomTlsPrivateKey", "DicomTlsTrustedCertificates"):
            needed = name != "DicomTlsTrustedCertificates" or effective("DicomTlsRemoteCertificateRequired")
            if needed and knows(name) and not sound.configuration.get(name):
                yield problem(name, "is not set, but DICOM TLS is on", "set it to the path of a file", "missing_file")
    yield from _worklists(sound, worklist_plugin)
    if sound.section("DicomWeb").get("Host"):
        message = "is used in every RetrieveURL, whatever name clients use"
        yield problem("DicomWeb.Host", message, "remove it: the proxy provides the name", "fixed_host", "warning")


def _is_relative(path: Any) -> bool:
    """Whether it is neither absolute, nor on a Windows drive, nor from the environment."""
    return not is_unknown(path) and not re.match(r"/|[A-Za-z]:[\\/]", str(path))


def _storage(sound: Sound, directory: str) -> Iterator[Problem]:
    effective, configuration = sound.effective, sound.configuration
    for name in ("MaximumStorageSize", "MaximumPatientCount"):
        has_mode = sound.reads("MaximumStorageMode")
        rejects = has_mode and (effective("MaximumStorageMode") == "Reject" or not sound.knows("MaximumStorageMode"))
        if effective(name) and not rejects:
            remedy = (
                'set MaximumStorageMode to "Reject" (images are refused when it is full)'
                if has_mode
                else "set it to 0: this release does not support Reject"
            )
            yield problem(name, f"is {effective(name)}: {WAIVABLE['recycles_images']}", remedy, "recycles_images")
    folders = {"StorageDirectory": effective("StorageDirectory")}
    folders["IndexDirectory"] = configuration.get("IndexDirectory", folders["StorageDirectory"])
    for name, path in folders.items():
        if sound.knows(name) and _is_relative(path) and (name == "StorageDirectory" or name in configuration):
            place = f" ({posixpath.normpath(posixpath.join(directory, path))})" if directory else ""
            message = f"is relative to the directory of the configuration file{place}: images go among the settings"
            yield problem(name, message, "write an absolute path", "relative_storage")
    storage, index = (posixpath.normpath(posixpath.join(directory, str(path))) for path in folders.values())
    if sound.knows(*folders) and storage != index:
        message = f"is not StorageDirectory: {WAIVABLE['index_apart']}"
        yield problem("IndexDirectory", message, f"set it to {folders['StorageDirectory']}", "index_apart")
    if effective("IngestTranscoding") in LOSSY:
        message = f"is a lossy syntax: {WAIVABLE['lossy_ingest']}"
        yield problem("IngestTranscoding", message, "remove it", "lossy_ingest")
    if effective("IngestTranscoding") in JPEG_LS and sound.version < JPEG_LS_SINCE:
        message = "is JPEG-LS: Orthanc before 1.13.0 stores images in it that nobody can decode"
        yield problem("IngestTranscoding", message, "remove it, or use JPEG: 1.2.840.10008.1.2.4.70", "breaks_images")
    if configuration.get("AcceptedTransferSyntaxes") == []:
        message = "is empty: every image is refused"
        yield problem("AcceptedTransferSyntaxes", message, "remove it", "stores_nothing")
    if not effective("StoreDicom"):
        yield problem("StoreDicom", "is false: images are not stored", "set it to true", "stores_nothing")
    if effective("ReadOnly"):
        yield problem("ReadOnly", "is true: every image is refused", "set it to false", "stores_nothing")


def _access(sound: Sound, authorized: bool) -> Iterator[Problem]:
    users = sound.section("RegisteredUsers")
    # the Authorization plugin asks its own service, and needs Orthanc's log-in off; the section alone does not protect
    options = sound.section("Authorization") if authorized else {}
    service = any(name.startswith("WebService") and value for name, value in options.items())
    # if unset, it has the value of RemoteAccessAllowed
    decides = "AuthenticationEnabled" if "AuthenticationEnabled" in sound.configuration else "RemoteAccessAllowed"
    if not service and sound.knows("AuthenticationEnabled", decides) and sound.effective(decides) is not True:
        message = "is not true: behind a proxy on this machine, everybody is let in without a password"
        yield problem("AuthenticationEnabled", message, "set it to true", "no_password")
    if not service and sound.knows("RegisteredUsers") and not users:
        message = "is empty: Orthanc up to 1.12.8 lets in user orthanc with password orthanc, later releases no user"
        yield problem("RegisteredUsers", message, "list at least one user", "no_users")
    for number, (name, password) in enumerate(users.items()):
        # the name is not shown: a password may have been pasted there
        path = f"RegisteredUsers.{name}"
        if not is_unknown(name) and (not name or ":" in name):
            message = f"user {number + 1} has a name that is empty or contains a colon, and can never log in"
            yield problem("RegisteredUsers", message, "use letters, digits, dot, hyphen and _", "user_name")
        reason = "" if is_unknown(password) else password_problem(name, password)
        if reason:
            remedy = "generate one: openssl rand -base64 18, and keep it in a vault"
            yield problem(path, f"has a password that {reason}", remedy, "weak_password")
    if sound.effective("DicomModalitiesInDatabase"):
        message = "is true: DicomModalities in this file is ignored, and every admin can change the list"
        yield problem("DicomModalitiesInDatabase", message, "set it to false", "devices_in_database")


def _devices(devices: dict[str, Any], check_host: bool) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, device in devices.items():
        aet, host = (device[0], device[1]) if isinstance(device, list) else (device["AET"], device["Host"])
        if aet.upper() in seen and not is_unknown(aet):
            message = f"has the AE title of {seen[aet.upper()]}: Orthanc only uses the first in alphabetical order"
            yield problem(f"DicomModalities.{name}", message, "give each device its own AE title", "one_aet_twice")
        seen.setdefault(aet.upper(), name)
        granted = {"AllowStorageCommitment", "AllowNAction"}
        if isinstance(device, list) or not granted & device.keys():
            message = "does not set AllowStorageCommitment, so Orthanc grants it without reading the files"
            remedy = "set it to false, or to true for a device that requests storage commitment"
            yield problem(f"DicomModalities.{name}", message, remedy, "storage_commitment_open", "warning")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            if check_host and not is_unknown(host):
                message = f"{_show('', host)} is not an IP address, so DicomCheckModalityHost refuses the device"
                yield problem(f"DicomModalities.{name}.Host", message, "write its fixed address", "host_is_a_name")


def _worklists(sound: Sound, plugin: str) -> Iterator[Problem]:
    """Problems that stop the worklist plugin, and Orthanc with it. `plugin` is empty if it may be either."""
    worklists = sound.section("Worklists")
    options = {"worklists": ("Database",), "orthanc-worklists": ("Directory",)}.get(plugin, ("Database", "Directory"))
    named = [name for name in ("Database", "Directory") if worklists.get(name)]
    database = bool(worklists.get("SaveInOrthancDatabase"))
    if not worklists.get("Enable"):
        return
    for name in named:
        if _is_relative(worklists[name]):
            message = "is relative to Orthanc's working directory, not to the directory of the configuration file"
            yield problem(f"Worklists.{name}", message, "write an absolute path", "relative_storage")
    if any(("Worklists", name) in sound.wrong for name in (*options, "SaveInOrthancDatabase")):
        return
    if bool(named) == database:
        option = " or ".join(options)
        message = "has both a folder and SaveInOrthancDatabase" if named else f"is enabled without {option}"
        yield problem("Worklists", f"{message}, and Orthanc does not start", f"set only {option}", "worklist_folder")
    elif named and worklists.get("DeleteWorklistsDelay"):
        message = "only works with SaveInOrthancDatabase, and Orthanc does not start"
        yield problem("Worklists.DeleteWorklistsDelay", message, "set it to 0", "worklist_folder")
    elif named and worklists.get("DeleteWorklistsOnStableStudy"):
        message = "would crash Orthanc a minute after each start, if one file in the folder is invalid"
        remedy = "set it to false: orthanc-worklist removes items that are done"
        yield problem("Worklists.DeleteWorklistsOnStableStudy", message, remedy, "worklist_folder")
