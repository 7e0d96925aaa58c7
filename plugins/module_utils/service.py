# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tries a configuration with Orthanc, applies it, and restores the previous one if Orthanc does not start.

Nothing here imports Ansible. Times are in seconds, those that are reported in milliseconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from ansible_collections.clinicops.orthanc.plugins.module_utils import masking, namespaces

from .server.core.errors import Refused
from .server.core.files import write_atomic
from .server.core.process import require_pipe, run_at_end, run_program, try_output
from .server.orthanc import api, index, runtime

ECHOSCU = "/usr/bin/echoscu"
# once HTTP answers, plugins and DICOM are available at once or never
AFTER_HTTP = 10.0
PAUSE = 0.1
LINES = 12
Answered = TypeVar("Answered")
# an empty index is created in a second or two
TRIAL = 30.0
ANSWER_SECONDS = 30
# The candidate is passed on standard input, and is only kept in the trial's memory. The last command keeps the shell
# running: timeout as process 1 of a container would consider itself an orphan.
TRY = "umask 077; cat > /tmp/candidate.json; timeout --signal=KILL {limit:.0f} Orthanc /tmp/candidate.json; exit $?"


class Failure(Exception):
    """Why Orthanc did not start, with its last log lines."""


# --- how Orthanc runs ---------------------------------------------------------------------------
class Unit(runtime.Unit):
    """Orthanc from Debian's package, as orthanc.service."""

    # the address that Orthanc sees for this machine's own connections
    address = "127.0.0.1"

    def is_installed(self) -> bool:
        """Whether a configuration can be tried."""
        return os.path.exists("/usr/sbin/Orthanc")

    def list_files(self) -> list[Path]:
        """The other files that its start depends on."""
        return sorted(Path(f"/etc/systemd/system/{self.name}.service.d").glob("*.conf"))

    def build_trial(
        self, name: str, places: list[str], shown: Mapping[str, bool], account: pwd.struct_passwd, seconds: float
    ) -> list[str]:
        """The command that runs a trial until it is ended; it leaves nothing behind, except in a directory of `shown`
        that it may write to. `places` are empty directories in memory."""
        owner = f"mode=0700,uid={account.pw_uid},gid={account.pw_gid}"
        properties = [
            *("User=orthanc", "Group=orthanc", "PrivateNetwork=yes", "PrivateTmp=yes", "ProtectSystem=strict"),
            *("ProtectHome=yes", "NoNewPrivileges=yes", "AmbientCapabilities=CAP_NET_BIND_SERVICE"),
            f"RuntimeMaxSec={seconds + 5:.0f}",
            *(f"TemporaryFileSystem={place}:{owner}" for place in places),
            *(f"ReadWritePaths={path}" for path, writable in shown.items() if writable),
        ]
        options = ["--quiet", "--pipe", "--wait", "--collect", f"--unit={name}.service"]
        return ["systemd-run", *options, *(f"--property={item}" for item in properties), "sh", "-c"]

    def read_trial_pid(self, name: str) -> int:
        """The main process of a trial; 0 while it does not run."""
        return int(try_output("systemctl", "show", "--property=MainPID", "--value", f"{name}.service").strip() or 0)

    def end_trial(self, name: str) -> None:
        """Ends a trial, whatever its state."""
        try_output("systemctl", "stop", "--quiet", f"{name}.service")


class Container(runtime.Container):
    """Orthanc from an image, as the container `orthanc`, which the role orthanc_install creates."""

    def __init__(self, image: str, address: str) -> None:
        super().__init__()
        self.trial_image, self.address = image, address

    def is_installed(self) -> bool:
        """Whether a configuration can be tried."""
        return bool(try_output("docker", "inspect", "--type=container", "--format={{.Id}}", self.name))

    def list_files(self) -> list[Path]:
        """The other files that its start depends on."""
        return []

    def build_trial(
        self, name: str, places: list[str], shown: Mapping[str, bool], account: pwd.struct_passwd, _seconds: float
    ) -> list[str]:
        """The command that runs a trial until it is ended; it leaves nothing behind, except in a directory of `shown`
        that it may write to. `places` are empty directories in memory."""
        owner = f"uid={account.pw_uid},gid={account.pw_gid},mode=0700"
        options = [
            *("--rm", "--interactive", f"--name={name}", "--network=none", "--read-only", "--cap-drop=ALL"),
            *("--security-opt=no-new-privileges", f"--user={account.pw_uid}:{account.pw_gid}", "--pull=never"),
            *("--volume=/etc/orthanc/site:/etc/orthanc/site:ro", "--volume=/etc/localtime:/etc/localtime:ro"),
            # the image's own /var/lib/orthanc may be closed to this user
            *(f"--tmpfs={place}:{owner}" for place in ["/tmp", "/var/lib/orthanc", *places]),
            *(f"--volume={path}:{path}{'' if writable else ':ro'}" for path, writable in shown.items()),
            "--entrypoint=sh",
        ]
        return ["docker", "run", *options, self.trial_image, "-c"]

    def read_trial_pid(self, name: str) -> int:
        """The main process of a trial; 0 while it does not run."""
        shown = try_output("docker", "inspect", "--type=container", "--format={{.State.Pid}}", name)
        return int(shown.strip() or 0)

    def end_trial(self, name: str) -> None:
        """Ends a trial, whatever its state."""
        try_output("docker", "rm", "--force", name)


