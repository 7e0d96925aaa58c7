"""Real clients in containers of their own, and deploys as an operator runs them."""

from __future__ import annotations

import functools
import io
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bed
import pydicom
import yaml
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[2]


def read_platforms(scenario: str, group: str, images: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Name and addresses of a scenario's containers in one group, `orthanc` or `clients`; of these images, or any."""
    content = yaml.safe_load((ROOT / "molecule" / scenario / "molecule.yml").read_text())
    found = [one for one in content["platforms"] if group in one["groups"]]
    return {one["name"]: tuple(one["addresses"]) for one in found if not images or one["image"] in images}


def client_at(place: str) -> str:
    """The client that stands at this place in the scenario that runs: each scenario has clients of its own."""
    return next((name for name in CLIENTS if name.endswith(f"-{place}")), f"orthanc-{place}")


SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
# name of the machine: its address for the clinic's devices, the office and outside
ADDRESSES = {name: found for one in SCENARIOS for name, found in read_platforms(one, "orthanc").items()}
# the inventory is in a directory that Molecule names after the scenario
INVENTORY = Path(os.environ.get("MOLECULE_INVENTORY_FILE", "molecule.default/inventory/ansible_inventory.yml"))
SCENARIO = INVENTORY.parents[1].name.rpartition(".")[2]
CLIENTS = read_platforms(SCENARIO, "clients")
# of these, those with an SSH server
REACHED = read_platforms(SCENARIO, "clients", ("client", "repository"))
SCANNER, UNLISTED, OFFICE, OUTSIDE = map(client_at, ("us2", "unlisted", "office", "outside"))
TLS_SCANNER, IT = map(client_at, ("us3", "it"))
HOSTNAME = "pacs.clinic.example"
PASSWORDS = {name: f"scenario-{name}-password" for name in ("it", "viewer", "gateway")}
# the acceptance test and the exposure audit on a machine of the bed
PROVEN = "74 passed, 0 failed"
VIEWER = f"viewer:{PASSWORDS['viewer']}"


def example(name: str = "examples_palette.dcm") -> Path:
    """A real ultrasound image, of those that pydicom brings."""
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path)


def name_of(host: Host | str) -> str:
    return host if isinstance(host, str) else str(host.backend.get_hostname())


@functools.cache
def connection() -> list[str]:
    """The ssh command, with the options by which Ansible and testinfra reach a machine."""
    variables = yaml.safe_load((ROOT / ".config/molecule/hosts.yml").read_text())["orthanc"]["vars"]
    options = shlex.split(variables["ansible_ssh_common_args"])
    return ["env", f"MOLECULE_PROJECT_DIRECTORY={ROOT}", "ssh", *options, "-l", variables["ansible_user"]]


def enter(name: str, *command: str, stdin: bytes = b"", user: str = "root") -> list[str]:
    """How a command is run in a container: over SSH if it can be, which costs a quarter of a `docker exec`."""
    if (name in ADDRESSES or name in REACHED) and user == "root":
        return [*connection(), *([] if stdin else ["-n"]), name, f"cd / && exec {shlex.join(command)}"]
    # Docker can lose an end of input that comes at once: the program would wait
    return ["docker", "exec", *(["-i"] if stdin else []), f"--user={user}", name, *command]


def client(name: str, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        enter(name, *command, stdin=stdin), input=stdin, capture_output=True, check=False, timeout=600
    )


def put(name: str, path: str, content: bytes) -> None:
    assert client(name, "sh", "-c", f"cat > {path}", stdin=content).returncode == 0


def scu(
    name: str, tool: str, aet: str, address: str, *arguments: str, called: str = "ORTHANC", port: int = 4242
) -> tuple[int, str]:
    """Exit code and all that the DICOM client `tool` says; findscu exits 0 when it is refused."""
    done = client(name, tool, "-v", "-to", "5", "-aet", aet, "-aec", called, address, str(port), *arguments)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def inspect(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.check_output("docker inspect orthanc"))[0]
    return found


def answers(host: Host) -> bool:
    return scu(SCANNER, "echoscu", "US2", ADDRESSES[name_of(host)][0])[0] == 0


