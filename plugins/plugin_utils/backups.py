# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where backups go, and when: what is wrong with the settings. No secret is shown."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

KEEP = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
BACK_ENDS = ("local", "sftp", "rest", "s3", "swift", "b2", "azure", "gs", "rclone")
LEAST_PASSWORD = 20
NUMBERS = {
    "limit_upload": (0, 10**9),
    "subset": (1, 1000),
    "pause_seconds": (1, 60),
    "scratch_bytes": (1 << 30, 1 << 60),
}


def problems(settings: dict[str, Any]) -> list[Problem]:
    """The settings by their names without `orthanc_backup_`."""
    found = _repository(str(settings["repository"]), str(settings["storage_dir"]).rstrip("/"))

    def wrong(name: str, message: str, remedy: str) -> None:
        found.append(problem(f"orthanc_backup_{name}", message, remedy))

    password = settings["password"]
    if not isinstance(password, str) or len(password) < LEAST_PASSWORD:
        remedy = "write `openssl rand -base64 24` into the vault, and keep it outside the machine as well"
        wrong("password", f"has fewer than {LEAST_PASSWORD} characters", remedy)
    for name, (least, most) in NUMBERS.items():
        if not _whole(settings[name], least, most):
            wrong(name, f"{settings[name]!r} is no whole number from {least} to {most}", "write one")
    hours = settings["hours"]
    if (
        not isinstance(hours, list)
        or len(hours) != 2
        or not all(_whole(hour, 0, 24) for hour in hours)
        or int(hours[0]) >= int(hours[1])
    ):
        wrong("hours", f"{hours!r} is not from and before", "write two hours from 0 to 24, such as [1, 5]")
    keep = settings["keep"]
    if not isinstance(keep, dict) or not keep:
        wrong("keep", "keeps nothing", "write {daily: 14, weekly: 8, monthly: 12}")
    else:
        for name, number in keep.items():
            if name not in KEEP:
                wrong(f"keep.{name}", "is no period", f"use {', '.join(KEEP)}")
            elif not _whole(number, 1, 10**6):
                wrong(f"keep.{name}", f"{number!r} is no number of snapshots", "write 1 or more")
    environment = settings["environment"]
    if not isinstance(environment, dict):
        wrong("environment", "is not a dictionary", "write name: value of each credential")
    else:
        for name in environment:
            if not re.fullmatch(r"[A-Z][A-Z0-9_]*", str(name)):
                wrong("environment", f"{name!r} is no name of restic's", "see the back end in restic's documentation")
            elif re.match(r"RESTIC_(PASSWORD|REPOSITORY)", name):
                wrong(f"environment.{name}", "is set already", "use orthanc_backup_repository and _password")
    return found


def _whole(value: Any, least: int, most: int) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,19}", str(value))) and least <= int(str(value)) <= most


def _repository(repository: str, storage: str) -> list[Problem]:
    path = "orthanc_backup_repository"
    back_end, colon, place = repository.partition(":")
    if re.search(r"://[^/@]*:[^/@]*@", repository):
        remedy = "write it into orthanc_backup_environment, such as RESTIC_REST_PASSWORD"
        return [problem(path, "has a password in it, which restic shows", remedy)]
    local = place if back_end == "local" else repository
    if back_end != "local" and colon and back_end in BACK_ENDS:
        return []
    if not local.startswith("/"):
        what = f"{repository!r} is neither an absolute path nor a repository of restic's"
        return [problem(path, what, "write /mnt/disk/orthanc, sftp:user@host:/orthanc or rest:https://host/")]
    if f"{local}/".startswith(f"{storage}/") or f"{storage}/".startswith(f"{local.rstrip('/')}/"):
        return [problem(path, f"{repository} is within the images' {storage}, or around it", "use another disk")]
    return []
