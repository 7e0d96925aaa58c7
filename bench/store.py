#!/usr/bin/env python3
"""C-STORE of ultrasound images by DCMTK's storescu, with one and with four associations: here and the guide's server.

python3 bench/store.py [--json FILE] [--runs 5] [--images 100] [--keep]

Both servers are machines of the test bed with Debian 13 and the same Orthanc, each with an empty archive; the device is
a third one on their network, which sends the same images to both in turns. Images of 0.23 to 1.8 MB.
"""

from __future__ import annotations

import argparse
from functools import partial

from machines import run_in, unpack_files, use_machines
from pairs import Comparison, measure_pairs, parse_arguments, write_result
from servers import Server, deploy_ours, make_study, set_up_guide

OURS, GUIDE, DEVICE = "orthanc-bench", "orthanc-bench-guide", "orthanc-bench-us"
PLATFORMS = {
    OURS: ("debian13", ["198.51.100.43", "198.51.100.104"]),
    GUIDE: ("debian13", ["198.51.100.45", "198.51.100.105"]),
    DEVICE: ("client", ["198.51.100.49"]),
}
STUDY = 20
# the device's own clock, without the start of `docker exec`
SEND = """
begin=$(date +%s%N)
for directory in /images/{associations}/*; do
  /usr/bin/storescu +sd -aet US1 -aec ORTHANC {address} 4242 $directory &
  all="$all $!"
done
for one in $all; do wait $one; done
echo $(($(date +%s%N) - begin))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=100, help="to store in a run, a multiple of 20; 100")


def copy_images(images: int) -> None:
    """Puts the images on the device twice: for one association, and divided among four."""
    files = [one for _study in range(images // STUDY) for one in make_study(STUDY).items()]
    unpack_files(DEVICE, "/images/1", {f"0/{uid}": content for uid, content in files})
    unpack_files(DEVICE, "/images/4", {f"{number % 4}/{uid}": content for number, (uid, content) in enumerate(files)})


def send_images(server: Server, associations: int, images: int) -> float:
    """Images a second, into an empty archive."""
    server.empty()
    took = int(run_in(DEVICE, SEND.format(associations=associations, address=server.address)))
    if server.count_images() != images:
        raise SystemExit(f"{server.machine} has {server.count_images()} of {images} images")
    return images / took * 1e9


def main() -> None:
    chosen = parse_arguments(__doc__, add_options)
    with use_machines(PLATFORMS, keep=chosen.keep):
        ours, guide = (
            deploy_ours(OURS, PLATFORMS[OURS][1][0]),
            set_up_guide(GUIDE, PLATFORMS[GUIDE][1][0]),
        )
        copy_images(chosen.images)
        rows = []
        for associations, name, at_least in ((1, "one association", 3.0), (4, "four associations", 2.7)):
            row = Comparison(f"C-STORE, {name}", "the guide's server", "images/s", rate=True, at_least=at_least)
            for server in (ours, guide):  # the first of each is not measured
                send_images(server, associations, chosen.images)
            send = partial(send_images, associations=associations, images=chosen.images)
            rows.append(measure_pairs(row, chosen.runs, partial(send, ours), partial(send, guide)))
        versions = {**ours.read_versions(), "DCMTK": run_in(DEVICE, "dpkg-query -W -f '${Version}' dcmtk")}
    what = f"C-STORE of ultrasound images, {chosen.images} in a run, empty archive"
    write_result(chosen.json, "store", what, "make bench ONLY=store", versions, rows)


if __name__ == "__main__":
    main()
