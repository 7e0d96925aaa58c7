#!/usr/bin/env python3
"""A device that stores images of its own over one long association, and writes down what Orthanc acknowledged.

It reads a JSON object from standard input. Each image is a line of the record: its SOP Instance UID, study, accession
number, when it was sent, how long that took, the status, and the MD5 of the data set as it went over the wire. The
record is a file that grows meanwhile; at the end it goes to standard output.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

IN_A_STUDY = 20


def template(plan: dict[str, Any]) -> pydicom.Dataset:
    image = pydicom.dcmread(io.BytesIO(base64.b64decode(plan["template"])))
    for element in [*image]:
        if element.VR == "SQ" or element.tag.is_private:
            del image[element.tag]
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if plan.get("rows"):
        image.Rows, image.Columns = plan["rows"], plan["columns"]
    return image


def keep_answers(association: Association) -> None:
    """pynetdicom's own thread may take the answer that send_c_store waits for, and drop it: it goes back.

    It is rare (1 in 600 to 20,000 images on two busy cores), and looks as if the server did not answer. pynetdicom
    3.0.4; its issue 875.
    """
    serve = association._serve_request

    def put_back(message: Any, context: int) -> None:
        if message.is_valid_request:
            serve(message, context)
        else:
            association.dimse.msg_queue.put((context, message))

    association._serve_request = put_back


def store(plan: dict[str, Any]) -> None:
    """Until it has stored `count` images, or the file `until` is there."""
    image, chance, aet = template(plan), Random(plan["seed"]), plan["aet"]
    device = AE(ae_title=aet)
    device.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
    device.acse_timeout = device.dimse_timeout = device.network_timeout = plan.get("timeout", 60)
    association = device.associate(plan["address"], 4242, ae_title="ORTHANC")
    keep_answers(association)
    size = image.Rows * image.Columns * image.SamplesPerPixel
    until, number = Path(plan["until"]), 0
    with Path(plan["record"]).open("w") as record:
        while number < plan["count"] if plan["count"] else not until.exists():
            if number % IN_A_STUDY == 0:
                image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
                image.AccessionNumber = f"{aet}{chance.randrange(10**8):08}"
                image.PatientID = f"P{image.AccessionNumber}"
                image.PatientName = f"TEST^{aet}"
            number += 1
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            image.InstanceNumber = number
            image.PixelData = chance.randbytes(size)
            image["PixelData"].VR = "OB"
            digest = hashlib.md5(encode(image, False, True) or b"", usedforsecurity=False).hexdigest()
            begin, clock = time.time(), time.monotonic()
            try:
                status = association.send_c_store(image).get("Status", -1)
            except (RuntimeError, ValueError):
                status = -2  # there is no association any more
            seconds = time.monotonic() - clock
            of = [image.SOPInstanceUID, image.StudyInstanceUID, image.AccessionNumber, aet]
            record.write(json.dumps([*of, begin, seconds, status, digest]) + "\n")
            record.flush()
            if status < 0:
                break
    if association.is_established:
        association.release()
    sys.stdout.write(Path(plan["record"]).read_text())
    for path in (Path(plan["record"]), until):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    store(json.load(sys.stdin))
