"""What reconcile says it repaired can be read, and nothing else is said to be."""

from __future__ import annotations

import base64
import contextlib
import os
import zlib
from collections.abc import Iterator

import pytest
from backups import STORAGE, backup, done, must
from clients import name_of, put
from senders import altered, identifier, image, packed, path, pixels, rest, restart, sent
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = AnsibleRunner.get_runner(os.environ["MOLECULE_INVENTORY_FILE"]).get_hosts("orthanc")


@pytest.fixture
def machine(host: Host) -> str:
    return name_of(host)


def orphan(machine: str, number: int, content: bytes) -> str:
    """A file that the index does not know; its name."""
    name = f"00/00/0000{number:04}-0000-4000-8000-000000000000"
    must(machine, f"install -d -o orthanc -g orthanc {STORAGE}/00 {STORAGE}/00/00")
    put(machine, f"{STORAGE}/{name}", content)
    must(machine, f"chown orthanc: {STORAGE}/{name} && touch -d '1 hour ago' {STORAGE}/{name}")
    return name


def compressed(data: bytes) -> bytes:
    """As Orthanc writes it with StorageCompression."""
    return len(data).to_bytes(8, "little") + zlib.compress(data)


@contextlib.contextmanager
def compression(machine: str) -> Iterator[None]:
    """Orthanc compresses what it stores."""
    for value in (True, False):
        script = "import json; p = '/etc/orthanc/site/orthanc.json'; it = json.load(open(p)); "
        script += f"it['StorageCompression'] = {value}; json.dump(it, open(p, 'w'))"  # in place: a container mounts it
        must(machine, "python3 -", script.encode())
        restart(machine)
        if value:
            yield


def test_what_reconcile_says_is_what_it_saw(machine: str) -> None:
    new, packed_new, twice, other, lost, cut = (image(f"ORPHAN{number}") for number in range(6))
    assert sent(machine, "US1", twice, other, lost) == [0, 0, 0]
    must(machine, f"truncate --size=1000 {path(machine, lost)}")
    restart(machine)
    same = rest(machine, "GET", f"/instances/{identifier(machine, twice)}/file")[1]
    names = {
        "new": orphan(machine, 1, packed(new)),
        "compressed": orphan(machine, 2, compressed(packed(packed_new))),
        "twice": orphan(machine, 3, same),
        "other": orphan(machine, 4, packed(altered(other))),
        "lost": orphan(machine, 5, packed(lost)),
        "cut": orphan(machine, 6, packed(cut)[:-500]),
        "cut compressed": orphan(machine, 7, compressed(packed(cut))[:-500]),
        "noise": orphan(machine, 8, bytes(range(256)) * 4),
    }
    name = {kind: one.rpartition("/")[2] for kind, one in names.items()}

    status, said = backup(machine, "reconcile", "--repair")

    restart(machine)
    images = (new, packed_new, twice, other, lost)
    assert [one.AccessionNumber for one in images if pixels(machine, one) != one.PixelData] == [], said
    repaired, unresolved = said["repaired"], said["unresolved"]
    assert {kind: repaired.get(name[kind], "") for kind in ("new", "compressed")} == {
        "new": "imported",
        "compressed": "imported",
    }
    assert repaired[name["twice"]].startswith("duplicate of ")
    # its bytes took the place of the file that was cut, or it is a new image (Orthanc 1.10)
    assert repaired[name["lost"]].startswith(("duplicate of ", "imported"))
    assert "differs" in unresolved[name["other"]]
    assert unresolved[name["other"]].startswith("conflict: ")
    for kind in ("cut", "cut compressed", "noise"):
        assert unresolved[name[kind]].startswith("not an image: ")
    assert status == 1
    assert sorted(said["left"]) == sorted(names[kind] for kind in ("other", "cut", "cut compressed", "noise"))
    for kind in ("other", "cut", "cut compressed", "noise"):
        must(machine, f"rm {STORAGE}/{names[kind]}")
    assert done(machine, "reconcile")["left"] == []


