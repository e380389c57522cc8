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
commit, for which all of it is written again, nothing is found equal (I9).

Guard: `serial` orders what the source asks; `changed` guards the fields below its line.
"""

from __future__ import annotations

import contextlib
import errno
import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

from pyroaring import BitMap64

from mirror_core import (
    age,
    compare,
    flashcopy,
    guard,
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
from mirror_core.errors import MirrorError, PeerError, Refused, describe
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
        blank: bool,
        owed: dict[str, BitMap64],
        doubtful: bool,
    ) -> None:
        self._config, self._book, self._copier, self._journal = config, book, copier, journal
        self._platform = platform
        self._thread: Thread | None = None
        self._written = written
        self._reader = compare.Reader()
        self.second = second.SecondFlashcopy(config, book, copier, log, platform)
        self._blank = blank  # the data stores were holes when the site started
        self._owed = owed
        self._doubtful = doubtful  # the intermediates' disks may lack what is read from them
        self._losses = 0  # of the intermediates, until the last commit
        self._sessions: deque[int] = deque(maxlen=limits.SESSIONS_KNOWN)  # asked for lately
        self.serial = platform.lock()
        # -- guarded by `changed`
        self.changed = platform.condition()
        self.stopping = False
        self._ended = True  # the thread
        self._broken: str | None = None  # why the thread has ended before the site does
        self._promoting_until = 0.0  # monotonic: no session is opened before; inf: in a turn
        self.session = 0
        self.source: str | None = None
        self.source_site: str | None = None
        self.heard = 0.0  # monotonic: the source's last control request that is not refused
        self._silence = 0.0  # how long this source may be silent, as it says
        self._since = self._platform.time()  # that it is connected, or that it has no session
        self.reason: str | None = None  # why the second flashcopy does not go on
        self.trouble: str | None = None  # why this site could not do what the source asked last
        self.refusal: str | None = None  # of the last source that asked for a session
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
        self._committed_at = age.told(book.current.consistency_point, platform)

    # ---- requests of the source (nbdkit's threads)

    def handshake(self, hello: protocol.Handshake) -> protocol.Welcome:
        """Open a session.  Refused; PeerError: older requests do not end."""
        with self.serial:
            mine = self._book.current
            if self.promoting:
                raise Refused(f"{mine.name} is being promoted: it is to be the source")
            decision = recovery.decide(mine, hello)
            if decision.refused:
                with self.changed:
                    self.refusal = decision.refused
                raise Refused(decision.refused)
            if self.connected() and hello.site != self.source_site:
                raise Refused(
                    f"{mine.name} mirrors {self.source}, which is connected: stop it first"
                )
            self._refuse_twice(hello.session)
            self._end_session()  # what fails from here on leaves no session, not the one before
            try:
                self._fence(hello.session)
                resumed = self._begin_session(hello, anew=decision.adopt)
                self._remember_source(hello, anew=decision.adopt)
            except Exception as error:
                self._note_failure(hello, str(error) or type(error).__name__)
                raise
            with self.changed:
                self.session, self.source, self.refusal = hello.session, hello.name, None
                self.source_site, self.failure = hello.site, None
                self._silence = min(hello.silence, timeouts.silence_s(limits.LINK_TIMEOUT_MAX_S))
                self._flush_error = None  # of before: all that is not stable is sent again
                self._since, self.heard = self._platform.time(), self._platform.monotonic()
            for member in self._copier.members:
                member.native.set_patience(timeouts.put_off_s(hello.silence))
            mine = self._book.current
            blank = self._blank and mine.committed == 0
            seeded = mine.seeded and not mine.whole
            return protocol.Welcome(
                mine.name, mine.site, mine.committed, mine.hardened, mine.whole, blank, seeded,
                mine.consistency_point or 0.0, resumed, mine.committed_token,
            )  # fmt: skip

    def _end_session(self) -> None:
        with self.changed:
            if self.session:
                self._since = self._platform.time() if self.connected() else self.since()
            self.session = 0

    def _note_failure(self, hello: protocol.Handshake, reason: str) -> None:
        """The source is there, and this site is at fault."""
        with self.changed:
            if reason != self.failure:
                self._journal.say(f"{hello.name} asks for a session, which fails: {reason}")
            self.failure, self.source = reason, hello.name
            self.heard = self._platform.monotonic()

    def _remember_source(self, hello: protocol.Handshake, *, anew: bool) -> None:
        """Durably, before its session may write: a copy of it that comes later is found out."""
        mine = self._book.current
        run = hello.run or mine.source_run
        if anew:
            self._book.update(lineage=Lineage(hello.lineage), source_run=run)
        elif run != mine.source_run:
            self._book.update(source_run=run)

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
        stable = None if anew else self._written.of(resumes, hello.begun_token, hello.stable)
        if stable is None:  # this session's writes may go over what another cycle made stable, and
            with self._recording():  # a copy of its source may come back with that one
                self._written.forget()
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
    def _noting(self) -> Generator[None, None, None]:
        try:
            yield
        except MirrorError as error:
            if error.code != errno.ESTALE:  # which is the source's
                self._note_trouble(str(error))
            raise
        self._note_trouble(None)

    def _note_trouble(self, trouble: str | None) -> None:
        """This site is at fault, whatever its source makes of it; None: it is no more."""
        with self.changed:
            if trouble and trouble != self.trouble:
                self._journal.say(trouble)
            self.trouble = trouble

    def prepare_promotion(self, *, force: bool) -> bool:
        """End the source's session; asked again, say whether the image is whole in `data`.  No
        session is opened until `end_turn` has said so.  MirrorError: refused, or it cannot be."""
        with self.serial:
            mine = self._book.current
            if not mine.whole:
                raise MirrorError("has no image yet: nothing to promote", errno.ENODATA)
            if not self.promoting:
                if self.is_there() and not force:
                    how = "connected" if self.connected() else "there"
                    raise MirrorError(
                        f"its source {self.source} is {how}: stop it, or promote with --force",
                        errno.EBUSY,
                    )
                self._fence(self._platform.random_bits(62) | 1)
                self._end_session()
                self._promoting_until = math.inf
                return False
            self._promoting_until = math.inf
        # No session is opened any more: who asks for one is told so meanwhile.
        hardened = self.wait_hardened(limits.CONTROL_WAIT_S)
        if self._broken and not hardened:
            raise MirrorError(self._broken)
        return hardened

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

    def _fence(self, session: int) -> None:
        """Only requests of this session enter from now on.  PeerError: older ones do not end."""
        try:
            # No longer than the source waits for the answer, or it would never hear the reason.
            budget = min(limits.FENCE_BUDGET_S, self._config.link_timeout)
            self._copier.group.fence(session, budget)
        except OSError as error:
            raise PeerError(
                f"{self._book.current.name}: requests of an older session are still under way",
                error.errno or errno.ETIMEDOUT,
            ) from error

    def _check_session(self, session: int) -> None:
        if not session or session != self.session:
            raise PeerError("this session is over: another one was opened since")
        self.heard = self._platform.monotonic()

    def stabilize(self, asked: protocol.Stable) -> protocol.Record:
        """{"done": True} when what was written before this was first asked is flushed, and
        remembered durably; {"done": False}: ask again."""
        with self.serial:
            self._check_session(asked.session)
            self._check_under_way(asked.sequence)
            name = ("stable", asked.session, asked.sequence, asked.serial)
            flush = self._flushed(name, self._bitmaps)
            if flush is None:
                return {"done": False, "reason": self.reason}
            mine = self._book.current
            lineage = mine.lineage.id if mine.lineage else ""
            cycle = runlog.History(written.KIND, mine.site, lineage, asked.sequence, asked.token)
            with self._noting(), self._recording():
                self._written.record(cycle, asked.serial, flush.written, self._owed)
            return {"done": True}

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

    def compare(self, asked: protocol.Compare) -> protocol.Record:
        """{"equal": "01.."}: which pieces are here as they are, of the first that there was time
        for; they count as written now."""
        self._check_session(asked.session)
        member = next((m for m in self._copier.members if m.name == asked.volume), None)
        if member is None:
            raise PeerError(f"there is no volume {asked.volume}", errno.ENOENT)
        try:
            seeded = self._book.current.seeded
            store = member.native.first if seeded else member.native.front
            sums = compare.sums_of(member.native, asked)
            pieces = list(compare.pieces_of(asked.runs, compare.unit_of(member.native)))
            if not seeded and self._may_read_a_cache():
                found = [False] * len(pieces)
            else:
                found = compare.equal(member.native, pieces, sums, store, self._reader)
            with self.serial:
                self._check_session(asked.session)  # still: it took a while
                self._check_under_way(asked.sequence)
                for first, count in compare.runs_where(pieces, found):
                    if seeded:  # need not be written, whatever an older cycle had written there
                        self._owed[member.name].remove_range(first, first + count)
                    else:
                        member.native.adopt(asked.session, first, count)
        except ValueError as error:
            raise PeerError(f"malformed control record: {error}") from error
        except OSError as error:
            raise PeerError(
                f"the target cannot compare: {describe(error.errno or 0)}", error.errno or 0
            ) from error
        return {"equal": "".join("01"[same] for same in found)}

    def _may_read_a_cache(self) -> bool:
        """Whether the intermediates' disks may lack what is read from them."""
        return self._doubtful or self._front_losses() != self._losses

    def _front_losses(self) -> int:
        return sum(member.native.front.losses for member in self._copier.members)

    def commit(self, request: protocol.Commit) -> protocol.Record:
        """{"done": True} when `sequence` is committed, durably; {"done": False}: ask again."""
        with self.serial:
            self._check_session(request.session)
            mine = self._book.current
            if mine.lineage is None or mine.lineage.id != request.lineage:
                raise Refused(f"{mine.name} mirrors another history")
            asked = recovery.Point(request.sequence, request.token)
            if asked.same(recovery.Point(mine.committed, mine.committed_token)):
                return {"done": True, "hardened": mine.hardened}  # its answer was lost
            if request.sequence <= mine.committed:
                raise Refused(
                    f"sequence {request.sequence} is not after {mine.committed}, the last commit"
                )
            if request.sequence - mine.committed > limits.SEQUENCE_STEP_MAX:
                raise Refused(
                    f"sequence {request.sequence} is too far after {mine.committed}, the last "
                    "commit: the source's number is wrong"
                )
            until = self._platform.monotonic() + limits.CONTROL_WAIT_S  # for both
            if not self.wait_hardened(limits.CONTROL_WAIT_S):
                return {"done": False, "hardened": mine.hardened, "reason": self.reason}
            left = max(0.0, until - self._platform.monotonic())
            if not self._flushed(("commit", request.session, request.sequence), dict, left):
                return {"done": False, "hardened": mine.hardened, "reason": self.reason}
            with self._noting():
                self._commit(request)
            return {"done": True, "hardened": self._book.current.hardened}

    def _commit(self, request: protocol.Commit) -> None:
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
        written, losses = self._bitmaps(), self._front_losses()
        nothing = {name: BitMap64() for name in written}
        for name, owed in self._owed.items():
            if not owed <= written[name]:
                raise PeerError(
                    f"volume {name}: a cycle left out what an abandoned one had written",
                    errno.ESTALE,
                )
        try:
            self._book.update(
                committed=request.sequence,
                committed_token=request.token,
                consistency_point=request.consistency_point,
                whole=True,
                seeded=False,
                doubtful=False,
                maps={f"{name}/pending": bitmap for name, bitmap in written.items()},
            )
            self._copier.group.swap()
            # Not before: to the thread the maps would be those of a commit that is hardened.
            self._pending_of, self._owed = request.sequence, nothing
            self._doubtful, self._losses = False, losses
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
        moment = self._committed_at if self._book.current.whole else None
        return moment.age(self._platform) if moment else None

    def exposure(self) -> None:
        """What the source has that is not here only the source knows."""

    def wait_hardened(self, timeout_s: float) -> bool:
        """Whether the second flashcopy has nothing left to do."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopping or self._is_hardened(), timeout_s)
            return self._is_hardened()

    def _is_hardened(self) -> bool:
        """An image that was lost is never hardened, and there is nothing to harden."""
        return not self._book.current.whole or self.hardened >= self._pending_of

    def poll(self, session: int, wait_s: float) -> protocol.Record:
        """How far the second flashcopy is; also the source's sign of life."""
        self._check_session(session)
        self.wait_hardened(min(wait_s, limits.CONTROL_WAIT_S))
        return {"hardened": self.hardened, "reason": self.reason}

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
        for volume, member in zip(self._config.volumes, self._copier.members, strict=True):
            try:
                member.native.flush_front()
            except OSError as error:
                failed = (
                    f"the target cannot flush: intermediate store {volume.intermediate}: "
                    f"{describe(error.errno or 0)}"
                )
        if failed:
            self._note_trouble(failed)
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
        """Whether the source has a session, and is there."""
        return bool(self.session) and self.is_there()

    def is_there(self) -> bool:
        """Whether the source was heard of lately, even if no session can be opened."""
        return self._platform.monotonic() < self._gone_at()

    def _gone_at(self) -> float:
        """Monotonic: until when what was heard of the source counts.  While it copies over a long
        way it sends, and seldom asks; without a session it asks now and then.  Of two sites that
        are set up for links of different patience the more patient one decides: a source that is
        slow and there is never taken for one that is gone."""
        wrote = max(stats.heard_ns for stats in self._copier.stats().values()) / native.NS
        recent = max(timeouts.silence_s(self._config.link_timeout), self._silence)
        if self.failure and not self.session:
            recent += limits.BACKOFF_MAX_S
        return max(self.heard, wrote) + recent

    def since(self) -> float:
        """Unix seconds: since when the source is connected, or is not."""
        silent = self._platform.monotonic() - self._gone_at()
        lost = self.session and silent >= 0
        return self._platform.time() - silent if lost else self._since

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
        self._book.update(maps=maps, doubtful=self._may_read_a_cache())
        self.second.log.close()
        self._written.close()
        return flushed
