#!/usr/bin/env python3
"""A device: what the plan on standard input names is stored, or asked for in storage commitment.

`store` tells the status of each image; `commit` that of the N-ACTION, and what the N-EVENT-REPORT says, which comes
over an association of its own.
"""

from __future__ import annotations

import base64
import io
import json
import queue
import sys
from typing import Any

import pydicom
from device import keep_answers
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

INSTANCE = "1.2.840.10008.1.20.1.1"
PORT = 11112
REPORT_SECONDS = 30


def store(plan: dict[str, Any]) -> list[int]:
    images = [pydicom.dcmread(io.BytesIO(base64.b64decode(one))) for one in plan["images"]]
    device = AE(ae_title=plan["aet"])
    for kind, syntax in {(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in images}:
        device.add_requested_context(kind, syntax)
    device.acse_timeout = device.dimse_timeout = device.network_timeout = 60
    association = device.associate(plan["address"], 4242, ae_title="ORTHANC")
    keep_answers(association)
    found = [association.send_c_store(one).get("Status", -1) for one in images]
    association.release()
    return found


def commit(plan: dict[str, Any]) -> dict[str, Any]:
    reports: queue.Queue[pydicom.Dataset] = queue.Queue()

    def reported(event: Any) -> tuple[int, None]:
        reports.put(event.event_information)
        return 0, None

    device = AE(ae_title=plan["aet"])
    device.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    device.add_requested_context(StorageCommitmentPushModel, ExplicitVRLittleEndian)
    device.acse_timeout = device.dimse_timeout = device.network_timeout = 60
    server = device.start_server(("0.0.0.0", PORT), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reported)])
    try:
        association = device.associate(plan["address"], 4242, ae_title="ORTHANC")
        if not association.is_established:
            return {"status": -1}
        keep_answers(association)
        wanted = pydicom.Dataset()
        wanted.TransactionUID, wanted.ReferencedSOPSequence = generate_uid(), []
        for kind, instance in plan["images"]:
            item = pydicom.Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, instance
            wanted.ReferencedSOPSequence.append(item)
        answer, _ = association.send_n_action(wanted, 1, StorageCommitmentPushModel, INSTANCE)
        status = answer.get("Status", -1)
        if association.is_established:
            association.release()
        if status:
            return {"status": status}
        report = reports.get(timeout=REPORT_SECONDS)
        assert report.TransactionUID == wanted.TransactionUID
        good = [one.ReferencedSOPInstanceUID for one in report.get("ReferencedSOPSequence", [])]
        bad = {one.ReferencedSOPInstanceUID: one.FailureReason for one in report.get("FailedSOPSequence", [])}
        return {"status": status, "committed": good, "failed": bad}
    finally:
        server.shutdown()


if __name__ == "__main__":
    print(json.dumps({"store": store, "commit": commit}[sys.argv[1]](json.load(sys.stdin))))
