# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program's memory between two runs: state files, which the monitor reads too, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .settings import Busy, Settings, now, written

LEDGER_SECONDS = 20 * 60  # it ends sooner, though its repository does not answer


def state(settings: Settings, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((settings.directory / f"{name}.json").read_text())
        return content
    except (OSError, ValueError):
        return {}


def note(settings: Settings, name: str, content: dict[str, Any], mode: int = 0o644) -> None:
    """A state file; the monitor reads those of backup, restore check and ledger."""
    written(settings.directory / f"{name}.json", json.dumps(content, indent=2) + "\n", mode)


@contextlib.contextmanager
def noted(settings: Settings, name: str, **more: Any) -> Iterator[dict[str, Any]]:
    """How it went, in a state file; what the last success was stays true when this attempt fails."""
    begin = time.monotonic()
    kept = {key: value for key, value in state(settings, name).items() if key.startswith("last_")}
    result: dict[str, Any] = {"result": "running", "reason": "", "started": now(), **more}
    note(settings, name, {**kept, **result})
    try:
        yield result
        result.update(result="success", last_success=now(), last_success_epoch=int(time.time()))
    except BaseException as error:
        result.update(result="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        result["seconds"] = round(time.monotonic() - begin, 2)
        note(settings, name, {**kept, **result})


@contextlib.contextmanager
def alone(settings: Settings, name: str) -> Iterator[None]:
    """Nobody else does this at the same time. The ledger takes a moment, and comes every quarter of an hour."""
    end = time.monotonic() + (LEDGER_SECONDS if name == "ledger" else 0)
    with (settings.directory / f"{name}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    what = f"Another orthanc-backup ({name}) is at work"
                    raise Busy(f"{what}. Remedy: wait until it has ended.") from None
                time.sleep(0.1)
        yield


def given_up(settings: Settings, but: Path | None = None) -> None:
    """The copies of restores that nobody ended go."""
    for left in {*settings.storage.glob(".restore-*")} - {but}:
        shutil.rmtree(left)
