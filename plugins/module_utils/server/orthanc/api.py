# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Orthanc's REST API on this machine, as the administrator that a deploy made (Orthanc Book, "REST API of Orthanc")."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import SEE_LOG, Refused
from ..core.settings import read_deployed

ANSWER_SECONDS = 120.0
REST_SECONDS = 0.5  # Orthanc ends a connection that rests for a second
START_SECONDS = 300.0  # until Orthanc answers
RETRY_SECONDS = 0.2


class Unanswered(Refused):
    """Orthanc does not run, is being started, or ended in the middle of its answer."""


class Account(NamedTuple):
    """Whose requests they are, and the port on which Orthanc takes them."""

    port: int
    name: str
    password: str


def read_options(path: Path) -> dict[str, Any]:
    """Orthanc's configuration as a deploy wrote it. Refused where it is not there or is not ours."""
    return read_deployed(path, Refused, "deploy again", "cannot be read", "does not contain Orthanc's options")


def find_administrator(options: Mapping[str, Any]) -> Account:
    """The first user with the role admin, who has every right, of Orthanc's options. Refused where there is none."""
    users, roles = options.get("RegisteredUsers", {}), options.get("ClinicopsRoles", {})
    name = next((name for name in users if roles.get(name) == "admin"), None)
    if name is None:
        what = "Orthanc's configuration has no user with the role admin"
        raise Refused(f"{what}. Remedy: give one to orthanc_users, and deploy again.")
    return Account(int(options.get("HttpPort", 8042)), name, str(users[name]))


class Answer(NamedTuple):
    """What Orthanc answers."""

    status: int
    body: bytes
    kind: str  # its Content-Type


class Api:
    """Requests over one connection, which is opened again where Orthanc has closed it."""

    def __init__(self, account: Account, seconds: float = ANSWER_SECONDS) -> None:
        token = base64.b64encode(f"{account.name}:{account.password}".encode()).decode()
        self.headers = {"Authorization": f"Basic {token}"}
        self.connection = http.client.HTTPConnection("127.0.0.1", account.port, timeout=seconds)
        self.asked = 0.0

    @classmethod
    def as_administrator(cls, path: Path, seconds: float = ANSWER_SECONDS) -> Api:
        """For the Orthanc whose configuration that file is."""
        return cls(find_administrator(read_options(path)), seconds)

    def ask(self, method: str, path: str, body: bytes = b"", accept: str = "*/*") -> Answer:
        """Whatever Orthanc answers. Unanswered where it does not."""
        if time.monotonic() >= self.asked + REST_SECONDS:
            self.connection.close()
        try:
            self.connection.request(method, path, body or None, {**self.headers, "Accept": accept})
            answer = self.connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise Unanswered(f"Orthanc does not answer ({error}). Remedy: {SEE_LOG}.") from None
        self.asked = time.monotonic()
        return Answer(answer.status, content, answer.getheader("Content-Type", ""))

    def get(self, path: str) -> Any:
        """Of JSON; None where there is nothing under this path. Refused for any other answer."""
        answer = self.ask("GET", path)
        if answer.status == 404:
            return None
        return read_json(answer, path)

    def post(self, path: str, content: Any) -> Any:
        """What Orthanc answers to JSON, of JSON. Refused for anything but success."""
        return read_json(self.ask("POST", path, json.dumps(content).encode()), path)

    def await_answer(self, is_alive: Callable[[], bool] = lambda: True, seconds: float = START_SECONDS) -> None:
        """Until it reads its index. Refused where it does not within so many seconds, or is not alive any more."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.get("/changes?last")  # /system answers without the index
                return
            except Refused:
                if time.monotonic() > end or not is_alive():
                    raise
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Until something is asked again."""
        self.connection.close()


def read_json(answer: Answer, path: str) -> Any:
    """The content of an answer. Refused for anything but success."""
    if answer.status != 200:
        raise Refused(f"Orthanc answers {answer.status} to {path}. Remedy: deploy again.")
    return json.loads(answer.body)
