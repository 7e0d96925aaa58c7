"""An Orthanc that somebody set up by hand, and a deploy that meets it: for the scenario `lived_in`."""

from __future__ import annotations

import io

import pydicom
from backups import must
from clients import example, fingerprint, play, put, wait_for
from pydicom.uid import generate_uid
from testinfra.host import Host

IMAGES = 3


def stored(machine: str) -> set[str]:
    """The SOP Instance UIDs of images that the Orthanc of before has."""
    found = set()
    must(machine, "mkdir -p /root/images")
    for number in range(IMAGES):
        one = pydicom.dcmread(example())
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        with io.BytesIO() as buffer:
            one.save_as(buffer)
            put(machine, f"/root/images/{number}.dcm", buffer.getvalue())
        found.add(str(one.SOPInstanceUID))
    wait_for(lambda: must(machine, "echoscu -to 5 127.0.0.1 4242 && echo yes || true").endswith("yes\n"), "Orthanc")
    must(machine, "storescu -to 10 127.0.0.1 4242 /root/images/*.dcm")
    return found


def refused(host: Host, *said: str) -> None:
    """A deploy is, with these words, and changes nothing."""
    before = fingerprint(host)
    status, told = play("deploy", host)
    assert status != 0, told
    assert [one for one in said if one not in told] == [], told[-2000:]
    assert fingerprint(host) == before
