"""QIDO-RS finds what C-FIND finds, however a client writes the query (RFC 3986, DICOM PS3.18 10.6)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import backups
import bed
import places
import pydicom
import pytest
import requests
import viewers
from backups import must
from clients import ADDRESSES, HOSTNAME, PASSWORDS, client, name_of, put
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import generate_uid
from senders import SENDERS, image, is_container, sent
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")

READER, OFFICE = SENDERS["US1"], "orthanc-sender3"
PEOPLE = [
    ("Search^Compressed", "ISO_IR 192"),
    ("Müller^Anna", "ISO_IR 192"),
    ("Möller^Max", "ISO_IR 100"),
    ("Иванов^Пётр", "ISO_IR 192"),
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
    ("O'Brien^Zoë", "ISO_IR 192"),
]
KEYS: list[tuple[str, str]] = [
    ("PatientName", "Search*"),
    ("PatientName", "Search^Compressed"),
    ("PatientName", "Müller*"),
    ("PatientName", "Müller^Anna"),
    ("PatientName", "Möller*"),
    ("PatientName", "Иванов*"),
    ("PatientName", "*山田*"),
    ("PatientName", "O'Brien^Z*"),
    ("PatientID", "P 1"),
    ("PatientID", "P+2"),
    ("PatientID", "50%/3"),
    ("PatientID", "P;4:x@y"),
    ("AccessionNumber", "S=5"),
    ("StudyDescription", "Ultraschall & Höhe 1"),
    ("StudyDate", "20260101-20261231"),
    ("ModalitiesInStudy", "US"),
]
IDENTIFIERS = ["P 0", "P 1", "P+2", "50%/3", "P;4:x@y", "P5"]
FIND = """
import json, sys
import pydicom
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as MODEL
plan = json.load(sys.stdin)
scu = AE(ae_title="US1")
scu.add_requested_context(MODEL)
association = scu.associate(plan["address"], 4242, ae_title="ORTHANC")
found = []
for keyword, value in plan["keys"]:
    query = pydicom.Dataset()
    query.SpecificCharacterSet, query.QueryRetrieveLevel, query.StudyInstanceUID = "ISO_IR 192", "STUDY", ""
    setattr(query, keyword, value)
    answers = [(status.Status, answer) for status, answer in association.send_c_find(query, MODEL)]
    assert answers[-1][0] == 0, (keyword, value, answers[-1])
    found.append(sorted(answer.StudyInstanceUID for status, answer in answers[:-1]))
association.release()
json.dump(found, sys.stdout)
"""


def quoted(key: str, value: str) -> str:
    return urllib.parse.urlencode({key: value}, quote_via=urllib.parse.quote, safe="")


def form(key: str, value: str) -> str:
    """As URLSearchParams of browsers does: + for a space."""
    return urllib.parse.urlencode({key: value})


def every(key: str, value: str) -> str:
    """Each byte of it, key included, which no server may take for something else."""
    return "=".join("".join(f"%{byte:02x}" for byte in text.encode()) for text in (key, value))


@pytest.fixture(scope="module")
def studies() -> list[pydicom.Dataset]:
    made = []
    for number, ((name, characters), identifier) in enumerate(zip(PEOPLE, IDENTIFIERS, strict=True)):
        one = image(f"S={number}", StudyDate="20261128", SpecificCharacterSet=characters)
        one.PatientName, one.PatientID, one.Modality = name, identifier, "US"
        one.StudyDescription = f"Ultraschall & Höhe {number}"
        made.append(one)
    return made


@pytest.fixture(scope="module")
def machine(host: Host, studies: list[pydicom.Dataset]) -> str:
    name = name_of(host)
    assert set(sent(name, "US1", *studies)) == {0}
    return name


Found = list[tuple[str, str, list[str]]]


@pytest.fixture(scope="module")
def by_c_find(machine: str) -> Found:
    """Each key and value with the studies that have it."""
    # the container's Orthanc 1.13.0 decodes a query by itself, and does not find & in a value
    keys = [(key, value) for key, value in KEYS if not (is_container(machine) and "&" in value)]
    plan = json.dumps({"address": ADDRESSES[machine][0], "keys": keys}).encode()
    done = client(READER, "env", f"PYTHONPATH={backups.DICOM}", "python3", "-c", FIND, stdin=plan)
    assert done.returncode == 0, done.stderr.decode()
    found = [(*key, uids) for key, uids in zip(keys, json.loads(done.stdout), strict=True)]
    assert [value for _key, value, uids in found if not uids] == []
    return found


def uids(answers: list[dict[str, Any]], tag: str = "0020000D") -> list[str]:
    return sorted(one[tag]["Value"][0] for one in answers)


@pytest.fixture
def get(session: requests.Session) -> Callable[..., requests.Response]:
    """GET below https://pacs.clinic.example as a library of PyPI's sends it, from the address of a client."""

    def get(path: str, **headers: str) -> requests.Response:
        asked = session.prepare_request(requests.Request("GET", f"https://{HOSTNAME}/", headers=headers))
        asked.url = f"https://{HOSTNAME}{path}"  # else it would be decoded as far as it can be
        return session.send(asked, timeout=60)

    return get


