#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: dicom_store
short_description: Send C-STORE to a DICOM server
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Sends one DICOM file with C-STORE (DICOM PS3.4 B.2) and DCMTK's storescu, and fails unless the answer is
    Success.
  - The stored image is not removed; storing it again changes nothing on a server that keeps the first copy.
extends_documentation_fragment: clinicops.orthanc.dicom
options:
  path:
    description: The DICOM file (DICOM PS3.10), on the host on which the module runs.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Store an image as the ultrasound machine does
  clinicops.orthanc.dicom_store:
    path: /root/image.dcm
    host: 198.51.100.10
    called_aet: ORTHANC
    calling_aet: US1
"""

RETURN = r"""
outcome:
  description:
    - C(accepted); C(rejected), the server rejected the association (DICOM PS3.8 9.3.4); C(aborted), the server ended
      it, as Orthanc does if a device has no right to the request; C(failed), the status was not Success; or
      C(unreachable), there was no TCP connection.
  type: str
  returned: always
detail:
  description: The server's reason, such as C(Calling AE Title Not Recognized) or C(status A700).
  type: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.dicom import scu


def main() -> None:
    module = AnsibleModule(
        argument_spec={**scu.ARGUMENTS, "path": {"type": "path", "required": True}},
        required_together=[("certificate_file", "key_file")],
    )
    asked = module.params
    answer = scu.peer(asked).store(asked["path"])
    scu.end(module, "C-STORE", answer, changed=answer.outcome == scu.ACCEPTED)


if __name__ == "__main__":
    main()
