# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with a finished configuration of Orthanc, whoever wrote it.

The schema (orthanc_schema.json) says what Orthanc reads, release by release; the
rules below, what loses images, opens the server or stops it. Pure functions over
plain data, without Ansible.
"""

from __future__ import annotations

import difflib
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
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("orthanc_schema.json").read_text(encoding="utf-8"))
# The DICOMweb plugin that Debian and the image orthancteam/orthanc ship with a release of Orthanc.
DICOMWEB = {"1.10.1": "1.7", "1.12.7": "1.20", "1.13.0": "1.24"}
# Of Debian's fragments, Orthanc's sources and the guides that clinics follow.
KNOWN_PASSWORDS = ("orthanc", "change-this-password", "changeme", "password", "admin", "alice", "alicepassword")
PASSWORD_LENGTH = 12
# What a clinic may want in spite of the danger: it is named, with the reason, in orthanc_waivers.
WAIVABLE = {
    "lossy_ingest": "each image is replaced by one that lost detail",
    "recycles_images": "the oldest patients are deleted when a limit is reached",
    "index_apart": "index and images on two disks: one is lost, restored or forgotten without the other",
    "overwrites_images": "an image that is sent again replaces the one that was read",
    "unsynced_images": "a power cut loses images that the scanner was told are safe",
    "any_device": "devices that are not in the list may do this",
    "any_address": "a device may come from any address, by its AE title alone",
    "any_called_aet": "an association for another AE title is accepted",
    "webdav": "files can be read and put in through WebDAV",
    "lua_over_http": "users of the REST API may run Lua, and with it any command",
    "writes_files": "users of the REST API may write files on the server",
    "remote_access": "Orthanc answers other machines without the proxy",
    "unverified_tls": "Orthanc sends images to whoever shows any certificate",
    "patients_in_logs": "patients' names get into the log",
    "dicom_for_everybody": "any machine that can reach the server may open a DICOM association",
    "https_for_everybody": "any machine that can reach the server may try passwords",
    "no_firewall": "nothing closes Orthanc's ports",
}
# Those that the firewall's settings break; the others are the configuration's.
FIREWALL = ("dicom_for_everybody", "https_for_everybody", "no_firewall")
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
# Options that name files, and what switches them on.
FILES = {
    "SslCertificate": "SslEnabled",
    "SslTrustedClientCertificates": "SslVerifyPeers",
    **dict.fromkeys(("DicomTlsCertificate", "DicomTlsPrivateKey", "DicomTlsTrustedCertificates"), "DicomTlsEnabled"),
    **dict.fromkeys(("HttpsCACertificates", "LuaScripts", "ExternalDictionaries"), ""),
}
# DICOM PS3.5, section 10: JPEG baseline and extended, JPEG-LS near-lossless, JPEG 2000.
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 93)}
DEEPEST = 50


def release(version: Any) -> tuple[int, ...]:
    """'1.12.7+dfsg-4' as (1, 12, 7); an unknown version counts as the newest."""
    return tuple(int(part) for part in re.findall(r"\d+", str(version).split("+")[0])[:3]) or (999,)


def problems(
    configuration: dict[str, Any],
    version: str,
    worklist_plugin: str = "worklists",
    plugins: Any = None,
    absent: Any = (),
) -> list[Problem]:
    """Everything that is wrong, in the order of the schema's and then of the rules' findings.

    `version` is Orthanc's; `worklist_plugin` is `worklists` or `orthanc-worklists`; `plugins` names those that are
    loaded, or is None where that is not known; `absent` is what of `files` the server does not have.
    """
    strange = list(_not_json("", configuration))
    if strange:
        return strange
    found = [*_schema_problems(configuration, version, worklist_plugin, plugins)]
    wrong = {item["path"].split(".")[0] for item in found}
    # what has a wrong type is reported already, and the rules may trust the rest
    sound = {name: value for name, value in configuration.items() if name not in wrong}
    found += _rules(sound, release(version), wrong, worklist_plugin)
    for name, path in _files(sound):
        if path in absent:
            found.append(problem(name, f"names {path}, which does not exist", "put the file there", "missing_file"))
    return found


def files(configuration: Any) -> list[str]:
    """The absolute paths of the files that Orthanc opens when it starts on this configuration."""
    return [path for _name, path in _files(configuration if isinstance(configuration, dict) else {})]


def _files(configuration: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, switch in FILES.items():
        if not switch or configuration.get(switch) is True:
            value = configuration.get(name)
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, str) and path.startswith("/"):
                    yield name, path


def waive(found: list[Problem], waivers: Any, others: tuple[str, ...] = FIREWALL) -> list[Problem]:
    """The same problems, the waived ones marked, and what is wrong with the waivers themselves.

    `others` are rules that somebody else looks at: their waivers are not idle.
    """
    if not isinstance(waivers, dict):
        return [*found, problem("orthanc_waivers", "is not a dictionary", "write rule: reason")]
    extra = []
    good = {}
    for rule, reason in waivers.items():
        path = f"orthanc_waivers.{rule}"
        if rule not in WAIVABLE:
            extra.append(problem(path, "is no rule that can be waived", nearest(str(rule), list(WAIVABLE))))
        elif not isinstance(reason, str) or len(reason.strip()) < 10:
            extra.append(problem(path, "gives no reason", "write a sentence that an auditor would understand"))
        else:
            good[rule] = reason
    for rule in good:
        if rule not in others and not any(item["rule"] == rule for item in found):
            message = "waives nothing that is set"
            extra.append(problem(f"orthanc_waivers.{rule}", message, "take it out", "idle_waiver", "warning"))
    return [*(_waived(item, good) for item in found), *extra]


def _waived(item: Problem, reasons: dict[str, str]) -> Problem:
    """The problem with its reason, or with the way to give one."""
    rule = item["rule"]
    if rule in reasons:
        return {**item, "severity": "waived", "remedy": f"none; {reasons[rule]}"}
    if rule in WAIVABLE:
        hint = f"if it must be: orthanc_waivers: {{{rule}: <your reason>}}"
        return {**item, "remedy": f"{item['remedy']}; {hint}"}
    return item


def read(files: dict[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration in Orthanc's files (name: text), and what stops Orthanc from reading them."""
    configuration: dict[str, Any] = {}
    origin: dict[str, str] = {}
    found = []
    for name, text in files.items():
        doubles: list[str] = []
        try:
            section = json.loads(
                _plain_json(text.removeprefix("\ufeff")),
                strict=False,  # Orthanc takes line ends and tabs inside a text
                object_pairs_hook=functools.partial(_last_wins, doubles),
                parse_constant=_no_constant,
            )
            if not isinstance(section, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            message = f"is not JSON: {error}"
            found.append(problem(name, message, "correct it; the rest is checked after that", "bad_json"))
            continue
        for key in doubles:
            message = "stands twice in its section, and Orthanc reads the last one alone"
            found.append(problem(f"{name}: {key}", message, "take one of them out", "stands_twice"))
        for key, value in section.items():
            if key in origin:
                message = f"stands in {origin[key]} and in {name}, and Orthanc does not start"
                found.append(problem(key, message, "take one of them out", "defined_twice"))
            else:
                origin[key] = name
                configuration[key] = value
    return configuration, found


def _last_wins(doubles: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    section = dict(pairs)
    doubles += [key for key in section if sum(key == other for other, _value in pairs) > 1]
    return section


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _plain_json(text: str) -> str:
    """Without the comments and the trailing commas that Orthanc reads over."""
    texts = r'("(?:\\.|[^"\\])*")'
    text = re.sub(texts + r"|//[^\r\n]*|/\*.*?\*/", lambda match: match[1] or "", text, flags=re.DOTALL)
    return re.sub(texts + r"|,(?=\s*[}\]])", lambda match: match[1] or "", text)


def password_problem(name: Any, password: Any) -> str:
    """Why it is no password for a PACS, or ''. Never repeats it."""
    if not isinstance(password, str) or not password:
        return "is not a text"
    if password.lower() in KNOWN_PASSWORDS or password == name:
        return "is a default that everybody knows"
    if len(password) < PASSWORD_LENGTH:
        return f"is not a text of at least {PASSWORD_LENGTH} characters"
    letters = password.lower().strip("0123456789!.-_")
    if letters in ("", str(name).lower(), *KNOWN_PASSWORDS) or len(set(password)) < 6:
        return "is easily guessed"
    if "$" in password or not password.isprintable():
        return "holds a $ or a control character, which Orthanc replaces when it reads its file"
    return ""


# --- schema -------------------------------------------------------------------------------------
def _at(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _not_json(path: str, value: Any, depth: int = 0) -> Iterator[Problem]:
    """YAML has more than JSON: keys that are numbers, dates, NaN."""
    if depth > DEEPEST:
        yield problem(path.split(".")[0], f"is nested more than {DEEPEST} levels deep", "write it flatter")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _not_json(_at(path, key), inner, depth + 1)
            else:
                yield problem(_at(path, key), "has a name that is not a text", "put it in quotes")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _not_json(f"{path}[{number}]", inner, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield problem(path, "is not a number of JSON", "write a finite number")
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        yield problem(path, f"is of type {type(value).__name__}, which JSON does not have", "put it in quotes")


@functools.cache
def _validator(version: tuple[int, ...], worklist_plugin: str) -> Any:
    import jsonschema  # here: a collection may be listed without it, and the filters say what is missing

    return jsonschema.Draft202012Validator(_of_release(SCHEMA, version, worklist_plugin))


def _of_release(schema: Any, version: tuple[int, ...], worklist_plugin: str) -> Any:
    """What of the schema this release reads."""
    if isinstance(schema, list):
        return [_of_release(part, version, worklist_plugin) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-plugin") == "dicom-web":
        version = _dicomweb(version)
    for before, older in schema.get("x-before", {}).items():
        if version < release(before):
            schema = {**schema, **older, "enum": older.get("enum", [])}
            schema = {key: value for key, value in schema.items() if key != "enum" or value}
    return {
        key: {
            name: _of_release(part, version, worklist_plugin)
            for name, part in value.items()
            if release(part.get("x-since", "0")) <= version and part.get("x-only", worklist_plugin) == worklist_plugin
        }
        if key == "properties"
        else _of_release(value, version, worklist_plugin)
        for key, value in schema.items()
        if key not in ("x-before", "default")
    }


def _dicomweb(version: tuple[int, ...]) -> tuple[int, ...]:
    """The plugin that comes with this release of Orthanc, or with the last one before it."""
    known = [plugin for orthanc, plugin in DICOMWEB.items() if release(orthanc) <= version]
    return release(known[-1] if known else "0")


def _schema_problems(
    configuration: dict[str, Any], version: str, worklist_plugin: str, plugins: Any
) -> Iterator[Problem]:
    for error in _validator(release(version), worklist_plugin).iter_errors(configuration):
        yield from _translated(error, version)
    for name in configuration:
        section = SCHEMA["properties"].get(name, {})
        needed = worklist_plugin if name == "Worklists" else section.get("x-plugin")
        if plugins is not None and needed and needed not in plugins:
            message = f"is read by the plugin {needed} alone, which is not loaded"
            yield problem(name, message, "take it out", "unknown_option")


def _translated(error: Any, version: str) -> Iterator[Problem]:
    """One finding of jsonschema in the words of this collection."""
    path = ""
    for step in error.absolute_path:
        path = f"{path}[{step}]" if isinstance(step, int) else _at(path, step)
    kind = error.validator
    if kind == "additionalProperties":
        full = _place(error.absolute_schema_path).get("properties", {})
        for name in error.instance:
            if name not in error.schema.get("properties", {}):
                yield _unknown(_at(path, name), name, full, version)
        return
    # where a section belongs, a text may well be an address with its password
    value = "this" if kind == "type" and error.validator_value == "object" else _shown(path, error.instance)
    if kind == "type":
        wanted = " or ".join(
            [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        )
        message = f"{value} is not of type {wanted}: Orthanc does not start, or takes it for something else"
        yield problem(path, message, f"write a value of type {wanted}")
    elif kind == "enum":
        message = f"{value} is not a value that Orthanc {version} knows"
        yield problem(path, message, f"use one of {', '.join(json.dumps(item) for item in error.validator_value)}")
    elif kind == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        yield problem(path, f"has no {' and no '.join(missing)}", "write them; Orthanc would not start")
    elif error.absolute_schema_path and "propertyNames" in error.absolute_schema_path:
        yield problem(path, f"{value} is not a name that Orthanc takes", "use letters, digits, hyphen and _")
    elif kind in ("minimum", "maximum"):
        yield problem(path, f"{value} is out of range", f"{kind} is {error.validator_value}")
    elif error.schema.get("pattern") == SCHEMA["$defs"]["AeTitle"]["pattern"]:
        yield problem(path, f"{value} is not an AE title", "use 1 to 16 characters, best A-Z, 0-9 and _")
    else:
        yield problem(path, f"{value} is not what Orthanc expects", f"it must satisfy: {kind} {error.validator_value}")


def _place(steps: Any) -> dict[str, Any]:
    """The part of the full schema in which a finding was made, references followed."""
    part: Any = SCHEMA
    for step in list(steps)[:-1]:
        part = part[step]
        if isinstance(part, dict) and "$ref" in part:  # jsonschema follows it without a step of its own
            part = SCHEMA["$defs"][part["$ref"].rsplit("/", 1)[1]]
    return part if isinstance(part, dict) else {}


def _unknown(path: str, name: str, full: dict[str, Any], version: str) -> Problem:
    known = full.get(name)
    if known and "x-only" in known:
        message = f"is an option of the plugin {known['x-only']}, and the one that is loaded would ignore it in silence"
        return problem(path, message, "take it out", "unknown_option")
    if known:
        reader = "the DICOMweb plugin" if path.startswith("DicomWeb.") else "Orthanc"
        message = f"came with {reader} {known.get('x-since')}, and {version} would ignore it in silence"
        return problem(path, message, "take it out, or deploy a newer Orthanc", "newer_option")
    message = "is no option of Orthanc, which would ignore it in silence"
    return problem(path, message, nearest(name, list(full)), "unknown_option")


def nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else "take it out"


def _shown(path: str, value: Any) -> str:
    """A value for a message: never a secret, never long."""
    if masking.SECRET.search(path) or path.startswith(("OrthancPeers", "DicomWeb.Servers")):
        return "this"
    if isinstance(value, (dict, list)):
        return "this" if value else repr(value)
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "…"


# --- rules --------------------------------------------------------------------------------------
def _rules(
    configuration: dict[str, Any], version: tuple[int, ...], wrong: set[str], worklist_plugin: str
) -> Iterator[Problem]:
    def effective(name: str) -> Any:
        return configuration.get(name, SCHEMA["properties"][name].get("default"))

    def exists(name: str) -> bool:
        return name not in wrong and release(SCHEMA["properties"][name]["x-since"]) <= version

    for name, (rule, safe) in SWITCHES.items():
        value = effective(name)
        if exists(name) and value not in (safe, "Never" if name == "OverwriteInstances" else safe):
            yield problem(name, f"is {json.dumps(value)}: {WAIVABLE[rule]}", f"set it to {json.dumps(safe)}", rule)
    yield from _storage(
        configuration, effective, release(SCHEMA["properties"]["MaximumStorageMode"]["x-since"]) <= version
    )
    yield from _access(configuration, effective, wrong)
    if "DicomModalities" not in wrong:
        yield from _devices(configuration.get("DicomModalities", {}), bool(effective("DicomCheckModalityHost")))
    ports = {"HttpPort", "DicomPort"}
    if not ports & wrong and effective("HttpPort") == effective("DicomPort"):
        yield problem(
            "HttpPort", "is the DICOM port as well", "give each service a port of its own", "ports_in_conflict"
        )
    if effective("DicomTlsEnabled"):
        for name in ("DicomTlsCertificate", "DicomTlsPrivateKey", "DicomTlsTrustedCertificates"):
            needed = name != "DicomTlsTrustedCertificates" or effective("DicomTlsRemoteCertificateRequired")
            if needed and name not in wrong and not configuration.get(name):
                yield problem(name, "is not set, and DICOM TLS is on", "give the path of a file", "missing_file")
    worklists = configuration.get("Worklists", {})
    if worklists.get("Enable"):
        yield from _worklists(worklists, worklist_plugin)
    if configuration.get("DicomWeb", {}).get("Host"):
        message = "stands in every RetrieveURL, whatever name clients use"
        yield problem("DicomWeb.Host", message, "take it out: the proxy says the name", "fixed_host", "warning")


def _storage(configuration: dict[str, Any], effective: Any, has_mode: bool) -> Iterator[Problem]:
    for name in ("MaximumStorageSize", "MaximumPatientCount"):
        if effective(name) and not (has_mode and effective("MaximumStorageMode") == "Reject"):
            remedy = (
                'set MaximumStorageMode to "Reject" (scanners are refused when it is full)'
                if has_mode
                else "set it to 0: this release knows no Reject"
            )
            yield problem(name, f"is {effective(name)}: {WAIVABLE['recycles_images']}", remedy, "recycles_images")
    storage = effective("StorageDirectory")
    index = configuration.get("IndexDirectory", storage)
    if not str(storage).startswith("/"):
        message = "is relative to wherever Orthanc is started, which may be an empty place next time"
        yield problem("StorageDirectory", message, "write an absolute path", "relative_storage")
    if posixpath.normpath(storage) != posixpath.normpath(index):
        message = f"is not StorageDirectory: {WAIVABLE['index_apart']}"
        yield problem("IndexDirectory", message, f"set it to {storage}", "index_apart")
    if effective("IngestTranscoding") in LOSSY:
        message = f"is a lossy syntax: {WAIVABLE['lossy_ingest']}"
        yield problem("IngestTranscoding", message, "take it out", "lossy_ingest")
    if configuration.get("AcceptedTransferSyntaxes") == []:
        message = "is empty: every image is refused"
        yield problem("AcceptedTransferSyntaxes", message, "take it out", "stores_nothing")
    if not effective("StoreDicom"):
        yield problem("StoreDicom", "is false: images are not kept at all", "set it to true", "stores_nothing")
    if effective("ReadOnly"):
        yield problem("ReadOnly", "is true: every image is refused", "set it to false", "stores_nothing")


def _access(configuration: dict[str, Any], effective: Any, wrong: set[str]) -> Iterator[Problem]:
    users = configuration.get("RegisteredUsers", {})
    if "AuthenticationEnabled" not in wrong and configuration.get("AuthenticationEnabled") is not True:
        message = "is not true, and behind a proxy on this machine everybody is let in without a password"
        yield problem("AuthenticationEnabled", message, "set it to true", "no_password")
    if "RegisteredUsers" not in wrong and not users:
        message = "names nobody: up to Orthanc 1.12.8 user orthanc with password orthanc is let in, later nobody is"
        yield problem("RegisteredUsers", message, "list at least one user", "no_users")
    for number, (name, password) in enumerate(users.items()):
        # a name is a person's: it stands in no message that a wrong password could be pasted into
        path = f"RegisteredUsers.{name}"
        if not name or ":" in name:
            message = f"user {number + 1} has a name that is empty or holds a colon, and can never log in"
            yield problem("RegisteredUsers", message, "use letters, digits, dot, hyphen and _", "user_name")
        reason = password_problem(name, password)
        if reason:
            remedy = "generate one: openssl rand -base64 18, and keep it in a vault"
            yield problem(path, f"has a password that {reason}", remedy, "weak_password")
    if effective("DicomModalitiesInDatabase"):
        message = "is true: DicomModalities of this file is ignored, and every admin can change the list"
        yield problem("DicomModalitiesInDatabase", message, "set it to false", "devices_in_database")


def _devices(devices: dict[str, Any], check_host: bool) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, device in devices.items():
        aet, host = (device[0], device[1]) if isinstance(device, list) else (device["AET"], device["Host"])
        if aet.upper() in seen:
            message = f"has the AE title of {seen[aet.upper()]}: only the first in the alphabet counts"
            yield problem(
                f"DicomModalities.{name}", message, "give each device an AE title of its own", "one_aet_twice"
            )
        seen.setdefault(aet.upper(), name)
        granted = {"AllowStorageCommitment", "AllowNAction"}
        if isinstance(device, list) or not granted & device.keys():
            message = "says nothing of AllowStorageCommitment, which Orthanc then grants without looking at files"
            remedy = "set it to false, or to true for a device that asks for storage commitment"
            yield problem(f"DicomModalities.{name}", message, remedy, "storage_commitment_open", "warning")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            if check_host:
                message = f"{_shown('', host)} is not an address, and with DicomCheckModalityHost the device is refused"
                yield problem(f"DicomModalities.{name}.Host", message, "write its fixed address", "host_is_a_name")


def _worklists(worklists: dict[str, Any], plugin: str) -> Iterator[Problem]:
    """What stops the plugin, and Orthanc with it."""
    folder = worklists.get("Database") or worklists.get("Directory")
    database = bool(worklists.get("SaveInOrthancDatabase"))
    if bool(folder) == database:
        option = "Database" if plugin == "worklists" else "Directory"
        message = "has both a folder and SaveInOrthancDatabase" if folder else f"is enabled without {option}"
        yield problem("Worklists", f"{message}, and Orthanc does not start", f"set {option} alone", "worklist_folder")
    elif folder and worklists.get("DeleteWorklistsDelay"):
        message = "works with SaveInOrthancDatabase alone, and Orthanc does not start"
        yield problem("Worklists.DeleteWorklistsDelay", message, "set it to 0", "worklist_folder")
