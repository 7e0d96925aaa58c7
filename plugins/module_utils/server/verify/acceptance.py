# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The acceptance test: a clinic's day with a synthetic patient, run on the server itself. Without Ansible."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import SEE_LOG
from ..core.files import read_object
from ..core.limits import SILENT_MINUTES, describe, read_limits
from ..core.process import ask_program, run_program
from ..core.settings import BACKUP
from ..dicom import scu, web
from ..dicom.web import User
from ..orthanc.rights import LISTED, RIGHTS
from . import exposure, nginx

# Only the acceptance test uses these. Both must match before a patient is deleted.
PATIENT = "ACCEPTANCE^TEST"
PREFIX = "ACCEPTANCE-TEST-"
STRANGER, WRONG_CALLED = "STRANGER", "ACCEPTANCE_WRONG"
US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"
WORKLIST_SECONDS = 30
BACKUP_PROGRAM = "/usr/local/sbin/orthanc-backup"
MONITOR = Path("/var/lib/orthanc-monitor/state.json")
WORKLIST = "/usr/local/bin/orthanc-worklist"
# Orthanc takes what it allows always without asking who sends it, or from where
ANY_SENDER = ("any_address", "any_device")
TIMED_OUT = "timed out"  # as Python says it
RESTART = "restart Orthanc: systemctl restart orthanc, or docker restart orthanc"
DEPLOY = "deploy again: ansible-playbook clinicops.orthanc.deploy"

IMAGE = """\
(0008,0005) CS [ISO_IR 192]
(0008,0016) UI [{sop_class}]
(0008,0018) UI [{sop}]
(0008,0020) DA [20200101]
(0008,0030) TM [120000]
(0008,0050) SH [{accession}]
(0008,0060) CS [US]
(0008,1030) LO [Prüfung {accession}]
(0010,0010) PN [{patient}]
(0010,0020) LO [{patient_id}]
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
ITEM = """\
(0008,0005) CS [ISO_IR 192]
(0008,0050) SH [{accession}]
(0010,0010) PN [{patient}]
(0010,0020) LO [{patient_id}]
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
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ERRORS = (OSError, RuntimeError, ValueError, KeyError, IndexError, StopIteration)


def describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)


def format_time(seconds: float) -> str:
    """A moment in UTC, as 2026-11-28T01:10:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def find_admin(settings: dict[str, Any]) -> User:
    found = next(user for user in settings["users"] if user["role"] == "admin")
    return User(found["name"], found["password"])


def ask_orthanc(settings: dict[str, Any], method: str, path: str, body: Any = None) -> Any:
    """Orthanc's answer to an administrator on this machine. Raises OSError for any status but 200."""
    content = b"" if body is None else json.dumps(body).encode()
    reply = web.http_ask(settings["http_port"], method, path, find_admin(settings), content)
    if reply.status != 200:
        raise OSError(f"Orthanc answers {method} {path} with status {reply.status}")
    return json.loads(reply.body) if reply.body else None


class Schedules(NamedTuple):
    """What orthanc-backup says of its regular tasks, by their names, and why it says nothing."""

    found: dict[str, dict[str, Any]]
    problem: str


def ask_schedules() -> Schedules:
    """The schedules of orthanc-backup: `planned` (seconds since 1970 or None), `unit`, `active`."""
    done = run_program(BACKUP_PROGRAM, "schedule", "--json")
    try:
        return Schedules(json.loads(done.output)["schedules"], "")
    except (ValueError, KeyError):
        return Schedules({}, " ".join(done.errors.split()) or f"{BACKUP_PROGRAM} does not say")


def local_addresses() -> list[str]:
    """The addresses of this machine, including those of Docker's bridges."""
    done = ask_program("ip", "-json", "address", "show", "up")
    if done.status:
        raise OSError(f"ip cannot list this machine's addresses: {done.errors}")
    return [info["local"] for interface in exposure.parse_interfaces(done.output) for info in interface["addr_info"]]


