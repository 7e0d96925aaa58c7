"""A device that stores images with storescu: so many in one association, or one after the other until it is to end.

What is not acknowledged is sent again, as a device does. Arguments: the image to change, the server's address, and how
many. It prints, as JSON, which SOP Instance UIDs were acknowledged when, and when it was refused.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STOP = Path(sys.argv[1]).with_name("stop")  # beside the image
PAUSE = 0.1  # a device stores an image every now and then


def make_images(template: Path) -> Iterator[tuple[str, bytes]]:
    """Images that differ in their SOP Instance UID alone, which is replaced by another one of the same length."""
    content = template.read_bytes()
    uid = template.stem.encode()
    base = f"1.2.826.0.1.3680043.8.498.{time.time_ns()}"
    for number in itertools.count(10000):
        new = f"{base}.{number}".ljust(len(uid), "7")
        yield new, content.replace(uid, new.encode())


def store(address: str, *what: str) -> bool:
    """Whether all of it was acknowledged."""
    command = ["storescu", "-xe", "-to", "5", "-aet", "US1", "-aec", "ORTHANC", address, "4242", *what]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def main() -> None:
    template, address, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    done: list[tuple[str, float]] = []
    refused: list[float] = []
    images = make_images(template)
    with tempfile.TemporaryDirectory() as scratch:
        if count:
            uids = []
            for uid, content in itertools.islice(images, count):
                Path(scratch, f"{uid}.dcm").write_bytes(content)
                uids.append(uid)
            if store(address, "+sd", scratch):
                done = [(uid, time.time()) for uid in uids]
        while not count and not STOP.exists():
            uid, content = next(images)
            path = Path(scratch, "image.dcm")
            path.write_bytes(content)
            while not store(address, str(path)):
                refused.append(time.time())
                if STOP.exists():
                    break
                time.sleep(PAUSE)
            else:
                done.append((uid, time.time()))
            time.sleep(PAUSE)
    print(json.dumps({"done": done, "refused": refused}))


if __name__ == "__main__":
    main()
