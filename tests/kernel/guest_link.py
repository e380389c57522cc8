"""Carries a site's connections to the other guest: Unix socket, TCP over the cable, Unix socket.

In each guest the peer's socket is this relay's, which connects to the relay in the other guest,
which connects to the site's own socket there. A connection that ends at one side is ended at the
other. It adds nothing: to a guest that is dead a connection is as silent as TCP makes it.

Left out: everything, once sites speak TCP themselves; then this goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

PORT = 10809
BYTES = 1 << 18  # read at once

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side is gone: so is the other now
    finally:
        writer.close()


def _joining(connect: Callable[[], Awaitable[Streams]]) -> Callable[..., Awaitable[None]]:
    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await connect()
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, other_writer), _pump(other_reader, writer))

    return join


async def _serve(own: Path, peer: Path, address: str) -> None:
    outward = _joining(lambda: asyncio.open_connection(address, PORT))
    inward = _joining(lambda: asyncio.open_unix_connection(own))
    async with (
        await asyncio.start_unix_server(outward, peer) as leaving,
        await asyncio.start_server(inward, "0.0.0.0", PORT) as arriving,
    ):
        await asyncio.gather(leaving.serve_forever(), arriving.serve_forever())


def serve(own: Path, peer: Path, address: str) -> None:
    """For ever: ``own`` is the site's socket, ``peer`` the one to make, ``address`` the other's."""
    asyncio.run(_serve(own, peer, address))
