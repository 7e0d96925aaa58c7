# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Images of a registry, as the Docker Engine asks for them (Docker's "Engine API", distribution and images).

The engine uses its own proxy and its own certificates. A login goes to it with the request, and is not kept. Runs on
the machine, standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, urlencode

from .engine import SOCKET, Engine
from .server.core.errors import Refused
from .server.core.process import try_output

SECONDS = 20.0  # a clinic without internet waits so long for the answer that does not come
PULL_SECONDS = 1800.0  # without a word, while a large layer is unpacked


def read_digests(image: str) -> list[str]:
    """The digests under which registries gave out an image of this machine; none where a file was loaded."""
    shown = try_output("docker", "image", "inspect", "--format={{json .RepoDigests}}", image).strip()
    return [str(one).rpartition("@")[2] for one in json.loads(shown or "null") or []]


def ask_digest(image: str, username: str = "", password: str = "", path: str = SOCKET) -> str:
    """The digest of the image that the registry gives out under this name now. Refused where it does not answer."""
    engine = Engine(path, SECONDS)
    with understand(engine):
        headers = build_login(image, username, password)
        engine.request("GET", f"/distribution/{quote(image, safe='/:')}/json", headers=headers)
        answer = engine.getresponse()
        found = json.loads(answer.read())
        if answer.status != http.client.OK:
            raise Refused(str(found["message"]))
        return str(found["Descriptor"]["digest"])


def pull(image: str, username: str = "", password: str = "", path: str = SOCKET) -> None:
    """Brings the image to this machine. Refused with the reason where that fails."""
    engine = Engine(path, PULL_SECONDS)
    with understand(engine):
        name, tag = split_name(image)
        asked = urlencode({"fromImage": name, "tag": tag})
        engine.request("POST", f"/images/create?{asked}", headers=build_login(image, username, password))
        answer = engine.getresponse()
        for line in answer:  # an error may come after the beginning
            said = json.loads(line)
            if answer.status != http.client.OK or "error" in said:
                raise Refused(str(said.get("error") or said["message"]))


def split_name(image: str) -> tuple[str, str]:
    """The name of an image and its tag or digest; without either, `latest`, where Docker would take all tags."""
    name, _unused, digest = image.partition("@")
    if digest:
        return name, digest
    found = re.fullmatch(r"(.+):([^:/]+)", image)
    return (found[1], found[2]) if found else (image, "latest")


def build_login(image: str, username: str, password: str) -> dict[str, str]:
    """The header with which the engine logs in to the image's registry."""
    login = {"username": username, "password": password, "serveraddress": image.partition("/")[0]} if username else {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


@contextlib.contextmanager
def understand(engine: Engine) -> Iterator[None]:
    """Closes the connection afterwards. Refused where the engine does not answer as Docker does."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Refused(f"the Docker Engine does not answer ({error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"an answer that is not Docker's: {error!r}") from error
    finally:
        engine.close()


def find_moved(image: str, username: str = "", password: str = "", path: str = SOCKET) -> str:
    """The digest that the tag has in the registry, if the image on this machine is another one; otherwise empty.

    Refused where the registry does not answer."""
    known = read_digests(image)
    now = ask_digest(image, username, password, path) if known else ""
    return "" if now in known else now
