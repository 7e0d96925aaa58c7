"""Who gets what through which door: every cell's expected value stands here and is observed by a real client."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import pytest
from bed import address6
from clients import ADDRESSES, ROOT, ask, client_at, name_of, put
from exposure import HTTPS, MARKER, ORTHANC_HTTP, Request, ask_all, dialogue, give_certificates, store_marker
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

Doors = dict[tuple[str, int, int], str]  # place, IP version, port
Answers = dict[tuple[str, str, str], tuple[int, bytes]]  # asker, method, path
Dialogues = dict[tuple[str, ...], str]
testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

# What a TCP connection meets. open; silent: dropped, the client sees a time-out; refused: nobody listens there.
DOORS = """
place     IP    4242    2762    443     80       8042
us2       4     open    silent  silent  refused  silent
us2       6     silent  silent  silent  refused  silent
us3       4     silent  open    silent  refused  silent
us3       6     silent  silent  silent  refused  silent
unlisted  4     silent  silent  silent  refused  silent
unlisted  6     silent  silent  silent  refused  silent
office    4     silent  silent  open    refused  silent
office    6     silent  silent  open    refused  silent
it        4     silent  silent  open    refused  silent
it        6     silent  silent  open    refused  silent
outside   4     silent  silent  silent  refused  silent
outside   6     silent  silent  silent  refused  silent
itself    4     open    open    open    refused  open
itself    6     refused open    open    refused  refused
"""
NETWORK = {"us2": 0, "us3": 0, "unlisted": 0, "office": 1, "it": 1, "outside": 2}

# Who asks: from where, as whom, over which IP and to which door. 8042 is Orthanc itself, behind nginx's back.
ASKERS = {
    "nobody": ("office", "", 4, HTTPS),
    "viewer": ("office", "viewer", 4, HTTPS),
    "gateway": ("office", "gateway", 4, HTTPS),
    "it@office": ("office", "it", 4, HTTPS),
    "it": ("it", "it", 4, HTTPS),
    "viewer6": ("office", "viewer", 6, HTTPS),
    "it6": ("it", "it", 6, HTTPS),
    "it@itself": ("itself", "it", 4, HTTPS),
    "nobody:8042": ("itself", "", 4, ORTHANC_HTTP),
    "viewer:8042": ("itself", "viewer", 4, ORTHANC_HTTP),
    "gateway:8042": ("itself", "gateway", 4, ORTHANC_HTTP),
    "it:8042": ("itself", "it", 4, ORTHANC_HTTP),
}
# The HTTP status of each request, in the order of ASKERS (30? is any redirect); "-" is not asked, for it would change
# the server. STOW is a POST with an image, {s} the study's URL, {i} its image's. 8042 answers 400 or 404 to a method
# or a study that Orthanc does not know, and 200 where it reads the path as the list of studies.
REQUESTS = """
                                                nobody viewer gateway it@office it viewer6 it6 it@itself, 8042: ...
