# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds orthanc.json from a clinic's settings, and checks it.

Pure functions over plain data, without Ansible. The settings are the
`orthanc_config_*` variables without their prefix.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils.server.orthanc.rights import RIGHTS
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

# Debian 12 ships the Python plugin 4.0, which cannot answer such a request; 4.1 and later can.
COMMITMENT_SINCE = "1.12.0"
ROLES = ("admin", "dicomweb_reader", "dicomweb_writer")
# Options that keep strangers out and images safe: the same in every clinic, except for waivers.
CLOSED: dict[str, Any] = {
    "RemoteAccessAllowed": False,
    # explicit: its default is the value of RemoteAccessAllowed, and nginx connects from 127.0.0.1
    "AuthenticationEnabled": True,
    "WebDavEnabled": False,
    "ExecuteLuaEnabled": False,
    "DicomCheckCalledAet": True,
    "DicomCheckModalityHost": True,
    # if one of these is true, associations are no longer refused by AE title and address
    "DicomAlwaysAllowEcho": False,
    "DicomAlwaysAllowStore": False,
    "DicomAlwaysAllowFind": False,
    "DicomAlwaysAllowFindWorklist": False,
    "DicomAlwaysAllowGet": False,
    "DicomAlwaysAllowMove": False,
    "DicomModalitiesInDatabase": False,
}
# Options that are computed from the clinic's other settings.
DERIVED = {
    "Name": "orthanc_name",
    "StorageDirectory": "orthanc_storage_dir",
    "IndexDirectory": "orthanc_storage_dir",
    "TemporaryDirectory": "orthanc_tmp_dir",
    "Plugins": "orthanc_install_method",
    "HttpPort": "orthanc_http_port",
    "RegisteredUsers": "orthanc_users",
    "DicomAet": "orthanc_aet",
    "DicomPort": "orthanc_dicom_port",
    "DicomModalities": "orthanc_modalities",
    "ClinicopsRoles": "orthanc_users",
    "PythonScript": "orthanc_install_method",
}
# nginx gives these a meaning of their own in its table of users; the last is the container's health check.
RESERVED_NAMES = ("default", "include", "hostnames", "volatile", "healthcheck")
# The deploy makes Orthanc the owner of its directories: never of one that belongs to the system or to others.
SYSTEM_DIRECTORIES = re.compile(
    r"/(bin|boot|dev|etc|home|lib|lib64|proc|root|run|sbin|sys|tmp|usr|var/tmp)(/.*)?"
    r"|/(media|mnt|opt|srv|var)|/var/(backups|cache|lib|log|mail|spool)"
)
TAKEN_PORTS = {22: "SSH", 80: "the proxy", 443: "the proxy"}
# Options that the proxy, the firewall and the acceptance test rely on.
FIXED: dict[str, Any] = {
    "HttpServerEnabled": True,
    "DicomServerEnabled": True,
    "SslEnabled": False,
    "DicomWeb.Enable": True,
    "DicomWeb.Root": "/dicom-web/",
    "DicomWeb.Host": "",
    "DicomWeb.Ssl": True,
    "DicomWeb.EnableWado": False,
    "Worklists.Enable": True,
}
# Valid settings that replace wrong ones, so that the rest is checked in the same run.
DEFAULTS: dict[str, Any] = {
    "name": "Clinic Orthanc",
    "hostname": "",
    "aet": "ORTHANC",
    "dicom_port": 4242,
    "http_port": 8042,
    "storage_dir": "/var/lib/orthanc/db",
    "tmp_dir": "/var/lib/orthanc/tmp",
    "worklist_dir": "/var/lib/orthanc/worklists",
    "users": [],
    "modalities": [],
    "dicom_sources": [],
    "local_modalities": [],
    "settings": {},
    "waivers": {},
    "version": "",
    "plugins": [],
    "worklist_plugin": "worklists",
    "remote_access": False,
    "health_user": "",
    "dicom_tls": [],
    "dicom_tls_port": 2762,
    "absent": [],
    "caches": {},
}


