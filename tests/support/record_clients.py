"""What record_queries.py asks of Orthanc: whatever its clients ask, over HTTP and DICOM, that needs the index."""

from __future__ import annotations

import copy
import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pydicom
from clients import wait_for
from index import read_template, write_image
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

# what it is called, and what does it
Request = tuple[str, Callable[[], object]]
ORTHANC = "ORTHANC"
STUDY, SERIES, IMAGE = "1.2.3.1.1", "1.2.3.1.1.1", "1.2.3.1.1.1.1"
DICOMWEB_SERIES = f"/dicom-web/studies/{STUDY}/series/{SERIES}"
DICOMWEB_IMAGE = f"{DICOMWEB_SERIES}/instances/{IMAGE}"
DATES = "20260101-20260131"


def make_image(patient: int, study: int = 0, series: int = 0, number: int = 0) -> pydicom.Dataset:
    """An image of 2 kB; the first one is IMAGE."""
    image = copy.deepcopy(read_template())
    image.StudyInstanceUID = f"1.2.3.{patient + 1}.{study + 1}"
    image.SeriesInstanceUID = f"{image.StudyInstanceUID}.{series + 1}"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{image.SeriesInstanceUID}.{number + 1}"
    image.PatientID, image.PatientName = f"P{patient}", f"NAME^P{patient}"
    image.AccessionNumber, image.StudyDate = f"A{patient}{study}", f"2026010{study + 1}"
    image.StudyDescription, image.Modality = f"desc {study}", "US"
    return image


@dataclass(frozen=True)
class Client:
    """Asks an Orthanc without users."""

    address: str

    def ask(self, method: str, path: str, body: object = b"", **headers: str) -> bytes:
        """The body of the answer. What is not bytes is sent as JSON. HTTPError where Orthanc refuses."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        data = sent if method in ("POST", "PUT") else None
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://{self.address}:8042{path}", data, names, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def ask_all(self, *requests: tuple[Any, ...]) -> None:
        """One after the other."""
        for request in requests:
            self.ask(*request)

    def read(self, path: str) -> Any:
        return json.loads(self.ask("GET", path))

    def find_identifier(self, uid: str) -> str:
        """Orthanc's own identifier of what has this UID, or of the patient with this PatientID."""
        return str(json.loads(self.ask("POST", "/tools/lookup", uid.encode()))[0]["ID"])

    def open_association(self, *models: str, receives: bool = False) -> Association:
        image = make_image(0)
        device, storing = AE("US1"), image.SOPClassUID
        for model in models:
            device.add_requested_context(model)
        device.add_requested_context(storing, image.file_meta.TransferSyntaxUID)
        roles = [build_role(storing, scp_role=True)] if receives else []
        handlers = [(evt.EVT_C_STORE, lambda _event: 0x0000)]
        association = device.associate(
            self.address, 4242, ae_title=ORTHANC, ext_neg=roles, evt_handlers=handlers if receives else []
        )
        if not association.is_established:
            raise SystemExit(f"Orthanc refused an association for {models}")
        return association

    def store(self, *images: pydicom.Dataset) -> None:
        """C-STORE."""
        association = self.open_association()
        require_success("C-STORE", [association.send_c_store(image) for image in images])
        association.release()

    def search(self, model: str, level: str, **keys: Any) -> None:
        """C-FIND."""
        association = self.open_association(model)
        answers = [status for status, _answer in association.send_c_find(make_query(level, keys), model)]
        require_success("C-FIND", answers)
        association.release()

    def fetch(self, level: str, **keys: str) -> None:
        """C-GET."""
        model = StudyRootQueryRetrieveInformationModelGet
        association = self.open_association(model, receives=True)
        answers = [status for status, _answer in association.send_c_get(make_query(level, keys), model)]
        require_success("C-GET", answers)
        association.release()

    def move(self, level: str, **keys: str) -> None:
        """C-MOVE, to Orthanc itself."""
        model = StudyRootQueryRetrieveInformationModelMove
        association = self.open_association(model)
        answers = [status for status, _answer in association.send_c_move(make_query(level, keys), ORTHANC, model)]
        require_success("C-MOVE", answers)
        association.release()