GET      /dicom-web/studies                     401 200 200 403 200 200 200 200   401 200 200 200
HEAD     /dicom-web/studies                     401 200 200 403 200 200 200 200   401 404 404 404
GET      /dicom-web/studies?PatientName=SECRET* 401 200 200 403 200 200 200 200   401 200 200 200
GET      /dicom-web/series                      401 200 200 403 200 200 200 200   401 200 200 200
GET      /dicom-web/instances                   401 200 200 403 200 200 200 200   401 200 200 200
GET      {s}                                    401 200 200 403 200 200 200 200   401 200 200 200
GET      {s}/metadata                           401 200 200 403 200 200 200 200   401 200 200 200
GET      {s}/series                             401 200 200 403 200 200 200 200   401 200 200 200
GET      {s}/instances                          401 200 200 403 200 200 200 200   401 200 200 200
GET      {i}                                    401 200 200 403 200 200 200 200   401 200 200 200
HEAD     {i}                                    401 200 200 403 200 200 200 200   401 404 404 404
GET      {i}/metadata                           401 200 200 403 200 200 200 200   401 200 200 200
GET      {i}/frames/1                           401 200 200 403 200 200 200 200   401 200 200 200
GET      {i}/rendered                           401 200 200 403 200 200 200 200   401 200 200 200
GET      {i}/bulk/00281201                      401 200 200 403 200 200 200 200   401 200 200 200
STOW     /dicom-web/studies                     401 403 200 403 200 403 200 200   401 403 200 200
STOW     {s}                                    401 403 200 403 200 403 200 200   401 403 200 200
STOW     /dicom-web/series                      401 403 403 403 405 403 405 405   401 403 403 405
STOW     {s}/series                             401 403 403 403 405 403 405 405   401 403 403 405
POST     /dicom-web/instances                   401 403 403 403 405 403 405 405   401 403 403 405
PUT      {s}                                    401 403 403 403 -   403 -   -     401 403 403 -
DELETE   {s}                                    401 403 403 403 -   403 -   -     401 403 403 -
DELETE   /dicom-web/studies                     401 403 403 403 -   403 -   -     401 403 403 -
PATCH    /dicom-web/studies                     401 403 403 403 -   403 -   -     401 400 400 -
PROPFIND /dicom-web/studies                     401 403 403 403 -   403 -   -     401 404 404 -
OPTIONS  /dicom-web/studies                     401 403 403 403 -   403 -   -     401 404 404 -
GET      /                                      401 403 403 403 30? 403 30? 30?   401 403 403 30?
GET      /app/explorer.html                     401 403 403 403 200 403 200 200   401 403 403 200
GET      /system                                401 403 403 403 200 403 200 200   401 403 403 200
HEAD     /system                                401 403 403 403 200 403 200 200   401 403 403 404
GET      /patients                              401 403 403 403 200 403 200 200   401 403 403 200
GET      /studies                               401 403 403 403 200 403 200 200   401 403 403 200
GET      /instances                             401 403 403 403 200 403 200 200   401 403 403 200
GET      /statistics                            401 403 403 403 200 403 200 200   401 403 403 200
GET      /changes                               401 403 403 403 200 403 200 200   401 403 403 200
GET      /jobs                                  401 403 403 403 200 403 200 200   401 403 403 200
GET      /plugins                               401 403 403 403 200 403 200 200   401 403 403 200
GET      /modalities                            401 403 403 403 200 403 200 200   401 403 403 200
GET      /peers                                 401 403 403 403 200 403 200 200   401 403 403 200
GET      /tools/metrics-prometheus              401 403 403 403 200 403 200 200   401 403 403 200
POST     /tools/find                            401 403 403 403 200 403 200 200   401 403 403 200
POST     /tools/execute-script                  401 403 403 403 403 403 403 403   401 403 403 403
PUT      /tools/log-level                       401 403 403 403 -   403 -   -     401 403 403 -
POST     /instances                             401 403 403 403 200 403 200 200   401 403 403 200
DELETE   /instances/0                           401 403 403 403 404 403 404 404   401 403 403 404
PUT      /modalities/us9                        401 403 403 403 -   403 -   -     401 403 403 -
POST     /modalities/us2/store                  401 403 403 403 -   403 -   -     401 403 403 -
POST     /modalities/us2/echo                   401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/info                        401 403 403 403 200 403 200 200   401 200 200 200
GET      /dicom-web/servers                     401 403 403 403 200 403 200 200   401 403 403 200
PUT      /dicom-web/servers/evil                401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/app/client/index.html       401 403 403 403 200 403 200 200   401 403 403 200
GET      /wado?requestType=WADO&{uids}          401 403 403 403 404 403 404 404   401 403 403 404
GET      /webdav/                               401 403 403 403 404 403 404 404   401 403 403 404
PROPFIND /webdav/                               401 403 403 403 404 403 404 404   401 403 403 404
PUT      /webdav/uploads/a.dcm                  401 403 403 403 404 403 404 404   401 403 403 404
GET      /dicom-web/studies.json                401 403 403 403 404 403 404 404   401 403 403 404
GET      /dicom-web/studies../servers           401 403 403 403 404 403 404 404   401 404 404 404
GET      /DICOM-WEB/studies                     401 403 403 403 404 403 404 404   401 403 403 404
GET      /dicom-web/studies/../servers          401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies/../../system        401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies/%2e%2e/servers      401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies/..%2f..%2fsystem    401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies%2f..%2fservers      401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies/..%5c..%5csystem    401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies/..\\..\\system        401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies/%252e%252e/servers  401 403 403 403 -   403 -   -     401 404 404 -
GET      /dicom-web/studies/..;/servers         401 403 403 403 -   403 -   -     401 404 404 -
GET      /dicom-web/studies/%00/../../system    400 400 400 400 400 400 400 400   401 200 200 -
GET      //system                               401 403 403 403 -   403 -   -     401 403 403 -
GET      /./system                              401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies?_method=DELETE      401 403 403 403 -   403 -   -     401 403 403 -
GET      /dicom-web/studies?a=1&%5fmethod=PUT   401 403 403 403 -   403 -   -     401 200 200 -
POST     /tools/shutdown                        401 403 403 403 -   403 -   -     401 403 403 -
POST     /tools/reset                           401 403 403 403 -   403 -   -     401 403 403 -
"""
# what Orthanc's own API shows and DICOMweb does not
BEYOND_DICOMWEB = (b"DicomAet", b"ApiVersion", b"MainDicomTags")
BODIES = {"/tools/find": json.dumps({"Level": "Study", "Query": {}}), "/tools/execute-script": "return 1"}


# What a DICOM client meets, by DCMTK. rejected: the association; aborted: the operation; hung up: the connection ends
# before an association, for want of TLS or of a certificate; silent: no connection. 2762 is DICOM TLS.
DIALOGUES = """
place     as               to       port  certificate  operation  expected
us2       US2              ORTHANC  4242  -            echo       accepted
us2       US2              ORTHANC  4242  -            store      accepted
us2       US2              ORTHANC  4242  -            worklist   accepted
us2       US2              ORTHANC  4242  -            find       aborted
us2       US2              ORTHANC  4242  -            move       aborted
us2       US2              ORTHANC  4242  -            get        aborted
us2       US2              WRONG    4242  -            echo       rejected
us2       US1              ORTHANC  4242  -            echo       rejected
us2       US1              ORTHANC  4242  -            worklist   rejected
us2       US3              ORTHANC  4242  -            echo       rejected
us2       US3              ORTHANC  4242  -            store      rejected
us2       US9              ORTHANC  4242  -            echo       rejected
us2       US9              ORTHANC  4242  -            store      rejected
us2       US9              ORTHANC  4242  -            worklist   rejected
us2       US9              ORTHANC  4242  -            find       rejected
us2       US9              ORTHANC  4242  -            move       rejected
us2       US9              ORTHANC  4242  -            get        rejected
us2       ACCEPTANCE_TEST  ORTHANC  4242  -            echo       rejected
us2       US3              ORTHANC  2762  us3          echo       silent
us3       US3              ORTHANC  2762  us3          echo       accepted
us3       US3              ORTHANC  2762  us3          store      accepted
us3       US3              ORTHANC  2762  us3          worklist   accepted
us3       US3              ORTHANC  2762  us3          find       aborted
us3       US3              WRONG    2762  us3          echo       rejected
us3       US2              ORTHANC  2762  us3          echo       rejected
us3       US2              ORTHANC  2762  us3          store      rejected
us3       US9              ORTHANC  2762  us3          echo       rejected
us3       ACCEPTANCE_TEST  ORTHANC  2762  us3          echo       rejected
us3       US3              ORTHANC  2762  foreign      echo       hung up
us3       US3              ORTHANC  2762  foreign      store      hung up
us3       US3              ORTHANC  2762  -            echo       hung up
us3       US3              ORTHANC  4242  -            echo       silent
us3       US3              ORTHANC  4242  -            store      silent
unlisted  US2              ORTHANC  4242  -            echo       silent
unlisted  US2              ORTHANC  4242  -            store      silent
unlisted  US2              ORTHANC  4242  -            worklist   silent
unlisted  US3              ORTHANC  2762  us3          echo       silent
office    US2              ORTHANC  4242  -            echo       silent
office    US3              ORTHANC  2762  us3          echo       silent
it        US2              ORTHANC  4242  -            echo       silent
it        US3              ORTHANC  2762  us3          echo       silent
outside   US2              ORTHANC  4242  -            echo       silent
outside   US2              ORTHANC  4242  -            store      silent
outside   US3              ORTHANC  2762  us3          echo       silent
itself    ACCEPTANCE_TEST  ORTHANC  4242  -            echo       accepted
itself    ACCEPTANCE_TEST  ORTHANC  4242  -            find       aborted
itself    US2              ORTHANC  4242  -            echo       rejected
itself    US3              ORTHANC  4242  -            echo       rejected
itself    US3              ORTHANC  2762  us3          echo       accepted
itself    US3              ORTHANC  2762  foreign      echo       hung up
"""


def door_cells() -> Doors:
    head, *rows = [line.split() for line in DOORS.strip().splitlines()]
    return {
        (row[0], int(row[1]), int(port)): value for row in rows for port, value in zip(head[2:], row[2:], strict=True)
    }


def request_cells() -> dict[tuple[str, str, str], str]:
    cells = {}
    for line in REQUESTS.strip().splitlines()[1:]:
        method, path, *values = line.split()
        for asker, value in zip(ASKERS, values, strict=True):
            if value != "-":
                cells[asker, method, path] = value
    return cells


def dialogue_cells() -> Dialogues:
    rows = [line.split(maxsplit=6) for line in DIALOGUES.strip().splitlines()[1:]]
    return {tuple(row[:6]): row[6] for row in rows}


DOOR_CELLS, REQUEST_CELLS, DIALOGUE_CELLS = door_cells(), request_cells(), dialogue_cells()


@pytest.fixture(scope="module")
def doors(host: Host) -> Doors:
    """One knock at each door of the machine, from all places at the same time."""
    machine, knocking = name_of(host), {}
    asked: dict[str, dict[str, tuple[str, int, int]]] = defaultdict(dict)
    for place, family, port in DOOR_CELLS:
        four = ADDRESSES[machine][NETWORK[place]] if place in NETWORK else "127.0.0.1"
        six = address6(four) if place in NETWORK else "::1"
        asked[place][f"{four}:{port}" if family == 4 else f"[{six}]:{port}"] = (place, family, port)
    for place, names in asked.items():
        where = client_at(place) if place in NETWORK else machine
        put(where, "/tmp/door.py", (ROOT / "tests/agents/knock.py").read_bytes())
        command = ["docker", "exec", where, "python3", "/tmp/door.py", "--seconds", "0", "--wait", "1.5", *names]
        knocking[place] = subprocess.Popen(command, stdout=subprocess.PIPE)
    seen: Doors = {}
    for place, process in knocking.items():
        for name, told in json.loads(process.communicate(timeout=300)[0]).items():
            answer = next(key for key in told if key not in ("knocks", "longest_gap", "times"))
            seen[asked[place][name]] = {"in": "open"}.get(answer, answer)
    return seen


@pytest.fixture(scope="module")
def answers(host: Host) -> Answers:
    """Everything that is asked of the machine, one curl for each place."""
    machine = name_of(host)
    store_marker(machine)
    host.check_output("command -v curl || apt-get install -qq -y curl")
    ca = host.file("/etc/nginx/orthanc/ca.crt").content
    study = f"/dicom-web/studies/{MARKER.study}"
    image = f"{study}/series/{MARKER.series}/instances/{MARKER.instance}"
    uids = f"studyUID={MARKER.study}&seriesUID={MARKER.series}&objectUID={MARKER.instance}"
    asked: dict[str, dict[tuple[str, str, str], Request]] = defaultdict(dict)
    for asker, method, path in REQUEST_CELLS:
        place, user, family, port = ASKERS[asker]
        address = ADDRESSES[machine][1] if place in NETWORK else "127.0.0.1"
        request = Request(
            {"STOW": "POST"}.get(method, method),
            path.replace("{s}", study).replace("{i}", image).replace("{uids}", uids),
            user=user,
            address=address if family == 4 else f"[{address6(address)}]",
            port=port,
            headers=('Content-Type: multipart/related; type="application/dicom"; boundary=b',) * (method == "STOW"),
            body="@/tmp/exposure/stow"
            if method == "STOW"
            else "@/tmp/exposure/image"
            if path == "/instances" and method == "POST"
            else BODIES.get(path, ""),
        )
        asked[place][asker, method, path] = request
    seen: Answers = {}
    for place, requests in asked.items():
        found = ask_all(client_at(place) if place in NETWORK else machine, ca, list(requests.values()))
        seen.update(zip(requests, found, strict=True))
    return seen


@pytest.fixture(scope="module")
def dialogues(host: Host) -> Dialogues:
    """Every dialogue, eight at a time: most of them wait for an answer that does not come."""
    machine = name_of(host)
    store_marker(machine)
    authorities = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parents[1] / "ca" / machine
    for place in {cell[0] for cell in DIALOGUE_CELLS}:
        give_certificates(client_at(place) if place in NETWORK else machine, authorities)

    def hold(place: str, calling: str, called: str, port: str, certificate: str, operation: str) -> str:
        stranger = place in NETWORK
        where = client_at(place) if stranger else machine
        address = ADDRESSES[machine][NETWORK[place]] if stranger else "127.0.0.1"
        shown = "" if certificate == "-" else f"/tmp/{certificate}"
        return dialogue(where, address, int(port), calling, called, operation, shown)

    with ThreadPoolExecutor(8) as pool:
        held = pool.map(lambda cell: hold(*cell), DIALOGUE_CELLS)
    return dict(zip(DIALOGUE_CELLS, held, strict=True))


@pytest.mark.parametrize(("place", "family", "port"), DOOR_CELLS)
def test_door(doors: Doors, place: str, family: int, port: int) -> None:
    assert doors[place, family, port] == DOOR_CELLS[place, family, port]


@pytest.mark.parametrize(("asker", "method", "path"), REQUEST_CELLS)
def test_request(answers: Answers, asker: str, method: str, path: str) -> None:
    status, body = answers[asker, method, path]
    assert fnmatch(str(status), REQUEST_CELLS[asker, method, path])
    if not asker.startswith("it"):
        # whatever the status
        assert [word for word in BEYOND_DICOMWEB if word in body] == []
    if asker.startswith("nobody"):
        assert MARKER.name.encode() not in body


@pytest.mark.parametrize("cell", DIALOGUE_CELLS, ids=" ".join)
def test_dialogue(dialogues: Dialogues, cell: tuple[str, ...]) -> None:
    assert dialogues[cell] == DIALOGUE_CELLS[cell]


def test_a_refused_request_changed_nothing(host: Host, answers: Answers) -> None:
    assert {"SECRET-ID"} <= {item["MainDicomTags"].get("PatientID") for item in ask(host, "/patients?expand")}
    assert "us9" not in ask(host, "/modalities")
    assert "evil" not in ask(host, "/dicom-web/servers")
