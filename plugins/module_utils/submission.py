# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Submits images to an Orthanc that runs on this machine, whoever set it up: over its REST API, as one of its users.

Runs on the machine, standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.module_utils import namespaces, present
from ansible_collections.clinicops.orthanc.plugins.module_utils.dialect import VARIABLE, parse

from .server.orthanc.api import ANSWER_SECONDS, RETRY_SECONDS, Account, Api, Unanswered

PORT = 8042
START_SECONDS = 60.0  # from the open index to an answer


def read_running(pid: int) -> dict[str, Any]:
    """The configuration that a process of Orthanc was started with, from its files and its environment.

    OSError or ValueError if it cannot be read."""
    process = Path("/proc", str(pid))
    words = present.text((process / "cmdline").read_bytes()).split("\0")[1:]
    environment = present.variables(present.text((process / "environ").read_bytes()).split("\0"))
    root, here = str(process / "root"), os.readlink(process / "cwd")
    paths = [root + os.path.join(here, word) for word in words if word and not word.startswith("-")]
    found: dict[str, Any] = {}
    for text in present.of_machine(paths).values():
        text = VARIABLE.sub(lambda match: environment.get(match[1], match[2] or ""), text.removeprefix("\ufeff"))
        found |= parse(text, [])[0]
    return found


def submit(pid: int, files: Iterable[Path]) -> None:
    """Submits DICOM files to the Orthanc of this process, and removes each one that it then has bit by bit.

    OSError, ValueError or Refused where it stops before the end."""
    configuration = read_running(pid)

    def store() -> None:
        users = await_answer(configuration)
        for path in files:
            any(store_file(user, path) for user in users)

    if namespaces.has_own_network(pid):
        namespaces.run_inside(pid, store)
    else:
        store()


def store_file(user: Api, path: Path) -> bool:
    """Stores one file as a user, and removes it once Orthanc returns the same bytes."""
    content = path.read_bytes()
    stored = user.ask("POST", "/instances", content)
    answer = json.loads(stored.body) if stored.status == http.client.OK else {}
    if not isinstance(answer, dict) or not answer.get("ID"):
        return False
    if user.ask("GET", f"/instances/{answer['ID']}/file").body != content:
        return False
    path.unlink()
    return True


def await_answer(configuration: dict[str, Any]) -> list[Api]:
    """The users whom Orthanc lets in, as soon as it answers."""
    end = time.monotonic() + START_SECONDS
    every = [connect(configuration, account) for account in list_accounts(configuration)]
    while True:
        try:
            return [user for user in every if user.ask("GET", "/system").status == http.client.OK]
        except Unanswered:
            if time.monotonic() > end:
                raise
        time.sleep(RETRY_SECONDS)


def list_accounts(configuration: dict[str, Any]) -> list[Account]:
    """Each user whose password is written down, and nobody, who is enough where Orthanc asks for none."""
    users = configuration.get("RegisteredUsers")
    # until 1.12.8, Orthanc has this user where there is no other
    named = (users if users and isinstance(users, dict) else {"orthanc": "orthanc"}).items()
    port = int(configuration.get("HttpPort", PORT))
    return [*(Account(port, str(name), str(password)) for name, password in named), Account(port, "", "")]


def connect(configuration: dict[str, Any], account: Account) -> Api:
    """Requests of a user, over TLS where Orthanc has it."""
    user = Api(account)
    if configuration.get("SslEnabled") is True:
        # its certificate is for another name, and nobody is between this machine and itself
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        place = ("localhost", account.port)
        user.connection = http.client.HTTPSConnection(*place, timeout=ANSWER_SECONDS, context=context)
    return user
