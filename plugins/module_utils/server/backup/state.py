# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program's memory between two runs: state files, which the monitor reads too, and locks."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.files import read_object, write_atomic
from ..core.locks import hold_lock
from .output import PROGRAM
from .settings import Settings, stamp_now

LEDGER_SECONDS = 20 * 60  # it ends sooner, though its repository does not answer


def read_state(settings: Settings, name: str) -> dict[str, Any]:
    """A state file; empty where there is none that can be read."""
    return read_object(settings.directory / f"{name}.json")


def write_state(settings: Settings, name: str, content: dict[str, Any], mode: int = 0o644) -> None:
    """A state file; the monitor reads those of backup, restore check and ledger."""
    write_atomic(settings.directory / f"{name}.json", json.dumps(content, indent=2) + "\n", mode)


def is_in_use(settings: Settings) -> bool:
    """Whether the last successful backup is known to be in this repository; earlier releases did not note where."""
    former = read_state(settings, "backup")
    return bool(former.get("last_success_epoch")) and former.get("last_repository") == settings.repository


def is_unnoted(settings: Settings) -> bool:
    """Whether the last successful backup is of a release that did not note its repository: it may be another one."""
    former = read_state(settings, "backup")
    return bool(former.get("last_success_epoch")) and "last_repository" not in former


def note_repository(settings: Settings, identity: str, archive: str) -> None:
    """Notes of which archive a repository has proven snapshots ("" of a new one), by the id that restic gave it."""
    write_state(settings, "repositories", {**read_state(settings, "repositories"), identity: archive})


@contextlib.contextmanager
def record_outcome(settings: Settings, name: str, **more: Any) -> Iterator[dict[str, Any]]:
    """How it went, in a state file; what the last success was stays true when this attempt fails."""
    begin = time.monotonic()
    kept = {key: value for key, value in read_state(settings, name).items() if key.startswith("last_")}
    result: dict[str, Any] = {"result": "running", "reason": "", "started": stamp_now(), **more}
    write_state(settings, name, {**kept, **result})
    try:
        yield result
        result.update(result="success", last_success=stamp_now(), last_success_epoch=int(time.time()))
    except BaseException as error:
        result.update(result="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        result["seconds"] = round(time.monotonic() - begin, 2)
        write_state(settings, name, {**kept, **result})


def hold_program_lock(settings: Settings, name: str) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of a subcommand; Busy where another process holds it. For the ledger it waits."""
    seconds = LEDGER_SECONDS if name == "ledger" else 0
    return hold_lock(settings.directory / f"{name}.lock", f"{PROGRAM} ({name})", seconds)


def remove_abandoned_restores(settings: Settings, but: Path | None = None) -> None:
    """Removes the copies of restores that were not completed."""
    for left in {*settings.storage.glob(".restore-*")} - {but}:
        shutil.rmtree(left)
