# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restored data take production's place by renames, and give it back when Orthanc does not come up on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..core.escaping import escape
from ..core.journal import say
from . import placing
from .freeze import copied, main_process, orthanc_version, service, watchdog
from .ledger import Study, by_device, device, ledger_placed, studies_of
from .manifest import Attachment
from .restored_orthanc import Rest
from .settings import (
    ARCHIVE,
    BRAKE,
    CONFIGURED,
    MARKER,
    OURS,
    Refused,
    Settings,
    below,
    find_program,
    hashed,
    loud,
    now,
    run,
    written,
)
from .state import note, state


def placed(settings: Settings, under_way: dict[str, Any]) -> dict[str, Any]:
    """The restored files in the place of the present ones: renames, each of which may be done already.

    What is to be done stands in restore.json, so that it goes on from there after an interruption at any point. When
    Orthanc does not come up on what is restored, the former data take their place again.
    """
    aside = settings.storage / f".set-aside-{under_way['stamp']}"
    # killed half-way the rest is done at once, not when somebody comes; a reboot has orthanc-restore.service
    script = 'flock "$0/run.lock" true; [ ! -e "$0/restore.json" ] || ORTHANC_BACKUP_AGAIN=1 exec "$@"'
    again = ["sh", "-c", script, str(settings.directory), sys.executable, find_program(), *CONFIGURED]
    first = "ORTHANC_BACKUP_AGAIN" not in os.environ  # what fails again needs a person
    with watchdog(86400, *again, "restore", awaited=False) if first else contextlib.nullcontext():
        if under_way["phase"] not in ("back", "return"):
            try:
                result = put_in_place(settings, under_way, aside)
            except Exception as error:
                under_way.update(why=str(error), failed_in=under_way["phase"])
                reach(settings, under_way, "back")
        if under_way["phase"] in ("back", "return"):
            raise Refused(put_back(settings, under_way, aside))
        (settings.directory / "restore.json").unlink(missing_ok=True)
    result["recovery_seconds"] = round(time.time() - under_way["begin"], 1)
    note(settings, f"restored-{under_way['stamp']}", result, 0o600)
    for one in result["resend"]:
        name = f"{escape(one['study'])} ({escape(one['accession'])})"
        say(f"to be sent again from {device(escape(one['aet']))}: study {name}", 4)
    for door in result["valid_again"]:
        loud(f"The restore made valid again: {door}. Remedy: see that it may be, and deploy to have the inventory's.")
    return result


def reach(settings: Settings, under_way: dict[str, Any], phase: str) -> None:
    under_way["phase"] = phase
    note(settings, "restore", under_way, 0o600)


def put_in_place(settings: Settings, under_way: dict[str, Any], aside: Path) -> dict[str, Any]:
    """Aside with what is there, in with what is restored, start; what is said at the end."""
    storage, work, manifest = settings.storage, Path(under_way["work"]), under_way["manifest"]
    data, record = below(work, manifest["storage"]), f"restored-{under_way['stamp']}"
    if under_way["phase"] == "aside":
        run(*service(settings, "stop"))  # one that crashes again and again has no process at times
        if not aside.exists():  # with what came until the stop
            under_way["aside"] = sorted(one.name for one in storage.iterdir() if not one.name.startswith(OURS))
            under_way["ledger_state"] = state(settings, "ledger")
            reach(settings, under_way, "aside")
        aside.mkdir(mode=0o700, exist_ok=True)
        # without its marker Orthanc does not start, whatever a reboot comes between
        for name in sorted(under_way["aside"], key=lambda name: name != MARKER):
            if (storage / name).exists() and not (aside / name).exists():
                (storage / name).rename(aside / name)
        reach(settings, under_way, "in")
    if under_way["phase"] == "in":
        for path in sorted(data.iterdir(), key=lambda path: path.name == "index"):
            if path.name != MARKER and not path.name.startswith(OURS):
                if (storage / path.name).exists():  # a person put it there since
                    (storage / path.name).rename(aside / f"{path.name}.{now()}")
                path.rename(storage / path.name)
        written(storage / ARCHIVE, manifest["archive"] + "\n", 0o640, settings.owner)
        if "history" in under_way:  # the next run is judged against what was restored
            note(settings, "history", under_way["history"])
        ledger_placed(settings, work, aside, manifest)
        paths_placed(settings, work, aside, under_way)
        # the trial opened this index already, with the Orthanc that is installed
        written(storage / ".orthanc-version", orthanc_version(settings) + "\n", 0o640, settings.owner)
        reach(settings, under_way, "start")
    if work.exists():  # what nobody needs: its copies of the configuration, and images newer than the index
        work.rename(aside / "restored")
    if (aside / MARKER).exists():
        (aside / MARKER).rename(storage / MARKER)
    told = ("snapshot", "moment", "counts", "problems", "verified", "put_in_place", "kept", "valid_again")
    result = {name: under_way.get(name, []) for name in told}
    lost = [Study(*one) for one in under_way.get("lost", [])]
    result.update(set_aside=str(aside), resend=by_device(lost + came_after(settings, under_way, aside / "index")))
    note(settings, record, result, 0o600)
    run(*service(settings, "start"))
    confirm(settings, under_way, result)
    return result


