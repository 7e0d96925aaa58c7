"""Names of images as Docker splits them; what a registry does with them is in the scenario `docker`."""

from __future__ import annotations

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils import registry


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("orthancteam/orthanc:26.8.1", "orthancteam/orthanc", "26.8.1"),
        ("orthancteam/orthanc", "orthancteam/orthanc", "latest"),
        ("registry.example:5000/orthanc", "registry.example:5000/orthanc", "latest"),
        ("registry.example:5000/orthanc:1", "registry.example:5000/orthanc", "1"),
        ("registry.example:5000/orthanc@sha256:ab", "registry.example:5000/orthanc", "sha256:ab"),
    ],
)
def test_a_name_without_a_tag_means_latest_and_not_all_tags(image: str, name: str, tag: str) -> None:
    assert registry.split_name(image) == (name, tag)
