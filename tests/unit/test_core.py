"""What all programs on the server are made of: processes, files, locks, settings, exit codes, the administrator."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from server.core import cli, errors, files, locks, process, settings
from server.orthanc import api, runtime

ROOT = Path(__file__).resolve().parents[2]


# --- processes ----------------------------------------------------------------------------------
def test_a_program_has_its_input_and_no_other() -> None:
    assert process.run_program("cat", text="Müller") == (0, "Müller", "")
    assert process.run_program("cat") == (0, "", "")


def test_a_program_that_hangs_or_is_missing_is_an_exit_code() -> None:
    hung = process.run_program("sh", "-c", "echo begun; exec sleep 60", seconds=0.5)
    assert (hung.status, hung.output) == (process.HUNG, "begun\n")
    assert "did not end within 0.5 s" in hung.errors
    assert process.run_program("no-such-program").status == process.MISSING


def test_output_that_is_no_text_is_read_all_the_same() -> None:
    assert process.run_program("printf", r"\377").output == "\ufffd"


def test_what_fails_is_refused_with_what_it_says() -> None:
    assert process.read_output("echo", " one ") == "one"
    with pytest.raises(errors.Refused, match=r"sh -c: it broke. Remedy: correct what it reports."):
        process.read_output("sh", "-c", "echo it broke >&2; exit 3")


def test_who_cannot_go_on_without_a_program_hears_of_it_as_an_error() -> None:
    assert process.ask_program("sh", "-c", "echo $LC_ALL; echo no >&2; exit 3") == (3, "C\n", "no")
    with pytest.raises(OSError, match=r"did not end within 0.5 s"):
        process.ask_program("sleep", "60", seconds=0.5)
    with pytest.raises(FileNotFoundError):
        process.ask_program("no-such-program")


def test_who_can_go_on_without_a_program_reads_nothing() -> None:
    assert process.try_output("echo", "one") == "one\n"
    assert process.try_output("sh", "-c", "echo one; exit 3") == ""
    assert process.try_output("no-such-program") == ""


# --- files --------------------------------------------------------------------------------------
def test_a_file_is_whole_and_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_atomic(tmp_path / "one", "a\n", 0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "one").read_text() == "a\n"
    assert (tmp_path / "one").stat().st_mode & 0o7777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_new_directories_have_their_mode_and_others_keep_theirs_whatever_the_umask(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    before = os.umask(0o077)
    try:
        files.create_directories(tmp_path / "one" / "two", 0o711)
        files.create_directories(tmp_path / "one" / "two", 0o755)
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o7777 for path in (tmp_path, tmp_path / "one", tmp_path / "one" / "two")]
    assert modes == [0o750, 0o711, 0o711]


def test_no_link_is_followed_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".one.part").symlink_to(tmp_path / "precious")
    (tmp_path / "one").symlink_to(tmp_path / "precious")
    files.write_atomic(tmp_path / "one", b"new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "one").read_bytes() == b"new"
    assert not (tmp_path / "one").is_symlink()


def test_the_file_of_before_stays_where_the_owner_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("before")
    with pytest.raises(KeyError):
        files.write_atomic(tmp_path / "one", "after", owner="nobody-of-this-name")
    assert (tmp_path / "one").read_text() == "before"


def test_owner_and_group_are_set(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.fail("run as root")
    files.write_atomic(tmp_path / "one", "a", 0o2640, owner="daemon", group="mail")
    seen = (tmp_path / "one").stat()
    assert (tmp_path / "one").owner() == "daemon"
    assert (tmp_path / "one").group() == "mail"
    assert seen.st_mode & 0o7777 == 0o2640
    files.write_atomic(tmp_path / "two", "a", owner="daemon")
    assert (tmp_path / "two").group() == "daemon"


def test_owner_and_group_may_have_no_name(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "one", "a", 0o640, 54321, 54322)
    seen = (tmp_path / "one").stat()
    assert (seen.st_uid, seen.st_gid) == (54321, 54322)
    files.write_atomic(tmp_path / "two", "a", 0o640, 0, 0)
    assert (tmp_path / "two").owner() == "root"


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_what_is_no_object_is_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "state").write_text(content)
    assert files.read_object(tmp_path / "state") == {}
    assert files.read_object(tmp_path / "missing") == {}


# --- locks --------------------------------------------------------------------------------------
def test_one_at_a_time(tmp_path: Path) -> None:
    lock, order = tmp_path / "lock", []

    def wait() -> None:
        with locks.hold_lock(lock):
            order.append("second")

    with locks.hold_lock(lock):
        with pytest.raises(
            errors.Busy, match=r"Another orthanc-backup is running. Remedy: wait until it has finished."
        ):
            locks.hold_lock(lock, "orthanc-backup", seconds=0).__enter__()
        waiting = threading.Thread(target=wait)
        waiting.start()
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_lock_keeps_its_time_and_follows_no_link(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("kept")
    os.utime(lock, (1, 1))
    with locks.hold_lock(lock):
        pass
    assert (lock.read_text(), lock.stat().st_mtime) == ("kept", 1)
    (tmp_path / "link").symlink_to(lock)
    with pytest.raises(OSError, match="symbolic links"):
        locks.hold_lock(tmp_path / "link").__enter__()


# --- settings -----------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Example:
    storage: Path
    days: int
    method: str = "package"


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_field_comes_from_the_programs_file_else_from_the_shared_facts(tmp_path: Path) -> None:
    own = write(tmp_path / "own.json", {"days": 3})
    facts = write(tmp_path / "facts.json", {"storage": "/srv/db", "days": 9, "limits": {}, "method": "docker"})
    found = settings.read_settings(Example, own, "orthanc_example", facts)
    assert found == Example(Path("/srv/db"), 3, "docker")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"days": 3}, "missing: storage"),
        ({"days": 3, "storage": "/srv/db", "hours": 1}, "unknown: hours"),
        ([], "it has no settings"),
    ],
)
def test_a_settings_file_of_another_release_says_deploy_again(tmp_path: Path, content: Any, why: str) -> None:
    own = write(tmp_path / "own.json", content)
    with pytest.raises(
        errors.Misused, match=rf"own.json belongs to another version \({why}\). Remedy: deploy again."
    ) as wrong:
        settings.read_settings(Example, own, "orthanc_example", tmp_path / "none")
    assert wrong.value.status == errors.USAGE


def test_no_settings_file_names_the_role(tmp_path: Path) -> None:
    with pytest.raises(errors.Misused, match=r"Remedy: deploy with the role orthanc_example."):
        settings.read_settings(Example, tmp_path / "none", "orthanc_example", tmp_path / "none")
    (tmp_path / "cut").write_text('{"days"')
    with pytest.raises(errors.Misused, match=r"Remedy: deploy again."):
        settings.read_settings(Example, tmp_path / "cut", "orthanc_example", tmp_path / "none")


# --- commands -----------------------------------------------------------------------------------
PROGRAM = """
import os, signal, sys
sys.path.insert(0, {path!r})
from server.core import cli, errors
def act():
    {body}
