"""The hostile client itself: what it calls broken, and that a seed makes the same cases again."""

from __future__ import annotations

import pytest
from hostile import Case, Run

SETTINGS = {
    "hostname": "pacs.clinic.example",
    "user": "viewer",
    "password": "a password",
    "study": "/dicom-web/studies/1.2.3",
    "markers": ["SECRET^MARKER"],
    "forbidden": ["ApiVersion"],
    "aet": "US2",
    "called": "ORTHANC",
}


@pytest.mark.parametrize("door", ["https", "dicom"])
def test_a_seed_makes_the_same_cases(door: str) -> None:
    run = Run(door, "127.0.0.1", 0, SETTINGS)
    first, again, other = ([case.steps for case in run.cases(seed, 60)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("got", "reader", "alpn", "broken"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", False, "http/1.1", False),
        (b"HTTP/1.1 400 x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", False, "http/1.1", True),
        (b"\0\0\0\4\0\0\0\0\0\0\0\1\1\5\0\0\0\1\x8c", False, "h2", False),
        (b"\0\0\0\4\0\0\0\0\0\0\0\1\1\5\0\0\0\1\x88", False, "h2", True),
        (b"HTTP/1.1 200 OK\r\n\r\nSECRET^MARKER", True, "http/1.1", False),
        (b"SECRET^MARKER", False, "http/1.1", True),
        (b'HTTP/1.1 200 OK\r\n\r\n{"ApiVersion": 1}', True, "http/1.1", True),
    ],
)
def test_it_knows_what_nobody_may_see(got: bytes, reader: bool, alpn: str, broken: bool) -> None:
    run = Run("https", "127.0.0.1", 0, SETTINGS)
    assert bool(run.broken(Case("path", [], reader, alpn, got=got))) == broken
