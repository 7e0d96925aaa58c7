# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether nginx runs with the files that it would read now: a deploy that was interrupted may have written a list of
revoked certificates, or a site, and not reloaded nginx."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

NGINX = Path("/etc/nginx")
SITES = ("conf.d/orthanc.conf", "modules-enabled/90-orthanc-dicom.conf")
LOADED = re.compile(r"^\s*ssl_(?:certificate|certificate_key|client_certificate|crl)\s+(/[^;\s]+);", re.MULTILINE)
TICKS = os.sysconf("SC_CLK_TCK")
STARTED = 19  # of the fields of /proc/<pid>/stat after the name (proc_pid_stat(5), starttime)
SLACK_SECONDS = 60  # by which a time service may have put the clock back since, on a new machine


def list_files(directory: Path = NGINX) -> Iterator[Path]:
    """The sites of a deploy, and the certificates, keys and lists that they name."""
    for site in (directory / name for name in SITES):
        with contextlib.suppress(OSError):
            text = site.read_text(encoding="utf-8", errors="replace")
            yield site
            yield from map(Path, LOADED.findall(text))


def read_started(process: int) -> float:
    """When a process began, in seconds since 1970 by the clock as it is now."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[STARTED]) / TICKS


def read_reloaded(pid_file: Path = Path("/run/nginx.pid")) -> float:
    """When nginx read its files last, by its youngest worker; OSError or ValueError where it does not run."""
    master = int(pid_file.read_text(encoding="utf-8"))
    workers = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="utf-8").split()
    return max(read_started(int(worker)) for worker in workers)


def find_unread(reloaded: float, directory: Path = NGINX) -> list[str]:
    """The files that have changed since nginx read them. What a clock that was ahead has written does not count."""
    found = []
    for path in list_files(directory):
        with contextlib.suppress(OSError):
            changed = path.stat().st_mtime
            if reloaded + SLACK_SECONDS < changed <= time.time():
                found.append(str(path))
    return sorted({*found})
