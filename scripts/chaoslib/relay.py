"""The link between the sites: a process that hands on bytes, or cuts, stalls and delays them.

    relay.py LISTEN CONNECT [LISTEN CONNECT ...]        paths of Unix sockets

It does what the last line of its standard input says, to connections of both directions alike:

    up          bytes pass at once
    delay MS    bytes pass after so many milliseconds
    stall       nothing passes; what is under way arrives when the link is up again
    cut         every connection is reset, and each new one ends at once

Each connection holds at most WINDOW bytes each way.  Left out: loss and reordering within a
connection, which TCP does not show to its user.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

WINDOW = 4 << 20
CHUNK = 256 << 10


class Link:
    def __init__(self) -> None:
        self.delay_s = 0.0
        self.cut = False
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.ends: set[asyncio.StreamWriter] = set()

    def command(self, words: list[str]) -> None:
        self.cut = words[0] == "cut"
        self.delay_s = float(words[1]) / 1000 if words[0] == "delay" else 0.0
        if words[0] == "stall":
            self.flowing.clear()
        else:
            self.flowing.set()
        if self.cut:
            for end in list(self.ends):
                end.transport.abort()

    async def carry(
        self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter, to: str
    ) -> None:
        self.ends.add(near_out)
        far_out = None
        try:
            await self.flowing.wait()
            if self.cut:
                return
            far_in, far_out = await asyncio.open_unix_connection(to, limit=CHUNK)
            self.ends.add(far_out)
            await asyncio.gather(self.hand_on(near_in, far_out), self.hand_on(far_in, near_out))
        except OSError:
            pass
        finally:
            for end in (near_out, far_out):
                if end:
                    self.ends.discard(end)
                    end.transport.abort()

    async def hand_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WINDOW // CHUNK)

        async def read() -> None:
            data = b"-"
            while data:
                try:
                    data = await source.read(CHUNK)
                except OSError:
                    data = b""
                await queue.put((loop.time(), data))

        reading = asyncio.create_task(read())
        try:
            while True:
                came, data = await queue.get()
                await self.flowing.wait()
                await asyncio.sleep(max(0.0, came + self.delay_s - loop.time()))
                await self.flowing.wait()
                if not data:
                    break
                sink.write(data)
                await sink.drain()
            with contextlib.suppress(OSError):
                sink.write_eof()
        finally:
            reading.cancel()


async def main(pairs: list[str]) -> None:
    link, loop = Link(), asyncio.get_running_loop()
    for listen, connect in zip(pairs[::2], pairs[1::2], strict=True):

        async def came(
            near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter, to: str = connect
        ) -> None:
            await link.carry(near_in, near_out, to)

        await asyncio.start_unix_server(came, listen, limit=CHUNK, backlog=256)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ready", flush=True)
    while line := await commands.readline():
        link.command(line.decode().split())
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
