# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proxy, how long the certificates last that clients and devices get and show, and the CA that they trust."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ...core import words
from ..context import ANSWER_SECONDS, DAY, Context, Sample, observe


def probe_proxy(context: Context) -> Iterator[Sample]:
    """Whether the proxy answers on HTTPS and on DICOM over TLS, and the days left of each certificate."""
    for name, port in context.settings.tls_ports.items():
        certificate = fetch_certificate(context.settings.hostname, port)
        yield observe(f"{name}_up", certificate is not None)
        if certificate is not None:
            begin, end = read_validity(certificate)
            days, said = (end - context.now) / DAY, f"{name}: {(end - context.now) / DAY:.0f} days left"
            if begin > context.now:  # the clock was ahead when it was issued, or is behind now
                days, said = 0, f"{name}: not valid before {words.say_moment(begin)}"
            yield observe("certificate_days", days, "certificate", name, said)


def probe_own_ca(context: Context) -> Iterator[Sample]:
    """The days left of the server's own CA, whose root a person has imported on each client and device."""
    if context.settings.own_ca:
        reader = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # in this process: a check runs each minute
        reader.load_verify_locations(context.settings.own_ca)
        [ca] = reader.get_ca_certs()
        end = ssl.cert_time_to_seconds(str(ca["notAfter"]))
        yield observe("own_ca_days", (end - context.now) / DAY, detail=f"until {words.say_moment(end)}")


def probe_client_certificates(context: Context) -> Iterator[Sample]:
    """The days left of each certificate that a device or user shows, also of one that a deploy has since renewed."""
    if not context.settings.own_ca:
        return
    for kind in ("device", "user", "old"):
        for path in sorted(Path(context.settings.own_ca).parent.glob(f"{kind}-*.crt")):
            _begin, end = read_validity(path.read_bytes(), "PEM")
            days = (end - context.now) / DAY
            # a renewed one that has expired was replaced, or its device is refused by now
            if kind != "old" or days > 0:
                yield observe("client_certificate_days", days, "file", path.name, f"until {words.say_moment(end)}")


def fetch_certificate(hostname: str, port: int) -> bytes | None:
    """The certificate (DER) that a client gets on this machine; whether a client trusts it is not asked here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=hostname) as secure,
        ):
            return secure.getpeercert(binary_form=True)
    except OSError:
        return None


def read_validity(certificate: bytes, form: str = "DER") -> tuple[float, float]:
    """From when until when a certificate is valid, in seconds since 1970."""
    done = subprocess.run(
        ["/usr/bin/openssl", "x509", "-inform", form, "-noout", "-dates"],
        input=certificate,
        capture_output=True,
        check=True,
        timeout=ANSWER_SECONDS,
    )
    dates = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    begin, end = (ssl.cert_time_to_seconds(dates[name]) for name in ("notBefore", "notAfter"))
    return begin, end
