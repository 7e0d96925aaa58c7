# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""C-ECHO, C-STORE and worklist queries with DCMTK's tools, and data sets for them.

Debian's tools are called by full path: Python packages install others with the same names. Their output counts, not
their exit code: findscu and echoscu exit with 0 even if a request is refused. Nothing here imports Ansible.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from ..core.process import HUNG, MISSING, Finished, run_program

DCMTK_SECONDS = 300
ACCEPTED, REJECTED, ABORTED, FAILED, UNREACHABLE = "accepted", "rejected", "aborted", "failed", "unreachable"
UID_ROOT = "2.25."
EXPLICIT = "1.2.840.10008.1.2.1"  # Explicit VR Little Endian, which every server can decode to
DERIVATION, PIXELS = "00082111", "7FE00010"
# DICOM PS3.4 B.2.3 and C.4.1.1.4, by DCMTK's names
STATUS = {"Refused: OutOfResources": "A700", "Error: DataSetDoesNotMatchSOPClass": "A900"}
RESPONSE = re.compile(r"Received (?:Echo|Store|Final Find) Response \((.*)\)")
REASON = re.compile(r"Reason: (.*)")
UNREACHED = re.compile(r"Association Request Failed: [0-9a-f:]+ (?:TCP Initialization Error: )?(.*)")


class Answer(NamedTuple):
    """The outcome of a request: one of the words above, and the peer's reason."""

    outcome: str
    detail: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}" if self.detail else self.outcome


def parse_answer(said: str) -> Answer:
    """The outcome of one request, from the output of a DCMTK tool with -v."""
    if "Association Rejected" in said:
        reason = REASON.search(said)
        return Answer(REJECTED, reason[1].strip() if reason else "")
    responses = RESPONSE.findall(said)
    if responses and responses[-1] == "Success":
        return Answer(ACCEPTED, "")
    if responses:
        name = responses[-1]
        return Answer(FAILED, f"status {STATUS[name]} ({name})" if name in STATUS else f"status {name}")
    if "No Acceptable Presentation Contexts" in said or "No presentation context" in said:
        return Answer(REJECTED, "No Acceptable Presentation Contexts")
    if "timeout in non-blocking mode" in said:
        return Answer(FAILED, "no answer in time")
    reached = UNREACHED.search(said)
    if reached and "aborted" not in reached[1]:
        return Answer(UNREACHABLE, reached[1].strip())
    if "aborted" in said.lower():
        return Answer(ABORTED, "the peer ended the association")
    lines = [line for line in said.strip().splitlines() if line[:2] in ("E:", "F:")] or said.strip().splitlines()
    return Answer(FAILED, lines[-1][2:].strip() if lines else "the tool said nothing")


class Scu(NamedTuple):
    """A client (DICOM PS3.4: service class user): the called peer, and the calling AE title."""

    host: str
    port: int
    called: str
    calling: str
    tls: tuple[str, ...] = ()  # DCMTK's options
    timeout: int = 10  # seconds to wait for a connection
    patience: int = 60  # seconds to wait for each answer

    def call(self, tool: str, *arguments: str) -> str:
        title = ("-aet", self.calling, "-aec", self.called)
        limits = ("-to", str(self.timeout), "-ta", str(self.patience), "-td", str(self.patience))
        done = run_dcmtk(tool, "-v", *title, *limits, *self.tls, self.host, str(self.port), *arguments)
        return done.said

    def echo(self) -> Answer:
        """C-ECHO, DICOM PS3.4 A.4."""
        return parse_answer(self.call("echoscu"))

    def store(self, path: Path | str) -> Answer:
        """C-STORE of one file, DICOM PS3.4 B.2."""
        return parse_answer(self.call("storescu", str(path)))

    def find_worklist(self, keys: dict[str, str]) -> tuple[Answer, list[dict[str, Any]]]:
        """C-FIND of the Modality Worklist, DICOM PS3.4 K.4: and the items, by the JSON model of PS3.18 F.2.

        `keys` are DCMTK's paths, such as PatientName or ScheduledProcedureStepSequence[0].Modality.
        """
        asked = [argument for name, value in keys.items() for argument in ("-k", f"{name}={value}" if value else name)]
        with tempfile.TemporaryDirectory(prefix="orthanc-worklist-") as answers:
            answer = parse_answer(self.call("findscu", "-W", "-X", "-od", answers, *asked))
            return answer, [data_set(path) for path in sorted(Path(answers).iterdir())]


