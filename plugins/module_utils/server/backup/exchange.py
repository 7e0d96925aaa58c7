# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Renames restored data into the place of the present data, and reverses that when Orthanc does not start on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from ..core.errors import Refused
from ..core.escaping import escape
from ..core.files import create_directories, hash_file, write_atomic
from ..core.journal import say
from ..core.process import read_output, run_at_end, run_program
from ..orthanc.api import Api
from ..orthanc.index import write_statistics
from ..orthanc.layout import DISK_GUARD, MARKER, VERSION
from . import placing
from .freeze import command_orthanc, copy_file
from .ledger import Study, group_by_device, name_device, put_ledger, query_studies
from .manifest import Attachment
from .output import say_problem
from .restored_orthanc import require_counts, require_image, require_storing
from .settings import ARCHIVE, OURS, Settings, join_below, stamp_now
from .state import read_state, write_state


def exchange_data(settings: Settings, under_way: dict[str, Any]) -> dict[str, Any]:
    """Puts the restored files in the place of the present ones by renames, each of which may be done already.

    The next step is in restore.json, so that an interrupted restore continues from there. When Orthanc does not start
    on the restored data, the former data are put back.
    """
    aside = settings.storage / f".set-aside-{under_way['stamp']}"
    # after a kill the rest is done at once, not when a person comes; after a reboot orthanc-restore.service does it
    script = 'flock "$0/run.lock" true; [ ! -e "$0/restore.json" ] || ORTHANC_BACKUP_AGAIN=1 exec "$@"'
    again = ["sh", "-c", script, str(settings.directory), sys.executable, *settings.build_command("restore")]
    first = "ORTHANC_BACKUP_AGAIN" not in os.environ  # what fails twice needs a person
    with run_at_end(86400, *again, awaited=False) if first else contextlib.nullcontext():
        if under_way["phase"] not in ("back", "return"):
            try:
                result = put_in_place(settings, under_way, aside)
            except Exception as error:
                under_way.update(why=str(error), failed_in=under_way["phase"])
                enter_phase(settings, under_way, "back")
        if under_way["phase"] in ("back", "return"):
            raise Refused(put_back(settings, under_way, aside))
        (settings.directory / "restore.json").unlink(missing_ok=True)
    result["recovery_seconds"] = round(time.time() - under_way["begin"], 1)
    write_state(settings, f"restored-{under_way['stamp']}", result, 0o600)
    for one in result["resend"]:
        name = f"{escape(one['study'])} ({escape(one['accession'])})"
        say(f"must be sent again from {name_device(escape(one['aet']))}: study {name}", 4)
    for item in result["valid_again"]:
        say_problem(
            f"The restore made valid again: {item}. Remedy: check whether it may be; a deploy applies the inventory."
        )
    return result


def enter_phase(settings: Settings, under_way: dict[str, Any], phase: str) -> None:
    """Records the next step of the restore in restore.json, where an interrupted restore continues."""
    under_way["phase"] = phase
    write_state(settings, "restore", under_way, 0o600)


def put_in_place(settings: Settings, under_way: dict[str, Any], aside: Path) -> dict[str, Any]:
    """Sets the present data aside, puts the restored data in place, starts Orthanc; returns the result."""
    storage, work, manifest = settings.storage, Path(under_way["work"]), under_way["manifest"]
    data, record = join_below(work, manifest["storage"]), f"restored-{under_way['stamp']}"
    if under_way["phase"] == "aside":
        command_orthanc(settings, "stop")  # one that crashes again and again has no process at times
        if not aside.exists():  # with what came until the stop
            under_way["aside"] = sorted(one.name for one in storage.iterdir() if not one.name.startswith(OURS))
            under_way["ledger_state"] = read_state(settings, "ledger")
            enter_phase(settings, under_way, "aside")
        aside.mkdir(mode=0o700, exist_ok=True)
        # without its marker Orthanc does not start, whatever a reboot comes between
        for name in sorted(under_way["aside"], key=lambda name: name != MARKER):
            if (storage / name).exists() and not (aside / name).exists():
                (storage / name).rename(aside / name)
        enter_phase(settings, under_way, "in")
    if under_way["phase"] == "in":
        for path in sorted(data.iterdir(), key=lambda path: path.name == "index"):
            if path.name != MARKER and not path.name.startswith(OURS):
                if (storage / path.name).exists():  # a person put it there since
                    (storage / path.name).rename(aside / f"{path.name}.{stamp_now()}")
                path.rename(storage / path.name)
        write_atomic(storage / ARCHIVE, manifest["archive"] + "\n", 0o640, settings.owner)
        if "history" in under_way:  # the next run is judged against what was restored
            write_state(settings, "history", under_way["history"])
        put_ledger(settings, work, aside, manifest)
        put_paths(work, aside, under_way)
        # the trial opened this index already, with the Orthanc that is installed
        write_atomic(storage / VERSION, settings.runtime.read_version() + "\n", 0o640, settings.owner)
        enter_phase(settings, under_way, "start")
    if work.exists():  # no longer needed: copies of the configuration, and images newer than the index
        work.rename(aside / "restored")
    if (aside / MARKER).exists():
        (aside / MARKER).rename(storage / MARKER)
    told = ("snapshot", "moment", "counts", "problems", "verified", "put_in_place", "kept", "valid_again")
    result = {name: under_way.get(name, []) for name in told}
    lost = [Study(*one) for one in under_way.get("lost", [])]
    result.update(
        set_aside=str(aside), resend=group_by_device(lost + find_arrivals_after(settings, under_way, aside / "index"))
    )
    write_state(settings, record, result, 0o600)
    if settings.index_statistics:  # a snapshot may be older than they are
        with contextlib.suppress(sqlite3.Error):  # the monitor misses them then
            write_statistics(storage / "index")
    command_orthanc(settings, "start")
    confirm_restored(settings, under_way, result)
    return result


