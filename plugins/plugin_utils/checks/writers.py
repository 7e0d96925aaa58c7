# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the settings for the accounts that submit worklist items, and how sshd applies them."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import re
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

VARIABLE = "orthanc_worklist_writers"
NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
KEY = re.compile(
    r'(from="[^"\s]+" )?(?P<kind>ssh-ed25519|ssh-rsa|ecdsa-sha2-\S+|sk-\S+@openssh\.com) (?P<body>\S+)( .*)?'
)
CHROOT = "/srv/worklists"


def names(writers: Any) -> list[str]:
    """The valid account names in the setting; empty if it is not a list."""
    found = [writer.get("name") for writer in writers if isinstance(writer, dict)] if isinstance(writers, list) else []
    return [name for name in found if isinstance(name, str) and NAME.fullmatch(name)]


def problems(settings: dict[str, Any], passwd: list[str] | None, mark: str) -> list[Problem]:
    """The problems of the settings. `passwd` has lines as in /etc/passwd, or is None if the accounts were not read;
    `mark` is the comment of the accounts that the role created."""
    comments = None
    if passwd is not None:
        comments = {fields[0]: fields[4] for fields in (line.split(":") for line in passwd) if len(fields) > 4}
    found = _writers(settings["writers"], comments, mark)
    for name, least, most in (("keep_days", 0, 3650), ("max_items", 1, 100_000)):
        if not re.fullmatch(r"[0-9]{1,6}", str(settings[name])) or not least <= int(settings[name]) <= most:
            message = f"must be a whole number from {least} to {most}, not {settings[name]!r}"
            found.append(problem(f"orthanc_worklist_{name}", message, "write one"))
    if f"{settings['dir']}/".startswith(f"{CHROOT}/"):
        message = f"is in {CHROOT}, where applications submit items"
        found.append(problem("orthanc_worklist_dir", message, "use a directory that only Orthanc uses"))
    return found


def _writers(writers: Any, comments: dict[str, str] | None, mark: str) -> list[Problem]:
    if not isinstance(writers, list):
        return [problem(VARIABLE, "must be a list", "list the name of each writer, and keys for SFTP")]
    found = []
    seen: set[str] = set()
    for number, writer in enumerate(writers):
        path = f"{VARIABLE}[{number}]"
        if not isinstance(writer, dict):
            found.append(problem(path, "must be a dictionary", "write name, and keys for SFTP"))
            continue
        found += [problem(f"{path}.{key}", "is not a setting", "remove it") for key in {*writer} - {"name", "keys"}]
        name = writer.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            remedy = "use a-z, 0-9, _ and hyphen, a letter first, at most 32 characters"
            found.append(problem(f"{path}.name", f"{name!r} is not a valid Linux user name", remedy))
            continue
        if name in seen:
            found.append(problem(f"{path}.name", f"{name!r} is listed twice", "put its keys into one list"))
        seen.add(name)
        if "keys" in writer:
            found += _keys(f"{path}.keys", writer["keys"])
            if comments and comments.get(name, mark) != mark:
                message = f"{name!r} is an account of this machine, which would be limited to SFTP"
                found.append(problem(f"{path}.name", message, "choose a free name, or remove its keys"))
        elif comments is None:
            continue
        elif name not in comments:
            message = f"{name!r} is not a user of this machine"
            found.append(problem(f"{path}.name", message, "create the account first, or set keys for SFTP"))
        elif comments[name] == mark:
            message = f"{name!r} is an SFTP account without keys here"
            found.append(problem(f"{path}.keys", message, "set its keys, or remove the writer"))
    return found


def _keys(path: str, keys: Any) -> list[Problem]:
    if not isinstance(keys, list) or not keys:
        return [problem(path, "must be a list of keys", "write each on its own line, or remove keys")]
    # the value is not shown: it may be a private key
    return [
        problem(f"{path}[{number}]", "is not an SSH public key", "write the line in the file that ends in .pub")
        for number, key in enumerate(keys)
        if not _is_key(key)
    ]


def _is_key(key: Any) -> bool:
    match = KEY.fullmatch(key.strip()) if isinstance(key, str) else None
    if not match:
        return False
    try:
        body = base64.b64decode(match["body"], validate=True)
    except binascii.Error:
        return False
    kind = match["kind"].encode()
    return body.startswith(len(kind).to_bytes(4, "big") + kind) and len(body) > len(kind) + 32


def sftp_problems(said: list[str], name: str, drop_in: str, shut_in: dict[str, str]) -> list[str]:
    """What in the output of `sshd -T` does not limit an account to SFTP by the options `shut_in`; empty if all does."""
    settings: dict[str, list[str]] = {}
    for key, _unused, value in (line.partition(" ") for line in said):
        settings.setdefault(key.lower(), []).append(value)
    wanted = {option.lower(): value for option, value in shut_in.items()}
    wrong = [
        f"{key} {' '.join(settings.get(key, ['none']))}"
        for key, value in wanted.items()
        if settings.get(key) != [value]
    ]
    found = []
    if wrong:
        found.append(
            f"sshd would not confine {name} to SFTP: its settings are {', '.join(wrong)}. Remedy: begin"
            " /etc/ssh/sshd_config with Include /etc/ssh/sshd_config.d/*.conf, and remove any Match before"
            f" {drop_in} that applies to {name}."
        )
    allowed = [pattern for line in settings.get("allowusers", []) for pattern in line.split()]
    denied = [pattern for line in settings.get("denyusers", []) for pattern in line.split()]
    if (allowed and not any(_matches(name, pattern) for pattern in allowed)) or any(
        _matches(name, pattern) for pattern in denied if "@" not in pattern
    ):
        found.append(
            f"sshd would reject {name} because of AllowUsers or DenyUsers. Remedy: in /etc/ssh/sshd_config or"
            f" /etc/ssh/sshd_config.d, add {name} to AllowUsers, and remove it from DenyUsers."
        )
    groups = [pattern for line in settings.get("allowgroups", []) for pattern in line.split()]
    refused = [pattern for line in settings.get("denygroups", []) for pattern in line.split()]
    if (groups and not any(_matches("orthanc-worklists", pattern) for pattern in groups)) or any(
        _matches("orthanc-worklists", pattern) for pattern in refused
    ):
        found.append(
            f"sshd would reject {name} because of AllowGroups or DenyGroups. Remedy: in /etc/ssh/sshd_config or"
            " /etc/ssh/sshd_config.d, add orthanc-worklists to AllowGroups, and remove it from DenyGroups."
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern.partition("@")[0])