def make_query(level: str, keys: dict[str, Any]) -> Dataset:
    query = Dataset()
    if level:
        query.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(query, name, value)
    return query


def require_success(service: str, answers: list[Dataset]) -> None:
    """SystemExit if the last answer is a failure."""
    if not answers or getattr(answers[-1], "Status", None) != 0x0000:
        raise SystemExit(f"{service} failed: {answers}")


def list_requests(client: Client) -> Iterator[Request]:
    """All but what needs other settings; deletions are last."""
    yield from list_stores(client)
    yield from list_web(client)
    yield from list_dicom(client)
    yield "tools/lookup", lambda: [client.find_identifier(uid) for uid in (STUDY, SERIES, IMAGE, "P0")]
    for level in LEVELS:
        yield from list_level(client, level)
    yield from list_changes(client)
    yield from list_jobs(client)
    yield from list_deletions(client)


def list_recycled(client: Client) -> Iterator[Request]:
    """What an archive does that may have three patients."""
    for patient in range(5, 10):
        yield "recycling", partial(client.store, *(make_image(patient, number=number) for number in range(2)))
    patient = client.read("/patients")[0]
    yield "recycling, one protected", partial(client.ask, "PUT", f"/patients/{patient}/protected", b"1")
    for number in range(20, 24):
        yield "recycling, one protected", partial(client.store, make_image(number))


# --- storing and DICOMweb -----------------------------------------------------------------------
def list_stores(client: Client) -> Iterator[Request]:
    """Three patients, two studies each, two series each, five images each."""
    yield "store (C-STORE)", partial(client.store, *(make_image(0, number=number) for number in range(5)))
    for patient in range(3):
        for series in range(4):
            for number in range(5):
                image = write_image(make_image(patient, *divmod(series, 2), number))
                yield "store (REST)", partial(client.ask, "POST", "/instances", image)
    image = write_image(make_image(0, number=7))
    body = b"--part\r\nContent-Type: application/dicom\r\n\r\n" + image + b"\r\n--part--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=part'
    yield "STOW-RS", partial(client.ask, "POST", "/dicom-web/studies", body, Content_Type=kind)
    yield "GET /changes", partial(client.ask, "GET", "/changes")
    yield "stable studies", partial(wait_for, partial(has_stable, client), "a stable study")


def has_stable(client: Client) -> bool:
    """Whether a study and a series have not changed for StableAge."""
    return all(kind in client.ask("GET", "/changes?limit=1000") for kind in (b"StableStudy", b"StableSeries"))


