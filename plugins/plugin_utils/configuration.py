# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""orthanc.json from the settings of a clinic: built, checked, masked.

Pure functions over plain data, without Ansible. The settings are the
`orthanc_config_*` variables without their prefix.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

# What a device may do, and Orthanc's name for it (Orthanc Book, "Configuration of DICOM modalities").
RIGHTS = {
    "echo": "AllowEcho",
    "store": "AllowStore",
    "find": "AllowFind",
    "find_worklist": "AllowFindWorklist",
    "move": "AllowMove",
    "get": "AllowGet",
    "storage_commitment": "AllowStorageCommitment",
}
# With Debian 12 comes the Python plugin 4.0, which cannot answer such a request; 4.1 and later can.
COMMITMENT_SINCE = "1.12.0"
ROLES = ("admin", "dicomweb_reader", "dicomweb_writer")
# What keeps strangers out and images in: the same in every clinic, but for waivers.
CLOSED: dict[str, Any] = {
    "RemoteAccessAllowed": False,
    # explicit: its default is the value of RemoteAccessAllowed, and nginx comes from 127.0.0.1
    "AuthenticationEnabled": True,
    "WebDavEnabled": False,
    "ExecuteLuaEnabled": False,
    "DicomCheckCalledAet": True,
    "DicomCheckModalityHost": True,
    # one of these true, and associations are no longer refused by AE title and address
    "DicomAlwaysAllowEcho": False,
    "DicomAlwaysAllowStore": False,
    "DicomAlwaysAllowFind": False,
    "DicomAlwaysAllowFindWorklist": False,
    "DicomAlwaysAllowGet": False,
    "DicomAlwaysAllowMove": False,
    "DicomModalitiesInDatabase": False,
}
# Options that are made of the clinic's other settings.
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
# nginx reads these in its table of users as words of its own; the last is the container's health check.
RESERVED_NAMES = ("default", "include", "hostnames", "volatile", "healthcheck")
# The deploy gives Orthanc its directories: never one that the system or other people own.
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
# Settings that nothing is wrong with: they stand in for wrong ones, so that the rest is checked at once.
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
}


TLS_ADDRESSES = ipaddress.ip_network("127.64.0.0/10")
# What its Lua filter reads of orthanc.json, which Orthanc itself passes over.
FILTER = "/etc/orthanc/site/roles.lua"
# What becomes of an image that Orthanc has already, and what storage commitment is given for.
RECEIVE = "/etc/orthanc/site/receive.py"


