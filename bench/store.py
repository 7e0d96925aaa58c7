#!/usr/bin/env python3
"""C-STORE of ultrasound images by DCMTK's storescu, with one and with four associations: here and the guide's server.

python3 bench/store.py [--json FILE] [--runs 5] [--images 100] [--sizes 0 50000 200000] [--keep]

Both servers are machines of the test bed with Debian 13 and the same Orthanc, each with an archive that is empty at
first, and then has so many images of 2 kB. The device is a third one on their network, which sends the same images to
both in turns, other ones in each run: for a minute after images were deleted, ext4 looks for new inodes more slowly.
Images of 0.23 to 1.8 MB.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
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
AGAINST = "the guide's server"
# how many, their name, and how many times as fast the empty archive is to be
ASSOCIATIONS = ((1, "one association", 3.0), (4, "four associations", 2.7))
FLAT = 1.3
# what perf showed of both cores on 2026-11-29, with four associations
PROFILE = (
    "by perf, with four associations Orthanc has 50 % of both cores (the kernel's files and sockets 21, MD5 5, the"
    " scripts for what may be stored 4), storescu 16 %, and 25 % wait for the disk: an image is on the disk before it"
    " is confirmed, by one fdatasync here as there; pieces of 16, 64 and 128 kB were tried"
)
# the device's own clock, without the start of `docker exec`
SEND = """
begin=$(date +%s%N)
for directory in /images/{associations}/{run}/*; do
  /usr/bin/storescu +sd -aet US1 -aec ORTHANC {address} 4242 $directory &
  all="$all $!"
done
for one in $all; do wait $one; done
echo $(($(date +%s%N) - begin))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=100, help="to store in a run, a multiple of 20; 100")
    sizes = [0, 50_000, 200_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="of archives, in thousands; 0 50000 200000")


def copy_images(images: int, runs: int) -> None:
    """Puts images for each run on the device, for one association, and for four, among which they are divided."""
    for run in range(runs):
        for associations in (1, 4):
            files = [one for _study in range(images // STUDY) for one in make_study(STUDY).items()]
            parts = {f"{number % associations}/{uid}": content for number, (uid, content) in enumerate(files)}
            unpack_files(DEVICE, f"/images/{associations}/{run}", parts)


def send_images(server: Server, associations: int, images: int, runs: Iterator[int]) -> float:
    """Images a second, of the next run."""
    before = server.count_images()
    took = int(run_in(DEVICE, SEND.format(associations=associations, run=next(runs), address=server.address)))
    if (stored := server.count_images() - before) != images:
        raise SystemExit(f"{server.machine} has stored {stored} of {images} images")
    return images / took * 1e9


def grow_archive(server: Server, size: int) -> None:
    """Deletes the images of earlier runs, and lets the archive grow to so many others."""
    for patient in server.ask("POST", "/tools/find", {"Level": "Patient", "Query": {"PatientID": "BENCH*"}}):
        server.ask("DELETE", f"/patients/{patient}")
    if size:
        if not server.count_images():
            server.store_first()
        server.grow_archive(size)
    server.require_images(size)


def measure_size(ours: Server, guide: Server, size: int, images: int, runs: int) -> list[Comparison]:
    """Images a second of both servers, with one association and with four."""
    rows = []
    for server in (ours, guide):
        grow_archive(server, size)
    for associations, name, at_least in ASSOCIATIONS:
        row = Comparison(f"C-STORE, {name}", AGAINST, "images/s", rate=True, size=size or None, why=PROFILE)
        row.at_least = None if size else at_least
        send_ours, send_guide = (
            partial(send_images, server, associations, images, itertools.count()) for server in (ours, guide)
        )
        send_ours(), send_guide()  # the first of each is not measured
        rows.append(measure_pairs(row, runs, send_ours, send_guide))
    return rows


def compare_sizes(empty: Comparison, large: Comparison) -> Comparison:
    """Ours with a large archive and with an empty one."""
    what = f"{large.what}, {large.size:,} images"
    row = Comparison(what, "an empty archive", "images/s", rate=True, at_most=FLAT)
    row.ours, row.theirs = large.ours, empty.ours
    print(row.describe(), flush=True)
    return row


def main() -> None:
    chosen = parse_arguments(__doc__, add_options)
    with use_machines(PLATFORMS, keep=chosen.keep):
        ours = deploy_ours(OURS, PLATFORMS[OURS][1][0])
        guide = set_up_guide(GUIDE, PLATFORMS[GUIDE][1][0])
        copy_images(chosen.images, chosen.runs + 1)
        measured = [measure_size(ours, guide, size, chosen.images, chosen.runs) for size in chosen.sizes]
        versions = {**ours.read_versions(), "DCMTK": run_in(DEVICE, "dpkg-query -W -f '${Version}' dcmtk")}
    rows = [row for of_size in measured for row in of_size]
    rows += [compare_sizes(*pair) for of_size in measured[1:] for pair in zip(measured[0], of_size, strict=True)]
    what = f"C-STORE of ultrasound images, {chosen.images} in a run"
    write_result(chosen.json, "store", what, "make bench ONLY=store", versions, rows)


if __name__ == "__main__":
    main()