SEARCHED: dict[str, list[dict[str, str]]] = {
    "studies": [
        {"StudyInstanceUID": STUDY},
        {"PatientID": "P0"},
        {"PatientName": "NAME*"},
        {"AccessionNumber": "A00"},
        {"StudyDate": "20260101"},
        {"StudyDate": DATES},
        {"ModalitiesInStudy": "US"},
        {"StudyDescription": "desc*"},
        {"limit": "2"},
        {"limit": "2", "offset": "1"},
        {"includefield": "all"},
        {"PatientID": "P0", "StudyDate": DATES},
        {"PatientBirthDate": "20000101"},
        {"fuzzymatching": "true", "PatientName": "NAME*"},
        {"StudyInstanceUID": f"{STUDY},{STUDY}"},
        {"StudyTime": "10-12"},
        {"ReferringPhysicianName": "X*"},
        {},
    ],
    "series": [
        {"StudyInstanceUID": STUDY},
        {"SeriesInstanceUID": SERIES},
        {"Modality": "US"},
        {"PatientID": "P0"},
        {"PatientName": "NAME*"},
        {"AccessionNumber": "A00"},
        {"StudyDate": DATES},
        {"SeriesNumber": "1"},
        {"limit": "2"},
        {"SeriesDescription": "x*"},
    ],
    "instances": [
        {"SOPInstanceUID": IMAGE},
        {"SeriesInstanceUID": SERIES},
        {"StudyInstanceUID": STUDY},
        {"PatientID": "P0"},
        {"InstanceNumber": "1"},
        {"SOPClassUID": "1.2"},
        {"limit": "2"},
        {"StudyDate": DATES},
        {"Modality": "US"},
    ],
}
FETCHED = {
    "QIDO-RS series of a study": f"/dicom-web/studies/{STUDY}/series",
    "QIDO-RS instances of a study": f"/dicom-web/studies/{STUDY}/instances",
    "QIDO-RS instances of a series": f"{DICOMWEB_SERIES}/instances",
    "WADO-RS study": f"/dicom-web/studies/{STUDY}",
    "WADO-RS series": DICOMWEB_SERIES,
    "WADO-RS instance": DICOMWEB_IMAGE,
    "WADO-RS frames": f"{DICOMWEB_IMAGE}/frames/1",
    "WADO-RS rendered": f"{DICOMWEB_IMAGE}/rendered",
    "WADO-RS bulk": f"{DICOMWEB_IMAGE}/bulk/7fe00010",
    "WADO-RS metadata of a study": f"/dicom-web/studies/{STUDY}/metadata",
    "WADO-RS metadata of a series": f"{DICOMWEB_SERIES}/metadata",
    "WADO-RS metadata of a series, from its cache": f"{DICOMWEB_SERIES}/metadata",
    "WADO-RS metadata of an instance": f"{DICOMWEB_IMAGE}/metadata",
    "WADO-URI": f"/wado?requestType=WADO&objectUID={IMAGE}&contentType=application/dicom",
    "WADO-URI, rendered": f"/wado?requestType=WADO&studyUID={STUDY}&seriesUID={SERIES}&objectUID={IMAGE}",
}


def list_web(client: Client) -> Iterator[Request]:
    """QIDO-RS, WADO-RS and WADO-URI."""
    for level, searches in SEARCHED.items():
        for keys in searches:
            path = f"/dicom-web/{level}?{urllib.parse.urlencode(keys, safe='*,')}"
            yield f"QIDO-RS {level} by {'&'.join(keys) or 'nothing'}", partial(client.ask, "GET", path)
    for request, path in FETCHED.items():
        yield request, partial(client.ask, "GET", path)


# --- DICOM --------------------------------------------------------------------------------------
FOUND: dict[str, dict[str, Any]] = {
    "study by StudyInstanceUID": {"StudyInstanceUID": STUDY},
    "study by UID list": {"StudyInstanceUID": [STUDY, "1.2.3.1.2"]},
    "study by PatientID": {"PatientID": "P0"},
    "study by PatientName": {"PatientName": "NAME*"},
    "study by AccessionNumber": {"AccessionNumber": "A00"},
    "study by date": {"StudyDate": "20260101"},
    "study by range of dates": {"StudyDate": DATES},
    "study by date and time": {"StudyDate": DATES, "StudyTime": "000000-235959"},
    "study by modalities": {"ModalitiesInStudy": "US"},
    "study by description": {"StudyDescription": "desc*"},
    "study by everything": {
        **{"StudyDate": "", "PatientName": "", "ModalitiesInStudy": "", "SOPClassesInStudy": ""},
        **{"NumberOfStudyRelatedInstances": "", "NumberOfStudyRelatedSeries": ""},
    },
    "study by modality and date": {"ModalitiesInStudy": ["US", "CT"], "StudyDate": "20260101-"},
    "series by study UID": {"StudyInstanceUID": STUDY, "SeriesInstanceUID": "", "NumberOfSeriesRelatedInstances": ""},
    "series by series UID": {"SeriesInstanceUID": SERIES},
    "series by modality": {"StudyInstanceUID": STUDY, "Modality": "US"},
    "image by series UID": {
        **{"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": "", "InstanceNumber": ""},
    },
    "image by SOP UID": {"SOPInstanceUID": IMAGE},
    "image by number": {"SeriesInstanceUID": SERIES, "InstanceNumber": "1"},
}


