"""What differs between two orthanc.json, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.clinicops.orthanc.plugins.module_utils.differences import list_differences


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"A": 1}, {"A": 1}, []),
        ({"Name": "one"}, {"Name": "s3cret"}, ["Name changed"]),
        ({"Old": 1}, {"New": 1}, ["New added", "Old removed"]),
        (
            {"DicomModalities": {"us1": [1], "us2": [2], "us3": [3]}},
            {"DicomModalities": {"us1": [1], "us2": [9], "us4": [4], "us5": [5]}},
            ["DicomModalities: 2 added, 1 removed, 1 changed"],
        ),
        ({"A": [1]}, {"A": {"b": 1}}, ["A changed"]),
    ],
)
def test_each_option_that_differs_is_named_without_its_value(before: Any, after: Any, said: list[str]) -> None:
    assert list_differences(json.dumps(before), json.dumps(after)) == said


def test_what_somebody_wrote_by_hand_is_not_read() -> None:
    assert list_differences("// not plain JSON", "{}") == []
    assert list_differences("[]", "{}") == []
