"""Whether nginx has read what a deploy wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server.verify import nginx

SITE = """\
server {
    ssl_certificate DIRECTORY/self_signed.crt;
    ssl_certificate_key DIRECTORY/self_signed.key;
    ssl_crl DIRECTORY/ca.crl;
    error_log DIRECTORY/error.log;
}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """That of nginx, with a site and its files, an hour old."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/orthanc.conf").write_text(SITE.replace("DIRECTORY", str(tmp_path)))
    for name in ("self_signed.crt", "self_signed.key", "ca.crl", "error.log"):
        (tmp_path / name).touch()
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)
    return tmp_path


def test_a_file_that_changed_since_nginx_read_it_is_named(directory: Path) -> None:
    reloaded = time.time() - 1800
    assert nginx.find_unread(reloaded, directory) == []
    for name in ("ca.crl", "error.log"):  # a log is none of what it reads
        os.utime(directory / name, (time.time() - 60,) * 2)
    assert nginx.find_unread(reloaded, directory) == [f"{directory}/ca.crl"]
    assert nginx.find_unread(time.time(), directory) == []


def test_what_a_clock_that_was_ahead_has_written_does_not_count(directory: Path) -> None:
    os.utime(directory / "ca.crl", (time.time() + 86400,) * 2)
    assert nginx.find_unread(time.time() - 1800, directory) == []


def test_a_child_began_after_its_parent_and_before_now() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        began = nginx.read_started(process.pid)
        process.communicate(b"\n")
    assert nginx.read_started(os.getpid()) < began <= time.time()