def list_dicom(client: Client) -> Iterator[Request]:
    """C-FIND, C-GET and C-MOVE."""
    for name in ("PatientID", "PatientName"):
        keys = {"PatientID": "", "PatientName": "", name: {"PatientID": "P0", "PatientName": "NAME*"}[name]}
        search = partial(client.search, PatientRootQueryRetrieveInformationModelFind, "PATIENT", **keys)
        yield f"C-FIND patient by {name}", search
    for request, keys in FOUND.items():
        level = request.partition(" ")[0].upper()
        asked = {"StudyInstanceUID": "", **keys} if level == "STUDY" else keys
        search = partial(client.search, StudyRootQueryRetrieveInformationModelFind, level, **asked)
        yield f"C-FIND {request}", search
    yield "worklist query", partial(client.search, ModalityWorklistInformationFind, "", PatientID="*")
    modality = {"AET": ORTHANC, "Host": "127.0.0.1", "Port": 4242}
    yield "modality written", partial(client.ask, "PUT", "/modalities/itself", modality)
    yield "modalities read", partial(client.ask, "GET", "/modalities?expand")
    peer = ["http://localhost:1/"]
    peers = [("PUT", "/peers/recorded", peer), ("GET", "/peers"), ("DELETE", "/peers/recorded")]
    yield "peers", partial(client.ask_all, *peers)
    study, series = {"StudyInstanceUID": STUDY}, {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}
    image = {**series, "SOPInstanceUID": IMAGE}
    yield "C-GET study", partial(client.fetch, "STUDY", **study)
    yield "C-GET series", partial(client.fetch, "SERIES", **series)
    yield "C-GET image", partial(client.fetch, "IMAGE", **image)
    yield "C-MOVE study", partial(client.move, "STUDY", **study)
    yield "C-MOVE by accession", partial(client.move, "STUDY", AccessionNumber="A00")
    yield "C-MOVE image", partial(client.move, "IMAGE", **image)


# --- Orthanc's own REST API ---------------------------------------------------------------------
@dataclass(frozen=True)
class Level:
    """Of the four: its name in a search, that of its list, what names the first of it, and its own parts."""

    name: str
    listed: str
    uid: str
    parts: tuple[str, ...]
    parent: str = ""
    content: tuple[str, ...] = ()


PARTS = ("statistics", "metadata", "metadata?expand", "attachments", "module", "labels")
GROUPED = (
    *PARTS,
    "metadata/LastUpdate",
    "shared-tags",
    "instances-tags",
    "archive",
    "media",
    "instances",
    "instances?expand",
)
ATTACHMENT = "attachments/dicom"
CONTENT = ("Parent", "MainDicomTags", "Metadata", "Labels", "Attachments", "RequestedTags")
WANTED = [
    *("PatientID", "StudyDate", "NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries", "ModalitiesInStudy"),
    *("SOPClassesInStudy", "NumberOfPatientRelatedStudies", "NumberOfSeriesRelatedInstances"),
]
LEVELS = [
    Level(
        *("Patient", "patients", "P0", (*GROUPED, "studies", "series", "protected")),
        content=("Children", "IsStable", "IsProtected"),
    ),
    Level(
        *("Study", "studies", STUDY, (*GROUPED, "patient", "series"), "ParentPatient"),
        content=("Children", "IsStable"),
    ),
    Level(
        *("Series", "series", SERIES, (*GROUPED, "patient", "study", "ordered-slices"), "ParentStudy"),
        content=("Children", "IsStable", "Status"),
    ),
    Level(
        *("Instance", "instances", IMAGE),
        (
            *(*PARTS, "patient", "study", "series", "tags", "simplified-tags", "header", "file", "preview", "frames"),
            *("content", "metadata/ReceptionDate", f"{ATTACHMENT}/info", f"{ATTACHMENT}/size", f"{ATTACHMENT}/data"),
            f"{ATTACHMENT}/md5",
        ),
        "ParentSeries",
    ),
]


