# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks `orthanc_adopt`: the Orthanc that somebody set up, which the first deploy takes over. Without Ansible."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

NAME = "orthanc_adopt"
WRITE = "run playbooks/adopt.yml, which writes this setting, or see docs/adopt.md"


def problems(adopt: Any, target: str) -> list[Problem]:
    """The problems of the setting; `target` is orthanc_storage_dir. None where nothing is adopted."""
    if not adopt or not isinstance(adopt, dict):
        return []  # the check of its spec reports what is not a dictionary
    method, container = adopt.get("method"), adopt.get("container")
    found = []
    if method not in ("package", "container"):
        found.append(problem(f"{NAME}.method", f"must be package or container, not {method}", WRITE))
    if method == "container" and not container:
        remedy = "set it to the container's name, which docker ps shows"
        found.append(problem(f"{NAME}.container", "is missing, but method is container", remedy))
    if method == "package" and container:
        found.append(problem(f"{NAME}.container", "is set, but method is package", "remove it, or correct the method"))
    found += _check_directories(adopt, target)
    sites = adopt.get("sites") or []
    for number, site in enumerate(sites if isinstance(sites, list) else []):
        path = PurePosixPath(str(site))
        if len(path.parts) < 5 or not path.is_relative_to("/etc/nginx") or ".." in path.parts:
            remedy = "name a site of nginx's, such as /etc/nginx/sites-enabled/orthanc"
            found.append(
                problem(f"{NAME}.sites[{number}]", f"{site} is not a file in a directory of /etc/nginx", remedy)
            )
    return found


def _check_directories(adopt: dict[str, Any], target: str) -> list[Problem]:
    if not adopt.get("storage_dir"):
        return [problem(f"{NAME}.storage_dir", "is missing", f"set it to the directory that holds the images: {WRITE}")]
    found = []
    for name in ("storage_dir", "index_dir"):
        path = PurePosixPath(str(adopt.get(name) or "/"))
        if adopt.get(name) and not path.is_absolute():
            found.append(problem(f"{NAME}.{name}", f"must be an absolute path, not {path}", "correct it"))
    storage, wanted = PurePosixPath(str(adopt["storage_dir"])), PurePosixPath(str(target))
    if storage == wanted:
        if "docker/volumes" in str(storage):
            message = f"{storage} is a volume of Docker's, which docker volume prune deletes"
            found.append(problem("orthanc_storage_dir", message, "set another directory; the images move there"))
    elif storage.is_relative_to(wanted) or wanted.is_relative_to(storage):
        message = f"{wanted} and {NAME}.storage_dir {storage} are inside each other"
        found.append(problem("orthanc_storage_dir", message, f"set it to {storage}, or to another directory"))
    return found
