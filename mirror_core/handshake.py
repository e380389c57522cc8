"""The NBD handshake of a socket that is then somebody else's: the kernel's.

The kernel takes a connected socket whose next bytes are requests (fixed newstyle negotiation up
to the answer of NBD_OPT_GO; proto.md of the NBD project).  libnbd keeps its socket to itself, so
this is done by hand, and strictly: whatever is not as agreed ends it with one line.

Invariants: not one byte of the transmission phase is read here; replies stay simple, because
nothing else was asked for, and the kernel understands no others.  Left out: TLS (the device is on
the site's Unix socket only), every other option.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from mirror_core import limits
from mirror_core.errors import PeerError, line

FIXED_NEWSTYLE, NO_ZEROES = 1, 2  # both sides' flags
READ_ONLY, MULTI_CONN = 1 << 1, 1 << 8  # of an export
_OPT_GO = 7
_REP_MAGIC = 0x3E889045565A9
_REP_ACK, _REP_INFO, _REP_ERROR = 1, 3, 1 << 31
_REFUSALS = {2: errno.EPERM, 6: errno.ENOENT, 7: errno.ESHUTDOWN}  # POLICY, UNKNOWN, SHUTDOWN
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3


@dataclass(frozen=True)
class Opened:
    """A connection ready for requests; the socket blocks, and is the caller's to close."""

    socket: socket.socket
    size: int  # bytes
    flags: int  # the export's transmission flags
    block_size: int  # bytes: the smallest request that the server takes


def open_export(path: Path, export: str, timeout_s: float) -> Opened:
    """Connect to a Unix socket and negotiate this export.

    PeerError: nobody listens, the server refuses, or it speaks something else; errno says which.
    `timeout_s` is for each step.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        size, flags, block_size = _negotiate(connection, export)
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        raise PeerError(
            f"{path}: {error.strerror or error}", error.errno or errno.ETIMEDOUT
        ) from error
    except BaseException:
        connection.close()
        raise
    return Opened(connection, size, flags, block_size)


def _wrong(text: str) -> PeerError:
    return PeerError(f"not the NBD server that was expected: {text}", errno.EPROTO)


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise PeerError("the server closed the connection", errno.ECONNRESET)
        data += part
    return data


def _negotiate(connection: socket.socket, export: str) -> tuple[int, int, int]:
    """(size, transmission flags, smallest block)."""
    magic, option_magic, flags = struct.unpack(">8s8sH", _receive(connection, 18))
    if (magic, option_magic) != (b"NBDMAGIC", b"IHAVEOPT") or not flags & FIXED_NEWSTYLE:
        raise _wrong("it does not begin with fixed newstyle negotiation")
    name = export.encode()
    wanted = struct.pack(f">I{len(name)}sHH", len(name), name, 1, _INFO_BLOCK_SIZE)
    connection.sendall(
        struct.pack(">I", flags & (FIXED_NEWSTYLE | NO_ZEROES))
        + struct.pack(">8sII", b"IHAVEOPT", _OPT_GO, len(wanted))
        + wanted
    )
    return _answers(connection)


def _answers(connection: socket.socket) -> tuple[int, int, int]:
    """What NBD_OPT_GO is answered with, up to the acknowledgement."""
    export: tuple[int, int] | None = None
    block_size = 1
    for _ in range(limits.HANDSHAKE_ANSWERS):
        head = _receive(connection, 20)
        magic, option, kind, length = struct.unpack(">QIII", head)
        if magic != _REP_MAGIC or option != _OPT_GO or length > limits.HANDSHAKE_ANSWER_BYTES:
            raise _wrong("its answer is out of form")
        body = _receive(connection, length)
        if kind & _REP_ERROR:
            why = line(body.decode(errors="replace")) or f"error {kind & ~_REP_ERROR}"
            code = _REFUSALS.get(kind & ~_REP_ERROR, errno.EINVAL)
            raise PeerError(f"the server refuses: {why}", code)
        if kind == _REP_ACK and not length:
            if export is None:
                raise _wrong("it does not tell the size")
            return *export, block_size
        if kind != _REP_INFO or length < 2:
            raise _wrong("its answer is out of form")
        (what,) = struct.unpack_from(">H", body)
        if what == _INFO_EXPORT and length == 12:
            size, flags = struct.unpack_from(">QH", body, 2)
            export = size, flags
        elif what == _INFO_BLOCK_SIZE and length == 14:
            (block_size,) = struct.unpack_from(">I", body, 2)
    raise _wrong("its answer has no end")