TLS_ADDRESSES = ipaddress.ip_network("127.64.0.0/10")
# The Lua filter, which reads ClinicopsRoles in orthanc.json. Orthanc itself ignores that option.
FILTER = "/etc/orthanc/site/roles.lua"
# The Python script that handles images that are received again, and storage commitment.
RECEIVE = "/etc/orthanc/site/receive.py"


def tls_address(name: str) -> str:
    """The address of this machine from which the proxy forwards the associations of a device over TLS.

    Orthanc identifies devices by address, and this one represents the device's certificate. It is derived from the
    device's name, so that it does not change when other devices are added or removed.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return f"127.{64 + digest[0] % 64}.{digest[1]}.{1 + digest[2] % 254}"


def build(settings: dict[str, Any]) -> dict[str, Any]:
    """The complete orthanc.json for settings in which `problems` finds no errors."""
    settings = {**DEFAULTS, **settings}
    if settings["worklist_plugin"] == "orthanc-worklists":
        # one invalid file in the folder would crash Orthanc when it cleans up, a minute after each start
        worklists = {"Directory": settings["worklist_dir"], "DeleteWorklistsOnStableStudy": False}
    else:
        worklists = {"Database": settings["worklist_dir"]}
    users = {user["name"]: user["password"] for user in settings["users"]}
    roles = {user["name"]: user["role"] for user in settings["users"]}
    if settings["health_user"]:
        roles[settings["health_user"]] = "health"
        # always the same, and only known to those who know all the others
        known = json.dumps(sorted(users.items()))
        users[settings["health_user"]] = hashlib.sha256(known.encode()).hexdigest()
    configuration: dict[str, Any] = {
        **CLOSED,
        "RemoteAccessAllowed": settings["remote_access"] is True,
        "Name": settings["name"],
        "StorageDirectory": settings["storage_dir"],
        "IndexDirectory": settings["storage_dir"],
        "TemporaryDirectory": settings["tmp_dir"],
        "StorageCompression": False,
        "Plugins": settings["plugins"],
        "ConcurrentJobs": 2,
        **settings["caches"],
        # text in answers: the default, Latin1, cannot represent a Greek name
        "DefaultEncoding": "Utf8",
        "HttpPort": int(settings["http_port"]),
        "RegisteredUsers": users,
        "DicomAet": settings["aet"],
        "DicomPort": int(settings["dicom_port"]),
        # in pieces of 16 kB, the default, an image waits for more acknowledgements of TCP; a device may hold 16 bits
        "MaximumPduLength": 65534,
        "DicomModalities": {
            device["name"]: {
                "AET": device["aet"],
                "Host": tls_address(device["name"]) if device["name"] in settings["dicom_tls"] else device["host"],
                "Port": int(device["port"]),
                **{option: right in device["may"] for right, option in RIGHTS.items()},
            }
            for device in [*settings["modalities"], *settings["local_modalities"]]
        },
        "DicomWeb": {
            "Enable": True,
            "Root": "/dicom-web/",
            "EnableWado": False,
            "Ssl": True,
        },
        # each device sees only its own list, whatever it queries
        "Worklists": {"Enable": True, "FilterIssuerAet": True, **worklists},
        "LuaScripts": [FILTER],
        "PythonScript": RECEIVE,
        "ClinicopsRoles": roles,
    }
    for name, value in settings["settings"].items():
        if isinstance(value, dict) and isinstance(configuration.get(name), dict):
            configuration[name] = {**configuration[name], **value}
        elif name == "LuaScripts" and isinstance(value, list):
            configuration[name] = [*value, FILTER]  # the request filter of the last script applies
        else:
            configuration[name] = value
    return configuration


def problems(settings: dict[str, Any]) -> list[Problem]:
    """All problems of the settings, in the order of the settings."""
    settings = {**DEFAULTS, **settings}
    found = _settings(settings)
    options = settings["settings"]
    if not isinstance(options, dict):
        return [*found, problem("orthanc_config_settings", "must be a dictionary", "write Option: value")]
    found += _check_fixed(options)
    free = {name: value for name, value in options.items() if name not in DERIVED}
    wrong = {re.split(r"[.\[]", item["path"])[0].removeprefix("orthanc_") for item in found}
    sound = {**settings, **{name: DEFAULTS[name] for name in wrong if name in DEFAULTS}, "settings": free}
    worklist_plugin = str(sound["worklist_plugin"])
    plugins = ("dicom-web", worklist_plugin, "python")
    found += [
        {**item, "path": f"orthanc_config_settings.{item['path']}"}
        for item in rules.problems(build(sound), str(settings["version"]), worklist_plugin, plugins, settings["absent"])
        # in a container's own network Orthanc must answer the proxy, which it sees as another machine
        if not (item["rule"] == "remote_access" and settings["remote_access"] is True)
        # computed options have been checked with the settings that they come from
        and not (re.split(r"[.\[]", item["path"])[0] in DERIVED and item["rule"] != "unknown_option")
    ]
    waived: list[Problem] = rules.waive(found, settings["waivers"])
    if any(one["path"] == "orthanc_dicom_sources" for one in found):  # its remedy needs this waiver
        idle = ("idle_waiver", "orthanc_waivers.any_address")
        waived = [one for one in waived if (one["rule"], one["path"]) != idle]
    return waived


def _check_fixed(options: dict[str, Any]) -> list[Problem]:
    found = []
    for name in options:
        if name in DERIVED:
            message = f"is computed from {DERIVED[name]}"
            if name == "PythonScript":  # Orthanc runs only one, and the reported results depend on this one
                message = f"must be this collection's script, {RECEIVE}"
            remedy = "remove it" if name in ("Plugins", "PythonScript") else f"set {DERIVED[name]}"
            found.append(problem(f"orthanc_config_settings.{name}", message, remedy))
    worklists = options.get("Worklists")
    for name in ("Database", "Directory"):
        if isinstance(worklists, dict) and name in worklists:
            message = "is computed from orthanc_worklist_dir"
            found.append(problem(f"orthanc_config_settings.Worklists.{name}", message, "set orthanc_worklist_dir"))
    for name, value in FIXED.items():
        section, _unused, option = name.rpartition(".")
        place = options.get(section) if section else options
        if isinstance(place, dict) and option in place and place[option] != value:
            message, remedy = f"must stay {value!r}: the proxy and the scanners rely on it", "remove it"
            if option == "EnableWado":
                message = "must stay False: WADO-URI at /wado is not DICOMweb, and the proxy denies it to readers"
                remedy += ", and let clients retrieve by WADO-RS"
            found.append(problem(f"orthanc_config_settings.{name}", message, remedy))
    return found


def _settings(settings: dict[str, Any]) -> list[Problem]:
    found: list[Problem] = []
    for name in ("name", "version", "worklist_plugin"):
        if not isinstance(settings[name], str):
            found.append(problem(f"orthanc_{name}", "must be text", "write it in quotes"))
    if not isinstance(settings["plugins"], list) or any(not isinstance(path, str) for path in settings["plugins"]):
        found.append(problem("orthanc_plugins", "must be a list of paths", "write a list of paths"))
    if not settings.get("hostname"):
        found.append(
            problem(
                "orthanc_hostname",
                "is not set",
                "set it to the name in https://<name>/, for example pacs.clinic.example",
            )
        )
    elif not re.fullmatch(
        r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
        str(settings["hostname"]),
    ):
        found.append(
            problem(
                "orthanc_hostname",
                f"{settings['hostname']!r} is not a DNS name",
                "use lower-case letters, digits, dots and hyphens",
            )
        )
    elif re.fullmatch(r"[0-9.]+", str(settings["hostname"])):
        message = f"{settings['hostname']!r} is an IP address, and clients would not accept the certificate"
        found.append(problem("orthanc_hostname", message, "use a name in the clinic's DNS"))
    found += _ae_title("orthanc_aet", settings["aet"])
    for name in ("dicom_port", "http_port", "dicom_tls_port"):
        found += _port(f"orthanc_{name}", settings[name])
        for taken, service in TAKEN_PORTS.items():
            if str(settings[name]).lstrip("0") == str(taken):
                found.append(problem(f"orthanc_{name}", f"{taken} is the port of {service}", "choose another port"))
    if str(settings["dicom_port"]).lstrip("0") == str(settings["http_port"]).lstrip("0"):
        found.append(
            problem(
                "orthanc_http_port",
                "is also the DICOM port",
                "give each service its own port",
            )
        )
    if settings["dicom_tls"] and str(settings["dicom_tls_port"]) in map(
        str, (settings["dicom_port"], settings["http_port"])
    ):
        message = "is one of Orthanc's own ports"
        found.append(problem("orthanc_dicom_tls_port", message, "give each service its own port"))
    for name in ("storage_dir", "tmp_dir", "worklist_dir"):
        found += _path(f"orthanc_{name}", settings[name])
    found += _apart({name: str(settings[name]).rstrip("/") for name in ("storage_dir", "tmp_dir", "worklist_dir")})
    found += _users(settings["users"])
    local = _modalities("orthanc_local_modalities", settings["local_modalities"], [])
    found += [
        *local,
        *_modalities("orthanc_modalities", settings["modalities"], [] if local else settings["local_modalities"]),
    ]
    return [*found, *_dicom_sources(settings), *_dicom_tls(settings), *_commitment(settings)]


def _dicom_sources(settings: dict[str, Any]) -> list[Problem]:
    """Problems of the networks of devices without a fixed address: the firewall lets them in, but Orthanc refuses them
    unless it no longer compares addresses, or accepts devices that it does not know."""
    sources, options = settings["dicom_sources"], settings["settings"]
    if not isinstance(sources, list):
        return [
            problem("orthanc_dicom_sources", "must be a list", "write each network on its own line, after a hyphen")
        ]
    if not sources or not isinstance(options, dict) or options.get("DicomCheckModalityHost") is False:
        return []
    if any(
        value for name, value in options.items() if re.match("DicomAlwaysAllow|DicomModalitiesInDatabase", str(name))
    ):
        return []
    message = "lets devices through the firewall that Orthanc refuses, because it compares their addresses"
    remedy = "set orthanc_config_settings: {DicomCheckModalityHost: false} and orthanc_waivers: {any_address: <your"
    remedy += " reason>}; or remove it, and list each device with a fixed address in orthanc_modalities"
    return [problem("orthanc_dicom_sources", message, remedy)]


def _commitment(settings: dict[str, Any]) -> list[Problem]:
    """Problems of storage commitment: Orthanc confirms images without reading their files, unless its Python plugin
    does that."""
    version, devices = str(settings["version"]), settings["modalities"]
    if not version or not isinstance(devices, list) or rules.release(version) >= rules.release(COMMITMENT_SINCE):
        return []
    remedy = "remove it, or deploy on a later system (Debian 13, Ubuntu 24.04) or with orthanc_install_method: docker"
    message = f"contains 'storage_commitment', but Orthanc {version} cannot verify that an image file is complete"
    return [
        problem(f"orthanc_modalities[{number}].may", message, remedy)
        for number, device in enumerate(devices)
        if isinstance(device, dict) and isinstance(device.get("may"), list) and "storage_commitment" in device["may"]
    ]


def _dicom_tls(settings: dict[str, Any]) -> list[Problem]:
    names, devices = settings["dicom_tls"], settings["modalities"]
    if not isinstance(names, list) or not isinstance(devices, list):
        return [problem("orthanc_dicom_tls", "must be a list", "list names from orthanc_modalities")]
    if strange := [name for name in names if not isinstance(name, str)]:
        message = f"contains {strange[0]!r}, which {_say_kind(strange[0])}"
        return [problem("orthanc_dicom_tls", message, "put the name in quotes, here and in orthanc_modalities")]
    known = {str(item.get("name")): item for item in devices if isinstance(item, dict)}
    found = []
    seen: dict[str, str] = {}
    for name in names:
        if name not in known:
            message = f"names {name!r}, which is not a device in orthanc_modalities"
            found.append(problem("orthanc_dicom_tls", message, rules.nearest(name, list(known))))
        elif isinstance(known[name].get("may"), list) and "move" in known[name]["may"]:
            message = f"names {name}, but Orthanc cannot open a TLS connection to it"
            found.append(problem("orthanc_dicom_tls", message, "give it the right get instead of move"))
        if name in known and isinstance(known[name].get("may"), list) and "storage_commitment" in known[name]["may"]:
            message = f"names {name}, but Orthanc cannot open a TLS connection to report storage commitment to it"
            remedy = "remove storage_commitment from its may, or the device from orthanc_dicom_tls"
            found.append(problem("orthanc_dicom_tls", message, remedy))
        if seen.setdefault(tls_address(name), name) != name:
            message = f"names {name} and {seen[tls_address(name)]}, which would get the same internal address"
            found.append(problem("orthanc_dicom_tls", message, "give one of them another name"))
    if names and settings["remote_access"] is True:
        message = "needs Orthanc in the host network: behind a bridge it could not tell devices apart"
        found.append(problem("orthanc_dicom_tls", message, "set orthanc_install_docker_network: host"))
    return found


def _ae_title(path: str, value: Any) -> list[Problem]:
    """The problem of an AE title (DICOM PS3.5, VR AE: at most 16 characters, spaces at either end do not count)."""
    if _lacks_quotes(value):
        return [problem(path, f"{value!r} {_say_kind(value)}", "put it in quotes")]
    if isinstance(value, str) and re.fullmatch(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?", value):
        return []
    return [
        problem(
            path,
            f"{value!r} is not an AE title",
            "use 1 to 16 characters, preferably A-Z, 0-9 and _, without a backslash or a space at either end",
        )
    ]


def _lacks_quotes(value: Any) -> bool:
    """Whether YAML reads as a number, a date, true or false what may be meant as text."""
    return value is not None and not isinstance(value, (str, list, dict))


def _say_kind(value: Any) -> str:
    """What YAML made of a text without quotes."""
    kinds: dict[Any, str] = {
        bool: "true or false",
        (int, float): "a number",
        (list, dict): "a list or a dictionary",
        type(None): "nothing",
    }
    return f"is read by YAML as {next((word for kind, word in kinds.items() if isinstance(value, kind)), 'a date')}"


def _path(path: str, value: Any) -> list[Problem]:
    """The problem of a path. It is written into a systemd unit, where spaces and % have a special meaning."""
    if not str(value).startswith("/"):
        return [problem(path, f"{value!r} must be an absolute path", "begin it with /")]
    if not re.fullmatch(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+", str(value)):
        return [problem(path, f"{value!r} is not a plain path", "use letters, digits, dot, hyphen and _ between the /")]
    if SYSTEM_DIRECTORIES.fullmatch(str(value)):
        remedy = "use a directory that only Orthanc uses, for example /var/lib/orthanc/db"
        return [problem(path, f"{value!r} belongs to the system, and Orthanc would become its owner", remedy)]
    return []


def _apart(directories: dict[str, str]) -> list[Problem]:
    """The problems of directories that overlap: images are kept, worklists are only read, temporary files are
    deleted."""
    return [
        problem(f"orthanc_{inner}", f"is inside orthanc_{outer}, or the same", "give each its own directory")
        for inner, path in directories.items()
        for outer, other in directories.items()
        if inner != outer and ((path == other and inner > outer) or path.startswith(f"{other}/"))
    ]


def _port(path: str, value: Any) -> list[Problem]:
    if not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,5}", str(value)) and 1 <= int(value) <= 65535:
        return []
    return [problem(path, f"{value!r} is not a TCP port", "use a whole number from 1 to 65535")]


def _keys(path: str, item: dict[str, Any], wanted: tuple[str, ...]) -> list[Problem]:
    """The missing and the unknown keys of a user or a device."""
    missing = [problem(f"{path}.{key}", "is missing", f"write {key}") for key in wanted if key not in item]
    extra = [
        problem(f"{path}.{key}", "is not a setting", rules.nearest(str(key), list(wanted)))
        for key in item
        if key not in wanted
    ]
    return [*missing, *extra]


def _users(users: Any) -> list[Problem]:
    if not isinstance(users, list):
        return [problem("orthanc_users", "must be a list", "list name, password and role of each user")]
    if not users:
        message = "is empty, and there is no default password"
        remedy = "list at least one user with name, password (from a vault) and role"
        return [problem("orthanc_users", message, remedy)]
    found = []
    seen: set[str] = set()
    for number, user in enumerate(users):
        path = f"orthanc_users[{number}]"
        if not isinstance(user, dict):
            found.append(problem(path, "must be a dictionary", "write name, password and role"))
            continue
        found += _keys(path, user, ("name", "password", "role"))
        name, password = user.get("name"), user.get("password")
        if "name" in user:
            found += _user_name(f"{path}.name", name, seen)
        reason = rules.password_problem(name, password) if "password" in user else ""
        if reason:
            remedy = "generate one: openssl rand -base64 18, and keep it in a vault"
            found.append(problem(f"{path}.password", reason, remedy))
        if "role" in user and user["role"] not in ROLES:
            found.append(problem(f"{path}.role", "is not a role", f"use one of {', '.join(ROLES)}"))
    if not found and all(user["role"] != "admin" for user in users):
        message = "lists no admin, but the deploy and the acceptance test need one to query Orthanc"
        found.append(problem("orthanc_users", message, "give one user the role admin"))
    return found


def _user_name(path: str, name: Any, seen: set[str]) -> list[Problem]:
    # the value is not shown: it may be a misplaced password
    if _lacks_quotes(name):
        return [problem(path, _say_kind(name), "put the name in quotes")]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        return [problem(path, "is not a valid user name", "use letters, digits, dot, hyphen and _")]
    if name.lower() in RESERVED_NAMES:
        message = f"{name!r} is reserved by nginx or by this collection"
        return [problem(path, message, "choose another name")]
    if name.lower() in seen:
        # nginx does not distinguish it from IT
        return [problem(path, f"{name!r} is listed twice", "give each user a different name")]
    seen.add(name.lower())
    return []


def _modalities(variable: str, modalities: Any, local: list[dict[str, Any]]) -> list[Problem]:
    wanted = ("name", "aet", "host", "port", "may")
    if not isinstance(modalities, list):
        return [problem(variable, "must be a list", f"list {', '.join(wanted)} of each device")]
    found = []
    seen = {key: {str(device[key]).upper(): "this machine" for device in local} for key in ("name", "aet", "host")}
    for number, device in enumerate(modalities):
        path = f"{variable}[{number}]"
        if not isinstance(device, dict):
            found.append(problem(path, "must be a dictionary", f"write {', '.join(wanted)}"))
            continue
        found += _keys(path, device, wanted)
        for key in wanted:
            if key in device:
                found += _device(f"{path}.{key}", key, device[key])
        for key, known in seen.items():
            value = str(device.get(key, "")).upper()
            if key not in device or value not in known:
                known.setdefault(value, path)
            elif key == "host" and known[value] != "this machine":
                message = f"{device[key]!r} is also used by {known[value]}: each can impersonate the other"
                remedy = "leave it if this is a workstation with two AE titles; otherwise correct it"
                found.append(problem(f"{path}.{key}", message, remedy, "one_address_twice", "warning"))
            else:
                message = f"{device[key]!r} is already used by {known[value]}"
                remedy = "give each device its own name, AE title and address"
                found.append(problem(f"{path}.{key}", message, remedy))
    return found


def _device(path: str, key: str, value: Any) -> list[Problem]:
    """The problems of one setting of a device."""
    if key == "aet":
        return _ae_title(path, value)
    if key == "port":
        return _port(path, value)
    if key == "name" and not isinstance(value, str):
        return [problem(path, f"{value!r} {_say_kind(value)}", "put the name in quotes")]
    if key == "name" and not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        return [problem(path, f"{value!r} is not a name that Orthanc accepts", "use letters, digits, hyphen and _")]
    if key == "host":
        try:
            ipaddress.ip_address(str(value))
        except ValueError:
            remedy = "write the device's fixed IP address: Orthanc compares addresses, and a name never matches"
            return [problem(path, f"{value!r} is not an IP address", remedy)]
        if ipaddress.ip_address(str(value)) in TLS_ADDRESSES:
            message = f"{value!r} is reserved for a device over TLS"
            return [problem(path, message, "write the device's own address")]
    if key == "may":
        rights = value if isinstance(value, list) else []
        wrong = [right for right in rights if right not in list(RIGHTS)]
        if wrong or not rights:
            message = f"contains {', '.join(map(repr, wrong))}" if wrong else f"must be a list of rights, not {value!r}"
            return [problem(path, message, f"choose from {', '.join(RIGHTS)}")]
    return []