def confirm(settings: Settings, under_way: dict[str, Any], result: dict[str, Any]) -> None:
    """Refuses what does not work on the restored data."""
    rest = Rest(settings)
    rest.awaited(lambda: comes_up(settings))
    rest.counted(under_way["counts"], more=True)
    if under_way["sample"]:
        rest.shown(Attachment(*under_way["sample"]), dicomweb=False)
    if (settings.storage / BRAKE).exists():
        what = "It was not tried whether Orthanc takes images: the disk is almost full (the monitor's brake)"
        result["problems"] = [*result["problems"], f"{what}. Remedy: make space; see orthanc-monitor show."]
    else:
        rest.takes(settings.storage)


def comes_up(settings: Settings) -> bool:
    """Not when Orthanc ended, or was started again and again."""
    if settings.method == "docker":
        said = run("docker", "inspect", "--format", "{{.State.Status}} {{.RestartCount}}", settings.name)
    else:
        said = run("systemctl", "show", "--property", "ActiveState,NRestarts", "--value", settings.name)
    words = said.split()
    starts = sum(int(word) for word in words if word.isdigit())
    return not {*words} & {"failed", "inactive", "exited", "dead"} and starts < 3


def put_back(settings: Settings, under_way: dict[str, Any], aside: Path) -> str:
    """The way back, by renames each of which may be done already: what was there takes its place again, and what was
    restored lies beside it, with all that came meanwhile. What to say of it."""
    storage, failed = settings.storage, aside.with_name(f"{aside.name}.not-restored")
    if under_way["phase"] == "back":  # later it does not run, or has just been started and would not hear of a stop
        run(*service(settings, "stop"))
        if main_process(settings):
            raise Refused("Orthanc does not stop. Remedy: stop it, and run orthanc-backup restore again: it goes on.")
        if under_way["failed_in"] != "aside":
            failed.mkdir(mode=0o700, exist_ok=True)
            if (storage / MARKER).exists():
                (storage / MARKER).rename(aside / MARKER)
            for path in sorted(storage.iterdir()):
                if not path.name.startswith(OURS):
                    path.rename(failed / path.name)
            paths_back(under_way, aside, failed)
            if under_way.get("history_before"):
                note(settings, "history", under_way["history_before"])
            else:
                (settings.directory / "history.json").unlink(missing_ok=True)
            if (aside / "ledger").exists():
                shutil.rmtree(settings.ledger, ignore_errors=True)
                shutil.copytree(aside / "ledger", settings.ledger)
                note(settings, "ledger", under_way.get("ledger_state", {}))
        reach(settings, under_way, "return")
    for name in sorted(under_way.get("aside", []), key=lambda name: name == MARKER):
        if (aside / name).exists():
            if (storage / name).exists():  # a person put it there since
                failed.mkdir(mode=0o700, exist_ok=True)
                (storage / name).rename(failed / f"{name}.{now()}")
            (aside / name).rename(storage / name)
    if aside.exists():
        failed.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(aside.iterdir()):
            path.rename(failed / f"aside-{path.name}")
        aside.rmdir()
    run(*service(settings, "start"))
    came = by_device(meanwhile(settings, under_way, failed / "index"))
    if came:
        note(settings, f"not-restored-{under_way['stamp']}", {"resend": came}, 0o600)
        for one in came:
            say(f"to be sent again from {device(escape(one['aet']))}: study {escape(one['study'])}", 4)
    (settings.directory / "restore.json").unlink(missing_ok=True)
    said = f"Snapshot {under_way['snapshot']} was not restored: {under_way['why']} What was there is in its place again"
    try:
        Rest(settings).awaited()
    except (Refused, OSError, ValueError, KeyError) as error:
        return f"{said}, and Orthanc does not come up on that either: {error}"
    beside = f" What was restored lies in {failed}" if failed.exists() else ""
    if came:
        beside += f"; {len(came)} studies that came meanwhile are in the journal, and must be sent again"
    return f"{said}, and Orthanc answers.{beside}{'.' * bool(beside)}"