def https(
    host: Host, name: str, path: str, *arguments: str, user: str = VIEWER, ca: bytes = b""
) -> tuple[int, str, bytes]:
    """Status, content type and body as the client `name` gets them, the CA verified."""
    machine = name_of(host)
    url = path if path.startswith("https:") else f"https://{HOSTNAME}{path}"
    port = urlsplit(url).port or 443
    options = ["--silent", "--show-error", "--max-time", "300", "--cacert", f"/tmp/{machine}.crt"]
    options += ["--resolve", f"{HOSTNAME}:{port}:{ADDRESSES[machine][1]}", *(["--user", user] if user else [])]
    # the body is what curl prints; what it says of it comes last on the other stream
    options += ["--write-out", "%{stderr}\\n%{http_code} %{content_type}", *arguments]
    script = f'cat > /tmp/{machine}.crt && exec curl "$@"'
    certificate = ca or host.file("/etc/nginx/orthanc/ca.crt").content
    done = client(name, "sh", "-c", script, "curl", *options, url, stdin=certificate)
    assert done.returncode == 0, done.stderr
    status, _, kind = done.stderr.decode().splitlines()[-1].partition(" ")
    return int(status), kind, done.stdout


def build_environment(**more: str) -> dict[str, str]:
    """For an ansible-playbook whose output a test reads, in whatever directory it runs."""
    return {
        **os.environ,
        "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        # Molecule asks for colours, which would stand between the words
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        **more,
    }


