"""A long way: a TCP relay that hands on what it gets a while later, in both directions.

    relay.py HOST PORT TO_HOST TO_PORT DELAY_MS

Each connection holds at most WINDOW bytes each way, as a TCP window would.  (CI's kernel
has no netem.)
"""

from __future__ import annotations

import asyncio
import socket
import sys

WINDOW = 4 << 20
CHUNK = 256 << 10


async def hand_on(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    held, room = 0, asyncio.Event()

    async def read() -> None:
        nonlocal held
        data = b"-"
        while data:
            while held >= WINDOW:
                room.clear()
                await room.wait()
            try:
                data = await loop.sock_recv(source, CHUNK)
            except OSError:
                data = b""
            held += len(data)
            await queue.put((loop.time() + delay_s, data))

    async def write() -> None:
        nonlocal held
        data = b"-"
        while data:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            try:
                await loop.sock_sendall(sink, data)
            except OSError:
                data = b""
            held -= len(data)
            room.set()
        sink.shutdown(socket.SHUT_WR)

    reading = asyncio.create_task(read())
    try:
        await write()
    except OSError:
        pass
    finally:
        reading.cancel()


async def carry(near: socket.socket, address: tuple[str, int], delay_s: float) -> None:
    far = socket.socket()
    far.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(far, address)
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(hand_on(near, far, delay_s), hand_on(far, near, delay_s))
    except OSError:
        pass
    finally:
        near.close()
        far.close()


async def main(host: str, port: int, to: tuple[str, int], delay_s: float) -> None:
    listener = socket.create_server((host, port), backlog=100)
    listener.setblocking(False)
    print("ready", flush=True)
    carried = set()
    while True:
        near, _ = await asyncio.get_running_loop().sock_accept(listener)
        task = asyncio.create_task(carry(near, to, delay_s))
        carried.add(task)
        task.add_done_callback(carried.discard)


if __name__ == "__main__":
    HOST, PORT, TO_HOST, TO_PORT, DELAY_MS = sys.argv[1:]
    asyncio.run(main(HOST, int(PORT), (TO_HOST, int(TO_PORT)), float(DELAY_MS) / 1000))
