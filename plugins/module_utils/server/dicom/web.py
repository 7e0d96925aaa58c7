# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""DICOMweb over HTTPS, and Orthanc's REST API: QIDO-RS, WADO-RS and STOW-RS (DICOM PS3.18). Without Ansible."""

from __future__ import annotations

import base64
import email
import email.policy
import http.client
import json
import secrets
import socket
import ssl
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

from . import scu

ROOT = "/dicom-web"


class Patience:
    """For how many seconds a reply is awaited: for fewer once one was awaited in vain, since what hangs goes on to, and
    an acceptance test has some hundred requests."""

    seconds = 60.0
    hung = 5.0

    @classmethod
    def lose(cls) -> None:
        cls.seconds = cls.hung


class Reply(NamedTuple):
    status: int
    kind: str
    body: bytes
    location: str = ""


class User(NamedTuple):
    name: str
    password: str
    certificate: str = ""  # path of a certificate and its key, without .crt and .key


NOBODY = User("", "")


class Connection(http.client.HTTPSConnection):
    """HTTPS to an address under a given host name: this machine's DNS may not know the server's name."""

    def __init__(self, address: str, host: str, port: int, context: ssl.SSLContext) -> None:
        # without one of its own it would load the system's authorities, which takes 30 ms on Debian 12
        super().__init__(host, port, timeout=Patience.seconds, context=context)
        self.address, self.context = address, context

    def connect(self) -> None:
        try:
            plain = socket.create_connection((self.address, self.port), self.timeout)
        except ConnectionRefusedError:
            raise OSError(f"the proxy does not listen on port {self.port}; see systemctl status nginx") from None
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)


class Https(NamedTuple):
    """The proxy, as an external system sees it."""

    hostname: str
    ca_file: str
    address: str = "127.0.0.1"
    port: int = 443

    @property
    def root(self) -> str:
        """Its URL, without a path."""
        return f"https://{self.hostname}" + (f":{self.port}" if self.port != 443 else "")

    def context(self, user: User = NOBODY) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        # a certificate that the clinic provides is trusted without its root, which only clients have
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if user.certificate:
            context.load_cert_chain(f"{user.certificate}.crt", f"{user.certificate}.key")
        return context

    def ask(self, method: str, path: str, user: User, body: bytes = b"", **headers: str) -> Reply:
        """The reply to a request. Raises OSError, also for TLS failures."""
        connection = Connection(self.address, self.hostname, self.port, self.context(user))
        return ask(connection, method, path, user, body, headers)

    def expiry(self) -> int:
        """When its certificate expires, in epoch seconds. Raises OSError if it is not trusted."""
        with (
            socket.create_connection((self.address, self.port), 10) as plain,
            self.context().wrap_socket(plain, server_hostname=self.hostname) as talk,
        ):
            return int(ssl.cert_time_to_seconds(str((talk.getpeercert() or {})["notAfter"])))

    def find(self, user: User, **keys: str) -> list[dict[str, Any]]:
        """The studies with all these values, which may contain wildcards (QIDO-RS, PS3.18 10.6)."""
        query = urllib.parse.urlencode(keys, quote_via=urllib.parse.quote)
        found = self.ask("GET", f"{ROOT}/studies?{query}", user, Accept="application/dicom+json")
        return json.loads(found.body) if found.status == 200 else []

    def read(self, path: str, user: User, syntax: str = "*") -> tuple[int, bytes]:
        """The status, and the first instance below the path in this transfer syntax, or as it was stored (WADO-RS,
        PS3.18 10.4)."""
        accept = f'multipart/related; type="application/dicom"; transfer-syntax={syntax}'
        reply = self.ask("GET", path, user, Accept=accept)
        if reply.status != 200:
            return reply.status, b""
        head = f"Content-Type: {reply.kind}\r\n\r\n".encode()
        message = email.message_from_bytes(head + reply.body, policy=email.policy.HTTP)
        payload = next(part for part in message.walk() if not part.is_multipart()).get_payload(decode=True)
        return reply.status, payload if isinstance(payload, bytes) else b""

    def store(self, path: Path | str, user: User) -> int:
        """Stores one file and returns the status (STOW-RS, PS3.18 10.5)."""
        boundary = secrets.token_hex(12)
        content = Path(path).read_bytes()
        body = b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n--%b--\r\n" % (
            *(boundary.encode(), content, boundary.encode()),
        )
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        return self.ask("POST", f"{ROOT}/studies", user, body, Content_Type=kind).status

    def compare_image(self, path: str, image: Path | str, user: User, scratch: Path, syntax: str = "*") -> str:
        """'bit-identical' if WADO-RS returns the data set of the file, including pixel data; 'different' or the HTTP
        status otherwise. In a `syntax` that is asked for, the server may have stored it in another lossless one."""
        status, content = self.read(path, user, syntax)
        if status != 200:
            return f"HTTP status {status}"
        received = scratch / "received.dcm"
        received.write_bytes(content)
        try:
            found, sent = scu.data_set(received), scu.data_set(image)
            if syntax != "*":
                found, sent = scu.forget_syntax(found), scu.forget_syntax(sent)
            return "bit-identical" if found == sent else "different"
        finally:
            received.unlink()


def retrieve_url(study: dict[str, Any]) -> str:
    """The RetrieveURL of a study in QIDO-RS's answer."""
    return scu.value(study, "00081190")


def path_of(url: str) -> str:
    return urllib.parse.urlsplit(url).path


def http_ask(
    port: int, method: str, path: str, user: User = NOBODY, body: bytes = b"", address: str = "127.0.0.1"
) -> Reply:
    """The reply of Orthanc itself, without the proxy. Raises OSError."""
    connection = http.client.HTTPConnection(address, port, timeout=Patience.seconds)
    try:
        return ask(connection, method, path, user, body, {})
    except ConnectionRefusedError:
        text = f"Orthanc does not listen on port {port}; see systemctl status orthanc, or docker ps -a"
        raise OSError(text) from None


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, user: User, body: bytes, headers: dict[str, str]
) -> Reply:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if user.name:
        sent["Authorization"] = f"Basic {base64.b64encode(f'{user.name}:{user.password}'.encode()).decode()}"
    try:
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        kind, location = answer.getheader("Content-Type", ""), answer.getheader("Location", "")
        return Reply(answer.status, kind, answer.read(), location)
    except TimeoutError:
        Patience.lose()
        raise
    except http.client.HTTPException as error:
        raise OSError(f"the answer is not HTTP ({type(error).__name__})") from None
    finally:
        connection.close()