Runner: TypeAlias = "Unit | Container"


def is_running(runner: Runner) -> bool:
    """Whether Orthanc runs, as far as is visible."""
    try:
        return runner.read_state().runs
    except Refused:
        return False


def control(runner: Runner, verb: str) -> str:
    """Starts, stops or restarts Orthanc, without a time limit; returns the error, or ''."""
    done = run_program(*runner.build_command(verb), seconds=None)
    return done.errors.strip() if done.status else ""


# --- probe --------------------------------------------------------------------------------------
def open_api(configuration: dict[str, Any]) -> api.Api:
    """Orthanc's API as an administrator. Raises Refused without one.

    In a file that was written by hand, a user without a role counts as an administrator."""
    roles = {**dict.fromkeys(configuration["RegisteredUsers"], "admin"), **configuration.get("ClinicopsRoles", {})}
    return api.Api(api.find_administrator({**configuration, "ClinicopsRoles": roles}), ANSWER_SECONDS)


def probe(configuration: dict[str, Any], plugins: list[str], address: str) -> tuple[bool, str]:
    """Whether HTTP answers, and what is missing ('' if nothing); `address` is the one that Orthanc sees."""
    place = f"HTTP on port {configuration['HttpPort']}"
    orthanc = open_api(configuration)
    try:
        # /changes reads the index, /system does not
        answers = [orthanc.ask("GET", path) for path in ("/changes?last", "/plugins")]
    except Refused as refused:
        return False, f"{place}: {str(refused).partition('. Remedy: ')[0]}"
    finally:
        orthanc.close()
    if wrong := [answer.status for answer in answers if answer.status != 200]:
        return True, f"{place}: status {wrong[0]}"
    if missing := sorted(set(plugins) - set(json.loads(answers[1].body))):
        return True, f"plugins are not loaded: {', '.join(missing)}"
    return True, probe_dicom(configuration, address)


def probe_dicom(configuration: dict[str, Any], address: str) -> str:
    """Tries a C-ECHO as this machine's own device if DCMTK is installed, otherwise a connection."""
    port = configuration["DicomPort"]
    devices = [item for item in configuration["DicomModalities"].values() if isinstance(item, dict)]
    local = [item["AET"] for item in devices if item["Host"] == address]
    if local and os.path.exists(ECHOSCU):
        titles = ["-aet", local[0], "-aec", configuration["DicomAet"]]
        done = run_program(ECHOSCU, "-to", "5", *titles, "127.0.0.1", str(port))
        return "" if done.status == 0 else f"DICOM on port {port}: {done.errors.strip().splitlines()[-1:]}"
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        return f"DICOM on port {port}: {error}"
    return ""


def await_orthanc(ask: Callable[[], tuple[bool, str]], alive: Callable[[], bool], limit: float) -> str:
    """Waits until Orthanc has started or ended, or for `limit` seconds; returns what is missing, or ''."""
    end = time.monotonic() + limit
    answered = False
    while True:
        living = alive()
        http_answers, missing = ask()
        if not missing:
            return ""
        if not living:
            return "Orthanc ended"
        if http_answers and not answered:
            answered, end = True, min(end, time.monotonic() + AFTER_HTTP)
        if time.monotonic() > end:
            return missing
        time.sleep(PAUSE)


def hide_secrets(log: str, configuration: dict[str, Any]) -> str:
    """The end of a log without the configuration's secrets."""
    text: str = masking.hide("\n".join(log.strip().splitlines()[-LINES:]), configuration)
    return text