def list_level(client: Client, level: Level) -> Iterator[Request]:
    """What is asked about resources of a level, and of the first of them."""
    listed = level.listed
    own = f"/{listed}/{client.find_identifier(level.uid)}"
    yield f"list of {listed}", partial(client.ask, "GET", f"/{listed}")
    yield f"page of {listed}", partial(client.ask, "GET", f"/{listed}?since=1&limit=2")
    yield f"page of {listed}, expanded", partial(client.ask, "GET", f"/{listed}?expand&since=0&limit=2")
    yield f"list of {listed}, expanded", partial(client.ask, "GET", f"/{listed}?expand")
    yield f"GET /{listed}/id", partial(client.ask, "GET", own)
    for part in level.parts:
        yield f"GET /{listed}/id/{part}", partial(client.ask, "GET", f"{own}/{part}")
    metadata, attachment, label = f"{own}/metadata/recorded", f"{own}/attachments/1234", f"{own}/labels/first"
    written = [("PUT", metadata, b"value"), ("GET", metadata), ("DELETE", metadata)]
    yield f"metadata written, {level.name}", partial(client.ask_all, *written)
    compressions = [("POST", f"{attachment}/{what}") for what in ("compress", "uncompress")]
    written = [("PUT", attachment, b"value"), ("GET", f"{attachment}/data"), *compressions, ("DELETE", attachment)]
    yield f"attachment written, {level.name}", partial(client.ask_all, *written)
    written = [("PUT", label), ("GET", label), ("GET", "/tools/labels")]
    yield f"labels, {level.name}", partial(client.ask_all, *written)
    for name, search in make_searches(client, level).items():
        asked = {"Level": level.name, "Query": {}, **search}
        yield f"tools/find {level.name}{name}", partial(client.ask, "POST", "/tools/find", asked)
    asked = {"Level": level.name, "Query": {"PatientID": "P0"}}
    yield f"tools/count-resources {level.name}", partial(client.ask, "POST", "/tools/count-resources", asked)


def make_searches(client: Client, level: Level) -> dict[str, dict[str, Any]]:
    """By their names, what a search with /tools/find has beside its level."""
    queries = {
        "by identifier": {"PatientID": "P0"} if level.name == "Patient" else {"StudyInstanceUID": STUDY},
        "by name": {"PatientName": "NAME*"},
        "by range": {"StudyDate": DATES},
        "all": {},
    }
    found: dict[str, dict[str, Any]] = {}
    for name, query in queries.items():
        found[f" {name}"] = {"Query": query, "Expand": False, "Limit": 3}
        found[f" {name}, expanded"] = {"Query": query, "Expand": True, "Limit": 3}
    found[", labels"] = {"Labels": ["first"], "LabelsConstraint": "All"}
    found[", labels, any"] = {"Labels": ["first", "second"], "LabelsConstraint": "Any"}
    found[", labels, none"] = {"Labels": ["first"], "LabelsConstraint": "None"}
    if level.parent:
        above = LEVELS[LEVELS.index(level) - 1]
        found[" of a parent"] = {level.parent: client.find_identifier(above.uid)}
    order = [
        {"Type": "DicomTag", "Key": "PatientName", "Direction": "ASC"},
        {"Type": "Metadata", "Key": "LastUpdate", "Direction": "DESC"},
    ]
    found[" ordered"] = {"OrderBy": order, "Limit": 3, "Since": 1, "Expand": True}
    whole = [*CONTENT, *level.content]
    # Orthanc refuses this tag of an image
    tags = [tag for tag in WANTED if level.name != "Instance" or tag != "SOPClassesInStudy"]
    asked = {"MetadataQuery": {"LastUpdate": "2*"}, "RequestedTags": tags, "Limit": 3}
    found[" response content"] = {**asked, "ResponseContent": whole}
    if "IsProtected" in whole:  # up to 1.12.7 at least Orthanc does not know it
        found[" response content but IsProtected"] = {**asked, "ResponseContent": whole[:-1]}
    return found


