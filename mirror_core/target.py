"""The target site: admits a source's session, and commits.

    handshake   fence older sessions, then answer what the source needs to know (I8)
    stable      flush, then remember durably what was written (written.py)
    commit      wait until the commit before is whole, flush, then one durable change:
                pending := written, sequence (I3)
    thread      flushes for the two above; runs the second flashcopy (second.py) while the next
                cycle arrives

Invariants.  `owed` holds what was written since the last commit and is not stable: a commit that
has not written all of it, by what is stable or again, is refused.  What is read counts only where
the disk is sure to hold it: a flush that failed may leave in a cache what the disk has lost, and
so may one of the process before, if that told nothing of its end.  From then until the next
commit, for which all of it is written again, nothing is found equal (I9).  Of a store that was cut
nothing is stable any more, and if some of the image was in it, nothing is committed (cut.py).
What a flush may have lost before this history stays in doubt, until a first cycle that leaves
nothing out.

Guard: `serial` orders what the source asks; `changed` guards the fields below its line.
"""

from __future__ import annotations

import contextlib
import errno
import math
import operator
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from pyroaring import BitMap64

from mirror_core import (
    age,
    compare,
    cut,
    flashcopy,
    guard,
    lastrun,
    ledger,
    limits,
    native,
    protocol,
    recovery,
    runlog,
    second,
    timeouts,
    written,
)
from mirror_core.book import Book
from mirror_core.config import SiteConfig
from mirror_core.errors import (
    LINK_ERRNOS,
    MirrorError,
    Owed,
    PeerError,
    Refused,
    SessionOver,
    describe,
)
from mirror_core.journal import Journal
from mirror_core.ledger import Lineage
from mirror_core.platform import Platform, Thread
from mirror_core.written import WrittenLog


@dataclass
class _Flush:
    """One that was asked for, which covers `written`.  Guard: the target's `changed`."""

    wanted: tuple[object, ...]
    written: dict[str, BitMap64]
    done: bool = False