class Day:
    """Runs the acceptance test; `checks` records what was tried, expected and seen."""

    def __init__(self, settings: dict[str, Any], scratch: Path) -> None:
        self.settings, self.scratch = settings, scratch
        self.checks: list[dict[str, Any]] = []
        self.limits = read_limits()
        token = secrets.token_hex(6).upper()
        self.patient_id, self.accession = PREFIX + token, "ACC" + token
        self.study, self.series = scu.new_uid(), scu.new_uid()
        self.submitted, self.hangs = False, False
        self.proxy = web.Https(settings["hostname"], settings["ca_file"], port=settings["https_port"])
        self.certificate_until = 0
        self.users = [
            (User(user["name"], user["password"], self.certificates("user").get(user["name"], "")), user["role"])
            for user in settings["users"]
        ]

    @functools.cached_property
    def schedules(self) -> Schedules:
        """When orthanc-backup was scheduled, and whether what starts it runs; asked once."""
        return ask_schedules()

    def certificates(self, kind: str) -> dict[str, str]:
        found: dict[str, str] = self.settings["certificates"].get(kind, {})
        return found

    def check(
        self,
        group: str,
        name: str,
        tried: str,
        expected: str,
        seen: str,
        remedy: str,
        *rules: str,
        passed: bool | None = None,
    ) -> None:
        """Records a check. A clinic may waive `rules`: if it waives one, the result is reported, but not a failure."""
        right = expected == seen if passed is None else passed
        waivers = (self.settings["waivers"].get(rule, "") for rule in rules)
        waiver = "" if right else next(filter(None, waivers), "")
        self.checks.append(
            {
                **{"group": group, "name": name, "tried": tried, "expected": expected, "seen": seen},
                **{"passed": right or bool(waiver), "waiver": waiver},
                "remedy": "" if right or waiver else remedy,
            }
        )

    def play(self) -> None:
        parts: tuple[tuple[str, Callable[[], None]], ...] = (
            ("Worklist", self.submit_item),  # the intake needs a second, in which the other parts go on
            ("Service", self.service),
            ("DICOM", self.devices),
            ("DICOM", self.dicom_tls),
            ("DICOM", self.strangers),
            ("Access", self.users_access),
            ("Access", self.ports),
            ("Worklist", self.worklist),
            ("DICOMweb", self.images),  # once they are there, orthanc-worklist takes the item away as done
            ("Safety", self.safety),
        )
        try:
            for group, part in parts:
                try:
                    if not self.hangs or part in (self.ports, self.safety):
                        part()
                except ERRORS as error:
                    name = f"the part {part.__name__.replace('_', ' ')} of the test runs to the end"
                    self.check(group, name, "the checks of this part", "no error", describe_error(error), SEE_LOG)
        finally:
            self.clean_up()

    # --- requests -----------------------------------------------------------------------------
    def client(
        self, calling: str = "", called: str = "", port: str = "dicom_port", tls: tuple[str, ...] = ()
    ) -> scu.Scu:
        calling, called = calling or self.settings["calling_aet"], called or self.settings["aet"]
        return scu.Scu("127.0.0.1", self.settings[port], called, calling, tls, timeout=3, patience=10)

    @staticmethod
    def refusal(answer: scu.Answer) -> str:
        """The answer as text. Orthanc aborts the association if the device lacks the right to a request: a refusal."""
        return "refused" if answer.outcome in (scu.REJECTED, scu.ABORTED) else str(answer)

    def status(self, method: str, path: str, user: User) -> str:
        """The HTTP status through the proxy, or the error."""
        try:
            return str(self.proxy.ask(method, path, user).status)
        except OSError as error:
            return describe_error(error)

    @staticmethod
    def local(port: int, path: str, user: User, address: str = "127.0.0.1") -> str:
        try:
            return str(web.http_ask(port, "GET", path, user, address=address).status)
        except OSError as error:
            return describe_error(error)

    # --- Service ------------------------------------------------------------------------------
    def service(self) -> None:
        port = self.settings["http_port"]
        status = self.local(port, "/changes?last", find_admin(self.settings))
        self.hangs = status == TIMED_OUT
        tried = f"GET /changes?last at 127.0.0.1:{port} as an administrator"
        remedy = {
            "401": f"an administrator's password differs between Orthanc and the inventory; {DEPLOY}",
            TIMED_OUT: f"{RESTART}, and {SEE_LOG}",
        }.get(status, f"start Orthanc (systemctl start orthanc, or docker start orthanc), and {SEE_LOG}")
        self.check("Service", "Orthanc answers on this machine", tried, "200", status, remedy)
        if self.hangs:
            tried, seen = "DICOM, DICOMweb, users and the worklist", "not tried: Orthanc hangs"
            self.check("Service", "the other parts of the test", tried, "tried", seen, RESTART)
        plugins = ask_orthanc(self.settings, "GET", "/plugins") if status == "200" else []
        for name, known in (("dicom-web", {"dicom-web"}), ("worklists", {"worklists", "orthanc-worklists"})):
            seen = "yes" if known & set(plugins) else "no"
            remedy = f"{DEPLOY}; if the plugin's file is missing, reinstall the package or the image"
            self.check("Service", f"plugin {name} is loaded", "GET /plugins", "yes", seen, remedy)
        least = self.limits["certificate_days"]
        expected = f"trusted, valid for {describe(least, 'day')} or more"
        try:
            self.certificate_until = self.proxy.expiry()
            days = (self.certificate_until - time.time()) / 86400
            seen, good = f"trusted, valid for {describe(int(days), 'day')}", days >= least
            remedy = "renew it: systemctl start orthanc-certificate or certbot, or deploy a new one"
        except OSError as error:
            seen, good = describe_error(error), False
            remedy = f"start nginx (systemctl start nginx); if its certificate is not the deployed one, {DEPLOY}"
        with contextlib.suppress(OSError, ValueError):  # it does not run, as the line above says
            if unread := nginx.find_unread(nginx.read_reloaded()):
                seen, good = f"nginx has not read {', '.join(unread)} since it changed", False
                remedy = "systemctl reload nginx; nginx -t says why it does not"
        tried = f"a TLS handshake as {self.settings['hostname']}"
        self.check("Service", "certificate of the proxy", tried, expected, seen, remedy, passed=good)

    # --- DICOM --------------------------------------------------------------------------------
    def devices(self) -> None:
        port = self.settings["dicom_port"]
        seen = str(self.client().echo())
        tried = f"C-ECHO as {self.settings['calling_aet']} at 127.0.0.1:{port}"
        remedy = f"check that Orthanc runs and that no other firewall blocks port {port}; otherwise {DEPLOY}"
        self.check("DICOM", "C-ECHO from a listed device", tried, "accepted", seen, remedy)
        seen = self.refusal(self.client(called=WRONG_CALLED).echo())
        tried = f"C-ECHO to {WRONG_CALLED}"
        remedy = f"set DicomCheckCalledAet to true again; {DEPLOY}"
        self.check("DICOM", "C-ECHO to a wrong called AE title", tried, "refused", seen, remedy, "any_called_aet")
        listed = ask_orthanc(self.settings, "GET", "/modalities?expand")
        for device in self.settings["devices"]:
            aet, name = device["aet"], device["name"]
            self.check(
                *("DICOM", f"Orthanc lists {name} as the inventory does", "GET /modalities?expand"),
                *(self.describe_device(device), self.compare_listed(device, listed.get(name))),
                f"Orthanc's device list differs from the inventory; {DEPLOY}",
            )
            seen = self.refusal(self.client(aet).echo())
            tried = f"C-ECHO as {aet} from this machine"
            remedy = f"set DicomCheckModalityHost to true again; {DEPLOY}"
            name = f"C-ECHO as {aet} from an address that is not its own"
            self.check("DICOM", name, tried, "refused", seen, remedy, *ANY_SENDER)

    def describe_device(self, device: dict[str, Any]) -> str:
        # a device over TLS connects from the proxy's address
        place = "TLS" if device["name"] in self.certificates("device") else f"{device['host']}:{device['port']}"
        return f"{device['aet']} at {place}, may {', '.join(right for right in RIGHTS if right in device['may'])}"

    def compare_listed(self, device: dict[str, Any], found: dict[str, Any] | None) -> str:
        if not found:
            return "not listed"
        may = [right for right, name in LISTED.items() if found.get(name)]
        return self.describe_device(
            {**device, "aet": found["AET"], "host": found["Host"], "port": found["Port"], "may": may}
        )

    def dicom_tls(self) -> None:
        """Checks devices that connect over TLS: the certificate, and the AE title that belongs to it."""
        over_tls = self.certificates("device")
        if not over_tls:
            return
        authority = str(Path(next(iter(over_tls.values()))).with_name("ca.crt"))
        port, remedy = self.settings["dicom_tls_port"], f"see /var/log/nginx/orthanc_error.log; {DEPLOY}"
        for device in self.settings["devices"]:
            if device["name"] not in over_tls:
                continue
            aet, certificate = device["aet"], over_tls[device["name"]]
            shown = scu.tls_options(authority, f"{certificate}.crt", f"{certificate}.key")
            answer = self.client(aet, port="dicom_tls_port", tls=shown).echo()
            may = "echo" in device["may"]
            expected, seen = ("accepted", str(answer)) if may else ("refused", self.refusal(answer))
            tried, name = f"C-ECHO over TLS at port {port}", f"C-ECHO over TLS as {aet} with its certificate"
            self.check("DICOM", name, tried, expected, seen, remedy, *([] if may else ["any_device"]))
            seen = self.refusal(self.client(port="dicom_tls_port", tls=shown).echo())
            name = f"C-ECHO over TLS as another than {aet} with its certificate"
            self.check("DICOM", name, tried, "refused", seen, remedy, *ANY_SENDER)
        seen = self.refusal(self.client(aet, port="dicom_tls_port", tls=scu.tls_options(authority)).echo())
        self.check("DICOM", "C-ECHO over TLS without a certificate", tried, "refused", seen, remedy)

    def strangers(self) -> None:
        image, _sop = self.image("stranger.dcm", **self.elsewhere())
        stranger = self.client(STRANGER)
        for name, tried, answer in (
            ("C-ECHO from a stranger", "C-ECHO", stranger.echo()),
            ("C-STORE from a stranger", "C-STORE of an image", stranger.store(image)),
            (
                "worklist query from a stranger",
                "C-FIND of the worklist",
                stranger.find_worklist({"PatientName": ""})[0],
            ),
        ):
            remedy = f"set every DicomAlwaysAllow option to false again; {DEPLOY}"
            tried = f"{tried} as {STRANGER}"
            self.check("DICOM", name, tried, "refused", self.refusal(answer), remedy, "any_device")

    # --- the synthetic patient ----------------------------------------------------------------
    def file(self, template: str, name: str, **values: str) -> Path:
        mine = {"accession": self.accession, "patient": PATIENT, "patient_id": self.patient_id}
        text = template.format(**{**mine, "study": self.study, "series": self.series, **values})
        return scu.make_data_set(text, self.scratch / name)

    def image(self, name: str, **values: str) -> tuple[Path, str]:
        sop = scu.new_uid()
        # a grey for each row: of noise the JPEG-LS of Orthanc 1.10 and 1.12 stores what nobody can decode
        greys = [grey for grey in secrets.token_bytes(32) for _column in range(32)]
        pixels = "\\".join(f"{grey:02x}" for grey in greys)
        return self.file(IMAGE, name, sop_class=US_IMAGE, sop=sop, pixels=pixels, **values), sop

    @staticmethod
    def elsewhere() -> dict[str, str]:
        """Another study of the patient: what a stranger may store must not count as the device's."""
        return {"accession": STRANGER, "study": scu.new_uid(), "series": scu.new_uid()}

    # --- Worklist -----------------------------------------------------------------------------
    def submit_item(self) -> None:
        """Submits an item as an application does: written under another name, and renamed."""
        made = self.file(ITEM, "item.wl", aet=self.settings["calling_aet"], date=time.strftime("%Y%m%d"))
        drop = Path(self.settings["worklist_drop"])
        waiting = drop / f"{self.patient_id}.part"
        if not drop.samefile(Path(self.settings["worklist_served"], ".spool/incoming")):
            raise OSError(f"{drop} is not mounted; see systemctl status srv-worklists-incoming.mount")
        shutil.copyfile(made, waiting)
        waiting.rename(waiting.with_suffix(".wl"))
        self.submitted = True

    def worklist(self) -> None:
        """Whether the intake serves the item, and Orthanc gives it to a device."""
        if not self.submitted:  # which is reported
            return
        drop = Path(self.settings["worklist_drop"])
        submitted = drop / f"{self.patient_id}.wl"
        end = time.monotonic() + WORKLIST_SECONDS
        while submitted.exists() and self.is_intake_active() and time.monotonic() < end:
            time.sleep(0.1)
        answer, found = self.query_worklist()
        # once the item is served, an error is not about the item
        while not found and time.monotonic() < end and not submitted.exists():
            if self.find_refused() or (answer.outcome != scu.ACCEPTED and self.is_served()):
                break
            time.sleep(0.2)
            answer, found = self.query_worklist()
        seen, remedy = "found", ""
        if found != [self.study]:
            seen, remedy = self.explain_loss(submitted, answer, found)
        tried = f"an item through {drop}, then C-FIND of the worklist as {self.settings['calling_aet']}"
        self.check("Worklist", "worklist query finds the patient", tried, "found", seen, remedy)

    @staticmethod
    def is_active(unit: str) -> bool:
        return ask_program("systemctl", "is-active", "--quiet", unit).status == 0

    def is_intake_active(self) -> bool:
        return self.is_active("orthanc-worklist.path")

    def find_refused(self) -> list[Path]:
        """The reasons that the intake wrote for rejecting the item."""
        return list(Path(self.settings["worklist_served"], ".spool/quarantine").glob(f"*{self.patient_id}*.reason"))

    def is_served(self) -> bool:
        return bool(list(Path(self.settings["worklist_served"]).glob(f"{self.study}_*.wl")))

    def query_worklist(self) -> tuple[scu.Answer, list[str]]:
        """The studies of the synthetic patient in the answers to a worklist query."""
        keys = {"AccessionNumber": self.accession, "PatientName": "", "StudyInstanceUID": ""}
        answer, found = self.client().find_worklist({**keys, "ScheduledProcedureStepSequence[0].Modality": ""})
        return answer, [scu.value(item, "0020000D") for item in found]

    def explain_loss(self, submitted: Path, answer: scu.Answer, found: list[str]) -> tuple[str, str]:
        """Where the item is that no query finds, and the remedy."""
        served = Path(self.settings["worklist_served"])
        for reason in self.find_refused():
            text = " ".join(reason.read_text(encoding="utf-8", errors="replace").split())
            return f"rejected by the worklist service: {text}", f"correct the cause; {DEPLOY}"
        if submitted.exists():
            why = "has not picked it up" if self.is_intake_active() else "is stopped"
            remedy = "systemctl start orthanc-worklist.path, and see journalctl -u orthanc-worklist"
            return f"still waiting in {submitted.parent}, the worklist service {why}", remedy
        if found:
            return f"{len(found)} other items", f"{SEE_LOG}"
        if self.is_served():
            seen = f"the item is served, but the query ({answer}) does not return it"
            return seen, f"let Orthanc's account read {served}, or {DEPLOY}"
        return f"the item has disappeared; the query: {answer}", "see journalctl -u orthanc-worklist"

    # --- DICOMweb -----------------------------------------------------------------------------
    def user(self, *roles: str) -> User:
        """The first user with the first of these roles that any user has."""
        return next(user for role in roles for user, his in self.users if his == role)

    def images(self) -> None:
        image, sop = self.image("image.dcm")
        answer = self.client().store(image)
        remedy = f"{SEE_LOG}; {DEPLOY}"
        # Orthanc 1.13.0 does not answer at all if it may not enter the storage directory
        if "A700" in answer.detail or "no answer" in answer.detail:
            storage = self.settings["storage"]
            remedy = f"free space in {storage}, and let Orthanc own it: chown -R orthanc: {storage}/"
        tried = f"C-STORE of an ultrasound image as {self.settings['calling_aet']}"
        self.check("DICOM", "C-STORE from a listed device", tried, "accepted", str(answer), remedy)
        reader = self.user("dicomweb_reader", "dicomweb_writer", "admin")
        broken = f"check that nginx runs, and see /var/log/nginx/orthanc_access.log; {DEPLOY}"
        stored = broken if answer.outcome == scu.ACCEPTED else "make C-STORE succeed first"
        try:
            found = self.proxy.find(reader, StudyInstanceUID=self.study)
            named = self.proxy.find(reader, StudyDescription=f"Prüfung {self.accession[:-1]}*")
        except OSError as error:
            self.check("DICOMweb", "QIDO-RS finds the study", "QIDO-RS", "1 study", describe_error(error), broken)
            return
        url = web.retrieve_url(found[0]) if found else ""
        tried = f"GET {web.ROOT}/studies?StudyInstanceUID=… as {reader.name}"
        self.check("DICOMweb", "QIDO-RS finds the study", tried, "1 study", f"{len(found)} study", stored)
        start = f"{self.proxy.root}{web.ROOT}/studies/{self.study}"
        self.check("DICOMweb", "its RetrieveURL", tried, start, url, stored)
        urls = [web.retrieve_url(one) for one in named]
        seen = "found" if urls == [url] else f"{len(urls)} studies found"
        tried = f"GET {web.ROOT}/studies?StudyDescription=Pr%C3%BCfung%20…%2A as {reader.name}"
        remedy = f"neither Orthanc nor /etc/orthanc/site/search.py decodes the query; {DEPLOY}"
        self.check("DICOMweb", "QIDO-RS takes an encoded name", tried, "found", seen, remedy if url else stored)
        # decoded, since IngestTranscoding may store it in another syntax; a lossy one gives it another instance UID too
        seen = self.proxy.compare_image(web.path_of(url or start), image, reader, self.scratch, scu.EXPLICIT)
        tried = f"GET its RetrieveURL as {reader.name}"
        self.check("DICOMweb", "WADO-RS gives it back", tried, "bit-identical", seen, stored, "lossy_ingest")
        writers = [user for user, role in self.users if role != "dicomweb_reader"]
        if writers:
            second, sop = self.image("second.dcm")
            status = self.proxy.store(second, writers[0])
            tried = f"POST {web.ROOT}/studies as {writers[0].name}"
            self.check("DICOMweb", "STOW-RS stores an image", tried, "200", str(status), broken)
            path = f"{web.ROOT}/studies/{self.study}/series/{self.series}/instances/{sop}"
            seen = self.proxy.compare_image(path, second, reader, self.scratch, scu.EXPLICIT)
            tried = f"GET the instance as {reader.name}"
            self.check("DICOMweb", "WADO-RS gives that back", tried, "bit-identical", seen, broken, "lossy_ingest")

    # --- Access -------------------------------------------------------------------------------
    def users_access(self) -> None:
        studies, opened = f"{web.ROOT}/studies?limit=1", f"close this access: {DEPLOY}"
        tried = f"GET {studies}"
        seen = self.status("GET", studies, web.NOBODY)
        self.check("Access", "HTTPS without a password", f"{tried} without a password", "401", seen, opened)
        for user, role in self.users:
            name = user.name
            seen = self.status("GET", studies, user._replace(password="wrong-" + secrets.token_hex(4)))
            self.check("Access", f"{name} with a wrong password", tried, "401", seen, opened)
            seen = self.status("GET", studies, user)
            remedy = f"the password in Orthanc differs from the inventory, or Orthanc does not run; {DEPLOY}"
            self.check("Access", f"{name} reads studies", tried, "200", seen, remedy)
            if user.certificate:
                seen = self.status("GET", studies, user._replace(certificate=""))
                self.check("Access", f"{name} without the certificate", tried, "403", seen, opened)
            if role == "admin":
                continue
            for path in ("/system", "/dicom-web/servers", "/patients", "/dicom-web/studies/..%5c..%5csystem"):
                seen = self.status("GET", path, user)
                self.check("Access", f"{name} at {path}", f"GET {path}", "403", seen, opened)
            path = f"{web.ROOT}/studies/{self.study}"
            seen = self.status("DELETE", path, user)
            self.check("Access", f"{name} deletes a study", "DELETE of the study", "403", seen, opened)

    def ports(self) -> None:
        port = self.settings["http_port"]
        seen = self.local(port, "/system", web.NOBODY)
        tried = f"GET /system at 127.0.0.1:{port} without a password"
        remedy = f"set AuthenticationEnabled to true again; {DEPLOY}"
        self.check("Access", f"port {port} without a password", tried, "401", seen, remedy)
        everywhere = [address for address in local_addresses() if not self.is_local(address)]
        found = {address: self.local(port, "/system", find_admin(self.settings), address) for address in everywhere}
        answered = [f"{address} answers with {seen}" for address, seen in found.items() if seen == "200"]
        tried = f"GET /system as an administrator at each other address of this machine ({len(everywhere)})"
        seen = ", ".join(answered) or "refused"
        name = f"port {port} at this machine's other addresses"
        remedy = f"set RemoteAccessAllowed to false again; {DEPLOY}"
        self.check("Access", name, tried, "refused", seen, remedy, "remote_access")
        seen = self.plain_http()
        tried = "GET / at 127.0.0.1:80"
        expected = "refused, a redirection to https, or another site"
        good = not seen.startswith("answers")
        self.check(
            "Access", "plain HTTP", tried, expected, seen, f"stop the service on port 80, or {DEPLOY}", passed=good
        )
        if self.settings["ports"]:
            self.firewall()

    @staticmethod
    def is_local(address: str) -> bool:
        return exposure.is_local(address) or address.lower().startswith("fe80:")

    def plain_http(self) -> str:
        """What port 80 answers: closed, or a service without Orthanc behind it. An ACME challenge server gives 404."""
        orthanc = self.settings["http_port"]
        others = exposure.find_own_neighbours(exposure.list_listening(), orthanc)
        if 80 in (*others, *exposure.find_other_sites(orthanc, local=True)):
            return "another site"
        try:
            reply = web.http_ask(80, "GET", "/")
        except OSError:
            return "refused"
        if reply.status in (301, 302, 307, 308) and reply.location.startswith("https://"):
            return "redirected to https"
        return f"refused with {reply.status}" if reply.status in (403, 404, 444) else f"answers with {reply.status}"

    def firewall(self) -> None:
        """Checks the kernel's tables, and which programs listen."""
        ports, waivers = self.settings["ports"], self.settings["waivers"]
        table = exposure.read_table()
        listening = exposure.list_listening()
        neighbours = exposure.find_own_neighbours(listening, self.settings["http_port"])
        self.checks += exposure.check_server(table, listening, ports, waivers, neighbours)
        self.checks += exposure.check_held(exposure.describe_changes(), exposure.describe_detours(), waivers)

    # --- Safety -------------------------------------------------------------------------------
    def safety(self) -> None:
        if self.settings["backup"]:
            hours, days, ledger = (self.limits[name] for name in ("backup_hours", "restore_check_days", "ledger_hours"))
            self.recent(
                *("last backup", "backup", describe(hours, "hour"), hours * 3600),
                "orthanc-backup run, and journalctl -t orthanc-backup",
            )
            self.recent(
                *("last restore check", "restore_check", describe(days, "day"), days * 86400),
                "orthanc-backup check",
            )
            self.recent(
                *("last ledger of what was received", "ledger", describe(ledger, "hour"), ledger * 3600),
                "orthanc-backup ledger",
            )
        if self.settings["monitor"]:
            age = time.time() - float(read_object(MONITOR).get("time", 0))
            good = abs(age) < SILENT_MINUTES * 60
            seen = f"{int(age / 60)} minutes ago" if MONITOR.exists() else "never"
            expected = f"in the last {SILENT_MINUTES} minutes"
            remedy = "systemctl enable --now orthanc-monitor.timer, and see journalctl -u orthanc-monitor"
            self.check("Safety", "the monitor looks", str(MONITOR), expected, seen, remedy, passed=good)

    def recent(self, name: str, file: str, limit: str, seconds: float, remedy: str) -> None:
        """Checks that the last success is recent and the next run is scheduled; a new machine may await its first."""
        noted = read_object(BACKUP / f"{file}.json")
        last, result = float(noted.get("last_success_epoch", 0)), noted.get("result", "")
        now = time.time()
        schedule = self.schedules.found.get(file, {})
        planned, starts = schedule.get("planned") or 0.0, schedule.get("unit", "")
        # one in the future is of a clock that was ahead, and proves nothing
        fresh = -3600 <= now - last < seconds or (not last and result != "failed" and now - planned < seconds)
        seen = (
            f"{format_time(last)}, last attempt: {result}" if last else f"none yet{', failed' * (result == 'failed')}"
        )
        if result == "failed" and noted.get("reason"):
            seen += f": {noted['reason'].removeprefix('Refused: ')[:300]}"
        waits = bool(planned) and schedule["active"]
        good = waits and fresh and result != "failed"
        tried = f"{BACKUP / file}.json, and {BACKUP_PROGRAM} schedule"
        expected = f"a success in the last {limit}, or scheduled and not due yet"
        remedy = f"run it now: {remedy}" if planned else f"schedule it: {DEPLOY}"
        seen = seen if planned else self.schedules.problem or "not scheduled"
        if planned and not waits:
            seen, remedy = f"{seen}; {starts} is stopped", f"start it: systemctl enable --now {starts}"
        self.check("Safety", name, tried, expected, seen, remedy, passed=good)

    # --- afterwards ---------------------------------------------------------------------------
    def clean_up(self) -> None:
        """Removes the synthetic patient, whatever happened before. A signal waits until that is done."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            clean(self.settings, self.scratch)
            seen = "yes"
        except ERRORS as error:
            seen = describe_error(error)
        tried = f"a search for patients {PREFIX}* in Orthanc, on the worklist and among submitted items"
        remedy = "orthanc-verify clean, once Orthanc answers"
        self.check("Safety", "the synthetic patient is gone again", tried, "yes", seen, remedy)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def clean(settings: dict[str, Any], scratch: Path) -> dict[str, int]:
    """Removes all data of the synthetic patient, also from earlier runs. Returns how many of each kind it removed."""
    shutil.rmtree(scratch, ignore_errors=True)
    removed, problems = {}, []
    # a failure in one place does not stop the others
    for what, remove in (("files", clean_files), ("items", clean_worklist), ("patients", clean_orthanc)):
        try:
            removed[what] = remove(settings)
        except ERRORS as error:
            problems.append(describe_error(error))
    if problems:
        raise OSError(", and ".join(problems))
    return removed


def clean_files(settings: dict[str, Any]) -> int:
    spool, number = Path(settings["worklist_served"], ".spool"), 0
    # an item that the intake is processing goes to quarantine or is served
    for places in ([Path(settings["worklist_drop"]), spool / "incoming"], [spool / "quarantine"]):
        for path in (path for place in places for path in place.glob(f"*{PREFIX}*")):
            with contextlib.suppress(FileNotFoundError):  # the intake has just taken it
                path.unlink()
                number += 1
        end = time.monotonic() + 10
        while (spool / "taken").exists() and time.monotonic() < end:
            time.sleep(0.1)
    return number


def clean_worklist(settings: dict[str, Any]) -> int:
    served = Path(settings["worklist_served"])
    items = list_scheduled() if is_marked(served) else []
    if items:
        done = run_program(WORKLIST, "remove", *items)
        if is_marked(served) and list_scheduled():  # a process of a killed run may have removed it first
            raise OSError(f"the worklist still has the synthetic patient: {done.errors.strip()}")
    return len(items)


def is_marked(served: Path) -> bool:
    """Whether a served file names the synthetic patient: orthanc-worklist takes longer to say that none does."""
    for entry in os.scandir(served):
        if entry.name.endswith(".wl"):
            with contextlib.suppress(FileNotFoundError):  # it has just been removed
                if PREFIX.encode() in Path(entry).read_bytes():
                    return True
    return False


def clean_orthanc(settings: dict[str, Any]) -> int:
    query = {"Level": "Patient", "Query": {"PatientID": f"{PREFIX}*", "PatientName": PATIENT}}
    found = ask_orthanc(settings, "POST", "/tools/find", query)
    for patient in found:
        with contextlib.suppress(OSError):  # another client may have deleted it first
            ask_orthanc(settings, "DELETE", f"/patients/{patient}")
    if ask_orthanc(settings, "POST", "/tools/find", query):
        raise OSError("Orthanc still has the synthetic patient")
    return len(found)


def list_scheduled() -> list[str]:
    """The studies of the synthetic patient on the worklist."""
    done = run_program(WORKLIST, "list", "--json")
    if done.status:
        raise OSError(done.errors.strip() or "orthanc-worklist list failed")
    items = json.loads(done.output)["items"]
    return [item["study_instance_uid"] for item in items if item["patient_id"].startswith(PREFIX)]
