"""Asks another site, or this one, over its control export."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

from mirror_core import limits, native, protocol, timeouts
from mirror_core.address import Remote
from mirror_core.config import SiteConfig
from mirror_core.errors import Answered, PeerError, Refused, line
from mirror_core.platform import Platform


class Link:
    """The way to the other site of a mirror: its control export and its intermediates.  The line to
    the one is kept until `hang_up`, or until it fails.

    version   the highest protocol version that both sites know, as far as it is known: the highest
              of this site until the other one refuses that

    Once this site is `ending` an answer is awaited for FAREWELL_S at most."""

    def __init__(self, config: SiteConfig, platform: Platform, ending: Callable[[], bool]) -> None:
        self.peer = config.peer
        self._ending = ending
        self._platform = platform
        self._config = config
        self._timeout = timeouts.request_s(config.link_timeout)
        self._line: native.Line | None = None
        self._asked: protocol.Request | None = None
        self.version = config.protocol
        self._find = platform.looker(self._look_up, limits.CONNECT_S)

    def ask(self, request: protocol.Request, patience_s: float | None = None) -> protocol.Record:
        """Refused, PeerError as of `ask` below."""
        self.send(request)
        left = self._timeout if patience_s is None else patience_s
        while (answer := self.hear(min(left, limits.IDLE_LOOK_S))) is None:
            left -= limits.IDLE_LOOK_S
            if self._ending():
                left = min(left, limits.FAREWELL_S)
            if left <= 0:
                self.hang_up()
                raise PeerError(os.strerror(errno.ETIMEDOUT), errno.ETIMEDOUT)
        return answer

    def send(self, request: protocol.Request) -> None:
        """Begin to ask; what is asked already is given up, and may be done or not.  PeerError."""
        if self._asked:
            self.hang_up()
        with self._failing():
            if self._line is None:
                uri = self._uri("/control")
                self._line = self._platform.control_channel(uri, self._timeout)
            record = protocol.record_of(request, self.version)
            self._line.ask(protocol.encode(record, self.version))
        self._asked = request

    def hear(self, wait_s: float) -> protocol.Record | None:
        """The answer, if it comes within `wait_s`.  Refused, PeerError."""
        while True:
            assert self._line and self._asked is not None
            with self._failing():
                data = self._line.hear(wait_s)
            if data is None:
                return None
            request, self._asked = self._asked, None
            answer, version = protocol.decode(data, self.version)
            if version == self.version:
                return result_of(answer)
            self.version = version  # the other site's highest
            self.send(request)

    def hang_up(self) -> None:
        line, self._line, self._asked = self._line, None, None
        if line:
            line.close()

    @contextlib.contextmanager
    def _failing(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            self.hang_up()
            raise _unreached(error) from error

    def intermediate(self, volume: str, session: int) -> native.Store:
        """The peer's intermediate as this session may write it.  OSError."""
        uri = self._uri(f"{volume}/intermediate/{session:x}")
        return self._platform.peer_store(uri, timeouts.lane_s(self._config.link_timeout))

    def _uri(self, export: str) -> str:
        """OSError: nobody says where the peer is.  libnbd asks that in its caller's thread, for as
        long as the system's resolver likes, and so only after somebody has answered."""
        if isinstance(self.peer, Remote):
            try:
                self._find()
            except socket.gaierror as error:
                raise OSError(errno.ENOTCONN, error.strerror) from error
            except UnicodeError as error:  # of its encoding (idna)
                raise OSError(errno.ENOTCONN, f"{self.peer.at.host} is no host's name") from error
            except TimeoutError as error:
                words = f"no name server says where {self.peer.at.host} is"
                raise OSError(errno.ETIMEDOUT, words) from error
        return self._config.peer_uri(export)

    def _look_up(self) -> None:
        assert isinstance(self.peer, Remote)
        socket.getaddrinfo(self.peer.at.host, self.peer.at.port, type=socket.SOCK_STREAM)


def ask(uri: str, record: protocol.Record, timeout_s: float) -> protocol.Record:
    """The answer to one request, on a connection of its own.

    Refused: the other side refuses for a reason of history or shape, which does not pass by
    itself.  PeerError: it cannot be reached, or it failed; errno says how.
    """
    version = protocol.VERSION
    while True:
        request = protocol.encode(record, version)
        try:
            data = native.exchange(uri, request, limits.CONTROL_BYTES, timeout_s)
        except OSError as error:
            raise _unreached(error) from error
        answer, known = protocol.decode(data, version)
        if known == version:
            return result_of(answer)
        version = known  # the highest of a site that is held to an older one


def does_not_run(peer: Path | Remote, error: PeerError) -> bool:
    """Whether nobody listens there.  A server without our export answers with ENOENT, too."""
    if isinstance(error, Answered):
        return False
    missing = error.code == errno.ENOENT and isinstance(peer, Path) and not peer.exists()
    return missing or error.code == errno.ECONNREFUSED


def _unreached(error: OSError) -> PeerError:
    return PeerError(error.strerror or str(error), error.errno or errno.EIO)


def answer_of(data: bytes) -> protocol.Record:
    """The record in an answer.  Refused, PeerError: what it says, or that it is none."""
    return result_of(protocol.decode(data)[0])


def result_of(answer: protocol.Record) -> protocol.Record:
    """The same.  Refused, PeerError: it is a refusal, or an error."""
    if "refused" in answer:
        raise Refused(line(answer["refused"]))
    if "error" in answer:
        code = answer.get("errno")
        known = type(code) is int and code in errno.errorcode
        raise Answered(line(answer["error"]), cast(int, code) if known else errno.EIO)
    return answer
