"""A small NBD client, so that volumes are not seen through the project's own code.

Synchronous, one connection over a Unix socket, newstyle negotiation with NBD_OPT_GO, simple
replies (proto.md of the NBD project).  Left out: TLS, structured replies, block status.
"""

from __future__ import annotations

import socket
import struct
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

READ, WRITE, DISC, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1


class NbdError(OSError):
    """The server's answer to a request, with its errno."""


class NbdClient:
    def __init__(self, uri: str, timeout_s: float) -> None:
        parts = urlsplit(uri)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._cookie = 0
        self.size = 0
        try:
            self._socket.connect(parse_qs(parts.query)["socket"][0])
            self._negotiate(unquote(parts.path.removeprefix("/")))
        except BaseException:
            self._socket.close()
            raise

    def _receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise ConnectionError("the server closed the connection")
            data += part
        return bytes(data)

    def _negotiate(self, export: str) -> None:
        magic, option_magic, _flags = struct.unpack(">8s8sH", self._receive(18))
        if (magic, option_magic) != (b"NBDMAGIC", b"IHAVEOPT"):
            raise ConnectionError("not an NBD server")
        name = export.encode()
        option = struct.pack(f">I{len(name)}sH", len(name), name, 0)
        go = b"IHAVEOPT" + struct.pack(">II", 7, len(option)) + option
        self._socket.sendall(struct.pack(">I", 3) + go)
        while True:
            _, _, kind, length = struct.unpack(">QIII", self._receive(20))
            body = self._receive(length)
            if kind & 0x80000000:
                raise NbdError(kind & 0xFF, f"negotiation refused: {body.decode()!r}")
            if kind == 1:  # ACK
                return
            if kind == 3 and body[:2] == b"\0\0":  # INFO: EXPORT
                (self.size,) = struct.unpack(">Q", body[2:10])

    def ask(self, kind: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> bytes:
        """One request and its reply.  Raises NbdError for the server's error, another OSError if
        the connection ends or the time is over."""
        self._cookie += 1
        head = struct.pack(">IHHQQI", 0x25609513, flags, kind, self._cookie, offset, length)
        self._socket.sendall(head + data)
        magic, error, cookie = struct.unpack(">IIQ", self._receive(16))
        if magic != 0x67446698 or cookie != self._cookie:
            raise ConnectionError("the reply is not that of the request")
        if error:
            raise NbdError(error, "the server answered with an error")
        return self._receive(length if kind == READ else 0)

    def read(self, offset: int, length: int) -> bytes:
        return self.ask(READ, offset, length)

    def flush(self) -> None:
        self.ask(FLUSH, 0, 0)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
