"""A session with the target: the handshake, the requests, and the way to its intermediates.

    open      the handshake: older sessions are fenced (I8)
    connect   the lanes to the target's intermediates, in place of those to the ones before
    part      the link is lost: the cycle goes on into the first intermediate alone
    close     the lanes end

Left out: when, and how often (driver.py).  Belongs to the control's thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator

from mirror_core import flashcopy, native, peer, protocol, recovery, timeouts
from mirror_core.book import Book
from mirror_core.config import SiteConfig
from mirror_core.errors import LINK_ERRNOS, Answered, MirrorError, PeerError, Refused, line
from mirror_core.ledger import Ledger
from mirror_core.platform import Platform

_RESUMES = "mirroring resumes by itself"
_LATER = f"writes go on and {_RESUMES}"


def told(reason: str, *, paused: bool, promoted: bool) -> str:
    """A reason from here, as it is true now: a source that is paused resumes nothing, and one that
    was promoted may have no target yet."""
    stays = "it stays paused until 'flashmirror resume'"
    first = (
        "mirroring goes on by itself once the site there is this one's target (an old source that "
        "is not yet becomes that by 'flashmirror resync --full --force' there: docs/recovery.md)"
    )
    return reason.replace(_RESUMES, stays if paused else first if promoted else _RESUMES)


def promoted_only(book: Ledger) -> bool:
    """Whether a source was promoted, and has an image at no target."""
    return book.lineage is not None and bool(book.lineage.parent) and not book.committed


def _outlook(error: flashcopy.CopyError) -> str:
    """What becomes of clients and of mirroring after a copy failed."""
    if error.part != flashcopy.FRONT:
        return _LATER
    if error.code in LINK_ERRNOS:
        return f"reads and writes of {error.volume} fail until it is back, and then {_RESUMES}"
    return f"clients may meet the same; {_RESUMES}"


class Session:
    def __init__(
        self,
        config: SiteConfig,
        book: Book,
        copier: flashcopy.Flashcopy,
        platform: Platform,
        *,
        ending: Callable[[], bool],
    ) -> None:
        self._config, self._book, self._copier = config, book, copier
        self._ending = ending
        self._platform, self._link = platform, peer.Link(config, platform, ending)
        self._stores: list[native.Store] = []
        self.number = 0
        self.asked = 0.0  # monotonic: when the last request was made; others look at both

    def ask(self, request: protocol.Request, patience_s: float | None = None) -> protocol.Record:
        """Refused; PeerError, with what to do."""
        self.asked = self._platform.monotonic()
        with self._reaching():
            return self._link.ask(request, patience_s)

    def send(self, request: protocol.Request) -> None:
        """Begin to ask; `hear` has the answer."""
        self.asked = self._platform.monotonic()
        with self._reaching():
            self._link.send(request)

    def hear(self, wait_s: float) -> protocol.Record | None:
        with self._reaching():
            return self._link.hear(wait_s)

    @contextlib.contextmanager
    def _reaching(self) -> Generator[None, None, None]:
        try:
            yield
        except PeerError as error:
            kind, advice = PeerError, "look at it and at the link"
            if isinstance(error, Answered):
                kind, advice = Answered, "look at its status"
            elif peer.does_not_run(self._config.peer, error):
                advice = "start it, or mend the link"
            text = f"peer at {self._config.peer}: {error}: {advice}; {_LATER}"
            raise kind(text, error.code) from error

    def open(self, resumes: int = 0, stable: int = 0) -> protocol.Welcome:
        """The handshake, to go on with that cycle unless it is 0.  Refused, PeerError."""
        self._link.hang_up()  # an older line may have died unnoticed
        self.number = self._platform.random_bits(62) | 1
        mine = self._book.current
        assert mine.lineage is not None, "a source has a lineage from its creation"
        shapes = tuple(protocol.VolumeShape(v.name, v.size, v.block_size) for v in mine.volumes)
        assert resumes in (0, mine.begun)
        hello = protocol.Handshake(
            mine.name, mine.lineage.id, self.number, shapes, mine.site, resumes, stable,
            mine.run, mine.runs, mine.begun, mine.begun_token,
            mine.committed, mine.committed_token, timeouts.silence_s(self._config.link_timeout),
        )  # fmt: skip
        self._link.version = self._config.protocol
        answer = self.ask(hello)
        welcome = protocol.read(protocol.Welcome, answer, self._link.version)
        if welcome.whole:
            reason = recovery.apart(
                mine.name, recovery.Point(mine.begun, mine.begun_token),
                recovery.Point(mine.committed, mine.committed_token),
                welcome.name, recovery.Point(welcome.committed, welcome.committed_token),
            )  # fmt: skip
            if reason:
                raise Refused(reason)
        return welcome

    def remember(self, welcome: protocol.Welcome) -> None:
        """What it says of its image, durably.  LedgerError."""
        mine = self._book.current
        image: tuple[int, str, float | None] = (0, "", None)
        if welcome.whole:  # else it lost its image, or is another one: everything is sent
            image = (welcome.committed, welcome.committed_token, welcome.point)
        # The target has met this run, and will ask for none before, if it was told of it; and its
        # commit may have been one whose answer was lost.  One without an image asks for none, and
        # may be another one, after which the one before is met again.
        runs = mine.runs
        if self._link.version >= protocol.TOKENS:
            before = () if welcome.whole else (run for run in runs if run != mine.run)
            runs = (mine.run, *before)
        known = (mine.committed, mine.committed_token, mine.consistency_point)
        if mine.unsure or mine.runs != runs or image[:2] != known[:2]:
            self._book.update(
                unsure=False,
                runs=runs, committed=image[0], committed_token=image[1],
                consistency_point=image[2], hardened=min(welcome.hardened, image[0]),
            )  # fmt: skip

    def connect(self) -> None:
        """PeerError, with ESHUTDOWN between two connections if this site is to stop; MirrorError:
        our own intermediate."""
        try:
            for member in self._copier.members:
                if self._ending():
                    raise PeerError(os.strerror(errno.ESHUTDOWN), errno.ESHUTDOWN)
                store = self._link.intermediate(member.name, self.number)
                try:
                    self._stores.append(store)
                except BaseException:  # nobody would close it
                    store.close()
                    raise
            with self.blaming():
                self._copier.link(self._stores)
        except OSError as error:
            self._drop_stores()
            raise PeerError(f"peer at {self._config.peer}: {error.strerror}") from error
        except PeerError:  # but for another error lanes may be left, which `close` ends
            self._drop_stores()
            raise

    def part(self, code: int) -> None:
        """MirrorError: our own intermediate."""
        with self.blaming():
            self._copier.part(code)
        self._drop_stores()

    def close(self) -> None:
        self._link.hang_up()
        self._copier.unlink()
        self._drop_stores()

    def _drop_stores(self) -> None:
        while self._stores:
            self._stores.pop().close()

    @contextlib.contextmanager
    def blaming(self) -> Generator[None, None, None]:
        """Turns a failed copy into a line that says which store, and what to do; PeerError: one
        of the peer's."""
        try:
            yield
        except flashcopy.CopyError as error:
            volume = self._config.volume(error.volume)
            where = {
                flashcopy.FRONT: f"data store {volume.data}",
                0: f"intermediate store {volume.intermediate}",
                flashcopy.PEER: f"intermediate store of the peer at {self._config.peer}",
            }
            text = self._trouble_of_peer(error) or flashcopy.explain(error, where)
            kind = PeerError if error.part == flashcopy.PEER else MirrorError
            raise kind(f"{text}; {_outlook(error)}", error.code) from error

    def _trouble_of_peer(self, error: flashcopy.CopyError) -> str | None:
        """The peer's own words for why it refused a write, if it has any."""
        if error.part != flashcopy.PEER or error.code in LINK_ERRNOS:
            return None
        with contextlib.suppress(MirrorError):
            look = protocol.Look(self.number, 0.0, self._book.current.paused)
            answer = protocol.read(protocol.Progress, self.ask(look))
            if answer.reason:
                return f"peer at {self._config.peer}: {line(answer.reason)}"
        return None
