#!/usr/bin/env python3
"""DICOMweb over TLS through the proxy, against plain HTTP to Orthanc and against the Orthanc Book's nginx snippet.

python3 bench/web.py [--json FILE] [--runs 5] [--studies 20000] [--keep]

One machine of the test bed with Debian 13, deployed by this collection; curl is the client, on the machine itself, over
one connection that it keeps. The snippet runs in the same nginx, with the same certificate, on a port of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from machines import HOSTNAME, PASSWORDS, ROOT, run_in, unpack_files, use_machines, write_file
from pairs import Comparison, measure_pairs, parse_arguments, write_result
from servers import Server, deploy_ours, make_study

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from template import make_template

MACHINE = "orthanc-bench"
PLATFORMS = {MACHINE: ("debian13", ["198.51.100.43", "198.51.100.104"])}
# https://orthanc.uclouvain.be/book/faq/nginx.html, with TLS
SNIPPET = """
server {
    listen 127.0.0.1:8443 ssl;
    ssl_certificate /etc/nginx/orthanc/self_signed.crt;
    ssl_certificate_key /etc/nginx/orthanc/self_signed.key;
    location /orthanc/ {
        proxy_pass http://127.0.0.1:8042;
        proxy_set_header HOST $host;
        proxy_set_header X-Real-IP $remote_addr;
        rewrite /orthanc(.*) $1 break;
    }
}
"""
# for rows that are missed; measured on 2026-11-29 (medians of seven, nothing else running)
PROFILE = (
    "by perf, two cores are 85 % busy: Orthanc 35 %, nginx 26 % (OpenSSL 9, the rest mostly the kernel, which copies),"
    " curl 22 %; HTTP/1.1 (744 MB/s), AES-128 (745), ChaCha20 (600) or TLS 1.2 (539) instead of HTTP/2 with AES-256"
    " (720; plain 1,173) do not help much: three processes share what Orthanc and curl have alone"
)
PROXY, BOOK, PLAIN = f"https://{HOSTNAME}", f"https://{HOSTNAME}:8443/orthanc", "http://127.0.0.1:8042"
SITE = "/etc/nginx/conf.d/bench-book.conf"
WITH_BOUNDARY = 'multipart/related; type=\\"application/dicom\\"; boundary=part'
WANTED = 'multipart/related; type=\\"application/dicom\\"; transfer-syntax=*'


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--studies", type=int, default=20_000, help="in the archive for QIDO-RS; 20000")


def call_curl(requests: Sequence[str], user: str) -> list[tuple[int, float]]:
    """Bytes both ways and seconds of each request but the first, over one connection if the server keeps it.

    A request is lines of curl's configuration. SystemExit if one is not answered with 200.
    """
    shared = [
        *("silent", "show-error", 'output = "/dev/null"', 'write-out = "%{http_code} %{size_download} '),
        *(f'user = "{user}:{PASSWORDS[user]}"', "cacert = /etc/nginx/orthanc/ca.crt"),
        *(f'resolve = "{HOSTNAME}:{port}:127.0.0.1"' for port in (443, 8443)),
    ]
    shared[3] += '%{size_upload} %{time_total} %{num_connects}\\n"'
    blocks = ["\n".join([*shared, request]) for request in requests]
    said = run_in(MACHINE, "curl --config -", "\nnext\n".join(blocks).encode())
    answers = [line.split() for line in said.splitlines()]
    if [one[0] for one in answers] != ["200"] * len(requests):
        raise SystemExit(f"curl: not all were answered with 200:\n{said}")
    # Orthanc itself closes the connection after WADO-RS
    if "https:" in requests[0] and any(one[4] != "0" for one in answers[1:]):
        raise SystemExit(f"curl: the proxy did not keep the connection:\n{said}")
    return [(int(down) + int(up), float(seconds)) for _status, down, up, seconds, _connections in answers[1:]]


def retrieve_studies(base: str, studies: Sequence[str]) -> float:
    """MB a second of WADO-RS of whole studies; the first one is not counted."""
    requests = [f'url = "{base}/dicom-web/studies/{one}"\nheader = "Accept: {WANTED}"' for one in studies]
    answers = call_curl(requests, "viewer")
    return sum(size for size, _seconds in answers) / sum(seconds for _size, seconds in answers) / 1e6


def store_studies(server: Server, base: str, number: int) -> float:
    """MB a second of STOW-RS of so many studies, which are removed first; the first one is not counted."""
    server.empty()
    requests = [
        f'url = "{base}/dicom-web/studies"\ndata-binary = "@/studies/{one}"\nheader = "Expect:"\n'
        f'header = "Content-Type: {WITH_BOUNDARY}"\nheader = "Accept: application/dicom+json"'
        for one in range(number)
    ]
    answers = call_curl(requests, "gateway")
    return sum(size for size, _seconds in answers) / sum(seconds for _size, seconds in answers) / 1e6


def search_studies(base: str, queries: Sequence[str]) -> float:
    """Milliseconds that half of these searches take at most."""
    requests = [f'url = "{base}/dicom-web/studies?{one}"\nheader = "Accept: application/dicom+json"' for one in queries]
    return statistics.median(seconds for _size, seconds in call_curl(requests, "viewer")) * 1000


def write_body(study: dict[str, bytes]) -> bytes:
    """A study as the body of a STOW-RS request."""
    parts = [b"--part\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in study.values()]
    return b"".join(parts) + b"--part--\r\n"


def fill_archive(server: Server, studies: int) -> list[str]:
    """Stores so many studies of one image of 2 kB; returns the study UIDs that Orthanc has then."""
    server.empty()
    file, uids = make_template()
    plan = {"file": file, "uids": uids, "count": studies, "threads": 4, "study": 1, "user": server.user, "seed": 1}
    write_file(MACHINE, "/root/fill.py", (ROOT / "tests" / "agents" / "fill.py").read_bytes())
    if int(run_in(MACHINE, "python3 /root/fill.py", json.dumps(plan).encode())) != studies:
        raise SystemExit("Orthanc did not store every image")
    return list_studies(server)


def list_studies(server: Server) -> list[str]:
    """The Study Instance UIDs that Orthanc has."""
    return [one["MainDicomTags"]["StudyInstanceUID"] for one in server.ask("GET", "/studies?expand&since=0&limit=500")]


def compare(what: str, unit: str, runs: int, measure: Callable[[str], float], **targets: float) -> list[Comparison]:
    """Rows against plain HTTP (`plain`) and against the snippet (`book`), for those that have a target."""
    rows = []
    for name, base, against in (
        ("plain", PLAIN, "plain HTTP to Orthanc"),
        ("book", BOOK, "the Orthanc Book's snippet"),
    ):
        if name not in targets:
            continue
        row = Comparison(what, against, unit, rate=unit != "ms", why=PROFILE if what.startswith("WADO") else "")
        row.at_least, row.at_most = (targets[name], None) if row.rate else (None, targets[name])
        for one in (PROXY, base):  # the first of each is not measured
            measure(one)
        rows.append(measure_pairs(row, runs, partial(measure, PROXY), partial(measure, base)))
    return rows


def main() -> None:
    chosen = parse_arguments(__doc__, add_options)
    with use_machines(PLATFORMS, keep=chosen.keep):
        server = deploy_ours(MACHINE, PLATFORMS[MACHINE][1][0])
        write_file(MACHINE, SITE, SNIPPET)
        run_in(MACHINE, "nginx -t 2>/dev/null && systemctl reload nginx")
        number = 8
        unpack_files(MACHINE, "/studies", {str(one): write_body(make_study()) for one in range(number)})
        rows = compare(
            "STOW-RS of studies", "MB/s", chosen.runs, lambda base: store_studies(server, base, number), plain=0.85
        )
        studies = list_studies(server) * 2
        rows += compare(
            "WADO-RS of whole studies",
            "MB/s",
            chosen.runs,
            lambda base: retrieve_studies(base, studies),
            plain=0.9,
            book=1.3,
        )
        found = fill_archive(server, chosen.studies)
        by_uid = [f"StudyInstanceUID={one}" for one in found[:200]]
        rows += compare(
            "QIDO-RS, a study by UID", "ms", chosen.runs, lambda base: search_studies(base, by_uid), plain=1.25
        )
        newest = ["limit=20&includefield=StudyDescription"] * 50
        rows += compare("QIDO-RS, 20 studies", "ms", chosen.runs, lambda base: search_studies(base, newest), plain=1.25)
        run_in(MACHINE, f"rm {SITE}; systemctl reload nginx")
        versions = {**server.read_versions(), "curl": run_in(MACHINE, "dpkg-query -W -f '${Version}' curl")}
    what = f"DICOMweb over TLS through the proxy; {chosen.studies:,} studies for QIDO-RS"
    write_result(chosen.json, "web", what, "make bench ONLY=web", versions, rows)


if __name__ == "__main__":
    main()
