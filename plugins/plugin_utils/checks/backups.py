# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the settings of the backup. No message contains a secret."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils.server.backup import ssh
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import ssh_settings
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

KEEP = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
BACK_ENDS = ("sftp", "rest", "s3", "swift", "b2", "azure", "gs", "rclone")
PAUSES = ("pause", "stop")
LEAST_PASSWORD = 20
NUMBERS = {
    "limit_upload": (0, 10**9),
    "subset": (1, 1000),
    "pause_seconds": (1, 60),
    "scratch_bytes": (1 << 30, 1 << 60),
}


def problems(settings: dict[str, Any]) -> list[Problem]:
    """The problems of the settings, whose names come without `orthanc_backup_`."""
    storage = str(settings["storage_dir"])
    return [
        *_repository(str(settings["repository"] or ""), storage),
        *ssh_settings.problems(str(settings["repository"] or ""), settings["ssh_known_hosts"], settings["ssh_key"]),
        *_password(settings["password"]),
        *_environment(settings["environment"]),
        *_numbers(settings),
        *_hours(settings["hours"]),
        *_keep(settings["keep"]),
        *_pause(settings["pause"]),
        *_apart("scratch_dir", str(settings["scratch_dir"]), storage),
    ]


def _wrong(name: str, message: str, remedy: str) -> Problem:
    return problem(f"orthanc_backup_{name}", message, remedy)


def _repository(repository: str, storage: str) -> list[Problem]:
    back_end, _unused, place = repository.partition(":")
    remote = back_end in BACK_ENDS
    shown = place if remote else repository
    if re.search(r"//[^@]*:[^@]+@", shown) or (back_end != "rclone" and re.search(r"[^/@:]*:[^/@]+@", shown)):
        remedy = "set it in orthanc_backup_environment, for example as RESTIC_REST_PASSWORD; with sftp, use a key"
        return [_wrong("repository", "contains a password, which restic displays", remedy)]
    if back_end == "sftp" and place and not ssh.find_place(repository):
        remedy = "write sftp:user@host:/orthanc, or sftp://user@host:2222//orthanc if sshd uses another port"
        return [_wrong("repository", f"{repository!r} does not name a host and a path", remedy)]
    if remote and place:
        return []
    local = repository.removeprefix("local:")
    remedy = "mount it on the server, and write the path where it is mounted, such as /mnt/nas/orthanc"
    if re.match(r"\\\\|(?i:smb|cifs|nfs|afp)://", local):
        return [_wrong("repository", f"{repository!r} is a network share, not a path", remedy)]
    # to Linux, two slashes are one
    if re.match(r"//(?!(mnt|media|srv|var)/)", local):
        remedy += "; or write one slash if it is a directory of this server"
        return [_wrong("repository", f"{repository!r} begins with //, as a network share does", remedy)]
    if not local.startswith("/"):
        message = f"{repository!r} is neither an absolute path nor a restic repository"
        return [_wrong("repository", message, "write /mnt/disk/orthanc, sftp:user@host:/orthanc or rest:https://host/")]
    return _apart("repository", local, storage)


def _apart(name: str, path: str, storage: str) -> list[Problem]:
    """The problems of a directory that must not overlap the images' directory."""
    if not path.startswith("/"):
        return [_wrong(name, f"{path!r} must be an absolute path", "begin it with /")]
    one, other = (posixpath.normpath(f"/{each.strip('/')}").rstrip("/") + "/" for each in (path, storage))
    if one.startswith(other) or other.startswith(one):
        return [_wrong(name, f"{path!r} is inside the images' directory {storage}, or contains it", "use another one")]
    return []


def _password(password: Any) -> list[Problem]:
    if isinstance(password, str) and len(password.strip()) >= LEAST_PASSWORD:
        return []
    remedy = "write the output of `openssl rand -base64 24` into the vault, and keep a copy outside this machine"
    return [_wrong("password", f"must be text of at least {LEAST_PASSWORD} characters", remedy)]


def _environment(environment: Any) -> list[Problem]:
    if not isinstance(environment, dict):
        return [_wrong("environment", "must be a dictionary", "write name: value for each credential")]
    found = []
    for name, value in environment.items():
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", str(name)):
            # the name is not shown: it may be a misplaced secret
            found.append(_wrong("environment", "contains an invalid name", "use A-Z, 0-9 and _, a letter first"))
        elif re.match(r"RESTIC_(PASSWORD|REPOSITORY)", name):
            remedy = "use orthanc_backup_repository and orthanc_backup_password"
            found.append(_wrong(f"environment.{name}", "is set by the role itself", remedy))
        elif not isinstance(value, str):
            found.append(_wrong(f"environment.{name}", "must be text", "write it in quotes"))
    return found


def _whole(value: Any, least: int, most: int) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,19}", str(value))) and least <= int(str(value)) <= most


def _numbers(settings: dict[str, Any]) -> list[Problem]:
    return [
        _wrong(name, f"must be a whole number from {least} to {most}, not {settings[name]!r}", "write one")
        for name, (least, most) in NUMBERS.items()
        if not _whole(settings[name], least, most)
    ]


def _hours(hours: Any) -> list[Problem]:
    two = isinstance(hours, list) and len(hours) == 2 and all(_whole(hour, 0, 24) for hour in hours)
    if two and int(hours[0]) < int(hours[1]):
        return []
    return [_wrong("hours", f"{hours!r} is not a range of hours", "write two hours from 0 to 24, such as [1, 5]")]


def _keep(keep: Any) -> list[Problem]:
    if not isinstance(keep, dict) or not keep:
        return [_wrong("keep", "keeps no snapshots", "write {daily: 14, weekly: 8, monthly: 12}")]
    unknown = [
        _wrong(f"keep.{name}", "is not a period", f"use one of {', '.join(KEEP)}") for name in keep if name not in KEEP
    ]
    return unknown + [
        _wrong(f"keep.{name}", f"must be a number of snapshots, not {number!r}", "write 1 or more")
        for name, number in keep.items()
        if name in KEEP and not _whole(number, 1, 10**6)
    ]


def _pause(pause: Any) -> list[Problem]:
    return [] if pause in PAUSES else [_wrong("pause", f"must be {' or '.join(PAUSES)}, not {pause!r}", "correct it")]
