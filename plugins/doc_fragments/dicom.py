# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """What every DICOM client needs to know of its peer."""

    DOCUMENTATION = r"""
options:
  host:
    description: Name or address of the DICOM server.
    type: str
    default: 127.0.0.1
  port:
    description: TCP port of the DICOM server.
    type: int
    default: 4242
  called_aet:
    description: AE title of the DICOM server, 16 characters at most.
    type: str
    required: true
  calling_aet:
    description: AE title of the client, which the server must know.
    type: str
    required: true
  timeout:
    description: Seconds to wait for the TCP connection.
    type: int
    default: 10
  ca_file:
    description: With DICOM TLS (DICOM PS3.15 B), file with the CA of the server's certificate, in PEM.
    type: path
  certificate_file:
    description: With O(ca_file), the client's own certificate in PEM; if omitted, the client presents none.
    type: path
  key_file:
    description: Key of O(certificate_file), in PEM, without a passphrase.
    type: path
requirements:
  - DCMTK's tools in C(/usr/bin) (Debian's package dcmtk)
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: none
"""
