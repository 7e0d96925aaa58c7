# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc with a configuration: tried, put in place, and put back when it does not come up.

Nothing here imports Ansible. Times are in seconds, those that are said to people in milliseconds.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import ctypes
import http.client
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils import masking

BINARY = "/usr/sbin/Orthanc"
ECHOSCU = "/usr/bin/echoscu"
UNIT = "orthanc.service"
CLONE_NEWNET = 0x40000000
# once HTTP answers, plugins and DICOM are there at once or never
AFTER_HTTP = 10.0
PAUSE = 0.1
LINES = 12
# an empty index is there in a second or two
TRIAL = 30.0


class Failure(Exception):
    """What Orthanc did instead of coming up, in words and with its last log lines."""


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout


# --- probe --------------------------------------------------------------------------------------
def get(configuration: dict[str, Any], path: str) -> Any:
    user, password = next(iter(configuration["RegisteredUsers"].items()))
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", configuration["HttpPort"], timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Basic {token}"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        return json.loads(body)
    finally:
        connection.close()


def probe(configuration: dict[str, Any], plugins: list[str]) -> tuple[bool, str]:
    """Whether HTTP answers, and what is missing ('' when nothing is)."""
    try:
        get(configuration, "/changes?last")  # this one reads the index, /system does not
        missing = sorted(set(plugins) - set(get(configuration, "/plugins")))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return isinstance(error, ValueError), f"HTTP on port {configuration['HttpPort']}: {error}"
    if missing:
        return True, f"plugins are not loaded: {', '.join(missing)}"
    return True, dicom(configuration)


