#!/usr/bin/env python3
"""What the model does on its machine: a JSON array [operation, arguments] a line in, a JSON object a line out.

It lies beside held.py, and needs pydicom, pynetdicom and faketime. An operation is a method of Machine.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
import zlib
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import held
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage
from pynetdicom import AE
from pynetdicom.dsutils import encode

STORAGE, OWN, REPOSITORY = Path("/var/lib/orthanc/db"), Path("/var/lib/orthanc-backup"), Path("/srv/backup")
WORK = Path("/var/lib/orthanc/model")  # on the disk of the images: a clone and what is set aside move by renames
PROGRAM, SITE, AET = "/usr/local/sbin/orthanc-backup", Path("/etc/orthanc/site/orthanc.json"), "US1"
ROOT = "1.2.826.0.1.3680043.8.498.20"
LATER = 400  # days by which the wrong clock is ahead
# restic takes its time from the kernel: only its own option is believed
# where the monotonic clock is left alone, Debian 12's libfaketime 0.9.10 refuses each time.sleep() with EINVAL
SLEEP = """\
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds)
"""
RESTIC = """#!/bin/sh
if [ "$1" = backup ]; then shift; exec /usr/bin/restic backup --time "$(date '+%Y-%m-%d %H:%M:%S')" "$@"; fi
exec /usr/bin/restic "$@"
"""
# backups give way to everybody, and other tests run beside
NICE = """#!/bin/sh
shift 2
exec /usr/bin/nice -n $((0 - $(/usr/bin/nice))) "$@"
"""
AGED = 300  # seconds: a repair leaves alone what was written a moment ago


def sh(*command: str, check: bool = True, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    assert not check or done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout.strip()


def image_of(study: int, number: int, pixels: int) -> Dataset:
    """An ultrasound image of 16 x 16; `pixels` seeds them."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.{study}.1.{number}"
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{ROOT}.{study}", f"{ROOT}.{study}.1"
    image.AccessionNumber, image.PatientID = f"A{study}", f"P{study}"
    image.PatientName, image.Modality = f"MODEL^{study}", "US"
    image.Rows = image.Columns = 16
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.InstanceNumber = number
    image.PixelData = Random(f"{study} {number} {pixels}").randbytes(256)
    image["PixelData"].VR = "OB"
    return image