# --- trial --------------------------------------------------------------------------------------
def ask_inside(pid: int, ask: Callable[[], Answered]) -> Answered:
    """Runs `ask` in the network of the trial's process. OSError until it has one of its own."""
    # systemd names the process shortly before it has its own network; production would answer
    if not namespaces.has_own_network(pid):
        raise OSError("the trial does not have its own network yet")
    answer: Answered = namespaces.run_inside(pid, ask)
    return answer


@dataclasses.dataclass(frozen=True)
class Trial:
    """An Orthanc beside production, with the ports of production in a network of its own."""

    runner: Runner
    name: str
    process: subprocess.Popen[str]
    log: IO[str]
    configuration: dict[str, Any]

    def ask(self, question: Callable[[], Answered]) -> Answered:
        """Asks it in its own network. OSError while it does not run."""
        pid = self.runner.read_trial_pid(self.name)
        if not pid:
            raise OSError("Orthanc does not run")
        return ask_inside(pid, question)

    def await_answer(self, plugins: list[str], seconds: float) -> None:
        """Until it works. Failure, with the end of its log, where it does not within so many seconds."""

        def ask() -> tuple[bool, str]:
            try:
                return self.ask(lambda: probe(self.configuration, plugins, "127.0.0.1"))
            except OSError as error:
                return False, str(error)

        if missing := await_orthanc(ask, lambda: self.process.poll() is None, seconds):
            raise Failure(f"{missing}. Orthanc said:\n{self.end()}")

    def end(self) -> str:
        """Ends it; returns the end of its log without secrets."""
        self.runner.end_trial(self.name)
        self.process.wait()
        self.log.seek(0)
        return hide_secrets(self.log.read(), self.configuration)


@contextlib.contextmanager
def start_trial(
    runner: Runner, configuration: dict[str, Any], places: list[str], shown: Mapping[str, bool], seconds: float
) -> Iterator[Trial]:
    """The real Orthanc with this configuration, until the block has ended, and at most for so many seconds.

    `places` are empty directories in memory; `shown` are directories of this machine, and whether it may write there.
    """
    name = f"orthanc-trial-{os.getpid()}"
    begin = runner.build_trial(name, places, shown, pwd.getpwnam("orthanc"), seconds)
    with contextlib.ExitStack() as leaving, tempfile.TemporaryFile("w+", errors="replace") as log:
        started = subprocess.Popen(
            [*begin, TRY.format(limit=seconds + 5)], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
        )
        # in reverse order: Orthanc is ended, then the process that started it
        leaving.callback(started.wait)
        leaving.callback(runner.end_trial, name)
        with contextlib.suppress(BrokenPipeError), require_pipe(started.stdin) as candidate:
            json.dump(configuration, candidate)
        yield Trial(runner, name, started, log, configuration)


def try_configuration(runner: Runner, configuration: dict[str, Any], plugins: list[str]) -> int:
    """Starts the real Orthanc with the configuration for a moment; returns the milliseconds that it took.

    It has empty directories in memory in place of the images and the index of production. It is ended after half a
    minute, even if this process is killed.
    """
    begin = time.monotonic()
    options = ("StorageDirectory", "IndexDirectory", "TemporaryDirectory")
    places = sorted({str(configuration[option]) for option in options if option in configuration})
    with start_trial(runner, configuration, places, {}, TRIAL) as trial:
        trial.await_answer(plugins, TRIAL)
    return round((time.monotonic() - begin) * 1000)


# --- production ---------------------------------------------------------------------------------
def find_previous(path: Path) -> Path:
    """The last working file; it only exists while `apply_configuration` runs, or after an interrupted run."""
    return path.with_suffix(".json.before")


def is_unfinished(runner: Runner, path: Path) -> bool:
    """Whether an earlier deploy was interrupted, or Orthanc was started before the present files were written."""
    if find_previous(path).exists() or not is_running(runner):
        return True
    return runner.read_started() < max(
        file.stat().st_mtime
        for file in [path, *path.parent.glob("*.lua"), *path.parent.glob("*.py"), *runner.list_files()]
    )


def write_configuration(path: Path, text: str | bytes) -> None:
    """Replaces the file atomically: Orthanc reads the old file or the new one, never a partial one."""
    write_atomic(path, text, 0o640, "root", "orthanc")


def is_working(runner: Runner, path: Path, plugins: list[str]) -> bool:
    """Whether Orthanc runs with the present file, whoever wrote it."""
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
        fresh = is_running(runner) and runner.read_started() >= path.stat().st_mtime
        return fresh and not probe(configuration, plugins, runner.address)[1]
    except (ValueError, KeyError, TypeError, AttributeError, Refused):
        return False


