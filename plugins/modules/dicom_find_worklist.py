#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: dicom_find_worklist
short_description: Query the worklist of a DICOM server
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Sends C-FIND of the Modality Worklist Information Model (DICOM PS3.4 K.4) with DCMTK's findscu, and fails unless the
    final answer is Success (DICOM PS3.4 C.4.1).
  - It reads the answers, because findscu's exit code is 0 even if the query is refused.
extends_documentation_fragment: clinicops.orthanc.dicom
options:
  keys:
    description:
      - Attributes to match and to return, as DCMTK's paths, such as C(PatientName) or
        C(ScheduledProcedureStepSequence[0].Modality). An empty value matches everything.
    type: dict
    default:
      PatientName: ""
      PatientID: ""
      AccessionNumber: ""
      StudyInstanceUID: ""
"""

EXAMPLES = r"""
- name: Read today's worklist of an ultrasound machine
  clinicops.orthanc.dicom_find_worklist:
    host: 198.51.100.10
    called_aet: ORTHANC
    calling_aet: US1
    keys:
      PatientName: ""
      ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate: "20261125"
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
worklist:
  description: The worklist items in the DICOM JSON model (DICOM PS3.18 F.2).
  type: list
  elements: dict
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.dicom import scu

KEYS = {"PatientName": "", "PatientID": "", "AccessionNumber": "", "StudyInstanceUID": ""}


def main() -> None:
    module = AnsibleModule(
        argument_spec={**scu.ARGUMENTS, "keys": {"type": "dict", "default": KEYS, "no_log": False}},
        required_together=[("certificate_file", "key_file")],
    )
    asked = module.params
    answer, found = scu.peer(asked).find_worklist(asked["keys"])
    scu.end(module, "C-FIND", answer, worklist=found)


if __name__ == "__main__":
    main()
