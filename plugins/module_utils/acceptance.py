# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A clinic's day with a synthetic patient, played against a running server.

DICOM goes through DCMTK's tools (Debian's, by full path: Python packages bring
others of the same names), DICOMweb through the standard library. Nothing here
imports Ansible.
"""

from __future__ import annotations

import base64
import email
import email.policy
import http.client
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any

UID_ROOT = "2.25."
PATIENT = "ACCEPTANCE^TEST"
US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"

IMAGE = """\
(0008,0016) UI [{sop_class}]
(0008,0018) UI [{sop}]
(0008,0020) DA [20200101]
(0008,0030) TM [120000]
(0008,0050) SH [{accession}]
(0008,0060) CS [US]
(0010,0010) PN [{patient}]
(0010,0020) LO [{accession}]
(0020,000d) UI [{study}]
(0020,000e) UI [{series}]
(0020,0013) IS [1]
(0028,0002) US 1
(0028,0004) CS [MONOCHROME2]
(0028,0010) US 32
(0028,0011) US 32
(0028,0100) US 8
(0028,0101) US 8
(0028,0102) US 7
(0028,0103) US 0
(7fe0,0010) OB {pixels}
"""
WORKLIST = """\
(0008,0005) CS [ISO_IR 192]
(0008,0050) SH [{accession}]
(0010,0010) PN [{patient}]
(0010,0020) LO [{accession}]
(0020,000d) UI [{study}]
(0040,0100) SQ
(fffe,e000) -
(0008,0060) CS [US]
(0040,0001) AE [{aet}]
(0040,0002) DA [{date}]
(0040,0003) TM [120000]
(fffe,e00d) -
(fffe,e0dd) -
"""


def new_uid() -> str:
    """A UID by DICOM PS3.5 B.2: 2.25. and a random 128-bit number."""
    return UID_ROOT + str(secrets.randbits(127))


class Connection(http.client.HTTPSConnection):
    """HTTPS to 127.0.0.1 under the server's name: the clinic's DNS need not know it here."""

    def connect(self) -> None:
        try:
            plain = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        except ConnectionRefusedError:
            raise OSError(f"nobody answers on port {self.port}; see systemctl status nginx") from None
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)  # type: ignore[attr-defined]


class Day:
    """Plays the day; `checks` holds what was tried, expected and seen."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.checks: list[dict[str, Any]] = []
        self.accession = "ACC" + secrets.token_hex(6).upper()
        self.study, self.series = new_uid(), new_uid()
        self.scratch_holder = tempfile.TemporaryDirectory(prefix="orthanc-acceptance-")
        self.scratch = Path(self.scratch_holder.name)

    def check(self, name: str, expected: str, seen: str, rule: str = "") -> None:
        """`rule` is the one that a clinic may have waived: then what is seen is reported, and no failure."""
        waiver = "" if expected == seen else self.settings["waivers"].get(rule, "")
        self.checks.append(
            {
                "name": name,
                "expected": expected,
                "seen": seen,
                "passed": expected == seen or bool(waiver),
                "waiver": waiver,
            }
        )

    # --- clients -----------------------------------------------------------------------------
    def dcmtk(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [f"/usr/bin/{tool}", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
            env={**os.environ, "TCP_NODELAY": "1"},
        )

    def scu(self, tool: str, caller: str, *arguments: str, called: str = "", port: str = "dicom_port") -> str:
        """'accepted', 'refused' (of any kind), or what the tool said."""
        peer = ["127.0.0.1", str(self.settings[port])]
        done = self.dcmtk(
            tool,
            "-v",
            "-to",
            "10",
            "-aet",
            caller,
            "-aec",
            called or self.settings["aet"],
            *peer,
            *arguments,
        )
        said = done.stdout + done.stderr
        if "Association Rejected" in said or "Refused" in said:
            return "refused"
        if done.returncode == 0:
            return "accepted"
        return said.strip().splitlines()[-1] if said.strip() else f"exit code {done.returncode}"

    def https(
        self,
        method: str,
        path: str,
        user: str,
        password: str,
        body: bytes = b"",
        show: bool = True,
        **headers: str,
    ) -> tuple[int, str, bytes]:
        """Status, content type and body, with the user's certificate; a failure of TLS is an exception that says so."""
        context = ssl.create_default_context(cafile=self.settings["ca_file"])
        # a certificate of the clinic's is trusted without its root, which only clients have
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        certificate = self.settings["certificates"].get("user", {}).get(user)
        if certificate and show:
            context.load_cert_chain(f"{certificate}.crt", f"{certificate}.key")
        connection = Connection(self.settings["hostname"], 443, timeout=60, context=context)
        return self.ask(connection, method, path, user, password, body, headers)

    def local(self, method: str, path: str, user: str, password: str, body: bytes = b"") -> tuple[int, str, bytes]:
        port = int(self.settings["http_port"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            return self.ask(connection, method, path, user, password, body, {})
        except ConnectionRefusedError:
            raise OSError(f"nobody answers on port {port}; see systemctl status orthanc, or docker ps -a") from None

    @staticmethod
    def ask(
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        user: str,
        password: str,
        body: bytes,
        headers: dict[str, str],
    ) -> tuple[int, str, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if user:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            sent["Authorization"] = f"Basic {token}"
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        result = (answer.status, answer.getheader("Content-Type", ""), answer.read())
        connection.close()
        return result

    # --- the synthetic patient ---------------------------------------------------------------
    def make(self, template: str, name: str, **values: str) -> Path:
        text = self.scratch / f"{name}.txt"
        text.write_text(
            template.format(
                accession=self.accession,
                patient=PATIENT,
                study=self.study,
                series=self.series,
                **values,
            ),
            encoding="utf-8",
        )
        done = self.dcmtk("dump2dcm", "+te", str(text), str(self.scratch / name))
        if done.returncode:
            raise RuntimeError(f"dump2dcm: {done.stderr}")
        return self.scratch / name

    def image(self, name: str) -> tuple[Path, str]:
        sop = new_uid()
        pixels = "\\".join(f"{byte:02x}" for byte in secrets.token_bytes(32 * 32))
        return self.make(IMAGE, name, sop_class=US_IMAGE, sop=sop, pixels=pixels), sop

    def data_set(self, path: Path) -> Any:
        """Everything in the file but its meta header, pixel data included."""
        content = json.loads(self.dcmtk("dcm2json", str(path)).stdout)
        return {tag: value for tag, value in content.items() if not tag.startswith("0002")}

    # --- the day -----------------------------------------------------------------------------
    def play(self) -> None:
        try:
            self.service()
            self.devices()
            self.dicom_tls()
            self.strangers()
            self.worklist()
            self.images()
            self.users()
        except (
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            IndexError,
            subprocess.SubprocessError,
        ) as error:
            self.check(
                "the test itself runs to its end",
                "no error",
                f"{type(error).__name__}: {error}",
            )
        finally:
            self.clean_up()

    def service(self) -> None:
        user = self.user("admin")
        status, _type, body = self.local("GET", "/plugins", user["name"], user["password"])
        self.check("Orthanc answers on this machine", "200", str(status))
        plugins = json.loads(body) if status == 200 else []
        for plugin in ("dicom-web", "worklists"):
            self.check(
                f"plugin {plugin} is loaded",
                "yes",
                "yes" if plugin in plugins else "no",
            )

    def devices(self) -> None:
        caller = self.settings["calling_aet"]
        self.check("C-ECHO from a listed device", "accepted", self.scu("echoscu", caller))
        self.check(
            "C-ECHO to a wrong called AE title",
            "refused",
            self.scu("echoscu", caller, called="WRONG_AET"),
            "any_called_aet",
        )
        for aet in (device["aet"] for device in self.settings["devices"]):
            self.check(
                f"C-ECHO as {aet} from an address that is not its own",
                "refused",
                self.scu("echoscu", aet),
                "any_address",
            )

    def dicom_tls(self) -> None:
        """Devices that come over TLS: the certificate, and the AE title that belongs to it."""
        over_tls = self.settings["certificates"].get("device", {})
        if not over_tls:
            return
        authority = ["+cf", str(Path(next(iter(over_tls.values()))).with_name("ca.crt"))]
        for device in self.settings["devices"]:
            if device["name"] not in over_tls:
                continue
            aet, certificate = device["aet"], over_tls[device["name"]]
            shown = ["+tls", f"{certificate}.key", f"{certificate}.crt", *authority]
            seen = self.scu("echoscu", aet, *shown, port="dicom_tls_port")
            expected = "accepted" if "echo" in device["may"] else "refused"
            self.check(f"C-ECHO over TLS as {aet} with its certificate", expected, seen)
            seen = self.scu("echoscu", self.settings["calling_aet"], *shown, port="dicom_tls_port")
            self.check(f"C-ECHO over TLS as another than {aet} with its certificate", "refused", seen, "any_address")
        seen = self.scu("echoscu", aet, "+tla", *authority, port="dicom_tls_port")
        self.check("C-ECHO over TLS without a certificate", "refused", "refused" if "aborted" in seen else seen)

    def strangers(self) -> None:
        image, _sop = self.image("stranger.dcm")
        self.check("C-ECHO from a stranger", "refused", self.scu("echoscu", "STRANGER"), "any_device")
        self.check(
            "C-STORE from a stranger",
            "refused",
            self.scu("storescu", "STRANGER", str(image)),
            "any_device",
        )
        self.check(
            "worklist query from a stranger",
            "refused",
            self.scu("findscu", "STRANGER", "-W", "-k", "PatientName"),
            "any_device",
        )

    def worklist(self) -> None:
        """As an application: under another name first, then renamed, and the gate brings it to Orthanc."""
        made = self.make(WORKLIST, "item.wl", aet=self.settings["calling_aet"], date=time.strftime("%Y%m%d"))
        drop = Path(self.settings["worklist_drop_dir"])
        handed, waiting = drop / f"{self.accession}.wl", drop / f"{self.accession}.part"
        if not drop.samefile(Path(self.settings["worklist_dir"], ".spool/incoming")):
            raise OSError(f"{drop} is not mounted; see systemctl status srv-worklists-incoming.mount")
        try:
            shutil.copyfile(made, waiting)
            waiting.rename(handed)
            end = time.monotonic() + 30
            seen = self.scheduled()
            while not seen and time.monotonic() < end:
                time.sleep(0.5)
                seen = self.scheduled()
            self.check("worklist query finds the patient", str([self.study]), str(seen or self.lost(handed)))
        finally:
            waiting.unlink(missing_ok=True)
            handed.unlink(missing_ok=True)
            # nothing to remove is an error to it
            subprocess.run(
                ["/usr/local/bin/orthanc-worklist", "remove", self.accession],
                capture_output=True,
                timeout=60,
                check=False,
            )

    def scheduled(self) -> list[str]:
        """The studies of the synthetic patient in the answers to a worklist query."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as answers:
            keys = (f"AccessionNumber={self.accession}", "PatientName", "StudyInstanceUID")
            step = "ScheduledProcedureStepSequence[0].Modality"
            asked = [argument for key in (*keys, step) for argument in ("-k", key)]
            self.scu("findscu", self.settings["calling_aet"], "-W", "-X", "-od", answers, *asked)
            found = [self.data_set(answer) for answer in sorted(Path(answers).iterdir())]
        return [answer["0020000D"]["Value"][0] for answer in found]

    def lost(self, handed: Path) -> str:
        """Where the item stayed that no query finds."""
        served = Path(self.settings["worklist_dir"])
        for reason in (served / ".spool/quarantine").glob(f"*{self.accession}*.reason"):
            return f"the gate refused it: {' '.join(reason.read_text(encoding='utf-8', errors='replace').split())}"
        if handed.exists():
            return f"the gate did not take it from {handed.parent}; see systemctl status orthanc-worklist.path"
        if list(served.glob(f"{self.study}_*.wl")):
            return "the gate served it, and Orthanc does not answer with it; see journalctl -u orthanc"
        return "it is nowhere; see journalctl -u orthanc-worklist"

    def user(self, *roles: str) -> dict[str, str]:
        """The first user with the first of these roles that anybody has."""
        return next(user for role in roles for user in self.settings["users"] if user["role"] == role)

    def images(self) -> None:
        image, sop = self.image("image.dcm")
        self.check(
            "C-STORE from a listed device",
            "accepted",
            self.scu("storescu", self.settings["calling_aet"], str(image)),
        )
        reader = self.user("dicomweb_reader", "dicomweb_writer", "admin")
        name, password = reader["name"], reader["password"]
        status, _type, body = self.https(
            "GET",
            f"/dicom-web/studies?StudyInstanceUID={self.study}",
            name,
            password,
            Accept="application/dicom+json",
        )
        found = json.loads(body) if status == 200 else []
        self.check("QIDO-RS finds the study", "1 study", f"{len(found)} study")
        url = found[0]["00081190"]["Value"][0] if found else ""
        start = f"https://{self.settings['hostname']}/dicom-web/"
        self.check("its RetrieveURL", f"{start}studies/{self.study}", url)
        self.check(
            "WADO-RS gives it back",
            "bit-identical",
            self.same(urllib.parse.urlsplit(url).path, image, reader),
        )

        writers = [user for user in self.settings["users"] if user["role"] != "dicomweb_reader"]
        if writers:
            second, sop = self.image("second.dcm")
            boundary = secrets.token_hex(12)
            body = (
                f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
                + second.read_bytes()
                + f"\r\n--{boundary}--\r\n".encode()
            )
            status, _type, _answer = self.https(
                "POST",
                "/dicom-web/studies",
                writers[0]["name"],
                writers[0]["password"],
                body,
                Content_Type=f'multipart/related; type="application/dicom"; boundary={boundary}',
            )
            self.check("STOW-RS stores an image", "200", str(status))
            path = f"/dicom-web/studies/{self.study}/series/{self.series}/instances/{sop}"
            self.check(
                "WADO-RS gives that back",
                "bit-identical",
                self.same(path, second, reader),
            )

    def same(self, path: str, image: Path, user: dict[str, str]) -> str:
        status, kind, body = self.https(
            "GET",
            path,
            user["name"],
            user["password"],
            Accept='multipart/related; type="application/dicom"; transfer-syntax=*',
        )
        if status != 200:
            return f"HTTP status {status}"
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
        received = self.scratch / "received.dcm"
        part = next(part for part in message.walk() if not part.is_multipart())
        payload = part.get_payload(decode=True)
        received.write_bytes(payload if isinstance(payload, bytes) else b"")
        return "bit-identical" if self.data_set(received) == self.data_set(image) else "different"

    def users(self) -> None:
        studies = "/dicom-web/studies?limit=1"
        self.check(
            "HTTPS without a password",
            "401",
            str(self.https("GET", studies, "", "")[0]),
        )
        for user in self.settings["users"]:
            name, password = user["name"], user["password"]
            status = str(self.https("GET", studies, name, "wrong-" + secrets.token_hex(4))[0])
            self.check(f"{name} with a wrong password", "401", status)
            self.check(
                f"{name} reads studies",
                "200",
                str(self.https("GET", studies, name, password)[0]),
            )
            if name in self.settings["certificates"].get("user", {}):
                seen = str(self.https("GET", studies, name, password, show=False)[0])
                self.check(f"{name} without the certificate", "403", seen)
            if user["role"] == "admin":
                continue
            for path in ("/system", "/dicom-web/servers", "/patients", "/dicom-web/studies/..%5c..%5csystem"):
                self.check(
                    f"{name} at {path}",
                    "403",
                    str(self.https("GET", path, name, password)[0]),
                )
            status = str(self.https("DELETE", f"/dicom-web/studies/{self.study}", name, password)[0])
            self.check(f"{name} deletes a study", "403", status)
        self.check(
            "port 8042 without a password",
            "401",
            str(self.local("GET", "/system", "", "")[0]),
        )

    def clean_up(self) -> None:
        """Takes the synthetic patient away, whatever happened before."""
        self.scratch_holder.cleanup()
        try:
            user = self.user("admin")
            name, password = user["name"], user["password"]
            study = self.study.encode()
            for found in json.loads(self.local("POST", "/tools/lookup", name, password, study)[2]):
                self.local("DELETE", found["Path"], name, password)
            seen = str(json.loads(self.local("POST", "/tools/lookup", name, password, study)[2]) or "yes")
        except (OSError, ValueError, KeyError, IndexError) as error:
            seen = f"{type(error).__name__}: {error}"
        self.check("the synthetic patient is gone again", "yes", seen)