def meanwhile(settings: Settings, under_way: dict[str, Any], index: Path) -> list[Study]:
    """What devices sent to the restored data before it was taken away again."""
    if under_way["failed_in"] != "start" or not index.exists():
        return []
    manifest = under_way["manifest"]
    return came_after(settings, {**under_way, "came": []}, index) if manifest else []


def came_after(settings: Settings, under_way: dict[str, Any], index: Path) -> list[Study]:
    """By the ledger, and what the index that was set aside knew, if it can be read."""
    manifest, copy = under_way["manifest"], settings.directory / "aside"
    found = [Study(*one) for one in under_way["came"]]
    identity = index.with_name(ARCHIVE)
    same = identity.exists() and identity.read_text().strip() == manifest["archive"]
    since, moment = (manifest["counts"]["last_change"], manifest["moment"]) if same else (-1, "")
    try:
        for end in ("", "-wal"):
            if Path(f"{index}{end}").exists():
                copied(Path(f"{index}{end}"), Path(f"{copy}{end}"))
        with contextlib.closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA journal_mode=DELETE")
        found += studies_of(copy, since, moment)
    except (OSError, sqlite3.Error):
        say("The index that was set aside cannot be read; the list of what to send again is the ledger's.", 4)
    finally:
        for end in ("", "-wal", "-journal"):
            Path(f"{copy}{end}").unlink(missing_ok=True)
    return found


def paths_placed(settings: Settings, work: Path, aside: Path, under_way: dict[str, Any]) -> None:
    """Worklist items and what this machine lacks (see `planned`); what is replaced is kept with the data set aside."""
    manifest, changed = under_way["manifest"], False
    for one in (placing.Placing(*each) for each in under_way.get("placings", [])):
        target, source = Path(one.target), below(work, f"{manifest['staging']}/paths{one.path}")
        if target.is_file() and hashed(target) == one.digest:
            continue
        if not source.exists() or hashed(source) != one.digest:
            say(f"{one.path} is not the manifest's, and was not restored.", 3)
            continue
        copy = below(aside / "paths", one.target)
        if target.exists() and not copy.exists():
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            duplicate(target, copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, waiting)
        with contextlib.suppress(LookupError, PermissionError):  # by name: another machine has other numbers
            shutil.chown(waiting, one.owner or -1, one.group or -1)
        waiting.chmod(one.mode)
        waiting.rename(target)
        changed = True
    if changed:
        reload_services()


def paths_back(under_way: dict[str, Any], aside: Path, failed: Path) -> None:
    """As they were before `paths_placed`."""
    changed = False
    for one in (placing.Placing(*each) for each in under_way.get("placings", [])):
        target, copy = Path(one.target), below(aside / "paths", one.target)
        if not target.is_file() or hashed(target) != one.digest:
            continue
        if copy.exists():
            waiting = target.with_name(f".{target.name}.part")
            duplicate(copy, waiting)
            waiting.rename(target)
        else:
            kept = below(failed / "paths", one.target)
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            duplicate(target, kept)
            target.unlink()
        changed = True
    if changed:
        reload_services()


def duplicate(source: Path, target: Path) -> None:
    """A copy with mode, owner and times."""
    shutil.copy2(source, target)
    there = source.stat()
    os.chown(target, there.st_uid, there.st_gid)


def reload_services() -> None:
    run("systemctl", "daemon-reload")
    subprocess.run(
        ["systemctl", "try-reload-or-restart", "nginx.service"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
