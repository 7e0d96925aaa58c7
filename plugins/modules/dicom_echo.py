#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: dicom_echo
short_description: Send C-ECHO to a DICOM server
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Sends C-ECHO (DICOM PS3.4 A.4) with DCMTK's echoscu, and fails unless it is answered with Success.
  - It reads the output of echoscu, because its exit code is 0 even if the server ends the association without
    an answer.
extends_documentation_fragment: clinicops.orthanc.dicom
"""

EXAMPLES = r"""
- name: Check whether Orthanc accepts this device
  clinicops.orthanc.dicom_echo:
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
    module = AnsibleModule(argument_spec={**scu.ARGUMENTS}, required_together=[("certificate_file", "key_file")])
    asked = module.params
    answer = scu.peer(asked).echo()
    scu.end(module, "C-ECHO", answer)


if __name__ == "__main__":
    main()