def start(playbook: str, host: Host | str, settings: dict[str, Any] | None = None, *more: str) -> subprocess.Popen[str]:
    """A playbook on one machine, still running."""
    options = [
        "--inventory",
        str(INVENTORY.parent),
        "--limit",
        name_of(host),
        "--extra-vars",
        json.dumps(settings or {}),
    ]
    return subprocess.Popen(
        ["ansible-playbook", *options, *more, f"clinicops.orthanc.{playbook}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=build_environment(),
    )


def play(playbook: str, host: Host | str, settings: dict[str, Any] | None = None, *more: str) -> tuple[int, str]:
    """Exit code and output (each run of white space one space) of a playbook on one machine."""
    running = start(playbook, host, settings, *more)
    said, _none = running.communicate()
    return running.returncode, " ".join(said.split())


def require_accepted(host: Host) -> None:
    """The whole acceptance test passes on the server."""
    done = host.run("/usr/local/sbin/orthanc-verify run --json")
    report = json.loads(done.stdout)
    assert [check["name"] for check in report["checks"] if not check["passed"]] == []
    assert (done.rc, report["passed"]) == (0, True)
    assert len(report["checks"]) > 40


def wait_for(is_true: Callable[[], Any], what: str, limit: float = 300, *, pause: float = 1) -> None:
    """Until it is true. The limit ends a test that would hang, and judges no speed.

    Each question takes processor time from what is waited for, so the longer it takes, the longer are the pauses, up to
    `pause` seconds. What is true for a moment only needs short ones.
    """
    begin = time.monotonic()
    end = begin + limit
    while not is_true():
        assert time.monotonic() < end, f"{what}: not within {limit} s"
        time.sleep(min(pause, max(0.1, (time.monotonic() - begin) / 4)))


def closed_but_for_devices(host: Host) -> None:
    machine = ADDRESSES[name_of(host)]
    wait_for(lambda: answers(host), "the listed device is let in")
    assert scu(UNLISTED, "echoscu", "US2", machine[0])[0] != 0
    for place, address in ((SCANNER, machine[0]), (UNLISTED, machine[0]), (OFFICE, machine[1]), (OUTSIDE, machine[2])):
        for port in (8042, 4242) if place != SCANNER else (8042,):
            reached = client(place, "curl", "--silent", "--max-time", "2", f"http://{address}:{port}/")
            assert reached.returncode in (7, 28), (place, port)


def content_of(image: pydicom.Dataset) -> bytes:
    """The image as a DICOM file."""
    with io.BytesIO() as buffer:
        image.save_as(buffer)
        return buffer.getvalue()


class Sending:
    """Images on their way from the scanner, one association each, in the background."""

    def __init__(self, address: str, count: int) -> None:
        image = pydicom.dcmread(example())
        image.StudyInstanceUID, image.SeriesInstanceUID, image.PatientID = generate_uid(), generate_uid(), "MANY"
        self.file = f"/tmp/acknowledged-{image.StudyInstanceUID}"
        files = {}
        for _ in range(count):
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            files[f"{image.SOPInstanceUID}.dcm"] = content_of(image)
        put(SCANNER, "/tmp/many.tar", bed.pack(files))
        send = (
            f"rm -rf /tmp/many {self.file}; mkdir /tmp/many; tar -C /tmp/many -xf /tmp/many.tar; touch {self.file}; "
            f"refused=0; for image in /tmp/many/*; do storescu -xe -to 5 -aet US2 -aec ORTHANC {address} 4242 $image"
            f" && basename $image .dcm >> {self.file} || refused=$((refused + 1));"
            " [ $refused -lt 3 ] || break; done"
        )
        self.process = subprocess.Popen(["docker", "exec", SCANNER, "sh", "-c", send], stderr=subprocess.DEVNULL)

    def log(self) -> list[str]:
        return client(SCANNER, "cat", self.file).stdout.decode().split()

    def acknowledged(self) -> int:
        return len(self.log())

    def finish(self) -> list[str]:
        """SOP Instance UIDs of the images that Orthanc said it has, when all are sent or three were refused."""
        self.process.wait(timeout=300)
        return self.log()


def ask(host: Host, path: str) -> Any:
    """Orthanc's REST API on its own machine, as the administrator."""
    host.check_output("command -v curl || apt-get install -qq -y curl")
    return json.loads(host.check_output(f"curl --silent --user it:{PASSWORDS['it']} 'http://127.0.0.1:8042{path}'"))


def instances(host: Host) -> dict[str, str]:
    """SOP Instance UID: Orthanc's own identifier, of each image."""
    found = ask(host, "/instances?expand&limit=10000&since=0")
    return {item["MainDicomTags"]["SOPInstanceUID"]: item["ID"] for item in found}


def verified(host: Host, identifiers: list[str]) -> list[str]:
    """What Orthanc's own MD5 check says of the file of each instance: 200 when it is intact."""
    urls = "\n".join(
        f"url = http://127.0.0.1:8042/instances/{item}/attachments/dicom/verify-md5" for item in identifiers
    )
    put(name_of(host), "/tmp/verify", urls.encode())
    curl = f"curl --silent --config /tmp/verify --user it:{PASSWORDS['it']} --data ''"
    return str(host.check_output(f"{curl} --write-out '\\n%{{http_code}}\\n' | grep -E '^[0-9]{{3}}$'")).split()


def ask_index(name: str, *statements: str, inside: tuple[str, ...] = ()) -> dict[str, Any]:
    """Statistics of the index beside its Orthanc, and how SQLite would answer these statements (agents/plans.py).

    `inside` is the beginning of a command that asks the SQLite of a container."""
    script = (ROOT / "tests/agents/plans.py").read_text()
    command = [*inside, "python3", "-c", script, "/var/lib/orthanc/db/index"]
    asked = client(name, *command, stdin=json.dumps(statements).encode())
    assert asked.returncode == 0, asked.stderr
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def fingerprint(host: Host) -> str:
    """Everything that a deploy would write, and when each service started, on a virgin machine too."""
    written = "/etc/orthanc /etc/nginx /etc/nftables.d /etc/systemd/system /etc/passwd /var/lib/orthanc /srv"
    packages = "/var/lib/dpkg/status /var/lib/apt/lists"
    # a directory's own time moves with the index's journal; a new file shows as itself
    printf = "-type d -printf '%p %m %u %g\\n' -o -printf '%p %m %u %g %T@\\n'"
    moving = "-e /var/lib/orthanc/db/ -e /db-v6/ -e /var/lib/orthanc/tmp"
    files = host.run(f"find {written} {packages} {printf} 2>/dev/null | grep -v {moving} | sort").stdout
    services = host.run("systemctl show --property ExecMainStartTimestampMonotonic orthanc nginx").stdout
    rules = host.check_output("nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'")
    return f"{files}{services}{rules}"