def restart_orthanc(runner: Runner, text: str, plugins: list[str], limit: float) -> None:
    """Restarts Orthanc on its file, whose text this is. Failure where it does not come up."""
    since = time.time()
    await_running(runner, text, plugins, limit, since, control(runner, "restart"))


def await_running(runner: Runner, text: str, plugins: list[str], limit: float, since: float, missing: str) -> None:
    """Waits until Orthanc works, which was started at a moment; `missing` is what went wrong then, or ''. Failure where
    it does not come up."""
    try:
        configuration = json.loads(text)
        if not missing:
            missing = await_orthanc(
                lambda: probe(configuration, plugins, runner.address), lambda: is_running(runner), limit
            )
    except (ValueError, KeyError, TypeError, AttributeError, Refused) as error:
        # edited by hand: Orthanc may read it, but cannot be checked
        raise Failure(
            f"Orthanc was restarted, but cannot be checked: its file was not written by this collection ({error})"
        ) from error
    if missing:
        raise Failure(f"{missing}. Orthanc said:\n{hide_secrets(runner.read_log(since), configuration)}")


# --- the index's statistics ---------------------------------------------------------------------
def find_index(configuration: dict[str, Any]) -> Path:
    """Orthanc's index of this configuration."""
    directory = configuration.get("IndexDirectory") or configuration.get("StorageDirectory") or "OrthancStorage"
    return Path(directory) / "index"


def lacks_statistics(index_path: Path, wanted: bool) -> bool:
    """Whether there is an index that has no statistics although it should, or has them although it should not."""
    present = index.has_statistics(index_path)
    if present is None:  # the tables of a new one are still in its write-ahead log
        return wanted and index_path.exists()
    return present is not wanted


def apply_statistics(
    runner: Runner, index_path: Path, wanted: bool, text: str, plugins: list[str], limit: float
) -> int:
    """Stops Orthanc, gives the index its statistics or takes them away, starts it. Returns the milliseconds without
    service. Failure if they could not be written; Orthanc runs again in any case."""
    begin = time.monotonic()
    # Orthanc is started however this process ends
    with run_at_end(2 * runtime.STOP_SECONDS, *runner.build_command("start")):
        problem = control(runner, "stop")
        try:
            if not problem:
                index.write_statistics(index_path, wanted)
        except sqlite3.Error as error:
            problem = f"{error}. Remedy: make space on its disk, end what else has opened it, and deploy again"
        since = time.time()
    await_running(runner, text, plugins, limit, since, "")
    if problem:
        raise Failure(f"The statistics of {index_path} could not be written: {problem}.")
    return round((time.monotonic() - begin) * 1000)


def apply_configuration(runner: Runner, path: Path, text: str, plugins: list[str], limit: float) -> int:
    """Writes the file and restarts Orthanc; returns the milliseconds without service. Raises Failure after the previous
    file has been restored."""
    previous = find_previous(path)
    if path.exists() and (not previous.exists() or is_working(runner, path, plugins)):
        write_configuration(previous, path.read_bytes())
    write_configuration(path, text)
    begin = time.monotonic()
    try:
        restart_orthanc(runner, text, plugins, limit)
    except Failure as failure:
        if not previous.exists():
            control(runner, "stop")
            path.unlink()
            raise Failure(f"Orthanc did not start, and has been stopped: {failure}") from failure
        old = previous.read_bytes()  # a person may have written it, in any encoding
        try:
            write_configuration(path, old)
            restart_orthanc(runner, old.decode(errors="replace"), plugins, limit)
        except OSError as error:
            what = f"the previous one cannot be restored: {error.filename or path}: {error.strerror or error}"
            message = f"Orthanc does not work: it did not start with the new configuration, and {what}"
            raise Failure(f"{message}. Remedy: make space on its disk, and deploy again. {failure}") from failure
        except Failure as again:
            message = f"Orthanc did not start: {failure}\nThe previous configuration has been restored"
            raise Failure(f"{message}, but Orthanc does not start with it either: {again}") from failure
        previous.unlink()
        spent = round((time.monotonic() - begin) * 1000)
        message = f"the previous configuration has been restored and works; {spent / 1000:.1f} s without service"
        raise Failure(f"{message}. Orthanc did not start with the new one: {failure}") from failure
    previous.unlink(missing_ok=True)
    return round((time.monotonic() - begin) * 1000)
