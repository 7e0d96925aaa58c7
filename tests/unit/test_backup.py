"""Backups with the real restic and a real index, beside a stand-in for Orthanc. A real Orthanc: backup_restore."""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305
from orthanc_stand_in import Index

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "roles/orthanc_backup/files/orthanc_backup.py"
SPEC = importlib.util.spec_from_file_location("orthanc_backup", PROGRAM)
assert SPEC is not None
assert SPEC.loader is not None
backup = importlib.util.module_from_spec(SPEC)
sys.modules["orthanc_backup"] = backup
SPEC.loader.exec_module(backup)

pytestmark = pytest.mark.skipif(not shutil.which("restic"), reason="apt-get install restic")

# what systemd does with the unit, and the marker that the unit asserts
SYSTEMCTL = """#!/bin/sh
pid=$(cat {home}/pid 2>/dev/null)
alive() {{ grep -qs '^State:.[^ZX]' "/proc/$pid/status"; }}
case "$1" in
show) alive && echo "$pid" || echo 0 ;;
stop) kill -CONT "$pid"; kill "$pid"; while alive; do sleep 0.01; done ;;
start) alive && exit 0
    [ -e {home}/db/.orthanc-storage ] || exit 1
    setsid {python} {stand_in} {home}/orthanc.json >{home}/orthanc.log 2>&1 </dev/null &
    echo $! >{home}/pid ;;
esac
"""