@pytest.fixture(scope="module")
def session(host: Host) -> Iterator[requests.Session]:
    ca = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent.parent / f"{name_of(host)}.crt"
    ca.write_bytes(host.file("/etc/nginx/orthanc/ca.crt").content)
    find = socket.getaddrinfo
    with (
        places.lent(READER, name_of(host)) as address,
        pytest.MonkeyPatch.context() as patch,
        requests.Session() as one,
    ):
        patch.setattr(socket, "getaddrinfo", lambda name, *more: find({HOSTNAME: address}.get(name, name), *more))
        one.verify, one.auth, one.trust_env = str(ca), ("viewer", PASSWORDS["viewer"]), False
        yield one


@pytest.mark.parametrize("write", [quoted, form, every])
def test_a_search_finds_what_c_find_finds(
    write: Callable[[str, str], str], by_c_find: Found, get: Callable[..., requests.Response]
) -> None:
    for key, value, expected in by_c_find:
        found = get(f"/dicom-web/studies?{write(key, value)}", Accept="application/dicom+json")
        assert found.status_code == 200, (key, value, found.text)
        assert found.headers["Content-Type"].startswith("application/dicom+json")
        assert uids(found.json()) == expected, (key, value)


def test_dicomweb_client_finds_what_c_find_finds(
    session: requests.Session, by_c_find: Found, studies: list[pydicom.Dataset]
) -> None:
    reader = DICOMwebClient(f"https://{HOSTNAME}/dicom-web", session=session)
    for key, value, expected in by_c_find:
        assert uids(reader.search_for_studies(search_filters={key: value})) == expected, (key, value)
    study = str(studies[1].StudyInstanceUID)
    many = {"PatientName": "Müller*", "StudyDate": "20261128", "PatientID": "P 1", "StudyInstanceUID": study}
    fields = ["StudyDescription", "00081050", "PatientSize"]
    [one] = reader.search_for_studies(search_filters=many, fields=fields, limit=3, offset=0)
    assert one["00081030"]["Value"] == ["Ultraschall & Höhe 1"]
    assert one["00081190"]["Value"] == [f"https://{HOSTNAME}/dicom-web/studies/{uids([one])[0]}"]
    [series] = reader.search_for_series(uids([one])[0], search_filters={"Modality": "U*"})
    arguments = (uids([one])[0], uids([series], "0020000E")[0])
    assert len(reader.search_for_instances(*arguments, search_filters={"PatientName": "Müller*"})) == 1
    # the same words find nothing where nobody has the name
    assert reader.search_for_studies(search_filters={"PatientName": "Müllers*"}) == []


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[viewers.Site]:
    """A web server of another origin, whose page has npm's dicomweb-client as OHIF has it."""
    home = tmp_path_factory.mktemp("viewer")
    shutil.copy(bed.libraries() / "dicomweb-client/build/dicomweb-client.js", home)
    page = '<!DOCTYPE html><meta charset="utf-8"><title>A viewer</title><script src="dicomweb-client.js"></script>'
    (home / "index.html").write_text(page)
    with viewers.serve(home) as site:
        yield site


def test_npm_s_dicomweb_client_finds_what_c_find_finds(
    host: Host, by_c_find: Found, studies: list[pydicom.Dataset], viewer: viewers.Site
) -> None:
    """It encodes a value with encodeURIComponent, and its key, which may stand encoded, not at all."""
    password = base64.b64encode(f"viewer:{PASSWORDS['viewer']}".encode()).decode()
    options = {"url": f"https://{HOSTNAME}/dicom-web", "headers": {"Authorization": f"Basic {password}"}}
    with viewers.at(host, viewer, viewers.VIEWER_HOST, OFFICE) as chromium:
        chromium.run(f"void (window.reader = new DICOMwebClient.api.DICOMwebClient({json.dumps(options)}))")

        def search(what: str, keys: dict[str, str], **within: str) -> list[dict[str, Any]]:
            asked = json.dumps({"queryParams": keys, **within})
            told = "error => { throw Error(`${error.message}: ${error.status}`) }"  # the client does not say the status
            found = chromium.run(f"reader.searchFor{what}({asked}).catch({told})")
            return list(found or [])  # nothing is 204 or an empty list

        for key, value, expected in by_c_find:
            assert uids(search("Studies", {key: value})) == expected, (key, value)
            # a viewer that encodes each byte itself
            encoded, _, rest = every(key, value).partition("=")
            assert uids(search("Studies", {f"{encoded}={rest}&limit": "100"})) == expected, (key, value)
        study = str(studies[1].StudyInstanceUID)
        many = {"PatientName": "Müller*", "StudyDate": "20261128", "PatientID": "P 1", "StudyInstanceUID": study}
        [one] = search("Studies", {**many, "includefield": "StudyDescription,00081050", "limit": "3", "offset": "0"})
        assert one["00081030"]["Value"] == ["Ultraschall & Höhe 1"]
        [series] = search("Series", {"Modality": "U*"}, studyInstanceUID=study)
        place = {"studyInstanceUID": study, "seriesInstanceUID": uids([series], "0020000E")[0]}
        assert len(search("Instances", {"PatientName": "Müller*"}, **place)) == 1
        assert search("Studies", {"PatientName": "Müllers*"}) == []


