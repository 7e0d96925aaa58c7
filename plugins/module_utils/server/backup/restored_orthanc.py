# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc's REST API: of production, and of a second Orthanc that reads restored data beside it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..core.errors import Refused
from ..core.files import hash_file, hash_md5
from ..core.process import run_at_end, run_program
from ..orthanc.api import Account, Api
from .manifest import Attachment, Defect, Proof, describe_defects, find_defects
from .output import show_progress
from .restic import fetch_files, fetch_many
from .settings import ANOTHER, COUNTED, SECOND, WITHOUT, Settings, join_below, set_aside


def require_counts(api: Api, counts: dict[str, int], more: bool = False) -> None:
    """Refuses unless it has what the manifest has; production may have received more."""
    found = api.get("/statistics")
    for name in COUNTED:
        number = found[f"Count{name.capitalize()}"]
        if number < counts[name] or (number > counts[name] and not more):
            what = f"Orthanc counts {number} {name} in the restored data instead of {counts[name]}"
            raise Refused(f"{what}. Remedy: make a new backup, or {ANOTHER}.")


def remove_images(api: Api, instances: set[str], counts: dict[str, int]) -> dict[str, int]:
    """The counts after rows whose file is not there went: Orthanc would answer "already stored" to their image."""
    for number, one in enumerate(sorted(instances), 1):
        show_progress(number / len(instances), "clear")
        status = api.ask("DELETE", f"/instances/{one}")[0]
        if status not in (200, 404) or api.ask("GET", f"/instances/{one}")[0] != 404:
            what = f"Orthanc answers {status} when an image without its file is removed from the restored index"
            raise Refused(f"{what}. Remedy: {ANOTHER}.")
    found = api.get("/statistics")
    return {**counts, **{name: found[f"Count{name.capitalize()}"] for name in COUNTED}}


def require_image(api: Api, one: Attachment, dicomweb: bool) -> str:
    """The path under which it gives an image as it came; Refused where it does not."""
    path = f"/instances/{one.instance}/file"
    if dicomweb:
        tags = api.get(f"/instances/{one.instance}/simplified-tags")
        path = f"/dicom-web/studies/{tags['StudyInstanceUID']}/series/{tags['SeriesInstanceUID']}"
        path += f"/instances/{tags['SOPInstanceUID']}"
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*' if dicomweb else "*/*"
    status, body, kind = api.ask("GET", path, accept=accept)
    boundary = re.search(r'boundary="?([^";]+)', kind)
    if dicomweb and status == 200 and boundary:
        body = body.split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--" + boundary[1].encode())[0]
    if status != 200 or (one.uncompressed_md5 and hash_md5(body) != one.uncompressed_md5):
        what = f"Orthanc answers {status} with other bytes for {one.path} of the restored data"
        raise Refused(f"{what}. Remedy: make a new backup, and run orthanc-backup reconcile.")
    return path


def require_storing(api: Api, storage: Path) -> None:
    """Refuses unless it stores an image that can be read back; the image goes again."""
    image = {"Tags": {"PatientName": "RESTORE^TEST", "PatientID": f"RESTORE-{secrets.token_hex(6)}"}}
    status, body, _unused = api.ask("POST", "/tools/create-dicom", json.dumps(image).encode())
    if status != 200:
        remedy = (
            f"see its log, the owner of {storage}, and whether the monitor's disk guard is on (orthanc-monitor show)"
        )
        raise Refused(f"Orthanc does not store a test image ({status}). Remedy: {remedy}.")
    path = f"/instances/{json.loads(body)['ID']}"
    read, deleted = api.ask("GET", f"{path}/file")[0], api.ask("DELETE", path)[0]
    if (read, deleted) != (200, 200):
        what = f"Orthanc stored a test image, but answers {read} when it is read and {deleted} when it is deleted"
        raise Refused(f"{what}. Remedy: see its log, and the owner of {storage}.")


