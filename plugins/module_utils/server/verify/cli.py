# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command orthanc-verify: the acceptance test and the connectivity doctor, run on the server itself."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core import cli, clock, journal
from ..core import settings as files
from ..core.errors import DONE, WRONG, Misused, Refused
from ..core.files import read_object, write_atomic
from ..core.locks import hold_lock
from ..core.output import write_json, write_line
from ..orthanc import address, api
from . import acceptance, doctor, exposure
from . import report as pages
from .lines import describe_result, list_lines
from .sending import send_report
from .settings import CONFIGURATION, Settings

PROGRAM = "orthanc-verify"
DIRECTORY = Path("/var/lib/orthanc-verify")
LOCK = Path("/run/orthanc-verify.lock")
LOCK_SECONDS = 300
REPORT_MODE = 0o640


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that the deploy wrote for the acceptance test, and the passwords from Orthanc's configuration.

    If that configuration cannot be read, or lacks a user with the deployed password (the settings hold its digest), an
    error is logged, and the checks show the consequences. Raises Misused for settings of another release."""
    settings = dataclasses.asdict(files.read_settings(Settings, path, "orthanc_verify"))
    known: dict[str, str] = {}
    try:
        known = api.read_options(settings["orthanc"]).get("RegisteredUsers", {})
    except Refused as refused:
        journal.say_loudly(refused, PROGRAM)
    roles, digests = settings["users"], settings.pop("password_digests")
    right = {name: known[name] for name in roles if name in known and digest(name, known[name]) == digests.get(name)}
    if known and (other := [name for name in roles if name not in right]):
        what = f"{settings['orthanc']} does not hold the deployed password of {', '.join(other)}"
        journal.say_loudly(f"{what}. Remedy: deploy again.", PROGRAM)
    users = [{"name": name, "role": role, "password": right.get(name, "")} for name, role in roles.items()]
    return {**settings, "users": users}


def digest(name: str, password: str) -> str:
    """The digest by which a password is compared with the deployed one; the role computes the same."""
    return hashlib.sha256(f"{name}:{password}".encode()).hexdigest()


@contextlib.contextmanager
def hold_scratch() -> Iterator[Path]:
    """The directory for the files of this run, under a lock: two runs would remove each other's patient."""
    with hold_lock(LOCK, "orthanc-verify", LOCK_SECONDS):
        yield DIRECTORY / "scratch"