def confirm_restored(settings: Settings, under_way: dict[str, Any], result: dict[str, Any]) -> None:
    """Checks that Orthanc works on the restored data; Refused where it does not."""
    api = Api.as_administrator(settings.orthanc)
    api.await_answer(lambda: is_coming_up(settings))
    require_counts(api, under_way["counts"], more=True)
    if under_way["sample"]:
        require_image(api, Attachment(*under_way["sample"]), dicomweb=False)
    if (settings.storage / DISK_GUARD).exists():
        what = (
            "It was not tested whether Orthanc stores images: the disk is almost full (the monitor's disk guard is on)"
        )
        result["problems"] = [*result["problems"], f"{what}. Remedy: make space; see orthanc-monitor show."]
    else:
        require_storing(api, settings.storage)


def is_coming_up(settings: Settings) -> bool:
    """Whether Orthanc is still starting: it has not ended, and does not restart again and again."""
    if settings.method == "docker":
        command = ["docker", "inspect", "--format", "{{.State.Status}} {{.RestartCount}}", settings.name]
    else:
        command = ["systemctl", "show", "--property", "ActiveState,NRestarts", "--value", settings.name]
    said = read_output(*command, seconds=None)  # the machine is busy with a restore
    words = said.split()
    starts = sum(int(word) for word in words if word.isdigit())
    return not {*words} & {"failed", "inactive", "exited", "dead"} and starts < 3


def put_back(settings: Settings, under_way: dict[str, Any], aside: Path) -> str:
    """Puts the former data back by renames, each of which may be done already; the restored data are kept beside them,
    with all that arrived meanwhile. Returns the message about it."""
    storage, failed = settings.storage, aside.with_name(f"{aside.name}.not-restored")
    if under_way["phase"] == "back":  # later it does not run, or has just been started and would not hear of a stop
        command_orthanc(settings, "stop")
        if settings.runtime.read_state().pid:
            raise Refused("Orthanc does not stop. Remedy: stop it, and run orthanc-backup restore again: it continues.")
        if under_way["failed_in"] != "aside":
            failed.mkdir(mode=0o700, exist_ok=True)
            if (storage / MARKER).exists():
                (storage / MARKER).rename(aside / MARKER)
            for path in sorted(storage.iterdir()):
                if not path.name.startswith(OURS):
                    path.rename(failed / path.name)
            put_paths_back(under_way, aside, failed)
            if under_way.get("history_before"):
                write_state(settings, "history", under_way["history_before"])
            else:
                (settings.directory / "history.json").unlink(missing_ok=True)
            if (aside / "ledger").exists():
                shutil.rmtree(settings.ledger, ignore_errors=True)
                shutil.copytree(aside / "ledger", settings.ledger)
                write_state(settings, "ledger", under_way.get("ledger_state", {}))
        enter_phase(settings, under_way, "return")
    for name in sorted(under_way.get("aside", []), key=lambda name: name == MARKER):
        if (aside / name).exists():
            if (storage / name).exists():  # a person put it there since
                failed.mkdir(mode=0o700, exist_ok=True)
                (storage / name).rename(failed / f"{name}.{stamp_now()}")
            (aside / name).rename(storage / name)
    if aside.exists():
        failed.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(aside.iterdir()):
            path.rename(failed / f"aside-{path.name}")
        aside.rmdir()
    command_orthanc(settings, "start")
    came = group_by_device(find_lost_meanwhile(settings, under_way, failed / "index"))
    if came:
        write_state(settings, f"not-restored-{under_way['stamp']}", {"resend": came}, 0o600)
        for one in came:
            say(f"must be sent again from {name_device(escape(one['aet']))}: study {escape(one['study'])}", 4)
    (settings.directory / "restore.json").unlink(missing_ok=True)
    failure = f"Snapshot {under_way['snapshot']} was not restored: {under_way['why']}"
    said = f"{failure} The former archive is in its place again"
    try:
        Api.as_administrator(settings.orthanc).await_answer()
    except (Refused, OSError, ValueError, KeyError) as error:
        return f"{said}, but Orthanc does not start on them either: {error}"
    beside = f" The restored data are in {failed}" if failed.exists() else ""
    if came:
        beside += f"; {len(came)} studies arrived meanwhile and must be sent again, the journal lists them"
    return f"{said}, and Orthanc answers.{beside}{'.' * bool(beside)}"