sys.exit(cli.run_command("example", act, as_json={as_json}))
"""


def run_example(body: str, as_json: bool = False) -> tuple[int, str, str]:
    source = PROGRAM.format(path=str(ROOT / "plugins/module_utils"), body=body, as_json=as_json)
    # as a unit, so that nothing goes into the journal of the machine that runs the tests
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env={**os.environ, "INVOCATION_ID": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("raise errors.Refused('A is wrong. Remedy: B.', 'C.')", 1, "<3>A is wrong. Remedy: B.\n<3>C.\n"),
        ("raise errors.Misused('A.')", 2, "<3>A.\n"),
        ("open('/no/such')", 1, "<3>/no/such: No such file or directory. Remedy: check that it exists.\n"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 1, "<3>Interrupted (SIGTERM). Remedy: run it again.\n"),
    ],
)
def test_exit_codes_and_sentences(body: str, status: int, said: str) -> None:
    assert run_example(body) == (status, "", said)


def test_a_defect_is_said_to_be_one() -> None:
    status, _, said = run_example("{}['a']")
    assert status == 1
    assert said.splitlines()[-1] == "<3>KeyError: 'a'. Remedy: this is a defect of example; report these lines."
    assert "Traceback" in said


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    source = PROGRAM.format(path=str(ROOT / "plugins/module_utils"), body="print('one'); return 0", as_json=False)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", source],
        stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_cut_off_in_the_middle_is_no_success() -> None:
    source = PROGRAM.format(
        path=str(ROOT / "plugins/module_utils"), as_json=False,
        body="[print('at work', file=sys.stderr, flush=True) for _ in range(100_000)]; return 0",
    )  # fmt: skip
    reader, writer = os.pipe()
    both: dict[str, Any] = {"stdout": writer, "stderr": writer, "stdin": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", source], env={**os.environ, "INVOCATION_ID": "1"}, **both) as running:
        os.close(writer)
        os.read(reader, 10)
        os.close(reader)
        assert running.wait(60) == 1


def test_problems_as_json() -> None:
    status, output, _ = run_example("raise errors.Refused('A.', 'B.')", as_json=True)
    assert (status, json.loads(output)) == (1, {"problems": ["A.", "B."]})


def test_a_command_knows_what_its_own_errors_mean(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail() -> int:
        raise ZeroDivisionError

    monkeypatch.setenv("INVOCATION_ID", "1")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert cli.run_command("example", fail, explain=lambda error: f"{type(error).__name__} it is.") == 1
    assert capsys.readouterr().err == "<3>ZeroDivisionError it is.\n"


# --- Orthanc ------------------------------------------------------------------------------------
OPTIONS = {"HttpPort": 8043, "RegisteredUsers": {"viewer": "v", "it": "secret"}}


def test_the_administrator_is_the_user_with_the_role() -> None:
    found = api.find_administrator({**OPTIONS, "ClinicopsRoles": {"viewer": "dicomweb_reader", "it": "admin"}})
    assert found == (8043, "it", "secret")


@pytest.mark.parametrize("roles", [{}, {"viewer": "dicomweb_reader"}, {"gone": "admin"}])
def test_nobody_is_the_administrator_without_the_role(roles: dict[str, str]) -> None:
    with pytest.raises(errors.Refused, match=r"has no user with the role admin. Remedy: give one to orthanc_users"):
        api.find_administrator({**OPTIONS, "ClinicopsRoles": roles})


def test_options_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for content, why in (("{", "cannot be read"), ("[]", "does not contain Orthanc's options")):
        (tmp_path / "orthanc.json").write_text(content)
        with pytest.raises(errors.Refused, match=rf"{why}.*Remedy: deploy again."):
            api.read_options(tmp_path / "orthanc.json")
    with pytest.raises(errors.Refused, match=r" does not exist. Remedy: deploy again."):
        api.read_options(tmp_path / "missing")


def test_nobody_who_answers_is_refused_with_the_place_of_the_log() -> None:
    with pytest.raises(errors.Refused, match=r"Orthanc does not answer .*Remedy: see journalctl -u orthanc"):
        api.Api(api.Account(1, "it", "secret"), seconds=2).get("/system")


def test_the_commands_of_unit_and_container() -> None:
    assert runtime.choose_runtime("package").build_command("stop") == ["systemctl", "stop", "orthanc"]
    assert runtime.choose_runtime("docker").build_command("stop") == ["docker", "stop", "--time", "600", "orthanc"]
    assert runtime.choose_runtime("docker").build_command("start") == ["docker", "start", "orthanc"]
    assert runtime.find_version("Orthanc 1.12.7\n") == "1.12.7"
    assert runtime.find_version("Orthanc mainline (20250101)") == ""