class Clinic:
    """A machine in a directory."""

    def __init__(self, home: Path) -> None:
        self.home, self.storage, self.directory = home, home / "db", home / "backup"
        for path in (self.storage, home / "bin", home / "etc"):
            path.mkdir(parents=True)
        (self.storage / ".orthanc-storage").write_text("here\n")
        (home / "etc/ca.key").write_text("key\n")
        (home / "password").write_text("secret\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = {"StorageDirectory": str(self.storage), "HttpPort": self.port, "RegisteredUsers": {"it": "pw"}}
        (home / "orthanc.json").write_text(json.dumps(options))
        stand_in = ROOT / "tests/unit/orthanc_stand_in.py"
        for name, text in {
            "systemctl": SYSTEMCTL.format(home=home, python=sys.executable, stand_in=stand_in),
            "Orthanc": f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n',
            "logger": "#!/bin/sh\n",
        }.items():
            (home / "bin" / name).write_text(text)
            (home / "bin" / name).chmod(0o755)
        self.configuration = {
            "repository": str(home / "repository"), "password_file": str(home / "password"), "environment": {},
            "host": "clinic", "append_only": False, "limit_upload": 0, "keep": {"last": 3}, "subset": 1,
            "storage": str(self.storage), "orthanc": str(home / "orthanc.json"),
            "paths": [str(home / "etc"), str(home / "orthanc.json")], "directory": str(self.directory),
            "scratch": str(home / "scratch"), "scratch_bytes": 1 << 30, "method": "package", "name": "orthanc",
            "owner": getpass.getuser(), "pause": "pause", "pause_seconds": 3, "second": [str(home / "bin/Orthanc")],
            "collection": "1.0.0", "fingerprint": "f",
        }  # fmt: skip

    def systemctl(self, verb: str) -> None:
        subprocess.run([self.home / "bin/systemctl", verb], check=True)

    @property
    def pid(self) -> int:
        return int((self.home / "pid").read_text())

    def running(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "SR"

    @property
    def settings(self) -> Any:
        path = self.home / "backup.json"
        path.write_text(json.dumps(self.configuration))
        return backup.Settings.read(path)

    def command(self, *arguments: str) -> list[str]:
        assert self.settings
        return [sys.executable, str(PROGRAM), "--config", str(self.home / "backup.json"), *arguments]

    def run(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        done = subprocess.run([*self.command(*arguments), "--json"], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def refused(self, *arguments: str) -> str:
        problems = self.run(*arguments, code=1)["problems"]
        assert all("Remedy: " in problem for problem in problems), problems
        return " ".join(problems)

    def store(self, data: bytes = b"", study: str = "1.2.3", aet: str = "US1") -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", "/instances", data or os.urandom(2000), {"X-Study": study, "X-AET": aet})
        name: str = json.loads(connection.getresponse().read())["ID"]
        connection.close()
        return name

    def started(self) -> None:
        self.systemctl("start")
        backup.Rest(self.settings).awaited()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in backup.images(self.storage)}


def sealed(key: bytes, data: bytes, nonce: bytes) -> bytes:
    """Restic's encryption: AES-256 in counter mode, and Poly1305-AES."""
    stream = Cipher(algorithms.AES(key[:32]), modes.CTR(nonce)).encryptor().update(data)
    pad = Cipher(algorithms.AES(key[32:48]), modes.ECB()).encryptor().update(nonce)
    return nonce + stream + Poly1305.generate_tag(key[48:] + pad, stream)


@pytest.fixture(name="repository", scope="session")
def fixture_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty repository. Restic makes guessing a password slow, and every test as well: here it is quick."""
    home = tmp_path_factory.mktemp("restic")
    repository, password = home / "repository", home / "password"
    password.write_text("secret\n")
    command = ["restic", "--quiet", "--repo", str(repository), "--password-file", str(password), "init"]
    subprocess.run(command, check=True)
    (path,) = (repository / "keys").iterdir()
    content = json.loads(path.read_bytes())

    def derived() -> bytes:
        options = {"n": content["N"], "r": content["r"], "p": content["p"], "maxmem": 1 << 30, "dklen": 64}
        return hashlib.scrypt(b"secret", salt=base64.b64decode(content["salt"]), **options)

    data = base64.b64decode(content["data"])
    master = sealed(derived(), data[16:-16], data[:16])[16:-16]
    content.update(N=2, r=1, p=1)
    content["data"] = base64.b64encode(sealed(derived(), master, data[:16])).decode()
    text = json.dumps(content).encode()
    path.unlink()
    path.with_name(hashlib.sha256(text).hexdigest()).write_bytes(text)
    return repository


@pytest.fixture(name="clinic")
def fixture_clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Iterator[Clinic]:
    clinic = Clinic(tmp_path / "clinic")
    monkeypatch.setenv("PATH", f"{clinic.home}/bin:{os.environ['PATH']}")
    index = Index(clinic.storage)
    for number in range(12):
        index.store(os.urandom(2000 + number), study=f"1.2.{number // 4}", aet=f"US{number // 4}")
    index.database.close()
    clinic.started()
    shutil.copytree(repository, clinic.home / "repository")
    yield clinic
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        clinic.systemctl("stop")


# --- run ---------------------------------------------------------------------------------------
def test_a_backup_its_manifest_and_its_state(clinic: Clinic) -> None:
    result = clinic.run("run")
    assert result["result"] == "success"
    assert result["counts"]["instances"] == 12
    assert 0 < result["pause"] < 1
    assert clinic.running()
    # the repository is beside the images, and this cannot be overlooked
    assert "is on the disk that holds the images" in result["warnings"][0]
    state = json.loads((clinic.directory / "backup.json").read_text())
    assert state["last_success"] == result["moment"]
    assert state["last_success_epoch"] > time.time() - 60
    listed = clinic.run("list")["snapshots"]
    assert [(one["moment"], one["proven"], one["counts"]["studies"]) for one in listed] == [(result["moment"], True, 3)]
    assert clinic.run("run", "--due") == {"result": "not due"}
    # what the second time brings is small, and the first one's copy of the files is used again
    assert clinic.run("run")["added"] < 200_000


def test_the_live_index_stays_out_and_the_copy_is_one_file(clinic: Clinic) -> None:
    clinic.run("run")
    files = backup.contents(clinic.settings, backup.chosen(clinic.settings, "latest")["id"])
    assert {path for path in files if "index" in Path(path).name} == {f"{clinic.directory}/staging/index"}
    assert f"{clinic.home}/etc/ca.key" in files
    assert not list(clinic.directory.glob("staging/index-*"))


def test_never_two_at_once(clinic: Clinic) -> None:
    clinic.directory.mkdir()
    with backup.alone(clinic.settings, "run"):
        assert "at work" in clinic.refused("run")


def test_full_stop(clinic: Clinic) -> None:
    clinic.configuration["pause"] = "stop"
    before = clinic.pid
    assert clinic.run("run")["result"] == "success"
    assert clinic.pid != before
    assert clinic.running()


def test_orthanc_is_down(clinic: Clinic) -> None:
    clinic.systemctl("stop")
    assert clinic.run("run")["pause"] == 0


def test_another_storage_than_orthanc_s(clinic: Clinic) -> None:
    other = clinic.home / "other"
    other.mkdir()
    Index(other).database.close()
    clinic.configuration["storage"] = str(other)
    assert "does not have" in clinic.refused("run")
    assert clinic.running()


def test_images_are_stored_while_twenty_backups_copy_the_index(clinic: Clinic, tmp_path: Path) -> None:
    waits: list[float] = []
    end = threading.Event()

    def device(number: int) -> None:
        while not end.is_set():
            begin = time.monotonic()
            clinic.store(os.urandom(20_000), study=f"2.{number}", aet=f"US{number}")
            waits.append(time.monotonic() - begin)

    devices = [threading.Thread(target=device, args=[number]) for number in range(2)]
    for one in devices:
        one.start()
    try:
        for number in range(20):
            copy = tmp_path / f"copy{number}"
            pause = backup.index_copy(clinic.settings, copy)["pause"]
            assert pause < 0.5
            # nothing that the copy names is not there: the file comes before its row
            for one in backup.attachments_of(copy):
                assert (clinic.storage / one.path).stat().st_size == one.size
    finally:
        end.set()
        for one in devices:
            one.join()
    assert len(waits) > 20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_orthanc_goes_on_whatever_ends_the_program(clinic: Clinic, number: int) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import pathlib, signal, orthanc_backup as b\n"
        "for one in (signal.SIGTERM, signal.SIGHUP): signal.signal(one, b.interrupted)\n"
        "with b.standing(b.Settings.read(pathlib.Path(sys.argv[2]))): print(flush=True); time.sleep(60)\n"
    )
    assert clinic.settings
    command = [sys.executable, "-c", code, str(PROGRAM.parent), str(clinic.home / "backup.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdout is not None
        program.stdout.readline()
        assert not clinic.running()
        program.send_signal(number)
        program.wait()
    end = time.monotonic() + 1
    while not clinic.running():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_pause_that_takes_too_long_ends_and_its_copy_is_no_good(clinic: Clinic) -> None:
    clinic.configuration["pause_seconds"] = 1
    with (  # noqa: PT012
        pytest.raises(backup.Refused, match="took longer than 1 s"),
        backup.standing(clinic.settings),
    ):
        time.sleep(0.5)
        assert not clinic.running()
        time.sleep(1)
        assert clinic.running()


def test_an_attachment_that_is_missing_is_no_success(clinic: Clinic) -> None:
    clinic.run("run")
    next(backup.images(clinic.storage)).unlink()
    assert "Attachments are missing" in clinic.refused("run")
    state = json.loads((clinic.directory / "backup.json").read_text())
    assert state["result"] == "failed"
    assert state["last_success"] < state["moment"]
    # the snapshot is kept, and does not stand for the proven one before it
    listed = clinic.run("list")["snapshots"]
    assert [one["proven"] for one in listed] == [True, False]
    assert backup.chosen(clinic.settings, "latest")["id"].startswith(listed[0]["id"])


def test_an_attachment_that_a_user_deletes_meanwhile(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    name, path = clinic.store(), ""
    real = backup.taken

    def deleted_before(settings: Any, *others: Any) -> Any:
        backup.Rest(settings).ask("DELETE", f"/instances/{name}")
        return real(settings, *others)

    monkeypatch.setattr(backup, "taken", deleted_before)
    assert not path
    clinic.directory.mkdir()
    result = backup.backup(clinic.settings)
    assert (result["result"], result["deleted"]) == ("success", 1)


def test_a_truncated_attachment_is_no_success(clinic: Clinic) -> None:
    path = next(backup.images(clinic.storage))
    path.write_bytes(path.read_bytes()[:-1])
    assert "Attachments are damaged" in clinic.refused("run")


def test_a_damaged_index_is_named(clinic: Clinic) -> None:
    clinic.systemctl("stop")
    (clinic.storage / "index").write_bytes(b"x" * 8192)
    assert "not a database" in clinic.refused("run")


def test_a_wrong_password_is_named_and_no_secret_is(clinic: Clinic) -> None:
    (clinic.home / "password").write_text("hunter2\n")
    said = clinic.refused("run")
    assert "orthanc_backup_password" in said
    assert "hunter2" not in said


def test_no_repository(clinic: Clinic) -> None:
    shutil.rmtree(clinic.home / "repository")
    assert "orthanc-backup init" in clinic.refused("run")
    assert clinic.run("init") == {"repository": "made"}
    assert clinic.run("init") == {"repository": "was there"}


def test_secrets_are_in_the_environment_alone(clinic: Clinic) -> None:
    clinic.configuration["environment"] = {"AWS_SECRET_ACCESS_KEY": "hunter2"}
    (clinic.home / "bin/restic").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{clinic.home}/calls\necho "$AWS_SECRET_ACCESS_KEY said no" >&2\nexit 1\n'
    )
    (clinic.home / "bin/restic").chmod(0o755)
    assert "*** said no" in clinic.refused("run")
    assert "hunter2" not in (clinic.home / "calls").read_text()
    (clinic.home / "bin/restic").unlink()


def test_a_killed_run_can_be_run_again(clinic: Clinic) -> None:
    for wait in (0.1, 0.3, 0.5):
        with subprocess.Popen(clinic.command("run"), stderr=subprocess.DEVNULL) as program:
            time.sleep(wait)
            program.kill()
        assert backup.state(clinic.settings, "backup").get("result") != "success"
    result = clinic.run("run")
    assert result["result"] == "success"
    assert clinic.running()


# --- restore -----------------------------------------------------------------------------------
def test_in_place(clinic: Clinic) -> None:
    clinic.run("run")
    clinic.run("ledger")
    before = clinic.files()
    after = [clinic.store(study="2.5", aet="US9"), clinic.store(study="1.2.0", aet="US0")]
    clinic.run("ledger")
    lost = clinic.store(study="2.6", aet="US9")  # only the index that is set aside knows it
    for path in list(backup.images(clinic.storage))[:3]:
        path.unlink()
    (clinic.home / "etc/ca.key").write_text("other\n")
    would = clinic.run("restore", "--dry-run")
    assert [one["study"] for one in would["resend"]] == ["1.2.0", "2.5"]
    result = clinic.run("restore")
    assert [(one["aet"], one["study"]) for one in result["resend"]] == [
        ("US0", "1.2.0"),
        ("US9", "2.5"),
        ("US9", "2.6"),
    ]
    assert clinic.files() == before
    assert clinic.running()
    assert (clinic.home / "etc/ca.key").read_text() == "key\n"
    # nothing is deleted
    aside = Path(result["set_aside"])
    assert len(list(backup.images(aside))) >= len(after)
    assert next(aside.rglob("ca.key")).read_text() == "other\n"
    assert not (clinic.directory / "restore.json").exists()
    assert lost
    assert clinic.run("run")["result"] == "success"


def test_onto_a_new_machine(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic.run("run")
    before = clinic.files()
    clinic.store(study="2.5", aet="US9")
    clinic.run("ledger")
    clinic.systemctl("stop")
    for name in ("db", "backup", "etc"):
        shutil.rmtree(clinic.home / name)
    clinic.storage.mkdir()
    (clinic.storage / ".orthanc-storage").write_text("here\n")
    clinic.started()  # as the deploy leaves it: empty
    result = clinic.run("restore")
    assert clinic.files() == before
    assert [one["study"] for one in result["resend"]] == ["2.5"]
    assert (clinic.home / "etc/ca.key").read_text() == "key\n"


def test_a_restore_that_is_killed_goes_on(clinic: Clinic) -> None:
    clinic.run("run")
    before = clinic.files()
    for wait in (0.4, 1.0, 1.6, 2.0, 2.4, 2.8):
        clinic.store(study="2.5")
        with subprocess.Popen(clinic.command("restore"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as one:
            time.sleep(wait)
            one.kill()
        end = time.monotonic() + 60
        while (clinic.directory / "restore.json").exists():
            phase = backup.state(clinic.settings, "restore").get("phase")
            if phase == "fetch":  # production was not touched yet
                break
            assert time.monotonic() < end, phase
            time.sleep(0.1)
        backup.Rest(clinic.settings).awaited()
    clinic.run("restore")
    assert clinic.files() == before


def test_into_a_directory(clinic: Clinic, tmp_path: Path) -> None:
    clinic.run("run")
    result = clinic.run("restore", "--target", str(tmp_path / "scratch"))
    data = Path(result["data"])
    assert {path.name for path in backup.images(data)} == set(clinic.files())
    assert backup.counts_of(data / "index") == result["counts"]
    assert "not empty" in clinic.refused("restore", "--target", str(tmp_path / "scratch"))


def test_what_came_after_the_moment_goes_aside(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = backup.taken

    def stored_before(settings: Any, *others: Any) -> Any:
        clinic.store()
        return real(settings, *others)

    monkeypatch.setattr(backup, "taken", stored_before)
    clinic.directory.mkdir()
    assert backup.backup(clinic.settings)["counts"]["instances"] == 12
    target = tmp_path / "scratch"
    data = Path(clinic.run("restore", "--target", str(target))["data"])
    assert len(list(backup.images(data))) == 12
    assert len(list((target / "not-in-the-index").iterdir())) == 1


def test_an_older_orthanc_is_refused(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic.run("run")
    monkeypatch.setenv("STAND_IN_VERSION", "Orthanc 1.10.1")
    assert "1.12.7, and 1.10.1 is installed" in clinic.refused("restore")


def test_a_snapshot_without_an_attachment(clinic: Clinic) -> None:
    missing = next(backup.images(clinic.storage))
    missing.unlink()
    clinic.refused("run")
    identity = clinic.run("list")["snapshots"][0]["id"]
    assert "0 snapshots are 'latest'" in clinic.refused("restore")
    assert missing.name in clinic.refused("restore", "--snapshot", identity)
    clinic.run("restore", "--snapshot", identity, "--incomplete")
    assert missing.name not in clinic.files()
    assert len(clinic.files()) == 11


def test_a_damaged_repository_is_refused(clinic: Clinic) -> None:
    clinic.run("run")
    for path in (clinic.home / "repository/data").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:-100])
    before = clinic.files()
    assert clinic.refused("restore")
    assert clinic.files() == before
    assert clinic.running()


# --- ledger, restore check, reconcile ----------------------------------------------------------
def test_the_ledger_survives_the_machine(clinic: Clinic) -> None:
    clinic.run("run")
    clinic.store(study="2.5", aet="US9")
    assert clinic.run("ledger")["studies"] == 1
    assert clinic.run("ledger")["studies"] == 0
    assert len(backup.snapshots(clinic.settings, "ledger")) == 1
    (day,) = (clinic.directory / "ledger").glob("*.csv")
    assert [(one.aet, one.study, one.accession) for one in backup.studies_read(day)] == [("US9", "2.5", "A1")]


def test_the_ledger_without_its_repository(clinic: Clinic) -> None:
    clinic.run("run")
    clinic.store()
    (clinic.home / "repository").rename(clinic.home / "away")
    assert "restic backup" in clinic.run("ledger")["reason"]
    (clinic.home / "away").rename(clinic.home / "repository")
    assert clinic.run("ledger")["unsent_since"] == 0
    assert len(backup.snapshots(clinic.settings, "ledger")) == 1


def test_the_restore_check(clinic: Clinic) -> None:
    clinic.run("run")
    clinic.store()
    before = clinic.pid
    result = clinic.run("check")
    assert (result["result"], result["verified"], result["of"]) == ("success", 12, 12)
    assert result["recovery_seconds"] > 0
    assert clinic.pid == before
    assert not (clinic.home / "scratch/orthanc-restore-check").exists()
    state = json.loads((clinic.directory / "restore_check.json").read_text())
    assert state["result"] == "success"


def test_the_restore_check_within_a_bound(clinic: Clinic) -> None:
    clinic.run("run")
    index = (clinic.directory / "staging/index").stat().st_size
    clinic.configuration["scratch_bytes"] = 2 * index + 10_000
    result = clinic.run("check")
    assert 1 <= result["verified"] < 12


def flipped(clinic: Clinic) -> Path:
    path: Path = next(backup.images(clinic.storage))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    return path


def test_the_restore_check_finds_a_flipped_byte(clinic: Clinic) -> None:
    path = flipped(clinic)
    clinic.run("run")
    assert f"{path.name} has another MD5" in clinic.refused("check")
    state = json.loads((clinic.directory / "restore_check.json").read_text())
    assert state["result"] == "failed"
    assert path.name in state["reason"]
    assert not (clinic.home / "scratch/orthanc-restore-check").exists()


def test_a_killed_restore_check_leaves_nothing(clinic: Clinic) -> None:
    clinic.run("run")
    with subprocess.Popen(clinic.command("check"), stderr=subprocess.DEVNULL) as program:
        time.sleep(1.8)
        program.kill()
    end = time.monotonic() + 20
    while (clinic.home / "scratch/orthanc-restore-check").exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_reconcile_reports_and_repairs(clinic: Clinic) -> None:
    assert clinic.run("reconcile")["attachments"] == 12
    altered, truncated, missing = list(backup.images(clinic.storage))[:3]
    assert altered == flipped(clinic)
    truncated.write_bytes(b"")
    missing.unlink()
    orphan = clinic.storage / "ab/cd/abcd1234-0000-4000-8000-000000000000"
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.write_bytes(b"\0" * 128 + b"DICM")
    young = orphan.with_name("abcd1234-0000-4000-8000-000000000001")
    young.write_bytes(b"still on its way into the index")
    os.utime(orphan, (0, 0))
    result = clinic.run("reconcile", code=1)
    relative = [str(path.relative_to(clinic.storage)) for path in (altered, truncated, missing, orphan)]
    assert [result[kind] for kind in ("altered", "truncated", "missing", "orphaned")] == [[one] for one in relative]
    assert orphan.exists()
    repaired = clinic.run("reconcile", "--repair", code=1)["repaired"]
    assert repaired == {orphan.name: "imported"}
    assert not orphan.exists()
    assert [path.name for path in clinic.storage.glob(".quarantine-*/*")] == [orphan.name]
    assert clinic.run("reconcile", code=1)["orphaned"] == []


# --- the command -------------------------------------------------------------------------------
def test_wrong_usage(clinic: Clinic) -> None:
    done = subprocess.run(clinic.command("frobnicate"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    done = subprocess.run(clinic.command("restore", "--help"), capture_output=True, text=True, check=False)
    assert "--dry-run" in done.stdout


def test_the_manifest_is_the_index_s(clinic: Clinic) -> None:
    clinic.run("run")
    manifest = json.loads((clinic.directory / "staging/manifest.json").read_text())
    with contextlib.closing(sqlite3.connect(clinic.directory / "staging/index")) as database:
        assert (
            manifest["counts"]["instances"]
            == database.execute("SELECT COUNT(*) FROM Resources WHERE resourceType = 4").fetchone()[0]
        )
    rows = backup.attachments_read((clinic.directory / "staging/attachments.csv").read_text())
    assert {one.uuid for one in rows} == set(clinic.files())
