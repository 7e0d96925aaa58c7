#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: dicomweb_round_trip
short_description: Read a stored image back over DICOMweb and compare it
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Stores a DICOM file with STOW-RS (DICOM PS3.18 10.5) if O(store) is set, finds its study with QIDO-RS (10.6), checks
    that the study's RetrieveURL is an HTTPS URL with the server's own name, and reads the image back with WADO-RS
    (10.4). It fails unless the returned data set, pixel data included, is identical to that of the file.
  - The stored image is not removed.
options:
  hostname:
    description: The server's name, which its certificate must contain.
    type: str
    required: true
  address:
    description: Address to connect to, if O(hostname) cannot be resolved here.
    type: str
  port:
    description: Its TCP port.
    type: int
    default: 443
  ca_file:
    description: File of the CAs that are trusted, in PEM.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  user:
    description: Name of the user.
    type: str
    required: true
  password:
    description: Password of the user.
    type: str
    required: true
  path:
    description: The DICOM file (DICOM PS3.10), on the host on which the module runs.
    type: path
    required: true
  store:
    description: Whether to store the file first; otherwise the server must already have it.
    type: bool
    default: false
requirements:
  - DCMTK's tools in C(/usr/bin) (Debian's package dcmtk)
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: none
"""

EXAMPLES = r"""
- name: Read back what the ultrasound machine stored
  clinicops.orthanc.dicomweb_round_trip:
    hostname: pacs.clinic.example
    address: 198.51.100.74
    ca_file: /root/ca.crt
    user: viewer
    password: "{{ vault_orthanc_viewer_password }}"
    path: /root/image.dcm
"""

RETURN = r"""
retrieve_url:
  description: The study's RetrieveURL (0008,1190) as QIDO-RS returns it.
  type: str
  returned: success
compared:
  description: C(bit-identical), C(different), or the HTTP status returned instead of the image.
  type: str
  returned: when the study was found
"""

import socket
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.dicom import scu, web


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "hostname": {"type": "str", "required": True},
            "address": {"type": "str"},
            "port": {"type": "int", "default": 443},
            "ca_file": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "path": {"type": "path", "required": True},
            "store": {"type": "bool", "default": False},
        }
    )
    asked = module.params
    user = web.User(asked["user"], asked["password"])
    try:
        image = scu.data_set(asked["path"])
        study, series, instance = (scu.value(image, tag) for tag in ("0020000D", "0020000E", "00080018"))
        address = asked["address"] or socket.gethostbyname(asked["hostname"])
        server = web.Https(asked["hostname"], asked["ca_file"], address, asked["port"])
        status = server.store(asked["path"], user) if asked["store"] else 200
        if status != 200:
            module.fail_json(msg=f"STOW-RS as {user.name}: HTTP status {status} instead of 200")
        found = server.find(user, StudyInstanceUID=study)
        if len(found) != 1:
            module.fail_json(msg=f"QIDO-RS as {user.name} finds {len(found)} studies {study} instead of 1")
        url = web.retrieve_url(found[0])
        if not url.startswith(f"{server.root}/"):
            module.fail_json(msg=f"RetrieveURL is {url} and does not lead to {server.root}", retrieve_url=url)
        with tempfile.TemporaryDirectory() as scratch:
            path = f"{web.path_of(url)}/series/{series}/instances/{instance}"
            compared = server.compare_image(path, asked["path"], user, Path(scratch))
    except (OSError, RuntimeError, ValueError) as error:
        module.fail_json(msg=f"{asked['hostname']}: {error}")
    result = {"changed": asked["store"], "retrieve_url": url, "compared": compared}
    if compared != "bit-identical":
        module.fail_json(msg=f"WADO-RS as {user.name}: {compared}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
