"""The setting orthanc_adopt, before anything changes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.checks import adoption

PACKAGE = {"method": "package", "storage_dir": "/var/lib/orthanc/db-v6"}
CONTAINER = {"method": "container", "container": "happy_fermi", "storage_dir": "/orthanc/db"}


@pytest.mark.parametrize(
    ("adopt", "target"),
    [
        ({}, "/var/lib/orthanc/db"),
        (PACKAGE, "/var/lib/orthanc/db-v6"),
        (PACKAGE, "/var/lib/orthanc/db"),
        ({**PACKAGE, "index_dir": "/srv/index", "sites": ["/etc/nginx/sites-enabled/clinic"]}, "/data/images"),
        (CONTAINER, "/orthanc/db"),
    ],
)
def test_what_can_be_adopted_has_no_problem(adopt: dict[str, Any], target: str) -> None:
    assert adoption.problems(adopt, target) == []


@pytest.mark.parametrize(
    ("adopt", "target", "path", "said"),
    [
        ({**PACKAGE, "method": "docker"}, "/data", "orthanc_adopt.method", "must be package or container"),
        ({**CONTAINER, "container": ""}, "/data", "orthanc_adopt.container", "is missing"),
        ({**PACKAGE, "container": "pacs"}, "/data", "orthanc_adopt.container", "method is package"),
        ({"method": "package"}, "/data", "orthanc_adopt.storage_dir", "is missing"),
        ({**PACKAGE, "storage_dir": "db"}, "/data", "orthanc_adopt.storage_dir", "must be an absolute path"),
        ({**PACKAGE, "index_dir": "db"}, "/data", "orthanc_adopt.index_dir", "must be an absolute path"),
        (
            {**PACKAGE, "sites": ["/etc/nginx/nginx.conf"]},
            "/data",
            "orthanc_adopt.sites[0]",
            "is not a file in a directory",
        ),
        (
            {**PACKAGE, "sites": ["/etc/nginx/../x/y"]},
            "/data",
            "orthanc_adopt.sites[0]",
            "is not a file in a directory",
        ),
        (CONTAINER, "/orthanc/db/new", "orthanc_storage_dir", "are inside each other"),
        (CONTAINER, "/orthanc", "orthanc_storage_dir", "are inside each other"),
        (
            {**CONTAINER, "storage_dir": "/var/lib/docker/volumes/db/_data"},
            "/var/lib/docker/volumes/db/_data",
            "orthanc_storage_dir",
            "docker volume prune",
        ),
    ],
)
def test_what_cannot_be_adopted_is_named(adopt: dict[str, Any], target: str, path: str, said: str) -> None:
    [problem] = adoption.problems(adopt, target)
    assert problem["path"] == path
    assert said in problem["message"]
    assert problem["remedy"]