def find_lost_meanwhile(settings: Settings, under_way: dict[str, Any], index: Path) -> list[Study]:
    """What devices sent to the restored data before they were replaced again."""
    if under_way["failed_in"] != "start" or not index.exists():
        return []
    manifest = under_way["manifest"]
    return find_arrivals_after(settings, {**under_way, "came": []}, index) if manifest else []


def find_arrivals_after(settings: Settings, under_way: dict[str, Any], index: Path) -> list[Study]:
    """By the ledger, and what the index that was set aside knew, if it can be read."""
    manifest, copy = under_way["manifest"], settings.directory / "aside"
    found = [Study(*one) for one in under_way["came"]]
    identity = index.with_name(ARCHIVE)
    same = identity.exists() and identity.read_text().strip() == manifest["archive"]
    since, moment = (manifest["counts"]["last_change"], manifest["moment"]) if same else (-1, "")
    try:
        for end in ("", "-wal"):
            if Path(f"{index}{end}").exists():
                copy_file(Path(f"{index}{end}"), Path(f"{copy}{end}"))
        with contextlib.closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA journal_mode=DELETE")
        found += query_studies(copy, since, moment)
    except (OSError, sqlite3.Error):
        say(
            "The index that was set aside cannot be read; the list of what to send again comes from the ledger alone.",
            4,
        )
    finally:
        for end in ("", "-wal", "-journal"):
            Path(f"{copy}{end}").unlink(missing_ok=True)
    return found


def put_paths(work: Path, aside: Path, under_way: dict[str, Any]) -> None:
    """Puts worklist items and missing files in place; what is replaced is kept with the data set aside."""
    copies = join_below(work, f"{under_way['manifest']['staging']}/paths")
    placings = [placing.Placing(*each) for each in under_way.get("placings", [])]
    changed = [put_path(one, join_below(copies, one.path), aside) for one in placings]
    if any(changed):
        reload_services()


def put_path(one: placing.Placing, source: Path, aside: Path) -> bool:
    """Whether it put this file of the snapshot in place, and did not find it there, or a newer one."""
    target, copy = Path(one.target), join_below(aside / "paths", one.target)
    if target.is_file() and hash_file(target) == one.digest:
        return False
    if not source.exists() or hash_file(source) != one.digest:
        say(f"{one.path} differs from the manifest and was not restored.", 3)
        return False
    if target.exists() and placing.is_item(one.target):
        say(f"{one.target} was submitted while the snapshot was restored, and stays.", 5)
        return False
    if target.exists() and not copy.exists():
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy_with_owner(target, copy)
    create_directories(target.parent, 0o755)  # as an administrator would; the program's umask is narrow
    waiting = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, waiting)
    with contextlib.suppress(LookupError, PermissionError):  # by name: another machine has other numbers
        shutil.chown(waiting, one.owner or -1, one.group or -1)
    waiting.chmod(one.mode)
    waiting.rename(target)
    return True


def put_paths_back(under_way: dict[str, Any], aside: Path, failed: Path) -> None:
    """Reverses `put_paths`."""
    changed = False
    for one in (placing.Placing(*each) for each in under_way.get("placings", [])):
        target, copy = Path(one.target), join_below(aside / "paths", one.target)
        if not target.is_file() or hash_file(target) != one.digest:
            continue
        if copy.exists():
            waiting = target.with_name(f".{target.name}.part")
            copy_with_owner(copy, waiting)
            waiting.rename(target)
        else:
            kept = join_below(failed / "paths", one.target)
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy_with_owner(target, kept)
            target.unlink()
        changed = True
    if changed:
        reload_services()


def copy_with_owner(source: Path, target: Path) -> None:
    """A copy with mode, owner and times."""
    shutil.copy2(source, target)
    there = source.stat()
    os.chown(target, there.st_uid, there.st_gid)


def reload_services() -> None:
    """Has systemd and nginx read the files that were put in place."""
    read_output("systemctl", "daemon-reload", seconds=None)
    run_program("systemctl", "try-reload-or-restart", "nginx.service", seconds=None)  # it may not be installed