def dicom(configuration: dict[str, Any]) -> str:
    """C-ECHO as the device that is listed for this machine, where DCMTK is there; else a connection."""
    port = configuration["DicomPort"]
    local = [item["AET"] for item in configuration["DicomModalities"].values() if item["Host"] == "127.0.0.1"]
    if local and os.path.exists(ECHOSCU):
        titles = ["-aet", local[0], "-aec", configuration["DicomAet"]]
        command = [ECHOSCU, "-to", "5", *titles, "127.0.0.1", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        return "" if done.returncode == 0 else f"DICOM on port {port}: {done.stderr.strip().splitlines()[-1:]}"
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        return f"DICOM on port {port}: {error}"
    return ""


def wait(ask: Callable[[], tuple[bool, str]], alive: Callable[[], bool], limit: float) -> str:
    """What is missing when Orthanc has come up, has gone, or `limit` seconds are over."""
    end = time.monotonic() + limit
    answered = False
    while True:
        living = alive()
        http_answers, missing = ask()
        if not missing:
            return ""
        if not living:
            return "Orthanc ended at once"
        if http_answers and not answered:
            answered, end = True, min(end, time.monotonic() + AFTER_HTTP)
        if time.monotonic() > end:
            return missing
        time.sleep(PAUSE)


def last_lines(log: str, configuration: dict[str, Any]) -> str:
    """The end of a log without the configuration's secrets."""
    text: str = masking.hidden("\n".join(log.strip().splitlines()[-LINES:]), configuration)
    return text


# --- trial --------------------------------------------------------------------------------------
def in_network_of(pid: int, ask: Callable[[], tuple[bool, str]]) -> tuple[bool, str]:
    """`ask` from inside the network of another process; a thread of its own, since it cannot come back."""

    def enter() -> tuple[bool, str]:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{pid}/ns/net", "rb") as network:
            if libc.setns(network.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return ask()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


def trial(configuration: dict[str, Any], plugins: list[str]) -> int:
    """Starts the real binary on the configuration, for a moment; gives the milliseconds that it took.

    It has the ports of production in a network of its own, and empty directories in memory where production has
    its images and its index; everything else of the system is there, to read. systemd ends it after half a
    minute and takes the candidate away, whatever becomes of this process.
    """
    begin = time.monotonic()
    account = pwd.getpwnam("orthanc")
    handle, candidate = tempfile.mkstemp(prefix="orthanc-trial-", suffix=".json", dir="/run")
    unit = f"orthanc-trial-{os.getpid()}.service"
    owner = f"mode=0700,uid={account.pw_uid},gid={account.pw_gid}"
    names = ("StorageDirectory", "IndexDirectory", "TemporaryDirectory")
    places = {str(configuration[name]) for name in names if name in configuration}
    properties = [
        *("User=orthanc", "Group=orthanc", "PrivateNetwork=yes", "PrivateTmp=yes", "ProtectSystem=strict"),
        *("ProtectHome=yes", "NoNewPrivileges=yes", "UMask=0077", f"RuntimeMaxSec={TRIAL + 5:.0f}"),
        *(f"TemporaryFileSystem={place}:{owner}" for place in sorted(places)),
        f"ExecStopPost=+/bin/rm -f {candidate}",
    ]
    options = [f"--property={item}" for item in properties]
    with contextlib.ExitStack() as leaving, tempfile.TemporaryFile("w+", errors="replace") as log:
        leaving.callback(Path(candidate).unlink, missing_ok=True)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchown(file.fileno(), 0, account.pw_gid)
            os.fchmod(file.fileno(), 0o640)
            json.dump(configuration, file)
        started = subprocess.Popen(
            ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}", *options, BINARY, candidate],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        # in reverse: systemd ends Orthanc, and systemd-run says so
        leaving.callback(started.wait)
        leaving.callback(run, "systemctl", "stop", "--quiet", unit)

        def ask() -> tuple[bool, str]:
            pid = int(run("systemctl", "show", "--property=MainPID", "--value", unit).strip() or 0)
            if not pid:
                return False, "Orthanc does not run"
            try:
                return in_network_of(pid, lambda: probe(configuration, plugins))
            except OSError as error:
                return False, str(error)

        missing = wait(ask, lambda: started.poll() is None, TRIAL)
        if missing:
            run("systemctl", "stop", "--quiet", unit)
            started.wait()
            log.seek(0)
            raise Failure(f"{missing}. Orthanc said:\n{last_lines(log.read(), configuration)}")
    return round((time.monotonic() - begin) * 1000)


# --- production ---------------------------------------------------------------------------------
def state() -> dict[str, str]:
    shown = run("systemctl", "show", "--property=SubState,ExecMainStartTimestampMonotonic", UNIT)
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def reads_an_older_file(path: Path) -> bool:
    """Whether Orthanc does not run, or began before the file was written: an earlier deploy was cut off."""
    now = state()
    if now.get("SubState") != "running":
        return True
    age = time.monotonic() - int(now["ExecMainStartTimestampMonotonic"]) / 1_000_000
    return time.time() - age < path.stat().st_mtime


def place(path: Path, text: str) -> None:
    """At once: Orthanc reads the old file or the new one, never half of one."""
    handle, name = tempfile.mkstemp(prefix=".orthanc-", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchown(file.fileno(), 0, pwd.getpwnam("orthanc").pw_gid)
        os.fchmod(file.fileno(), 0o640)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, path)


def restart(configuration: dict[str, Any], plugins: list[str], limit: float) -> None:
    since = time.time()
    run("systemctl", "restart", UNIT)
    missing = wait(lambda: probe(configuration, plugins), lambda: state().get("SubState") == "running", limit)
    if missing:
        log = run("journalctl", f"--unit={UNIT}", f"--since=@{since:.0f}", "--output=cat", "--no-pager")
        raise Failure(f"{missing}. Orthanc said:\n{last_lines(log, configuration)}")


def apply(path: Path, text: str, plugins: list[str], limit: float) -> int:
    """Puts the file in place and restarts; gives the milliseconds without service. Failure comes after the way back."""
    # the last file that worked; it is there only while this runs, or after a run that was cut off
    previous = path.with_suffix(".json.before")
    if path.exists() and not previous.exists():
        shutil.copy2(path, previous)
        os.chmod(previous, 0o600)
    place(path, text)
    begin = time.monotonic()
    try:
        restart(json.loads(text), plugins, limit)
    except Failure as failure:
        if not previous.exists():
            run("systemctl", "stop", UNIT)
            path.unlink()
            raise Failure(f"Orthanc did not come up, and is stopped: {failure}") from failure
        place(path, previous.read_text(encoding="utf-8"))
        try:
            restart(json.loads(path.read_text(encoding="utf-8")), plugins, limit)
        except Failure as again:
            message = f"Orthanc did not come up: {failure}\nThe previous configuration is back in place"
            raise Failure(f"{message}, and does not come up either: {again}") from failure
        previous.unlink()
        spent = round((time.monotonic() - begin) * 1000)
        message = f"the previous configuration is back and works; the service was away for {spent} ms"
        raise Failure(f"{message}. The new one did not come up: {failure}") from failure
    previous.unlink(missing_ok=True)
    return round((time.monotonic() - begin) * 1000)
