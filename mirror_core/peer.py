"""Asks another site, or this one, over its control export.  One call, one connection."""

from __future__ import annotations

import errno
from typing import cast

from mirror_core import limits, native, protocol
from mirror_core.config import SiteConfig
from mirror_core.errors import PeerError, Refused, line


class Link:
    """The way to the other site of a mirror: its control export and its intermediates."""

    def __init__(self, config: SiteConfig) -> None:
        self.peer = config.peer
        self._config = config

    def ask(self, record: protocol.Record) -> protocol.Record:
        """Refused, PeerError as of `ask` below."""
        timeout = self._config.link_timeout + limits.CONTROL_WAIT_S
        return ask(self._config.peer_uri("/control"), record, timeout)

    def intermediate(self, volume: str, session: int) -> native.Store:
        """The peer's intermediate as this session may write it.  OSError."""
        uri = self._config.peer_uri(f"{volume}/intermediate/{session:x}")
        return native.Store.nbd(uri, self._config.link_timeout, fenced=True)


def ask(uri: str, record: protocol.Record, timeout_s: float) -> protocol.Record:
    """The answer to one request.

    Refused: the other side refuses for a reason of history or shape, which does not pass by
    itself.  PeerError: it cannot be reached, or it failed; errno says how.
    """
    try:
        data = native.exchange(uri, protocol.encode(record), limits.CONTROL_BYTES, timeout_s)
    except OSError as error:
        raise PeerError(error.strerror or str(error), error.errno or errno.EIO) from error
    return answer_of(data)


def answer_of(data: bytes) -> protocol.Record:
    """The record in an answer.  Refused, PeerError: what it says, or that it is none."""
    answer = protocol.decode(data)
    if "refused" in answer:
        raise Refused(line(answer["refused"]))
    if "error" in answer:
        code = answer.get("errno")
        known = type(code) is int and code in errno.errorcode
        raise PeerError(line(answer["error"]), cast(int, code) if known else errno.EIO)
    return answer
