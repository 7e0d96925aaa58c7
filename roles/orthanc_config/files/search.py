# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""DICOMweb searches whose query is percent-encoded, for an Orthanc that does not decode it.

Debian's Orthanc 1.10.1 and 1.12.7 take a query undecoded: `PatientName=Comp%2A` finds nothing, and raw UTF-8 is a
bad request. The proxy passes each such search (QIDO-RS, DICOM PS3.18 10.6) to /searches here, the query in a header,
since a Python plugin is given one value of each key alone. Here it is decoded (RFC 3986) and asked within Orthanc. What
gets lost on that way is the Accept header: the answer is in JSON. The plugin (4.0 and 5.0) keeps Python's lock while
Orthanc searches, so images that arrive wait for the answer.
"""

from __future__ import annotations

import functools
import json
import re
import urllib.parse
from typing import Any

import orthanc

# as in the proxy's site (orthanc.conf.j2)
UID = "[0-9.]+"
SEARCH = f"/searches/(studies|series|instances|studies/{UID}/(series|instances)|studies/{UID}/series/{UID}/instances)"
JSON = {"*/*", "application/*", "application/dicom+json", "application/json"}


def decode(text: str) -> str:
    """A key or a value as it was meant; ValueError for what is no text."""
    found = urllib.parse.unquote_to_bytes(text.replace("+", " ")).decode()
    if re.search(r"[\x00-\x1f\x7f]", found):
        raise ValueError("control characters")
    return found


def rewrite(query: str, decodes: bool) -> str:
    """The query as Orthanc understands it; `decodes` tells whether it decodes one. ValueError for a wrong query."""
    pairs = []
    for part in filter(None, query.split("&")):
        key, _unused, value = part.partition("=")
        key, value = decode(key), decode(value)
        if decodes:
            pairs.append(f"{urllib.parse.quote(key)}={urllib.parse.quote(value)}")
        elif set(key) & set("&="):
            raise ValueError("no key of DICOMweb's")
        else:
            # there is no way to write it: the wildcard for one character stands for it (DICOM PS3.4 C.2.2.2.4)
            pairs.append(f"{key}={value.replace('&', '?')}")
    return "&".join(pairs)


@functools.cache
def orthanc_decodes() -> bool:
    # nothing that fails: with 1.12.7 a query that Orthanc cannot read ends this call without an exception of Python's
    return isinstance(json.loads(orthanc.RestApiGet("/modalities?%65xpand")), dict)


def answer(output: Any, uri: str, **request: Any) -> None:
    headers = request["headers"]
    accepted = {kind.split(";")[0].strip().lower() for kind in headers.get("accept", "*/*").split(",")}
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
    elif not accepted & JSON:
        output.SendHttpStatusCode(406)
    else:
        try:
            query = rewrite(headers.get("x-orthanc-query", ""), orthanc_decodes())
            found = orthanc.RestApiGetAfterPlugins(f"/dicom-web/{uri.removeprefix('/searches/')}?{query}")
        except (ValueError, orthanc.OrthancException):
            output.SendHttpStatusCode(400)
        else:
            output.AnswerBuffer(name(found, headers), "application/dicom+json")


def name(found: bytes, headers: dict[str, str]) -> bytes:
    """RetrieveURLs begin with the name by which the client knows this server; from within, Orthanc has none to give."""
    base = f"{headers.get('x-forwarded-proto', 'https')}://{headers.get('host', 'localhost')}/dicom-web/"
    for own in (b"https://localhost:8042/dicom-web/", b"http://localhost:8042/dicom-web/"):
        found = found.replace(b'"' + own, b'"' + base.encode())
    return found


def register() -> None:
    """Has Orthanc give the searches of DICOMweb to this script."""
    orthanc.RegisterRestCallback(SEARCH, answer)