def tls_address(name: str) -> str:
    """The address of this machine from which the proxy brings the associations of a device that comes over TLS.

    Orthanc knows devices by their address, and this one stands for the device's certificate. It is made of the
    device's name, so that it stays when others come and go.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return f"127.{64 + digest[0] % 64}.{digest[1]}.{1 + digest[2] % 254}"


def build(settings: dict[str, Any]) -> dict[str, Any]:
    """The whole of orthanc.json for settings that `problems` finds nothing wrong with."""
    settings = {**DEFAULTS, **settings}
    if settings["worklist_plugin"] == "orthanc-worklists":
        # one bad file in the folder would end Orthanc when it tidies up, a minute after each start
        worklists = {"Directory": settings["worklist_dir"], "DeleteWorklistsOnStableStudy": False}
    else:
        worklists = {"Database": settings["worklist_dir"]}
    users = {user["name"]: user["password"] for user in settings["users"]}
    roles = {user["name"]: user["role"] for user in settings["users"]}
    if settings["health_user"]:
        roles[settings["health_user"]] = "health"
        # always the same, and known to nobody who does not know all the others
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
        # text in answers: with the default, Latin1, a Greek name cannot be given back
        "DefaultEncoding": "Utf8",
        "HttpPort": int(settings["http_port"]),
        "RegisteredUsers": users,
        "DicomAet": settings["aet"],
        "DicomPort": int(settings["dicom_port"]),
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
        # each device sees its own list, whatever it asks for
        "Worklists": {"Enable": True, "FilterIssuerAet": True, **worklists},
        "LuaScripts": [FILTER],
        "PythonScript": RECEIVE,
        "ClinicopsRoles": roles,
    }
    for name, value in settings["settings"].items():
        if isinstance(value, dict) and isinstance(configuration.get(name), dict):
            configuration[name] = {**configuration[name], **value}
        elif name == "LuaScripts" and isinstance(value, list):
            configuration[name] = [*value, FILTER]  # the last one's filter of requests counts
        else:
            configuration[name] = value
    return configuration


def problems(settings: dict[str, Any]) -> list[Problem]:
    """Everything that is wrong with the settings, in the order of the settings."""
    settings = {**DEFAULTS, **settings}
    found = _settings(settings)
    options = settings["settings"]
    if not isinstance(options, dict):
        return [*found, problem("orthanc_config_settings", "is not a dictionary", "write Option: value")]
    found += _fixed(options)
    free = {name: value for name, value in options.items() if name not in DERIVED}
    wrong = {re.split(r"[.\[]", item["path"])[0].removeprefix("orthanc_") for item in found}
    sound = {**settings, **{name: DEFAULTS[name] for name in wrong if name in DEFAULTS}, "settings": free}
    worklist_plugin = str(sound["worklist_plugin"])
    plugins = ("dicom-web", worklist_plugin, "python")
    found += [
        {**item, "path": f"orthanc_config_settings.{item['path']}"}
        for item in rules.problems(build(sound), str(settings["version"]), worklist_plugin, plugins, settings["absent"])
        # in a container's own network Orthanc must answer the proxy, which is another machine to it
        if not (item["rule"] == "remote_access" and settings["remote_access"] is True)
        # what is made of other settings has been checked with them
        and not (re.split(r"[.\[]", item["path"])[0] in DERIVED and item["rule"] != "unknown_option")
    ]
    waived: list[Problem] = rules.waive(found, settings["waivers"])
    return waived


def _fixed(options: dict[str, Any]) -> list[Problem]:
    found = []
    for name in options:
        if name in DERIVED:
            message = f"is made of {DERIVED[name]}"
            if name == "PythonScript":  # Orthanc runs one, and this one is what makes a success true
                message = f"is this collection's own script, {RECEIVE}"
            remedy = "take it out" if name in ("Plugins", "PythonScript") else f"set {DERIVED[name]}"
            found.append(problem(f"orthanc_config_settings.{name}", message, remedy))
    worklists = options.get("Worklists")
    for name in ("Database", "Directory"):
        if isinstance(worklists, dict) and name in worklists:
            message = "is made of orthanc_worklist_dir"
            found.append(problem(f"orthanc_config_settings.Worklists.{name}", message, "set orthanc_worklist_dir"))
    for name, value in FIXED.items():
        section, _unused, option = name.rpartition(".")
        place = options.get(section) if section else options
        if isinstance(place, dict) and option in place and place[option] != value:
            message, remedy = f"must stay {value!r}: the proxy and the scanners rely on it", "take it out"
            if option == "EnableWado":
                message = "must stay False: WADO-URI at /wado is not DICOMweb, and the proxy lets no reader at it"
                remedy += ", and let clients retrieve by WADO-RS"
            found.append(problem(f"orthanc_config_settings.{name}", message, remedy))
    return found


def _settings(settings: dict[str, Any]) -> list[Problem]:
    found: list[Problem] = []
    for name in ("name", "version", "worklist_plugin"):
        if not isinstance(settings[name], str):
            found.append(problem(f"orthanc_{name}", "is not a text", "write it in quotes"))
    if not isinstance(settings["plugins"], list) or any(not isinstance(path, str) for path in settings["plugins"]):
        found.append(problem("orthanc_plugins", "is not a list of paths", "write a list of paths"))
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
        message = f"{settings['hostname']!r} is an address, and no client would accept the certificate"
        found.append(problem("orthanc_hostname", message, "use a name that the clinic's DNS knows"))
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
                "is the DICOM port as well",
                "give each service a port of its own",
            )
        )
    if settings["dicom_tls"] and str(settings["dicom_tls_port"]) in map(
        str, (settings["dicom_port"], settings["http_port"])
    ):
        message = "is a port of Orthanc's own"
        found.append(problem("orthanc_dicom_tls_port", message, "give each service a port of its own"))
    for name in ("storage_dir", "tmp_dir", "worklist_dir"):
        found += _path(f"orthanc_{name}", settings[name])
    found += _apart({name: str(settings[name]).rstrip("/") for name in ("storage_dir", "tmp_dir", "worklist_dir")})
    found += _users(settings["users"])
    local = _modalities("orthanc_local_modalities", settings["local_modalities"], [])
    found += [
        *local,
        *_modalities("orthanc_modalities", settings["modalities"], [] if local else settings["local_modalities"]),
    ]
    return [*found, *_dicom_tls(settings), *_commitment(settings)]


def _commitment(settings: dict[str, Any]) -> list[Problem]:
    """Orthanc commits itself to images without looking at their files, unless its Python plugin does that."""
    version, devices = str(settings["version"]), settings["modalities"]
    if not version or not isinstance(devices, list) or rules.release(version) >= rules.release(COMMITMENT_SINCE):
        return []
    remedy = "take it out, or deploy on Debian 13 or with orthanc_install_method: docker"
    message = f"holds 'storage_commitment', and Orthanc {version} cannot verify that an image's file is whole"
    return [
        problem(f"orthanc_modalities[{number}].may", message, remedy)
        for number, device in enumerate(devices)
        if isinstance(device, dict) and isinstance(device.get("may"), list) and "storage_commitment" in device["may"]
    ]


def _dicom_tls(settings: dict[str, Any]) -> list[Problem]:
    names, devices = settings["dicom_tls"], settings["modalities"]
    if not isinstance(names, list) or not isinstance(devices, list):
        return [problem("orthanc_dicom_tls", "is not a list", "list names of orthanc_modalities")]
    known = {str(item.get("name")): item for item in devices if isinstance(item, dict)}
    found = []
    seen: dict[str, str] = {}
    for name in map(str, names):
        if name not in known:
            message = f"names {name!r}, which is no device of orthanc_modalities"
            found.append(problem("orthanc_dicom_tls", message, rules.nearest(name, list(known))))
        elif isinstance(known[name].get("may"), list) and "move" in known[name]["may"]:
            message = f"names {name}, and Orthanc cannot open a connection over TLS to it"
            found.append(problem("orthanc_dicom_tls", message, "let it get its images: may: [get] instead of move"))
        if name in known and isinstance(known[name].get("may"), list) and "storage_commitment" in known[name]["may"]:
            message = f"names {name}, and Orthanc cannot open a connection over TLS to tell it what is committed"
            remedy = "take storage_commitment from its may, or the device from orthanc_dicom_tls"
            found.append(problem("orthanc_dicom_tls", message, remedy))
        if seen.setdefault(tls_address(name), name) != name:
            message = f"names {name} and {seen[tls_address(name)]}, which would get the same address on this machine"
            found.append(problem("orthanc_dicom_tls", message, "give one of them another name"))
    if names and settings["remote_access"] is True:
        message = "needs Orthanc in the network of the machine: in a bridge every device would look the same to it"
        found.append(problem("orthanc_dicom_tls", message, "set orthanc_install_docker_network: host"))
    return found


def _ae_title(path: str, value: Any) -> list[Problem]:
    """DICOM PS3.5, VR AE: at most 16 characters; spaces at either end do not count."""
    if isinstance(value, str) and re.fullmatch(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?", value):
        return []
    return [
        problem(
            path,
            f"{value!r} is not an AE title",
            "use 1 to 16 characters, best A-Z, 0-9 and _, no backslash, no space at either end",
        )
    ]


def _path(path: str, value: Any) -> list[Problem]:
    """Paths stand in a unit of systemd, where spaces and % have a meaning."""
    if not str(value).startswith("/"):
        return [problem(path, f"{value!r} is not absolute", "start the path with /")]
    if not re.fullmatch(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+", str(value)):
        return [problem(path, f"{value!r} is not a plain path", "use letters, digits, dot, hyphen and _ between the /")]
    if SYSTEM_DIRECTORIES.fullmatch(str(value)):
        remedy = "use a directory of Orthanc's own, for example /var/lib/orthanc/db"
        return [problem(path, f"{value!r} belongs to the system, and Orthanc would become its owner", remedy)]
    return []


def _apart(directories: dict[str, str]) -> list[Problem]:
    """Images are written, worklists only read, and what is temporary is thrown away."""
    return [
        problem(f"orthanc_{inner}", f"is in orthanc_{outer}, or the same", "give each a directory of its own")
        for inner, path in directories.items()
        for outer, other in directories.items()
        if inner != outer and ((path == other and inner > outer) or path.startswith(f"{other}/"))
    ]


def _port(path: str, value: Any) -> list[Problem]:
    if not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,5}", str(value)) and 1 <= int(value) <= 65535:
        return []
    return [problem(path, f"{value!r} is not a TCP port", "use a whole number from 1 to 65535")]


def _keys(path: str, item: dict[str, Any], wanted: tuple[str, ...]) -> list[Problem]:
    """What is missing in a user or a device, and what is too much."""
    missing = [problem(f"{path}.{key}", "is missing", f"write {key}") for key in wanted if key not in item]
    extra = [
        problem(f"{path}.{key}", "is no setting here", rules.nearest(str(key), list(wanted)))
        for key in item
        if key not in wanted
    ]
    return [*missing, *extra]


def _users(users: Any) -> list[Problem]:
    if not isinstance(users, list):
        return [problem("orthanc_users", "is not a list", "list name, password and role of each user")]
    if not users:
        message = "names nobody, and a default password does not exist"
        remedy = "list at least one user with name, password (from a vault) and role"
        return [problem("orthanc_users", message, remedy)]
    found = []
    seen: set[str] = set()
    for number, user in enumerate(users):
        path = f"orthanc_users[{number}]"
        if not isinstance(user, dict):
            found.append(problem(path, "is not a user", "write name, password and role"))
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
        message = "names no admin, and neither a deploy nor the acceptance test could ask Orthanc how it is"
        found.append(problem("orthanc_users", message, "give one user the role admin"))
    return found


def _user_name(path: str, name: Any, seen: set[str]) -> list[Problem]:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        # it is not shown: a password may stand in its place
        return [problem(path, "is not a user name", "use letters, digits, dot, hyphen and _")]
    if name.lower() in RESERVED_NAMES:
        message = f"{name!r} is a word of nginx's or of this collection's own"
        return [problem(path, message, "choose another name")]
    if name.lower() in seen:
        # nginx does not tell it from IT
        return [problem(path, f"{name!r} stands twice", "give each user a name of its own")]
    seen.add(name.lower())
    return []


def _modalities(variable: str, modalities: Any, local: list[dict[str, Any]]) -> list[Problem]:
    wanted = ("name", "aet", "host", "port", "may")
    if not isinstance(modalities, list):
        return [problem(variable, "is not a list", f"list {', '.join(wanted)} of each device")]
    found = []
    seen = {key: {str(device[key]).upper(): "this machine" for device in local} for key in ("name", "aet", "host")}
    for number, device in enumerate(modalities):
        path = f"{variable}[{number}]"
        if not isinstance(device, dict):
            found.append(problem(path, "is not a device", f"write {', '.join(wanted)}"))
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
                message = f"{device[key]!r} is used by {known[value]} too: either can play the other"
                remedy = "right for a workstation with two AE titles; else correct it"
                found.append(problem(f"{path}.{key}", message, remedy, "one_address_twice", "warning"))
            else:
                message = f"{device[key]!r} is used by {known[value]} already"
                remedy = "give each device a name, an AE title and an address of its own"
                found.append(problem(f"{path}.{key}", message, remedy))
    return found


def _device(path: str, key: str, value: Any) -> list[Problem]:
    """What is wrong with one setting of a device."""
    if key == "aet":
        return _ae_title(path, value)
    if key == "port":
        return _port(path, value)
    if key == "name" and not re.fullmatch(r"[A-Za-z0-9_-]+", str(value)):
        return [problem(path, f"{value!r} is not a name that Orthanc takes", "use letters, digits, hyphen and _")]
    if key == "host":
        try:
            ipaddress.ip_address(str(value))
        except ValueError:
            remedy = "write the device's fixed address: Orthanc compares addresses, and a name never matches"
            return [problem(path, f"{value!r} is not an IP address", remedy)]
        if ipaddress.ip_address(str(value)) in TLS_ADDRESSES:
            message = f"{value!r} stands for the certificate of a device that comes over TLS"
            return [problem(path, message, "write the device's own address")]
    if key == "may":
        rights = value if isinstance(value, list) else []
        wrong = [right for right in rights if right not in list(RIGHTS)]
        if wrong or not rights:
            message = f"holds {', '.join(map(repr, wrong))}" if wrong else f"{value!r} is not a list of rights"
            return [problem(path, message, f"choose from {', '.join(RIGHTS)}")]
    return []