class Machine:
    """One Orthanc with its backups."""

    def __init__(self, user: str, address: str) -> None:
        self.user, self.address = user, address
        self.docker = not Path("/usr/sbin/Orthanc").exists()
        self.settings = json.loads(Path("/etc/orthanc-backup.json").read_text())
        self.run_seconds = 2.0

    # --- Orthanc -----------------------------------------------------------------------------
    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", 8042, timeout=60)
        headers = {"Authorization": "Basic " + base64.b64encode(self.user.encode()).decode()}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def service(self, verb: str) -> None:
        if self.docker:
            sh("docker", verb, "orthanc")
        else:
            sh("systemctl", "reset-failed", "orthanc", check=False)  # a clinic does not start it so often
            sh("systemctl", verb, "orthanc")
        if verb != "stop":
            self.awaited()

    def awaited(self) -> None:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/changes?last")[0] == 200:
                    return
            assert time.monotonic() < end, "Orthanc does not answer"
            time.sleep(0.03)

    def configured(self, compression: bool) -> None:
        options = json.loads(SITE.read_text())
        if options.get("StorageCompression", False) != compression:
            options["StorageCompression"] = compression
            SITE.write_text(json.dumps(options))  # in place: it is mounted into the container

    # --- a sequence begins -------------------------------------------------------------------
    def prepare(self) -> dict[str, Any]:
        """The machine before its first image; the repository's key, for the controller to make it cheap."""
        timers = [
            f"orthanc-{name}.timer" for name in ("backup", "ledger", "restore-check", "monitor", "disk", "reconcile")
        ]
        for line in sh("systemctl", "list-units", "--all", "--plain", "--no-legend", "orthanc*.timer").splitlines():
            timers.append(line.split()[0])
        sh("systemctl", "stop", *dict.fromkeys(timers), check=False)
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        self.service("stop")
        self.configured(False)
        for program, content in (
            (WORK / "bin/nice", NICE),
            (WORK / "clock/restic", RESTIC),
            (WORK / "clock/sitecustomize.py", SLEEP),
        ):
            program.parent.mkdir(exist_ok=True)
            program.write_text(content)
            program.chmod(0o755)
        os.environ["PATH"] = f"{WORK}/bin:{os.environ['PATH']}"
        for path in STORAGE.iterdir():
            if path.name not in (".orthanc-storage", ".orthanc-version"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for directory in (OWN, REPOSITORY):
            self.emptied(directory)
        self.service("start")
        sh(PROGRAM, "init")
        self.service("stop")
        (WORK / "template").mkdir()
        for directory in (STORAGE, OWN, REPOSITORY):
            sh("cp", "-a", str(directory), str(WORK / "template" / directory.name))
        self.service("start")
        (key,) = (REPOSITORY / "keys").iterdir()
        password = Path(self.settings["password_file"]).read_text().strip()
        return {"key": key.read_text(), "password": password}

    def cheap(self, key: str) -> None:
        """The repository opens with this key, which costs no second of each call."""
        keys = WORK / "template" / REPOSITORY.name / "keys"
        for path in keys.iterdir():
            path.unlink()
        (keys / hashlib.sha256(key.encode()).hexdigest()).write_text(key)

    def emptied(self, directory: Path) -> None:
        for path in directory.iterdir() if directory.exists() else ():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def reset(self) -> None:
        self.service("stop")
        for left in ("clone", "true", "lost", "target"):
            shutil.rmtree(WORK / left, ignore_errors=True)
        self.configured(False)
        for directory in (STORAGE, OWN, REPOSITORY):
            self.emptied(directory)
            sh("cp", "-a", f"{WORK / 'template' / directory.name}/.", f"{directory}/")
        self.service("start")

    # --- devices and people ------------------------------------------------------------------
    def store(self, images: list[list[int]]) -> list[dict[str, Any]]:
        """Each is [study, number, pixels]; the answer's status, -1 without one."""
        device = AE(ae_title=AET)
        device.add_requested_context(UltrasoundImageStorage, ExplicitVRLittleEndian)
        device.acse_timeout = device.dimse_timeout = device.network_timeout = 30
        association = device.associate(self.address, 4242, ae_title="ORTHANC", bind_address=(self.address, 0))
        found = []
        for of in images:
            image = image_of(*of)
            status = -1
            with contextlib.suppress(RuntimeError, ValueError):
                status = association.send_c_store(image).get("Status", -1)
            digest = hashlib.md5(encode(image, False, True) or b"", usedforsecurity=False).hexdigest()
            found.append({"uid": str(image.SOPInstanceUID), "status": status, "digest": digest})
        if association.is_established:
            association.release()
        return found

    def identifier(self, uid: str) -> str:
        for found in json.loads(self.ask("POST", "/tools/lookup", uid.encode())[1]):
            if found["Type"] == "Instance":
                return str(found["ID"])
        return ""

    def delete(self, uid: str) -> int:
        return self.ask("DELETE", f"/instances/{self.identifier(uid)}")[0]

    def delete_changes(self) -> int:
        return self.ask("DELETE", "/changes")[0]

    # --- what is there -----------------------------------------------------------------------
    def file_of(self, uid: str) -> Path | None:
        """On the disk, whether it is there or not; None where Orthanc does not know the image."""
        identifier = self.identifier(uid)
        status, info = self.ask("GET", f"/instances/{identifier}/attachments/dicom/info") if identifier else (404, b"")
        if status != 200:
            return None
        uuid = str(json.loads(info)["Uuid"])
        return STORAGE / uuid[:2] / uuid[2:4] / uuid

    def readable(self, uids: list[str]) -> dict[str, str]:
        """What Orthanc knows and gives out, and lies on the disk, bit by bit: the MD5 by SOP Instance UID."""
        found = {}
        for uid in uids:
            file = self.file_of(uid)
            if file is None:
                continue
            on_disk = digest_of(file)
            status, body = self.ask("GET", f"/instances/{self.identifier(uid)}/file")
            given = held.digest(body) if status == 200 else f"status {status}"
            found[uid] = on_disk if on_disk == given else f"disk {on_disk}, given out {given}"
        return found

    def lying(self) -> list[str]:
        """The MD5 of each data set that lies in the archive's directories, known to the index or not."""
        return [digest_of(path) for path in STORAGE.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*") if path.is_file()]

    def aside(self, digests: list[str]) -> dict[str, list[str]]:
        """Where else bytes of these MD5s lie, for a person who reads of a loss."""
        found: dict[str, list[str]] = {}
        for place in (STORAGE, OWN, WORK):
            for path in place.rglob("*"):
                if path.is_file() and (digest := digest_of(path)) in digests:
                    found.setdefault(digest, []).append(str(path))
        return found

    # --- harm --------------------------------------------------------------------------------
    def harm(self, uid: str, how: str) -> bool:
        file = self.file_of(uid)
        if file is None or not file.exists():
            return False
        if how == "lose":
            file.unlink()
        elif how == "truncate":
            os.truncate(file, file.stat().st_size // 2)
        else:
            content = bytearray(file.read_bytes())
            content[-5] ^= 0xFF
            file.write_bytes(content)
        return True

    def lose_index(self) -> None:
        """The index is gone, the images lie there."""
        self.service("stop")
        lost = WORK / "lost" / str(time.time_ns())
        lost.mkdir(parents=True)
        for path in STORAGE.glob("index*"):
            path.rename(lost / path.name)
        self.service("start")
        self.age()

    def age(self) -> None:
        """What lies there was written some minutes ago."""
        for path in STORAGE.glob("??/??/*"):
            if path.is_file():
                os.utime(path, (time.time() - AGED,) * 2)

    def compress(self, on: bool) -> None:
        self.service("stop")
        self.configured(on)
        self.service("start")

    def clone(self) -> None:
        """The machine's disk as of this moment, beside it."""
        shutil.rmtree(WORK / "clone", ignore_errors=True)
        (WORK / "clone").mkdir()
        command = ("docker", "inspect", "--format", "{{.State.Pid}}", "orthanc")
        pid = int(sh(*command) if self.docker else sh("systemctl", "show", "-p", "MainPID", "--value", "orthanc"))
        os.kill(pid, signal.SIGSTOP)
        try:
            for directory in (STORAGE, OWN):
                sh("cp", "-a", str(directory), str(WORK / "clone" / directory.name))
        finally:
            os.kill(pid, signal.SIGCONT)

    def in_clone(self, *arguments: str) -> dict[str, Any]:
        """The clone is started for a test, and does this; then the true one goes on."""
        self.service("stop")
        self.swap("clone", "true")
        try:
            self.service("start")
            return self.program(*arguments)
        finally:
            self.service("stop")
            self.swap("true", "clone")
            self.service("start")

    def swap(self, new: str, old: str) -> None:
        for directory in (STORAGE, OWN):
            (WORK / old / directory.name).mkdir(parents=True, exist_ok=True)
            for source, target in (
                (directory, WORK / old / directory.name),
                (WORK / new / directory.name, directory),
            ):
                for path in source.iterdir():
                    sh("mv", str(path), str(target / path.name))

    # --- the product -------------------------------------------------------------------------
    def environment(self, days: int) -> dict[str, str]:
        if not days:
            return {}
        return {
            "PATH": f"{WORK}/clock:{os.environ['PATH']}", "FAKETIME": f"+{days}d", "NO_FAKE_STAT": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": f"{WORK}/clock",
            "LD_PRELOAD": f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketime.so.1",
        }  # fmt: skip

    def program(self, *arguments: str, days: int = 0) -> dict[str, Any]:
        """What orthanc-backup answers; with a clock that is so many days ahead."""
        begin = time.monotonic()
        done = subprocess.run(
            [PROGRAM, arguments[0], "--json", *arguments[1:]],
            capture_output=True, text=True, check=False, env={**os.environ, **self.environment(days)}, timeout=300,
        )  # fmt: skip
        seconds = time.monotonic() - begin
        if arguments[0] == "run" and done.returncode == 0:
            self.run_seconds = seconds
        try:
            said = json.loads(done.stdout)
        except ValueError:
            said = {"problems": [done.stdout]}
        return {"status": done.returncode, "said": said, "errors": done.stderr, "seconds": round(seconds, 2)}

    def killed(self, moment: float) -> dict[str, Any]:
        """A backup that is killed when so much of its usual time has gone by."""
        process = subprocess.Popen([PROGRAM, "run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(moment * self.run_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        status = process.wait()
        self.settled()
        return {"status": status}

    def during(self, moment: float, what: str, argument: Any) -> dict[str, Any]:
        """A backup, and what is done when so much of its usual time has gone by."""
        with subprocess.Popen(
            [PROGRAM, "run", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment * self.run_seconds)
            done = {"stored": self.store([argument])} if what == "store" else {"deleted": self.delete(argument)}
            out, errors = process.communicate()
        return {"status": process.returncode, "said": out, "errors": errors, **done}

    def settled(self) -> None:
        """What a killed program left behind has ended: restic, and the watchdog that lets Orthanc go on."""
        end = time.monotonic() + 60
        while sh("pgrep", "-f", "timeout -s KILL|^restic |/restic ", check=False):
            assert time.monotonic() < end, "something goes on"
            time.sleep(0.05)
        self.awaited()

    def restored(self, snapshot: str) -> dict[str, Any]:
        """A snapshot in a directory of its own: what is said, and the images there."""
        target = WORK / "target"
        shutil.rmtree(target, ignore_errors=True)
        said = self.program("restore", "--snapshot", snapshot, "--target", str(target))
        if said["status"] == 0:
            said["held"] = directory(Path(said["said"]["data"]))
        shutil.rmtree(target, ignore_errors=True)
        return said


def digest_of(file: Path) -> str:
    """Of the data set; of compressed files as well, which zlib wrote behind their size."""
    try:
        content = file.read_bytes()
    except OSError:
        return "missing"
    if content[128:132] != b"DICM":
        with contextlib.suppress(zlib.error):
            content = zlib.decompress(content[8:])
    return held.digest(content)


def directory(path: Path) -> dict[str, str]:
    """Every image of an index and its files, without Orthanc."""
    query = (
        "SELECT value, uuid FROM AttachedFiles JOIN MainDicomTags USING (id)"
        " WHERE fileType = 1 AND tagGroup = 8 AND tagElement = 24"
    )
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}/index?immutable=1", uri=True)) as database:
        rows = [*database.execute(query)]
    return {uid.strip("\0 "): digest_of(path / uuid[:2] / uuid[2:4] / uuid) for uid, uuid in rows}


def main() -> None:
    machine = Machine(*sys.argv[1:])
    for line in sys.stdin:
        name, arguments, options = json.loads(line)
        begin = time.monotonic()
        try:
            answer = {"result": getattr(machine, name)(*arguments, **options)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answer["seconds"] = round(time.monotonic() - begin, 3)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
