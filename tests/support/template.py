"""A small image of which many are made by replacing its UIDs."""

from __future__ import annotations

import base64
import io

import pydicom
from pydicom.data import get_testdata_file


def make_template() -> tuple[str, list[str]]:
    """An image of 2 kB in base64, and its UIDs of study, series and instance, which end in twelve digits."""
    image = pydicom.dcmread(str(get_testdata_file("examples_rgb_color.dcm")))
    for element in [*image]:
        if element.VR == "SQ" or element.tag.is_private:
            del image[element.tag]
    uids = [f"1.2.826.0.1.3680043.8.498.{kind}{'0' * 12}" for kind in (1, 2, 3)]
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = uids
    image.file_meta.MediaStorageSOPInstanceUID = uids[2]
    image.PatientID, image.Rows, image.Columns, image.PixelData = "SMALL", 16, 16, bytes(768)
    with io.BytesIO() as buffer:
        image.save_as(buffer)
        return base64.b64encode(buffer.getvalue()).decode(), uids