def make_scratch(scratch: Path) -> Path:
    """An empty directory. Files that a killed run leaves there are removed by the next run."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    tempfile.tempdir = str(scratch)
    return scratch


# --- the report ---------------------------------------------------------------------------------
def report(settings: dict[str, Any], day: acceptance.Day) -> dict[str, Any]:
    """The report that a clinic files, without passwords."""
    now = time.time()
    noted = read_object(acceptance.MONITOR) if settings["monitor"] else {}
    over_tls = day.certificates("device")
    days = int(day.certificate_until - now) // 86400
    until = [{"name": "proxy", "not_after": acceptance.format_time(day.certificate_until), "days": days}]
    return {
        **{"clinic": settings["clinic"], "host": settings["host"], "hostname": settings["hostname"]},
        **{"time": acceptance.format_time(now), "passed": all(check["passed"] for check in day.checks)},
        **{"collection": settings["collection"], "versions": versions(settings)},
        **{"checks": day.checks, "waivers": settings["waivers"]},
        "certificates": until if day.certificate_until else [],
        "limits": day.limits,
        **({"alerts": alerts(noted), "clock": clock_now()} if settings["monitor"] else {}),
        "disk": {**noted["disk"], "time": acceptance.format_time(noted.get("time", 0))} if noted.get("disk") else None,
        "backup": backup(day.schedules) if settings["backup"] else None,
        "server": {
            **{"aet": settings["aet"], "largest_object": settings["largest_object"]},
            **{"dicom_port": settings["dicom_port"], "dicom_tls_port": settings["dicom_tls_port"]},
        },
        "devices": described_devices(settings, set(over_tls)),
        # for whoever tries the ports from elsewhere
        "reached": exposure.describe_server(settings["http_port"], settings["https_port"], settings["hostname"]),
    }


def described_devices(settings: dict[str, Any], over_tls: set[str]) -> list[dict[str, Any]]:
    """Each device with the address at which it reaches the server. `over_tls` names the devices that use TLS."""
    listeners = exposure.list_listening() + address.find_published()
    found = []
    for device in settings["devices"]:
        tls = device["name"] in over_tls
        port = settings["dicom_tls_port" if tls else "dicom_port"]
        place = address.choose_address(device["host"], exposure.find_source(device["host"]), port, listeners)
        known = {key: device[key] for key in ("name", "aet", "host", "port", "may")} | {"tls": tls}
        found.append(known | {"server_address": place.address, "server_problem": place.problem})
    return found


def versions(settings: dict[str, Any]) -> dict[str, str]:
    """The versions that run. A component that does not answer is left out."""
    found: dict[str, str] = {}
    asked = {"Orthanc": "/system", "DICOMweb": "/plugins/dicom-web", "Worklists": "/plugins/worklists"}
    for name, path in asked.items():
        for one in (path, path.replace("/worklists", "/orthanc-worklists")):
            with contextlib.suppress(OSError, ValueError, KeyError, StopIteration):
                found[name] = acceptance.ask_orthanc(settings, "GET", one)["Version"]
                break
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = Path("/etc/os-release").read_text().splitlines()
        release = dict(line.split("=", 1) for line in lines if "=" in line)
        system = (release["ID"].strip('"').capitalize(), release["VERSION_ID"].strip('"'))
        found["System"] = " ".join(system)
    image = doctor.find_image()
    return {**found, **({"Image": image} if image else {})}


def alerts(noted: dict[str, Any]) -> list[dict[str, Any]]:
    """The problems in the monitor's last check, except those of the acceptance test, which this report contains."""
    found = []
    for one in noted.get("alerts", {}).values():
        if one["firing"] and not one["covered"] and not one["good"] and not one["name"].startswith("Acceptance"):
            about = ": ".join(text for text in (one["object"], one.get("detail", "")) if text)
            told = {key: one[key] for key in ("name", "object", "severity", "remedy")}
            standing = one.get("nothing_to_do", one["severity"] == "info")  # a clinic is notified of these once
            text = f"{one['summary']} ({about})" if about else one["summary"]
            found.append({**told, "text": text, "standing": standing, "since": acceptance.format_time(one["since"])})
    return found


def clock_now() -> dict[str, Any] | None:
    """Whether the clock is synchronised, and why not; None if that cannot be determined."""
    try:
        seen = clock.read_clock()
    except (OSError, ValueError):
        return None  # the monitor reports that it cannot check the clock
    return {"synchronised": seen.synchronised, "said": seen.said}


def backup(schedules: acceptance.Schedules) -> dict[str, Any]:
    """How the regular tasks went, as the report shows it; `schedules` are those of orthanc-backup."""

    def of(name: str) -> dict[str, Any]:
        noted = read_object(files.BACKUP / f"{name}.json")
        last, since = noted.get("last_success_epoch"), schedules.found.get(name, {}).get("planned")
        planned = acceptance.format_time(since) if since else None
        last_success = acceptance.format_time(last) if last else None
        return {"result": noted.get("result", "none yet"), "last_success": last_success, "planned": planned}

    noted = read_object(files.BACKUP / "backup.json")
    proven = noted.get("last_moment")
    verified = read_object(files.BACKUP / "restore_check.json").get("last_verified")
    return {
        **of("backup"),
        "warnings": noted.get("warnings", []),
        "proven": stamp(proven) if proven else None,  # the moment that the newest proven snapshot holds
        "restore_check": {
            **of("restore_check"),
            "verified": {**verified, "moment": stamp(verified["moment"])} if verified else None,
        },
        "ledger": of("ledger"),
    }


