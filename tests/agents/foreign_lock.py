#!/usr/bin/env python3
"""restic backs up from another machine with the host name of this one, and here another process has its number: what
is left of it after orthanc-backup prunes the repository, as JSON. Its argument is a configuration of orthanc-backup.

The other machine is a PID namespace.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LAST = Path("/proc/sys/kernel/ns_last_pid")
OTHER = ["unshare", "--fork", "--pid", "--mount-proc", "sh", "-c", f'echo "$0" >{LAST}; "$@"; exit']


def awaited(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


def bystander(number: int) -> subprocess.Popen[bytes]:
    """A process of this machine that has this number."""
    while True:
        LAST.write_text(f"{number - 1}")
        process = subprocess.Popen(["sleep", "600"])
        if process.pid == number:
            return process
        process.kill()
        process.wait()


def pruned(config: Path) -> dict[str, object]:
    from server.backup import restic
    from server.backup.settings import Settings
    from server.core.errors import Refused

    settings = Settings.read(config)
    locks = Path(settings.repository, "locks")
    free = next(one for one in range(20000, 30000) if not Path(f"/proc/{one}").exists())
    command = restic.build_restic_command(settings, "backup", "--quiet", "--host=other", "--stdin")
    with subprocess.Popen(
        [*OTHER, str(free - 1), *command],
        env=restic.build_environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as other:
        assert other.stdin
        other.stdin.write(os.urandom(32 << 20))  # some of it is in the repository before it knows of any
        other.stdin.flush()
        awaited(lambda: any(locks.iterdir()))
        (lock,) = locks.iterdir()
        held = json.loads(restic.call_restic(settings, "cat", "lock", lock.name, "--no-lock"))
        assert (held["hostname"], held["pid"]) == (os.uname().nodename, free)
        one = bystander(free)
        restic.LOCK_SECONDS, restic.QUIET_SECONDS = 5, 2
        with contextlib.redirect_stderr(io.StringIO()) as told:
            try:
                said = restic.call_restic(settings, "prune")
            except Refused as refused:
                said = str(refused)
        found = {"said": said, "told": told.getvalue(), "locked": lock.exists(), "bystander": one.poll()}
        one.kill()
        one.wait()
        other.stdin.close()
    return {**found, "other": other.returncode}


sys.path.insert(0, "/usr/local/lib/clinicops-orthanc")
print(json.dumps(pruned(Path(sys.argv[1]))))
