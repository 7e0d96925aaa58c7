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
import datetime
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

ECHOSCU = "/usr/bin/echoscu"
CLONE_NEWNET = 0x40000000
# once HTTP answers, plugins and DICOM are there at once or never
AFTER_HTTP = 10.0
PAUSE = 0.1
LINES = 12
# an empty index is there in a second or two
TRIAL = 30.0
# The candidate goes in by standard input, and lies in the trial's own memory alone. The last command keeps the shell
# there: timeout as process 1 of a container takes itself for an orphan.
TRY = "umask 077; cat > /tmp/candidate.json; timeout --signal=KILL {limit:.0f} Orthanc /tmp/candidate.json; exit $?"


class Failure(Exception):
    """What Orthanc did instead of coming up, in words and with its last log lines."""


def run(*command: str) -> str:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    ).stdout


# --- how Orthanc runs ---------------------------------------------------------------------------
class Unit:
    """Orthanc of Debian's package, as orthanc.service."""

    name = "orthanc.service"
    # where Orthanc sees this machine's own connections come from
    address = "127.0.0.1"

    def installed(self) -> bool:
        return os.path.exists("/usr/sbin/Orthanc")

    def restart(self) -> str:
        """What is wrong, or ''."""
        done = subprocess.run(
            ["systemctl", "restart", self.name], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return done.stderr.strip() if done.returncode else ""

    def stop(self) -> None:
        run("systemctl", "stop", self.name)

    def state(self) -> dict[str, str]:
        shown = run("systemctl", "show", "--property=SubState,ExecMainStartTimestampMonotonic", self.name)
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def running(self) -> bool:
        return self.state().get("SubState") == "running"

    def started(self) -> float:
        """When the process that runs now began, in seconds since 1970."""
        age = time.monotonic() - int(self.state()["ExecMainStartTimestampMonotonic"]) / 1_000_000
        return time.time() - age

    def files(self) -> list[Path]:
        """What else it is started from."""
        return sorted(Path(f"/etc/systemd/system/{self.name}.d").glob("*.conf"))

    def log(self, since: float) -> str:
        return run("journalctl", f"--unit={self.name}", f"--since=@{since:.0f}", "--output=cat", "--no-pager")

    def trial(self, name: str, places: list[str], account: pwd.struct_passwd) -> list[str]:
        """The command that runs one, until it is ended; nothing of it is left when it has ended."""
        owner = f"mode=0700,uid={account.pw_uid},gid={account.pw_gid}"
        properties = [
            *("User=orthanc", "Group=orthanc", "PrivateNetwork=yes", "PrivateTmp=yes", "ProtectSystem=strict"),
            *("ProtectHome=yes", "NoNewPrivileges=yes", "AmbientCapabilities=CAP_NET_BIND_SERVICE"),
            f"RuntimeMaxSec={TRIAL + 5:.0f}",
            *(f"TemporaryFileSystem={place}:{owner}" for place in places),
        ]
        options = ["--quiet", "--pipe", "--wait", "--collect", f"--unit={name}.service"]
        return ["systemd-run", *options, *(f"--property={item}" for item in properties), "sh", "-c"]

    def trial_pid(self, name: str) -> int:
        return int(run("systemctl", "show", "--property=MainPID", "--value", f"{name}.service").strip() or 0)

    def end_trial(self, name: str) -> None:
        run("systemctl", "stop", "--quiet", f"{name}.service")


class Container:
    """Orthanc of an image, as the container `orthanc`, which the role orthanc_install makes."""

    name = "orthanc"

    def __init__(self, image: str, address: str) -> None:
        self.image, self.address = image, address

    def inspect(self, name: str, what: str) -> str:
        return run("docker", "inspect", "--type=container", f"--format={{{{{what}}}}}", name).strip()

    def installed(self) -> bool:
        return bool(shutil.which("docker") and self.inspect(self.name, ".Id"))

    def restart(self) -> str:
        done = subprocess.run(
            ["docker", "restart", self.name], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return done.stderr.strip() if done.returncode else ""

    def stop(self) -> None:
        run("docker", "stop", self.name)

    def running(self) -> bool:
        return self.inspect(self.name, ".State.Status") == "running"

    def started(self) -> float:
        return datetime.datetime.fromisoformat(self.inspect(self.name, ".State.StartedAt")).timestamp()

    def files(self) -> list[Path]:
        return []

    def log(self, since: float) -> str:
        done = subprocess.run(
            ["docker", "logs", f"--since={since:.0f}", self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return done.stdout

    def trial(self, name: str, places: list[str], account: pwd.struct_passwd) -> list[str]:
        owner = f"uid={account.pw_uid},gid={account.pw_gid},mode=0700"
        options = [
            *("--rm", "--interactive", f"--name={name}", "--network=none", "--read-only", "--cap-drop=ALL"),
            *("--security-opt=no-new-privileges", f"--user={account.pw_uid}:{account.pw_gid}", "--pull=never"),
            *("--volume=/etc/orthanc/site:/etc/orthanc/site:ro", "--volume=/etc/localtime:/etc/localtime:ro"),
            # the image's own /var/lib/orthanc may be closed to this user
            *(f"--tmpfs={place}:{owner}" for place in ["/tmp", "/var/lib/orthanc", *places]),
            "--entrypoint=sh",
        ]
        return ["docker", "run", *options, self.image, "-c"]

    def trial_pid(self, name: str) -> int:
        return int(self.inspect(name, ".State.Pid") or 0)

    def end_trial(self, name: str) -> None:
        run("docker", "rm", "--force", name)


Runner = Unit | Container


# --- probe --------------------------------------------------------------------------------------
def get(configuration: dict[str, Any], path: str) -> Any:
    roles = configuration.get("ClinicopsRoles", {})
    users = configuration["RegisteredUsers"].items()
    user, password = next(item for item in users if roles.get(item[0], "admin") == "admin")
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


def probe(configuration: dict[str, Any], plugins: list[str], address: str) -> tuple[bool, str]:
    """Whether HTTP answers, and what is missing ('' when nothing is); `address` is where Orthanc sees it come from."""
    try:
        get(configuration, "/changes?last")  # this one reads the index, /system does not
        missing = sorted(set(plugins) - set(get(configuration, "/plugins")))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return isinstance(error, ValueError), f"HTTP on port {configuration['HttpPort']}: {error}"
    if missing:
        return True, f"plugins are not loaded: {', '.join(missing)}"
    return True, dicom(configuration, address)


def dicom(configuration: dict[str, Any], address: str) -> str:
    """C-ECHO as the device that is listed for this machine, where DCMTK is there; else a connection."""
    port = configuration["DicomPort"]
    devices = [item for item in configuration["DicomModalities"].values() if isinstance(item, dict)]
    local = [item["AET"] for item in devices if item["Host"] == address]
    if local and os.path.exists(ECHOSCU):
        titles = ["-aet", local[0], "-aec", configuration["DicomAet"]]
        command = [ECHOSCU, "-to", "5", *titles, "127.0.0.1", str(port)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
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
        with open(f"/proc/{pid}/ns/net", "rb") as network, open("/proc/self/ns/net", "rb") as own:
            # systemd names the process a moment before it has its network, and production would answer
            if os.path.sameopenfile(network.fileno(), own.fileno()):
                raise OSError("the trial has no network of its own yet")
            if libc.setns(network.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return ask()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


def trial(runner: Runner, configuration: dict[str, Any], plugins: list[str]) -> int:
    """Starts the real Orthanc on the configuration, for a moment; gives the milliseconds that it took.

    It has the ports of production in a network of its own, and empty directories in memory where production has
    its images and its index. It is ended after half a minute, whatever becomes of this process.
    """
    begin = time.monotonic()
    name = f"orthanc-trial-{os.getpid()}"
    options = ("StorageDirectory", "IndexDirectory", "TemporaryDirectory")
    places = sorted({str(configuration[option]) for option in options if option in configuration})
    command = [*runner.trial(name, places, pwd.getpwnam("orthanc")), TRY.format(limit=TRIAL + 5)]
    with contextlib.ExitStack() as leaving, tempfile.TemporaryFile("w+", errors="replace") as log:
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
        # in reverse: Orthanc is ended, and who started it says so
        leaving.callback(started.wait)
        leaving.callback(runner.end_trial, name)
        assert started.stdin
        with contextlib.suppress(BrokenPipeError), started.stdin as candidate:
            json.dump(configuration, candidate)

        def ask() -> tuple[bool, str]:
            pid = runner.trial_pid(name)
            if not pid:
                return False, "Orthanc does not run"
            try:
                return in_network_of(pid, lambda: probe(configuration, plugins, "127.0.0.1"))
            except OSError as error:
                return False, str(error)

        missing = wait(ask, lambda: started.poll() is None, TRIAL)
        if missing:
            runner.end_trial(name)
            started.wait()
            log.seek(0)
            raise Failure(f"{missing}. Orthanc said:\n{last_lines(log.read(), configuration)}")
    return round((time.monotonic() - begin) * 1000)


# --- production ---------------------------------------------------------------------------------
def before(path: Path) -> Path:
    """The last file that is known to work; it is there only while `apply` runs, or after a run that was cut off."""
    return path.with_suffix(".json.before")


def unfinished(runner: Runner, path: Path) -> bool:
    """Whether an earlier deploy was cut off, or Orthanc runs on an older file or unit than those that are there."""
    if before(path).exists() or not runner.running():
        return True
    return runner.started() < max(
        file.stat().st_mtime for file in [path, *path.parent.glob("*.lua"), *path.parent.glob("*.py"), *runner.files()]
    )


def place(path: Path, text: str) -> None:
    """At once: Orthanc reads the old file or the new one, never half of one."""
    handle, name = tempfile.mkstemp(prefix=".orthanc-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchown(file.fileno(), 0, pwd.getpwnam("orthanc").pw_gid)
            os.fchmod(file.fileno(), 0o640)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def works(runner: Runner, path: Path, plugins: list[str]) -> bool:
    """Whether Orthanc runs on the file that is there, whoever wrote it."""
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
        fresh = runner.running() and runner.started() >= path.stat().st_mtime
        return fresh and not probe(configuration, plugins, runner.address)[1]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return False


def restart(runner: Runner, text: str, plugins: list[str], limit: float) -> None:
    since = time.time()
    missing = runner.restart()
    try:
        configuration = json.loads(text)
        if not missing:
            missing = wait(lambda: probe(configuration, plugins, runner.address), runner.running, limit)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        # by hand: Orthanc may well read it, but whether it runs as it should cannot be asked
        raise Failure(
            f"it is restarted, and cannot be asked: its file is not as this collection writes it ({error})"
        ) from error
    if missing:
        raise Failure(f"{missing}. Orthanc said:\n{last_lines(runner.log(since), configuration)}")


def apply(runner: Runner, path: Path, text: str, plugins: list[str], limit: float) -> int:
    """Puts the file in place and restarts; gives the milliseconds without service. Failure comes after the way back."""
    previous = before(path)
    if path.exists() and (not previous.exists() or works(runner, path, plugins)):
        place(previous, path.read_text(encoding="utf-8"))
    place(path, text)
    begin = time.monotonic()
    try:
        restart(runner, text, plugins, limit)
    except Failure as failure:
        if not previous.exists():
            runner.stop()
            path.unlink()
            raise Failure(f"Orthanc did not come up, and is stopped: {failure}") from failure
        old = previous.read_text(encoding="utf-8")
        place(path, old)
        try:
            restart(runner, old, plugins, limit)
        except Failure as again:
            message = f"Orthanc did not come up: {failure}\nThe previous configuration is back in place"
            raise Failure(f"{message}, and does not come up either: {again}") from failure
        previous.unlink()
        spent = round((time.monotonic() - begin) * 1000)
        message = f"the previous configuration is back and works; the service was away for {spent / 1000:.1f} s"
        raise Failure(f"{message}. The new one did not come up: {failure}") from failure
    previous.unlink(missing_ok=True)
    return round((time.monotonic() - begin) * 1000)
