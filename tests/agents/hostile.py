#!/usr/bin/env python3
"""Hostile input for the proxy (https) and the DICOM port (dicom), seeded; what was seen is told as JSON.

Standard library alone: it runs in the client containers. Standard input is a JSON object: `hostname`, `user` and
`password` of a reader, `study` (the URL of a study that he may read), `markers` (what a stranger must never see),
`forbidden` (what a reader must never see), `aet` and `called`. Every second case of https carries the reader's
credentials, the others none. A case is broken when an answer holds what its sender must not see, or a stranger gets
a 2xx. While the cases run, an ordinary client asks again and again; his failures are told, and his slowest answer.
"""

from __future__ import annotations

import argparse
import base64
import collections
import concurrent.futures
import json
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SECRET_PATHS = [
    *("/system", "/patients", "/studies?expand", "/instances", "/changes", "/statistics", "/modalities?expand"),
    *("/dicom-web/servers", "/dicom-web/info", "/app/explorer.html", "/plugins", "/jobs", "/tools/metrics-prometheus"),
]
Steps = list[bytes | float]  # what is sent, and pauses in seconds


@dataclass
class Case:
    kind: str
    steps: Steps
    reader: bool = False
    alpn: str = "http/1.1"
    tls: bool = True
    limit: float = 3.0  # of waiting for the rest of the answer
    got: bytes = field(default=b"", repr=False)


class Told:
    """What the tool was told, and the choices of one case."""

    def __init__(self, settings: dict[str, Any], rng: random.Random, reader: bool) -> None:
        self.settings, self.rng, self.reader = settings, rng, reader
        self.host, self.study = str(settings["hostname"]).encode(), str(settings["study"]).encode()
        token = base64.b64encode(f"{settings['user']}:{settings['password']}".encode())
        self.credentials = b"Authorization: Basic " + token + b"\r\n"
        self.login = self.credentials if reader else b""

    def secret(self) -> bytes:
        return self.rng.choice(SECRET_PATHS).encode()

    def allowed(self) -> bytes:
        return self.rng.choice([b"/dicom-web/studies", self.study, self.study + b"/metadata", b"/dicom-web/instances"])

    def request(self, path: bytes, more: bytes = b"", body: bytes = b"", method: bytes = b"GET") -> bytes:
        return method + b" " + path + b" HTTP/1.1\r\nHost: " + self.host + b"\r\n" + self.login + more + b"\r\n" + body

    def noise(self, size: int) -> bytes:
        return self.rng.randbytes(size)

    def letters(self, size: int) -> bytes:
        return bytes(self.rng.choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=size))


# --- https -------------------------------------------------------------------------------------
def path_tricks(told: Told) -> Steps:
    up = [
        *(b"..", b"%2e%2e", b".%2e", b"%2E.", b"..;", b"..;x=1", b"%252e%252e", b"%c0%ae%c0%ae", b"..%00", b"..%09"),
        *(b"\xef\xbc\x8e\xef\xbc\x8e", b"..%20", b"...", b".", b"%u002e%u002e", b"..%0d%0a", b"..#", b"..?", b";.."),
        b"",
    ]
    slash = [b"/", b"//", b"%2f", b"%2F", b"\\", b"%5c", b"/./", b"%252f", b"/%2e/", b"%c0%af", b"/;/", b"\xe2\x88\x95"]
    start = told.rng.choice(
        [b"/dicom-web/studies", b"/dicom-web/instances", told.study, b"", b"/dicom-web", b"/DICOM-WEB"]
    )
    path = start
    for _ in range(told.rng.randint(1, 6)):
        path += told.rng.choice(slash) + told.rng.choice(up)
    path += told.rng.choice(slash) + told.secret().lstrip(b"/")
    return [
        told.request(path if path.startswith(b"/") else b"/" + path, told.rng.choice([b"", b"Connection: close\r\n"]))
    ]


