# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which image a registry gives out under a tag, as the Docker Engine asks it (Docker's "Engine API", distribution).

The engine uses its own proxy and its own certificates, and nothing is pulled. Runs on the machine, standard library
only.
"""

from __future__ import annotations

import base64
import http.client
import json
from urllib.parse import quote

from .engine import SOCKET, Engine
from .server.core.errors import Refused
from .server.core.process import try_output

SECONDS = 20.0  # a clinic without internet waits so long for the answer that does not come


def read_digests(image: str) -> list[str]:
    """The digests under which registries gave out an image of this machine; none where a file was loaded."""
    shown = try_output("docker", "image", "inspect", "--format={{json .RepoDigests}}", image).strip()
    return [str(one).rpartition("@")[2] for one in json.loads(shown or "null") or []]


def ask_digest(image: str, username: str = "", password: str = "", path: str = SOCKET) -> str:
    """The digest of the image that the registry gives out under this name now. Refused where it does not answer."""
    login = {"username": username, "password": password, "serveraddress": image.partition("/")[0]} if username else {}
    headers = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}
    engine = Engine(path, SECONDS)
    try:
        engine.request("GET", f"/distribution/{quote(image, safe='/:')}/json", headers=headers)
        answer = engine.getresponse()
        found = json.loads(answer.read())
        if answer.status != http.client.OK:
            raise Refused(str(found["message"]))
        return str(found["Descriptor"]["digest"])
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