CHANGES = [
    *("/changes?since=3&limit=5", "/changes?last", "/changes?to=30&limit=5"),
    *("/changes?type=NewStudy&limit=5", "/changes?type=NewStudy;StableStudy&since=1"),
    *("/exports", "/exports?last", "/exports?since=0&limit=2"),
    *("/statistics", "/system", "/jobs", "/tools/metrics-prometheus"),
]


def list_changes(client: Client) -> Iterator[Request]:
    """The whole archive's."""
    for path in CHANGES:
        yield f"GET {path}", partial(client.ask, "GET", path)


def list_jobs(client: Client) -> Iterator[Request]:
    """What changes, copies or sends a study."""
    patient, study, series = (client.find_identifier(uid) for uid in ("P0", STUDY, SERIES))
    protected = f"/patients/{patient}/protected"
    written = [("PUT", protected, b"1"), ("GET", protected), ("PUT", protected, b"0")]
    yield "patient protected", partial(client.ask_all, *written)
    posted: dict[str, tuple[str, Any]] = {
        "study modified": (f"/studies/{study}/modify", {"Replace": {"StudyDescription": "X"}, "Synchronous": True}),
        "series modified": (f"/series/{series}/modify", {"Replace": {"SeriesDescription": "X"}, "Synchronous": True}),
        "study split": (f"/studies/{study}/split", {"Series": [series], "KeepSource": True, "Synchronous": True}),
    }
    for request, (path, body) in posted.items():
        yield request, partial(client.ask, "POST", path, body)
    other = next(one for one in client.read(f"/patients/{patient}")["Studies"] if one != study)
    merged = [client.read(f"/studies/{other}")["Series"][0]]
    posted = {
        "study merged": (f"/studies/{study}/merge", {"Resources": merged, "KeepSource": True, "Synchronous": True}),
        "study anonymized": (f"/studies/{study}/anonymize", {"Synchronous": True}),
        "study sent": ("/modalities/itself/store", study.encode()),
        "study reconstructed": (f"/studies/{study}/reconstruct", {}),
        "tools/bulk-content": ("/tools/bulk-content", {"Resources": [study], "Level": "Series", "Metadata": True}),
        "tools/create-archive": ("/tools/create-archive", {"Resources": [study], "Synchronous": True}),
        "Lua": ("/tools/execute-script", b"return 1"),
    }
    for request, (path, body) in posted.items():
        yield request, partial(client.ask, "POST", path, body)


def list_deletions(client: Client) -> Iterator[Request]:
    """From the smallest to the largest."""
    yield "changes cleared", partial(client.ask_all, ("DELETE", "/exports"), ("DELETE", "/changes"))
    yield "instance overwritten", partial(client.ask, "POST", "/instances", write_image(make_image(0)))
    for request, path in {
        "deletion of an instance": f"/instances/{client.find_identifier(IMAGE)}",
        "deletion of a series": f"/series/{client.find_identifier(SERIES)}",
        "deletion of a study": f"/studies/{client.find_identifier(STUDY)}",
        "deletion of a patient": f"/patients/{client.find_identifier('P1')}",
    }.items():
        yield request, partial(client.ask, "DELETE", path)
    resources = {"Resources": [client.find_identifier("P2")]}
    yield "tools/bulk-delete", partial(client.ask, "POST", "/tools/bulk-delete", resources)
