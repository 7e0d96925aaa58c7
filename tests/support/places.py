"""A client's place on the network, lent to programs of this machine: a browser, or a library of PyPI's.

Orthanc's firewall sees them come from the client's address, and they see the server under its own name and
certificate.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import bed
from clients import ADDRESSES, CLIENTS, client, put, wait_for

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


@contextlib.contextmanager
def lent(name: str, machine: str, place: int = 0) -> Iterator[str]:
    """The address at whose port 443 the machine's own is found; it is reached in the network of that place."""
    put(name, "/tmp/forward.py", FORWARD.encode())
    client(name, "rm", "-f", "/tmp/forward.pid")
    bed.docker("exec", "--detach", name, "python3", "/tmp/forward.py", ADDRESSES[machine][place])
    wait_for(lambda: client(name, "test", "-s", "/tmp/forward.pid").returncode == 0, "the forwarder")
    try:
        yield CLIENTS[name][0]
    finally:
        client(name, "sh", "-c", "kill $(cat /tmp/forward.pid)")
