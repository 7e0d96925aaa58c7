"""A client's place on the network, lent to programs of this machine: a browser, or a library of PyPI's.

Orthanc's firewall sees them come from the client's address, and they see the server under its own name and
certificate.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import bed
import yaml
from clients import ADDRESSES, ROOT, client, put, wait_for

FORWARD = """
import asyncio, os, sys

async def copy(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()

async def serve(reader, writer):
    far_reader, far_writer = await asyncio.open_connection(sys.argv[1], 443)
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)

async def main():
    async with await asyncio.start_server(serve, "", 443) as server:
        open("/tmp/forward.pid", "w").write(str(os.getpid()))
        await server.serve_forever()

asyncio.run(main())
"""


def address(name: str) -> str:
    """Of a machine of this scenario, in its first network, as its platforms tell."""
    scenario = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parents[1].name.rpartition(".")[2]
    platforms = yaml.safe_load((ROOT / "molecule" / scenario / "molecule.yml").read_text())["platforms"]
    return next(str(one["addresses"][0]) for one in platforms if one["name"] == name)


@contextlib.contextmanager
def lent(name: str, machine: str, place: int = 0) -> Iterator[str]:
    """The address at whose port 443 the machine's own is found; it is reached in the network of that place."""
    put(name, "/tmp/forward.py", FORWARD.encode())
    client(name, "rm", "-f", "/tmp/forward.pid")
    bed.docker("exec", "--detach", name, "python3", "/tmp/forward.py", ADDRESSES[machine][place])
    wait_for(lambda: client(name, "test", "-s", "/tmp/forward.pid").returncode == 0, "the forwarder")
    try:
        yield address(name)
    finally:
        client(name, "sh", "-c", "kill $(cat /tmp/forward.pid)")
