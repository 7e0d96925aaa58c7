"""Chromium: Orthanc Explorer at IT's own PC, and a web viewer whose page comes from another server."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page
import places
import pydicom
import pytest
import viewers
from clients import (
    ADDRESSES,
    CLIENTS,
    HOSTNAME,
    IT,
    OFFICE,
    PASSWORDS,
    SCANNER,
    VIEWER,
    client,
    example,
    https,
    name_of,
    put,
    scu,
    wait_for,
)
from pydicom.uid import generate_uid
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner
from viewers import OTHER_HOST, VIEWER_HOST, trusting

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")
JSON, DICOM = "application/dicom+json", 'multipart/related; type="application/dicom"; transfer-syntax=*'


@pytest.fixture(scope="module")
def study() -> pydicom.Dataset:
    image = pydicom.dcmread(example())
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.PatientName, image.PatientID = "Browser^Test", "BROWSER"
    return image


@pytest.fixture
def stored(host: Host, study: pydicom.Dataset, tmp_path: Path) -> pydicom.Dataset:
    study.save_as(tmp_path / "image.dcm")
    put(SCANNER, "/tmp/browser.dcm", (tmp_path / "image.dcm").read_bytes())
    status, said = scu(SCANNER, "storescu", "US2", ADDRESSES[name_of(host)][0], "/tmp/browser.dcm")
    assert status == 0, said
    return study


# --- Orthanc Explorer ---------------------------------------------------------------------------
def click(chromium: page.Browser, link: str, text: str = "") -> None:
    """What a person sees of the page has such a link with that text after a while."""
    links = f"[...document.querySelectorAll('.ui-page-active a[href^=\"{link}\"]')]"
    found = f"{links}.find(one => one.innerText.includes({json.dumps(text)}))"
    wait_for(lambda: chromium.run(f"Boolean({found})"), f"{link} in Orthanc Explorer", 60)
    chromium.run(f"{found}.click()")
    wait_for(lambda: link in chromium.run("location.href"), f"the page {link}", 60)


def test_orthanc_explorer_shows_a_study_and_its_image(host: Host, stored: pydicom.Dataset) -> None:
    with (
        places.lent(IT, name_of(host), 1) as address,
        page.browser(f"--host-resolver-rules=MAP {HOSTNAME} {address}, MAP * ~NOTFOUND", trusting(host)) as chromium,
    ):
        # the browser asks for it once, and knows it from then on
        chromium.open(f"https://it:{PASSWORDS['it']}@{HOSTNAME}/system")
        chromium.open(f"https://{HOSTNAME}/app/explorer.html")
        click(chromium, "#find-patients")
        click(chromium, "#patient?", str(stored.PatientID))
        click(chromium, "#study?", str(stored.StudyInstanceUID))
        click(chromium, "#series?", str(stored.SeriesInstanceUID))
        click(chromium, "#instance?")
        identifier = str(chromium.run("location.href")).partition("uuid=")[2]
        size = chromium.run(
            "new Promise((done, fail) => { const image = new Image();"
            " image.onload = () => done([image.naturalWidth, image.naturalHeight]);"
            f" image.onerror = () => fail('no image'); image.src = '/instances/{identifier}/preview'; }})"
        )
        assert size == [stored.Columns, stored.Rows]
        answers = [event["params"] for event in chromium.events if event.get("method") == "Network.responseReceived"]
        seen = {answer["response"]["url"]: answer["response"]["status"] for answer in answers}
        assert any("&_=" in url or "?_=" in url for url in seen)
        assert [url for url, status in seen.items() if status >= 400] == []


def test_an_administrator_elsewhere_works_through_a_tunnel(host: Host) -> None:
    """As in docs/security.md: of the office alone `it` gets nothing, and a name with another port is a foreign page."""
    find = "fetch('/tools/find', {method: 'POST', body: JSON.stringify({Level: 'Study', Query: {}})})"
    address = ADDRESSES[name_of(host)][1]
    key = "-i /tmp/ssh.key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
    tunnel = f"ssh {key} -M -S /tmp/way -fN -o ExitOnForwardFailure=yes -L '*:8443:127.0.0.1:443' root@{address}"
    assert client(OFFICE, "sh", "-c", f"{tunnel} >/dev/null 2>&1").returncode == 0
    rules = f"--host-resolver-rules=MAP {HOSTNAME} {CLIENTS[OFFICE][0]}:8443, MAP * ~NOTFOUND"
    try:
        with page.browser(rules, trusting(host)) as chromium:
            statuses = []
            for root in (HOSTNAME, f"{HOSTNAME}:8443"):
                chromium.open(f"https://it:{PASSWORDS['it']}@{root}/system")
                chromium.open(f"https://{root}/app/explorer.html")
                statuses.append(chromium.run(f"{find}.then(answer => answer.status)"))
            assert statuses == [200, 403]
    finally:
        client(OFFICE, "ssh", "-S", "/tmp/way", "-O", "exit", "x")


# --- a viewer of another origin -----------------------------------------------------------------
@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[viewers.Site]:
    """A web server with an empty page, under two names."""
    with viewers.serve(tmp_path_factory.mktemp("viewer")) as site:
        yield site


def fetch(
    chromium: page.Browser, path: str, user: str, accept: str = JSON, method: str = "GET", body: bytes = b""
) -> Any:
    """Status and size of the answer, or what the browser says instead, of a request as OHIF's data source makes it."""
    password = base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
    headers = {"Accept": accept, "Authorization": f"Basic {password}"}
    more = ""
    if body:
        headers["Content-Type"] = 'multipart/related; type="application/dicom"; boundary=part'
        more = f", body: Uint8Array.from(atob('{base64.b64encode(body).decode()}'), one => one.charCodeAt(0))"
    options = f"{{headers: {json.dumps(headers)}, credentials: 'include', method: '{method}'{more}}}"
    take = "async answer => [answer.status, (await answer.arrayBuffer()).byteLength], error => String(error)"
    return chromium.run(f"fetch('https://{HOSTNAME}{path}', {options}).then({take})")