def test_each_level_and_each_key_is_decoded(
    machine: str, studies: list[pydicom.Dataset], get: Callable[..., requests.Response]
) -> None:
    one = studies[1]
    study, series, sop = (str(one[tag].value) for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    dotted = series.replace(".", "%2e")
    for path, tag, expected in (
        (f"/series?SeriesInstanceUID={dotted}", "0020000E", series),
        (f"/series/?SeriesInstanceUID={dotted}", "0020000E", series),
        (f"/instances?SeriesInstanceUID={dotted}", "00080018", sop),
        (f"/studies/{study}/series?Modality=%55S", "0020000E", series),
        (f"/studies/{study}/instances?SeriesInstanceUID={dotted}", "00080018", sop),
        (f"/studies/{study}/series/{series}/instances?SOPInstanceUID={sop.replace('.', '%2E')}", "00080018", sop),
    ):
        found = get(f"/dicom-web{path}")
        assert (found.status_code, uids(found.json(), tag)) == (200, [expected]), path
    assert len(get("/dicom-web/studies?PatientName=%2A&limit=%32").json()) == 2
    first, second = (uids(get(f"/dicom-web/studies?limit=1&off%73et=%3{n}").json()) for n in (0, 1))
    assert first != second


def test_what_cannot_be_answered_is_refused(machine: str, get: Callable[..., requests.Response]) -> None:
    for query in ("PatientName=%FF%FE", "PatientName=A%00B", "PatientName=A%0d%0aX-Role:%20admin"):
        found = get(f"/dicom-web/studies?{query}")
        assert found.status_code == 400 or (found.status_code, found.json()) == (200, []), query
    # nobody asks for something else than a search in this way, and nobody's header stands for the query
    for path in ("/searches/studies", "/searches/system", "/dicom-web/servers?a=%62"):
        assert get(path, **{"X-Orthanc-Query": "PatientName=%2A"}).status_code == 403, path
    all_of_them = get("/dicom-web/studies").json()
    assert get("/dicom-web/studies", **{"X-Orthanc-Query": "PatientName=nobody"}).json() == all_of_them


def typed(host: Host, query: str, level: str = "studies") -> tuple[int, list[dict[str, Any]]]:
    """Status and answer of a search that is sent as a person wrote it."""
    put(READER, "/tmp/ca.crt", host.file("/etc/nginx/orthanc/ca.crt").content)
    options = ["--silent", "--cacert", "/tmp/ca.crt", "--user", f"viewer:{PASSWORDS['viewer']}", "--globoff"]
    options += ["--resolve", f"{HOSTNAME}:443:{ADDRESSES[name_of(host)][0]}", "--write-out", "\n%{http_code}"]
    done = client(READER, "curl", *options, f"https://{HOSTNAME}/dicom-web/{level}?{query}")
    body, _, status = done.stdout.decode().rpartition("\n")
    return int(status), json.loads(body) if status == "200" else []


def test_what_a_person_types_is_found(host: Host, by_c_find: Found) -> None:
    for key, value, expected in by_c_find[:3]:
        status, found = typed(host, f"{key}={value}")
        # 1.13.0 refuses what is not ASCII there, and says so
        assert (status, uids(found)) == (200, expected) or (status == 400 and not value.isascii()), value
        assert status == 200 or is_container(name_of(host))


def test_a_log_holds_no_query(host: Host, machine: str) -> None:
    secret = str(generate_uid())
    begin = must(machine, "date +%s").strip()
    path = "/dicom-web/series" if is_container(machine) else "/searches/series"
    lines = f"grep -c 'viewer .*GET {path}' /var/log/nginx/orthanc_access.log || true"
    before = int(must(machine, lines))
    assert typed(host, f"PatientName=%2A{secret}", "series") == (200, [])
    assert int(must(machine, lines)) == before + 1
    assert secret not in must(machine, f"cat /var/log/nginx/*.log; journalctl --since=@{begin} --output=cat")