def tls_options(ca: str, certificate: str = "", key: str = "") -> tuple[str, ...]:
    """DCMTK's options for TLS (DICOM PS3.15 B), with or without a client certificate."""
    return (*(("+tls", key, certificate) if certificate else ("+tla",)), "+cf", ca)


def run_dcmtk(tool: str, *arguments: str) -> Finished:
    """Runs one of Debian's tools. Raises OSError if it is not installed or hangs."""
    # without it Nagle's algorithm adds 40 ms to each message
    environment = {**os.environ, "TCP_NODELAY": "1"}
    done = run_program(f"/usr/bin/{tool}", *arguments, seconds=DCMTK_SECONDS, environment=environment)
    if done.status in (HUNG, MISSING):
        raise OSError(done.errors)
    return done


# --- data sets ----------------------------------------------------------------------------------
def new_uid() -> str:
    """A new UID (DICOM PS3.5 B.2): 2.25. and a random number."""
    return UID_ROOT + str(secrets.randbits(127))


def make_data_set(text: str, path: Path) -> Path:
    """Writes a DICOM file from a text dump and returns its path. Raises RuntimeError if dump2dcm fails."""
    dump = path.with_name(f"{path.name}.txt")
    dump.write_text(text, encoding="utf-8")
    done = run_dcmtk("dump2dcm", "+te", str(dump), str(path))
    dump.unlink()
    if done.status:
        raise RuntimeError(f"dump2dcm: {done.errors.strip()}")
    return path


def data_set(path: Path | str) -> dict[str, Any]:
    """The data set of a file without its meta header, including pixel data, in the JSON model of PS3.18 F.2."""
    done = run_dcmtk("dcm2json", str(path))
    if done.status:
        raise RuntimeError(f"dcm2json: {done.errors.strip()}")
    return {tag: value for tag, value in json.loads(done.output).items() if not tag.startswith("0002")}


def forget_syntax(found: dict[str, Any]) -> dict[str, Any]:
    """A data set without what a lossless transfer syntax leaves in it: a word on the compression, and pixel data of 8
    bits as OW, which stands for the same bytes as OB (DICOM PS3.5 8.2, A.1)."""
    kept = {tag: item for tag, item in found.items() if tag != DERIVATION}
    return {**kept, PIXELS: {**kept[PIXELS], "vr": "OW"}} if PIXELS in kept else kept


def value(item: dict[str, Any], tag: str) -> str:
    """The first value of an attribute; empty if it has none."""
    return str((item.get(tag, {}).get("Value") or [""])[0])


# --- for modules --------------------------------------------------------------------------------
ARGUMENTS: dict[str, dict[str, Any]] = {
    "host": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": 4242},
    "called_aet": {"type": "str", "required": True},
    "calling_aet": {"type": "str", "required": True},
    "timeout": {"type": "int", "default": 10},
    "ca_file": {"type": "path"},
    "certificate_file": {"type": "path"},
    "key_file": {"type": "path"},
}


def peer(asked: dict[str, Any]) -> Scu:
    """The client for a module's parameters."""
    tls = (
        tls_options(asked["ca_file"], asked["certificate_file"] or "", asked["key_file"] or "")
        if asked["ca_file"]
        else ()
    )
    return Scu(asked["host"], asked["port"], asked["called_aet"], asked["calling_aet"], tls, asked["timeout"])


def end(module: Any, request: str, answer: Answer, **result: Any) -> None:
    """Ends a module with the outcome of its request."""
    result = {"changed": False, "outcome": answer.outcome, "detail": answer.detail, **result}
    if answer.outcome == ACCEPTED:
        module.exit_json(**result)
    asked = module.params
    whom = f"{asked['called_aet']} at {asked['host']}:{asked['port']} as {asked['calling_aet']}"
    module.fail_json(msg=f"{request} to {whom} was not accepted: {answer}", **result)