def test_a_viewer_of_an_allowed_origin_reads_and_stores(
    host: Host, stored: pydicom.Dataset, viewer: viewers.Site
) -> None:
    study = f"/dicom-web/studies/{stored.StudyInstanceUID}"
    with viewers.at(host, viewer, VIEWER_HOST, OFFICE) as chromium:
        assert fetch(chromium, "/dicom-web/studies?PatientName=Browser%2A", "viewer")[0] == 200
        assert fetch(chromium, f"{study}/series", "viewer")[0] == 200
        assert fetch(chromium, f"{study}/metadata", "viewer")[0] == 200
        status, size = fetch(chromium, study, "viewer", DICOM)
        assert (status, size > len(stored.PixelData)) == (200, True)
        with io.BytesIO() as buffer:
            stored.save_as(buffer)
            part = b"--part\r\nContent-Type: application/dicom\r\n\r\n" + buffer.getvalue() + b"\r\n--part--\r\n"
        assert fetch(chromium, "/dicom-web/studies", "gateway", JSON, "POST", part)[0] == 200
        # what the user may not do, the page hears, and no more
        assert fetch(chromium, "/system", "viewer")[0] == 403
        assert fetch(chromium, "/dicom-web/studies", "viewer", JSON, "POST", part)[0] == 403
        assert "TypeError" in fetch(chromium, study, "gateway", JSON, "DELETE")


def test_a_page_of_another_origin_reads_nothing(host: Host, stored: pydicom.Dataset, viewer: viewers.Site) -> None:
    with viewers.at(host, viewer, OTHER_HOST, OFFICE) as chromium:
        # it is there, and reaches the server
        assert chromium.run("location.origin") == f"https://{OTHER_HOST}"
        assert chromium.run(f"fetch('https://{HOSTNAME}/', {{mode: 'no-cors'}}).then(one => one.type)") == "opaque"
        assert "TypeError" in str(fetch(chromium, "/dicom-web/studies", "viewer"))


def test_what_is_said_to_an_origin(host: Host) -> None:
    """Exact names; never *; nothing to a preflight that asks for more."""

    def asked(origin: str, method: str = "GET", *more: str) -> tuple[int, dict[str, str]]:
        options = ["--request", "OPTIONS", "--header", f"Origin: {origin}", "--dump-header", "/tmp/headers"]
        options += ["--header", f"Access-Control-Request-Method: {method}", *more]
        status, _kind, _body = https(host, OFFICE, "/dicom-web/studies", *options, user="")
        lines = client(OFFICE, "cat", "/tmp/headers").stdout.decode().splitlines()
        return status, {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:]}

    status, headers = asked(f"https://{VIEWER_HOST}")
    assert status == 204
    assert headers["access-control-allow-origin"] == f"https://{VIEWER_HOST}"
    assert headers["access-control-allow-credentials"] == "true"
    assert "origin" in headers["vary"].lower()
    assert {name.strip() for name in headers["access-control-allow-headers"].split(",")} == {
        *("Accept", "Authorization", "Content-Type"),
    }
    for origin in (
        *("https://other.clinic.example", "http://viewer.clinic.example", "https://viewer.clinic.example:8443", "null"),
        *("https://viewer.clinic.example.evil.example", "https://evil.example/https://viewer.clinic.example", "*"),
    ):
        status, headers = asked(origin)
        assert (status, headers.get("access-control-allow-origin", "")) == (401, ""), origin
    status, headers = asked(f"https://{VIEWER_HOST}", "DELETE")
    assert (status, headers.get("access-control-allow-methods", "")) == (401, "")
    # a wrong password is heard of as such
    path, of_viewer = "/dicom-web/studies?limit=1", ["--header", f"Origin: https://{VIEWER_HOST}"]
    assert https(host, OFFICE, path, *of_viewer, user="viewer:wrong-password")[0] == 401
    assert https(host, OFFICE, path, *of_viewer, user=VIEWER)[0] == 200