def stamp(moment: str) -> str:
    """A moment that orthanc-backup recorded (UTC, 20261128T011000.123), in the report's format."""
    return f"{moment[:4]}-{moment[4:6]}-{moment[6:11]}:{moment[11:13]}:{moment[13:15]}Z"


# --- the command --------------------------------------------------------------------------------
def run(settings: dict[str, Any]) -> dict[str, Any]:
    with hold_scratch() as scratch:
        # this run must not find what an earlier run left; if Orthanc does not answer, a check reports that
        with contextlib.suppress(*acceptance.ERRORS):
            acceptance.clean(settings, scratch)
        day = acceptance.Day(settings, make_scratch(scratch))
        day.play()
        result = report(settings, day)
        write_report(result)
        if settings["report_url"] and (why := send_report(settings["report_url"], settings["host"], DIRECTORY)):
            result["not_sent"] = why
            write_report(result)
            journal.say_loudly(f"The report was not sent: {why}. Remedy: correct orthanc_verify_report_url.", PROGRAM)
        return result


def write_report(result: dict[str, Any]) -> None:
    """Writes it for programs and for persons."""
    write_atomic(DIRECTORY / "report.json", json.dumps(result, indent=2) + "\n", REPORT_MODE)
    write_atomic(DIRECTORY / "report.html", pages.html(result), REPORT_MODE)


def clean_up(settings: dict[str, Any]) -> dict[str, Any]:
    with hold_scratch() as scratch:
        try:
            return {"removed": acceptance.clean(settings, scratch)}
        except acceptance.ERRORS as error:
            why = f"{acceptance.describe_error(error)}. Remedy: start Orthanc, and run orthanc-verify clean again."
            raise Refused(f"The synthetic patient may still exist: {why}") from None


def examine(settings: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        found = doctor.examine(settings, name)
    except KeyError:
        known = ", ".join(device["name"] for device in settings["devices"]) or "none"
        raise Misused(f"{name} is not a device in orthanc_modalities. Remedy: use one of: {known}.") from None
    return {"device": name, "kind": found.kind, "passed": found.kind == "fine", "sentence": found.sentence}


def show(result: dict[str, Any]) -> None:
    if "checks" in result:
        for line in list_lines(result):
            write_line(line)
    elif "sentence" in result:
        write_line(result["sentence"])
    else:
        write_line(", ".join(f"{number} {what} removed" for what, number in result["removed"].items()))


def act(given: argparse.Namespace) -> int:
    """Runs the command, prints its result, and returns the exit code."""
    os.umask(0o077)
    settings = read_settings(given.config)
    DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    if given.command == "run":
        result = run(settings)
    elif given.command == "clean":
        result = clean_up(settings)
    else:
        result = examine(settings, given.device)
    write_json(result) if given.json else show(result)
    # for cron's mail and the journal; a person at a terminal has just read it
    for check in [] if sys.stdout.isatty() else result.get("checks", []):
        if not check["passed"]:
            what = f"{check['name']}: {describe_result(check)}"
            journal.say_loudly(f"FAILED {what}. Remedy: {check['remedy']}.", PROGRAM)
    return DONE if result.get("passed", True) else WRONG


def main() -> int:
    """Runs orthanc-verify and returns its exit code."""
    about = "Runs the acceptance test of Orthanc on this machine, and explains why a device is refused."
    parser, common = cli.build_parser(PROGRAM, about, CONFIGURATION), cli.build_common()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "run", parents=[common], help="run the acceptance test: a clinic's day with a synthetic patient"
    )
    one = commands.add_parser(
        "doctor", parents=[common], help="explain why a device and Orthanc do not reach each other"
    )
    one.add_argument("device", help="its name in orthanc_modalities")
    commands.add_parser("clean", parents=[common], help="remove what an interrupted run left behind")
    given = parser.parse_args()
    return cli.run_command(PROGRAM, lambda: act(given), given.json)
