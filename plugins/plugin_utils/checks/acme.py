# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the settings for a certificate from an ACME server. Without Ansible."""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from pathlib import Path

from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

with contextlib.suppress(ImportError):  # ansible-core requires it, so a controller has it
    from cryptography import x509

# RFC 2606, 6761, 6762, 8375 and ICANN's .internal; then common names of networks without a registered domain
PRIVATE = (
    *("example", "invalid", "localhost", "test", "local", "home.arpa", "internal"),
    *("lan", "home", "corp", "intranet", "private", "localdomain"),
)


def problems(directory: str, hostname: str, email: str, dns_hook: str, ca: str) -> list[Problem]:
    """The problems of the settings. `dns_hook` is a path on this machine, `ca` PEM; both and `email` may be empty."""
    found: list[Problem] = []
    url = _split(directory)
    if url.scheme != "https" or not url.hostname:
        remedy = "write it like https://acme.clinic.example/directory"
        found.append(problem("orthanc_proxy_acme_directory", f"({directory}) must be an https:// URL", remedy))
    elif f".{url.hostname}".endswith(".letsencrypt.org"):
        found += _public_name(hostname)
    if email and (email.count("@") != 1 or email.startswith("@") or email.endswith("@") or len(email.split()) != 1):
        remedy = "write one address, or leave it empty"
        found.append(problem("orthanc_proxy_acme_email", f"({email}) is not an e-mail address", remedy))
    if dns_hook:
        found += _hook(dns_hook)
    if ca:
        try:
            x509.load_pem_x509_certificates(ca.encode())
        except ValueError:
            remedy = "set it to the root certificate of the ACME server's own certificate, as text"
            found.append(problem("orthanc_proxy_acme_ca", "is not a certificate in PEM", remedy))
    return found


def _split(url: str) -> urllib.parse.SplitResult:
    """The parts of a URL; all empty for what is none, such as an IPv6 address without its second bracket."""
    try:
        return urllib.parse.urlsplit(url)
    except ValueError:
        return urllib.parse.urlsplit("")


def _public_name(hostname: str) -> list[Problem]:
    remedy = "use a name in the clinic's public domain, another ACME server, or self_signed"
    name = hostname.lower().rstrip(".")
    if "." not in name:
        message = f"({hostname}) has no domain: Let's Encrypt cannot issue for it"
    elif name.rpartition(".")[2].isdigit():
        message = f"({hostname}) is an IP address: Let's Encrypt issues for names"
    elif name.endswith(tuple(f".{private}" for private in PRIVATE)):
        message = f"({hostname}) is not a public name: Let's Encrypt cannot issue for it"
    else:
        return []
    return [problem("orthanc_hostname", message, remedy)]


def _hook(written: str) -> list[Problem]:
    try:
        path = Path(written).expanduser()
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # another user's directory, or a user that is not there
        remedy = "write a path that you may read on the controller"
        return [problem("orthanc_proxy_acme_dns_hook", f"({written}) cannot be read: {error}", remedy)]
    if not path.is_absolute():
        message, remedy = "must be an absolute path", 'begin it with / or with "{{ inventory_dir }}/"'
    elif not is_file:
        message, remedy = "is not a file on the controller", "put it there, or leave the setting empty for HTTP-01"
    elif not os.access(path, os.X_OK):
        message, remedy = "is not executable", f"chmod 700 {path}"
    else:
        return []
    return [problem("orthanc_proxy_acme_dns_hook", f"({path}) {message}", remedy)]