def assemble_data(
    settings: Settings,
    proof: Proof,
    work: Path,
    wanted: list[Attachment],
    only: Iterable[str] = (),
    incomplete: bool = False,
) -> tuple[Path, list[Defect]]:
    """Index and attachments as Orthanc has them, every size and MD5 verified, and Orthanc's own; what is set aside."""
    show_progress(0, "fetch")
    fetch_files(settings, proof.snapshot, work, only, incomplete)
    data = join_below(work, proof.manifest["storage"])
    data.mkdir(parents=True, exist_ok=True)
    index, restored = data / "index", join_below(work, f"{proof.manifest['staging']}/index")
    what = f"Restored from snapshot {proof.snapshot['short_id']}"
    if not restored.exists() or hash_file(restored) != proof.manifest["index"]["sha256"]:
        raise Refused(f"{what}: the index is altered. Remedy: {ANOTHER}.")
    restored.replace(index)
    for end in ("wal", "shm", "journal"):  # of an attempt that was interrupted
        index.with_name(f"index-{end}").unlink(missing_ok=True)
    defects = find_defects(data, wanted)
    if defects and not incomplete:
        raise Refused(*describe_defects(defects, what, f"orthanc-backup reconcile; {ANOTHER}; or {WITHOUT}"))
    defects = fetch_again(settings, proof, work, wanted, defects)
    for path in [data / one.path for one in defects if (data / one.path).exists()]:
        set_aside(path, data.with_name("damaged"))
    account = settings.account
    for top, directories, files in os.walk(data):
        os.chmod(top, 0o750)
        os.chown(top, account.pw_uid, account.pw_gid)
        for name in files:
            os.chown(f"{top}/{name}", account.pw_uid, account.pw_gid, follow_symlinks=False)
            if not os.path.islink(f"{top}/{name}"):
                os.chmod(f"{top}/{name}", 0o640)
        directories[:] = [name for name in directories if not os.path.islink(f"{top}/{name}")]
    for parent in data.parents:  # the way to it
        parent.chmod(0o711)
        if parent == work:
            break
    return data, defects


def fetch_again(
    settings: Settings, proof: Proof, work: Path, wanted: list[Attachment], defects: list[Defect]
) -> list[Defect]:
    """What cannot be had. restic ends in the same way whether a file is damaged or the repository did not answer, so
    what it did not restore is fetched as long as that brings something."""
    storage, before = proof.manifest["storage"], len(wanted) + 1
    while 0 < len(defects) < before:
        before, paths = len(defects), {one.path for one in defects}
        fetch_many(settings, proof.snapshot, work, [f"{storage}/{one.path}" for one in defects])
        defects = find_defects(join_below(work, storage), [one for one in wanted if one.path in paths])
    return defects


def build_second_command(settings: Settings) -> list[str]:
    """The command of an Orthanc beside production: its account, and nothing that it does not need."""
    account = settings.account
    if settings.method == "package":
        names = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "--no-new-privs"]
        return ["setpriv", *names, "/usr/sbin/Orthanc"]
    own = f"uid={account.pw_uid},gid={account.pw_gid},mode=0750"
    return [
        "docker", "run", "--rm", "--pull=never", f"--name={SECOND}", "--network=host", "--entrypoint=Orthanc",
        f"--user={account.pw_uid}:{account.pw_gid}", "--cap-drop=ALL", "--security-opt=no-new-privileges",
        # the second, since the image's own may be closed to this user
        "--read-only", f"--tmpfs=/tmp:{own}", f"--tmpfs=/var/lib/orthanc:{own}",
        *(f"--volume={path}:{path}" for path in (settings.scratch, settings.storage)),
        settings.image,
    ]  # fmt: skip


def build_stop_command(settings: Settings, pid: int) -> list[str]:
    """The command that ends it."""
    return ["docker", "stop", "--time", "60", SECOND] if settings.method == "docker" else ["kill", str(pid)]


@contextlib.contextmanager
def start_second_orthanc(settings: Settings, data: Path) -> Iterator[tuple[Api, bool]]:
    """An Orthanc of its own on restored data: loopback, no DICOM, no plugin but DICOMweb; whether it has that."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    account = Account(port, "check", secrets.token_hex(16))
    plugins = []
    if settings.orthanc.exists():
        plugins = [one for one in json.loads(settings.orthanc.read_text()).get("Plugins", []) if "DicomWeb" in one]
    options = {
        "Name": "Restore check", "StorageDirectory": str(data), "IndexDirectory": str(data),
        "TemporaryDirectory": str(data), "HttpPort": port, "HttpBindAddresses": ["127.0.0.1"],
        "DicomServerEnabled": False, "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
        "RegisteredUsers": {account.name: account.password}, "Plugins": plugins, "WebDavEnabled": False,
        "SaveJobs": False,
    }  # fmt: skip
    configuration, log = data.with_name("restore-check.json"), data.with_name("restore-check.log")
    configuration.touch(mode=0o600)
    os.chown(configuration, settings.account.pw_uid, -1)
    configuration.write_text(json.dumps(options))
    if settings.method == "docker":  # of a machine whose power went
        run_program("docker", "rm", "--force", SECOND, seconds=None)
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*build_second_command(settings), str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
        run_at_end(86400, *build_stop_command(settings, process.pid)),
    ):
        api = Api(account)
        try:
            api.await_answer(lambda: process.poll() is None)
        except Refused:
            said = " ".join(log.read_text(errors="replace").splitlines()[-3:])
            raise Refused(f"Orthanc does not start on the restored data: {said}. Remedy: {ANOTHER}.") from None
        yield api, bool(plugins)