def smuggle(told: Told) -> Steps:
    """A second request inside the first one's body; Orthanc must not take it for a request."""
    hidden_login = told.rng.choice([b"", told.login])
    hidden = b"GET " + told.secret() + b" HTTP/1.1\r\nHost: " + told.host + b"\r\n" + hidden_login + b"\r\n"
    if told.rng.random() < 0.4:
        query = b'{"Level": "Study", "Query": {}, "Expand": true}'
        head = b"POST /tools/find HTTP/1.1\r\nHost: x\r\n" + hidden_login
        hidden = head + b"Content-Length: %d\r\n\r\n" % len(query) + query
    chunked = b"%x\r\n" % len(hidden) + hidden + b"\r\n0\r\n\r\n"
    length = b"Content-Length: %d\r\n" % len(hidden)
    coding = [
        *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked"),
        *(b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity"),
        *(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", b"Transfer_Encoding: chunked"),
        b"transfer-encoding:\tchunked",
        *(b"X: y\nTransfer-Encoding: chunked", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: \x00chunked"),
    ]
    wrong = [
        b"+%d",
        b"%d, %d",
        b" %d ",
        b"-%d",
        b"0x%d",
        b"%d\r\nContent-Length: 0",
        b"0\r\nContent-Length: %d",
        b"%d\x00",
    ]
    lies = told.rng.choice(wrong)
    lie = b"Content-Length: " + lies.replace(b"%d", b"%d" % len(hidden)) + b"\r\n"
    way = told.rng.randrange(6)
    method = told.rng.choice([b"GET", b"GET", b"POST", b"HEAD", b"OPTIONS"])
    if way == 0:  # a plain body on a GET
        return [told.request(told.allowed(), length, hidden, method)]
    if way == 1:
        return [told.request(told.allowed(), told.rng.choice(coding) + b"\r\n", chunked, method)]
    if way == 2:
        return [
            told.request(told.allowed(), b"Content-Length: 4\r\n" + told.rng.choice(coding) + b"\r\n", chunked, method)
        ]
    if way == 3:
        both = length + told.rng.choice(coding) + b"\r\n"
        return [told.request(told.allowed(), both, b"0\r\n\r\n" + hidden, method)]
    if way == 4:
        return [told.request(told.allowed(), lie, hidden, method)]
    return [
        told.request(told.allowed(), b"Content-Length: %d\r\nExpect: 100-continue\r\n" % len(hidden), b"", method),
        0.1,
        hidden,
    ]


def chunks(told: Told) -> Steps:
    sizes = [
        *(b"ffffffffffffffff", b"-1", b"0x10", b"g", b"", b" 5", b"5 ", b"7fffffff", b"00000000000000000000005"),
        b"5\x00",
        b"5;" + told.letters(told.rng.choice([10, 5000, 70000])),
    ]
    body = b"".join(told.rng.choice(sizes) + b"\r\n" + told.noise(told.rng.randint(0, 40)) + b"\r\n" for _ in range(4))
    path = told.rng.choice([told.allowed(), told.secret()])
    return [told.request(path, b"Transfer-Encoding: chunked\r\n", body, told.rng.choice([b"GET", b"POST", b"PUT"]))]


def headers(told: Told) -> Steps:
    name, size = told.letters(8), told.rng.choice([4000, 9000, 40000, 300000])
    more = told.rng.choice(
        [
            *(b"X: a\r\n folded: " + told.credentials, b"X: a\x00b\r\n", b"X: a\rb\r\n", b"X: a\nY: b\r\n"),
            b"no colon\r\n",
            *(b" X: leading\r\n", b"X : space\r\n", b": empty\r\n", b"X\x80: high\r\n", b"X: \xff\xfe\r\n"),
            b"\r\n\r\n",
            name + b": " + told.letters(size) + b"\r\n",
            told.letters(size) + b": x\r\n",
            b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(told.rng.choice([100, 1000, 5000]))),
            b"Cookie: " + told.letters(size) + b"\r\n",
        ]
    )
    return [told.request(told.rng.choice([told.allowed(), told.secret()]), more)]


def duplicates(told: Told) -> Steps:
    wrong = b"Authorization: Basic " + base64.b64encode(b"it:" + told.letters(12)) + b"\r\n"
    more = told.rng.choice(
        [
            *(b"Host: localhost\r\n", b"Host: " + told.host + b"\r\n", wrong),
            b"Content-Length: 0\r\nContent-Length: 9\r\n",
            *(b"Authorization: \r\n", b"Connection: close\r\nConnection: Authorization\r\n", b"authorization : x\r\n"),
        ]
    )
    target = told.rng.choice([told.allowed(), told.secret()])
    if told.rng.random() < 0.5:
        return [told.request(target, more)]
    return [b"GET " + target + b" HTTP/1.1\r\n" + more + b"Host: " + told.host + b"\r\n" + told.login + b"\r\n"]


def spoof(told: Told) -> Steps:
    """Headers that some servers believe: whose request it is, and what for."""
    local = told.rng.choice([b"127.0.0.1", b"::1", b"localhost", b"198.51.100.90", b"127.0.0.1, 127.0.0.1"])
    secret = told.secret()
    lines = [
        *(b"X-Forwarded-For: " + local, b"X-Real-IP: " + local, b"Client-IP: " + local, b"True-Client-IP: " + local),
        *(b"Forwarded: for=" + local + b";host=localhost;proto=http", b"X-Forwarded-Host: localhost"),
        b"Via: 1.1 " + local,
        *(b"X-Original-URL: " + secret, b"X-Rewrite-URL: " + secret, b"X-Accel-Redirect: " + secret),
        b"X-Forwarded-Uri: " + secret,
        *(b"X-HTTP-Method-Override: POST", b"X-HTTP-Method: DELETE", b"X-Method-Override: PUT", b"X-Remote-User: it"),
        *(b"Remote-User: it", b"X-Forwarded-User: it", b"X-SSL-Client-Verify: SUCCESS", b"SSL-Client-S-DN: CN=it"),
        b"X-Role: admin",
        *(b"Connection: Authorization", b"Connection: X-Forwarded-For, close"),
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
        *(b"Upgrade: websocket\r\nConnection: Upgrade", b"Range: bytes=0-,0-,0-", b"Expect: 200-ok"),
        b"Accept-Encoding: " + told.letters(300),
    ]
    more = b"\r\n".join(told.rng.sample(lines, told.rng.randint(1, 5))) + b"\r\n"
    method = told.rng.choice([b"GET", b"GET", b"POST", b"DELETE"])
    return [told.request(told.rng.choice([told.allowed(), secret, secret]), more, method=method)]


def overrides(told: Told) -> Steps:
    name = told.rng.choice(
        [b"_method", b"%5fmethod", b"%5F%6dethod", b"_METHOD", b"_method%00", b"a&_method", b"a;_method", b"&_method"]
    )
    value = told.rng.choice([b"DELETE", b"POST", b"PUT", b"delete", b"D%45LETE"])
    return [
        told.request(told.rng.choice([told.study, b"/dicom-web/studies", told.secret()]) + b"?" + name + b"=" + value)
    ]


def targets(told: Told) -> Steps:
    secret = told.secret()
    target = told.rng.choice(
        [
            *(b"https://127.0.0.1:8042" + secret, b"http://" + told.host + secret, b"https://" + told.host + secret),
            b"//localhost" + secret,
            *(b"127.0.0.1:8042", b"*", secret[1:], b"", b"/dicom-web/studies " + secret),
            b"/dicom-web/studies\t" + secret,
            *(b"/" + told.letters(9000), b"/dicom-web/studies/" + told.letters(60000)),
            b"/dicom-web/studies?" + told.letters(200000),
            *(b"/dicom-web/studies\x00" + secret, b"/dicom-web/studies#" + secret),
            *(b"/dicom-web/studies?/../.." + secret, b"ftp://x" + secret),
            b"https://" + told.host + b"@127.0.0.1:8042" + secret,
        ]
    )
    method = told.rng.choice(
        [b"GET", b"CONNECT", b"TRACE", b"get", b"G\x00ET", b"", b"PROPFIND", b"BREW", told.letters(3000), b"OPTIONS"]
    )
    version = told.rng.choice(
        [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/9.9", b"HTTP/1.1 x", b"", b"HTTP/2.0", b"http/1.1"]
    )
    return [method + b" " + target + b" " + version + b"\r\nHost: " + told.host + b"\r\n" + told.login + b"\r\n"]


def hosts(told: Told) -> Steps:
    names = [
        *(b"localhost", b"127.0.0.1:8042", b"", b"x@" + told.host, told.host + b":8042", told.host + b"\x00"),
        *(told.host + b"/../..", b"[::1]"),
        *(told.host.upper(), told.host + b".", b"." + told.host, told.letters(20000), b"a b"),
        *(told.host + b", localhost", b"_", b"*"),
    ]
    target = told.rng.choice([told.allowed(), told.secret()])
    return [b"GET " + target + b" HTTP/1.1\r\nHost: " + told.rng.choice(names) + b"\r\n" + told.login + b"\r\n"]


def credentials(told: Told) -> Steps:
    """None of them is the reader's, whoever sends them."""
    name, word = told.settings["user"].encode(), told.settings["password"].encode()
    values = [
        *(b"Basic", b"Basic ", b"Basic ====", b"Basic \xff", b"Basic " + told.letters(30)),
        *(b"Basic " + told.letters(20000), b"Bearer x"),
        *(b"Digest username=it", b"Negotiate YII=", b"Basic " + base64.b64encode(name)),
        b"Basic " + base64.b64encode(b":" + word),
        *(
            b"Basic " + base64.b64encode(pair)
            for pair in (b"it:" + word, name.upper() + b":" + word, name + b":" + word + b"\x00")
        ),
        *(
            b"Basic " + base64.b64encode(pair)
            for pair in (name + b"\x00:" + word, name + b"\r\nX-Role: admin:" + word, b"orthanc:orthanc")
        ),
        *(
            b"Basic " + base64.b64encode(pair)
            for pair in (b" " + name + b":" + word, name + b":", b"it:", b"admin:admin", b"{}:{}", b"it'--:x")
        ),
    ]
    target = told.rng.choice([told.allowed(), told.secret()])
    return [
        b"GET "
        + target
        + b" HTTP/1.1\r\nHost: "
        + told.host
        + b"\r\nAuthorization: "
        + told.rng.choice(values)
        + b"\r\n\r\n"
    ]


def injections(told: Told) -> Steps:
    breaks = told.rng.choice([b"%0d%0a", b"%0a", b"\r\n", b"\n", b"\r", b"%E5%98%8A%E5%98%8D", b"%250d%250a", b"\x00"])
    evil = (
        breaks
        + told.rng.choice(
            [b"X-Role: admin", b"Set-Cookie:a=b", b"Host: localhost", b"GET " + told.secret() + b" HTTP/1.1"]
        )
        + breaks
    )
    where = told.rng.randrange(4)
    if where == 0:
        return [told.request(b"/dicom-web/studies/" + evil)]
    if where == 1:
        return [told.request(b"/dicom-web/studies?PatientName=" + evil)]
    if where == 2:
        return [told.request(told.allowed(), b"User-Agent: " + evil + b"\r\n")]
    return [told.request(told.allowed(), b"Accept: application/dicom+json" + evil + evil + b"\r\n")]


def bodies(told: Told) -> Steps:
    size = told.rng.choice([10**10, 10**19, 2**63, 2**64 - 1, 3 * 10**6])
    path = told.rng.choice([b"/dicom-web/studies", b"/instances", b"/tools/execute-script", told.study])
    kind = told.rng.choice(
        [
            b'multipart/related; type="application/dicom"; boundary=b',
            b"application/dicom",
            told.letters(3000),
            b"text/x-lua",
        ]
    )
    more = b"Content-Type: " + kind + b"\r\nContent-Length: %d\r\n" % size
    body = told.rng.choice(
        [b"--b\r\nContent-Type: application/dicom\r\n\r\n", b"return 1", b"", b"\x1f\x8b\x08" + b"\0" * 30]
    )
    return [
        told.request(path, more, body, told.rng.choice([b"POST", b"PUT", b"GET"])),
        *[told.noise(65536)] * told.rng.randint(1, 16),
    ]


def slow(told: Told) -> Steps:
    """One octet now and then: a header without an end, or a body."""
    what = told.request(told.allowed(), b"X-Slow: " + told.letters(200))[:-4]
    if told.rng.random() < 0.5:
        head = told.request(
            told.rng.choice([told.allowed(), b"/dicom-web/studies"]), b"Content-Length: 5000\r\n", method=b"POST"
        )
        return [head, *(step for letter in told.letters(25) for step in (bytes([letter]), 0.4))]
    return [what[:-25], *(step for letter in what[-25:] for step in (bytes([letter]), 0.4))]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def packed(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """HPACK: literal, not indexed, not compressed; values below 127 octets."""
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in pairs)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def http2(told: Told) -> Steps:
    secret = told.rng.choice(
        [b"/system", b"/patients", b"/dicom-web/studies/../servers", b"/dicom-web/studies/..%5csystem"]
    )
    login = [(b"authorization", told.credentials.split(b": ", 1)[1].strip())] if told.reader else []
    base = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", told.host), (b":path", secret), *login]
    evil = told.rng.choice(
        [
            *([(b"x", b"a\r\nx-role: admin")], [(b"transfer-encoding", b"chunked")], [(b":path", b"/system")]),
            [(b"X-Upper", b"a")],
            *([(b"content-length", b"5")], [(b"host", b"localhost")], [(b"connection", b"keep-alive")]),
            *([(b"", b"empty")], [(b":status", b"200")]),
            *([(b"a\r\nb", b"c")], [(b"x\0", b"y")], [(b"te", b"gzip")], [(b"x-forwarded-for", b"127.0.0.1")]),
            [(b"cookie", b"a" * 120)] * 300,
        ]
    )
    ask = frame(1, 5, 1, packed(base + evil))
    return [
        PREFACE
        + told.rng.choice(
            [
                *(ask, ask, ask),
                frame(1, 5, 1, packed([*base[1:], (b":method", told.rng.choice([b"POST", b"CONNECT", b"G T"]))])),
                *(told.noise(400), frame(0, 0, 0, b"x"), frame(0, 0, 1, told.noise(50))),
                *(frame(8, 0, 0, b"\xff\xff\xff\xff"), frame(3, 0, 9, b"\0\0\0\0")),
                *(frame(4, 0, 0, told.noise(6 * 30)), frame(4, 0, 0, b"\0\3\0\0\0\0") * 500),
                *(frame(1, 5, 1, told.noise(80)), frame(6, 0, 0, b"12345678") * 500),
                b"".join(
                    frame(1, 5, 2 * number + 1, packed(base)) + frame(3, 0, 2 * number + 1, b"\0\0\0\x08")
                    for number in range(200)
                ),
                frame(1, 0, 1, packed(base)) + frame(9, 0, 1, packed([(b"x", b"a" * 100)]) * 100) * 40,
                b"\xff\xff\xff" + told.noise(600),
                frame(2, 0, 1, b"\0\0\0\1\xff") + ask,
            ]
        )
    ]


def records(told: Told) -> Steps:
    """In place of a TLS handshake."""
    hello = (
        b"\x16\x03\x01"
        + struct.pack(">H", told.rng.randint(0, 65535))
        + b"\x01\0"
        + told.noise(told.rng.randint(0, 600))
    )
    return [
        told.rng.choice(
            [
                *(hello, hello[: told.rng.randint(1, len(hello))], told.noise(3000)),
                b"\x80\x2e\x01\0\2\0\x15\0\0\0\x10" + told.noise(40),
                *(b"GET /system HTTP/1.1\r\nHost: " + told.host + b"\r\n\r\n", b"\x18\x03\x03\0\3\1\x40\0"),
                b"\x17\x03\x03\xff\xff" + told.noise(100),
                *(b"\x15\x03\x03\0\2\2\x28", b"", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 443\r\n", b"\0" * 2000),
                b"\x16\x03\x01\0\0" * 400,
            ]
        )
    ]


HTTPS: dict[str, Callable[[Told], Steps]] = {
    "path": path_tricks,
    "smuggling": smuggle,
    "chunks": chunks,
    "headers": headers,
    "duplicates": duplicates,
    "spoofing": spoof,
    "method override": overrides,
    "target": targets,
    "host": hosts,
    "credentials": credentials,
    "injection": injections,
    "body": bodies,
    "HTTP/2": http2,
    "TLS records": records,
    "slow": slow,
}


# --- DICOM -------------------------------------------------------------------------------------
VERIFICATION, US_IMAGE = b"1.2.840.10008.1.1", b"1.2.840.10008.5.1.4.1.1.6.1"
STUDY_ROOT_FIND, IMPLICIT = b"1.2.840.10008.5.1.4.1.2.2.1", b"1.2.840.10008.1.2"


def pdu(kind: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBI", kind, 0, len(payload) if length is None else length) + payload


def item(kind: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", kind, 0, (len(payload) if length is None else length) & 0xFFFF) + payload


class Peer:
    """Pieces of an association, each of which may lie."""

    def __init__(self, told: Told) -> None:
        self.told, self.rng = told, told.rng
        self.calling, self.called = (told.settings[key].encode().ljust(16) for key in ("aet", "called"))

    def associate(self, contexts: int = 3, lie: bool = False, most: int = 16384, more: bytes = b"") -> bytes:
        syntaxes = [VERIFICATION, US_IMAGE, STUDY_ROOT_FIND]
        items = item(0x10, b"1.2.840.10008.3.1.1.1")
        for number in range(contexts):
            length = self.rng.randint(0, 65535) if lie and self.rng.random() < 0.5 else None
            inner = b"\0\0\0" + item(0x30, syntaxes[number % 3], length) + item(0x40, IMPLICIT)
            items += item(0x20, bytes([(2 * number + 1) % 256]) + inner, length if self.rng.random() < 0.5 else None)
        user = item(0x51, struct.pack(">I", most)) + item(0x52, b"1.2.3.4") + more
        return pdu(1, struct.pack(">HH", 1, 0) + self.called + self.calling + bytes(32) + items + item(0x50, user))

    def element(self, group: int, number: int, value: bytes, length: int | None = None) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", group, number, len(value) if length is None else length) + value

    def command(self, *elements: tuple[int, bytes]) -> bytes:
        inner = b"".join(self.element(0, number, value) for number, value in elements)
        return self.element(0, 0, struct.pack("<I", len(inner))) + inner

    def data(self, context: int, flags: int, payload: bytes, length: int | None = None) -> bytes:
        size = len(payload) + 2 if length is None else length
        return pdu(4, struct.pack(">IBB", size & 0xFFFFFFFF, context, flags) + payload)

    def echo(self) -> bytes:
        return self.command((2, VERIFICATION), (0x100, b"\x30\0"), (0x110, b"\1\0"), (0x800, b"\1\1"))

    def store(self, dataset: bytes) -> bytes:
        """Command and dataset of a C-STORE, in PDUs of 16 KB."""
        pairs = (
            (2, US_IMAGE),
            (0x100, b"\1\0"),
            (0x110, b"\1\0"),
            (0x700, b"\0\0"),
            (0x800, b"\0\0"),
            (0x1000, b"1.2.3"),
        )
        parts = [dataset[at : at + 16000] for at in range(0, len(dataset), 16000)] or [b""]
        sent = self.data(3, 3, self.command(*pairs))
        return sent + b"".join(self.data(3, 2 if part is parts[-1] else 0, part) for part in parts)

    def find(self) -> bytes:
        pairs = ((2, STUDY_ROOT_FIND), (0x100, b"\x20\0"), (0x110, b"\1\0"), (0x700, b"\0\0"), (0x800, b"\0\0"))
        keys = self.element(8, 0x52, b"STUDY ") + self.element(0x10, 0x10, b"*") + self.element(0x20, 0xD, b"")
        return self.data(5, 3, self.command(*pairs)) + self.data(5, 2, keys)

    def image(self) -> bytes:
        tags = (
            (8, 0x16, US_IMAGE),
            (8, 0x18, b"1.2.3"),
            (0x10, 0x10, b"HOSTILE"),
            (0x20, 0xD, b"1.2.4"),
            (0x20, 0xE, b"1.2.5"),
        )
        return b"".join(self.element(*tag) for tag in tags)


def broken_image(peer: Peer) -> bytes:
    rng, image = peer.rng, peer.image()
    way = rng.randrange(5)
    if way == 0:  # sequences in sequences, none of which tells its length
        open_ones = struct.pack("<HHI", 8, 0x1140, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        return image[:52] + open_ones * rng.choice([1, 30, 300, 1500])
    if way == 1:
        return image + peer.element(0x7FE0, 0x10, b"1234", rng.choice([0xFFFFFFFE, 0xFFFFFFFF, 0x7FFFFFFF, 5]))
    if way == 2:
        return rng.randbytes(rng.choice([0, 1, 7, 500, 40000]))
    if way == 3:
        return (
            peer.element(0x28, 0x10, b"\xff\xff")
            + peer.element(0x28, 0x11, b"\xff\xff")
            + image[: rng.randint(1, len(image))]
        )
    spoiled = bytearray(image)
    for _ in range(rng.randint(1, 8)):
        spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    return bytes(spoiled)


def dicom_steps(kind: str, peer: Peer) -> Steps:
    rng, told = peer.rng, peer.told
    good = peer.associate()
    if kind == "garbage":
        return [told.noise(rng.choice([1, 6, 7, 100, 5000, 100000]))]
    if kind == "truncated request":
        return [good[: rng.randint(1, len(good) - 1)]]
    if kind == "PDU length":
        length = rng.choice([0, 1, 67, len(good) - 7, len(good), 2**31, 2**32 - 1, 10**6])
        return [pdu(rng.choice([1, 4]), good[6:], length), told.noise(200)]
    if kind == "item length":
        return [peer.associate(rng.randint(1, 20), lie=True)]
    if kind == "many contexts":
        return [peer.associate(rng.choice([0, 64, 128, 256, 1500]))]
    if kind == "user information":
        more = item(
            rng.choice([0x53, 0x54, 0x56, 0x58, 0x99]),
            told.noise(rng.choice([0, 4, 60000])),
            rng.choice([None, 0, 65535]),
        )
        return [peer.associate(most=rng.choice([0, 1, 2**32 - 1]), more=more)]
    if kind == "before association":
        return [
            rng.choice(
                [
                    peer.data(1, 3, peer.echo()),
                    pdu(5, bytes(4)),
                    pdu(2, good[6:]),
                    pdu(7, bytes(4)),
                    pdu(rng.randrange(8, 256), bytes(8)),
                ]
            )
        ]
    if kind == "PDV length":
        return [good, 0.15, peer.data(1, 3, peer.echo(), rng.choice([0, 1, 2, 3, 5000, 2**31, 2**32 - 1]))]
    if kind == "PDV header":
        return [good, 0.15, peer.data(rng.randrange(256), rng.randrange(256), peer.echo())]
    if kind == "command":
        spoiled = bytearray(peer.echo())
        for _ in range(rng.randint(1, 6)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        return [good, 0.15, peer.data(1, 3, bytes(spoiled))]
    if kind == "query":  # which this device may not
        return [good, 0.15, peer.find()]
    if kind == "image":
        return [good, 0.15, peer.store(broken_image(peer))]
    if kind == "abort":
        sent = peer.store(peer.image())
        return [
            good,
            0.15,
            sent[: rng.randint(1, len(sent))],
            rng.choice([pdu(7, bytes(4)), good, b"", told.noise(30)]),
        ]
    if kind == "spoiled":
        stream = bytearray(good + peer.store(peer.image()))
        for _ in range(rng.randint(1, 10)):
            stream[rng.randrange(len(stream))] = rng.randrange(256)
        return [bytes(stream[: len(good)]), 0.1, bytes(stream[len(good) :])]
    return [good[:6], *(step for octet in good[6:11] for step in (bytes([octet]), 0.3))]  # slow


DICOM = [
    *("garbage", "truncated request", "PDU length", "item length", "many contexts", "user information"),
    *("before association", "PDV length", "PDV header", "command", "query", "image", "abort", "spoiled", "slow"),
]


# --- the run -----------------------------------------------------------------------------------
PATIENCE = 60.0  # seconds that the ordinary client waits for an answer


class Run:
    def __init__(self, door: str, address: str, port: int, settings: dict[str, Any]) -> None:
        self.door, self.target, self.settings = door, (address, port), settings
        self.ended = threading.Event()
        self.ordinary: dict[str, Any] = {"asked": 0, "failed": [], "slowest": 0.0}

    def connect(self, tls: bool = True, alpn: str = "http/1.1", limit: float = 10.0) -> socket.socket:
        plain = socket.create_connection(self.target, timeout=limit)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not tls or self.door == "dicom":
            return plain
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        return context.wrap_socket(plain, server_hostname=self.settings["hostname"])

    def play(self, case: Case) -> Case:
        """An end of the connection by the other side is an answer too."""
        try:
            with self.connect(case.tls, case.alpn) as connection:
                for step in case.steps:
                    if isinstance(step, float):
                        case.got += self.receive(connection, step)
                    else:
                        connection.sendall(step)
                if self.door == "dicom":  # a whole PDU is answered by now; what is not whole ends here
                    case.got += self.receive(connection, 0.3, settled=0.1)
                    connection.shutdown(socket.SHUT_WR)
                case.got += self.receive(connection, case.limit, settled=0.7)
        except OSError:
            pass
        return case

    @staticmethod
    def receive(connection: socket.socket, seconds: float, settled: float = 0.0) -> bytes:
        """What comes within so many seconds, less when nothing more comes after an answer."""
        got, end = b"", time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and len(got) < 2_000_000:
            connection.settimeout(min(left, settled) if settled and got else left)
            try:
                more = connection.recv(65536)
            except TimeoutError:
                break
            if not more:
                break
            got += more
        return got

    @staticmethod
    def receive_pdu(connection: socket.socket) -> bytes:
        """One whole PDU (PS3.8, 9.3: type, reserved, four bytes of length), or what came of it."""
        got, size = b"", 6
        while len(got) < size and (more := connection.recv(size - len(got))):
            got += more
            if len(got) == 6:
                size += int.from_bytes(got[2:])
        return got

    def cases(self, seed: int, count: int) -> Iterator[Case]:
        rng = random.Random(seed)
        kinds = list(HTTPS) if self.door == "https" else DICOM
        for number in range(count):
            kind = kinds[number % len(kinds)]
            reader = self.door == "https" and number // len(kinds) % 2 == 1
            told = Told(self.settings, rng, reader)
            if self.door == "dicom":
                yield Case(kind, dicom_steps(kind, Peer(told)), limit=2.0)
            else:
                # credentials that are none make a stranger of everybody
                whose = reader and kind not in ("credentials", "TLS records")
                alpn = "h2" if kind == "HTTP/2" else "http/1.1"
                yield Case(kind, HTTPS[kind](told), whose, alpn, kind != "TLS records")

    def broken(self, case: Case) -> str:
        """Why what came back must not have; empty when all is well."""
        seen = [word for word in self.settings["forbidden"] if word.encode() in case.got]
        if not case.reader:
            seen += [word for word in self.settings["markers"] if word.encode() in case.got]
        if seen:
            return f"shows {', '.join(seen)}"
        if self.door == "https" and not case.reader:
            good = [status for status in self.statuses(case) if status.startswith("2")]
            return f"a stranger gets {good[0]}" if good else ""
        return ""

    @staticmethod
    def statuses(case: Case) -> list[str]:
        if case.alpn != "h2":
            return [status.decode() for status in re.findall(rb"HTTP/1\.[01] (\d{3})", case.got)]
        found, rest = [], case.got
        while len(rest) >= 9:
            size = int.from_bytes(rest[:3], "big")
            if rest[3] == 1 and size:  # HEADERS: the first octet is an indexed status, or a literal one
                known = {0x88: "200", 0x89: "204", 0x8A: "206", 0x8B: "304", 0x8C: "400", 0x8D: "404", 0x8E: "500"}
                found.append(known.get(rest[9], "other"))
            rest = rest[9 + size :]
        return found

    def ask(self) -> None:
        """The ordinary client: he reads, and gets what he asked for and nothing that was meant for somebody else."""
        if self.door == "dicom":
            peer = Peer(Told(self.settings, random.Random(0), False))
            with self.connect(limit=PATIENCE) as connection:
                connection.sendall(peer.associate())
                accepted = self.receive_pdu(connection)
                assert accepted[:1] == b"\2", f"association: {accepted[:10]!r}"
                connection.sendall(peer.data(1, 3, peer.echo()))
                answer = self.receive_pdu(connection)
                assert b"\x30\x80" in answer, f"echo: {answer[:60]!r}"
                connection.sendall(pdu(5, bytes(4)))
                self.receive(connection, 1, settled=0.05)
            return
        told = Told(self.settings, random.Random(0), True)
        with self.connect(limit=PATIENCE) as connection:
            connection.sendall(told.request(b"/dicom-web/studies?PatientID=NOBODY-HAS-IT", b"Connection: close\r\n"))
            answer = self.receive(connection, PATIENCE)
        body = answer.partition(b"\r\n\r\n")[2]
        assert answer.startswith(b"HTTP/1.1 200"), answer[:80]
        assert re.fullmatch(rb"[\s\da-f]*\[\s*\][\s\d]*", body), body[:200]

    def keep_asking(self) -> None:
        """While the cases run, and three times at least."""
        while not self.ended.is_set() or self.ordinary["asked"] < 3:
            start = time.monotonic()
            try:
                self.ask()
            except (OSError, AssertionError) as problem:
                self.ordinary["failed"].append(f"{type(problem).__name__}: {problem}")
            self.ordinary["asked"] += 1
            self.ordinary["slowest"] = max(self.ordinary["slowest"], round(time.monotonic() - start, 3))
            self.ended.wait(0.2)

    def run(self, seed: int, count: int, workers: int) -> dict[str, Any]:
        asking = threading.Thread(target=self.keep_asking)
        asking.start()
        todo = list(self.cases(seed, count))
        # Slow ones beside the others: they hold their connections meanwhile. Orthanc takes four DICOM peers at a time,
        # and one request for an association: a device that is slow with it keeps the others waiting.
        patience = 200 if self.door == "https" else 1
        with (
            concurrent.futures.ThreadPoolExecutor(workers if self.door == "https" else 2) as pool,
            concurrent.futures.ThreadPoolExecutor(patience) as patient,
        ):
            playing = [(patient if case.kind == "slow" else pool).submit(self.play, case) for case in todo]
            done = [future.result() for future in playing]
        self.ended.set()
        asking.join()
        wrong = [(case, why) for case in done if (why := self.broken(case))]
        return {
            "seed": seed,
            "cases": len(done),
            "kinds": collections.Counter(case.kind for case in done),
            "answers": collections.Counter(status for case in done for status in (self.statuses(case) or ["none"]))
            if self.door == "https"
            else collections.Counter(f"PDU {case.got[0]}" if case.got else "none" for case in done),
            "broken": [
                {
                    "kind": case.kind,
                    "reader": case.reader,
                    "why": why,
                    "sent": repr(case.steps)[:600],
                    "got": repr(case.got[:600]),
                }
                for case, why in wrong
            ],
            "ordinary": self.ordinary,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("door", choices=["https", "dicom"])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same cases")
    parser.add_argument("--cases", type=int, default=150)
    parser.add_argument("--workers", type=int, default=8, help="cases of https at the same time, beside the slow ones")
    chosen = parser.parse_args()
    run = Run(chosen.door, chosen.address, chosen.port, json.load(sys.stdin))
    json.dump(run.run(chosen.seed, chosen.cases, chosen.workers), sys.stdout)


if __name__ == "__main__":
    main()