class Target:
    def __init__(
        self,
        config: SiteConfig,
        book: Book,
        copier: flashcopy.Flashcopy,
        journal: Journal,
        log: runlog.RunLog,
        *,
        platform: Platform,
        written: WrittenLog,
        remember_cut: Callable[[list[tuple[str, cut.Part]]], None],
        short_data: Callable[[], str | None],
        blank: bool,
        owed: dict[str, BitMap64],
        doubtful_sent: bool,
        doubtful_before: bool,
    ) -> None:
        self._config, self._book, self._copier, self._journal = config, book, copier, journal
        self._platform = platform
        self._thread: Thread | None = None
        self._written = written
        self._reader = compare.Reader()
        self._cuts, self._remember_cut = cut.Cuts(copier.members), remember_cut
        self._short_data = short_data
        self.second = second.SecondFlashcopy(
            config, book, copier, log, platform, refuse_lost=self._refuse_lost
        )
        # On a disk that may hang.
        self._missing = platform.looker(self._missing_file, limits.CONTROL_WAIT_S)
        self.blank = blank  # without a commit yet, the data stores were holes when the site started
        self._owed = owed
        # The intermediates' disks may lack what is read from them: of what was sent since the last
        # commit, and of what was there before this history.
        self._doubtful_sent, self._doubtful_before = doubtful_sent, doubtful_before
        self._losses = 0  # of the intermediates, until the last commit
        self._errors: dict[str, int] = {}  # writes to them that had failed until then
        self._sessions: deque[int] = deque(maxlen=limits.SESSIONS_KNOWN)  # asked for lately
        self.serial = platform.lock()
        # -- guarded by `changed`
        self.changed = platform.condition()
        self.stopping = False
        self._ended = True  # the thread
        self._broken: str | None = None  # why the thread has ended before the site does
        self._promoting_until = 0.0  # monotonic: no session is opened before; inf: in a turn
        self.session = 0
        # The last one in which something was asked, or written.  One that is only opened, and
        # connected to, may be given up at once, again and again, by a source that finds that it
        # cannot mirror.
        self._used = 0
        self._opened = 0.0  # monotonic: when the session was
        self.source: str | None = None
        self.source_site: str | None = None
        self._began = platform.monotonic()
        # Monotonic: the source's last control request that is not refused; and until when a source
        # of this history is there for its sign, whether it has a session or not.
        self.heard = self._there_until = -math.inf
        self._knocker = ""  # its name
        self._knocked = -math.inf  # monotonic: the last time
        self._parted_since = 0.0  # Unix seconds: the first time since `heard`
        # So the source said when it looked last; None: not yet in this session.
        self.source_paused: bool | None = None
        self._since = self._platform.time()  # that it is connected, or that it has no session
        self.reason: str | None = None  # why the second flashcopy does not go on
        # Why this site could not do what the source asked for last, by what that was.
        self._troubles: dict[str, str] = {}
        self._refusal: str | None = None  # of the last source that asked for a session
        self._refused_until = -math.inf  # monotonic: by then it has asked again, if it is there
        self.failure: str | None = None  # why the session that was asked for last was not opened
        self.total_bytes = 0  # of the second flashcopy under way
        self._flush: _Flush | None = None  # that is asked for
        # A flush failed: nothing more is asserted in this session, whose source sends all that is
        # not stable again in another one.  (One that was asked for in an older session may have
        # met, and so used up, the failure of what a newer one wrote.)
        self._flush_error: str | None = None
        # And writers know it: later than the ledger.  If this site was stopped in between, what its
        # maps say is pending is copied once more.
        pending = any(stats.pending_blocks for stats in copier.stats().values())
        self.hardened = min(book.current.hardened, book.current.committed - pending)
        self._pending_of = book.current.committed  # whose `pending` is in the maps: the same
        self._committed_at = age.of_point(book.current, platform)

    # ---- requests of the source (nbdkit's threads)

    def handshake(self, hello: protocol.Handshake) -> protocol.Welcome:
        """Open a session.  Refused; PeerError: older requests do not end."""
        with self.serial:
            mine = self._book.current
            if self.promoting:
                # No refusal: it may be taken back, and then the cycle goes on where it was.
                raise PeerError(f"{mine.name} is being promoted: it is to be the source")
            decision = recovery.decide(mine, hello)
            if decision.refused:
                again_s = timeouts.asks_again_s(self._silence_s())
                self._note_sign(hello.name, hello.lineage, again_s)
                self.note_refusal(decision.refused)
                raise Refused(decision.refused)
            try:
                self._refuse_lost()
            except cut.ImageLost:
                self._note_sign(hello.name, hello.lineage, timeouts.asks_again_s(self._silence_s()))
                raise
            if self._has_source() and hello.site != self.source_site:
                raise Refused(
                    f"{mine.name} mirrors {self.source}, which is connected: stop it first"
                )
            self._refuse_twice(hello.session)
            goes_on, since = self.connected() and self.parted() is None, self._since
            self._end_session()  # what fails from here on leaves no session, not the one before
            try:
                self._fence(hello.session, hello.silence)
                resumed = self._begin_session(hello, anew=decision.adopt)
                self._remember_source(hello, anew=decision.adopt)
            except Exception as error:
                self._note_failure(hello, str(error) or type(error).__name__)
                raise
            with self.changed:
                self.session, self.source, self._refusal = hello.session, hello.name, None
                if goes_on:  # one after the other, as while this site cannot do what is asked for
                    self._used, self._since = hello.session, since
                self.source_site, self.failure = hello.site, None
                self.source_paused = None
                self._flush_error = None  # of before: all that is not stable is sent again
                self.heard = self._opened = self._platform.monotonic()
            for member in self._copier.members:
                member.native.set_patience(timeouts.put_off_s(hello.silence))
            mine = self._book.current
            blank = self.blank and mine.committed == 0
            return protocol.Welcome(
                mine.name, mine.site, mine.committed, mine.hardened, mine.whole, blank,
                self._is_seeded(), mine.consistency_point or 0.0, resumed, mine.committed_token,
            )  # fmt: skip

    def knock(self, name: str, lineage: str) -> protocol.Progress:
        """A source is there that has no session, and that is all that it asks."""
        ours = self._note_sign(name, lineage, timeouts.knocks_again_s(self._silence_s()))
        now = self._platform.monotonic()
        # One that has a session asks more often; this may have been under way when it was opened.
        if ours and name == self.source and now >= self.heard + 2 * limits.PULSE_S:
            with self.changed:
                if self._knocked <= self.heard:
                    self._parted_since = self._platform.time()
                self._knocked = now
        return protocol.Progress(False, 0)

    def _note_sign(self, name: str, lineage: str, for_s: float) -> bool:
        """Whether it is of this history; one of another is not the one that a promotion would part
        from."""
        mine = self._book.current.lineage
        if mine is None or mine.id != lineage:
            return False
        with self.changed:
            until = self._platform.monotonic() + for_s
            self._knocker, self._there_until = name, max(self._there_until, until)
        return True

    def _end_session(self) -> None:
        with self.changed:
            if self._uses_session():
                there = self.connected() and self.parted() is None
                self._since = self._platform.time() if there else self.since()
            self.session = 0

    def _note_failure(self, hello: protocol.Handshake, reason: str) -> None:
        """The source is there, and this site is at fault."""
        with self.changed:
            if reason != self.failure:
                self._journal.say(f"{hello.name} asks for a session, which fails: {reason}")
            self.failure, self.source = reason, hello.name
            self.heard = self._platform.monotonic()

    def _remember_source(self, hello: protocol.Handshake, *, anew: bool) -> None:
        """Durably, before its session may write: a copy of it that comes later is found out, and
        whoever promotes this site after a start knows how long it may be silent."""
        mine = self._book.current
        run = hello.run or mine.source_run
        silence = min(hello.silence, timeouts.silence_s(limits.LINK_TIMEOUT_MAX_S))
        lineage = Lineage(hello.lineage) if anew else mine.lineage
        if anew or (run, silence) != (mine.source_run, mine.source_silence):
            self._book.update(lineage=lineage, source_run=run, source_silence=silence)

    def _refuse_twice(self, session: int) -> None:
        """A handshake that came again, or late, would put an end to the session that runs, or
        let requests of a fenced one enter (I8).  PeerError."""
        if session in self._sessions:
            raise PeerError("this session was opened before: a handshake came twice")
        self._sessions.append(session)

    def _begin_session(self, hello: protocol.Handshake, *, anew: bool) -> bool:
        """No request of any session is in the gate: what was written is owed from now on, but
        for what is stable if the session goes on with its cycle (True).  PeerError."""
        resumes = hello.resumes if hello.resumes > self._book.current.committed else 0
        cuts, seeded = self._cuts.now(), self._is_seeded()
        # What is stable was there once.
        gone = anew or self._cuts.in_session(cuts, seeded=seeded) is not None
        stable = None if gone else self._written.of(resumes, hello.begun_token, hello.stable)
        if stable is None:  # this session's writes may go over what another cycle made stable, and
            with self._recording():  # a copy of its source may come back with that one
                self._written.forget()
        self._cuts.begin(cuts)
        for member in self._copier.members:
            written = flashcopy.bitmap_of(member.native, native.NEXT)
            self._owed[member.name] = BitMap64() if anew else self._owed[member.name] | written
            member.native.forget_next()
            if stable:
                flashcopy.mark(member.native, stable[member.name])
        return stable is not None

    @contextlib.contextmanager
    def _recording(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise PeerError(
                f"{self._config.state}: {error.strerror}: mend that", error.errno or errno.EIO
            ) from error

    @contextlib.contextmanager
    def _noting(self, what: str, *ends: str) -> Generator[None, None, None]:
        """Around what the source asks for; if it is done it ends that trouble, and those."""
        try:
            yield
        except MirrorError as error:
            if not isinstance(error, Owed):  # which is the source's
                self._note_trouble(what, str(error))
            raise
        self._end_troubles(what, *ends)

    def _end_troubles(self, *ends: str) -> None:
        with self.changed:
            for one in ends:
                self._troubles.pop(one, None)

    def _note_trouble(self, what: str, trouble: str) -> None:
        """This site is at fault, whatever its source makes of it."""
        with self.changed:
            if trouble != self._troubles.get(what):
                self._journal.say(trouble)
            self._troubles[what] = trouble

    def look_at_writes(self) -> None:
        """The core takes what the source writes, and no request tells of what fails.  A commit ends
        it: all of that was written again, or found equal."""
        stats = self._copier.stats()
        for volume in self._config.volumes:
            found, what = stats[volume.name], f"write {volume.name}"
            if found.write_error and found.write_errors > self._errors.get(volume.name, 0):
                error = flashcopy.CopyError(volume.name, flashcopy.FRONT, found.write_error)
                store = {flashcopy.FRONT: f"intermediate store {volume.intermediate}"}
                trouble = f"{flashcopy.explain(error, store)}; it goes on by itself"
                self._note_trouble(what, f"the target cannot write: {trouble}")
            else:
                self._end_troubles(what)

    def taken_away(self) -> str | None:
        """Which file somebody has taken from under this site, without which the next start has no
        image after a kill, or no ledger at all; None: all are there."""
        try:
            lost = self._missing()
        except OSError as error:
            return f"{self._config.state}: {error.strerror}: mend that"
        if lost is None:
            return None
        cost = "the image" if self._book.current.whole else "what is copied"
        return (
            f"{lost}: was taken away, or another one stands there, and a kill would cost {cost} "
            "now: stop this site, and start it: a stop in order writes it again (if the whole "
            "folder is gone: first put it back, or an empty one)"
        )

    def doubt(self) -> str | None:
        """Why its image is not known to be of one moment; None: it is."""
        return f"{lastrun.COPIED}: the next commit ends that" if self._book.current.copied else None

    def _missing_file(self) -> Path | None:
        """OSError: that is not known."""
        log, ledger_ = self.second.log, ledger.path_in(self._config.state)
        if self._book.current.whole and not log.is_in_place():
            return log.path
        return None if self._platform.exists(ledger_) else ledger_

    def lost_stores(self) -> list[tuple[str, cut.Part]]:
        """Which (volume, part) were cut while they held some of the image.  OSError: they are
        closed."""
        mine = self._book.current
        return list(self._cuts.of_image()) if mine.whole else []

    def was_cut(self, volume: str, part: str) -> bool:
        """That store, and that is not made good (cut.py).  OSError: it is closed."""
        return self._cuts.met(volume, part)

    def image_lost(self) -> str | None:
        """Why some of the image is nowhere; None: it is not known to be so."""
        store = next(iter(self.lost_stores()), None)
        return store and (
            f"{self._where(*store)}: was made smaller while it held some of the image: stop "
            f"{self._book.current.name} and start it, which says what can be kept"
        )

    def _where(self, volume: str, part: str) -> str:
        return f"{part} store {getattr(self._config.volume(volume), part)}"

    def _is_seeded(self) -> bool:
        """What is found equal in `data` need not be written for the first commit."""
        mine = self._book.current
        return mine.seeded and not mine.whole

    def _refuse_lost(self) -> None:
        """Refused, and so the source says that it may hold any point, or none."""
        if lost := self.image_lost():
            self._remember_cut(self.lost_stores())
            raise cut.ImageLost(lost)

    @property
    def trouble(self) -> str | None:
        """Why this site could not do what the source asked for last."""
        return next(iter(tuple(self._troubles.values())), None)  # at once: others change it

    def note_refusal(self, reason: str) -> None:
        """What a source was told; of another one than is connected it says nothing of that."""
        with self.changed:
            if not self._has_source():
                again_s = timeouts.asks_again_s(self._silence_s())
                self._refusal = reason
                self._refused_until = self._platform.monotonic() + again_s

    @property
    def refusal(self) -> str | None:
        """Why a source that still asks for a session gets none."""
        return self._refusal if self._platform.monotonic() < self._refused_until else None

    def prepare_promotion(self, *, force: bool, newest: bool, wait_s: float) -> bool:
        """End the source's session; asked again, say whether the image is whole in `data`.  No
        session is opened until `end_turn` has said so.  MirrorError: refused, or it cannot be."""
        with self.serial:
            mine = self._book.current
            if not mine.whole:
                raise MirrorError(
                    "has no image yet: nothing to promote before the first commit of a source: "
                    "start its source and wait for it",
                    errno.ENODATA,
                )
            if mine.copied and not newest:
                raise MirrorError(
                    f"{lastrun.COPIED}: put back the newest one that there is, or wait for the "
                    "next commit of its source; of the newest, 'flashmirror promote --newest'",
                    errno.ESTALE,
                )
            if not self.promoting:
                if not force:
                    self._refuse_while_there()
                self._fence(self._platform.random_bits(62) | 1)
                self._end_session()
                self._promoting_until = math.inf
                return False
            self._promoting_until = math.inf
        # No session is opened any more: who asks for one is told so meanwhile.
        hardened = self.wait_hardened(wait_s)
        if self._broken and not hardened:
            raise MirrorError(self._broken)
        return hardened

    def _refuse_while_there(self) -> None:
        """MirrorError: the source is there, or may be: this site has begun too lately to know."""
        there, now = self.is_there(), self._platform.monotonic()
        if there or now < self._there_until:
            name = self.source if there else self._knocker
            how = "connected" if self.connected() else "there"
            more = math.ceil(max(self._gone_at(), self._there_until) - now)
            raise MirrorError(
                f"its source {name} is {how}: stop it, or promote with --force (if it has ended "
                f"since it was last heard of: promote again in {more} s)",
                errno.EBUSY,
            )
        left = self._began + timeouts.asks_again_s(self._silence_s()) - now
        if self.heard < self._began and left > 0:
            raise MirrorError(
                "was started only now, and does not know yet whether its source is there: promote "
                f"it again in {math.ceil(left)} s, or with --force",
                errno.EBUSY,
            )

    @property
    def promoting(self) -> bool:
        """No session is opened."""
        return self._platform.monotonic() < self._promoting_until

    def end_turn(self, patience_s: float) -> None:
        """Of a promotion: if the next one does not come within so long, the site is a target as
        before, which sessions are opened with."""
        with self.serial:
            if self._promoting_until == math.inf:
                self._promoting_until = self._platform.monotonic() + patience_s

    def take_back_promotion(self) -> None:
        """Sessions are opened with it from now on, unless the ledger says that it is a source."""
        with self.serial:
            self._promoting_until = 0.0

    def _fence(self, session: int, silence: float = 0.0) -> None:
        """Only requests of this session enter from now on.  PeerError: older ones do not end."""
        try:
            budget = timeouts.fence_s(self._config.link_timeout, silence)
            self._copier.group.fence(session, budget)
        except OSError as error:
            raise PeerError(
                f"{self._book.current.name}: requests of an older session are still under way",
                error.errno or errno.ETIMEDOUT,
            ) from error

    def _check_session(self, session: int) -> None:
        if not session or session != self.session:
            raise SessionOver("another one was opened since")
        self.look_at_writes()
        self.heard = self._platform.monotonic()
        self._note_use(session)

    def _note_use(self, session: int) -> None:
        with self.changed:
            if session == self.session and session != self._used:
                self._used, self._since = session, self._platform.time()

    def stabilize(self, asked: protocol.Stable) -> protocol.Progress:
        """Done when what was written before this was first asked is flushed, and remembered
        durably."""
        with self.serial:
            self._check_session(asked.session)
            self._refuse_lost()
            self._check_under_way(asked.sequence)
            name = ("stable", asked.session, asked.sequence, asked.serial)
            flush = self._flushed(name, self._bitmaps)
            if flush is None:
                return protocol.Progress(False, self.hardened, self.reason)
            mine = self._book.current
            lineage = mine.lineage.id if mine.lineage else ""
            cycle = runlog.History(written.KIND, mine.site, lineage, asked.sequence, asked.token)
            with self._noting("record", "flush"), self._recording():
                self._written.record(cycle, asked.serial, flush.written, self._owed)
            return protocol.Progress(True, self.hardened, self.reason)

    def _check_under_way(self, sequence: int) -> None:
        if sequence <= self._book.current.committed:
            raise PeerError(f"sequence {sequence} is committed: this was asked too late")

    def _flushed(
        self,
        wanted: tuple[object, ...],
        covered: Callable[[], dict[str, BitMap64]],
        wait_s: float = limits.CONTROL_WAIT_S,
    ) -> _Flush | None:
        """The flush of all intermediates, by the thread, that was asked for by this name; None:
        it goes on.  PeerError: it failed, and what the cycle wrote is written again (I9)."""
        with self.changed:
            if self._broken:
                raise PeerError(self._broken)
            flush = self._flush
            if flush is None or flush.wanted != wanted:
                self._flush = flush = _Flush(wanted, covered())
                self.changed.notify_all()
            self.changed.wait_for(lambda: self.stopping or flush.done, wait_s)
            if not flush.done:
                return None
            self._flush = None
            if self._flush_error:
                raise PeerError(self._flush_error)
            return flush

    def _bitmaps(self) -> dict[str, BitMap64]:
        return {m.name: flashcopy.bitmap_of(m.native, native.NEXT) for m in self._copier.members}

    def compare(self, asked: protocol.Compare) -> protocol.Compared:
        """Which pieces are here as they are, of the first that there was time for; they count as
        written now."""
        self._check_session(asked.session)
        member = next((m for m in self._copier.members if m.name == asked.volume), None)
        if member is None:
            raise PeerError(f"there is no volume {asked.volume}", errno.ENOENT)
        try:
            mine = self._book.current
            sums = compare.sums_of(member.native, asked)
            pieces = list(compare.pieces_of(asked.runs, compare.unit_of(member.native)))
            in_front, in_data = self._find(mine, member, pieces, sums)
            with self.serial:
                self._check_session(asked.session)  # still: it took a while
                self._check_under_way(asked.sequence)
                in_data = self._held_by_data(member, pieces, in_data, seeded=mine.seeded)
                # Of a seed they need not be written, whatever an older cycle had written there.
                for first, count in compare.runs_where(pieces, in_data) if mine.seeded else ():
                    self._owes_no_more(member.name, first, count)
                for first, count in compare.runs_where(pieces, in_front):
                    member.native.adopt(asked.session, first, count)
        except ValueError as error:
            raise PeerError(f"malformed control record: {error}") from error
        except OSError as error:
            raise PeerError(
                f"the target cannot compare: {describe(error.errno or 0)}", error.errno or 0
            ) from error
        return protocol.Compared(tuple(map(operator.or_, in_front, in_data)))

    def _find(
        self,
        mine: ledger.Ledger,
        member: flashcopy.Member,
        pieces: list[tuple[int, int]],
        sums: list[bytes],
    ) -> tuple[list[bool], list[bool]]:
        """Which pieces equal what is in the intermediate, and which of the others what is in data,
        of the first that there was time for.

        Data is looked at as well because the intermediate may never have held what it holds: after
        a seed, or if the intermediate is another one since.  While nothing is left to harden data
        is the image, on its disk.  That is asked before data is read: a block that is hardened
        meanwhile was another one there before.  And it stays so until a commit, after which this
        was asked too late."""
        none = [False] * len(pieces)
        if mine.seeded:
            found = self._equal(member, pieces, sums, member.native.first, limits.COMPARE_S)
            return none[: len(found)], found
        if self.may_read_a_cache():
            return none, none
        until = native.now_s() + limits.COMPARE_S
        is_image = mine.whole and not mine.doubtful_data and self._is_hardened()
        front_s = limits.COMPARE_S / 2 if is_image else limits.COMPARE_S
        in_front = self._equal(member, pieces, sums, member.native.front, front_s)
        in_data = none[: len(in_front)]
        others = [number for number, same in enumerate(in_front) if not same]
        left_s = until - native.now_s()
        if not is_image or not others or left_s <= 0:
            return in_front, in_data
        try:
            found = compare.equal(
                member.native, [pieces[n] for n in others], [sums[n] for n in others],
                member.native.first, self._reader, seconds=left_s,
            )  # fmt: skip
        except OSError:  # of data no commit needs anything: what is not equal is sent
            return in_front, in_data
        for number, same in zip(others, found, strict=False):
            in_data[number] = same
        end = others[len(found)] if len(found) < len(others) else len(in_front)
        return in_front[:end], in_data[:end]

    def _owes_no_more(self, name: str, first: int, count: int) -> None:
        owed = self._owed[name]
        before = len(owed)
        owed.remove_range(first, first + count)
        if len(owed) < before:
            self._written.owes_less()

    def _equal(
        self,
        member: flashcopy.Member,
        pieces: list[tuple[int, int]],
        sums: list[bytes],
        store: native.Store,
        seconds: float,
    ) -> list[bool]:
        """What cannot be read is not equal: it is sent, and so written anew.  PeerError: a server
        is lost."""
        try:
            found = compare.equal(member.native, pieces, sums, store, self._reader, seconds=seconds)
        except OSError as error:
            volume = self._config.volume(member.name)
            where = (
                f"data store {volume.data}" if store is member.native.first
                else f"intermediate store {volume.intermediate}"
            )  # fmt: skip
            code = error.errno or 0
            text = f"the target cannot compare: {where}: {describe(code)}"
            self._note_trouble("compare", text)
            if code in LINK_ERRNOS:
                raise PeerError(text, code) from error
            return [False] * len(pieces)
        self._end_troubles("compare")
        return found

    def _held_by_data(
        self,
        member: flashcopy.Member,
        pieces: list[tuple[int, int]],
        found: list[bool],
        *,
        seeded: bool,
    ) -> list[bool]:
        """Which of the pieces that are equal in data the image will read there.  What is in
        `next` it reads in the intermediate, where a write may have ended in its middle: what is
        stable holds those that were under way, which the source sends again.  And what is owed,
        but to a seed, is to be written again."""
        touches, owed = member.native.touches, self._owed[member.name]
        return [
            same
            and not touches(native.NEXT, *piece)
            and (seeded or not owed.intersect(BitMap64(range(piece[0], sum(piece)))))
            for piece, same in zip(pieces, found, strict=False)
        ]

    def may_read_a_cache(self) -> bool:
        """Whether the intermediates' disks may lack what is read from them."""
        return self._doubtful_before or self._has_lost()

    def _has_lost(self) -> bool:
        return self._doubtful_sent or self._front_losses() != self._losses

    def _front_losses(self) -> int:
        return sum(member.native.front.losses for member in self._copier.members)

    def commit(self, request: protocol.Commit) -> protocol.Progress:
        """Done when `sequence` is committed, durably."""
        with self.serial:
            self._check_session(request.session)
            mine = self._book.current
            if mine.lineage is None or mine.lineage.id != request.lineage:
                raise Refused(f"{mine.name} mirrors another history")
            asked = recovery.Point(request.sequence, request.token)
            if asked.same(recovery.Point(mine.committed, mine.committed_token)):
                return protocol.Progress(True, mine.hardened)  # its answer was lost
            if request.sequence <= mine.committed:
                raise Refused(
                    f"sequence {request.sequence} is not after {mine.committed}, the last commit"
                )
            self._refuse_lost()
            if request.sequence - mine.committed > limits.SEQUENCE_STEP_MAX:
                raise Refused(
                    f"sequence {request.sequence} is too far after {mine.committed}, the last "
                    "commit: the source's number is wrong"
                )
            until = self._platform.monotonic() + limits.CONTROL_WAIT_S  # for both
            if not self.wait_hardened(limits.CONTROL_WAIT_S):
                return protocol.Progress(False, mine.hardened, self.reason)
            left = max(0.0, until - self._platform.monotonic())
            if not self._flushed(("commit", request.session, request.sequence), dict, left):
                return protocol.Progress(False, mine.hardened, self.reason)
            with self._noting("commit", "record", "flush", "compare"):
                self._commit(request)
            return protocol.Progress(True, self._book.current.hardened)

    def _commit(self, request: protocol.Commit) -> None:
        if not self._book.current.whole and (short := self._short_data()):
            raise PeerError(short)  # or the first write to it would find it cut with an image
        try:
            with contextlib.ExitStack() as gates:
                try:
                    gates.enter_context(self._copier.group.closed(limits.FENCE_BUDGET_S))
                except OSError as error:
                    text = f"the target cannot commit: {describe(error.errno or 0)}"
                    raise PeerError(text) from error
                self._swap(request)
        finally:
            with self.changed:
                self.changed.notify_all()
        with self.changed:
            self._committed_at = age.told(request.consistency_point, self._platform)
            self.total_bytes = self._copier.left_bytes()

    def _swap(self, request: protocol.Commit) -> None:
        """The change itself, with the gates closed.  PeerError; LedgerError."""
        written, losses, mine = self._bitmaps(), self._front_losses(), self._book.current
        errors = {name: stats.write_errors for name, stats in self._copier.stats().items()}
        # Of what was there before only a first cycle of everything leaves nothing; and what was
        # lost in a first cycle may have been there before.
        first = mine.committed == 0
        before = self._doubtful_before or (first and self._has_lost())
        before &= not first or self.blank or mine.seeded
        nothing = {name: BitMap64() for name in written}
        # Of what was harmed before nothing counts any more.
        parts = ["intermediate"] if mine.whole else ["intermediate", "data"]
        over = {key: None for key in ledger.harmed(mine.volumes) if key[1] in parts}
        for name, owed in self._owed.items():
            if not owed <= written[name]:
                raise Owed(f"volume {name}: a cycle left out what an abandoned one had written")
        cuts = self._cuts.now()
        if store := self._cuts.in_session(cuts, seeded=self._is_seeded()):
            raise PeerError(
                f"{self._where(*store)}: was made smaller: what was sent since is sent again"
            )
        assert not self._copier.left_bytes(), "the commit before is whole in the data (I3)"
        try:
            self._book.change(
                lambda now: {
                    "committed": request.sequence,
                    "committed_token": request.token,
                    "consistency_point": request.consistency_point,
                    "whole": True,
                    "seeded": False,
                    "doubtful_data": False,
                    "doubtful_sent": False,
                    "doubtful_before": before,
                    "copied": False,
                    "maps": {f"{name}/pending": bitmap for name, bitmap in written.items()},
                    "volumes": ledger.with_harmed(now.volumes, over),
                }
            )
            self._cuts.commit(cuts, first=not mine.whole)
            self._copier.group.swap()
            # Not before: to the thread the maps would be those of a commit that is hardened.
            self._pending_of, self._owed = request.sequence, nothing
            self._doubtful_sent, self._doubtful_before, self._losses = False, before, losses
            self._errors = errors
        except Exception as error:
            if self._book.current.committed == request.sequence:  # it stands: no way back
                try:
                    self._journal.say(
                        f"what is in memory is not the commit of the ledger ({error!r}): the site "
                        "ends, and is to be started again"
                    )
                finally:  # a want of memory, too
                    self._platform.abort()
            raise

    def image_age(self) -> float | None:
        """Of the image's consistency point, in seconds; None: there is none."""
        whole = self._book.current.whole and not self.image_lost()
        moment = self._committed_at if whole else None
        return moment.age(self._platform) if moment else None

    def exposure(self) -> None:
        """What the source has that is not here only the source knows."""

    def wait_hardened(self, timeout_s: float) -> bool:
        """Whether the second flashcopy has nothing left to do."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopping or self._is_hardened(), timeout_s)
            return self._is_hardened()

    @property
    def phase(self) -> str:
        """Of the second flashcopy."""
        return "copy" if self._copier.left_bytes() else "idle" if self._is_hardened() else "flush"

    def _is_hardened(self) -> bool:
        """An image that was lost is never hardened, and there is nothing to harden."""
        return not self._book.current.whole or self.hardened >= self._pending_of

    def poll(self, session: int, wait_s: float, *, paused: bool) -> protocol.Progress:
        """How far the second flashcopy is; also the source's sign of life, which says whether it
        is paused."""
        self._check_session(session)
        with self.changed:
            self.source_paused = paused
        self.wait_hardened(min(wait_s, limits.CONTROL_WAIT_S))
        self._refuse_lost()
        done = self.hardened == self._book.current.committed
        return protocol.Progress(done, self.hardened, self.reason)

    # ---- the second flashcopy, and flushes (this thread)

    def start(self) -> None:
        self._ended = False
        self._thread = self._platform.spawn("second-flashcopy", self._run_to_end)

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended."""
        with self.changed:
            if not self.changed.wait_for(lambda: self._ended, timeout_s):
                return False
        if self._thread:
            self._thread.join()
        return True

    def _run_to_end(self) -> None:
        try:
            guard.run(self._run, self._give_up, self._wait_to_try, self._journal, self._platform)
        finally:
            with self.changed:
                self._ended = True
                self.changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        """Whatever has happened: writers who wait for a copy get an error, and so does who asked
        for a flush; nothing is committed before all is right again."""
        reason = guard.reason_of(error)
        self._say(reason)
        if not self._is_hardened():
            self.second.interrupted(error)
            self._copier.fail(errno.EIO)
        with self.changed:
            self._flush_error = reason
            if self._flush:
                self._flush.done = True
            if not guard.passes(error):
                self._broken = reason
            self.changed.notify_all()

    def _wait_to_try(self, seconds: float) -> bool:
        with self.changed:
            return not self.changed.wait_for(lambda: self.stopping, seconds)

    def _run(self) -> None:
        if self._is_hardened():
            self._say(None)
        retry_at = 0.0
        while self._wait_for_work(retry_at):
            self._flush_if_asked()
            if self._platform.monotonic() < retry_at or self._is_hardened():
                continue
            if not self._step():
                retry_at = self._platform.monotonic() + self.second.wait_s

    def _flush_if_asked(self) -> None:
        """Before the record that asserts it."""
        with self.changed:
            flush = self._flush
        if flush is None or flush.done:
            return
        failed = None
        for member in self._copier.members:
            try:
                member.native.flush_front()
            except OSError as error:
                where = self._config.volume(member.name).intermediate
                failed = (
                    f"the target cannot flush: intermediate store {where}: "
                    f"{describe(error.errno or 0)}"
                )
        if failed:
            self._note_trouble("flush", failed)
        with self.changed:
            self._flush_error = failed or self._flush_error
            flush.done = True
            self.changed.notify_all()

    def _step(self) -> bool:
        """False: something failed, and is to be tried again after a wait."""
        try:
            if self.second.step():
                with self.changed:
                    self.hardened = self._book.current.committed
                    self.changed.notify_all()
        except MirrorError as error:
            self._say(str(error))  # first: a writer who gets the error makes its site ask
            self._copier.fail(error.code or errno.EIO)
            return False
        self._say(None)
        return True

    def _wait_for_work(self, retry_at: float) -> bool:
        """Until there is something to flush, or to copy and its time has come.  False: stop."""
        with self.changed:
            while not self.stopping and (self._flush is None or self._flush.done):
                wait_s = None if self._is_hardened() else retry_at - self._platform.monotonic()
                if wait_s is not None and wait_s <= 0:
                    break
                self.changed.wait(wait_s)
            return not self.stopping

    def _say(self, reason: str | None) -> None:
        with self.changed:
            if reason and reason != self.reason:
                self._journal.say(reason)
            self.reason = reason

    def connected(self) -> bool:
        """Whether the source has a session, makes use of it, and is there."""
        return self._uses_session() and self.is_there()

    def _has_source(self) -> bool:
        """Whether another one would end a session, be it one that is only just opened."""
        return self.session != 0 and self.is_there()

    def _uses_session(self) -> bool:
        with self.changed:
            if self.session and self._wrote() > self._opened:
                self._note_use(self.session)
            return self.session != 0 and self._used == self.session

    def _wrote(self) -> float:
        """Monotonic: when the source wrote last."""
        wrote_ns = max(stats.heard_ns for stats in self._copier.stats().values())
        return wrote_ns / native.NS if wrote_ns else -math.inf

    def is_there(self) -> bool:
        """Whether the source was heard of lately, even if no session can be opened."""
        return self._platform.monotonic() < self._gone_at()

    def parted(self) -> float | None:
        """Unix seconds: since when the source says that it has no session any more, though it was
        heard of in one just now; None: it does not, or it makes a pause because of this site."""
        with self.changed:
            says_so = self._knocked > self.heard and self._platform.monotonic() < self._there_until
            at_fault = self.trouble or self.failure
            return self._parted_since if says_so and not at_fault else None

    def knocker(self) -> str:
        """The source that says that it is there and has no session; empty: none does."""
        with self.changed:
            return self._knocker if self._platform.monotonic() < self._there_until else ""

    def _gone_at(self) -> float:
        """Monotonic: until when what was heard of the source counts.  While it copies over a long
        way it sends, and seldom asks; without a session it asks now and then.  Of two sites that
        are set up for links of different patience the more patient one decides: a source that is
        slow and there is never taken for one that is gone."""
        recent = self._silence_s()
        if self.trouble or (self.failure and not self.session):  # then it makes pauses
            recent = timeouts.asks_again_s(recent)
        return max(self.heard, self._wrote()) + recent

    def _silence_s(self) -> float:
        theirs = self._book.current.source_silence
        return max(timeouts.silence_s(self._config.link_timeout), theirs)

    def since(self) -> float:
        """Unix seconds: since when the source is connected, or is not."""
        if not self._uses_session():
            return self._since
        silent = self._platform.monotonic() - self._gone_at()
        return self.parted() or (self._since if silent < 0 else self._platform.time() - silent)

    # ---- the end

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()

    def end(self) -> bool:
        """After the thread was joined and no client is left: the maps of an orderly stop.
        Whether they tell all: False if what was written last may not be on its disk."""
        flushed = True
        try:
            self._copier.retry()  # of a failed flush nothing is told twice: it is copied again
            self._copier.flush(front_too=True)
        except MirrorError as error:
            self._journal.say(f"flush at stop failed: {error}")
            flushed = False
        maps = {}
        for member in self._copier.members:
            left = (native.PENDING,) if flushed else (native.PENDING, native.SENT, native.HARDENING)
            maps[f"{member.name}/pending"] = flashcopy.bitmap_of(member.native, *left)
            written = flashcopy.bitmap_of(member.native, native.NEXT)
            maps[f"{member.name}/written"] = written | self._owed[member.name]
        self._book.update(maps=maps, doubtful_sent=self._has_lost())
        try:
            cuts = self._cuts.now()
            if self._cuts.in_session(cuts, seeded=self._is_seeded()):
                self._written.forget()
                self._cuts.begin(cuts)
        except OSError as error:
            self._journal.say(f"{self._config.state}: {error.strerror}: what is stable may be gone")
        try:
            self.second.put_in_place()  # not before: the ledger says by now what it has said
        except OSError as error:
            self._journal.say(f"{self.second.log.path}: {error.strerror}: it may not be there")
        self.second.log.close()
        self._written.close()
        return flushed
