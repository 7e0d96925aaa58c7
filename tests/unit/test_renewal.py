"""The server's own certificate after a clock that was wrong: when it is renewed, and what the monitor says."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certificates import NOW, Authority
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from server.core.limits import LIMITS
from server.monitor.alerts import find_conditions
from server.monitor.probes import proxy
from test_own_certificate import CA, CONSTRAINTS, HOST, NAME, SIGNS, USE, make, openssl

SCRIPT = Path(__file__).resolve().parents[2] / "roles/orthanc_proxy/files/orthanc-certificate"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path, "ca", CA, 3650, CONSTRAINTS, SIGNS)
    make(tmp_path, "self_signed", HOST, 397, NAME, USE, "extendedKeyUsage=serverAuth")
    return tmp_path


def renew(directory: Path) -> int:
    """The exit code of the script, with its directory moved, and with programs that stand for nginx and systemd."""
    for name in ("nginx", "systemctl"):
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    script = SCRIPT.read_text().replace("cd /etc/nginx/orthanc", f"cd {directory}")
    path = f"{directory}:{os.environ['PATH']}"
    return subprocess.run(["sh", "-c", script], env={"PATH": path}, capture_output=True, check=False).returncode


def sign(directory: Path, *dates: str) -> bytes:
    """The server's certificate, valid from and until other dates (YYMMDDHHMMSSZ)."""
    (directory / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={directory}/index.txt\nserial={directory}/serial\n"
        f"new_certs_dir={directory}\ndefault_md=sha256\npolicy=any\nx509_extensions=server\n"
        "[any]\ncommonName=supplied\n"
        f"[server]\n{NAME}\n{USE}\nextendedKeyUsage=serverAuth\n"
    )
    (directory / "index.txt").write_text("")
    (directory / "serial").write_text("1000\n")
    given = ["-startdate", dates[0], "-enddate", dates[1]]
    files = ["-cert", "ca.crt", "-keyfile", "ca.key", "-in", "self_signed.csr", "-out", "self_signed.crt"]
    openssl(directory, "ca", "-batch", "-notext", "-config", "ca.cnf", *given, *files)
    return (directory / "self_signed.crt").read_bytes()


def test_a_certificate_that_is_good_stays(made: Path) -> None:
    before = (made / "self_signed.crt").read_bytes()
    assert renew(made) == 0
    assert (made / "self_signed.crt").read_bytes() == before


@pytest.mark.parametrize(
    ("first", "last"),
    [(-300, 20), (-300, -1), (365, 762)],
    ids=["expires soon", "has expired", "was issued by a clock that was a year ahead"],
)
def test_one_that_clients_do_not_take_is_renewed(made: Path, first: int, last: int) -> None:
    form = "%y%m%d%H%M%SZ"
    before = sign(made, *((NOW + timedelta(days=day)).strftime(form) for day in (first, last)))
    assert renew(made) == 0
    assert (made / "self_signed.crt").read_bytes() != before
    openssl(made, "verify", "-CAfile", "ca.crt", "self_signed.crt")
    after = (made / "self_signed.crt").read_bytes()
    assert renew(made) == 0
    assert (made / "self_signed.crt").read_bytes() == after


def test_the_monitor_reminds_of_the_end_of_the_ca_in_time(made: Path) -> None:
    def remind(days: float) -> list[str]:
        """The alerts so many days from now."""
        context: Any = SimpleNamespace(
            settings=SimpleNamespace(own_ca=str(made / "ca.crt")), now=NOW.timestamp() + 86400 * days
        )
        settings: Any = SimpleNamespace(limit=lambda rule: LIMITS[rule.limit])
        samples = [*proxy.probe_own_ca(context)]
        assert samples[0].value == pytest.approx(3650 - days, abs=0.1)
        return [*find_conditions(samples, settings, set())[0]]

    assert remind(0) == remind(3469) == []
    assert remind(3471) == remind(3700) == ["CertificateAuthorityExpires/"]


def test_a_server_without_a_ca_of_its_own_has_none_that_expires() -> None:
    context: Any = SimpleNamespace(settings=SimpleNamespace(own_ca=""))
    assert [*proxy.probe_own_ca(context), *proxy.probe_client_certificates(context)] == []


def test_the_monitor_reminds_of_the_end_of_what_devices_and_users_show(made: Path) -> None:
    def remind(days: float) -> list[str]:
        """The files that are named so many days from now."""
        context: Any = SimpleNamespace(
            settings=SimpleNamespace(own_ca=str(made / "ca.crt")), now=NOW.timestamp() + 86400 * days
        )
        settings: Any = SimpleNamespace(limit=lambda rule: LIMITS[rule.limit])
        found = find_conditions([*proxy.probe_client_certificates(context)], settings, set())[0]
        return [one.removeprefix("ClientCertificateExpires/") for one in found]

    assert remind(0) == []
    clinic = Authority("Clinic CA")
    # the deploy has renewed that of us1, which may still show the one of before
    until = {"device-us1": 1825, "old-device-us1-77": 88, "device-us2": 500, "user-viewer": 400}
    for name, last in until.items():
        (made / f"{name}.crt").write_text(clinic.issue(name, (-1, last), usage="clientAuth")[0])
    assert remind(0) == remind(27) == []
    assert remind(29) == remind(87) == ["old-device-us1-77.crt"]
    assert remind(89) == remind(339) == []
    assert remind(341) == ["user-viewer.crt"]
    assert remind(501) == ["device-us2.crt", "user-viewer.crt"]


@pytest.mark.parametrize(
    ("days", "left", "said"), [((-1, 90), 90, "90 days left"), ((365, 762), 0, "not valid before ")]
)
def test_the_monitor_says_whether_it_is_valid(
    monkeypatch: pytest.MonkeyPatch, days: tuple[int, int], left: int, said: str
) -> None:
    text = Authority("Clinic CA").issue(HOST, days)[0]
    certificate = load_pem_x509_certificate(text.encode()).public_bytes(Encoding.DER)
    monkeypatch.setattr(proxy, "fetch_certificate", lambda *_: certificate)
    context: Any = SimpleNamespace(
        settings=SimpleNamespace(tls_ports={"proxy": 443}, hostname=HOST), now=NOW.timestamp()
    )
    [sample] = [one for one in proxy.probe_proxy(context) if one.metric == "certificate_days"]
    assert sample.value == pytest.approx(left, abs=0.1)
    assert said in sample.detail


def test_the_monitor_says_which_port_of_the_proxy_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """DICOM over TLS has a port and a file of its own in nginx: HTTPS may answer without it."""
    text = Authority("Clinic CA").issue(HOST, (-1, 90))[0]
    certificate = load_pem_x509_certificate(text.encode()).public_bytes(Encoding.DER)
    monkeypatch.setattr(proxy, "fetch_certificate", lambda _host, port: certificate if port == 443 else None)
    context: Any = SimpleNamespace(
        settings=SimpleNamespace(tls_ports={"proxy": 443, "dicom_tls": 2762}, hostname=HOST), now=NOW.timestamp()
    )
    seen = {one.metric: one.value for one in proxy.probe_proxy(context) if one.metric.endswith("_up")}
    assert seen == {"proxy_up": 1, "dicom_tls_up": 0}
