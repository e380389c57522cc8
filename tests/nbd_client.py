"""A small NBD client, so that tests do not see the volume through our own code.

Synchronous, one connection, newstyle negotiation with NBD_OPT_GO, simple replies (proto.md of
the NBD project).  Left out: TLS (remote.py adds it), structured replies, block status.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import Self
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES = 0, 1, 2, 3, 4, 5, 6
FUA, NO_HOLE, FAST_ZERO = 1, 2, 16


class NbdError(OSError):
    """The server's answer to a request, with its errno."""


class NbdClient:
    def __init__(self, uri: str, timeout_s: float = 60.0) -> None:
        parts = urlsplit(uri)
        self.socket = self._connect(parts, timeout_s)
        self._cookie = 0
        self._greet()
        self._negotiate(unquote(parts.path.removeprefix("/"), errors="surrogateescape"))

    def _connect(self, uri: SplitResult, timeout_s: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        connection.connect(parse_qs(uri.query)["socket"][0])
        return connection

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("the server closed the connection")
            data += part
        return data

    def _greet(self) -> None:
        magic, option_magic, _flags = struct.unpack(">8s8sH", self._receive(18))
        assert (magic, option_magic) == (b"NBDMAGIC", b"IHAVEOPT")
        self.socket.sendall(struct.pack(">I", 3))

    def _negotiate(self, export: str) -> None:
        name = export.encode(errors="surrogateescape")  # it may be any bytes
        option = struct.pack(f">I{len(name)}sH", len(name), name, 0)
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", 7, len(option)) + option)
        while True:
            _, _, kind, length = struct.unpack(">QIII", self._receive(20))
            body = self._receive(length)
            if kind & 0x80000000:
                raise NbdError(kind & 0xFF, f"negotiation refused: {body.decode()!r}")
            if kind == 1:  # ACK
                return
            if kind == 3 and body[:2] == b"\0\0":  # INFO: EXPORT
                self.size, self.flags = struct.unpack(">QH", body[2:12])

    def send(self, kind: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> int:
        """Send a request without waiting; its cookie."""
        self._cookie += 1
        head = struct.pack(">IHHQQI", 0x25609513, flags, kind, self._cookie, offset, length)
        self.socket.sendall(head + data)
        return self._cookie

    def taken(self) -> bool:
        """Whether the server has read all that was sent (SIOCOUTQ, unix(7))."""
        unread = fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4)
        return not int.from_bytes(unread, "little")

    def receive(self, length: int = 0) -> bytes:
        """The next reply; `length` bytes of data follow it if it is a read's."""
        magic, error, _cookie = struct.unpack(">IIQ", self._receive(16))
        assert magic == 0x67446698
        if error:
            raise NbdError(error, "the server answered with an error")
        return self._receive(length)

    def read(self, offset: int, length: int) -> bytes:
        self.send(READ, offset, length)
        return self.receive(length)

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        self.send(WRITE, offset, len(data), data, flags)
        self.receive()

    def zero(self, offset: int, length: int, flags: int = 0) -> None:
        self.send(ZEROES, offset, length, flags=flags)
        self.receive()

    def trim(self, offset: int, length: int) -> None:
        self.send(TRIM, offset, length)
        self.receive()

    def flush(self) -> None:
        self.send(FLUSH, 0, 0)
        self.receive()

    def close(self) -> None:
        try:
            self.send(DISC, 0, 0)
        finally:
            self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