def test_what_came_back_from_a_snapshot_is_what_orthanc_gives_out(machine: str) -> None:
    """It keeps what somebody read of the damaged file."""
    one = image("STALE")
    assert sent(machine, "US1", one) == [0]
    assert backup(machine, "run")[0] == 0
    file = path(machine, one)
    must(machine, f"printf x | dd of={file} bs=1 seek=5000 conv=notrunc")
    restart(machine)
    seen = rest(machine, "GET", f"/instances/{identifier(machine, one)}/file")[1]

    assert "from snapshot" in done(machine, "reconcile", "--repair")["repaired"][file.rpartition("/")[2]]

    given = rest(machine, "GET", f"/instances/{identifier(machine, one)}/file")[1]
    assert given != seen
    assert pixels(machine, one) == one.PixelData


def test_a_snapshot_comes_before_an_orphan_of_other_content(machine: str) -> None:
    one = image("BEFORE")
    assert sent(machine, "US1", one) == [0]
    done(machine, "run")
    must(machine, f"truncate --size=1000 {path(machine, one)}")
    restart(machine)
    name = orphan(machine, 9, packed(altered(one)))
    status, said = backup(machine, "reconcile", "--repair")
    assert (status, said["left"]) == (1, [name])
    assert said["unresolved"][name.rpartition("/")[2]].startswith("conflict: ")
    restart(machine)
    assert pixels(machine, one) == one.PixelData
    must(machine, f"rm {STORAGE}/{name}")


def test_compressed_attachments_come_back_from_a_snapshot(machine: str) -> None:
    one = image("COMPRESSED")
    assert sent(machine, "US1", one) == [0]
    place = f"/instances/{identifier(machine, one)}/attachments/dicom"
    assert rest(machine, "POST", f"{place}/compress")[0] == 200
    done(machine, "run")
    # its UID is in the file no more
    file = must(machine, f"find {STORAGE}/?? -type f -printf '%T@ %p\\n' | sort | tail -1 | cut -d' ' -f2").strip()
    must(machine, f"truncate --size=-10 {file}")
    restart(machine)
    said = done(machine, "reconcile", "--repair")
    assert said["repaired"][file.rpartition("/")[2]].startswith("from snapshot ")
    assert said["left"] == []
    assert pixels(machine, one) == one.PixelData
    # and a device that sends it again is told the truth
    must(machine, f"truncate --size=-10 {file}")
    restart(machine)
    assert sent(machine, "US1", one) == [0]
    restart(machine)
    assert pixels(machine, one) == one.PixelData


@pytest.mark.parametrize("numbers", [(20, 21), (21, 20)], ids=["headers first", "image first"])
def test_an_image_whose_row_is_lost_comes_back_with_its_pixels(machine: str, numbers: tuple[int, int]) -> None:
    """Compressed, it has its headers beside it in a DICOM file of their own."""
    one = image("HEADERS")
    begin = must(machine, "date +%s.%N").strip()
    with compression(machine):
        assert sent(machine, "US1", one) == [0]
    files = must(machine, f"find {STORAGE}/?? -type f -newermt @{begin} -printf '%s %p\\n' | sort -n").split()[1::2]
    contents = [base64.b64decode(must(machine, f"base64 -w0 {file}")) for file in files]
    assert len(contents) == 2
    assert rest(machine, "DELETE", f"/instances/{identifier(machine, one)}")[0] == 200
    headers, whole = (
        orphan(machine, number, content).rpartition("/")[2] for number, content in zip(numbers, contents, strict=True)
    )

    said = done(machine, "reconcile", "--repair")

    assert said["repaired"] == {whole: "imported", headers: f"headers of {whole}"}
    assert said["left"] == []
    restart(machine)
    assert pixels(machine, one) == one.PixelData
