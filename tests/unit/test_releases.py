"""Which options the plan of an upgrade says that change."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import releases, rules


def test_options_that_came_are_named_with_their_defaults() -> None:
    [said] = releases.list_changes({"DicomWeb": {"Enable": True}}, "1.12.7", "1.13.0")
    assert said.startswith("Options that came since 1.12.7, with their defaults: ")
    named = said.partition(": ")[2].rstrip(".").split(", ")
    assert {"StorageMemoryCapacity 512", "ZipUseUtf8 false", "HttpBindAddresses"} <= set(named)
    # of the DICOMweb plugins that come with these releases, 1.20 and 1.24
    assert 'DicomWeb.OtherBinaryMode "BulkDataURI"' in named
    names = {name.split(" ")[0] for name in named}
    # older ones, and another name of an old one
    assert not {"RejectedSopClasses", "DicomWeb.EnableMetadataCache", "LoaderThreads"} & names


def test_an_option_that_is_set_is_named_without_its_value() -> None:
    configuration = {"HttpBindAddresses": ["198.51.100.7"], "DicomWeb": {"OtherBinaryMode": "secret"}}
    [said] = releases.list_changes(configuration, "1.12.7", "1.13.0")
    assert "HttpBindAddresses (set)" in said
    assert "DicomWeb.OtherBinaryMode (set)" in said
    assert "198.51.100.7" not in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        ({"ZipLoaderThreads": 2}, "orthanc_config_settings.ZipLoaderThreads has another name in 1.13.0. Remedy: write"),
        ({"OverwriteInstances": True}, "orthanc_config_settings.OverwriteInstances takes other values in 1.13.0"),
    ],
)
def test_what_the_clinic_sets_and_the_release_reads_otherwise_is_named(configuration: Any, said: str) -> None:
    assert any(one.startswith(said) for one in releases.list_changes(configuration, "1.12.7", "1.13.0"))
    # not where it was so before
    assert len(releases.list_changes(configuration, "1.13.0", "1.13.1")) == 1


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("", "1.13.0", "It is not known which release runs"),
        ("1.13.0", "1.13.0", "Orthanc 1.13.0 as before"),
        ("1.13.0", "1.13.1", "No option of Orthanc's came between 1.13.0 and 1.13.1."),
    ],
)
def test_where_nothing_changes_it_says_so(before: str, after: str, said: str) -> None:
    assert releases.list_changes({}, before, after)[0].startswith(said)


def test_every_option_that_came_is_one_that_the_check_of_the_older_release_refuses() -> None:
    """The plan and the check of the settings read the same data in the same way."""
    for before, after in (("1.10.1", "1.12.7"), ("1.12.7", "1.13.0")):
        for option in releases.list_options(before, after):
            if option.is_new and "." not in option.name:
                problems = rules.problems({option.name: None}, before)
                assert "newer_option" in {one["rule"] for one in problems if one["path"] == option.name}, option.name
